"""Figures of the comparison of variants: accuracy, learning curves, what is kept of the filters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, FEW, Look, highlighted, variant_look
from cnnsim_tf.figures.rows import accuracy_rows, kept_rows
from cnnsim_tf.report.formats import number
from cnnsim_tf.study import BASELINE


def accuracy_by_variant(accuracy: np.ndarray, low: np.ndarray, high: np.ndarray, variants: Sequence[str]) -> Figure:
    """Draw the test accuracy of every variant in every repeat, with means and their 95 % intervals.

    Where some repeats have collapsed (below 50 %) and others not (above 80 %), the axis is compressed below the
    bulk of the values, so that both can be seen; there, an arrow stands for an interval that leaves the axis.
    Intervals end at 0 and 100 %. More than 8 variants are drawn as rows, random_init first.

    Args:
        accuracy: [V, R] in percent; column r is the same repeat for all variants.
        low: [V] lower ends of the means' intervals; NaN: no interval.
        high: [V] upper ends.
        variants: V names.
    """
    count, repeats = accuracy.shape
    centre, low, high = d.mean(accuracy, 1), np.maximum(low, 0), np.minimum(high, 100)
    title = f"Test accuracy after target training: {w.repeats(repeats)}"
    title += ", mean and its 95 % confidence interval" if repeats > 1 else ""
    if count > FEW:
        return accuracy_rows(accuracy, centre, low, high, variants, title)
    figure = d.canvas(d.WIDTH if count > 2 else 4.8, 4.3, title)
    ax = figure.subplots()
    label = scales.fit_accuracy(ax, np.concatenate([accuracy.ravel(), low, high]), accuracy)
    offset = -0.1 if repeats > 1 else 0.0
    jitter = (np.arange(1, repeats + 1) * 0.6180339887 % 1 - 0.5) * 0.26 if repeats > 1 else np.zeros(1)
    x = np.arange(count)[:, None] + offset + jitter
    faint = float(np.clip(6 / repeats**0.75, 0.08, 0.6))
    lines = LineCollection(list(np.stack([x, accuracy], -1).swapaxes(0, 1)), colors="#888888", lw=0.5, alpha=faint)
    lines.set_zorder(1)
    ax.add_collection(lines)
    size = float(np.clip(300 / repeats, 8, 24)) if repeats > 1 else 45.0
    for v, name in enumerate(variants):
        look = variant_look(name, variants)
        ax.scatter(x[v], accuracy[v], s=size, c=look.colour, marker=look.marker, alpha=0.75, linewidths=0, zorder=2)
        if repeats > 1 and np.isfinite(centre[v]):
            _draw_interval(ax, v + 0.22, low[v], high[v])
            ax.scatter(v + 0.22, centre[v], s=60, c=look.colour, marker=look.marker, edgecolors="black", zorder=4)
    room = int((figure.get_figwidth() - 0.9) / count / w.SMALL / w.EM)
    means = [_mean_text(*numbers) for numbers in zip(centre, low, high, strict=True)]
    ax.set_xticks(range(count), [f"{w.wrapped(n, room)}\n{m}" for n, m in zip(variants, means, strict=True)])
    ax.set_xlim(-0.5, count - 0.5)
    ax.spines[["top", "right"]].set_visible(False)
    d.style(ax, "variant", label)
    return d.settled(figure)


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
    named = highlighted(variants, middle[:, -1])
    title = f"Test accuracy during target training: {w.repeats(repeats, 'median of')}"
    if many:
        title += f"\n({len(named)} of {len(variants)} named: published, controls and best; thin grey: others"
        title += f"; band: {BASELINE}'s middle half)" if repeats > 1 and BASELINE in named else ")"
    elif repeats > 1:
        title += "\n(band: middle half of the repeats" + ("; thin lines: every repeat)" if repeats <= 20 else ")")
    figure = d.canvas(d.WIDTH, 4.8 if many else 4.3, title)
    ax = figure.subplots()
    x = scales.fit_steps(ax, np.asarray(steps), d.WIDTH - 2.0)
    label = scales.fit_error(ax, middle if many else accuracy)
    if many:
        others = [np.column_stack([x, middle[v]]) for v, name in enumerate(variants) if name not in named]
        ax.add_collection(LineCollection(others, colors=FAINT, linewidths=0.6, zorder=1))
    shown = [v for v, name in enumerate(variants) if name in named]
    looks = [variant_look(variants[v], named) for v in shown]
    for v, look in zip(shown, looks, strict=True):
        if 1 < repeats <= 20 and not many:
            lines = list(np.stack([np.broadcast_to(x, accuracy[v].shape), accuracy[v]], -1))
            ax.add_collection(LineCollection(lines, colors=look.colour, linewidths=0.5, alpha=0.25, zorder=1))
        if repeats > 1 and (not many or variants[v] == BASELINE):
            ax.fill_between(x, low[v], high[v], color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        ax.plot(
            x,
            middle[v],
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            ms=5.5,
            mec="white",
            mew=0.7,
            zorder=3,
        )
    ends = middle[shown, -1]
    names = [f"{w.wrapped(n, 18)} {number(m, 'z.2f')}" for n, m in zip(named, ends, strict=True)]
    d.style(ax, "batches of target training (log scale)", label)
    ax.spines[["top", "right"]].set_visible(False)
    d.end_labels(figure, ax, np.full(len(named), x[-1]), ends, names, looks)
    return d.settled(figure)


def kept_similarity(
    similarity: np.ndarray, variants: Sequence[str], filter_names: Sequence[str], measure: str
) -> Figure:
    """Draw how alike each conv filter is before and after target training.

    Args:
        similarity: [V, R, F] by one measure, in its own units.
        variants: V names; with random_init among them, it can be seen what training alone changes. More than 8 are
            drawn as a heat map.
        filter_names: F names.
        measure: its name.
    """
    _, repeats, filters = similarity.shape
    title = f"Filters before and after target training by {measure}: {w.repeats(repeats, 'mean over')}"
    if len(variants) > FEW:
        return kept_rows(similarity, variants, filter_names, title)
    figure = d.canvas(d.WIDTH, 4.3, title + (", bar: middle half" if repeats > 1 else ""))
    each, overall = figure.subplots(1, 2, sharey=True, width_ratios=[6, 1])
    total = d.mean(similarity, 2)[:, :, None]
    looks = [variant_look(name, variants) for name in variants]
    for f in range(1, filters, 2):
        each.axvspan(f - 0.5, f + 0.5, color="#f2f2f2", linewidth=0)
    _draw_means(each, similarity, looks)
    xs = _draw_means(overall, total, looks)[:, 0]
    w.name_columns(each, filter_names, d.WIDTH - 2.5)
    w.name_columns(overall, ["mean of all"], 0.7)
    overall.tick_params(axis="y", length=0, labelleft=False)
    overall.spines["left"].set_visible(False)
    d.style(each, "filter", "score, before and after")
    d.style(overall)
    means = d.mean(total[:, :, 0], 1)
    names = [f"{w.wrapped(n, 18)} {number(m, 'z.2f')}" for n, m in zip(variants, means, strict=True)]
    d.end_labels(figure, overall, xs, means, names, looks)
    return d.settled(figure)


def _draw_means(ax: Axes, values: np.ndarray, looks: Sequence[Look]) -> np.ndarray:
    """Draw mean and quartiles of values [V, R, F] over repeats, variants side by side; return the x [V, F]."""
    count, repeats, filters = values.shape
    x = np.arange(filters) + (np.arange(count)[:, None] - (count - 1) / 2) * 0.8 / count
    for v, look in enumerate(looks):
        if repeats > 1 and filters * count <= 120:
            low, high = d.quantiles(values[v], (0.25, 0.75), 0)
            ax.vlines(x[v], low, high, colors=look.colour, linewidth=1.4)
        size = 24 if filters <= 20 else 14
        ax.scatter(x[v], d.mean(values[v], 0), s=size, c=look.colour, marker=look.marker, edgecolors="black", lw=0.4)
    ax.set_xlim(-0.5, filters - 0.5)
    ax.spines[["top", "right"]].set_visible(False)
    return x


def _draw_interval(ax: Axes, x: float, low: float, high: float) -> None:
    """Draw an interval as a bar with end caps; an arrow where it leaves the axis."""
    if not np.isfinite(low):
        return
    top = ax.get_ylim()[1]
    ax.vlines(x, low, min(high, top), colors="black", linewidth=1.6, zorder=3)
    ax.scatter(x, low, s=70, c="black", marker="_", linewidths=1.6, zorder=3)
    if high <= top:
        ax.scatter(x, high, s=70, c="black", marker="_", linewidths=1.6, zorder=3)
    else:
        ax.scatter(x, 0.985, s=40, c="black", marker="^", transform=ax.get_xaxis_transform(), zorder=3)


def _mean_text(centre: float, low: float, high: float) -> str:
    # Not ±, which stands for the standard deviation in the tables.
    interval = f"\n[{number(low, '.1f')}, {number(high, '.1f')}]" if np.isfinite(low) else ""
    return number(centre) + interval
