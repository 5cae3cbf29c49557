import dataclasses
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cnnsim_tf.report.drawing import Drawing
from cnnsim_tf.report.formats import Number, estimate, interval, number, out_of, p_value, plus_minus
from cnnsim_tf.report.page import Block, Page, PageTable, Part, Shown, answers, blocks, breakable, render

NAN = float("nan")
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr", "col", "source"}
HOSTILE = "<script>alert('1')</script>\"&"
TABLE = PageTable(
    "Accuracy",
    pd.DataFrame({"variant": ["random_init", "frobenius+with_biases"], "mean": [94.316, NAN]}),
    "A note.",
)


def drawn(caption, words):
    """Return a figure with clipped lines, an image and text, all of which refer to ids."""
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.imshow(np.eye(3))
    ax.plot([0, 1, 2], [0, 2, 1], marker="o")
    ax.set_title("a & b")
    return Shown(Drawing(lambda: figure), caption, words)


WORDS = ["Two bars.", 'A "line" & dots.', "Nothing."]
CAPTIONS = ["Look here.", "Look there.", "Look there."]


def a_page(**changes):
    first, *others = (drawn(*both) for both in zip(CAPTIONS, WORDS, strict=True))
    sections = (
        Part("Accuracy", "First.\n\nThen:\n- one\n- two", (TABLE,), {"first": first}),
        Part("Kept", "", (TABLE, TABLE), dict(zip(["second", "third"], others, strict=True))),
    )
    page = Page(
        title="Warm start",
        question="Does it help?",
        answer="It does not. It never did.",
        facts={"data": "mnist", "variants": "random_init, cosine, pearson, frobenius, frobenius+with_biases"},
        sections=sections,
        settings=PageTable(
            "Parameters",
            pd.DataFrame({"parameter": ["level", "seed"], "value": ["0.5", "0"], "default": ["1", "0"]}),
        ),
        reused=("Step noising was taken from run abc.",),
        reproduce=("git checkout abc", "mlflow run . -P level=0.5"),
        versions={"tensorflow": "2.15.1"},
        digests={"dataset": "a" * 64},
        date="23 November 2026",
    )
    return dataclasses.replace(page, **changes)


class Document(HTMLParser):
    """A strict reading of a page: its elements with their attributes and text, every tag closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        parents = [element["tag"] for element in self.open]
        element = {"tag": tag, "attributes": dict(attributes), "text": "", "parents": parents}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def attributes(self, name):
        return [e["attributes"][name] for e in self.elements if name in e["attributes"]]

    def rows(self, table):
        """Return the table'th table's rows as lists of cell texts."""
        start, rows = self.elements.index(self.all("table")[table]), []
        for element in self.elements[start + 1 :]:
            if "table" not in element["parents"]:
                break
            if element["tag"] == "tr":
                rows.append([])
            elif element["tag"] in ("th", "td"):
                rows[-1].append(element["text"])
        return rows


@pytest.fixture(scope="module")
def html():
    return render(a_page())


@pytest.fixture(scope="module")
def document(html):
    return Document(html)


def test_an_answer_is_cut_behind_its_questions():
    text = "- Is it so? It is not. Is it? No.\n- Really? Yes.\n- no question here"
    assert answers(text) == [("Is it so?", "It is not. Is it? No."), ("Really?", "Yes."), ("", "no question here")]
    assert answers("Nothing? It is not.") == [("", "Nothing? It is not.")]
    document = Document(render(a_page(answer=text)))
    assert [e["text"] for e in document.all("b") if e["text"].endswith("?")] == ["Is it so?", "Really?"]


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_page_is_html5_with_a_language_a_title_and_a_viewport(html, document):
    assert html.startswith("<!DOCTYPE html>\n")
    assert document.all("html")[0]["attributes"]["lang"] == "en"
    assert [e["text"] for e in document.all("title") if "svg" not in e["parents"]] == ["Warm start"]
    assert any(e["attributes"].get("name") == "viewport" for e in document.all("meta"))
    assert any(e["attributes"].get("charset") == "utf-8" for e in document.all("meta"))


def test_ids_are_unique_and_every_reference_has_its_target(html, document):
    ids = document.attributes("id")
    assert len(ids) == len(set(ids))
    references = [href[1:] for name in ("href", "xlink:href") for href in document.attributes(name) if href[0] == "#"]
    references += re.findall(r"url\(#([^)]+)\)", html)
    references += " ".join(document.attributes("aria-labelledby")).split()
    assert len(references) > 20
    assert set(references) <= set(ids)


def test_headings_begin_with_one_h1_and_skip_no_level(document):
    levels = [int(e["tag"][1]) for e in document.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_contents_link_to_every_section_in_order(document):
    titles = [e["text"] for e in document.all("h2") if "main" in e["parents"]]
    links = [e["text"] for e in document.all("a") if "nav" in e["parents"]]
    assert links == titles == ["Accuracy", "Kept", "Settings", "What was re-used", "Reproduce"]


def test_the_page_loads_nothing_and_runs_nothing(html, document):
    assert not document.all("script", "link", "iframe", "object", "embed", "audio", "video", "base")
    assert not re.search(r"@import|@font-face|url\((?!#)", html)
    loaded = document.attributes("src") + document.attributes("href") + document.attributes("xlink:href")
    assert any(address.startswith("data:image/png;base64,") for address in loaded)  # the image in the figures
    assert all(address.startswith(("#", "data:")) for address in loaded)
    assert not any(name.startswith("on") for e in document.elements for name in e["attributes"])
    policy = next(e for e in document.all("meta") if e["attributes"].get("http-equiv") == "Content-Security-Policy")
    assert policy["attributes"]["content"].startswith("default-src 'none';")


def test_the_same_page_gives_the_same_text():
    assert render(a_page()) == render(a_page())


def test_whatever_a_user_names_comes_out_as_text():
    table = PageTable(HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE], "value": [HOSTILE]}), HOSTILE)
    names = {HOSTILE: HOSTILE}
    section = Part(HOSTILE, f"{HOSTILE}\n- {HOSTILE}", (table,), {"hostile": drawn(HOSTILE, HOSTILE)})
    page = Page(HOSTILE, HOSTILE, HOSTILE, names, [section], table, [HOSTILE], [HOSTILE], names, names, HOSTILE)
    document = Document(render(page))
    assert not document.all("script")
    texts = [e["text"].strip() for e in document.elements if e["tag"] not in ("style", "svg")]
    assert sum(text.endswith(HOSTILE) for text in texts) > 25
    assert HOSTILE in [e["text"] for e in document.all("desc")]


# --- what it says ----------------------------------------------------------------------------------------------------


def test_question_answer_facts_commands_versions_and_digests_are_all_there(document):
    text = document.all("body")[0]["text"]
    assert text.index("Does it help?") < text.index("It does not. It never did.") < text.index("Contents")
    assert [e["text"] for e in document.all("code")] == ["git checkout abc", "mlflow run . -P level=0.5", "a" * 64]
    assert [e["text"] for e in document.all("dt")] == ["data", "variants", "tensorflow", "dataset"]
    assert {"mnist", "2.15.1"} <= {e["text"] for e in document.all("dd")}
    assert "23 November 2026" in text


def test_a_page_with_nothing_re_used_says_so():
    assert "Nothing: everything was computed anew." in render(a_page(reused=()))


def test_a_page_of_a_single_section_without_anything_in_it_is_still_a_page():
    empty = PageTable("Nothing", pd.DataFrame(columns=["parameter", "value"]))
    document = Document(render(a_page(sections=(Part("Empty"),), settings=empty)))
    assert document.rows(0) == [["parameter", "value"], ["nothing to show"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("one\nline", [Block(False, ("one line",))]),
        ("a\n\n\nb", [Block(False, ("a",)), Block(False, ("b",))]),
        ("a\n- b\n- c\nd", [Block(False, ("a",)), Block(True, ("b", "c")), Block(False, ("d",))]),
        ("-5 is a number, not an item", [Block(False, ("-5 is a number, not an item",))]),
    ],
)
def test_empty_lines_part_paragraphs_and_dashes_begin_items(text, expected):
    assert blocks(text) == expected


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("random_init", ["random_init"]),
        ("frobenius+with_biases", ["frobenius+", "with_biases"]),
        ("my_package.my_module:f+transplant", ["my_", "package.", "my_", "module:", "f+", "transplant"]),
        ("conv2[out 0][in 1]", ["conv2", "[out\N{NO-BREAK SPACE}0][in\N{NO-BREAK SPACE}1]"]),
        ("a 95 % interval", ["a 95\N{NO-BREAK SPACE}% interval"]),
        (
            "(p = 0.391, p < 0.001)",
            ["(p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.391, p\N{NO-BREAK SPACE}&lt;\N{NO-BREAK SPACE}0.001)"],
        ),
        ("1234567890.1234567890", ["1234567890.", "1234567890"]),
    ],
)
def test_long_names_can_be_broken_where_it_reads_well(text, pieces):
    assert str(breakable(text)).split("<wbr>") == pieces


# --- tables ----------------------------------------------------------------------------------------------------------


def test_every_table_has_a_numbered_caption_and_headers_with_a_scope(document):
    captions = [e["text"] for e in document.all("caption")]
    assert len(captions) == len(document.all("table")) == 4
    assert [c.split(".")[0] for c in captions] == ["Table 1", "Table 2", "Table 3", "Table 4"]
    assert all(e["attributes"]["scope"] == ("col" if "thead" in e["parents"] else "row") for e in document.all("th"))
    assert len(document.all("th")) == 3 * (2 + 2) + (3 + 2)


def test_tables_are_inside_of_something_that_scrolls_and_takes_the_focus(document):
    for table in document.all("table", "svg"):
        place = document.elements.index(table)
        around = next(e for e in reversed(document.elements[:place]) if e["tag"] == "div")
        assert "scroll" in around["attributes"]["class"].split()
        assert around["attributes"]["tabindex"] == "0"


def page_of_column(cells):
    """Return a page whose first table has a column x of these cells, and the classes of that column's cells."""
    rows = pd.DataFrame({"n": [f"row {i}" for i in range(len(cells))], "x": pd.Series(cells, dtype=object)})
    document = Document(render(a_page(sections=(Part("S", "", (PageTable("T", rows),)),))))
    table = document.elements.index(document.all("table")[0])
    end = document.elements.index(document.all("table")[1])
    cells = [e for e in document.elements[table:end] if e["tag"] == "td"]
    return document, [e["attributes"].get("class") for e in cells]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ([94.316, -5.2, NAN, None], ["94.32", "−5.20", "–", "–"]),
        ([600000, 5, None], ["600,000", "5", "–"]),
        ([123456, "mnist", True, None], ["123456", "mnist", "True", "–"]),
        ([], ["nothing to show"]),
    ],
)
def test_a_tables_cells_are_written_as_formats_says(column, texts):
    document, _ = page_of_column(column)
    assert [row[-1] for row in document.rows(0)[1:]] == texts


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([1, 2.5], "number"),
        ([1.5, None, NAN], "number"),
        ([plus_minus(94.32, 1.08), number(None)], "number"),
        ([estimate(0.31, -0.05, 0.67), estimate(-5.3, -9.1, -1.4)], "number"),
        ([p_value(0), p_value(0.043), Number("")], "number"),
        ([interval(0.32, 0.36), out_of(3, 20), number(1e-5, ".0e")], "number"),
        (["94.32", "0.5"], "text"),  # words that look like numbers
        ([number(0.5), "cosine"], "text"),
        ([number(0.5), ""], "text"),
        ([True, False], "text"),
        (["a text of more than twenty-eight characters"], "long"),
    ],
)
def test_columns_of_numbers_and_only_these_go_to_the_right(cells, kind):
    _, kinds = page_of_column(cells)
    assert kinds == [kind] * len(cells)


def test_parameters_that_are_not_the_default_are_marked_in_words(document):
    level, seed = document.rows(3)[1:]
    assert level[0] == "level not the default"
    assert seed[0] == "seed"


# --- figures ---------------------------------------------------------------------------------------------------------


def test_every_figure_has_a_numbered_caption_and_a_text_alternative(document):
    assert len(document.all("figure")) == 3
    captions = [e["text"] for e in document.all("figcaption")]
    assert captions == ["Figure 1. Look here.", "Figure 2. Look there.", "Figure 3. Look there."]
    images = [e["attributes"] for e in document.all("svg")]
    assert [image["role"] for image in images] == ["img"] * 3
    texts = {e["attributes"]["id"]: e["text"] for e in document.all("desc")}
    assert [texts[image["aria-describedby"]] for image in images] == WORDS


def test_a_figure_is_as_wide_as_matplotlib_drew_it(document):
    assert all("--natural: 288px" in e["attributes"]["style"] for e in document.all("figure"))  # 3 inches
