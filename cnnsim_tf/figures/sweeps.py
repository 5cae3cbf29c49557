"""Figure of what a swept parameter does to the differences between variants."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, highlighted, variant_look
from cnnsim_tf.report.formats import number
from cnnsim_tf.study import BASELINE


def sweep(
    values: Sequence[float] | Sequence[str],
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    names: Sequence[str],
    parameter: str,
    baseline: np.ndarray | None,
    verdicts: Sequence[Sequence[str | None]],
) -> Figure:
    """Draw the differences in accuracy to random_init against the swept values, and random_init itself above.

    Numbers are drawn to scale, names side by side. Where a few intervals reach far beyond all others, the axis ends
    before them, and arrows stand for what lies beyond.

    Args:
        values: K values of the parameter, numbers or names.
        mean: [V, K] mean differences in percentage points; NaN: not studied.
        low: [V, K] lower ends of the 95 % intervals; NaN: no interval.
        high: [V, K] upper ends.
        names: V names, without random_init; of more than 8, the published ones, random_donor and those of the largest
            difference in size, of either sign, at any value have a look of their own.
        parameter: what was swept, such as 'level of the noises'.
        baseline: [R, K] accuracies of random_init in percent, NaN where there are fewer repeats; None: no upper panel.
        verdicts: [V, K] of 'higher', 'lower' and 'not distinguishable', None where nothing was compared: filled
            markers stand for the first two, hollow ones for all else; without any verdict all are filled.
    """
    numeric = all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)
    x = np.array(values, float) if numeric else np.arange(len(values), dtype=float)
    order = np.argsort(x, kind="stable")
    x, mean, low, high = x[order], mean[:, order], low[:, order], high[:, order]
    looks = highlighted(names, np.fmax.reduce(np.abs(mean), 1))
    said = np.array([list(row) for row in verdicts], object).reshape(mean.shape)[:, order]
    sure, judged = np.isin(said.astype(str), ("higher", "lower")), sum(v is not None for v in said.ravel())
    others = np.delete(np.arange(len(names)), list(looks))
    inner = scales.fence(np.concatenate([mean.ravel(), low.ravel(), high.ravel(), [0.0]]))
    bottom, top = min(inner[0], 0.0), max(inner[1], 0.0)
    title = f"Difference in test accuracy to {BASELINE} by {parameter}: mean"
    title += " and 95 % interval" if np.isfinite(low).any() else ""
    if judged:
        title += f"\n(filled: distinguishable after correction, {int(sure.sum())} of {judged}; hollow: not)"
    if len(others):
        lost = int(((mean[others] < bottom) | (mean[others] > top)).any(axis=1).sum())
        title += f"\n({len(looks)} of {len(names)} variants named; thin grey lines: the others"
        title += f", {lost} of them not wholly on the axis)" if lost else ")"
    figure = d.canvas(d.WIDTH, 4.2 if baseline is None else 5.6, title)
    ratios = [1] if baseline is None else [1, 2.6]
    *above, ax = figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]
    gap = float(np.diff(x).min(initial=np.inf)) if len(x) > 1 else 1.0
    # Side by side, but closer than their values: of few values, which are far apart, the closer.
    dodge = np.arange(len(looks)) - (len(looks) - 1) / 2
    dodge *= 0.6 * min(len(x) / 8, 1) * (gap or 1.0) / max(len(looks), 4)
    pad = 0.06 * max(top - bottom, 0.02)
    ax.set_ylim(bottom - pad, top + pad)
    ax.set_xlim(x[0] - 0.5 * gap, x[-1] + 0.5 * gap)
    ax.axhline(0, color="black", linewidth=1.0, zorder=1)
    ax.plot(x, mean[others].T, color=FAINT, linewidth=0.6, zorder=1)
    row, column = np.nonzero(sure[others])
    ax.scatter(x[column], mean[others[row], column], s=8, c=FAINT, linewidths=0, zorder=1)
    beyond = False
    ends = np.empty((len(looks), 2))
    filled: dict[str, Any] = {"ms": 5.5, "mec": "black", "mew": 0.4}
    edge = filled | {"mfc": "white", "mew": 1.1} if judged else filled
    for i, (v, look) in enumerate(looks.items()):
        at = x + dodge[i]
        last = max(np.flatnonzero(np.isfinite(mean[v])), default=-1)  # where its line ends
        ends[i] = at[last], mean[v, last]
        ax.vlines(at, low[v], high[v], colors=look.colour, linewidth=1.3, zorder=2)
        line = ax.plot(at, mean[v], color=look.colour, ls=look.line, lw=0.9, marker=look.marker, **edge)[0]
        if judged:
            line.set_markeredgecolor(look.colour)
            ax.plot(at[sure[v]], mean[v, sure[v]], color=look.colour, ls="", marker=look.marker, **filled)
        beyond |= _mark_beyond(ax, at, np.fmin(low[v], mean[v]), np.fmax(high[v], mean[v]))
    label = "difference in test accuracy (points)" + (", arrows: beyond the axis" if beyond else "")
    d.style(ax, parameter, label)
    if numeric:
        ax.set_xticks(x, [f"{value:g}" for value in x])
    else:
        w.name_columns(ax, [str(values[k]) for k in order], d.WIDTH - 2.6)
    for panel in above:
        assert baseline is not None
        _draw_baseline(panel, x, np.asarray(baseline, float)[:, order])
    labels = [f"{w.wrapped(names[v], 18)} {number(y, '+.2f')}" for v, y in zip(looks, ends[:, 1], strict=True)]
    within = np.clip(ends[:, 1], *ax.get_ylim())
    figure.align_ylabels()
    share = 0.75 * ratios[-1] / sum(ratios)
    d.end_labels(figure, ax, ends[:, 0], within, labels, list(looks.values()), share, marked=not judged)
    return d.settled(figure)


def _mark_beyond(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    """Put arrows where intervals [K] leave the axis; return whether any does."""
    bottom, top = ax.get_ylim()
    inside = ax.get_xaxis_transform()
    for beyond, y, arrow in ((low < bottom, 0.025, "v"), (high > top, 0.975, "^")):
        ax.scatter(x[beyond], np.full(beyond.sum(), y), s=26, c="black", marker=arrow, transform=inside, zorder=4)
    return bool((low < bottom).any() or (high > top).any())


def _draw_baseline(ax: Axes, x: np.ndarray, accuracy: np.ndarray) -> None:
    """Draw random_init's accuracies [R, K] and their means."""
    look = variant_look(BASELINE, [BASELINE])
    scales.fit_accuracy(ax, accuracy, accuracy)
    if len(accuracy) > 1:
        ax.scatter(np.broadcast_to(x, accuracy.shape), accuracy, s=7, c="#555555", alpha=0.4, linewidths=0, zorder=2)
    ax.plot(x, d.mean(accuracy, 0), color=look.colour, ls=look.line, marker=look.marker, ms=6, mec="black", mew=0.4)
    ax.tick_params(labelbottom=False)
    d.style(ax, y=f"accuracy of\n{BASELINE} (%)")
