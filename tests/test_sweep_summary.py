"""A sweep's table, answer and figure follow from the repeats of its warm starts."""

from types import SimpleNamespace

import numpy as np
import pytest

from cnnsim_tf.statistics import holm
from cnnsim_tf.steps.step import Context
from cnnsim_tf.steps.sweep import _answer, _baseline, _differences_in_words, _figure, _shown, sweep_table
from cnnsim_tf.study import Study, Sweep

NAMES = ("random_init", "cosine", "random_donor")
WOBBLE = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1, 0.15, -0.15, 0.05, -0.05, 0.0])
BASE = 94 + np.arange(12) / 10


def session(study, accuracy):
    """Return what a sweep takes of a session, from final accuracies [V, R]."""
    results = [
        SimpleNamespace(
            test_accuracy=a[:, None],
            start_accuracy=a,
            noise_accuracy=a[:, None],
            epoch_loss=a[:, None],
            points=np.array([9]),
        )
        for a in accuracy.T
    ]
    return SimpleNamespace(
        study=study,
        context=Context(study, None),
        results={"warmstart": results},
        run_ids={"warmstart": f"run at {study.level:g}"},
    )


def sessions(sweep, differences, names=NAMES, repeats=12):
    """Return a session per value, whose variants differ from random_init by so many points."""
    study = Study(variants=names, repeats=repeats)
    made = []
    for each, points in zip(sweep.studies(study), differences, strict=True):
        rows = [BASE if d is None else BASE + d + WOBBLE for d in points]
        made.append(session(each, np.array(rows)[:, :repeats]))
    return made


@pytest.fixture(scope="module")
def made():
    sweep = Sweep("level", "0,0.5,2")
    swept = sessions(sweep, [(None, 2, 0), (None, 0, 0), (None, -3, 0)])
    return sweep, swept, sweep_table(swept, sweep)


def test_the_table_has_every_variant_at_every_value_with_its_run(made):
    _, swept, table = made
    rows = [(level, name) for level in ("0", "0.5", "2") for name in NAMES]
    assert list(zip(table["level"], table["variant"], strict=True)) == rows
    assert table["run"] == [f"run at {level}" for level, _ in rows]
    for i in range(9):
        accuracy = np.array([r.test_accuracy[i % 3, -1] for r in swept[i // 3].results["warmstart"]])
        assert table["accuracy mean %"][i] == pytest.approx(accuracy.mean())
        assert table["accuracy sd"][i] == pytest.approx(accuracy.std(ddof=1))
        if i % 3:
            assert table["difference (points)"][i] == pytest.approx((accuracy - BASE).mean())
        else:
            assert table["difference (points)"][i] is table["Holm p of the sweep"][i] is None


def test_the_sweeps_p_values_are_corrected_for_all_its_comparisons(made):
    *_, table = made
    compared = [i for i in range(9) if i % 3]
    expected = holm([table["sign-flip p"][i] for i in compared])
    assert [table["Holm p of the sweep"][i] for i in compared] == pytest.approx(expected)
    assert table["Holm p of the sweep"][1] == pytest.approx(6 * 2 / 2**12)  # of one value's study: twice


def test_the_answer_names_the_differences_that_remain(made):
    sweep, _, table = made
    assert _answer(table, sweep) == (
        "Over 3 values of level (0, 0.5, 2), 2 of 6 comparisons with random_init show a difference (sign-flip tests, "
        "Holm-adjusted over all). They are, in points: cosine at 0 +2.00; cosine at 2 −3.00."
    )


def test_an_answer_without_differences_has_none():
    sweep = Sweep("level", "0,1")
    text = _answer(sweep_table(sessions(sweep, [(None, 0, 0)] * 2), sweep), sweep)
    assert text.startswith("Over 2 values of level (0, 1), 0 of 4 comparisons with random_init show a difference")
    assert "They are" not in text


@pytest.mark.parametrize(("names", "repeats"), [(("cosine", "random_donor"), 12), (("random_init",), 12), (NAMES, 1)])
def test_a_sweep_that_compares_nothing_says_what_it_would_take(names, repeats):
    sweep = Sweep("level", "0,1")
    points = [tuple(None if n == "random_init" else 3 for n in names)] * 2
    text = _answer(sweep_table(sessions(sweep, points, names, repeats), sweep), sweep)
    assert text == "Nothing is compared: a sweep needs random_init, another variant, and more than one repeat."


def test_the_shown_table_leaves_differences_of_random_init_empty(made):
    *_, table = made
    shown = _shown(table)
    assert shown["difference to random_init"][:3] == ["", "+2.00", "+0.00"]
    assert shown["p (Holm, sweep)"][0] == ""
    assert shown["under 50 %"] == ["0 of 12"] * 9


def test_the_figure_and_its_baseline_have_every_value(made):
    sweep, swept, table = made
    np.testing.assert_array_equal(_baseline(swept), np.repeat(BASE[:, None], 3, 1))
    lines = [line for axes in _figure(swept, sweep, table).axes for line in axes.lines]
    drawn = {round(float(y), 6) for line in lines for y in np.atleast_1d(line.get_ydata())}
    assert {round(d, 6) for d in table["difference (points)"] if d is not None} <= drawn


def test_the_figure_has_its_verdicts_from_the_table_and_its_numbers_in_words(made):
    sweep, swept, table = made
    told = table | {"verdict": [None, "higher", "not distinguishable"] + [None, "not distinguishable", "lower"] * 2}
    assert "filled: distinguishable after correction, 3 of 6" in _figure(swept, sweep, told).get_suptitle()
    assert _differences_in_words(table, sweep) == (
        "All differences to random_init, in points: cosine +2.00 at 0, +0.00 at 0.5, −3.00 at 2; random_donor +0.00 "
        "at 0, +0.00 at 0.5, +0.00 at 2."
    )


def test_of_very_many_differences_the_largest_are_in_words():
    sweep = Sweep("level", ",".join(str(k / 20) for k in range(30)))
    table = {"level": [t for t in sweep.texts for _ in range(2)], "variant": ["cosine", "pearson"] * 30}
    table["difference (points)"] = [k / 10 for k in range(60)]
    words = _differences_in_words(table, sweep)
    assert words.startswith("The 40 largest differences to random_init") and words.endswith("has the other 20.")
    assert "+2.00 at" in words and "+1.90 at" not in words


def test_a_sweep_of_repeats_has_a_baseline_with_gaps():
    sweep = Sweep("repeats", "7,12")
    studies = sweep.studies(Study(variants=NAMES))
    swept = [session(s, np.tile(BASE[: s.repeats], (3, 1))) for s in studies]
    baseline = _baseline(swept)
    assert baseline.shape == (12, 2)
    assert np.isnan(baseline[:, 0]).tolist() == [False] * 7 + [True] * 5
    assert not np.isnan(baseline[:, 1]).any()
    assert sweep_table(swept, sweep)["repeats"] == ["7"] * 3 + ["12"] * 3
    assert sweep_table(swept, sweep)["repeats of a value"] == [7] * 3 + [12] * 3
