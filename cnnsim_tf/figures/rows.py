"""Figures with a row for each variant, for studies of many: accuracy, paired differences, what is kept of filters."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory, offset_copy

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FIXED, VERDICT_LOOKS, VERDICTS, Look, variant_look
from cnnsim_tf.report.formats import estimate, number
from cnnsim_tf.study import BASELINE

TALL, LOW = 0.16, 0.145  # inches: a row of up to 40, and of more, so that 75 still are about a page
GAP = 10.0  # points between columns of text


def accuracy_rows(
    accuracy: np.ndarray, centre: np.ndarray, low: np.ndarray, high: np.ndarray, variants: Sequence[str], title: str
) -> Figure:
    """Draw accuracies [V, R] with means and intervals [V], a row for each variant, random_init first."""
    order = sorted(range(len(variants)), key=lambda v: variants[v] != BASELINE)
    accuracy, centre, low, high = accuracy[order], centre[order], low[order], high[order]
    names, repeats = [variants[v] for v in order], accuracy.shape[1]
    first = names[0] == BASELINE
    title += f"\n(dashed line: mean of {BASELINE})" if first else ""
    figure = d.canvas(d.WIDTH, height(len(names)) + 1.2, title)
    ax = figure.subplots()
    label = scales.fit_accuracy(ax, np.concatenate([accuracy.ravel(), low, high]), accuracy, "x")
    name_rows(ax, names)
    side_columns(
        figure,
        ax,
        {("mean [95 % interval]" if repeats > 1 else "accuracy"): _intervals(centre, low, high, ".2f")},
    )
    if first and np.isfinite(centre[0]):
        ax.axvline(centre[0], color="black", linewidth=0.8, linestyle=(0, (5, 1.5)), zorder=1)
    jitter = (np.arange(1, repeats + 1) * 0.6180339887 % 1 - 0.5) * 0.5 if repeats > 1 else np.zeros(1)
    faint = float(np.clip(8 / repeats**0.75, 0.1, 0.7))
    for v, name in enumerate(names):
        look = variant_look(name, names) if name in FIXED else Look("#c8c8c8", "o", "-")
        ax.scatter(accuracy[v], v + jitter, s=7, c="#555555", alpha=faint, linewidths=0, zorder=2)
        if np.isfinite(low[v]):
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
    collapsed: np.ndarray | None = None,
    repeats: int | None = None,
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
        repeats: of how many; needed with `collapsed`.

    Raises:
        ValueError: an unknown verdict.
    """
    if unknown := set(verdicts) - set(VERDICTS):
        raise ValueError(f"verdicts must be {', '.join(VERDICTS)}, not {', '.join(sorted(unknown))}")
    with_intervals = bool(np.isfinite(low).any())
    figure = d.canvas(
        d.WIDTH,
        height(len(names)) + 1.3,
        f"Test accuracy: mean paired difference to {BASELINE}" + ", with its 95 % interval" * with_intervals,
    )
    ax = figure.subplots()
    limits = scales.fence(np.concatenate([low, high, differences, [0.0]]))
    inner = min(limits[0], 0.0), max(limits[1], 0.0)
    off = (differences < inner[0], differences > inner[1])
    left, right, cut = _fit_differences(ax, inner, (bool(off[0].any()), bool(off[1].any())))
    name_rows(ax, names)
    columns = {"mean [95 % interval]" if with_intervals else "mean": _intervals(differences, low, high, "+.2f")}
    if collapsed is not None:
        columns["collapsed"] = [f"{count} of {repeats}" for count in collapsed.tolist()]
    side_columns(figure, ax, columns)
    ax.axvline(0, color="black", linewidth=1.0, zorder=1)
    for v in np.flatnonzero(~np.isnan(differences)).tolist():
        look = VERDICT_LOOKS[verdicts[v]]
        if np.isfinite(low[v]):
            _draw_interval(ax, v, low[v], high[v], "#444444")
        x = (left + inner[0]) / 2 if off[0][v] else (right + inner[1]) / 2 if off[1][v] else differences[v]
        ax.scatter(x, v, s=34, c=look.colour, marker=look.marker, edgecolors="black", linewidths=0.8, zorder=3)
    d.style(ax, "difference in test accuracy (points)" + (", shaded: far beyond" if cut else ""))
    handles = [
        Line2D([], [], linestyle="", marker=k.marker, color=k.colour, mec="black", mew=0.8, ms=6, label=f"{v} ({n})")
        for v, k in VERDICT_LOOKS.items()
        for n in [sum(verdict == v for verdict in verdicts)]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=w.SMALL, frameon=False)
    return d.settled(figure)


def kept_rows(similarity: np.ndarray, variants: Sequence[str], filter_names: Sequence[str], title: str) -> Figure:
    """Draw mean similarities [V, R, F] before and after training as a heat map, a row for each variant."""
    order = sorted(range(len(variants)), key=lambda v: variants[v] != BASELINE)
    average = d.mean(similarity, 1)[order]
    shown = np.column_stack([d.mean(average, 1), average])
    names = w.row_names([variants[v] for v in order])
    columns = ["mean of all", *filter_names]
    room = d.WIDTH - 0.6 - w.inches(names)
    figure = d.canvas(d.WIDTH, height(len(names)) + 1.3 + w.columns_height(columns, room), title)
    ax = figure.subplots()
    norm = d.span(shown)
    texts = [[number(x, ".2f") if np.isfinite(x) else "" for x in row] for row in shown.tolist()]
    fits = w.inches([max((t for row in texts for t in row), key=len)]) < room / shown.shape[1] - 0.03
    text = (lambda i, j: texts[i][j]) if fits else None
    image = d.heat_map(ax, shown, d.colour_map("viridis"), norm, names, columns, text)
    w.name_columns(ax, columns, room)
    ax.axvline(0.5, color="white", linewidth=4)
    d.style(ax, "filter")
    d.colour_bar(figure, image, [ax], "score, before and after", below=True)
    return d.settled(figure)


def height(rows: int) -> float:
    """Return the height of so many rows in inches."""
    return rows * (TALL if rows <= 40 else LOW)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name rows at y = 0, 1, ... from the top down; every other is shaded."""
    ax.set_yticks(range(len(names)), w.row_names(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    for y in range(1, len(names), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", linewidth=0, zorder=-1).set_in_layout(False)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


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
    """Draw an interval as a bar; arrows where it leaves the axis."""
    left, right = ax.get_xlim()
    ax.plot(np.clip([low, high], left, right), [y, y], color=colour, linewidth=1.3, zorder=2)
    for beyond, edge, arrow in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            ax.scatter(edge, y, s=16, c=colour, marker=arrow, linewidths=0, clip_on=False, zorder=2)


def _intervals(centre: np.ndarray, low: np.ndarray, high: np.ndarray, spec: str) -> list[str]:
    return [estimate(*row, spec) for row in zip(centre, low, high, strict=True)]


def _fit_differences(ax: Axes, inner: tuple[float, float], off: tuple[bool, bool]) -> tuple[float, float, bool]:
    """Set the x limits: those wanted, with a shaded strip at an end beyond which variants lie."""
    span = max(inner[1] - inner[0], 0.02)
    left, right = (
        edge + sign * span * (0.07 if o else 0.03) for edge, sign, o in zip(inner, (-1, 1), off, strict=True)
    )
    ax.set_xlim(left, right)
    for edge, end, is_off in ((inner[0], left, off[0]), (inner[1], right, off[1])):
        if is_off:
            ax.axvspan(end, edge, color="#dddddd", linewidth=0, zorder=0)
            ax.axvline(edge, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    return left, right, any(off)
