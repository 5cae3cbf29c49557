"""Axes that show collapsed and converged CNNs in one picture, and the axis of training steps."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from cnnsim_tf.figures import wording as w

COMPRESSED_SHARE = 0.25  # of the axis' height
LEAST_ERROR = 0.01  # percent; an accuracy of 100 % is drawn as if one image in 10,000 were wrong


def collapsed(values: np.ndarray) -> bool:
    """Return whether accuracies in percent lie so far apart that a plain axis would hide their differences."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() < 50 and finite.max() > 80)


def knee(values: np.ndarray) -> float:
    """Return the accuracy below which the axis is compressed: just under the bulk (Tukey's far-out fence)."""
    good = values[np.isfinite(values) & (values > 50)]
    quarter, three = np.quantile(good, [0.25, 0.75])
    bulk = good[good >= quarter - 3 * (three - quarter)]
    return float(np.floor(bulk.min() - max(0.1 * (bulk.max() - bulk.min()), 0.2)))


def fence(values: np.ndarray) -> tuple[float, float]:
    """Return limits for an axis: the finite values', or without what Tukey calls far out where that saves much room."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    quarter, three = np.quantile(finite, [0.25, 0.75])
    reach = 3 * (three - quarter)
    near = finite[(finite >= quarter - reach) & (finite <= three + reach)]
    inner = float(near.min()), float(near.max())
    return inner if 0 < inner[1] - inner[0] < 0.6 * (high - low) else (low, high)


def fit_accuracy(ax: Axes, extent: np.ndarray, accuracy: np.ndarray, along: Literal["x", "y"] = "y") -> str:
    """Set the scale, limits and ticks of an axis for accuracies in percent; return its label.

    Args:
        ax: the axes.
        extent: everything that should be inside; what lies above all single values is cut on a compressed axis.
        accuracy: the single values, which decide on the scale.
        along: which of the two axes.
    """
    set_limits = ax.set_ylim if along == "y" else ax.set_xlim
    finite = extent[np.isfinite(extent)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    if not collapsed(accuracy):
        pad = max(0.05 * (high - low), 0.05)
        set_limits(low - pad, min(high + pad, 100 + pad))
        return "test accuracy (%)"
    bend = knee(accuracy)
    best = float(np.nanmax(accuracy))
    bottom, top = max(0.0, low - 8), min(best + 0.12 * (best - bend), 100.2)
    slopes = COMPRESSED_SHARE / (bend - bottom), (1 - COMPRESSED_SHARE) / (top - bend)

    def forward(y: np.ndarray) -> np.ndarray:
        y = np.asarray(y, float)
        return COMPRESSED_SHARE + np.where(y < bend, (y - bend) * slopes[0], (y - bend) * slopes[1])

    def inverse(z: np.ndarray) -> np.ndarray:
        z = np.asarray(z, float) - COMPRESSED_SHARE
        return bend + np.where(z < 0, z / slopes[0], z / slopes[1])

    set_scale, set_ticks = (ax.set_yscale, ax.set_yticks) if along == "y" else (ax.set_xscale, ax.set_xticks)
    set_scale("function", functions=(forward, inverse))
    set_limits(bottom, top)
    upper = [t for t in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(bend, top) if bend < t <= min(top, 100)]
    lower = [t for t in (0, 20, 40, 60, 80) if bottom <= t and (bend - t) * slopes[0] > 0.05]
    set_ticks([*lower, bend, *upper], [f"{t:g}" for t in (*lower, bend, *upper)])
    shade, line = (ax.axhspan, ax.axhline) if along == "y" else (ax.axvspan, ax.axvline)
    shade(bottom, bend, color="#f0f0f0", linewidth=0, zorder=0)
    line(bend, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    return f"test accuracy (%), axis compressed below {bend:g}"


def fit_error(ax: Axes, accuracy: np.ndarray) -> str:
    """Set the y axis for learning curves: by the logarithm of the error where they rise far; return its label."""
    if not collapsed(accuracy):
        return fit_accuracy(ax, accuracy, accuracy)
    finite = accuracy[np.isfinite(accuracy)]

    def forward(y: np.ndarray) -> np.ndarray:
        return -np.log10(np.maximum(100 - np.asarray(y, float), LEAST_ERROR))

    def inverse(z: np.ndarray) -> np.ndarray:
        return 100 - 10 ** -np.asarray(z, float)

    ax.set_yscale("function", functions=(forward, inverse))
    bottom = max(0.0, finite.min() - 4)
    top = 100 - max(LEAST_ERROR, (100 - finite.max()) * 0.85)
    ax.set_ylim(bottom, top)
    ticks = [t for t in (0, 20, 40, 60, 70, 80, 85, 90, 93, 95, 97, 98, 99, 99.5, 99.9) if bottom <= t <= top]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    return "test accuracy (%), by the logarithm of the error"


def fit_steps(ax: Axes, steps: np.ndarray, room: float) -> np.ndarray:
    """Set a log x axis with a tick at each step, labelled where `room` inches suffice; return where the steps lie.

    Step 0 has no place on a log axis: it is set apart on the left, behind a break of the axis.
    """
    positive = steps[steps > 0].astype(float)
    x = steps.astype(float)
    if len(positive) < len(steps):
        first = positive.min() if len(positive) else 1.0
        x = np.where(steps > 0, x, first / max(1.6, (steps.max() / first) ** 0.1))
    ax.set_xscale("log")
    margin = (x.max() / x.min()) ** 0.03 if x.max() > x.min() else 1.5
    low, high = x.min() / margin, x.max() * margin
    ax.set_xlim(low, high)
    places = (np.log(x) - np.log(low)) / (np.log(high) - np.log(low)) * room
    labels, free = [""] * len(steps), room + 1
    for i in reversed(np.argsort(x)):  # from the right: the last step matters most
        width = w.inches([str(steps[i])])
        if places[i] + width / 2 < free:
            labels[i], free = str(steps[i]), places[i] - width / 2 - 0.04
    ax.set_xticks(x, labels)
    if len(positive) and len(positive) < len(steps):
        middle = np.sqrt(x.min() * positive.min())
        ax.text(middle, 0, "//", transform=ax.get_xaxis_transform(), ha="center", va="center", fontsize=w.LABEL)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    return x
