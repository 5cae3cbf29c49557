"""Figures of filters themselves: all of them side by side, and the pairs that are most and least alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from cnnsim_tf.figures import drawing as d
from cnnsim_tf.figures import wording as w
from cnnsim_tf.report.formats import number

COLOURS = "RdBu_r"  # blue is negative, white zero, red positive: safe for colour-blind readers


@dataclass(frozen=True, eq=False)
class FilterPair:
    """Two filters and what a measure makes of them."""

    measure: str
    score: float
    filters: tuple[np.ndarray, np.ndarray]  # [k, k] each
    where: str  # such as 'repeat 3, conv2[out 1][in 0], donors 1 and 5'


def filter_grid(
    kernels: Sequence[np.ndarray | Sequence[np.ndarray]],
    names: Sequence[str],
    row_names: Sequence[str],
    title: str,
    limit: float | None = None,
) -> Figure:
    """Draw filters as heat maps: one row per CNN, one column per filter position.

    Args:
        kernels: one item per row: [F, k, k], or F arrays [k, k] where k differs between layers.
        names: F filter names, such as conv2[out 3][in 1]; many are wrapped into several blocks of columns.
        row_names: such as the donors' names, or initial and final.
        title: what is shown.
        limit: colours reach from -limit to limit; None: the largest absolute weight of all.
    """
    few = len(names) <= 12
    blocks = -(-len(names) // (12 if few else 20))
    per_block = -(-len(names) // blocks)
    rows = [w.wrapped(name, 18) for name in row_names]
    left = 0.2 + w.inches(rows)
    width = min(d.WIDTH, max(4.0, left + 1.1 + per_block * 0.8))
    tile = (width - left - 1.1) / per_block
    parts = [names[first : first + per_block] for first in range(0, len(names), per_block)]
    heads = max(w.columns_height(part, tile * len(part)) for part in parts)
    lines = title.count("\n") + 1
    figure = d.canvas(width, max(1.8, blocks * (tile * len(rows) + heads + 0.15) + 0.25 + 0.18 * lines), title)
    axes = figure.subplots(blocks, 1, squeeze=False)[:, 0]
    cmap, norm = d.colour_map(COLOURS), d.symmetric([k for row in kernels for k in row], limit)
    for block, (ax, part) in enumerate(zip(axes, parts, strict=True)):
        columns = range(block * per_block, block * per_block + len(part))
        grid = [[np.asarray(row[f]) for f in columns] for row in kernels]
        image = d.tiles(ax, grid, cmap, norm)
        ax.set_xlim(0, per_block)
        _mark_negative(ax, grid, cmap, norm, tile)
        d.style(ax)
        ax.xaxis.tick_top()
        w.name_columns(ax, part, tile * len(part), 0.5)
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    d.colour_bar(figure, image, list(axes), "weight\n(\N{MINUS SIGN} = negative)")
    return d.settled(figure)


def extreme_pairs(most: Sequence[FilterPair], least: Sequence[FilterPair]) -> Figure:
    """Draw the most and the least alike filters of each measure, with their weights.

    Args:
        most: one pair per measure, the most alike.
        least: the least alike pairs of the same measures in the same order.
    """
    kernels = [np.asarray(f) for pair in (*most, *least) for f in pair.filters]
    cmap, norm = d.colour_map(COLOURS), d.symmetric(kernels)
    figure = d.canvas(d.WIDTH, 2.15 * len(most) + 0.4, "Most and least alike filters of two donors, by each measure")
    axes = figure.subplots(len(most), 2, squeeze=False, gridspec_kw={"wspace": 0.06})
    for row, pairs in enumerate(zip(most, least, strict=True)):
        for ax, pair, word in zip(axes[row], pairs, ("most", "least"), strict=True):
            grid = [[np.asarray(f) for f in pair.filters]]
            image = d.tiles(ax, grid, cmap, norm)
            for c, tile in enumerate(grid[0]):
                _print_weights(ax, tile, c, cmap, norm)
            heading = w.wrapped(f"{pair.measure}, {word} alike: ", 44)
            d.style(ax, w.wrapped(pair.where, 50), title=f"{heading} {number(pair.score, '.3f')}")
            ax.xaxis.label.set_size(w.SMALL)
    d.colour_bar(figure, image, list(axes.flat), "weight")
    return d.settled(figure)


def _mark_negative(
    ax: Axes, grid: Sequence[Sequence[np.ndarray]], cmap: Colormap, norm: Normalize, tile: float
) -> None:
    """Put a small bar into every negative cell that has room: printed in grey, red and blue look the same."""
    kernels = [(r, c, kernel) for r, row in enumerate(grid) for c, kernel in enumerate(row)]
    size = 72 * tile / max(kernel.shape[0] for _, _, kernel in kernels) * 0.3
    marks = [
        [*(at[kernel < 0] for at in d.cell_centres(kernel, r, c)), kernel[kernel < 0]]
        for r, c, kernel in kernels
        if tile / max(kernel.shape) > 0.07
    ]
    if marks:
        x, y, values = map(np.concatenate, zip(*marks, strict=True))
        ax.scatter(x, y, s=size**2, marker="_", c=d.ink(cmap, norm, values), linewidths=0.8)


def _print_weights(ax: Axes, tile: np.ndarray, c: int, cmap: Colormap, norm: Normalize) -> None:
    """Print the weights into the cells of a filter in column c, as precisely as there is room."""
    if max(tile.shape) > 5:
        return
    decimals = 2 if max(tile.shape) <= 3 else 1
    cells = (*d.cell_centres(tile, 0, c), tile, d.ink(cmap, norm, tile))
    for x, y, value, colour in zip(*(a.ravel() for a in cells), strict=True):
        if np.isfinite(value):
            text = number(value, f".{decimals}f")
            ax.text(x, y, text, fontsize=w.SMALL, color=colour, ha="center", va="center").set_in_layout(False)
