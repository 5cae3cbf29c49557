"""Figures as SVG that stands in an HTML page among others."""

import io
import re
import threading
from html import escape

import matplotlib
from matplotlib.figure import Figure

# matplotlib's settings are the process's; nothing else here reads the two that are changed while this is held.
_settings = threading.Lock()


def to_svg(figure: Figure, salt: str, title: str, description: str) -> str:
    """Return the figure as an inline <svg> element, as wide as what it stands in.

    Text stays text, in the reader's sans-serif; there is no date in it: the same figure and salt give the same string.

    Args:
        figure: the figure.
        salt: starts every id; a letter first, then letters (of any alphabet), digits, - and _. With another salt for
            each figure of a page, no two ids in it are the same.
        title: the figure's name for readers who do not see it.
        description: what it shows, in words.
    """
    with _settings, matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        text = file.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    assert box is not None, "matplotlib gives every SVG a viewBox"
    body = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style[^>]*>.*?</style>|\s*<!--.*?-->", "", body, flags=re.DOTALL)
    # Clip paths and markers have ids by the salt, groups such as axes_1 have not: all get it.
    body = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', body)
    body = re.sub(r'\b(?:xlink:)?href="#([^"]+)"', rf'href="#{salt}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", body)
    body = re.sub(r'\bxlink:href="', 'href="', body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "sans-serif", body)
    names = f'aria-labelledby="{salt}-title" aria-describedby="{salt}-desc"'
    # The style is matplotlib's own for all elements, which as a <style> would hold in the whole page.
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" width="100%" role="img" {names} '
        'style="stroke-linejoin: round; stroke-linecap: butt">\n'
        f'<title id="{salt}-title">{escape(title)}</title>\n<desc id="{salt}-desc">{escape(description)}</desc>'
    )
    return f"{head}{body.rstrip()}\n</svg>"
