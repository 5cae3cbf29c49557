"""Figures of the comparison of variants: how fast they learn, what is kept of filters, accuracy on noisy test sets."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import rows, scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, FEW, highlighted
from cnnsim_tf.filters import Groups, kind_of
from cnnsim_tf.report.formats import number, plus_minus
from cnnsim_tf.statistics import ReachCurve
from cnnsim_tf.study import BASELINE


def learning_curves(accuracy: np.ndarray, steps: np.ndarray, variants: Sequence[str]) -> Figure:
    """Draw test accuracy against batches of target training: medians, quartile bands, single repeats if at most 20.

    Of more than 8 variants, random_init, the published ones, random_donor and those of the best final medians are
    named; there is a band for random_init only, there are no single repeats, and thin grey lines for all others.

    Args:
        accuracy: [V, R, P] in percent.
        steps: [P] ints, how many batches had been trained on; 0 is drawn left of the log axis.
        variants: V names.
    """
    repeats, many = accuracy.shape[1], len(variants) > FEW
    low, middle, high = d.quantiles(accuracy, (0.25, 0.5, 0.75), 1)
    looks = highlighted(variants, middle[:, -1])
    title = f"Test accuracy during target training: {w.repeats(repeats, 'median of')}"
    if many:
        title += f"\n({len(looks)} of {len(variants)} named: published, controls and best; thin grey: others"
        title += f"; band: {BASELINE}'s middle half)" if repeats > 1 and BASELINE in variants else ")"
    elif repeats > 1:
        title += "\n(band: middle half of the repeats" + ("; thin lines: every repeat)" if repeats <= 20 else ")")
    figure = d.canvas(d.WIDTH, 4.8 if many else 4.3, title)
    ax = figure.subplots()
    x = scales.fit_steps(ax, np.asarray(steps), d.WIDTH - 2.0)
    label = scales.fit_error(ax, middle if many else accuracy)
    if many:
        others = np.delete(middle, list(looks), axis=0)
        ax.add_collection(LineCollection(d.lines(x, others), colors=FAINT, linewidths=0.6, zorder=1))
    for v, look in looks.items():
        if 1 < repeats <= 20 and not many:
            single = LineCollection(d.lines(x, accuracy[v]), colors=look.colour, linewidths=0.5, alpha=0.25, zorder=1)
            ax.add_collection(single)
        if repeats > 1 and (not many or variants[v] == BASELINE):
            ax.fill_between(x, low[v], high[v], color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        line = ax.plot(x, middle[v], color=look.colour, ls=look.line, marker=look.marker, zorder=3)[0]
        line.set(ms=5.5, mec="white", mew=0.7)
    ends = middle[list(looks), -1]
    names = [f"{w.wrapped(variants[v], 18)} {number(m, '.2f')}" for v, m in zip(looks, ends, strict=True)]
    d.style(ax, "batches of target training (log scale)", label)
    d.end_labels(figure, ax, np.full(len(looks), x[-1]), ends, names, list(looks.values()))
    return d.settled(figure)


def steps_to_reach(curves: Sequence[Sequence[ReachCurve]], thresholds: Sequence[float], names: Sequence[str]) -> Figure:
    """Draw the share of repeats that have reached an accuracy against batches, a panel for each accuracy.

    Repeats that have not reached it when their training ends are marked there (|). An accuracy that no repeat of any
    variant has reached gets no panel, but a sentence; so does a figure without panels.

    Args:
        curves: [T][V] shares of repeats that have reached each accuracy.
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
    looks = highlighted(names, d.mean(np.array([[_saved(curve, end) for curve in row] for row in curves]), 0))
    others = len(names) - len(looks)
    title = f"Share of {w.repeats(max(curve.of for row in curves for curve in row))} that have reached an accuracy"
    title += "\n(numbers at the right: how many at the end"
    title += f"; thin grey lines: {w.variants(others, 'other ')})" if others else ")"
    title += f"\nNo repeat of any variant has reached {never}." if never else ""
    each = max(1.5, len(looks) * 0.19 + 0.15)
    figure = d.canvas(d.WIDTH, each * len(drawn) + 1.4 + 0.2 * bool(never), title)
    axes = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)[:, 0]
    ticks = _ticks(steps, end)
    for t, ax in zip(drawn, axes, strict=True):
        zero = scales.fit_steps(ax, ticks, d.WIDTH - 3.0)[0]
        ax.set_ylim(-6, 106)
        ends = np.empty((len(names), 2))
        for v, curve in enumerate(curves[t]):
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
        labels = [f"{w.shortened(names[v], 24)} {curves[t][v].reached}" for v in looks]
        share_of_height, at = 0.7 * each / figure.get_figheight(), ends[list(looks)]
        d.end_labels(figure, ax, at[:, 0], at[:, 1], labels, list(looks.values()), share_of_height)
    return d.settled(figure)


def kept_similarity(similarity: np.ndarray, variants: Sequence[str], groups: Groups, measure: str) -> Figure:
    """Draw how alike each conv filter is before and after target training, a row for each variant, random_init first.

    The mean of all filters stands beside. Standard deviations are over repeats; those of single filters are printed for
    up to 8 variants, where there is room.

    Args:
        similarity: [V, R, F] by one measure, in its own units.
        variants: V names; with random_init among them, it can be seen what training alone changes.
        groups: of the F filters, a column each.
        measure: its name.
    """
    order, repeats = rows.baseline_first(variants), similarity.shape[1]
    similarity = similarity[order]
    parts = np.stack([d.mean(similarity[..., at], 2) for _, at in groups], -1)  # [V, R, groups]
    average, deviation, total = d.mean(parts, 1), d.sd(parts, 1), d.mean(similarity, 2)
    columns = [name for name, _ in groups]
    names, few = w.row_names([variants[v] for v in order]), len(order) <= FEW
    overall = [plus_minus(m, s, d.decimals(average)) for m, s in zip(d.mean(total, 1), d.sd(total, 1), strict=True)]
    room = d.WIDTH - 0.7 - w.inches(names) - w.inches(["mean of all", *overall])
    texts = d.cells(average, deviation if few else np.full_like(deviation, np.nan), f".{d.decimals(average)}f", room)
    title = f"Filters before and after target training by {measure}: {w.repeats(repeats, 'mean ± sd over')}"
    figure = d.canvas(d.WIDTH, rows.height(len(names), rows.ROOMY) + 1.4 + w.columns_height(columns, room), title)
    ax = figure.subplots()
    image = d.heat_map(ax, average, d.colour_map("viridis"), d.span(average), names, columns, texts, room)
    rows.side_columns(figure, ax, {"mean of all": overall})
    d.style(ax, kind_of(groups))
    d.colour_bar(figure, image, [ax], "score, before and after", below=True)
    return d.settled(figure)


def noise_test_accuracy(accuracy: np.ndarray, names: Sequence[str], noises: Sequence[str]) -> Figure:
    """Draw mean accuracies on the clean and on each noised test set, and the differences to random_init if it is there.

    Values that lie far from all others have the colour of the range's end; every cell's number is printed where there
    is room.

    Args:
        accuracy: [V, 1+D] means in percent; index 0 is the clean test set.
        names: V names; random_init's row comes first.
        noises: D names.
    """
    order = rows.baseline_first(names)
    accuracy = np.asarray(accuracy, float)[order]
    labels = w.row_names([names[v] for v in order], 28)
    columns = ["clean", *w.numbered(noises, 99)]
    panels = [("mean test accuracy (%)", accuracy, [[_text(x, "z", 99.95) for x in row] for row in accuracy])]
    if BASELINE in names and len(names) > 1:
        points = accuracy - accuracy[0]
        texts = [[_text(x, "+z", 9.95) for x in row] for row in points]
        panels.append((f"difference to {BASELINE} (points)", points, texts))
    width = d.WIDTH - 0.3 - w.inches(labels)
    widest = max(w.inches(["99.9", *(text for row in panels[-1][2] for text in row)]) + 0.03, 0.3)
    beside = len(panels) > 1 and width / 2 - 0.1 > widest * len(columns)
    shape = (1, len(panels)) if beside else (len(panels), 1)
    room = width / 2 - 0.1 if beside else width
    each = rows.height(len(names)) + 0.8 + w.columns_height(columns, room)
    figure = d.canvas(d.WIDTH, each * shape[0] + 0.4, "Test accuracy by the noise of the test set")
    axes = figure.subplots(*shape, squeeze=False, sharey=True).ravel()
    for ax, (label, values, texts) in zip(axes, panels, strict=True):
        low, high = scales.fence(values)
        signed = values is not accuracy  # white is zero
        norm = d.symmetric([], max(abs(low), abs(high))) if signed else d.span(np.array([low, high]))
        image = d.heat_map(
            ax, values, d.colour_map("RdBu" if signed else "viridis"), norm, labels, columns, texts, room
        )
        ax.axvline(0.5, color="white", linewidth=4)
        d.style(ax, "test set")
        beyond = bool((values < norm.vmin).any()), bool((values > norm.vmax).any())
        ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
        d.colour_bar(figure, image, [ax], label, below=True, beyond=ends, ticks=5)
    if beside:
        axes[1].tick_params(labelleft=False)
    return d.settled(figure)


def _saved(curve: ReachCurve, end: float) -> float:
    """Return the mean over repeats of the batches left when it was reached: the area under the curve up to the end."""
    return float(((end - curve.steps) * np.diff(curve.share, prepend=0.0)).sum())


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


def _text(value: float, sign: str, few: float) -> str:
    """Return a cell's text: of at most four characters, so that both panels find room side by side."""
    return number(value, f"{sign}.{int(abs(value) < few)}f")
