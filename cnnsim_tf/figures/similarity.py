"""Figures of the comparison of donors: how alike filters and layers are, beside fresh networks; selected pairs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import Look
from cnnsim_tf.filters import Groups, kind_of
from cnnsim_tf.report.formats import number

TRAINED, FRESH = Look("black", "o", "-"), Look("#999999", "s", "-")
LOOKS = {"trained donors": TRAINED, "freshly initialised networks (null)": FRESH}


def score_heatmap(
    scores: np.ndarray,
    measure: str,
    groups: Groups,
    pair_names: Sequence[str],
    larger_is_more_alike: bool,
) -> Figure:
    """Draw the mean score of every filter position, or of a layer's filters, and pair of donors; light is alike.

    Args:
        scores: [R, F, P] of one measure, in its own units.
        measure: its name.
        groups: of the F filters, a row each.
        pair_names: P names, such as 1-2.
        larger_is_more_alike: the direction of the measure.
    """
    average = np.stack([d.mean(scores[:, at].astype(np.float64), (0, 1)) for _, at in groups])
    rows = [w.wrapped(name, 26) for name, _ in groups]
    room = d.WIDTH - 0.4 - w.inches(rows)
    lines = max(row.count("\n") + 1 for row in rows)
    height = max(0.2 if len(rows) > 12 else 0.28, lines * w.SMALL * 1.25 / 72)
    title = f"How alike the donors' filters are by {measure}: {w.repeats(len(scores), 'mean over')}"
    figure = d.canvas(d.WIDTH, len(rows) * height + 1.5, title)
    ax = figure.subplots()
    cmap = d.colour_map("viridis" if larger_is_more_alike else "viridis_r")
    largest = np.max(np.abs(average[np.isfinite(average)]), initial=0.0)
    decimals = d.decimals(average) if largest < 9.995 else 1 if largest < 99.95 else 0
    texts = [[number(v, f".{decimals}f") for v in row] for row in average]
    image = d.heat_map(ax, average, cmap, d.span(average), rows, pair_names, texts, room)
    d.style(ax, "pair of donors", kind_of(groups))
    direction = "larger" if larger_is_more_alike else "smaller"
    d.colour_bar(figure, image, [ax], f"mean {measure}, {direction} = more alike", below=True)
    return d.settled(figure)


def pair_counts(counts: np.ndarray, measures: Sequence[str], noises: Sequence[str]) -> Figure:
    """Draw how often each pair of donors was selected, one panel per measure, the most frequent one framed.

    Args:
        counts: [M, D, D] ints; how often the pair (i, j), i < j, was the most alike over filters and repeats. The
            rest is not drawn.
        measures: M names.
        noises: D names, of the donors.
    """
    donors = len(noises)
    upper = np.triu(np.ones((donors, donors), bool), 1)
    shown = np.where(upper, counts.astype(float), np.nan)
    columns = min(3 if donors <= 8 else 2, len(measures))
    rows = -(-len(measures) // columns)
    labels = w.numbered(noises, 16)
    names = w.inches(labels)
    side = min((d.WIDTH - names - 1.1) / columns - 0.1, donors * 0.5)
    uneven = rows > 1 and len(measures) % columns > 0  # then the row above the last shows names, too
    width = min(d.WIDTH, max(4.0, names + 1.1 + columns * (side + 0.1)))
    figure = d.canvas(width, rows * (side + 0.5) + (1 + uneven) * names + 0.6, _counts_title(shown, measures))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for k, ax in enumerate(grid.flat):
        ax.set_axis_off() if k >= len(measures) else ax.tick_params(labelbottom=k + columns >= len(measures))
    cmap, norm = d.colour_map("viridis").with_extremes(bad="#f0f0f0"), d.span(shown, low=0.0)
    for ax, measure, values in zip(grid.flat, measures, shown, strict=False):
        texts = [[f"{v:.0f}" for v in row] for row in values]
        image = d.heat_map(ax, values, cmap, norm, labels, labels, texts, side)
        ax.set_xticks(range(donors), labels, rotation=90)
        largest = np.nanmax(values, initial=0.0)
        best = np.argwhere(values == largest) if largest > 0 else np.empty((0, 2), int)
        for i, j in best:
            frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2, zorder=5)
            ax.add_patch(frame).set_clip_on(False)
        d.style(ax, title=f"{w.wrapped(measure, int(side / w.LABEL / w.EM))}\n{_most_frequent(best)}")
    d.colour_bar(figure, image, list(grid.flat), "times selected", whole=True)
    figure.supxlabel("the pair's second donor", fontsize=w.LABEL)
    figure.supylabel("the pair's first donor", fontsize=w.LABEL)
    return d.settled(figure)


def layer_similarity(scores: np.ndarray, null: np.ndarray, measures: Sequence[str], layers: Sequence[str]) -> Figure:
    """Draw how alike the donors' layers are by each measure, mean ± standard deviation, beside the null.

    What has no value is left out, and each panel's heading says how much that is.

    Args:
        scores: [M, L, ...] of pairs of donors over all repeats; NaN: the measure has no value there.
        null: [M, L, ...] the same between freshly initialised networks.
        measures: M names.
        layers: L names.
    """
    scores, null = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (scores, null))
    room = (d.WIDTH - 0.8 * min(2, len(measures))) / min(2, len(measures))
    title = "How alike whole layers of two donors are (mean ± standard deviation over pairs and repeats)"
    figure, panels = d.panels(len(measures), 2.0 + w.columns_height(layers, room), 1.0, title)
    for k, ax in enumerate(panels):
        for values, look, shift in ((scores[k], TRAINED, -0.13), (null[k], FRESH, 0.13)):
            x, centre, deviation = np.arange(len(layers)) + shift, d.mean(values, 1), d.sd(values, 1)
            ax.vlines(x, centre - deviation, centre + deviation, colors=look.colour, linewidth=1.6)
            ax.scatter(x, centre, s=34, c=look.colour, marker=look.marker, edgecolors="black", linewidths=0.5, zorder=3)
        ax.set_xlim(-0.5, len(layers) - 0.5)
        w.name_columns(ax, layers, room)
        d.style(ax, y="score", title=w.wrapped(measures[k], 40) + _missing(scores[k], null[k]))
    d.legend(figure, LOOKS, 2, mec="black", mew=0.5, ms=6)
    return d.settled(figure)


def scores_against_null(scores: np.ndarray, null: np.ndarray, groups: Groups, measure: str) -> Figure:
    """Draw the distribution of a measure's scores for every filter, or for every layer's filters, beside the null.

    Thin lines: from the 5 % to the 95 % quantile; thick: the middle half; mark: the median.

    Args:
        scores: [F, ...] of pairs of donors over all repeats, in the measure's own units; NaN: no value.
        null: [F, ...] the same between freshly initialised networks.
        groups: of the F filters, a place on the x axis each.
        measure: its name.
    """
    scores, null = (x.reshape(len(x), -1).astype(np.float64) for x in (scores, null))
    names, count, room = [name for name, _ in groups], len(groups), d.WIDTH - 0.8
    title = f"Scores by {measure}: trained donors beside the null{_missing(scores, null)}"
    title += "\n(thin line: 5 to 95 % of the pairs; thick: middle half; mark: median)"
    figure = d.canvas(d.WIDTH, 4.0 + w.columns_height(names, room), title)
    ax = figure.subplots()
    thick, size = (5.0, 26) if count <= 20 else (2.5, 10)
    for f in range(1, count, 2):
        ax.axvspan(f - 0.5, f + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    for values, look, shift in ((scores, TRAINED, -0.18), (null, FRESH, 0.18)):
        x, colour = np.arange(count) + shift, look.colour
        levels = [d.quantiles(values[at].ravel(), (0.05, 0.25, 0.5, 0.75, 0.95), 0) for _, at in groups]
        least, low, middle, high, most = np.transpose(levels)
        ax.vlines(x, least, most, colors=colour, linewidth=0.9, zorder=2)
        ax.vlines(x, low, high, colors=colour, linewidth=thick, zorder=2)
        ax.scatter(x, middle, s=size, c="white", marker=look.marker, edgecolors=colour, linewidths=1.0, zorder=3)
    ax.set_xlim(-0.5, count - 0.5)
    w.name_columns(ax, names, room)
    d.style(ax, kind_of(groups), "score of a pair")
    d.legend(figure, LOOKS, 2, mec="black", mew=0.5, ms=6)
    return d.settled(figure)


def _most_frequent(best: np.ndarray) -> str:
    if not len(best):
        return "none selected"
    if len(best) > 2:
        return f"{len(best)} pairs tie"
    return "most often " + ", ".join(f"({i + 1}, {j + 1})" for i, j in best)


def _counts_title(shown: np.ndarray, measures: Sequence[str]) -> str:
    """Return the title, with what chance alone would give where that is the same for all measures."""
    title = "How often each pair of donors was selected as the most alike"
    totals = np.nansum(shown, axis=(1, 2))
    pairs = np.isfinite(shown[0]).sum()
    if len(set(totals)) == 1 and pairs:
        title += f" (if evenly: {totals[0] / pairs:.3g} each)"
    return title


def _missing(scores: np.ndarray, null: np.ndarray) -> str:
    """Return a line that says how many values are not drawn since they are NaN."""
    counts = [int(np.isnan(values).sum()) for values in (scores, null)]
    if not any(counts):
        return ""
    return f"\nwithout a value: {counts[0]} of {scores.size}, null {counts[1]} of {null.size}"
