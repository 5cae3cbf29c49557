"""One self-contained HTML page that answers a run's question: plain values and figures in, a str of HTML out.

The page loads nothing: its style and its figures (SVG) are in it, it has no script, and it says so to the browser.
Everything but the figures is escaped, so a variant may be called `<script>`. The same page gives the same text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from cnnsim_tf.report import formats
from cnnsim_tf.report.drawing import Drawing, inline

LONG = 28  # characters; longer cells of text may take several lines
WORD = 16  # characters; longer words may be broken
BREAK = "\0"  # stands for <wbr> until the text is escaped
SHORT_TABLE = 18  # rows; up to here a table is kept on one printed page
WIDE = 480  # CSS pixels; narrower figures stand side by side
POINT = 96 / 72  # CSS pixels


@dataclass(frozen=True)
class Shown:
    """A figure with its caption, which says what to look at, and its text alternative; the page numbers figures."""

    figure: Drawing
    caption: str
    alternative: str


@dataclass(frozen=True)
class PageTable:
    """A table, whose first column names its rows; formats.texts says how cells are printed.

    The page numbers tables itself.
    """

    caption: str
    rows: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A section: paragraphs of `text` are separated by an empty line, lines that begin with `- ` are a list.

    Figures have names (see inline), of which no two on a page are the same.
    """

    title: str
    text: str = ""
    tables: Sequence[PageTable] = ()
    figures: Mapping[str, Shown] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """All that a page says, in its order.

    Attributes:
        title: of the page and of the browser's window.
        question: what the run was to find out.
        answer: sentences that follow from the statistics; or lines, each `- ` and a question with its answer.
        facts: the settings that matter (data, level, repeats, seed, ...), each with its value as text.
        sections: the results.
        settings: all parameters; in a row whose `value` differs from its `default` (two of its columns), this is said.
        reused: a sentence for each thing that was not computed anew.
        reproduce: command lines, each in a block of its own.
        versions: of what computed the results.
        digests: of the data and of what else identifies the results.
        date: when the results were computed, as people read it.
    """

    title: str
    question: str
    answer: str
    facts: Mapping[str, str]
    sections: Sequence[Part]
    settings: PageTable
    reused: Sequence[str]
    reproduce: Sequence[str]
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    date: str


def render(page: Page) -> str:
    """Return the page as an HTML document."""
    tables = pictures = 0
    sections = []
    for section in page.sections:
        sections.append(
            {
                "title": section.title,
                "blocks": blocks(section.text),
                "tables": [_table(table, tables + i) for i, table in enumerate(section.tables, start=1)],
                "pictures": [
                    _picture(name, shown, pictures + i) for i, (name, shown) in enumerate(section.figures.items(), 1)
                ],
            }
        )
        tables, pictures = tables + len(section.tables), pictures + len(section.figures)
    settings = _table(page.settings, tables + 1)
    return _template().render(page=page, answer=answers(page.answer), sections=sections, settings=settings)


def answers(text: str) -> list[tuple[str, str]]:
    """Return the paragraphs and items of an answer, each cut behind the question that an item begins with."""
    lines = [(block.is_list, line) for block in blocks(text) for line in block.lines]
    cut = (re.fullmatch(r"(.+?\?) (.+)", line) if is_list else None for is_list, line in lines)
    return [(m[1], m[2]) if m else ("", line) for m, (_, line) in zip(cut, lines, strict=True)]


class Block(NamedTuple):
    """A paragraph (one line) or a list (its items)."""

    is_list: bool
    lines: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Return the paragraphs and lists of a plain text in their order."""
    result = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        stripped = [line.strip() for line in paragraph.split("\n") if line.strip()]
        for is_list, group in groupby(stripped, key=lambda line: line.startswith("- ")):
            lines = tuple(group)
            result.append(Block(is_list, tuple(line[2:].strip() for line in lines) if is_list else (" ".join(lines),)))
    return result


def breakable(text: str) -> Markup:
    """Return text escaped, with places where a browser may break long words.

    They are before [ and, in long words, after + : / , and =; after _ and . in what is still long then. A number and
    its % stay together, as do p and its value, and so does what is in short [brackets].
    """
    kept = re.sub(
        r"(?<=\d) %|\bp [=<] (?=\d)|\[[^\[\]]{,20}\]", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), str(text)
    )
    kept = re.sub(r"(?<=\w)(?=\[)", BREAK, kept)
    places = (r"(?<=\w[+:/,=])(?=\w)", r"(?<=\w[_.])(?=\w)")
    kept = re.sub(rf"\S{{{WORD + 1},}}", lambda m: BREAK.join(_pieces(m[0], *places)), kept)
    return Markup("<wbr>").join(kept.split(BREAK))


def _pieces(word: str, place: str, *others: str) -> list[str]:
    """Return a word in pieces, cut at the first kind of place (a pattern) if it is long, long pieces at the others."""
    if len(word) <= WORD:
        return [word]
    pieces = re.split(place, word)
    return [part for piece in pieces for part in (_pieces(piece, *others) if others else [piece])]


def _picture(name: str, shown: Shown, number: int) -> dict[str, Any]:
    drawn = shown.figure.file("svg").decode()
    svg = Markup(inline(drawn, name, shown.caption.split(":")[0], shown.alternative))
    natural = float(re.findall(r'viewBox="\S+ \S+ (\S+) ', drawn)[0]) * POINT  # matplotlib's unit is the point
    return {"number": number, "caption": shown.caption, "svg": svg, "width": round(natural), "wide": natural > WIDE}


def _table(table: PageTable, number: int) -> dict[str, Any]:
    frame = table.rows
    columns = {name: formats.texts(frame[name]) for name in frame}
    kinds = {name: _kind(frame[name], cells) for name, cells in columns.items()}
    differs = [False] * len(frame)
    if {"value", "default"} <= set(frame):
        differs = (frame["value"] != frame["default"]).tolist()
    rows = [[(cells[i], kinds[name]) for name, cells in columns.items()] for i in range(len(frame))]
    return {
        "number": number,
        "caption": table.caption,
        "note": table.note,
        "head": list(kinds.items()),
        "rows": list(zip(rows, differs, strict=True)),
        "short": len(rows) <= SHORT_TABLE,
        "characters": sum(_room(cells, name, kinds[name]) for name, cells in columns.items()),
    }


def _kind(column: pd.Series, cells: Sequence[str]) -> str:
    """Return the class of a column's cells: numbers to the right; long texts may take several lines."""
    if formats.is_number(column):
        return "number"
    return "long" if any(len(cell) > LONG for cell in cells) else "text"


def _room(cells: Sequence[str], name: str, kind: str) -> int:
    """Return about how many characters wide a column must be, margins included: it decides on the print's size."""
    longest = max(map(len, cells), default=0)
    most = {"number": longest, "long": LONG, "text": WORD + 2}[kind]
    return 3 + max(min(longest, most), *(min(len(word), most + 8) for word in re.split(r"\s(?![^\[]*\])|\[", name)))


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["breakable"] = breakable
    return environment.from_string((resources.files("cnnsim_tf.report") / "page.html.j2").read_text("utf-8"))
