"""Figures that look for the cause of collapses: dead channels at the start, gradient norms at the first steps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, Look, highlighted
from cnnsim_tf.statistics import COLLAPSED_BELOW, proportion

BINS = 12


def collapse_diagnosis(accuracy: np.ndarray, dead: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw every repeat's final accuracy against its dead channels at the start, and the share of collapses by these.

    The share has a 95 % Wilson interval and says of how many repeats it is. Of more than 8 variants, random_init, the
    published ones, random_donor and those with the most collapses have a look of their own; all others are grey points.

    Args:
        accuracy: [V, R] in percent.
        dead: [V, R] dead channels and units of all hidden layers before the first step; NaN: not known.
        names: V names.
    """
    known = np.isfinite(accuracy) & np.isfinite(dead)
    collapsed = known & (np.nan_to_num(accuracy, nan=100.0) < COLLAPSED_BELOW)
    networks = f"{int(collapsed.sum())} of {int(known.sum())} networks ended below {COLLAPSED_BELOW:g} %"
    counts = f"{w.variants(len(names))}, {w.repeats(accuracy.shape[1])}: {networks}"
    figure = d.canvas(d.WIDTH, 6.2, f"Do dead channels at the start explain collapses?\n{counts}")
    top, ax = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    edges = _bins(dead[known])
    _draw_shares(top, dead[known], collapsed[known], edges)
    label = scales.fit_accuracy(ax, accuracy[known], accuracy[known])
    highlights = highlighted(names, collapsed.sum(1).astype(float))
    jitter = np.random.default_rng(0).permutation(np.linspace(-0.32, 0.32, accuracy.size)).reshape(accuracy.shape)
    others = [v for v in range(len(names)) if v not in highlights]
    groups = [("all others", others, Look(FAINT, "."))] if others else []
    groups += [(w.shortened(names[v], 26), [v], look._replace(line="")) for v, look in highlights.items()]
    looks = {}
    for name, which, look in groups:
        size, opaque = (14.0, 0.8) if look.colour == FAINT else (20.0, 0.85)
        points = {"s": size, "c": look.colour, "marker": look.marker, "alpha": opaque, "linewidths": 0}
        ax.scatter((dead + jitter)[which], accuracy[which], zorder=2, **points)
        looks[f"{name} ({int(collapsed[which].sum())} of {int(known[which].sum())})"] = look
    if collapsed.any():
        ax.axhline(COLLAPSED_BELOW, color="black", linewidth=0.8, linestyle=":")
    ax.set_xlim(edges[0], edges[-1])
    whole = [(f"{left + 0.5:.0f}", f"{right - 0.5:.0f}") for left, right in pairwise(edges)]
    ax.set_xticks((edges[1:] + edges[:-1]) / 2, ["\N{EN DASH}".join(dict.fromkeys(ends)) for ends in whole])
    d.style(ax, "dead channels and units at the start, all hidden layers (points: spread sideways)", label)
    d.legend(figure, looks, ms=5)
    figure.align_ylabels()
    return d.settled(figure)


def gradient_norms(norms: np.ndarray, names: Sequence[str], layers: Sequence[str]) -> Figure:
    """Draw the norm of every layer's gradient against the training step, a panel for each layer.

    Of more than 8 variants, random_init, the published ones, random_donor, and those whose norms are 0 or differ most
    from the median variant's have a look of their own. A norm of exactly 0 has no place on the log axis: it is drawn at
    the bottom, below a break.

    Args:
        norms: [V, S, L] means over repeats at steps 1..S.
        names: V names.
        layers: L names.
    """
    steps = np.arange(1, norms.shape[1] + 1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.where(norms > 0, norms, np.nan))
    unusual = np.where(norms == 0, 1e3, np.abs(logs - d.quantiles(logs, [0.5], 0)[0]))
    looks = highlighted(names, d.mean(unusual, (1, 2)))
    title = "Gradient norms at the first steps of target training, mean over repeats"
    others = [v for v in range(len(names)) if v not in looks]
    title += f"\n(thin grey lines: {w.variants(len(others), 'other ')})" * bool(others)
    figure, panels = d.panels(len(layers), 2.0, 1.3, title, sharex=True)
    for k, ax in enumerate(panels):
        values = _fit_norms(ax, norms[:, :, k])
        grey = d.lines(steps, values[others])
        ax.add_collection(LineCollection(grey, colors=FAINT, linewidths=0.6, zorder=1))
        for v, look in looks.items():
            every = max(1, len(steps) // 8)
            ax.plot(steps, values[v], color=look.colour, ls=look.line, marker=look.marker, ms=4.5, markevery=every)
        margin = 0.03 * max(len(steps) - 1, 1)
        ax.set_xlim(1 - margin, len(steps) + margin)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        lowest = k + 2 >= len(layers)
        ax.tick_params(labelbottom=lowest)
        d.style(ax, "training step" if lowest else "", title=w.shortened(layers[k], 40))
    figure.supylabel("norm of the gradient (log scale)", fontsize=w.LABEL)
    d.legend(figure, {w.shortened(names[v], 28): look for v, look in looks.items()}, length=3.2, ms=4.5)
    return d.settled(figure)


def _bins(dead: np.ndarray) -> np.ndarray:
    """Return edges of bins of whole numbers, one number each if they are few."""
    low, high = (int(dead.min()), int(dead.max())) if dead.size else (0, 0)
    width = -(-(high - low + 1) // BINS)
    return np.arange(low, high + 1 + width, width) - 0.5


def _draw_shares(ax: Axes, dead: np.ndarray, collapsed: np.ndarray, edges: np.ndarray) -> None:
    """Draw the share of collapsed repeats [n] in each bin of dead channels with its Wilson interval."""
    for left, right in pairwise(edges):
        inside = (dead > left) & (dead < right)
        if not inside.any():
            continue
        share, x = proportion(int(collapsed[inside].sum()), int(inside.sum())), (left + right) / 2
        ax.vlines(x, 100 * share.low, 100 * share.high, colors="black", linewidth=1.4)
        ax.scatter(x, 100 * share.count / share.of, s=30, c="black", marker="o", zorder=3)
        ax.text(x, 110, f"{share.count}/\n{share.of}", fontsize=w.SMALL, ha="center", va="bottom", linespacing=1.0)
    beside = ax.get_yaxis_transform()
    ax.text(-0.01, 110, "collapsed/\nall", transform=beside, fontsize=w.SMALL, ha="right", va="bottom", linespacing=1.0)
    ax.set_ylim(-4, 104)
    ax.set_yticks([0, 50, 100])
    ax.tick_params(labelbottom=False)
    d.style(ax, y="collapsed\nrepeats (%)")


def _fit_norms(ax: Axes, norms: np.ndarray) -> np.ndarray:
    """Set a log y axis for norms [V, S]; return them as drawn, with those that are 0 at the axis' bottom."""
    positive = norms[norms > 0]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.1, 1.0)
    margin = max(high / low, 2.0) ** 0.06
    ax.set_yscale("log")
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 5 else (1.0, 2.0, 5.0)  # of which two at least are in sight
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8) if high / low < 100 else LogLocator(numticks=5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if not (norms == 0).any():
        ax.set_ylim(low / margin, high * margin)
        return norms
    floor = low / max(high / low, 2.0) ** 0.18
    ax.set_ylim(floor / margin, high * margin)
    ax.axhspan(floor / margin, floor * margin, color="#eeeeee", linewidth=0, zorder=0)
    place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": w.SMALL}
    ax.text(0.99, floor, "norm 0", bbox={"facecolor": "#eeeeee", "edgecolor": "none", "pad": 0.5}, **place)
    return np.where(norms == 0, floor, norms)
