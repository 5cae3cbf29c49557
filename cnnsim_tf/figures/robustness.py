"""Figure of how the variants do on test sets with noise."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import rows, scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.report.formats import number
from cnnsim_tf.study import BASELINE


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


def _text(value: float, sign: str, few: float) -> str:
    """Return a cell's text: of at most four characters, so that both panels find room side by side."""
    return number(value, f"{sign}.{int(abs(value) < few)}f")
