"""What is stored and what is not: re-use, damage, steps alone, studies that are stopped. The steps are the toy's."""

import dataclasses
import io
import os
import re
import signal
from unittest import mock

import numpy as np
import pytest
import toy
from mlflow.tracking import MlflowClient
from stored import file_of, options_of, runs_of, steps_of
from waiting import wait_until

from cnnsim_tf import tracking
from cnnsim_tf.errors import StudyError
from cnnsim_tf.pipeline import Pipeline
from cnnsim_tf.run import repeats, worker
from cnnsim_tf.run.storage import Identity, from_npz, to_npz
from cnnsim_tf.steps.kept import whole

pytestmark = pytest.mark.slow

STEPS = [step.name for step in toy.PIPELINE]
FEW = {"noises": "blur,rotation", "measures": "cosine", "variants": "random_init,cosine"}


@pytest.fixture
def call(store, enter_toy, capfd, tiny_mnist):
    """Run an entry point of the toy; return its exit code, what it said on stdout and stderr, and its new runs."""

    def run(step, **parameters):
        before = {r.info.run_id for r in runs_of(store)}
        code = enter_toy(step, *toy.words(step, **{"dataset": tiny_mnist, "repeats": 2} | FEW | parameters))
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return code, out, err, [r for r in runs_of(store) if r.info.run_id not in before]

    return run


def repeats_of(run):
    """Return the bytes of a run's stored repeats by number."""
    return {int(p.stem[-3:]): p.read_bytes() for p in file_of(run, "repeats").glob("repeat_???.npz")}


# --- again -----------------------------------------------------------------------------------------------------------


def test_more_repeats_take_over_those_that_are_stored_and_compute_the_rest(call, toy_calls):
    code, _, _, first = call("warmstart")
    computed = toy_calls()
    more, _, err, new = call("warmstart", repeats=3)
    assert (code, more) == (0, 0)
    assert sorted(toy_calls()[len(computed) :]) == sorted((step, 3) for step in STEPS)
    page = file_of(steps_of(new)["warmstart"], "report.html").read_text("utf-8")
    for step in toy.PIPELINE:
        sentence = f"{step.title}: took over 2 of 3 repeats from earlier runs"
        assert sentence in err and sentence in page
        before, after = (repeats_of(steps_of(runs)[step.name]) for runs in (first, new))
        assert after.keys() == {1, 2, 3} and {r: after[r] for r in (1, 2)} == before


def test_only_steps_that_are_made_are_prepared(call, monkeypatch):
    prepared = []
    monkeypatch.setattr(toy.Toy, "prepare", lambda code, context: prepared.append(code.name), raising=False)
    monkeypatch.setattr("cnnsim_tf.run.session.cores", lambda: 2)
    monkeypatch.setattr(tracking, "is_new", lambda: False)
    call("similarity")
    assert prepared == STEPS[:3]
    call("similarity")
    assert prepared == STEPS[:3]
    call("warmstart")
    assert prepared == STEPS


def test_a_step_that_does_not_need_all_before_it_is_reported_where_those_are_reused(call, monkeypatch):
    last = dataclasses.replace(toy.PIPELINE.last, code_at="toy:OF_SIMILARITY_ALONE", needs=("similarity",))
    steps = [*list(toy.PIPELINE)[:-1], last]
    monkeypatch.setattr(toy, "PIPELINE", Pipeline(steps, software=["numpy"]))
    first = call("warmstart")
    again = call("warmstart", variants="random_init")
    assert (first[0], again[0]) == (0, 0), again[2]
    assert "similarity: re-used" in again[2]
    assert "Toy" in file_of(steps_of(again[3])["warmstart"], "report.html").read_text("utf-8")


def test_fewer_repeats_take_over_what_they_need(call, toy_calls):
    call("similarity", repeats=3)
    computed = toy_calls()
    code, _, err, new = call("similarity", repeats=2)
    assert code == 0 and "similarity: took over 2 of 2 repeats" in err and toy_calls() == computed
    assert {r.data.tags["cnnsim.step"] for r in new} == set(STEPS) - {"warmstart"}


def test_fresh_computes_everything_anew_and_gives_the_same_bit_for_bit(call, toy_calls):
    _, _, _, first = call("warmstart")
    computed = toy_calls()
    code, _, err, new = call("warmstart", fresh="true")
    assert code == 0 and "took over" not in err and "re-used" not in err
    assert sorted(toy_calls()) == sorted(computed * 2)
    for step in STEPS:
        assert repeats_of(steps_of(first)[step]) == repeats_of(steps_of(new)[step])


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        ({"variants": "random_init"}, ["warmstart"]),
        ({"align": "network"}, ["similarity", "warmstart"]),
        ({"epochs": 7}, ["subset_training", "similarity", "warmstart"]),
        ({"level": 0.5}, STEPS),
        ({"country": "NLD", "registered_model": "another", "scheduler": "local"}, []),
    ],
)
def test_a_parameter_makes_its_own_step_and_the_later_ones_anew(call, changed, made):
    call("warmstart")
    code, _, err, new = call("warmstart", **changed)
    assert code == 0 and set(steps_of(new)) == set(made)
    # What is re-used is told from the last step back to the first that is found.
    assert ("re-used the finished run" in err) == (len(made) < len(STEPS))


def test_a_step_that_is_found_finished_makes_no_run_and_shows_what_it_showed(call):
    _, out, _, _ = call("similarity")
    code, again, err, new = call("similarity")
    assert (code, again, new) == (0, out, []) and "similarity: re-used the finished run" in err


# --- what is not kept ------------------------------------------------------------------------------------------------


def test_what_summaries_do_not_need_is_let_go_of_and_comes_back_bit_for_bit(call, monkeypatch):
    seen, real = {}, toy.Toy.summarise

    def summarise(self, context, results, inputs):
        seen[self.name] = list(results), [whole(results, r) for r in range(len(results))]
        return real(self, context, results, inputs)

    monkeypatch.setattr(toy.Toy, "summarise", summarise)
    _, _, _, made = call("warmstart")
    for runs in (
        [],
        call("warmstart", repeats=3)[3],
        call("warmstart", variants="random_init")[3],
    ):  # taken over, found
        step_runs = steps_of([*made, *runs])
        assert sorted(seen) == sorted(STEPS)
        for step, (kept, read) in seen.items():
            stored = repeats_of(steps_of(runs).get(step, step_runs[step]))
            for r, (each, back) in enumerate(zip(kept, read, strict=True), 1):
                whole_one = from_npz(toy.Result, stored[r])
                assert each.parts == {} and each.values.tobytes() == whole_one.values.tobytes()
                assert {n: a.tobytes() for n, a in back.parts.items()} == {
                    n: a.tobytes() for n, a in whole_one.parts.items()
                }


@pytest.mark.parametrize("damage", ["is gone", "is no longer as it was stored"])
def test_a_repeat_that_is_gone_or_changed_when_it_is_read_back_is_named_in_a_sentence(
    call, toy_calls, monkeypatch, damage
):
    _, _, _, first = call("similarity")
    path, real = file_of(steps_of(first)["similarity"], "repeats/repeat_002.npz"), repeats.cluster.compute

    def compute(*arguments, **options):  # the finished run has been read, and looked through
        path.unlink() if damage == "is gone" else path.write_bytes(truncated(path.read_bytes()))
        yield from real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(repeats.cluster, "compute", compute)
        code, _, err, _ = call("warmstart")
    sentence = (
        f"similarity: repeat 2 stored in run {steps_of(first)['similarity'].info.run_id} {damage}: the same command"
    )
    assert code == 1 and " ".join(err.split()).count(sentence) == 1
    computed = toy_calls()
    assert call("warmstart")[0] == 0
    assert sorted(toy_calls()[len(computed) :]) == [("similarity", 2), ("warmstart", 1), ("warmstart", 2)]


NANS = np.array([1, np.nan, 2, 3])

# --- damage ----------------------------------------------------------------------------------------------------------


def truncated(content):
    return content[: len(content) // 2]


def one_bit_changed(content):
    changed = bytearray(content)
    changed[content.index(b"values.npy") + 40] ^= 1  # in its compressed array
    return bytes(changed)


def another_step(content):
    arrays = io.BytesIO()
    np.savez(arrays, something=np.zeros(3))
    return arrays.getvalue()


@pytest.mark.parametrize("damage", [truncated, one_bit_changed, another_step, lambda content: b""])
def test_a_damaged_repeat_is_named_and_computed_again(call, toy_calls, damage):
    _, _, _, (first,) = call("noising")
    whole, path = repeats_of(first), file_of(first, "repeats/repeat_002.npz")
    path.write_bytes(damage(whole[2]))
    left = path.read_bytes()
    computed = toy_calls()
    code, _, err, (second,) = call("noising")
    assert code == 0 and toy_calls()[len(computed) :] == [("noising", 2)]
    assert "repeat 2 " in err and first.info.run_id in err and "is damaged" in err and "computed again" in err
    assert "took over 1 of 2 repeats" in err
    assert second.info.status == "FINISHED" and repeats_of(second) == whole
    assert path.read_bytes() == left  # the damaged run is left as it is


def stored_as(content, step, repeat, **changed):
    """Return a stored repeat with other contents, and with their digest."""
    with np.load(io.BytesIO(content)) as file:
        recipe = str(file["identity"][2])
    return to_npz(dataclasses.replace(from_npz(toy.Result, content), **changed), Identity(step, repeat, recipe))


def test_a_repeat_that_cannot_be_or_is_another_is_computed_again_whatever_its_digest_says(call, toy_calls):
    _, _, _, runs = call("subset_training", repeats=9)
    _, _, _, of_seed = call("subset_training", seed=8)
    first = steps_of(runs)["subset_training"]
    whole = repeats_of(first)
    halves = from_npz(toy.Result, whole[3]).parts
    forged = {
        1: ("values has values that are not finite", {"values": NANS}),
        2: ("values has the shape (1, 4) instead of (4,)", {"values": np.zeros((1, 4))}),
        3: ("it has 'parts/third', which does not belong there", {"parts": halves | {"third": np.zeros(2)}}),
    }
    files = {n: (said, stored_as(whole[n], "subset_training", n, **changed)) for n, (said, changed) in forged.items()}
    files[4] = "it is repeat 1 of the step subset_training", whole[1]
    files[5] = "it is repeat 5 of the step noising", repeats_of(steps_of(runs)["noising"])[5]
    of_seed = stored_as(repeats_of(steps_of(of_seed)["subset_training"])[1], "subset_training", 6)
    files[6] = "it is repeat 6 of the step subset_training with the recipe ", of_seed
    files[7] = "it does not say which repeat it is", to_npz(from_npz(toy.Result, whole[7]))
    files[8] = "it is another than the run stored", stored_as(whole[8], "subset_training", 8, values=np.ones(4))
    for repeat, (_, content) in files.items():
        file_of(first, f"repeats/repeat_{repeat:03d}.npz").write_bytes(content)
    computed = toy_calls()
    code, _, err, new = call("subset_training", repeats=9)
    assert code == 0 and "took over 1 of 9 repeats" in err
    assert sorted(toy_calls()[len(computed) :]) == [("subset_training", repeat) for repeat in range(1, 9)]
    for repeat, (said, _) in files.items():
        assert f"repeat {repeat} stored in run {first.info.run_name!r} ({first.info.run_id}) is damaged ({said}" in err
    assert repeats_of(steps_of(new)["subset_training"]) == whole


def test_digests_of_repeats_are_made_again_while_the_runs_tag_vouches_for_them_and_without_it_none_is_believed(
    call, toy_calls, store
):
    _, out, _, (first,) = call("noising")
    computed, file = toy_calls(), file_of(first, "digests_of_repeats.json")
    content = file.read_bytes()
    for damage in (file.unlink, lambda: file.write_bytes(b"[1]")):
        damage()
        code, again, _, new = call("noising")
        assert (code, again, new, toy_calls()) == (0, out, [], computed) and file.read_bytes() == content
    path = file_of(first, "repeats/repeat_002.npz")
    path.write_bytes(stored_as(path.read_bytes(), "noising", 2, values=np.ones(4)))
    file.unlink()
    code, again, err, _ = call("noising")
    assert code == 0 and again.split("Browse")[0] == out.split("Browse")[0] and "nothing vouches for it" in err
    assert toy_calls()[len(computed) :] == [("noising", 1), ("noising", 2)]
    for run in runs_of(store):
        store.delete_tag(run.info.run_id, "cnnsim.digests_of_repeats")
    assert "nothing vouches for it" in call("noising")[2] and len(toy_calls()) == len(computed) + 4


def test_a_repeat_that_is_gone_is_computed_again(call, toy_calls):
    _, _, _, (first,) = call("noising")
    file_of(first, "repeats/repeat_001.npz").unlink()
    code, _, err, (second,) = call("noising")
    assert code == 0 and "took over 1 of 2 repeats" in err and toy_calls()[2:] == [("noising", 1)]
    assert repeats_of(second).keys() == {1, 2}


@pytest.mark.parametrize(("step", "child"), [("warmstart", "cosine"), ("subset_training", "donor 2 rotation")])
def test_a_childs_run_that_is_lost_is_made_again_from_the_repeats(call, toy_calls, store, step, child):
    _, out, _, first = call(step)
    (lost,) = [r for r in first if r.info.run_name == child]
    store.delete_run(lost.info.run_id)
    computed = toy_calls()
    code, again, err, (made,) = call(step)
    assert (code, again, toy_calls()) == (0, out, computed) and f"put right from its repeats: {child}: its run\n" in err
    assert (made.info.run_name, made.info.status) == (child, "FINISHED")
    assert made.data.tags["mlflow.parentRunId"] == steps_of(first)[step].info.run_id
    assert [len(call(step)[3]) for _ in range(2)] == [0, 0]


def test_runs_are_known_by_their_tags_whatever_they_are_called_in_the_ui(call, store):
    _, out, _, first = call("warmstart")
    for run in first:
        store.update_run(run.info.run_id, name=f"mine \x1b[2J{run.info.run_id}")
    code, again, err, new = call("warmstart")
    assert (code, again, new) == (0, out, []) and "right" not in err and "\x1b" not in err


def test_children_that_are_tagged_as_each_other_have_their_own_names_again(call, store):
    _, out, _, first = call("warmstart")
    variants = {r.data.tags["cnnsim.child"]: r.info.run_id for r in first if r.data.tags["cnnsim.role"] == "variant"}
    for run_id, name in zip(variants.values(), reversed(variants), strict=True):
        store.set_tag(run_id, "cnnsim.child", name)
    code, again, err, new = call("warmstart")
    assert (code, again, new) == (0, out, []) and "had tags of others, and have their own again" in err
    assert {store.get_run(i).data.tags["cnnsim.child"]: i for i in variants.values()} == variants
    assert "own again" not in call("warmstart")[2]


# --- what is shown ---------------------------------------------------------------------------------------------------

DERIVED = {
    "summary.txt": b"accuracy 100 %\x1b[2J",
    "report.html": b"<script>alert(1)</script>",
    "config.json": b"{}",
    "tables/values.csv": b"a,b\n1,2\n",
    "tables/sums.json": None,
    "figures/warmstart.png": b"\x89PNG",
    "digests.json": b"{}",
    "note": "accuracy 100 %",
    "no note": None,
    "digest": "1 2",
}


def shown_by(store, runs):
    """Return all that runs show, but for when and from what the page was made."""
    shown = {}
    for found in (store.get_run(r.info.run_id) for r in runs):
        folder = file_of(found, "")
        of_run = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        of_run.pop("digests.json")
        if "report.html" in of_run:
            of_run["report.html"] = re.findall(rb"(?s)<title>.*?</title>|<svg.*?</svg>", of_run["report.html"])
        shown[found.info.run_id] = of_run | {"note": found.data.tags["mlflow.note.content"]}
    return shown


def damage(store, run, what):
    run_id, content = run.info.run_id, DERIVED.get(what)
    if what == "no note":
        store.delete_tag(run_id, "mlflow.note.content")
    elif isinstance(content, str):
        store.set_tag(run_id, "mlflow.note.content" if what == "note" else "cnnsim.digests", content)
    elif content is None:
        file_of(run, what).unlink()
    else:
        file_of(run, what).write_bytes(content)


def test_what_runs_show_is_made_again_where_it_is_gone_or_was_changed(call, store, toy_calls):
    _, out, _, first = call("warmstart")
    steps, children = steps_of(first), {r.info.run_name: r for r in first}
    before, computed = shown_by(store, first), toy_calls()
    root, *others = steps["warmstart"], children["cosine"], children["donor 1 blur"], steps["similarity"]
    rounds = [
        [(root, w) for w in ("summary.txt", "config.json", "tables/values.csv", "tables/sums.json", "note")],
        [(root, "report.html"), (root, "figures/warmstart.png"), (others[2], "summary.txt"), (others[0], "no note")],
        [(root, "digests.json"), (others[0], "file"), (others[0], "figure.png"), (others[1], "digest")],
        [(root, "digest"), (others[1], "config.json"), (others[2], "figures/similarity.png")],
        [(root, "no note")],
    ]
    for damaged in rounds:
        for run, what in damaged:
            damage(store, run, what)
        code, again, err, new = call("warmstart")
        assert (code, again, new, toy_calls()) == (0, out, [], computed), (damaged, err)
        assert shown_by(store, first) == before, damaged
        for run, what in damaged:
            named = {"digests.json": "everything", "digest": "everything", "no note": "note"}.get(what, what)
            child = f"{run.info.run_name}: " if run in others[:2] else ""
            assert re.search(rf"put right from its repeats: (.*, )?{child}{named}(,|$)", err, re.MULTILINE), (what, err)
    assert "right" not in call("warmstart")[2]
    remarks = f"{before[root.info.run_id]['note']}\n\nI like it."
    store.set_tag(root.info.run_id, "mlflow.note.content", remarks)
    assert "right from its repeats: note" in call("warmstart")[2] and "right" not in call("warmstart")[2]
    assert store.get_run(root.info.run_id).data.tags["mlflow.note.content"] == remarks


def replaced_by(what, path, elsewhere):
    """Put something that is no regular file of the run's own in place of a stored file."""
    content = path.read_bytes()
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)


@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_what_is_no_file_of_the_runs_own_is_made_again_and_nothing_is_written_through_it(
    call, toy_calls, tmp_path, what
):
    _, out, _, first = call("warmstart")
    root, computed = steps_of(first)["warmstart"], toy_calls()
    for number, name in enumerate(("summary.txt", "report.html", "tables/values.csv", "digests_of_repeats.json")):
        replaced_by(what, file_of(root, name), tmp_path / f"elsewhere{number}")
    kept = [p.read_bytes() for p in sorted(tmp_path.glob("elsewhere*"))]
    code, again, err, new = call("warmstart")
    assert (code, again, new, toy_calls()) == (
        0,
        out,
        [],
        computed,
    ) and "put right from its repeats: report.html" in err
    assert "right" not in call("warmstart")[2]
    if what == "folder":  # a repeat's is taken for one that is not there
        return
    replaced_by(what, file_of(root, "repeats/repeat_002.npz"), tmp_path / "elsewhere9")
    code, again, err, _ = call("warmstart")
    assert code == 0 and again.split("Browse")[0] == out.split("Browse")[0]
    assert f"repeat 2 stored in run {root.info.run_name!r}" in err and "is damaged" in err
    assert toy_calls()[len(computed) :] == [("warmstart", 2)]
    assert [p.read_bytes() for p in sorted(tmp_path.glob("elsewhere?"))][: len(kept)] == kept


def test_a_store_that_fails_after_a_step_is_finished_does_not_undo_it(call, store, monkeypatch):
    call("similarity")
    monkeypatch.setattr(tracking, "unchanged", mock.Mock(side_effect=StudyError("the store is full")))
    code, out, err, new = call("warmstart")
    assert code == 0 and "toy warmstart" in out and {r.info.status for r in new} == {"FINISHED"}
    assert err.count("what its run shows could not be checked or put right: the store is full\n") == 3
    code, out, err, _ = call("warmstart")
    assert (code, out) == (1, "") and err.endswith("error: the store is full\n")


def test_what_a_step_shows_is_made_again_although_a_run_before_it_is_deleted(call, store, toy_calls):
    _, out, _, first = call("warmstart")
    steps, computed = steps_of(first), toy_calls()
    store.delete_run(steps["noising"].info.run_id)
    assert call("warmstart")[1:] == (out, mock.ANY, []) and toy_calls() == computed  # nothing asks for it
    file_of(steps["warmstart"], "report.html").unlink()
    code, again, err, new = call("warmstart")
    assert (
        (code, again) == (0, out) and [*steps_of(new)] == ["noising"] and "right from its repeats: report.html" in err
    )
    assert sorted(toy_calls()[len(computed) :]) == [("noising", 1), ("noising", 2)]
    assert file_of(steps["warmstart"], "report.html").read_text().count("<svg") == len(STEPS)


# --- workers that are wrong ------------------------------------------------------------------------------------------


def with_noising(change):
    return lambda answer: answer | {"results": answer["results"] | {"noising": change(answer["results"]["noising"])}}


def without_a_step(answer):
    return answer | {part: {"noising": answer[part]["noising"]} for part in ("results", "seconds")}


WRONG = {
    2: ("its noising: values has values that are not", with_noising(lambda c: stored_as(c, "noising", 2, values=NANS))),
    3: ("its noising: it is repeat 1 of the step noising", with_noising(lambda c: stored_as(c, "noising", 1))),
    4: ("its noising: File is not a zip file", with_noising(truncated)),
    5: ("its noising: a bytes-like object is required", with_noising(lambda content: "text")),
    6: ("it has the steps noising instead of noising, subset_training", without_a_step),
    7: ("it says no seconds that its steps took", lambda a: a | {"seconds": dict.fromkeys(a["seconds"], -1.0)}),
    8: ("list indices must be", lambda answer: [answer]),
}


def test_a_worker_that_sends_what_cannot_be_is_named_and_nothing_of_it_is_stored(call, monkeypatch):
    def compute(recipe, repeat, *rest):
        answer = worker.compute(recipe, repeat, *rest)
        return WRONG[repeat][1](answer) if repeat in WRONG else answer

    with monkeypatch.context() as patched:
        patched.setattr(repeats, "compute", compute)
        code, _, err, runs = call("subset_training", repeats=9)
    steps = steps_of(runs)
    assert code == 1 and "repeat 2 came back wrong 3 times, at last from the worker at inproc://" in err, err
    assert f"({WRONG[2][0]} finite), and 6 others like it, so the study is not complete" in err
    for repeat, (said, _) in WRONG.items():
        assert said in file_of(steps["subset_training"], f"failures/repeat_{repeat:03d}.txt").read_text()
    assert all(repeats_of(steps[step]).keys() == {1, 9} for step in STEPS[:2])
    assert call("subset_training", repeats=9)[0] == 0


def test_what_came_back_wrong_once_is_computed_again(call, monkeypatch, toy_calls, tmp_path):
    def compute(recipe, repeat, *rest):
        answer = worker.compute(recipe, repeat, *rest)
        if repeat != 2 or (tmp_path / "once").exists():
            return answer
        (tmp_path / "once").touch()
        return WRONG[3][1](answer)

    monkeypatch.setattr(repeats, "compute", compute)
    code, _, _, (run,) = call("noising")
    assert code == 0 and sorted(toy_calls()) == [("noising", 1), ("noising", 2), ("noising", 2)]
    assert repeats_of(run).keys() == {1, 2}


# --- a step alone ----------------------------------------------------------------------------------------------------


def test_a_step_alone_makes_the_earlier_ones_as_its_children_and_later_steps_re_use_all(call):
    code, out, _, runs = call("similarity")
    steps = steps_of(runs)
    assert code == 0 and set(steps) == set(STEPS[:3]) and len(runs) == 3 + 2
    root = steps["similarity"]
    assert "mlflow.parentRunId" not in root.data.tags
    for name in STEPS[:2]:
        assert steps[name].data.tags["mlflow.parentRunId"] == root.info.run_id
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert "toy similarity" in out and "similarity.png" in out and "versions" not in out and "report" not in out
    code, out, err, new = call("warmstart")
    assert (code == 0 and set(steps_of(new)) == {"warmstart"} and "make report" in out) or "entrypoints.report" in out
    assert "similarity: re-used the finished run" in err


# --- stopped, killed -------------------------------------------------------------------------------------------------


@pytest.fixture
def started(toys, new_store, tmp_path, tiny_mnist):
    """Start a warm start of the toy as a command on an empty store; it waits in a step of its second repeat."""
    words = ["warmstart", *options_of(dataset=tiny_mnist, repeats=3, **FEW)]
    calls = f"{tmp_path}/calls"
    study = toys.start(words, tmp_path, new_store(tmp_path), TOY_CALLS=calls, TOY_HOLD="similarity 2")
    wait_until(lambda: (tmp_path / "calls.here").exists() or study.ended(), 120)
    yield study
    study.kill()


def test_a_study_that_is_terminated_ends_its_runs_as_killed(started, tmp_path):
    started.kill(by=signal.SIGTERM)
    (tmp_path / "calls.go").touch()
    assert started.code == 143 and "Traceback" not in started.said(), started.said()
    runs = runs_of(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"))
    assert {r.data.tags["cnnsim.step"]: r.info.status for r in runs} == dict.fromkeys(STEPS, "KILLED")


def test_a_killed_study_is_ended_by_the_next_start_which_takes_over_its_repeats(
    started, enter_toy, toy_calls, capfd, tiny_mnist, tmp_path, monkeypatch
):
    wait_until(lambda: list(tmp_path.glob("artifacts/*/artifacts/repeats/repeat_001.npz"))[3:])
    started.kill()
    assert started.code == -signal.SIGKILL
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    dead = {r.info.run_id: r for r in runs_of(client)}
    assert {r.data.tags["cnnsim.step"]: r.info.status for r in dead.values()} == dict.fromkeys(STEPS, "RUNNING")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert enter_toy("noising", *toy.words("noising", dataset=tiny_mnist, repeats=3, **FEW)) == 0
    err = capfd.readouterr().err
    assert err.count("ended the dead run") == 4
    statuses = {r.info.run_id: r.info.status for r in runs_of(client)}
    assert {statuses.pop(run_id) for run_id in dead} == {"KILLED"}
    assert list(statuses.values()) == ["FINISHED"]
    (old,) = [r for r in dead.values() if r.data.tags["cnnsim.step"] == "noising"]
    (new,) = [r for r in runs_of(client) if r.info.run_id in statuses]
    taken = repeats_of(old)
    assert f"noising: took over {len(taken)} of 3 repeats" in err
    assert taken.items() <= repeats_of(new).items() and repeats_of(new).keys() == {1, 2, 3}
    assert sorted(r for step, r in toy_calls() if step == "noising") == sorted({1, 2, 3} - taken.keys())
    assert all(isinstance(from_npz(toy.Result, content), toy.Result) for content in repeats_of(new).values())
    assert client.get_run(old.info.run_id).data.tags["cnnsim.successor"] == new.info.run_id


def test_a_step_that_cannot_be_summed_up_leaves_those_before_it_finished(call, monkeypatch, store):
    def summarise(*_):
        raise StudyError("no summary")

    monkeypatch.setitem(vars(toy.SIMILARITY), "summarise", summarise)
    code, _, err, new = call("warmstart")
    assert code == 1 and "no summary" in err
    assert {step: run.info.status for step, run in steps_of(new).items()} == {
        "noising": "FINISHED", "subset_training": "FINISHED", "similarity": "FAILED", "warmstart": "FAILED"
    }  # fmt: skip
