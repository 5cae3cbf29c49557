"""The page of a small study, whose steps are computed here and whose run is a light fake."""

import dataclasses
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from small_study import MEASURES, STEPS, STUDY, VARIANTS, all_summaries, both_repeats, summary_of, the_context

from cnnsim_tf import tracking
from cnnsim_tf.pipeline import PIPELINE
from cnnsim_tf.run.cost import Cost
from cnnsim_tf.run.report_page import _commands, cost_section, page_of, rendered
from cnnsim_tf.run.session import Session
from cnnsim_tf.study import Study, Sweep
from entrypoints.options import _option, options_of

COST = Cost(12.5, 0.0021, 0.0011, "rated power of the processor")


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
    values = {
        "results": results,
        "run_ids": dict.fromkeys(STEPS, "run1"),
        "summaries": dict(all_summaries()),
        "reused": ["noising: re-used the finished run 'x <b>' (abc)"],
        "cost": COST,
        "costs": {"similarity": COST},
    }
    digests = {"dataset": context.dataset.digest}
    return Session(PIPELINE, context, "a processor", False, None, "1", digests, 1, **values | changes)


def written(session):
    return page_of(session, PIPELINE["warmstart"])


def without_figures():
    """Return all summaries without what takes the time to write a page."""
    bare = {}
    for name, summary in all_summaries().items():
        parts = [dataclasses.replace(part, figures={}) for part in summary.parts]
        bare[name] = dataclasses.replace(summary, parts=parts)
    return bare


@pytest.fixture(scope="module")
def page():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return written(session_of(monkeypatch))


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
            for shown in part.figures.values():
                assert any(shown.caption in text for text in plain(elements.texts["figcaption"])), shown.caption


@pytest.mark.parametrize("name", STEPS)
def test_a_steps_figures_are_those_of_its_parts(name):
    summary = summary_of(name)
    names = [figure for part in summary.parts for figure in part.figures]
    assert sorted(names) == sorted(summary.figures) and len({*names}) == len(names)
    for part in summary.parts:
        for figure, shown in part.figures.items():
            assert summary.figures[figure] is shown.figure


def test_every_figure_is_inline_and_has_a_caption_a_title_and_a_text_alternative(elements):
    count = sum(len(part.figures) for name in STEPS for part in all_summaries()[name].parts)
    assert elements.tags["svg"] == elements.tags["figcaption"] == count
    assert all(role == "img" and labelled for labelled, role in elements.labelled)
    alternatives = plain(elements.texts["desc"])
    assert len(alternatives) == count and all(alternatives)
    for name in STEPS:
        for part in all_summaries()[name].parts:
            for shown in part.figures.values():
                assert shown.caption.strip() and shown.alternative.strip()
                assert " ".join(shown.alternative.split()) in alternatives


def test_ids_are_unique_and_every_reference_on_the_page_has_its_target(elements):
    assert [i for i, times in Counter(elements.ids).items() if times > 1] == []
    assert elements.links and set(elements.links) <= set(elements.ids)


def test_the_page_has_the_answer_the_settings_the_cost_what_was_reused_and_what_identifies_it(page):
    text = page.replace("<wbr>", "").replace("\N{NO-BREAK SPACE}", " ")
    for line in summary_of("warmstart").answer.split("\n"):
        question, said = line.removeprefix("- ").split("? ", 1)
        assert f"<b>{question}?</b> {said}</p>" in text
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


# --- facts -----------------------------------------------------------------------------------------------------------


def facts_of(page):
    return dict(
        re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page[: page.index('<p class="date">')].replace("<wbr>", ""))
    )


def test_the_facts_are_those_of_the_study(page, bare):
    given, data = facts_of(page), the_context().dataset
    assert given["images"] == f"{len(data.x_train)} training, {len(data.x_test)} test"
    assert given["epochs"] == f"donors {STUDY.epochs}, variants {STUDY.target_epochs}"
    assert (given["target data"], given["target images"], given["variants"]) == (
        "clean",
        "all",
        str(len(STUDY.variants)),
    )
    assert (given["repeats"], given["align"], given["seed"]) == (str(STUDY.repeats), "none", str(STUDY.seed))
    few = dataclasses.replace(STUDY, target="mixed", target_images=60, epochs=7, align="filters")
    given = facts_of(written(bare(dataclasses.replace(the_context(), study=few))))
    assert (given["target data"], given["target images"], given["align"]) == ("mixed", "60", "filters")
    assert given["epochs"] == f"donors 7, variants {STUDY.target_epochs}"


# --- other sessions --------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch):
    """Make a session like `session_of` whose page has no figures."""

    def make(context=None, answer=None, **changes):
        summaries = without_figures()
        if answer:
            summaries["warmstart"] = dataclasses.replace(summaries["warmstart"], answer=answer)
        return session_of(monkeypatch, context, **{"summaries": summaries} | changes)

    return make


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cost": None, "costs": {}}, "Not measured: this run computed no repeat."),
        ({"reused": []}, "Nothing: everything was computed anew."),
    ],
)
def test_what_there_is_not_is_said(bare, changes, said):
    assert said in written(bare(**changes))


def test_repeats_of_a_cluster_have_no_cost(bare):
    context = dataclasses.replace(the_context(), study=dataclasses.replace(STUDY, scheduler="tcp://head:8786"))
    assert "computed by the workers of a Dask cluster" in written(bare(context))


def test_a_step_whose_run_was_found_finished_is_summarised_from_its_repeats(bare):
    summaries = without_figures()
    del summaries["noising"]
    found = Elements(written(bare(summaries=summaries)))
    assert "The noises" in plain(found.texts["h2"]) and found.tags["svg"] == 1  # its figure


def test_the_warm_start_comes_first_then_what_the_steps_before_it_found_in_their_order(bare):
    titles = plain(Elements(written(bare())).texts["h2"])
    parts = {name: [part.title for part in summary.parts] for name, summary in all_summaries().items()}
    wanted = [title for name in ("warmstart", "noising", "subset_training", "similarity") for title in parts[name]]
    assert [title for title in titles if title in wanted] == wanted
    assert titles.index("Energy and CO2") == titles.index(wanted[-1]) + 1


def test_costs_are_told_by_step_in_order_and_summed_over_the_sessions_of_a_sweep(bare):
    sessions = [bare(), bare(costs={"noising": COST, "similarity": COST}), bare(cost=None, costs={})]
    (table,) = cost_section(sessions).tables
    rows = table.rows.set_index("step")
    assert list(rows.index) == ["noising", "similarity", "all"]
    assert list(rows["seconds"]) == [12.5, 25, 25]
    assert list(rows["energy, Wh"]) == pytest.approx([2.1, 4.2, 4.2])
    assert list(rows["CO2, g"]) == pytest.approx([1.1, 2.2, 2.2])
    assert "rated power of the processor" in table.note


def test_a_sweeps_page_has_the_fingerprint_of_each_value_and_its_own_command(bare):
    sweep = Sweep("level", "0,0.5")
    studies = sweep.studies(STUDY)
    sessions = [bare(dataclasses.replace(the_context(), study=study)) for study in studies]
    more = {"parameter": sweep.parameter, "values": sweep.values}
    text = rendered(sessions, PIPELINE["warmstart"], "A sweep", "It depends.", [], more)
    for level, session in zip(("0", "0.5"), sessions, strict=True):
        assert f"fingerprint at level {level}" in text and session.fingerprint("warmstart") in text
    assert "-e sweep " in text and re.search(r">\s*0,\s*0.5\s*<", text.replace("<wbr>", ""))


def test_the_tables_name_every_variant_and_every_measure(page):
    text = page.replace("<wbr>", "")
    for name in (*VARIANTS, *MEASURES, *STUDY.layer_measures):
        assert re.search(rf">\s*{re.escape(name)}\s*<", text), name
