"""What tells variants apart in every figure: a colour, a marker and a line style per name."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Look(NamedTuple):
    """How a variant is drawn: distinct without colour, too."""

    colour: str
    marker: str = "o"
    line: Any = ""


# Of Okabe and Ito's palette (Color Universal Design, 2008), which stays distinct for colour-blind readers.
FIXED = {
    "random_init": Look("#6b6b6b", "o", (0, (5, 1.5))),
    "cosine": Look("#0072b2", "s", "-"),
    "pearson": Look("#d55e00", "^", (0, (5, 1, 1, 1))),
    "frobenius": Look("#009e73", "D", ":"),
}
OTHERS = ("#cc79a7", "#e69f00", "#56b4e9", "#7a4f2a", "#5e3c99")
OTHER_MARKERS = ("v", "P", "X", "<", ">", "h", "p")
OTHER_LINES: tuple[Any, ...] = ((0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 1)), "-")

FEW = 8  # variants that can be told apart by colour, marker and line style in one figure
FAINT = "#b4b4b4"  # the lines of all others
ALWAYS = (*FIXED, "random_donor")  # the control that the others have to beat is never a nameless line

# Dark, middle and white: distinct in grey, too.
VERDICT_LOOKS = {
    "higher": Look("#0072b2", ">"),
    "lower": Look("#e69f00", "<"),
    "not distinguishable": Look("#ffffff"),
}


def variant_colour(name: str, variants: Sequence[str]) -> str:
    """Return the variant's colour as #rrggbb.

    random_init and the three published measures have colours of their own; the others take turns in their order
    among `variants`.

    Raises:
        ValueError: the name is neither one of these four nor in `variants`.
    """
    return variant_look(name, variants).colour


def variant_look(name: str, variants: Sequence[str]) -> Look:
    """Return colour, marker and line style of a variant; the same combination comes again after 35 other variants."""
    if name in FIXED:
        return FIXED[name]
    turn = [v for v in variants if v not in FIXED].index(name)
    return Look(OTHERS[turn % len(OTHERS)], OTHER_MARKERS[turn % 7], OTHER_LINES[turn % 4])


def highlighted(variants: Sequence[str], worth: np.ndarray) -> dict[int, Look]:
    """Return the looks of the variants to draw in colours of their own, at most 8, by position, in their order.

    All, if they are few; else random_init, the published three, random_donor, and those of the largest worth ([V];
    NaN: last).
    """
    fixed = [name for name in variants if name in ALWAYS or len(variants) <= FEW]
    order = np.argsort(np.nan_to_num(-np.asarray(worth, float), nan=np.inf), kind="stable")
    others = [variants[v] for v in order if variants[v] not in fixed]
    chosen = {*fixed, *others[: FEW - len(fixed)]}
    named = [name for name in variants if name in chosen]
    return {v: variant_look(name, named) for v, name in enumerate(variants) if name in chosen}
