"""Figures of the comparison of variants: learning curves, what is kept of the filters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import rows, scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.figures.colours import FAINT, FEW, highlighted, variant_look
from cnnsim_tf.report.formats import number, plus_minus
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
    shown = [v for v, name in enumerate(variants) if name in named]
    looks = [variant_look(name, named) for name in named]
    if many:
        others = np.delete(middle, shown, axis=0)
        ax.add_collection(LineCollection(d.lines(x, others), colors=FAINT, linewidths=0.6, zorder=1))
    for v, look in zip(shown, looks, strict=True):
        if 1 < repeats <= 20 and not many:
            single = LineCollection(d.lines(x, accuracy[v]), colors=look.colour, linewidths=0.5, alpha=0.25, zorder=1)
            ax.add_collection(single)
        if repeats > 1 and (not many or variants[v] == BASELINE):
            ax.fill_between(x, low[v], high[v], color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        line = ax.plot(x, middle[v], color=look.colour, ls=look.line, marker=look.marker, zorder=3)[0]
        line.set(ms=5.5, mec="white", mew=0.7)
    ends = middle[shown, -1]
    names = [f"{w.wrapped(n, 18)} {number(m, '.2f')}" for n, m in zip(named, ends, strict=True)]
    d.style(ax, "batches of target training (log scale)", label)
    d.end_labels(figure, ax, np.full(len(named), x[-1]), ends, names, looks)
    return d.settled(figure)


def kept_similarity(
    similarity: np.ndarray, variants: Sequence[str], filter_names: Sequence[str], measure: str
) -> Figure:
    """Draw how alike each conv filter is before and after target training, a row for each variant, random_init first.

    The mean of all filters stands beside. Standard deviations are over repeats; those of single filters are printed for
    up to 8 variants, where there is room.

    Args:
        similarity: [V, R, F] by one measure, in its own units.
        variants: V names; with random_init among them, it can be seen what training alone changes.
        filter_names: F names.
        measure: its name.
    """
    order, repeats = rows.baseline_first(variants), similarity.shape[1]
    similarity = similarity[order]
    average, deviation, total = d.mean(similarity, 1), d.sd(similarity, 1), d.mean(similarity, 2)
    names, few = w.row_names([variants[v] for v in order]), len(order) <= FEW
    overall = [plus_minus(m, s) for m, s in zip(d.mean(total, 1), d.sd(total, 1), strict=True)]
    room = d.WIDTH - 0.7 - w.inches(names) - w.inches(["mean of all", *overall])
    texts = d.cells(average, deviation if few else np.full_like(deviation, np.nan), ".2f", room)
    title = f"Filters before and after target training by {measure}: {w.repeats(repeats, 'mean ± sd over')}"
    figure = d.canvas(d.WIDTH, rows.height(len(names), rows.ROOMY) + 1.4 + w.columns_height(filter_names, room), title)
    ax = figure.subplots()
    image = d.heat_map(ax, average, d.colour_map("viridis"), d.span(average), names, filter_names, texts, room)
    rows.side_columns(figure, ax, {"mean of all": overall})
    d.style(ax, "filter")
    d.colour_bar(figure, image, [ax], "score, before and after", below=True)
    return d.settled(figure)
