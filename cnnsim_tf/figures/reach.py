"""Figure of how long variants take to reach an accuracy."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import CensoredData, ecdf

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, highlighted, variant_look


def steps_to_reach(
    steps: np.ndarray,
    reached: np.ndarray,
    thresholds: Sequence[float],
    names: Sequence[str],
) -> Figure:
    """Draw the share of repeats that have reached an accuracy against batches, a panel for each accuracy.

    Kaplan and Meier (1958): repeats that have not reached it when their training ends are censored there. An accuracy
    that no repeat of any variant has reached gets no panel, but a sentence; so does a figure without panels.

    Args:
        steps: [T, V, R] batches until the accuracy is reached, or until training ended; NaN: no repeat.
        reached: [T, V, R] bool, whether it was.
        thresholds: T accuracies in percent.
        names: V names; of more than 8, random_init, the published ones, random_donor and those that reach the most in
            the shortest time have a look of their own.
    """
    known = np.isfinite(steps)
    count = steps.shape[2]
    drawn = np.flatnonzero((reached & known).any((1, 2)))
    never = [f"{at:g} %" for t, at in enumerate(thresholds) if t not in drawn]
    if not len(drawn):
        return _sentence(f"No repeat of any variant has reached an accuracy of {' or '.join(never)}.")
    end = float(steps[known].max(initial=1.0))
    saved = d.mean(np.where(known, np.where(reached, end - np.nan_to_num(steps), 0.0), np.nan), (0, 2))
    named = highlighted(names, saved)
    others = len(names) - len(named)
    title = f"Share of {w.repeats(count)} that have reached an accuracy\n(numbers at the right: how many at the end"
    title += f"; thin grey lines: {w.variants(others, 'other ')})" if others else ")"
    title += f"\nNo repeat of any variant has reached {' or '.join(never)}." if never else ""
    each = max(1.5, len(named) * 0.19 + 0.15)
    figure = d.canvas(d.WIDTH, each * len(drawn) + 1.4 + 0.2 * bool(never), title)
    axes = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)[:, 0]
    ticks = _ticks(steps[known], end)
    for t, ax in zip(drawn.tolist(), axes, strict=True):
        places = scales.fit_steps(ax, ticks, d.WIDTH - 3.0)
        ax.set_ylim(-6, 106)
        ends = np.full((len(names), 2), np.nan)
        for v, name in enumerate(names):
            x, share, censored = _curve(steps[t, v][known[t, v]], reached[t, v][known[t, v]])
            look = variant_look(name, named) if name in named else None
            if not len(x):
                continue
            x, censored = (np.where(a > 0, a, places[0]) for a in (x, censored))
            x, share = np.array([ax.get_xlim()[0], *x]), 100 * np.array([0.0, *share])
            if share[-1] == 100:  # all have; from there on it stays
                x, share = np.append(x, end), np.append(share, 100.0)
            ends[v] = x[-1], share[-1]
            if look is None:
                ax.step(x, share, where="post", color=FAINT, linewidth=0.6, zorder=1)
                continue
            ax.step(x, share, where="post", color=look.colour, ls=look.line, zorder=3)
            some = np.unique(np.linspace(1, len(x) - 1, 5).round().astype(int))
            ax.scatter(x[some], share[some], s=18, c=look.colour, marker=look.marker, zorder=3)
            at = share[np.searchsorted(x, censored, side="right") - 1]
            ax.scatter(censored, at, s=40, c=look.colour, marker="|", zorder=4)
        ax.set_yticks([0, 50, 100])
        ax.tick_params(labelbottom=ax is axes[-1])
        ax.spines[["top", "right"]].set_visible(False)
        d.style(ax, "batches of target training (log scale)" if ax is axes[-1] else "", "repeats (%)")
        ax.set_title(f"at least {thresholds[t]:g} % accuracy", fontsize=w.LABEL, loc="left")
        shown = [v for v, name in enumerate(names) if name in named]
        labels = [f"{w.shortened(names[v], 24)} {int(reached[t, v][known[t, v]].sum())}" for v in shown]
        looks = [variant_look(names[v], named) for v in shown]
        share_of_height = 0.7 * each / figure.get_figheight()
        d.end_labels(figure, ax, ends[shown, 0], ends[shown, 1], labels, looks, share_of_height)
    return d.settled(figure)


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


def _curve(steps: np.ndarray, reached: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the estimated share changes or repeats are censored, the shares there, and the censored steps."""
    if not steps.size:
        return steps, steps, steps
    estimate = ecdf(CensoredData.right_censored(steps, ~reached)).cdf
    return estimate.quantiles, estimate.probabilities, np.unique(steps[~reached])
