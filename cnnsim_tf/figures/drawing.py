"""What the figures share: size, layout, averages, heat maps, labels of lines."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from cnnsim_tf.figures.colours import Look
from cnnsim_tf.figures.wording import EM, LABEL, SMALL, TITLE, inches, name_columns, wrapped
from cnnsim_tf.report.formats import number

DPI = 150
WIDTH = 7.2  # inches: the text width of an A4 or letter page, so that point sizes below are printed sizes

TILE_GAP = 1 / 13  # between small images, of their distance
MOST_PIXELS = 480  # along a side of a small image, as it is drawn among others


def canvas(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of a size in inches under a title, wrapped where needed."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    lines = [textwrap.fill(line, int(width / (TITLE * EM))) for line in title.split("\n")]
    figure.suptitle("\n".join(lines), fontsize=TITLE)
    return figure


def panels(count: int, each: float, more: float, title: str, *, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many panels, up to two in a row, and these; a row takes `each` inches, the rest `more`."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = canvas(WIDTH, rows * each + more, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex).ravel().tolist()
    for ax in grid[count:]:
        ax.set_axis_off()
    return figure, grid[:count]


def settled(figure: Figure) -> Figure:
    """Return the figure with its layout solved and kept, without an engine, for which each saving would draw it twice.

    One pass alone misplaces axes of fixed aspect; and solved anew at each saving, the layout would creep by a pixel.
    """
    engine = figure.get_layout_engine()
    passes = 2 if any(ax.get_aspect() != "auto" for ax in figure.axes) else 1
    for _ in range(passes):
        if engine is not None:
            engine.execute(figure)
    figure.set_layout_engine(None)
    return figure


def style(ax: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes, set the type sizes and leave the frame open at the top and the right."""
    ax.set_xlabel(wrapped(x, 60), fontsize=LABEL)
    ax.set_ylabel(wrapped(y, 52), fontsize=LABEL)
    ax.set_title(title, fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, looks: Mapping[str, Look], columns: int = 3, length: float = 2.0, **line: Any) -> None:
    """Put a legend of names and their looks below the axes; `line` is how all are drawn, `length` of a line in ems."""
    handles = [
        Line2D([], [], color=k.colour, ls=k.line, marker=k.marker, label=name, **line) for name, k in looks.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, handlelength=length, fontsize=SMALL, frameon=False
    )


def lines(x: np.ndarray, ys: np.ndarray) -> list[np.ndarray]:
    """Return lines [P, 2] through the same x [P] for a LineCollection, one for each y of [n, P]."""
    return [np.column_stack([x, y]) for y in ys]


def colour_bar(
    figure: Figure,
    image: AxesImage,
    axes: Sequence[Axes],
    label: str,
    *,
    below: bool = False,
    whole: bool = False,
    beyond: str = "neither",
    ticks: int = 9,
) -> None:
    """Put a labelled colour bar beside (or below) the axes, with whole numbers only if wanted.

    There are at most `ticks` intervals between its ticks; `beyond` says at which end ('min', 'max', 'both') values lie
    outside the colours' range.
    """
    place = {"location": "bottom", "aspect": 50, "fraction": 0.05} if below else {"location": "right", "aspect": 30}
    bar = figure.colorbar(image, ax=list(axes), pad=0.02, extend=beyond, **place)  # type: ignore[arg-type]
    bar.locator = MaxNLocator(ticks, integer=whole, steps=[1, 2, 2.5, 5, 10])
    bar.set_label(wrapped(label, 70) if below else label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return the mean over what is not NaN; NaN where nothing is."""
    return np.ma.masked_invalid(values).mean(axis=axis).astype(float).filled(np.nan)


def sd(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the sample standard deviation of what is not NaN; NaN where fewer than two are."""
    return np.ma.masked_invalid(values).std(axis=axis, ddof=1).astype(float).filled(np.nan)


def quantiles(values: np.ndarray, levels: Sequence[float], axis: int) -> np.ndarray:
    """Return quantiles [levels, ...] of what is not NaN; NaN where nothing is."""
    flat = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    known = np.isfinite(flat).any(axis=0)
    result = np.full((len(levels), flat.shape[1]), np.nan)
    result[:, known] = np.nanquantile(flat[:, known], levels, axis=0)
    return result.reshape(len(levels), *np.delete(values.shape, axis))


def colour_map(name: str) -> Colormap:
    """Return a colour map that draws NaN as white."""
    return matplotlib.colormaps[name].with_extremes(bad="white")


def span(values: np.ndarray, low: float | None = None) -> Normalize:
    """Return the colour range of the finite values, from `low` on if given; never an empty one."""
    finite = values[np.isfinite(values)]
    bottom = low if low is not None else float(finite.min(initial=np.inf)) if finite.size else 0.0
    top = float(finite.max()) if finite.size else 1.0
    return Normalize(bottom, top) if top > bottom else Normalize(bottom - 0.5 * (low is None), bottom + 1)


def symmetric(values: Sequence[np.ndarray], limit: float | None = None) -> Normalize:
    """Return a colour range centred at zero: up to `limit`, or to the largest finite size."""
    if limit is None:
        limit = max((float(np.max(np.abs(v[np.isfinite(v)]), initial=0.0)) for v in values), default=0.0)
    return Normalize(-(limit or 1.0), limit or 1.0)


def ink(cmap: Colormap, norm: Normalize, values: np.ndarray) -> np.ndarray:
    """Return black or white, whichever contrasts more with each value's colour (WCAG 2 relative luminance)."""
    rgb = cmap(norm(values))[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.where(linear @ [0.2126, 0.7152, 0.0722] > 0.179, "black", "white")


def heat_map(
    ax: Axes,
    values: np.ndarray,
    cmap: Colormap,
    norm: Normalize,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    room: float,
) -> AxesImage:
    """Draw values [rows, columns] as coloured cells `room` inches wide in all, with their names.

    NaN cells stay blank; the texts [rows, columns] are printed if all fit.
    """
    image = ax.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(rows)), rows)
    name_columns(ax, columns, room)
    ax.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    ax.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.8)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    printed = np.argwhere(np.isfinite(values)).tolist()
    longest = max((line for i, j in printed for line in texts[i][j].split("\n")), key=len, default="")
    if inches([longest]) < room / len(columns) - 0.03:
        colours = ink(cmap, norm, values)
        for i, j in printed:
            cell = ax.text(
                j, i, texts[i][j], color=colours[i, j], fontsize=SMALL, ha="center", va="center", linespacing=1.0
            )
            cell.set_in_layout(False)  # it lies within the axes; measuring hundreds of them takes seconds
    return image


def decimals(values: np.ndarray) -> int:
    """Return how many decimals tell values apart: two, or three where all lie within 0.05."""
    finite = values[np.isfinite(values)]
    return 3 if finite.size and 0 < np.ptp(finite) < 0.05 else 2


def cells(average: np.ndarray, deviation: np.ndarray, spec: str, room: float) -> Sequence[Sequence[str]]:
    """Return texts for a heat map [rows, columns] of means: with standard deviations below if `room` inches suffice."""
    means = [[number(m, spec) for m in row] for row in average]
    below = [["" if np.isnan(s) else f"± {number(s, spec)}" for s in row] for row in deviation]
    if max(map(inches, below)) > room / average.shape[1] - 0.03:
        return means
    return [[f"{m}\n{s}".strip() for m, s in zip(*both, strict=True)] for both in zip(means, below, strict=True)]


def tiles(ax: Axes, grid: Sequence[Sequence[np.ndarray]], cmap: Colormap, norm: Normalize) -> AxesImage:
    """Draw a grid [rows][columns] of small square images on one axes; tile (r, c) lies within c..c+1 and r..r+1.

    Images are [k, k], shown in the colours of `cmap`, or [k, k, 3], red, green and blue on the scale of `norm`. All as
    one image and one collection of frames, since each of a hundred artists takes a millisecond.
    """
    rows, columns = len(grid), max(len(row) for row in grid)
    side = min(MOST_PIXELS, math.lcm(12, *(len(tile) for row in grid for tile in row)))
    each = side + side // 12
    pixels = np.full((rows * each, columns * each, *np.shape(grid[0][0])[2:]), np.nan, np.float32)
    corners = [(r, c) for r, row in enumerate(grid) for c in range(len(row))]
    for r, c in corners:
        at = np.arange(side) * len(grid[r][c]) // side
        pixels[r * each : r * each + side, c * each : c * each + side] = grid[r][c][np.ix_(at, at)]
    shift = TILE_GAP / 2
    extent = (shift, columns + shift, rows + shift, shift)
    shown: np.ndarray = np.ma.masked_invalid(pixels)
    if pixels.ndim == 3:  # in which matplotlib knows no mask, but what is transparent
        shown = np.dstack([np.asarray(norm(np.nan_to_num(pixels))), np.isfinite(pixels).all(axis=2)])
    image = ax.imshow(shown, cmap=cmap, norm=norm, interpolation="nearest", extent=extent)
    corner = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (1 - TILE_GAP) + shift
    frames = [corner + np.array([c, r]) for r, c in corners]
    ax.add_collection(PolyCollection(frames, facecolors="none", edgecolors="#aaaaaa", linewidths=0.5))
    ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    for artist in (image, *ax.collections):
        artist.set_in_layout(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return image


def cell_centres(tile: np.ndarray, r: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y ([k, k] each) of the middles of a tile's cells as `tiles` draws them."""
    y, x = (np.indices(tile.shape) + 0.5) / np.array(tile.shape)[:, None, None] * (1 - TILE_GAP) + TILE_GAP / 2
    return x + c, y + r


def spread(wanted: np.ndarray, sizes: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return positions nearest to the wanted ones (least squares) at which labels of these sizes do not overlap."""
    order = np.argsort(wanted, kind="stable")
    size = sizes[order]
    steps = np.concatenate([[0.0], np.cumsum((size[1:] + size[:-1]) / 2)])
    free = np.clip(scipy.optimize.isotonic_regression(wanted[order] - steps).x, low, max(low, high - steps[-1]))
    placed = np.empty_like(wanted)
    placed[order] = free + steps
    return placed


def end_labels(
    figure: Figure,
    ax: Axes,
    xs: np.ndarray,
    ys: np.ndarray,
    names: Sequence[str],
    looks: Sequence[Look],
    share: float = 0.65,
    *,
    marked: bool = True,
) -> None:
    """Name lines at their right ends ([n] x and y in data coordinates; NaN: no label), without overlaps.

    The limits of the axes must be final; a leader and the line's own marker tie the name to its line. `share` is
    about the part of the figure's height that the axes have. `marked`: the line's marker stands before its name.
    """
    drawn = [i for i in range(len(names)) if np.isfinite(ys[i])]
    if not drawn:
        return
    points = 72 * share * figure.get_figheight()  # about the height of the axes; too small only spreads the names more
    at = (ax.transData + ax.transAxes.inverted()).transform([(xs[i], ys[i]) for i in drawn])[:, 1]
    sizes = np.array([(names[i].count("\n") * 1.3 + 1.5) * SMALL / points for i in drawn])
    places = (14, 18, 24 if marked else 17)
    leader, marker, text = (offset_copy(ax.transAxes, figure, x=x, units="points") for x in places)
    for i, y in zip(drawn, spread(at, sizes, 0.0, 1.0), strict=True):
        arrow = {"arrowstyle": "-", "color": looks[i].colour, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 4}
        ax.annotate("", xy=(xs[i], ys[i]), xytext=(1, y), textcoords=leader, arrowprops=arrow, annotation_clip=False)
        if marked:
            ax.plot(1, y, transform=marker, marker=looks[i].marker, color=looks[i].colour, ms=4.5, clip_on=False)
        ax.text(1, y, names[i], transform=text, fontsize=SMALL, va="center", linespacing=1.1)
