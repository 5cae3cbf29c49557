"""Numbers and tables as people read them: the only place where a number becomes text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

MINUS = "−"


def number(value: float | None, spec: str = ".2f") -> str:
    """Return a number as text; a dash where there is none. With z in the spec, what rounds to 0 has no sign."""
    if value is None or math.isnan(value):
        return "–"
    text = format(value, spec)
    if "z" in spec and not text.strip("+0.,"):
        text = text.lstrip("+")
    return text.replace("-", MINUS)


def plus_minus(mean: float, sd: float, decimals: int = 2) -> str:
    """Return mean ± sd; the mean alone where a single value has no sd."""
    text = number(mean, f".{decimals}f")
    return text if math.isnan(sd) else f"{text} ± {number(sd, f'.{decimals}f')}"


def interval(low: float | None, high: float | None, spec: str = "+.2f") -> str:
    """Return an interval as text; a dash where there is none."""
    if low is None or high is None or math.isnan(low + high):
        return "–"
    return f"{number(low, spec)} to {number(high, spec)}"


def estimate(middle: float, low: float, high: float, spec: str = ".2f") -> str:
    """Return 'mean [low, high]'; the mean alone where there is no interval."""
    if math.isnan(middle + low + high):
        return number(middle, spec)
    return f"{number(middle, spec)} [{number(low, spec)}, {number(high, spec)}]"


def p_value(p: float | None) -> str:
    """Return a p value in three decimals, very small ones as an upper bound."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """Return names as people list them: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def markdown(table: Mapping[str, list]) -> str:
    """Return a table of columns as markdown."""
    return tabulate(_cells(table), headers="keys", tablefmt="github", disable_numparse=True)


def text_table(table: Mapping[str, list]) -> str:
    """Return a table of columns as aligned text: the first column to the left, the others to the right."""
    align = ["left", *["right"] * (len(table) - 1)]
    return tabulate(_cells(table), headers="keys", tablefmt="simple", disable_numparse=True, colalign=align)


def file_name(name: str) -> str:
    """Return the name of a measure or variant as a part of a file's or metric's name."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _cells(table: Mapping[str, list]) -> dict[str, list[str]]:
    return {name: [_cell(value) for value in column] for name, column in table.items()}


def _cell(value: Any) -> str:
    if isinstance(value, float) or value is None:
        return number(value, ".3f" if value is not None and abs(value) < 10 else ".2f")
    return str(value)
