"""Numbers and tables as people read them: the only place where a number becomes text."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

if TYPE_CHECKING:
    import pandas as pd

MINUS = "−"
DASH = "–"


class Number(str):
    """The text of a number, or of several: a column of them stands to the right."""


def number(value: float | None, spec: str = ".2f") -> Number:
    """Return a number as text, a dash where there is none; what rounds to 0 has no sign."""
    if value is None or math.isnan(value):
        return Number(DASH)
    text = format(value, spec)
    return Number((text if text.strip("+-0.,") else text.lstrip("+-")).replace("-", MINUS))


def plus_minus(mean: float, sd: float, decimals: int = 2) -> Number:
    """Return mean ± sd; the mean alone where a single value has no sd."""
    text = number(mean, f".{decimals}f")
    return text if math.isnan(sd) else Number(f"{text} ± {number(sd, f'.{decimals}f')}")


def interval(low: float | None, high: float | None, spec: str = "+.2f") -> Number:
    """Return an interval as text; a dash where there is none."""
    if low is None or high is None or math.isnan(low + high):
        return Number(DASH)
    return Number(f"{number(low, spec)} to {number(high, spec)}")


def estimate(middle: float, low: float, high: float, spec: str = ".2f") -> Number:
    """Return 'mean [low, high]'; the mean alone where there is no interval."""
    if math.isnan(middle + low + high):
        return number(middle, spec)
    return Number(f"{number(middle, spec)} [{number(low, spec)}, {number(high, spec)}]")


def p_value(p: float | None) -> Number:
    """Return a p value in three decimals, very small ones as an upper bound."""
    if p is None or math.isnan(p):
        return Number(DASH)
    return Number("< 0.001" if p < 0.001 else f"{p:.3f}")


def out_of(count: int, of: int) -> Number:
    """Return how many of how many."""
    return Number(f"{count} of {of}")


def listed(names: Sequence[str]) -> str:
    """Return names as people list them: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(clause: str) -> str:
    """Return what the terminal is told as a sentence of a page."""
    return f"{clause[:1].upper()}{clause[1:]}." if clause else ""


def file_name(name: str) -> str:
    """Return the name of a measure or variant as a part of a file's or metric's name."""
    return "".join(c if c.isalnum() else "_" for c in name)


def shown(rows: Sequence[Mapping[str, Any]], more: Sequence[str] = ()) -> "pd.DataFrame":
    """Return rows of cells, each by the name of its column, as a table for people.

    It has the columns `more`, too, where no row has them; a cell that lacks is blank.
    """
    import pandas as pd  # here, since figures need numbers as text and nothing else of it

    columns = dict.fromkeys([*(name for row in rows for name in row), *more])
    return pd.DataFrame(
        [[row.get(name, Number("")) for name in columns] for row in rows], columns=columns, dtype=object
    )


def is_number(column: "pd.Series") -> bool:
    """Tell whether a column holds nothing but numbers, or texts of them."""
    words = (isinstance(v, str | bool) and not isinstance(v, Number) for v in column)
    return len(column) > 0 and not any(words)


def texts(column: "pd.Series") -> list[str]:
    """Return the cells of a column as text; numbers get the same decimals if the column holds nothing else.

    There are as many decimals as its largest number needs, whole numbers have commas, None and NaN are a dash.
    """
    import pandas as pd

    if any(isinstance(v, str | bool) for v in column):
        return [DASH if v is None or v != v else str(v) for v in column]
    known = [v for v in column if isinstance(v, Real) and math.isfinite(v)]
    largest = max((abs(float(v)) for v in known), default=0.0)
    decimals = 2 if largest >= 10 else 3
    if largest >= 1000 or all(isinstance(v, Integral) for v in known):
        decimals = 0
    elif 0 < largest < 0.1:  # three digits of the largest, such as kWh of a repeat
        decimals = 2 - math.floor(math.log10(largest))
    return [str(number(None if pd.isna(v) else float(v), f",.{decimals}f")) for v in column]


def markdown(table: "pd.DataFrame") -> str:
    """Return a table as markdown."""
    return _tabulated(table, "github")


def text_table(table: "pd.DataFrame") -> str:
    """Return a table as aligned text."""
    return _tabulated(table, "simple")


def _tabulated(table: "pd.DataFrame", form: str) -> str:
    cells = {name: texts(table[name]) for name in table}
    align = ["right" if is_number(table[name]) else "left" for name in table]
    return tabulate(cells, headers="keys", tablefmt=form, disable_numparse=True, colalign=align)
