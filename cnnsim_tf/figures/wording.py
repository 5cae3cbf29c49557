"""Names as they are printed in figures: their sizes, and how long ones are made to fit."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

TITLE, LABEL, SMALL = 10.0, 9.0, 8.0  # points
EM = 0.56 / 72  # inches per character and point of font size, on average


def inches(texts: Sequence[str], size: float = SMALL) -> float:
    """Return the width of the widest line of the texts as printed."""
    font = FontProperties(size=size)
    lines = {line for text in texts for line in text.split("\n")}
    return max(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] / 72 for line in lines)


def wrapped(name: str, width: int) -> str:
    """Return a name in lines of at most `width` characters, broken after . : + _ / or before [ if possible."""
    lines = [""]
    for piece in _pieces(name):
        for start in range(0, len(piece), width):
            part = piece[start : start + width]
            if len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip() for line in lines if line)


def _pieces(name: str) -> list[str]:
    return re.split(r"(?<=[.:+_/])|(?<= )(?![^\[]*\])|(?=\[)", name)


def shortened(name: str, width: int) -> str:
    """Return a name of at most `width` characters, without its middle if need be."""
    if len(name) <= width:
        return name
    return f"{name[: (width - 1) // 2]}\N{HORIZONTAL ELLIPSIS}{name[-(width // 2) :]}"


def row_names(names: Sequence[str], width: int = 32) -> list[str]:
    """Return names for rows of one line each: shortened, but never so far that two different ones look the same."""
    while len({shortened(name, width) for name in names}) < len(set(names)):
        width += 1
    return [shortened(name, width) for name in names]


def column_names(names: Sequence[str], room: float) -> tuple[list[str], int]:
    """Return names to stand side by side in `room` inches, and their rotation in degrees.

    They are wrapped; or upright, if a part of one is too wide for that; or upright, shortened and only every n-th.
    """
    each = room / len(names)
    width = max(int(each / SMALL / EM), max(len(piece) for name in names for piece in _pieces(name)))
    level = [wrapped(name, width) for name in names]
    if inches(level) < each - 0.03:
        return level, 0
    upright, line = [wrapped(name, 24) for name in names], SMALL * 1.2 / 72
    if max(name.count("\n") + 1 for name in upright) * line < each:
        return upright, 90
    short = [shortened(name, 24) for name in names]
    step = int(np.ceil(line / each))
    return [name if i % step == 0 else "" for i, name in enumerate(short)], 90


def name_columns(ax: Axes, names: Sequence[str], room: float, start: float = 0.0) -> None:
    """Name the columns at start, start + 1, ... of axes about `room` inches wide."""
    labels, rotation = column_names(names, room)
    ax.set_xticks(np.arange(len(names)) + start, labels, rotation=rotation)


def columns_height(names: Sequence[str], room: float) -> float:
    """Return the height in inches of the columns' names."""
    labels, rotation = column_names(names, room)
    return inches(labels) if rotation else max(name.count("\n") + 1 for name in labels) * SMALL * 1.3 / 72


def numbered(names: Sequence[str], width: int = 16) -> list[str]:
    """Return the names of donors, counted from 1."""
    return [wrapped(f"{i} {name}", width) for i, name in enumerate(names, start=1)]


def repeats(count: int, what: str = "") -> str:
    """Return '1 repeat' or '20 repeats', of many 'mean over 20 repeats'."""
    return "1 repeat" if count == 1 else f"{what} {count} repeats".strip()


def variants(count: int, what: str = "") -> str:
    """Return '1 variant' or '33 variants', of 'other ' '33 other variants'."""
    return f"{count} {what}variant{'s' * (count != 1)}"
