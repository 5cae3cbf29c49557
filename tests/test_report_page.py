"""The page of a small study, whose steps are computed here and whose run is a light fake."""

import dataclasses
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from small_study import MEASURES, MODULES, STEPS, STUDY, VARIANTS, all_summaries, both_repeats, the_context

from cnnsim_tf import tracking
from cnnsim_tf.run.cost import Cost
from cnnsim_tf.run.device import Device
from cnnsim_tf.run.report_page import _commands, page_of
from cnnsim_tf.run.session import Session
from cnnsim_tf.study import Study, Sweep
from entrypoints.options import _option, options_of

EVIL = "<script>alert(1)</script>&"


class Elements(HTMLParser):
    """Collects ids, references to them, captions, and what figures have as text alternatives."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.tags, self.labelled = [], [], Counter(), []
        self.texts, self._open = {"title": [], "desc": [], "caption": [], "figcaption": [], "h2": [], "code": []}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags[tag] += 1
        self.ids += [of["id"]] if "id" in of else []
        self.links += [of["href"][1:]] if (of.get("href") or "").startswith("#") else []
        self.links += re.findall(r"url\(#([^)]+)\)", " ".join(v for v in of.values() if v))
        if tag == "svg":
            self.labelled.append((of.get("aria-labelledby", ""), of.get("role")))
            self.links += of.get("aria-labelledby", "").split() + of.get("aria-describedby", "").split()
        if tag in self.texts:
            self._open.append(tag)
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data


def session_of(monkeypatch, context=None, **changes):
    """Return a session that has computed all steps."""
    context = context or the_context()
    repeats, _ = both_repeats()
    results = {name: [r[name] for r in repeats] for name in STEPS}
    run = SimpleNamespace(data=SimpleNamespace(tags={"mlflow.source.git.commit": "c0ffee"}))
    monkeypatch.setattr(tracking, "get_run", lambda client, run_id: run)
    cost = Cost(12.5, 0.0021, 0.0011, "rated power of the processor")
    values = {
        "results": results,
        "run_ids": dict.fromkeys(STEPS, "run1"),
        "summaries": dict(all_summaries()),
        "reused": ["noising: re-used the finished run 'x <b>' (abc)"],
        "cost": cost,
        "costs": {"similarity": cost},
    }
    digests = {"dataset": context.dataset.digest}
    return Session(context, Device("cpu", "a processor"), None, "1", digests, 1, **values | changes)


@pytest.fixture(scope="module")
def page():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return page_of(session_of(monkeypatch), MODULES["warmstart"].STEP)


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def plain(texts):
    return [re.sub(r"^(Table|Figure) \d+\.?\s*", "", " ".join(t.split())) for t in texts]


def test_every_part_of_every_step_is_a_section_with_its_tables_and_captions(elements):
    for name in STEPS:
        parts = all_summaries()[name].parts
        assert parts
        for part in parts:
            assert part.title in plain(elements.texts["h2"])
            for table in part.tables:
                assert any(table.caption in text for text in plain(elements.texts["caption"])), table.caption
            for caption, _ in part.figures.values():
                assert any(caption in text for text in plain(elements.texts["figcaption"])), caption


def test_every_figure_of_the_warm_start_and_of_the_similarity_step_is_on_the_page():
    for name in ("similarity", "warmstart"):
        summary = all_summaries()[name]
        assert {f for part in summary.parts for f in part.figures} == set(summary.figures)


def test_every_figure_is_inline_and_has_a_caption_a_title_and_a_text_alternative(elements):
    count = sum(len(part.figures) for name in STEPS for part in all_summaries()[name].parts)
    assert elements.tags["svg"] == elements.tags["figcaption"] == count
    assert all(role == "img" and labelled for labelled, role in elements.labelled)
    alternatives = plain(elements.texts["desc"])
    assert len(alternatives) == count and all(alternatives)
    for name in STEPS:
        for part in all_summaries()[name].parts:
            for caption, alternative in part.figures.values():
                assert caption.strip() and alternative.strip()
                assert " ".join(alternative.split()) in alternatives


def test_ids_are_unique_and_every_reference_on_the_page_has_its_target(elements):
    assert [i for i, times in Counter(elements.ids).items() if times > 1] == []
    assert elements.links and set(elements.links) <= set(elements.ids)


def test_the_page_has_the_answer_the_settings_the_cost_what_was_reused_and_what_identifies_it(page):
    text = page.replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")
    assert all_summaries()["warmstart"].answer in text
    for field in dataclasses.fields(Study):
        assert re.search(rf">\s*{field.name}\s*<", text)
    assert "noising: re-used the finished run &#39;x &lt;b&gt;&#39; (abc)" in text
    assert "rated power of the processor" in text
    for digest in (the_context().dataset.digest, "c0ffee"):
        assert digest in text


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']+""", page)
    assert "<script" not in page


# --- the command -----------------------------------------------------------------------------------------------------


def parsed(command, entry_point):
    """Return the values that the command of a page gives the options of an entry point."""
    words = shlex.split(command)
    assert words[:7] == ["mlflow", "run", ".", "-e", entry_point, "--env-manager", "local"]
    assert words[7::2] == ["-P"] * len(words[8::2])
    given = dict(word.split("=", 1) for word in words[8::2])
    fields = {f.name: f for f in options_of(entry_point)}
    return {n: _option(fields[n]).type.convert(text, None, None) for n, text in given.items()}


def test_the_command_on_the_page_makes_the_same_study(elements):
    (command,) = [text for text in elements.texts["code"] if text.startswith("mlflow run")]
    assert Study(**parsed(command, "warmstart")) == STUDY


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"level": 0.1, "learning_rate": 1e-5, "seed": 2**32 - 1},
        {"learning_rate": 0.0012345678, "level": 1.23456789},
        {"dataset": "/data/with blank's & $HOME/x.npz", "registered_model": "my model"},
        {"variants": ("random_init", "cosine+pair_mean", "my.own:scheme"), "measures": ("cosine",)},
        {"align": "network", "target": "mixed", "country": "NLD", "engine": "keras"},
    ],
)
def test_a_command_gives_back_every_parameter_bit_for_bit(changes):
    study = Study(**changes)
    (command,) = _commands(study, "warmstart", {})
    assert Study(**parsed(command, "warmstart")) == study
    assert set(parsed(command, "warmstart")) == set(changes)


def test_where_it_was_computed_and_whether_anew_is_not_part_of_the_command():
    (command,) = _commands(Study(device="cpu", scheduler="tcp://head:8786", fresh=True, seed=3), "warmstart", {})
    assert parsed(command, "warmstart") == {"seed": 3}


@pytest.mark.parametrize(("parameter", "values"), [("level", "0, 0.5"), ("noises", "blur,rotation;blur,elastic")])
def test_a_sweeps_command_makes_the_same_sweep(parameter, values):
    sweep = Sweep(parameter, values)
    first = sweep.studies(Study(seed=5))[0]
    (command,) = _commands(first, "sweep", {"parameter": parameter, "values": values})
    given = parsed(command, "sweep")
    assert Sweep(given.pop("parameter"), given.pop("values")) == sweep
    assert Study(**given) == Study(seed=5)


# --- other sessions --------------------------------------------------------------------------------------------------


def test_names_are_escaped(monkeypatch):
    evil = dataclasses.replace(STUDY, dataset=f"{EVIL}.npz")
    context = dataclasses.replace(the_context(), study=evil)
    summary = dataclasses.replace(all_summaries()["warmstart"], answer=f"{EVIL} is better")
    session = session_of(monkeypatch, context, summaries={**all_summaries(), "warmstart": summary}, reused=[EVIL])
    text = page_of(session, MODULES["warmstart"].STEP)
    assert "<script" not in text and "alert(1)" in text
    assert Elements(text).tags["script"] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cost": None, "costs": {}}, "Not measured: this run computed no repeat."),
        ({"reused": []}, "Nothing: everything was computed anew."),
    ],
)
def test_what_there_is_not_is_said(monkeypatch, changes, said):
    assert said in page_of(session_of(monkeypatch, **changes), MODULES["warmstart"].STEP)


def test_repeats_of_a_cluster_have_no_cost(monkeypatch):
    context = dataclasses.replace(the_context(), study=dataclasses.replace(STUDY, scheduler="tcp://head:8786"))
    text = page_of(session_of(monkeypatch, context), MODULES["warmstart"].STEP)
    assert "computed by the workers of a Dask cluster" in text


def test_the_tables_name_every_variant_and_every_measure(page):
    text = page.replace("<wbr>", "")
    for name in (*VARIANTS, *MEASURES, *STUDY.layer_measures):
        assert re.search(rf">\s*{re.escape(name)}\s*<", text), name
