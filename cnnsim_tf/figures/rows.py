"""Figures with a row for each variant: accuracy, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory, offset_copy

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FEW, FIXED, VERDICT_LOOKS, Look, variant_look
from cnnsim_tf.report.formats import estimate
from cnnsim_tf.study import BASELINE

# Inches: a row of few, of up to 40, and of more, so that 75 still are about a page.
ROOMY, TALL, LOW = 0.32, 0.16, 0.145
GAP = 10.0  # points between columns of text


def accuracy_by_variant(accuracy: np.ndarray, low: np.ndarray, high: np.ndarray, variants: Sequence[str]) -> Figure:
    """Draw the test accuracy of every variant in every repeat, with means and their 95 % intervals, random_init first.

    Where some repeats have collapsed (below 50 %) and others not (above 80 %), the axis is compressed below the
    bulk of the values, so that both can be seen; there, an arrow stands for an interval that leaves the axis.
    Intervals end at 0 and 100 %. Of up to 8 variants, thin lines join the points of a repeat.

    Args:
        accuracy: [V, R] in percent; column r is the same repeat for all variants.
        low: [V] lower ends of the means' intervals; NaN: no interval.
        high: [V] upper ends.
        variants: V names.
    """
    order, repeats = baseline_first(variants), accuracy.shape[1]
    accuracy, low, high = accuracy[order], np.maximum(low[order], 0), np.minimum(high[order], 100)
    names, centre, few = [variants[v] for v in order], d.mean(accuracy, 1), len(order) <= FEW
    title = f"Test accuracy after target training: {w.repeats(repeats)}"
    title += ", mean and its 95 % confidence interval" if repeats > 1 else ""
    title += f"\n(dashed line: mean of {BASELINE})" if names[0] == BASELINE else ""
    figure = d.canvas(d.WIDTH, height(len(names), ROOMY) + 1.2, title)
    ax = figure.subplots()
    label = scales.fit_accuracy(ax, np.concatenate([accuracy.ravel(), low, high]), accuracy, "x")
    name_rows(ax, names)
    column = "mean [95 % interval]" if repeats > 1 else "accuracy"
    side_columns(figure, ax, {column: _intervals(centre, low, high, ".2f")})
    if names[0] == BASELINE and np.isfinite(centre[0]):
        ax.axvline(centre[0], color="black", linewidth=0.8, linestyle=(0, (5, 1.5)), zorder=1)
    jitter = (np.arange(1, repeats + 1) * 0.6180339887 % 1 - 0.5) * 0.5 if repeats > 1 else np.zeros(1)
    y = np.arange(len(names))[:, None] + jitter
    faint = float(np.clip(8 / repeats**0.75, 0.1, 0.7))
    if few and repeats > 1:
        joined = list(np.stack([accuracy, y], -1).swapaxes(0, 1))
        ax.add_collection(LineCollection(joined, colors="#888888", lw=0.4, alpha=0.6 * faint, zorder=1))
    for v, name in enumerate(names):
        look = variant_look(name, names) if few or name in FIXED else Look("#c8c8c8")
        points: dict[str, Any] = {"c": look.colour, "marker": look.marker, "s": 12} if few else {"c": "#555555", "s": 7}
        ax.scatter(accuracy[v], y[v], alpha=faint, linewidths=0, zorder=2, **points)
        _draw_interval(ax, v, low[v], high[v], "black")
        ax.scatter(centre[v], v, s=26, c=look.colour, marker=look.marker, edgecolors="black", lw=0.5, zorder=4)
    d.style(ax, label, "")
    return d.settled(figure)


def difference_forest(
    differences: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    verdicts: Sequence[str],
    names: Sequence[str],
    *,
    collapsed: np.ndarray,
    repeats: int,
) -> Figure:
    """Draw every variant's mean paired difference to random_init with its interval, one row each, in their order.

    Where a few lie far from all others, the axis ends before them: they stand in a shaded strip at its edge.

    Args:
        differences: [V] means in percentage points; NaN: the row stays empty.
        low: [V] lower ends of the 95 % intervals; NaN: no interval.
        high: [V] upper ends.
        verdicts: V of 'higher', 'lower' and 'not distinguishable'.
        names: V names.
        collapsed: [V] ints, in how many repeats the variant has collapsed.
        repeats: of how many.
    """
    with_intervals = bool(np.isfinite(low).any())
    title = f"Test accuracy: mean paired difference to {BASELINE}" + ", with its 95 % interval" * with_intervals
    figure = d.canvas(d.WIDTH, height(len(names)) + 1.3, title)
    ax = figure.subplots()
    fence = scales.fence(np.concatenate([low, high, differences, [0.0]]))
    inner = np.array([min(fence[0], 0.0), max(fence[1], 0.0)])
    off = differences < inner[0], differences > inner[1]
    ends = _fit_differences(ax, inner, [bool(side.any()) for side in off])
    name_rows(ax, names)
    head = "mean [95 % interval]" if with_intervals else "mean"
    counts = [f"{count} of {repeats}" for count in collapsed.tolist()]
    side_columns(figure, ax, {head: _intervals(differences, low, high, "+.2f"), "collapsed": counts})
    ax.axvline(0, color="black", linewidth=1.0, zorder=1)
    shown = np.select(off, list((ends + inner) / 2), differences)
    for v, verdict in enumerate(verdicts):
        _draw_interval(ax, v, low[v], high[v], "#444444")
        look = VERDICT_LOOKS[verdict]
        ax.scatter(shown[v], v, s=34, c=look.colour, marker=look.marker, edgecolors="black", linewidths=0.8, zorder=3)
    d.style(ax, "difference in test accuracy (points)" + ", shaded: far beyond" * bool(np.any(off)))
    looks = {f"{verdict} ({list(verdicts).count(verdict)})": look for verdict, look in VERDICT_LOOKS.items()}
    d.legend(figure, looks, mec="black", mew=0.8, ms=6)
    return d.settled(figure)


def baseline_first(names: Sequence[str]) -> list[int]:
    """Return the order of rows: random_init's, then the others as they are."""
    return sorted(range(len(names)), key=lambda v: names[v] != BASELINE)


def height(rows: int, few: float = TALL) -> float:
    """Return the height of so many rows in inches, each of `few` if they are."""
    return rows * (few if rows <= FEW else TALL if rows <= 40 else LOW)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name rows at y = 0, 1, ... from the top down; every other is shaded."""
    ax.set_yticks(range(len(names)), w.row_names(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    for y in range(1, len(names), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", linewidth=0, zorder=-1).set_in_layout(False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def side_columns(figure: Figure, ax: Axes, columns: Mapping[str, Sequence[str]]) -> None:
    """Print columns of text at the right of the rows, each under its heading."""
    start = GAP
    for heading, cells in columns.items():
        start += 72 * w.inches([heading, *cells])
        beside = blended_transform_factory(ax.transAxes, ax.transData)
        at = offset_copy(beside, figure, x=start, units="points")
        above = offset_copy(ax.transAxes, figure, x=start, y=2, units="points")
        ax.text(1, 1, heading, transform=above, fontsize=w.SMALL, ha="right", va="bottom")
        for y, cell in enumerate(cells):
            ax.text(1, y, cell, transform=at, fontsize=w.SMALL, ha="right", va="center_baseline")
        start += GAP


def _draw_interval(ax: Axes, y: float, low: float, high: float, colour: str) -> None:
    """Draw an interval, if there is one, as a bar; arrows where it leaves the axis."""
    left, right = ax.get_xlim()
    if np.isfinite(low):
        ax.plot(np.clip([low, high], left, right), [y, y], color=colour, linewidth=1.3, zorder=2)
    for beyond, edge, arrow in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            ax.scatter(edge, y, s=16, c=colour, marker=arrow, linewidths=0, clip_on=False, zorder=2)


def _intervals(centre: np.ndarray, low: np.ndarray, high: np.ndarray, spec: str) -> list[str]:
    return [estimate(*row, spec) for row in zip(centre, low, high, strict=True)]


def _fit_differences(ax: Axes, inner: np.ndarray, off: Sequence[bool]) -> np.ndarray:
    """Set the x limits and return them: those wanted, with a shaded strip at an end beyond which variants lie."""
    ends = inner + np.where(off, 0.07, 0.03) * (-1, 1) * max(inner[1] - inner[0], 0.02)
    ax.set_xlim(*ends)
    for edge, end in zip(inner[off], ends[off], strict=True):
        ax.axvspan(end, edge, color="#dddddd", linewidth=0, zorder=0)
        ax.axvline(edge, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    return ends
