import io
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from cnnsim_tf import figures
from cnnsim_tf.figures import drawing, scales, wording
from cnnsim_tf.filters import each_filter
from cnnsim_tf.statistics import mean_interval

NOISES = ["perspective", "blur", "gaussian", "erasing", "elastic", "rotation"]
MEASURES = ["cosine", "pearson", "frobenius"]
VARIANTS = ["random_init", *MEASURES]
LONG = ["random_init", "my.module:measure", "another.package.measures:centred_kernel_alignment+permuted", "cosine+all"]
FILTERS = ["conv1[out 0]", "conv1[out 1]", *(f"conv2[out {o}][in {i}]" for o in range(4) for i in range(2))]
MANY = [f"conv3[out {o}][in {i}]" for o in range(8) for i in range(5)]
OF_LAYERS = [("conv1, 24 filters", slice(0, 24)), ("conv2, 676 filters", slice(24, 700))]
PAIRS = [f"{i}-{j}" for i, j in combinations(range(1, 7), 2)]
STEPS = np.array([0, 1, 3, 10, 30, 100, 300, 600, 938])


settled = drawing.settled


@pytest.fixture(autouse=True)
def not_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the layout, half of a figure's time, where a test only asks what is drawn."""
    monkeypatch.setattr(drawing, "settled", lambda figure: figure)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def images(donors: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    clean = rng().uniform(-1, 1, (donors, examples, 28, 28))
    return clean, clean + rng().normal(0, 0.5, clean.shape)


def accuracies(variants: int, repeats: int, collapsed: int = 0) -> np.ndarray:
    values = rng().normal(94.2, 0.6, (variants, repeats))
    values[-1, :collapsed] = 11.35
    return values


def by_variant(accuracy: np.ndarray, names: list[str]) -> Figure:
    return figures.accuracy_by_variant(accuracy, *mean_interval(accuracy), names)


def curves(variants: int, repeats: int) -> np.ndarray:
    rise = 94 - 84 * np.exp(-((STEPS / 80) ** 0.6))
    return rise + rng().normal(0, 0.6, (variants, repeats, len(STEPS)))


def counts(measures: int, donors: int) -> np.ndarray:
    return np.triu(rng().poisson(13, (measures, donors, donors)), 1)


def kernels(rows: int, filters: int, side: int = 3) -> np.ndarray:
    return rng().uniform(-0.6, 0.6, (rows, filters, side, side))


def pair(measure: str, score: float, side: int = 3) -> figures.FilterPair:
    a, b = rng().uniform(-1, 1, (2, side, side))
    return figures.FilterPair(measure, score, (a, b), "repeat 3, conv2[out 1][in 0], donors 1 and 5")


def with_nan(values: np.ndarray) -> np.ndarray:
    """Return the values with a tenth of them, all of the first row and the very last one missing."""
    values = values.astype(float)
    values[rng().random(values.shape) < 0.1] = np.nan
    values[0] = np.nan
    values.flat[-1] = np.nan
    return values


CASES: dict[str, Callable[[], Figure]] = {
    "noise examples": lambda: figures.noise_examples(*images(6, 6), NOISES, 1.0),
    "noise examples of 3 donors": lambda: figures.noise_examples(*images(3, 2), NOISES[:3], 0.5),
    "noise examples of colours": lambda: figures.noise_examples(
        *(np.stack([x, -x, x / 2], -1) for x in images(6, 6)), NOISES, 1.0
    ),
    "noise examples with NaN": lambda: figures.noise_examples(
        with_nan(images(2, 2)[0]), images(2, 2)[1], NOISES[:2], 0
    ),
    "filters of donors": lambda: figures.filter_grid(kernels(6, 10), FILTERS, NOISES, "Filters of the donors"),
    "filters before and after": lambda: figures.filter_grid(kernels(2, 10), FILTERS, ["initial", "final"], "Cosine", 1),
    "one filter": lambda: figures.filter_grid(kernels(1, 1, 1), ["conv1[out 0]"], LONG[2:3], "One"),
    "filters with NaN": lambda: figures.filter_grid(with_nan(kernels(2, 3)), FILTERS[:3], ["a", "b"], "Filters"),
    "40 filters": lambda: figures.filter_grid(kernels(1, 40), MANY, NOISES[:1], "Forty filters"),
    "donor accuracy": lambda: figures.donor_accuracy(rng().normal(88, 4, (5, 6, 7)), NOISES, NOISES),
    "donor accuracy of 3 in 1 repeat": lambda: figures.donor_accuracy(
        rng().normal(88, 4, (1, 3, 4)), ["a", "models:/b/2", "c"], NOISES[:3]
    ),
    "donor accuracy with NaN": lambda: figures.donor_accuracy(
        with_nan(rng().normal(88, 4, (2, 6, 7))), *[LONG + NOISES[:2]] * 2
    ),
    "scores of 40 filters": lambda: figures.score_heatmap(
        rng().normal(0, 9, (1, 40, 3)), LONG[2], each_filter(MANY), PAIRS[:3], False
    ),
    "scores of layers": lambda: figures.score_heatmap(
        rng().normal(0, 9, (2, 700, 15)), "cosine", OF_LAYERS, PAIRS, False
    ),
    "scores, NaN only": lambda: figures.score_heatmap(
        np.full((2, 3, 3), np.nan), "x", each_filter(FILTERS[:3]), PAIRS[:3], True
    ),
    "scores of 45 pairs": lambda: figures.score_heatmap(
        rng().normal(0, 1, (2, 3, 45)),
        "x",
        each_filter(FILTERS[:3]),
        [f"{i}-{j}" for i, j in combinations(range(1, 11), 2)],
        True,
    ),
    "extreme pairs": lambda: figures.extreme_pairs([pair(m, 0.99) for m in MEASURES], [pair(m, 0) for m in MEASURES]),
    "extreme pair of a long name": lambda: figures.extreme_pairs([pair(LONG[2], 1, 5)], [pair(LONG[2], np.nan, 7)]),
    "pair counts of 5 measures": lambda: figures.pair_counts(100 * counts(5, 6), MEASURES + LONG[1:3], NOISES),
    "pair counts of 3 donors": lambda: figures.pair_counts(counts(1, 3), MEASURES[:1], NOISES[:3]),
    "pair counts with NaN": lambda: figures.pair_counts(with_nan(counts(2, 6)), MEASURES[:2], NOISES),
    "accuracy": lambda: by_variant(accuracies(4, 20), VARIANTS),
    "accuracy with collapsed repeats": lambda: by_variant(accuracies(4, 20, 2), VARIANTS),
    "accuracy of 1 repeat": lambda: by_variant(accuracies(4, 1), VARIANTS),
    "accuracy of 1 variant": lambda: by_variant(accuracies(1, 5, 1), VARIANTS[:1]),
    "accuracy of long names": lambda: by_variant(accuracies(4, 300, 5), LONG),
    "accuracy with NaN": lambda: by_variant(with_nan(accuracies(4, 6, 2)), VARIANTS),
    "learning curves": lambda: figures.learning_curves(curves(4, 20), STEPS, VARIANTS),
    "learning curve of 1 repeat": lambda: figures.learning_curves(curves(1, 1)[:, :, :1], STEPS[:1], VARIANTS[:1]),
    "learning curves with NaN": lambda: figures.learning_curves(with_nan(curves(4, 3)), STEPS, VARIANTS),
    "kept": lambda: figures.kept_similarity(rng().beta(9, 2, (4, 20, 10)), VARIANTS, each_filter(FILTERS), "pearson"),
    "kept of 40 filters": lambda: figures.kept_similarity(
        rng().beta(9, 2, (4, 5, 40)), LONG, each_filter(MANY), LONG[2]
    ),
    "kept of layers": lambda: figures.kept_similarity(rng().beta(9, 2, (4, 5, 700)), LONG, OF_LAYERS, LONG[2]),
    "kept with NaN": lambda: figures.kept_similarity(
        with_nan(rng().beta(9, 2, (4, 3, 10))), VARIANTS, each_filter(FILTERS), "x"
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_every_figure_is_legible(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_legible(CASES[case], monkeypatch)


def assert_legible(make: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a figure's texts are large enough, within the canvas, and do not overlap."""
    drawn: dict[Text, tuple] = {}
    draw = Text.draw

    def draw_and_note(text: Text, renderer: object) -> None:
        draw(text, renderer)
        if text.get_visible() and text.get_text().strip():
            drawn[text] = (*text.get_window_extent(renderer).extents, text.get_fontsize())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setattr(drawing, "settled", settled)
            figure = make()
            patch.setattr(Text, "draw", draw_and_note)
            figure.draw_without_rendering()  # as printed, but for the pixels
    assert figure.dpi == 150
    assert figure.get_figwidth() <= 7.2
    assert min(size for *_, size in drawn.values()) >= 8
    width, height = figure.get_size_inches() * 150
    for text, (left, bottom, right, top, _) in drawn.items():
        inside = left > -1 and bottom > -1 and right < width + 1 and top < height + 1
        assert inside, f"{text.get_text()!r} is cut off"
    boxes, names = np.array(list(drawn.values())), [text.get_text() for text in drawn]
    across, along = (
        np.minimum(boxes[:, None, i + 2], boxes[:, i + 2]) - np.maximum(boxes[:, None, i], boxes[:, i]) for i in (0, 1)
    )
    overlaps = np.argwhere(np.triu((across >= 1.5) & (along >= 1.5), 1))
    assert not len(overlaps), [f"{names[a]!r} overlaps {names[b]!r}" for a, b in overlaps.tolist()]


def as_png(figure: Figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


@pytest.mark.parametrize(
    "case", ["noise examples of 3 donors", "filters with NaN", "pair counts of 3 donors", "accuracy"]
)
@pytest.mark.slow
def test_a_figure_drawn_or_saved_twice_is_the_same_to_the_byte(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "settled", settled)
    figure = CASES[case]()
    png = as_png(figure)
    assert png.startswith(b"\x89PNG") and len(png) > 5000
    assert as_png(figure) == png
    assert as_png(CASES[case]()) == png


def test_figures_can_be_drawn_in_threads() -> None:
    with ThreadPoolExecutor(2) as pool:
        pngs = set(pool.map(lambda _: as_png(CASES["accuracy with collapsed repeats"]()), range(2)))
    assert len(pngs) == 1


def test_figures_need_no_pyplot_and_no_settings() -> None:
    before = matplotlib.rcParams.copy()
    as_png(CASES["accuracy of 1 variant"]())
    assert matplotlib.rcParams.copy() == before
    sources = [path.read_text() for path in Path(figures.__file__).parent.glob("*.py")]
    assert not [line for text in sources for line in text.splitlines() if re.search(r"import.*pyplot|rcParams\[", line)]


def shown(ax: Axes) -> np.ndarray:
    """Return the array of the heat map on the axes, NaN where it is blank."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def points(ax: Axes) -> np.ndarray:
    """Return [n, 2] of all markers on the axes."""
    return np.ma.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])


def tile(ax: Axes, r: int, c: int, side: int) -> np.ndarray:
    """What is drawn in the middles of the cells of a small image, [side, side] float32."""
    pixels, (left, right, bottom, top) = shown(ax), ax.images[0].get_extent()
    x, y = drawing.cell_centres(np.empty((side, side)), r, c)
    rows, columns = (y - top) / (bottom - top) * len(pixels), (x - left) / (right - left) * pixels.shape[1]
    return pixels[rows.astype(int), columns.astype(int)]


def test_noise_examples_show_all_images_clipped_to_the_common_range() -> None:
    clean, noised = images(6, 4)
    axes = figures.noise_examples(clean, noised, NOISES, 1.0).axes
    assert [ax.get_title() for ax in axes] == [f"{i} {name}" for i, name in enumerate(NOISES, 1)]
    for donor, ax in enumerate(axes):
        expected = np.clip(np.concatenate([clean[donor], noised[donor]]), -1, 1)
        drawn = [tile(ax, r, c, expected.shape[-1]) for r in range(2) for c in range(4)]
        np.testing.assert_array_equal(drawn, expected.astype(np.float32))
        assert ax.images[0].get_clim() == (-1, 1)


def test_noise_examples_of_colours_show_red_green_and_blue_on_the_same_scale() -> None:
    clean, noised = (np.stack([x, -x, x / 2], -1) for x in images(6, 4))
    for donor, ax in enumerate(figures.noise_examples(clean, noised, NOISES, 1.0).axes):
        expected = (np.clip(np.concatenate([clean[donor], noised[donor]]), -1, 1) + 1) / 2
        drawn = np.array([tile(ax, r, c, clean.shape[2]) for r in range(2) for c in range(4)])
        np.testing.assert_allclose(drawn[..., :3], expected, atol=1e-6)
        assert (drawn[..., 3] == 1).all() and (shown(ax)[..., 3] == 0).any()  # between the images nothing is drawn


def test_filter_grid_shows_every_filter_once_with_zero_in_the_middle() -> None:
    values = kernels(3, 40)
    *blocks, bar = figures.filter_grid(values, MANY, NOISES[:3], "Filters").axes
    drawn = [tile(block, r, c, 3) for block in blocks for r in range(3) for c in range(20)]
    in_order = np.concatenate([half.reshape(-1, 3, 3) for half in (values[:, :20], values[:, 20:])])
    np.testing.assert_array_equal(drawn, in_order.astype(np.float32))
    assert {block.images[0].get_clim() for block in blocks} == {(-np.abs(values).max(), np.abs(values).max())}
    assert bar.get_ylabel().startswith("weight")
    names = [label.get_text() for block in blocks for label in block.get_xticklabels()]
    assert names == MANY


def test_filter_grid_marks_exactly_the_negative_weights_and_obeys_the_limit() -> None:
    values = [[np.array([[1.0, -2.0], [0.0, np.nan]]), -np.ones((3, 3)), np.arange(41.0 * 41).reshape(41, 41)]]
    ax = figures.filter_grid(values, FILTERS[:3], ["initial"], "Filters", limit=5).axes[0]
    for c, kernel in enumerate(values[0]):
        np.testing.assert_array_equal(tile(ax, 0, c, len(kernel)), kernel)
    marks = points(ax)
    assert len(marks) == 1 + 9
    assert 0.5 < marks[0][0] < 1 and 0 < marks[0][1] < 0.5  # the upper right cell of the first filter
    assert {image.get_clim() for image in ax.images} == {(-5, 5)}


def test_donor_accuracy_prints_means_and_standard_deviations() -> None:
    accuracy = rng().normal(88, 4, (5, 6, 7))
    ax = figures.donor_accuracy(accuracy, NOISES, NOISES).axes[0]
    np.testing.assert_allclose(shown(ax), accuracy.mean(0))
    mean_sd = zip(accuracy.mean(0).ravel(), accuracy.std(0, ddof=1).ravel(), strict=True)
    assert texts(ax) == [f"{mean:.1f}\n± {sd:.1f}" for mean, sd in mean_sd]
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{i} {name}" for i, name in enumerate(NOISES, 1)]
    assert ax.get_xticklabels()[0].get_text() == "clean"
    single = figures.donor_accuracy(accuracy[:1], NOISES, NOISES).axes[0]
    assert texts(single) == [f"{mean:.1f}" for mean in accuracy[0].ravel()]


def test_missing_values_are_left_out_of_means_and_drawn_blank() -> None:
    accuracy = np.array([[[90.0, np.nan, np.nan], [1.0, 2.0, 3.0]], [[80.0, 70.0, np.nan], [1.0, 2.0, 3.0]]])
    ax = figures.donor_accuracy(accuracy, NOISES[:2], NOISES[:2]).axes[0]
    np.testing.assert_array_equal(shown(ax), [[85, 70, np.nan], [1, 2, 3]])
    assert len(texts(ax)) == 5


@pytest.mark.parametrize(("larger", "word", "lightest"), [(True, "larger", 1.0), (False, "smaller", 0.0)])
def test_scores_are_means_over_repeats_and_light_means_alike(larger: bool, word: str, lightest: float) -> None:
    scores = rng().beta(2, 3, (5, 10, 15))
    ax, bar = figures.score_heatmap(scores, "cosine", each_filter(FILTERS), PAIRS, larger).axes
    np.testing.assert_allclose(shown(ax), scores.mean(0))
    assert texts(ax) == [f"{value:.2f}" for value in scores.mean(0).ravel()]
    assert bar.get_xlabel() == f"mean cosine, {word} = more alike"
    assert np.sum(ax.images[0].cmap(lightest)[:3]) > np.sum(ax.images[0].cmap(1 - lightest)[:3])


def test_of_many_filters_the_means_of_their_layers_are_drawn() -> None:
    scores = rng().normal(0, 9, (2, 700, 15))
    ax = figures.score_heatmap(scores, "cosine", OF_LAYERS, PAIRS, False).axes[0]
    np.testing.assert_allclose(shown(ax), [scores[:, :24].mean((0, 1)), scores[:, 24:].mean((0, 1))])
    assert ax.get_ylabel() == "layer"
    kept = rng().beta(9, 2, (2, 5, 700))
    ax = figures.kept_similarity(kept, VARIANTS[:2], OF_LAYERS, "cosine").axes[0]
    assert ax.get_xlabel() == "layer"
    averages = [[v[:, :24].mean(), v[:, 24:].mean()] for v in kept]
    np.testing.assert_allclose(shown(ax), averages)
    assert any(t.get_text().startswith(f"{kept[0].mean():.3f} ±") for t in ax.texts)  # of all filters, not of layers


def test_scores_are_not_printed_where_they_do_not_fit() -> None:
    assert texts(CASES["scores of 45 pairs"]().axes[0]) == []


def test_extreme_pairs_print_all_weights_on_one_scale() -> None:
    most, least = [pair(m, 0.998) for m in MEASURES], [pair(m, -0.0001) for m in MEASURES]
    least[0].filters[0][0, 0] = -3.0
    least[2] = pair(MEASURES[2], np.nan)
    axes = figures.extreme_pairs(most, least).axes[:6]
    for ax, one, words in zip(axes[::2], most, ["most alike: 0.998"] * 3, strict=True):
        assert ax.get_title() == f"{one.measure}, {words}"
        assert ax.get_xlabel() == one.where
        expected = [f"{w:.2f}".replace("-", "\N{MINUS SIGN}") for f in one.filters for w in f.ravel()]
        assert texts(ax) == expected
    scores = ["0.000", "0.000", "–"]
    assert [ax.get_title() for ax in axes[1::2]] == [
        f"{m}, least alike: {s}" for m, s in zip(MEASURES, scores, strict=True)
    ]
    assert {image.get_clim() for ax in axes for image in ax.images} == {(-3, 3)}


def test_pair_counts_print_the_upper_triangle_and_frame_the_most_frequent_pair() -> None:
    values = counts(3, 6)
    values[:, 1, 4] = 99
    values += np.tril(np.full((6, 6), 1000))
    axes = figures.pair_counts(values, MEASURES, NOISES).axes[:3]
    upper = np.triu_indices(6, 1)
    for ax, measure, expected in zip(axes, MEASURES, values, strict=True):
        assert texts(ax) == [str(count) for count in expected[upper]]
        assert np.isnan(shown(ax)[np.tril_indices(6)]).all()
        assert ax.get_title() == f"{measure}\nmost often (2, 5)"
        assert [patch.get_xy() for patch in ax.patches] == [(3.5, 0.5)]
    assert {ax.images[0].get_clim() for ax in axes} == {(0, 99)}


def test_pair_counts_name_ties_and_what_chance_would_give() -> None:
    values = np.zeros((2, 3, 3), int)
    values[0, 0, 1:] = 6
    values[1] = np.triu(np.full((3, 3), 4), 1)
    figure = figures.pair_counts(values, MEASURES[:2], NOISES[:3])
    assert [ax.get_title().split("\n")[1] for ax in figure.axes[:2]] == ["most often (1, 2), (1, 3)", "3 pairs tie"]
    assert "4 each" in figure.get_suptitle().replace("\n", " ")


@pytest.mark.parametrize("count", [4, 9])
def test_a_row_has_every_repeat_its_mean_and_the_interval_in_words(count: int) -> None:
    names = ["cosine", "random_init", *(f"x:{i}" for i in range(count - 2))]
    accuracy = accuracies(count, 20, 3)
    low, high = accuracy.mean(1) - 1, accuracy.mean(1) + 0.5
    figure = figures.accuracy_by_variant(accuracy, low, high, names)
    ax, order = figure.axes[0], [1, 0, *range(2, count)]
    assert [label.get_text() for label in ax.get_yticklabels()] == [names[v] for v in order]
    at = points(ax).reshape(count, 21, 2)
    np.testing.assert_allclose(at[:, :20, 0], accuracy[order])
    assert np.abs(at[:, :20, 1] - np.arange(count)[:, None]).max() < 0.3
    assert all(len(np.unique(row)) == 20 for row in at[:, :20, 1])
    inside = ax.transAxes.inverted().transform(ax.transData.transform(at.reshape(-1, 2)))
    assert inside.min() > 0 and inside.max() < 1
    np.testing.assert_allclose(at[:, 20], np.column_stack([accuracy[order].mean(1), range(count)]))
    bars = [line.get_xdata() for line in ax.lines if len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(bars, np.column_stack([low, high])[order])
    numbers = zip(accuracy[order].mean(1), low[order], high[order], strict=True)
    assert texts(ax) == ["mean [95 % interval]", *(f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in numbers)]
    assert "dashed line: mean of random_init" in figure.get_suptitle()
    dashed = next(line for line in ax.lines if len(set(line.get_xdata())) == 1 and line.get_color() == "black")
    assert dashed.get_xdata()[0] == accuracy[1].mean()
    lines = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    assert len(lines) == (count <= 8)  # of few variants: one for each repeat
    for joined in lines:
        np.testing.assert_array_equal(np.array(joined)[..., 0], accuracy[order].T)
        np.testing.assert_array_equal(np.array(joined)[..., 1], at[:, :20, 1].T)


def test_a_variant_without_an_interval_has_its_mean_alone_and_one_repeat_no_lines() -> None:
    ax = figures.accuracy_by_variant(np.array([[94.0]]), np.array([np.nan]), np.array([np.nan]), ["cosine"]).axes[0]
    assert texts(ax) == ["accuracy", "94.00"]
    assert not [c for c in ax.collections if isinstance(c, LineCollection)] and not ax.lines


def test_the_compressed_axis_shows_differences_of_a_percent_and_arrows_for_what_leaves_it() -> None:
    accuracy = accuracies(4, 20, 2)
    far = accuracy.mean(1) + np.array([0.1, 0.1, 0.1, 15])
    ax = figures.accuracy_by_variant(accuracy, accuracy.mean(1) - 0.1, far, VARIANTS).axes[0]
    assert "compressed below" in ax.get_xlabel()
    (low, lower, higher), _ = (
        ax.transAxes.inverted().transform(ax.transData.transform([(11.35, 0), (94, 0), (95, 0)])).T
    )
    assert 0 < low < 0.25
    assert higher - lower > 0.1
    assert (ax.get_xlim()[1], 3) in [tuple(at) for at in points(ax)]
    assert texts(ax)[4].endswith(", 100.00]")  # no accuracy is above
    plain = by_variant(accuracies(4, 20), VARIANTS).axes[0]
    assert plain.get_xscale() == "linear" and plain.get_xlabel() == "test accuracy (%)"


def test_the_knee_lies_below_the_bulk_and_above_the_collapsed() -> None:
    assert scales.knee(np.array([11.35, 9.8, 94.0, 95.0, 94.5, 93.9, np.nan])) == 93
    assert scales.knee(np.array([11.35, 94.0])) == 93
    assert scales.knee(np.array([11.35, 60.0, *np.linspace(94, 95, 20)])) == 93


def test_learning_curves_show_medians_and_every_repeat_up_to_20() -> None:
    accuracy = curves(4, 20)
    ax = figures.learning_curves(accuracy, STEPS, VARIANTS).axes[0]
    for v in range(4):
        np.testing.assert_allclose(ax.lines[v].get_ydata(), np.median(accuracy[v], axis=0))
        assert to_hex(ax.lines[v].get_color()) == figures.variant_colour(VARIANTS[v], VARIANTS)
    thin = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    np.testing.assert_array_equal(np.array(thin)[..., 1], accuracy)
    more = figures.learning_curves(curves(4, 21), STEPS, VARIANTS).axes[0]
    assert not [c for c in more.collections if isinstance(c, LineCollection)]
    assert len({str(line.get_linestyle()) + line.get_marker() for line in ax.lines[:4]}) == 4


def test_learning_curves_have_ticks_at_exactly_the_steps() -> None:
    ax = figures.learning_curves(curves(2, 3), STEPS, VARIANTS[:2]).axes[0]
    assert ax.get_xscale() == "log"
    ticks = ax.get_xticks()
    np.testing.assert_allclose(ticks[1:], STEPS[1:])
    assert 0 < ticks[0] < 1
    assert len(ax.get_xticks(minor=True)) == 0
    assert ax.get_xticklabels()[0].get_text() == "0" and ax.get_xticklabels()[-1].get_text() == "938"


def test_learning_curves_end_in_their_names() -> None:
    accuracy = curves(4, 5)
    ax = figures.learning_curves(accuracy, STEPS, VARIANTS).axes[0]
    ends = {f"{name} {np.median(accuracy[v, :, -1]):.2f}" for v, name in enumerate(VARIANTS)}
    assert ends <= set(texts(ax))


@pytest.mark.parametrize("count", [4, 9])
def test_kept_similarity_is_a_heat_map_with_the_mean_of_all_beside(count: int) -> None:
    names = ["cosine", "random_init", *(f"x:{i}" for i in range(count - 2))]
    similarity = rng().beta(9, 2, (count, 20, 10))
    ax = figures.kept_similarity(similarity, names, each_filter(FILTERS), "pearson").axes[0]
    similarity = similarity[[1, 0, *range(2, count)]]
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["random_init", "cosine"]
    np.testing.assert_allclose(shown(ax), similarity.mean(1))
    total = similarity.mean(2)
    beside = [f"{m:.2f} ± {s:.2f}" for m, s in zip(total.mean(1), total.std(1, ddof=1), strict=True)]
    assert texts(ax)[10 * count :] == ["mean of all", *beside]
    mean, sd = similarity.mean(1).ravel(), similarity.std(1, ddof=1).ravel()
    cells = [f"{m:.2f}\n± {s:.2f}" if count <= 8 else f"{m:.2f}" for m, s in zip(mean, sd, strict=True)]
    assert texts(ax)[: 10 * count] == cells


def test_variant_colours_are_fixed_for_the_published_and_distinct_for_others() -> None:
    for name in VARIANTS:
        assert figures.variant_colour(name, VARIANTS) == figures.variant_colour(name, [name, "x:y"])
    names = [*VARIANTS, *(f"my.module:measure{i}" for i in range(5))]
    assert len({figures.variant_colour(name, names) for name in names}) == 9
    assert all(len(figures.variant_colour(name, names)) == 7 for name in names)
    with pytest.raises(ValueError, match="is not in list"):
        figures.variant_colour("unknown", VARIANTS)


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_apart_in_their_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    wanted, sizes = generator.uniform(0.4, 0.5, 6), generator.uniform(0.05, 0.1, 6)
    placed = drawing.spread(wanted, sizes, 0.0, 1.0)
    order = np.argsort(wanted)
    assert np.all(np.diff(placed[order]) >= (sizes[order][1:] + sizes[order][:-1]) / 2 - 1e-12)
    far = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(drawing.spread(far, sizes[:3], 0.0, 1.0), far)


def test_names_break_where_their_parts_end() -> None:
    assert wording.wrapped("my.module:measure", 10) == "my.module:\nmeasure"
    assert wording.wrapped("conv2[out 3][in 1]", 8) == "conv2\n[out 3]\n[in 1]"
    assert wording.wrapped("abcdefgh", 3) == "abc\ndef\ngh"
    assert wording.wrapped("cosine", 30) == "cosine"
