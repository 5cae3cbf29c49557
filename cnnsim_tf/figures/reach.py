"""Figure of how long variants take to reach an accuracy."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, highlighted, variant_look
from cnnsim_tf.statistics import ReachCurve


def steps_to_reach(curves: Sequence[Sequence[ReachCurve]], thresholds: Sequence[float], names: Sequence[str]) -> Figure:
    """Draw the share of repeats that have reached an accuracy against batches, a panel for each accuracy.

    Repeats that have not reached it when their training ends are marked there (|). An accuracy that no repeat of any
    variant has reached gets no panel, but a sentence; so does a figure without panels.

    Args:
        curves: [T][V] shares of repeats that have reached each accuracy; of no repeats: not drawn.
        thresholds: T accuracies in percent.
        names: V names; of more than 8, random_init, the published ones, random_donor and those that reach the most in
            the shortest time have a look of their own.
    """
    drawn = [t for t, row in enumerate(curves) if any(curve.reached for curve in row)]
    never = " or ".join(f"{at:g} %" for t, at in enumerate(thresholds) if t not in drawn)
    if not drawn:
        return _sentence(f"No repeat of any variant has reached an accuracy of {never}.")
    steps = np.concatenate([curve.steps for row in curves for curve in row])
    end = max(float(steps.max()), 1.0)
    named = highlighted(names, d.mean(np.array([[_saved(curve, end) for curve in row] for row in curves]), 0))
    others = len(names) - len(named)
    title = f"Share of {w.repeats(max(curve.of for row in curves for curve in row))} that have reached an accuracy"
    title += "\n(numbers at the right: how many at the end"
    title += f"; thin grey lines: {w.variants(others, 'other ')})" if others else ")"
    title += f"\nNo repeat of any variant has reached {never}." if never else ""
    each = max(1.5, len(named) * 0.19 + 0.15)
    figure = d.canvas(d.WIDTH, each * len(drawn) + 1.4 + 0.2 * bool(never), title)
    axes = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)[:, 0]
    ticks = _ticks(steps, end)
    shown = [v for v, name in enumerate(names) if name in named]
    looks = {v: variant_look(names[v], named) for v in shown}
    for t, ax in zip(drawn, axes, strict=True):
        zero = scales.fit_steps(ax, ticks, d.WIDTH - 3.0)[0]
        ax.set_ylim(-6, 106)
        ends = np.full((len(names), 2), np.nan)
        for v, curve in enumerate(curves[t]):
            if not curve.of:
                continue
            x, censored = (np.where(a > 0, a, zero) for a in (curve.steps, curve.censored))
            x, share = np.array([ax.get_xlim()[0], *x]), 100 * np.array([0.0, *curve.share])
            if share[-1] == 100:  # all have; from there on it stays
                x, share = np.append(x, end), np.append(share, 100.0)
            ends[v] = x[-1], share[-1]
            if v not in looks:
                ax.step(x, share, where="post", color=FAINT, linewidth=0.6, zorder=1)
                continue
            look = looks[v]
            ax.step(x, share, where="post", color=look.colour, ls=look.line, zorder=3)
            some = np.unique(np.linspace(1, len(x) - 1, 5).round().astype(int))
            ax.scatter(x[some], share[some], s=18, c=look.colour, marker=look.marker, zorder=3)
            at = share[np.searchsorted(x, censored, side="right") - 1]
            ax.scatter(censored, at, s=40, c=look.colour, marker="|", zorder=4)
        ax.set_yticks([0, 50, 100])
        ax.tick_params(labelbottom=ax is axes[-1])
        d.style(ax, "batches of target training (log scale)" if ax is axes[-1] else "", "repeats (%)")
        ax.set_title(f"at least {thresholds[t]:g} % accuracy", fontsize=w.LABEL, loc="left")
        labels = [f"{w.shortened(names[v], 24)} {curves[t][v].reached}" for v in shown]
        share_of_height = 0.7 * each / figure.get_figheight()
        d.end_labels(figure, ax, ends[shown, 0], ends[shown, 1], labels, list(looks.values()), share_of_height)
    return d.settled(figure)


def _saved(curve: ReachCurve, end: float) -> float:
    """Return the mean over repeats of the batches left when it was reached: the area under the curve up to the end."""
    return float(((end - curve.steps) * np.diff(curve.share, prepend=0.0)).sum()) if curve.of else np.nan


def _sentence(text: str) -> Figure:
    """Return a figure that has nothing to draw, and says so."""
    figure = d.canvas(d.WIDTH, 0.8, "")
    figure.text(0.5, 0.5, w.wrapped(text, 88), fontsize=w.TITLE, ha="center", va="center")
    figure.set_layout_engine("none")
    return figure


def _ticks(steps: np.ndarray, end: float) -> np.ndarray:
    """Return 1, 3, 10, 30, ... from just below the first step to the end, with 0 before them if it occurs."""
    positive = steps[steps > 0]
    first = float(positive.min()) if positive.size else 1.0
    wanted = [a * 10**k for k in range(8) for a in (1, 3)]
    inner = [n for n in wanted if n < end * 0.8 and n > first / 3.5]
    return np.array([*([0] if (steps == 0).any() else []), *inner, max(1, round(end))])
