"""Figures of scores beside their null: the same measure between freshly initialised networks."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import Look

TRAINED, FRESH = Look("black", "o", "-"), Look("#999999", "s", "-")
LOOKS = {"trained donors": TRAINED, "freshly initialised networks (null)": FRESH}


def layer_similarity(scores: np.ndarray, null: np.ndarray, measures: Sequence[str], layers: Sequence[str]) -> Figure:
    """Draw how alike the donors' layers are by each measure, mean ± standard deviation, beside the null.

    What has no value is left out, and each panel's heading says how much that is.

    Args:
        scores: [M, L, N] of N pairs of donors over all repeats; NaN: the measure has no value there.
        null: [M, L, N'] the same between freshly initialised networks.
        measures: M names.
        layers: L names.
    """
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


def scores_against_null(scores: np.ndarray, null: np.ndarray, filter_names: Sequence[str], measure: str) -> Figure:
    """Draw the distribution of a measure's scores for every filter, beside the null.

    Thin lines: from the 5 % to the 95 % quantile; thick: the middle half; mark: the median.

    Args:
        scores: [F, N] of N pairs of donors over all repeats, in the measure's own units; NaN: no value.
        null: [F, N'] the same between freshly initialised networks.
        filter_names: F names.
        measure: its name.
    """
    count, room = len(filter_names), d.WIDTH - 0.8
    title = f"Scores by {measure}: trained donors beside the null{_missing(scores, null)}"
    title += "\n(thin line: 5 to 95 % of the pairs; thick: middle half; mark: median)"
    figure = d.canvas(d.WIDTH, 4.0 + w.columns_height(filter_names, room), title)
    ax = figure.subplots()
    thick, size = (5.0, 26) if count <= 20 else (2.5, 10)
    for f in range(1, count, 2):
        ax.axvspan(f - 0.5, f + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    for values, look, shift in ((scores, TRAINED, -0.18), (null, FRESH, 0.18)):
        x, colour = np.arange(count) + shift, look.colour
        least, low, middle, high, most = d.quantiles(values, (0.05, 0.25, 0.5, 0.75, 0.95), 1)
        ax.vlines(x, least, most, colors=colour, linewidth=0.9, zorder=2)
        ax.vlines(x, low, high, colors=colour, linewidth=thick, zorder=2)
        ax.scatter(x, middle, s=size, c="white", marker=look.marker, edgecolors=colour, linewidths=1.0, zorder=3)
    ax.set_xlim(-0.5, count - 0.5)
    w.name_columns(ax, filter_names, room)
    d.style(ax, "filter", "score of a pair")
    d.legend(figure, LOOKS, 2, mec="black", mew=0.5, ms=6)
    return d.settled(figure)


def _missing(scores: np.ndarray, null: np.ndarray) -> str:
    """Return a line that says how many values are not drawn since they are NaN."""
    counts = [int(np.isnan(values).sum()) for values in (scores, null)]
    if not any(counts):
        return ""
    return f"\nwithout a value: {counts[0]} of {scores.size}, null {counts[1]} of {null.size}"
