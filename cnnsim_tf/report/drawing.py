"""Figures as files: PNG, and SVG that stands in an HTML page among others; drawn when asked for, or begun elsewhere."""

import contextlib
import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# No date or version in them: the same figure gives the same file.
NEUTRAL: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}

# matplotlib's settings are the process's: one figure is drawn at a time.
_settings = threading.Lock()


class Drawing:
    """A figure that is drawn when one of its files is asked for, or before, where it was begun."""

    def __init__(self, make: Callable[..., Figure], *args: Any, **more: Any) -> None:
        self.make = partial(make, *args, **more)
        self._kinds: tuple[str, ...] = ()  # that will be asked for
        self._files: dict[str, bytes] = {}
        self._begun: Future[dict[str, bytes]] | None = None

    def begin(self, pool: Executor | None, *kinds: str) -> None:
        """Have the figure drawn by others, if there are any; files of these kinds (see `drawn`) will be asked for."""
        self._kinds = kinds
        with contextlib.suppress(RuntimeError):  # no thread can be begun here
            if pool:
                self._begun = pool.submit(drawn, self.make, *kinds)

    def file(self, kind: str) -> bytes:
        """Return the figure as a file of a kind (see `drawn`)."""
        if self._begun:
            self._files |= self._begun.result()
            self._begun = None
        if kind not in self._files:
            self._files |= drawn(self.make, *dict.fromkeys([kind, *self._kinds]))
        return self._files[kind]


def drawn(make: Callable[[], Figure], *kinds: str) -> dict[str, bytes]:
    """Return what a function draws as files: png, svg (text stays text); the same figure, the same bytes."""
    files = {}
    with _settings, matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's function has set since it was imported
        matplotlib.rcParams.update({"svg.hashsalt": "", "svg.fonttype": "none"})
        figure = make()
        for kind in kinds:
            with io.BytesIO() as file:
                figure.savefig(file, format=kind, metadata=NEUTRAL[kind])
                files[kind] = file.getvalue()
    return files


def inline(svg: str, salt: str, title: str, description: str) -> str:
    """Return a figure's SVG as an inline <svg> element, as wide as what it stands in, in the reader's sans-serif.

    Args:
        svg: as `drawn` returns it.
        salt: starts every id; a letter first, then letters (of any alphabet), digits, - and _. With another salt for
            each figure of a page, no two ids in it are the same.
        title: the figure's name for readers who do not see it.
        description: what it shows, in words.
    """
    box = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    assert box is not None, "matplotlib gives every SVG a viewBox"
    body = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style[^>]*>.*?</style>|\s*<!--.*?-->", "", body, flags=re.DOTALL)
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
