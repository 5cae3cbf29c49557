"""Figure of how the variants do on test sets with noise."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import rows, scales
from cnnsim_tf.figures import wording as w
from cnnsim_tf.report.formats import number
from cnnsim_tf.study import BASELINE


def noise_test_accuracy(accuracy: np.ndarray, names: Sequence[str], noises: Sequence[str]) -> Figure:
    """Draw mean accuracies on the clean and on each noised test set, and the differences to random_init if it is there.

    Values that lie far from all others have the colour of the range's end; every cell's number is printed.

    Args:
        accuracy: [V, 1+D] means in percent; index 0 is the clean test set.
        names: V names; random_init's row comes first.
        noises: D names.
    """
    order = sorted(range(len(names)), key=lambda v: names[v] != BASELINE)
    accuracy = np.asarray(accuracy, float)[order]
    labels = w.row_names([names[v] for v in order], 28)
    columns = ["clean", *w.numbered(noises, 99)]
    panels = [(accuracy, "mean test accuracy (%)", False)]
    if BASELINE in names and len(names) > 1:
        panels.append((accuracy - accuracy[0], f"difference to {BASELINE} (points)", True))
    width = d.WIDTH - 0.3 - w.inches(labels)
    widest = max(w.inches(["99.9", *(_text(x, True) for x in panels[-1][0].ravel().tolist())]) + 0.03, 0.3)
    beside = len(panels) > 1 and width / 2 - 0.1 > widest * len(columns)
    room = width / 2 - 0.1 if beside else width
    heads = w.columns_height(columns, room)
    each = rows.height(len(names)) + 0.8 + heads
    title = "Test accuracy by the noise of the test set"
    figure = d.canvas(d.WIDTH, each * (1 if beside else len(panels)) + 0.4, title)
    shape = (1, len(panels)) if beside else (len(panels), 1)
    axes = figure.subplots(*shape, squeeze=False, sharey=True).ravel()
    fits = room / len(columns) > widest
    for ax, (values, label, signed) in zip(axes, panels, strict=False):
        _draw(figure, ax, values, label, signed, labels, fits)
        w.name_columns(ax, columns, room)
        ax.axvline(0.5, color="white", linewidth=4)
        d.style(ax, "test set")
    if beside:
        axes[1].tick_params(labelleft=False)
    return d.settled(figure)


def _draw(
    figure: Figure, ax: Axes, values: np.ndarray, label: str, signed: bool, names: Sequence[str], fits: bool
) -> None:
    """Draw one heat map [V, 1+D] with its colour bar; signed ones with white at zero."""
    low, high = scales.fence(values)
    far = values[np.isfinite(values)]
    below, above = bool((far < low).any()), bool((far > high).any())
    norm: Normalize = d.symmetric([], max(abs(low), abs(high))) if signed else d.span(np.array([low, high]))
    if signed:
        below, above = bool((far < norm.vmin).any()), bool((far > norm.vmax).any())
    text = (lambda i, j: _text(float(values[i, j]), signed)) if fits else None
    blank = np.full(values.shape[1], "")
    image = d.heat_map(ax, values, d.colour_map("RdBu" if signed else "viridis"), norm, names, blank.tolist(), text)
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]
    d.colour_bar(figure, image, [ax], label, below=True, beyond=beyond, ticks=5)


def _text(value: float, signed: bool) -> str:
    """Return a cell's text: of at most four characters, so that both panels find room side by side."""
    if np.isnan(value):
        return ""
    return number(value, f"+.{int(abs(value) < 9.95)}f" if signed else f".{int(abs(value) < 99.95)}f")
