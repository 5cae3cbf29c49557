import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats
from test_figures import (
    FILTERS,
    LONG,
    MANY,
    NOISES,
    STEPS,
    accuracies,
    assert_legible,
    by_variant,
    curves,
    not_laid_out,  # noqa: F401 pytest finds it by its name
    points,
    texts,
    with_nan,
)

from cnnsim_tf import figures
from cnnsim_tf.figures import colours, scales, wording
from cnnsim_tf.filters import each_filter
from cnnsim_tf.report.drawing import drawn, inline
from cnnsim_tf.statistics import reach_curve

MEASURES = ["cosine", "pearson", "frobenius", "signed_cosine", "normalised_frobenius", "spearman", "dft_cosine"]
SCHEMES = ["least_alike", "shuffled", "norm_matched", "pair_mean", "medoid", "with_biases", "rescaled", "cluster"]
CONTROLS = ["random_donor", "one_donor", "full_donor", "aligned_mean", "shrink_perturb", "dash", LONG[2]]
COMBINED = [f"{measure}+{scheme}" for measure in MEASURES for scheme in SCHEMES]
NAMES = ["cosine", "random_init", *MEASURES[1:], *CONTROLS, *COMBINED, "a:b+c", "x:y", "x:z", "one_donor+filters"]
LAYERS = ["conv1", "conv2", "dense1", "logits"]
VERDICTS = ["higher", "lower", "not distinguishable"]


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def differences(variants: int, values: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means and intervals [V, K], every sixth variant collapsed."""
    mean, half = rng().normal(0, 0.3, (variants, values)), rng().uniform(0.2, 0.6, (variants, values))
    mean[5::6] -= 21
    half[5::6] += 14
    return mean, mean - half, mean + half


def forest(variants: int, missing: bool = False) -> Figure:
    mean, low, high = (values[:, 0] for values in differences(variants))
    names = [name for name in NAMES if name != "random_init"][:variants]
    if missing:
        mean, low, high = with_nan(mean), with_nan(low), with_nan(high)
    collapsed = np.where(np.arange(variants) % 6 == 5, 5, 0)
    verdicts = [VERDICTS[v % 3] for v in range(variants)]
    return figures.difference_forest(mean, low, high, verdicts, names, collapsed=collapsed, repeats=20)


def diagnosis(variants: int, repeats: int, most: int = 8) -> Figure:
    accuracy = accuracies(variants, repeats, repeats // 3)
    return figures.collapse_diagnosis(accuracy, rng().integers(0, most, accuracy.shape), NAMES[:variants])


def norms(variants: int, steps: int = 20, layers: int = 4) -> np.ndarray:
    return np.exp(rng().normal(-2, 1, (variants, 1, layers)) + rng().normal(0, 0.1, (variants, steps, layers)))


def reached(variants: int, repeats: int, at: int = 3) -> tuple[np.ndarray, np.ndarray]:
    steps = np.exp(rng().normal(5.8, 0.7, (at, variants, repeats)))
    return np.minimum(steps, 938), steps < 938


def reach(steps: np.ndarray, reached: np.ndarray, thresholds: list[float], names: list[str]) -> Figure:
    curves = [[reach_curve(*both) for both in zip(*row, strict=True)] for row in zip(steps, reached, strict=True)]
    return figures.steps_to_reach(curves, thresholds, names)


def swept(variants: int, values: list, baseline: bool = True, verdicts: bool = False) -> Figure:
    names = [name for name in NAMES if name != "random_init"][:variants]
    single = rng().normal(94, 0.6, (20, len(values))) if baseline else None
    said = [[VERDICTS[(v + k) % 3] if verdicts else None for k in range(len(values))] for v in range(variants)]
    return figures.sweep(values, *differences(variants, len(values)), names, "level of the noises", single, said)


def noisy(variants: int) -> np.ndarray:
    return np.column_stack([rng().normal(94, 0.3, variants), rng().normal(80, 5, (variants, 6))])


CASES: dict[str, Callable[[], Figure]] = {
    **{
        f"accuracy of {v} variants, {r} repeats": lambda v=v, r=r: by_variant(accuracies(v, r, r // 6), NAMES[:v])
        for v, r in ((8, 20), (9, 1), (41, 20))
    },
    "accuracy of 9 variants with NaN": lambda: by_variant(with_nan(accuracies(9, 6, 2)), NAMES[:9]),
    "curves of 9 variants": lambda: figures.learning_curves(with_nan(curves(9, 3)), STEPS, NAMES[:9]),
    "curves of 41 variants": lambda: figures.learning_curves(curves(41, 20), STEPS, NAMES[:41]),
    "kept of 41 variants and 40 filters": lambda: figures.kept_similarity(
        with_nan(rng().beta(9, 2, (41, 2, 40))), NAMES[:41], each_filter(MANY), LONG[2]
    ),
    "forest of 1 variant": lambda: forest(1),
    "forest of 4 variants with NaN": lambda: forest(4, missing=True),
    "forest of 41 variants": lambda: forest(41),
    "diagnosis of 1 variant": lambda: diagnosis(1, 1),
    "diagnosis of 9 variants": lambda: diagnosis(9, 20, 23),
    "diagnosis with NaN": lambda: figures.collapse_diagnosis(
        with_nan(accuracies(9, 4, 2)), np.full((9, 4), 3), NAMES[:9]
    ),
    "gradients of 1 variant at 1 step": lambda: figures.gradient_norms(norms(1, 1, 1), NAMES[:1], LAYERS[:1]),
    "gradients of 3 layers with 0 and NaN": lambda: figures.gradient_norms(
        with_nan(norms(9, layers=3).round(1)), NAMES[:9], LAYERS[:3]
    ),
    "steps to reach, 1 variant": lambda: reach(*reached(1, 1, 1), [90], NAMES[:1]),
    "steps to reach, 4 long names": lambda: reach(*reached(4, 20), [80, 90, 92], LONG),
    "steps to reach, 41 variants": lambda: reach(*reached(41, 20), [80, 90, 92], NAMES[:41]),
    "steps to reach, never": lambda: reach(np.full((3, 4, 20), 12.0), np.zeros((3, 4, 20), bool), [80, 90, 92], LONG),
    "steps to reach, one of three": lambda: reach(
        reached(4, 20)[0], reached(4, 20)[1] & (np.arange(3) == 1)[:, None, None], [80, 90, 92], LONG
    ),
    "steps to reach, 9 variants": lambda: reach(*reached(9, 5, 2), [92.5, 93], NAMES[:9]),
    "sweep of 1 value": lambda: swept(1, [1.0], baseline=False),
    "sweep of 5 levels": lambda: swept(4, [0, 0.5, 1, 1.5, 2]),
    "sweep of 33 variants with verdicts": lambda: swept(33, [0, 0.5, 1, 1.5, 2], verdicts=True),
    "sweep over names": lambda: swept(41, ["none", "filters", "network"]),
    "test sets, 1 variant": lambda: figures.noise_test_accuracy(noisy(1), ["cosine"], NOISES),
    "test sets, 4 variants": lambda: figures.noise_test_accuracy(noisy(4), NAMES[:4], NOISES),
    "test sets, 12 variants": lambda: figures.noise_test_accuracy(with_nan(noisy(12)), NAMES[:12], NOISES),
    "layers": lambda: figures.layer_similarity(
        rng().normal(size=(3, 4, 30)), with_nan(rng().normal(size=(3, 4, 20))), ["cka", LONG[2], "x"], LAYERS
    ),
    "layers by 1 measure": lambda: figures.layer_similarity(*rng().normal(size=(2, 1, 2, 1)), ["cka"], LAYERS[:2]),
    "null of 10 filters": lambda: figures.scores_against_null(
        *rng().beta(5, 3, (2, 10, 30)), each_filter(FILTERS), "cosine"
    ),
    "null of 40 filters with NaN": lambda: figures.scores_against_null(
        with_nan(rng().beta(5, 3, (40, 3))), rng().beta(5, 3, (40, 9)), each_filter(MANY), LONG[2]
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_every_figure_is_legible(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_legible(CASES[case], monkeypatch)


def heights(ax: Axes) -> np.ndarray:
    return points(ax)[:, 1]


def row_names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_of_many_curves_the_published_and_the_best_have_names_and_the_others_are_grey() -> None:
    accuracy = curves(33, 5)
    accuracy[[20, 25], :, -1] += 3
    figure = figures.learning_curves(accuracy, STEPS, NAMES[:33])
    ax = figure.axes[0]
    labels = {text.replace("\n", "").rsplit(" ", 1)[0] for text in texts(ax)}
    assert {"random_init", "cosine", "pearson", "frobenius", NAMES[20], NAMES[25]} <= labels
    others = next(c for c in ax.collections if isinstance(c, LineCollection))
    assert to_hex(others.get_color()[0]) == colours.FAINT
    medians = np.median(accuracy, 1)
    drawn = {tuple(line[:, 1]) for line in others.get_segments()}
    assert len(drawn) == 25 and drawn < {tuple(row) for row in medians}
    assert "8 of 33" in figure.get_suptitle()


def test_highlighted_are_all_of_few_and_the_worthiest_of_many() -> None:
    assert list(colours.highlighted(NAMES[:8], np.full(8, np.nan))) == list(range(8))
    worth = np.arange(75.0)
    worth[70] = np.nan
    expected = {"random_init", "cosine", "pearson", "frobenius", "random_donor", *(NAMES[v] for v in (72, 73, 74))}
    highlights = colours.highlighted(NAMES, worth)
    assert {NAMES[v] for v in highlights} == expected
    looks = highlights.values()
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 8


def test_the_forest_prints_every_number_and_shows_verdicts_by_shape() -> None:
    mean, low, high = np.array([0.5, -0.4, 0.1]), np.array([0.2, -0.6, -0.2]), np.array([0.8, -0.2, 0.4])
    collapsed = np.array([0, 3, 1])
    figure = figures.difference_forest(mean, low, high, VERDICTS, list("abc"), collapsed=collapsed, repeats=20)
    ax = figure.axes[0]
    assert row_names(ax) == ["a", "b", "c"]
    assert texts(ax) == [
        "mean [95 % interval]",
        "+0.50 [+0.20, +0.80]",
        "−0.40 [−0.60, −0.20]",
        "+0.10 [−0.20, +0.40]",
        "collapsed",
        "0 of 20",
        "3 of 20",
        "1 of 20",
    ]
    np.testing.assert_allclose(points(ax), np.column_stack([mean, range(3)]))
    bars = [line.get_xdata() for line in ax.lines if len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(bars, np.column_stack([low, high]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"{verdict} (1)" for verdict in VERDICTS]
    looks = colours.VERDICT_LOOKS.values()
    assert len({look.marker for look in looks}) == 3
    grey = sorted(np.dot(matplotlib.colors.to_rgb(look.colour), [0.2126, 0.7152, 0.0722]) for look in looks)
    assert np.diff(grey).min() > 0.2


def test_what_lies_far_off_stands_in_a_shaded_strip_of_the_forest() -> None:
    mean = np.array([*np.linspace(-0.4, 0.4, 15), -30.0])
    verdicts = ["not distinguishable"] * 15 + ["lower"]
    names, none = NAMES[2:18], {"collapsed": np.zeros(16, int), "repeats": 20}
    ax = figures.difference_forest(mean, mean - 0.3, mean + 0.3, verdicts, names, **none).axes[0]
    left, right = ax.get_xlim()
    assert -1 < left < -0.7 and 0.7 < right < 1
    assert "shaded" in ax.get_xlabel()
    far = points(ax)[points(ax)[:, 1] == 15]
    assert (far[:, 0] < -0.7).all() and (far[:, 0] >= left).all()
    assert "−30.00 [−30.30, −29.70]" in texts(ax)
    mean[15] = 0
    near = figures.difference_forest(mean, mean, mean, verdicts, names, **none).axes[0]
    assert "shaded" not in near.get_xlabel()


def test_collapses_are_counted_for_every_number_of_dead_channels() -> None:
    accuracy = np.array([[94.0, 11.35, 93.0], [94.5, 11.35, np.nan]])
    dead = np.array([[0, 2, 2], [0, 2, 2]])
    figure = figures.collapse_diagnosis(accuracy, dead, ["random_init", "cosine"])
    top, ax = figure.axes
    assert texts(top)[:2] == ["0/\n2", "2/\n3"]
    np.testing.assert_allclose(points(top), [[0, 0], [2, 200 / 3]])
    low, high = stats.binomtest(2, 3).proportion_ci(method="wilson")
    bar = [c for c in top.collections if isinstance(c, LineCollection)][1].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [100 * low, 100 * high])
    drawn = points(ax)
    np.testing.assert_array_equal(np.ma.filled(drawn[:, 1], np.nan), accuracy.ravel())
    assert np.abs(drawn[:, 0] - dead.ravel()).max() < 0.5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["random_init (1 of 3)", "cosine (1 of 2)"]
    assert "2 of 5 networks" in figure.get_suptitle()


def test_many_dead_channels_are_counted_in_bins() -> None:
    dead = np.arange(23)[None]
    top, ax = figures.collapse_diagnosis(np.full((1, 23), 94.0), dead, ["cosine"]).axes
    assert texts(top)[:-1] == ["0/\n2"] * 11 + ["0/\n1"]
    assert [label.get_text() for label in ax.get_xticklabels()][:2] == ["0–1", "2–3"]


def test_gradient_norms_are_drawn_per_layer_and_zeros_at_the_bottom() -> None:
    values = norms(4, 6, 2)
    values[2, :, 1] = 0
    first, second = figures.gradient_norms(values, NAMES[:4], LAYERS[:2]).axes
    np.testing.assert_array_equal([line.get_ydata() for line in first.lines], values[:, :, 0])
    np.testing.assert_array_equal(first.lines[0].get_xdata(), range(1, 7))
    assert first.get_yscale() == "log" and texts(first) == [] and texts(second) == ["norm 0"]
    floor = second.lines[2].get_ydata()
    assert (floor > second.get_ylim()[0]).all() and (floor < values[[0, 1, 3], :, 1].min()).all()


def test_norms_of_zero_are_among_the_highlighted() -> None:
    values = norms(33)
    values[30, :, 2] = 0
    figure = figures.gradient_norms(values, NAMES[:33], LAYERS)
    assert wording.shortened(NAMES[30], 28) in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "25 other variants" in figure.get_suptitle()


def test_without_censoring_the_curve_is_the_share_of_repeats() -> None:
    steps = np.array([[[30.0, 100.0, 10.0, 300.0]]])
    ax = reach(steps, np.ones((1, 1, 4), bool), [90], ["cosine"]).axes[0]
    x, share = ax.lines[0].get_data()
    np.testing.assert_allclose(x[1:5], [10, 30, 100, 300])
    np.testing.assert_allclose(share, [0, 25, 50, 75, 100, 100])
    assert "cosine 4" in texts(ax)


def test_censored_repeats_leave_the_risk_set_as_kaplan_and_meier_say() -> None:
    steps = np.array([[[10.0, 20.0, 30.0, 40.0]]])
    reached = np.array([[[True, False, True, False]]])
    ax = reach(steps, reached, [90], ["cosine"]).axes[0]
    x, share = ax.lines[0].get_data()
    np.testing.assert_allclose(x[1:], [10, 20, 30, 40])
    np.testing.assert_allclose(share, [0, 25, 25, 62.5, 62.5])
    np.testing.assert_allclose([tuple(p) for p in points(ax)[-2:]], [(20, 25), (40, 62.5)])
    assert "cosine 2" in texts(ax)


def test_of_many_variants_those_that_reach_most_in_the_shortest_time_are_named() -> None:
    steps = np.full((1, 14, 4), 500.0)
    reached = np.ones((1, 14, 4), bool)
    steps[0, 11], steps[0, 12], steps[0, 10] = 100, 200, 938
    reached[0, 10], steps[0, 9] = False, 900
    figure = reach(steps, reached, [90], NAMES[:14])
    named = [text.rsplit(" ", 1)[0] for text in texts(figure.axes[0])]
    assert {NAMES[11], NAMES[12], "random_donor", "random_init"} <= set(named) and len(named) == 8
    assert not {NAMES[10], NAMES[9]} & set(named) and "6 other variants" in figure.get_suptitle()


def test_an_accuracy_reached_before_the_first_batch_is_drawn_left_of_the_break() -> None:
    steps = np.array([[[0.0, 0.0, 30.0, 100.0]]])
    ax = reach(steps, np.ones((1, 1, 4), bool), [80], ["full_donor"]).axes[0]
    x, share = ax.lines[0].get_data()
    assert 0 < x[1] < 30 and share[1] == 50
    assert ax.get_xticklabels()[0].get_text() == "0"


def test_an_accuracy_that_nobody_reaches_gets_a_sentence_instead_of_a_panel() -> None:
    steps = np.full((3, 2, 4), 100.0)
    reached = np.zeros((3, 2, 4), bool)
    reached[1, 0, 2] = True
    figure = reach(steps, reached, [80, 90, 92], ["cosine", "pearson"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["at least 90 % accuracy"]
    assert figure.axes[0].get_xlabel() and "cosine 1" in texts(figure.axes[0])
    assert figure.get_suptitle().endswith("No repeat of any variant has reached 80 % or 92 %.")
    nothing = reach(steps, reached & False, [80, 90, 92], ["cosine", "pearson"])
    said = "No repeat of any variant has reached an accuracy of 80 % or 90 % or 92 %."
    assert not nothing.axes and [text.get_text() for text in nothing.texts if text.get_text()] == [said]


def test_a_sweep_draws_means_and_intervals_at_their_values_in_their_order() -> None:
    mean, low, high = np.array([[0.1, 0.3, 0.2]]), np.array([[0.0, 0.1, np.nan]]), np.array([[0.2, 0.5, np.nan]])
    baseline = np.array([[94.0, 92.0, 93.0], [95.0, 93.0, np.nan]])
    above, ax = figures.sweep([0, 2, 0.5], mean, low, high, ["cosine"], "level", baseline, [[None] * 3]).axes
    x, y = ax.lines[1].get_data()
    np.testing.assert_allclose(x, [0, 0.5, 2])
    np.testing.assert_allclose(y, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(above.lines[0].get_ydata(), [94.5, 93.0, 92.5])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.5", "2"]
    assert "cosine +0.30" in texts(ax) and ax.get_xlabel() == "level"
    mean[0, 1] = np.nan
    assert "cosine +0.20" in texts(
        figures.sweep([0, 2, 0.5], mean, low, high, ["cosine"], "level", None, [[None] * 3]).axes[0]
    )
    named = figures.sweep(
        ["b", "a"], mean[:, :2], low[:, :2], high[:, :2], ["cosine"], "align", None, [[None] * 2]
    ).axes[0]
    assert [label.get_text() for label in named.get_xticklabels()] == ["b", "a"]


def test_a_sweep_names_the_variants_that_differ_most_whatever_the_sign_and_random_donor() -> None:
    names = [name for name in NAMES if name != "random_init"][:14]
    mean = np.full((14, 3), 0.1)
    mean[13], mean[12, 1], mean[11] = -0.2, -0.3, np.nan
    mean[names.index("random_donor")] = 0
    ax = figures.sweep([0, 1, 2], mean, mean - 0.1, mean + 0.1, names, "level", None, [[None] * 3] * 14).axes[0]
    said = "\n".join(texts(ax)).replace("\n", "")
    assert all(names[v] in said for v in (12, 13)) and "random_donor" in said and names[11] not in said


def test_a_sweep_fills_the_markers_of_what_is_distinguishable_only() -> None:
    mean = np.array([[0.1, -0.3, 0.2], [0.5, np.nan, 0.0]])
    verdicts = [["not distinguishable", "lower", "higher"], ["higher", None, "not distinguishable"]]
    figure = figures.sweep([0, 2, 1], mean, mean - 0.1, mean + 0.1, ["cosine", "pearson"], "level", None, verdicts)
    filled = [
        line
        for line in figure.axes[0].lines
        if line.get_linestyle() == "None" and line.get_transform() == (figure.axes[0].transData)
    ]
    np.testing.assert_allclose([line.get_ydata() for line in filled if len(line.get_ydata()) == 2], [[0.2, -0.3]])
    np.testing.assert_allclose([line.get_ydata() for line in filled if len(line.get_ydata()) == 1], [[0.5]])
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    np.testing.assert_allclose([line.get_ydata() for line in hollow], mean[:, [0, 2, 1]])
    assert "filled: distinguishable after correction, 3 of 5; hollow: not" in figure.get_suptitle()
    without = figures.sweep([0, 2, 1], mean, mean, mean, ["cosine", "pearson"], "level", None, [[None] * 3] * 2)
    assert "filled" not in without.get_suptitle()


def test_a_sweep_ends_its_axis_before_collapsed_variants_and_says_so() -> None:
    mean = np.tile(np.linspace(-0.3, 0.3, 6)[:, None], 4)
    mean[0, 2] = -40
    ax = figures.sweep([0, 1, 2, 3], mean, mean - 0.2, mean + 0.2, NAMES[2:8], "level", None, [[None] * 4] * 6).axes[0]
    assert ax.get_ylim()[0] > -1
    assert "arrows" in ax.get_ylabel()
    x = ax.lines[1].get_xdata()[2]
    down = next(c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets()))
    np.testing.assert_allclose(down.get_offsets(), [[x, 0.025]])


def test_accuracies_on_noise_print_both_numbers_with_random_init_first() -> None:
    accuracy = np.array([[94.0, 80.0, 70.04], [93.5, 92.0, 70.0]])
    both = figures.noise_test_accuracy(accuracy, ["cosine", "random_init"], NOISES[:2]).axes[:2]
    assert row_names(both[0]) == ["random_init", "cosine"]
    assert texts(both[0]) == ["93.5", "92.0", "70.0", "94.0", "80.0", "70.0"]
    assert texts(both[1]) == ["0.0", "0.0", "0.0", "+0.5", "−12", "0.0"]
    np.testing.assert_allclose(both[1].images[0].get_array(), [[0, 0, 0], [0.5, -12, 0.04]])
    single = figures.noise_test_accuracy(accuracy, ["cosine", "pearson"], NOISES[:2])
    assert sum(len(ax.images) > 0 for ax in single.axes) == 1


def test_layers_show_mean_and_deviation_beside_the_null_and_count_what_has_no_value() -> None:
    scores, null = rng().normal(size=(2, 3, 20)), rng().normal(size=(2, 3, 10))
    scores[1, 0, :4] = np.nan
    first, second = figures.layer_similarity(scores, null, ["cka", "procrustes"], LAYERS[:3]).axes
    np.testing.assert_allclose(heights(first), [*scores[0].mean(1), *null[0].mean(1)])
    np.testing.assert_allclose(heights(second)[0], scores[1, 0, 4:].mean())
    bars = [c.get_segments() for c in first.collections if isinstance(c, LineCollection)]
    deviation = scores[0].std(1, ddof=1)
    expected = np.column_stack([scores[0].mean(1) - deviation, scores[0].mean(1) + deviation])
    np.testing.assert_allclose(np.array(bars[0])[..., 1], expected)
    assert [ax.get_title() for ax in (first, second)] == [
        "cka",
        "procrustes\nwithout a value: 4 of 60, null 0 of 30",
    ]


@pytest.mark.parametrize("groups", [each_filter(FILTERS), [("a", slice(0, 4)), ("b", slice(4, 10))]])
def test_scores_and_their_null_are_drawn_as_quantiles(groups) -> None:
    scores, null = rng().beta(5, 3, (10, 40)), rng().beta(2, 3, (10, 30))
    ax = figures.scores_against_null(scores, null, groups, "cosine").axes[0]
    scores, null = ([x[at].ravel() for _, at in groups] for x in (scores, null))
    np.testing.assert_allclose(heights(ax), [*map(np.median, scores), *map(np.median, null)])
    bars = [np.array(c.get_segments())[..., 1].T for c in ax.collections if isinstance(c, LineCollection)]
    for values, (outer, inner) in zip((scores, null), (bars[:2], bars[2:]), strict=True):
        np.testing.assert_allclose(outer.T, [np.quantile(each, (0.05, 0.95)) for each in values])
        np.testing.assert_allclose(inner.T, [np.quantile(each, (0.25, 0.75)) for each in values])


def test_the_fence_leaves_out_few_far_values_only() -> None:
    near = np.linspace(-1, 1, 40)
    assert scales.fence(np.array([*near, -40, np.nan])) == (-1, 1)
    assert scales.fence(np.array([*near, -2])) == (-2, 1)
    assert scales.fence(np.full(3, np.nan)) == (-1, 1)
    assert scales.fence(np.zeros(4)) == (0, 0)


def test_names_of_rows_stay_different() -> None:
    names = ["a" * 20 + "1" + "b" * 20, "a" * 20 + "2" + "b" * 20, "cosine"]
    short = wording.row_names(names, 12)
    assert len(set(short)) == 3 and short[2] == "cosine"
    assert [wording.shortened(n, 5) for n in ("abcde", "abcdef")] == ["abcde", "ab…ef"]


def an_svg(salt: str) -> str:
    files = drawn(lambda: by_variant(accuracies(2, 5, 2), NAMES[:2]), "svg")
    return inline(files["svg"].decode(), salt, "A & B", "all of <it>")


def test_an_svg_is_one_element_with_a_text_alternative_and_its_width_from_the_page() -> None:
    svg = an_svg("fig1")
    root = ET.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert svg.startswith("<svg ") and root.tag == f"{space}svg"
    assert root.get("role") == "img" and root.get("width") == "100%" and root.get("height") is None
    assert root.get("viewBox") == "0 0 518.4 132.48"
    assert [(e.tag.removeprefix(space), e.text) for e in root[:2]] == [("title", "A & B"), ("desc", "all of <it>")]
    assert (root.get("aria-labelledby"), root.get("aria-describedby")) == (root[0].get("id"), root[1].get("id"))
    words = " ".join(text.text or "" for text in root.iter(f"{space}text"))
    assert "random_" in words and "test accuracy (%)" in words
    assert {"metadata", "style"}.isdisjoint(e.tag.removeprefix(space) for e in root.iter())


def test_two_svgs_of_one_page_share_no_id_and_refer_to_their_own() -> None:
    ids = []
    for salt in ("kept_gross", "kept_groß"):
        svg = an_svg(salt)
        own = re.findall(r'\bid="([^"]+)"', svg)
        refers = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert len(own) == len(set(own))
        assert refers and refers < set(own)
        assert any("clip-path" in line for line in svg.splitlines())
        ids += own
    assert len(ids) == len(set(ids))


def test_an_svg_is_the_same_each_time_in_any_thread_and_leaves_the_settings() -> None:
    before = matplotlib.rcParams.copy()
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(an_svg, ["same"] * 2))) == 1
    assert matplotlib.rcParams.copy() == before
