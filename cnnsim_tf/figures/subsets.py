"""Figures of the subsets and their donors: what the noises look like, what the donors have learnt."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import wording as w


def noise_examples(clean: np.ndarray, noised: np.ndarray, noises: Sequence[str], level: float) -> Figure:
    """Draw examples of every subset before and after its noise.

    Args:
        clean: [D, E, S, S] or [D, E, S, S, 3] images of the D subsets in -1..1.
        noised: the same images with their subset's noise; shown clipped to -1..1.
        noises: D names.
        level: strength of the noises, 1.0 = as published.
    """
    count, examples = clean.shape[:2]
    columns = 2 if count > 1 and examples <= 10 else 1
    rows = -(-count // columns)
    width = d.WIDTH if columns == 2 or examples > 10 else d.WIDTH / 2
    tile = min((width - 0.5) / columns / examples, 1.0)
    title = f"Training images of each subset without and with its noise (level {level:g})"
    figure = d.canvas(width, rows * (2 * tile + 0.3) + 0.35, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[count:]:
        ax.set_axis_off()
    for i, ax in enumerate(grid.flat[:count]):
        both = [np.clip(clean[i], -1, 1), np.clip(noised[i], -1, 1)]
        d.tiles(ax, both, d.colour_map("gray"), Normalize(-1, 1))
        ax.set_yticks([0.5, 1.5], ["clean", "noised"] if i % columns == 0 else ["", ""])
        d.style(ax, title=w.numbered(noises, 45)[i])
    return d.settled(figure)


def donor_accuracy(accuracy: np.ndarray, names: Sequence[str], noises: Sequence[str]) -> Figure:
    """Draw every donor's accuracy on clean and on noised test data.

    Args:
        accuracy: [R, D, 1 + N] in percent; donor d of a repeat on the clean test set (index 0) and on the test set
            with each noise (1..N).
        names: of the D donors; of those that are trained here the noises, which they were trained on.
        noises: N names.
    """
    count, average, deviation = len(accuracy), d.mean(accuracy, 0), d.sd(accuracy, 0)
    donors, sets = average.shape
    width = min(d.WIDTH, max(5.0, 1.9 + 0.75 * sets))
    title = f"Test accuracy of the donors (%): {w.repeats(count, 'mean over')}" + ", ± standard deviation" * (count > 1)
    rows, columns = w.numbered(names, 26), ["clean", *w.numbered(noises, 99)]
    room = width - 1.0 - w.inches(rows)
    figure = d.canvas(width, 1.1 + 0.45 * donors + w.columns_height(columns, room), title)
    ax = figure.subplots()
    texts = d.cells(average, deviation, ".1f", room)
    image = d.heat_map(ax, average, d.colour_map("viridis"), d.span(average), rows, columns, texts, room)
    ax.axvline(0.5, color="white", linewidth=3)
    trained = list(names) == list(noises)
    labels = ("the noise of a donor", "donor, by its training noise") if trained else ("a noise", "donor")
    d.style(ax, f"test set: clean, or with {labels[0]}", labels[1])
    d.colour_bar(figure, image, [ax], "mean test accuracy (%)")
    return d.settled(figure)
