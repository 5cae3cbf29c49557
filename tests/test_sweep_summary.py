"""A sweep's table, answer and figure follow from the repeats of its warm starts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnnsim_tf import figures
from cnnsim_tf.statistics import holm
from cnnsim_tf.steps.step import Context, Swept
from cnnsim_tf.steps.sweep import (
    COUNT,
    FIGURE,
    _answer,
    _baseline,
    _differences_in_words,
    _figure,
    _shown,
    summarise,
    sweep_table,
)
from cnnsim_tf.study import Study, Sweep

NAMES = ("random_init", "cosine", "random_donor")
WOBBLE = np.array([0.1, -0.1, 0.2, 0.0, -0.2, 0.1, -0.1, 0.15, -0.15, 0.05, -0.05, 0.0])
BASE = 94 + np.arange(12) / 10


def value(text, study, accuracy):
    """Return the warm start at one value, from final accuracies [V, R]."""
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
    return Swept(text, Context(study, None), results, f"run at {text}")


def values(sweep, differences, names=NAMES, repeats=12):
    """Return a warm start per value, whose variants differ from random_init by so many points."""
    study = Study(variants=names, repeats=repeats)
    made = []
    for text, each, points in zip(sweep.texts, sweep.studies(study), differences, strict=True):
        rows = [BASE if d is None else BASE + d + WOBBLE for d in points]
        made.append(value(text, each, np.array(rows)[:, :repeats]))
    return made


@pytest.fixture(scope="module")
def made():
    sweep = Sweep("level", "0,0.5,2")
    swept = values(sweep, [(None, 2, 0), (None, 0, 0), (None, -3, 0)])
    return sweep, swept, sweep_table(sweep, swept)


def test_the_table_has_every_variant_at_every_value_with_its_run(made):
    _, swept, table = made
    columns = [
        "level",
        "variant",
        "repeats of a value",
        "accuracy mean %",
        "accuracy sd",
        "accuracy median %",
        "collapsed",
    ]
    columns += ["difference (points)", "median difference (points)", "CI low", "CI high", "sign-flip p", "run"]
    assert list(table) == [*columns, "Holm p of the sweep", "verdict"]
    rows = [(level, name) for level in ("0", "0.5", "2") for name in NAMES]
    assert list(zip(table["level"], table["variant"], strict=True)) == rows
    assert list(table["run"]) == [f"run at {level}" for level, _ in rows]
    for i in range(9):
        accuracy = np.array([r.test_accuracy[i % 3, -1] for r in swept[i // 3].results])
        assert table["accuracy mean %"][i] == pytest.approx(accuracy.mean())
        assert table["accuracy sd"][i] == pytest.approx(accuracy.std(ddof=1))
        if i % 3:
            assert table["difference (points)"][i] == pytest.approx((accuracy - BASE).mean())
            assert table["median difference (points)"][i] == pytest.approx(np.median(accuracy - BASE))
            assert table["CI low"][i] < table["difference (points)"][i] < table["CI high"][i]
        else:
            columns = ["difference (points)", "CI low", "sign-flip p", "Holm p of the sweep", "verdict"]
            assert table.loc[i, columns].isna().all()


def test_the_sweeps_p_values_are_corrected_for_all_its_comparisons(made):
    *_, table = made
    compared = [i for i in range(9) if i % 3]
    expected = holm([table["sign-flip p"][i] for i in compared])
    assert [table["Holm p of the sweep"][i] for i in compared] == pytest.approx(expected)
    assert table["Holm p of the sweep"][1] == pytest.approx(6 * 2 / 2**12)  # of one value's study: twice
    same = "not distinguishable"
    assert list(table["verdict"]) == [None, "higher", same, None, same, same, None, "lower", same]


def test_the_answer_names_the_differences_that_remain(made):
    sweep, _, table = made
    assert _answer(sweep, table) == (
        "Over 3 values of level (0, 0.5, 2), 2 of 6 comparisons with random_init show a difference (sign-flip tests, "
        "Holm-adjusted over all). They are, in points: cosine at 0 +2.00; cosine at 2 −3.00."
    )


def test_an_answer_without_differences_has_none():
    sweep = Sweep("level", "0,1")
    text = _answer(sweep, sweep_table(sweep, values(sweep, [(None, 0, 0)] * 2)))
    assert text.startswith("Over 2 values of level (0, 1), 0 of 4 comparisons with random_init show a difference")
    assert "They are" not in text


@pytest.mark.parametrize(("names", "repeats"), [(("cosine", "random_donor"), 12), (("random_init",), 12), (NAMES, 1)])
def test_a_sweep_that_compares_nothing_says_what_it_would_take(names, repeats):
    sweep = Sweep("level", "0,1")
    points = [tuple(None if n == "random_init" else 3 for n in names)] * 2
    text = _answer(sweep, sweep_table(sweep, values(sweep, points, names, repeats)))
    assert text == "Nothing is compared: a sweep needs random_init, another variant, and more than one repeat."


def test_the_shown_table_leaves_differences_of_random_init_empty(made):
    sweep, _, table = made
    shown = _shown(sweep, table)
    assert list(shown["difference to random_init"][:3]) == ["", "+2.00", "0.00"]
    assert list(shown.loc[0, ["95 % CI", "p (Holm, sweep)"]]) == ["", ""]
    assert shown["p (Holm, sweep)"][1] == f"{6 * 2 / 2**12:.3f}"
    assert list(shown["under 50 %"]) == ["0 of 12"] * 9


def test_the_figure_and_its_baseline_have_every_value(made):
    sweep, swept, table = made
    np.testing.assert_array_equal(_baseline(swept), np.repeat(BASE[:, None], 3, 1))
    lines = [line for axes in _figure(sweep, swept, table).make().axes for line in axes.lines]
    drawn = {round(float(y), 6) for line in lines for y in np.atleast_1d(line.get_ydata())}
    assert {round(d, 6) for d in table["difference (points)"].dropna()} <= drawn


def test_the_figure_has_its_verdicts_from_the_table_and_its_numbers_in_words(made):
    sweep, swept, table = made
    words = [None, "higher", "not distinguishable"] + [None, "not distinguishable", "lower"] * 2
    told = table.assign(verdict=words)
    assert "filled: distinguishable after correction, 3 of 6" in _figure(sweep, swept, told).make().get_suptitle()
    assert _differences_in_words(sweep, table) == (
        "All differences to random_init, in points: cosine +2.00 at 0, 0.00 at 0.5, −3.00 at 2; random_donor 0.00 at "
        "0, 0.00 at 0.5, 0.00 at 2."
    )


def test_of_a_single_repeat_the_figure_tells_nothing_apart(made, monkeypatch):
    sweep, swept, table = made
    drawn = {}
    monkeypatch.setattr(figures, "sweep", lambda *arrays, **more: drawn.update(more, arrays=arrays))
    one = table.assign(**{COUNT: [1] * 3 + [12] * 6})
    _figure(sweep, swept, one).make()
    same = "not distinguishable"
    assert drawn["verdicts"] == [[None, same, "lower"], [None, same, same]]
    points, mean, low, high, names, parameter, _ = drawn["arrays"]
    assert (points, names, parameter) == ([0.0, 0.5, 2.0], ["cosine", "random_donor"], "level")
    for column, found in (("difference (points)", mean), ("CI low", low), ("CI high", high)):
        np.testing.assert_array_equal(found.T.ravel(), table[column].dropna())


def test_a_sweep_over_variants_compares_those_that_a_value_has(monkeypatch):
    sweep = Sweep("variants", "random_init,cosine;cosine,random_donor;random_init,random_donor")
    studies = sweep.studies(Study(repeats=12))
    points = [(None, 2), (2, 0), (None, -3)]
    swept = [
        value(text, study, np.array([BASE if d is None else BASE + d + WOBBLE for d in of]))
        for text, study, of in zip(sweep.texts, studies, points, strict=True)
    ]
    table = sweep_table(sweep, swept)
    first, _, third = sweep.texts
    assert list(zip(table["variants"], table["variant"], strict=True)) == [
        (text, name) for text, study in zip(sweep.texts, studies, strict=True) for name in study.variants
    ]
    assert list(table["difference (points)"].notna()) == [False, True, False, False, False, True]
    assert list(table["verdict"].dropna()) == ["higher", "lower"]
    assert _answer(sweep, table).endswith(
        f"They are, in points: cosine at {first} +2.00; random_donor at {third} −3.00."
    )
    drawn = {}
    monkeypatch.setattr(figures, "sweep", lambda *arrays, **more: drawn.update(more, arrays=arrays))
    _figure(sweep, swept, table).make()
    assert drawn["verdicts"] == [["higher", None, None], [None, None, "lower"]]
    assert np.isnan(drawn["arrays"][1]).tolist() == [[False, True, True], [True, True, False]]
    assert drawn["arrays"][0] == sweep.texts and drawn["arrays"][-1] is None  # no baseline of all values


def test_a_sweeps_summary_has_its_answer_its_runs_its_metrics_and_its_figure(made):
    sweep, swept, table = made
    summary = summarise(sweep, swept)
    assert summary.answer == _answer(sweep, table) and summary.note.startswith(summary.answer)
    assert summary.terminal.endswith(summary.answer) and summary.title == "Sweep of level"
    assert summary.note.endswith("have the value as their step: 0 = 0, 1 = 0.5, 2 = 2.")
    metrics = {(name, step): number for name, number, step in summary.metrics}
    cells = table[table["variant"] != "random_init"].itertuples(index=False, name=None)
    names = list(table)
    expected = {
        (f"difference/{row[names.index('variant')]}", sweep.texts.index(row[0])): row[
            names.index("difference (points)")
        ]
        for row in cells
    }
    assert metrics == expected and len(metrics) == 6
    assert list(summary.figures) == [FIGURE] and list(summary.tables) == ["sweep"]
    ((part,), (page_table,)) = summary.parts, summary.parts[0].tables
    assert page_table.note.endswith("0: run run at 0, 0.5: run run at 0.5, 2: run run at 2.")
    alternative = part.figures[FIGURE].alternative
    assert alternative == f"{summary.answer} {_differences_in_words(sweep, table)}"


def test_of_very_many_differences_the_largest_are_in_words():
    sweep = Sweep("level", ",".join(str(k / 20) for k in range(30)))
    table = pd.DataFrame({"level": [t for t in sweep.texts for _ in range(2)], "variant": ["cosine", "pearson"] * 30})
    table["difference (points)"] = np.arange(60) / 10
    words = _differences_in_words(sweep, table)
    assert words.startswith("The 40 largest differences to random_init") and words.endswith("has the other 20.")
    assert "+2.00 at" in words and "+1.90 at" not in words


def test_a_sweep_of_repeats_has_a_baseline_with_gaps():
    sweep = Sweep("repeats", "7,12")
    studies = sweep.studies(Study(variants=NAMES))
    swept = [value(text, s, np.tile(BASE[: s.repeats], (3, 1))) for text, s in zip(sweep.texts, studies, strict=True)]
    baseline = _baseline(swept)
    assert baseline.shape == (12, 2)
    assert np.isnan(baseline[:, 0]).tolist() == [False] * 7 + [True] * 5
    assert not np.isnan(baseline[:, 1]).any()
    table = sweep_table(sweep, swept)
    assert list(table["repeats"]) == ["7"] * 3 + ["12"] * 3
    assert list(table[COUNT]) == [7] * 3 + [12] * 3
    assert list(_shown(sweep, table)["under 50 %"]) == ["0 of 7"] * 3 + ["0 of 12"] * 3
