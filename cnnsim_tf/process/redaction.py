"""Texts as they may be shown: no secrets in addresses, nothing that a terminal obeys, no words of 10,000 letters."""

import os
import re
from collections.abc import Mapping
from typing import Any

# With one slash where a path was made of it.
_ADDRESS = re.compile(
    r"(?!models:|runs:)\b[A-Za-z][\w+.-]{0,40}:/(?:/[^\s'\"<>]+|[^\s'\"<>/][^\s'\"<>]*[@?][^\s'\"<>]*)"
)
_BARE = re.compile(
    r"(?<![\w/:.@-])[^\s:/@'\"<>(]{1,255}:[^\s/@'\"<>]{1,2000}@(?=[\w\[])"
)  # user:password@ of no scheme
# But for orderByKey, which is MLflow's own in addresses of its UI.
_QUERY = re.compile(
    r"(?i)([?&;](?!orderByKey=)(?:[\w.-]*(?:pass|pwd|token|secret|sign|key|auth|cred)[\w.-]*|sig|odbc_connect)=)[^&;]+"
)
# What a terminal obeys instead of showing it, marks that turn the direction of what follows, and the bytes of a path
# that is not UTF-8; but not the ends of lines and tabs.
_OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINES = re.compile(r"[\t\n\r]")
_VALUE = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|\S+""")
LONGEST_VALUE, LONGEST = 240, 1000  # characters of what a user gave, and of a whole sentence
_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def redacted(text: str) -> str:
    r"""Return a text whose addresses (scheme://…) have lost user names, passwords and secrets in their queries.

    Control characters but for the ends of lines, and bytes that are no text, are written as \xNN.
    """
    for uri in filter(None, map(os.environ.get, _VARIABLES)):
        if uri in text and "@" in uri:  # whole, since a password with a space in it would not look like one address
            text = text.replace(uri, _without_user(uri))
    text = _BARE.sub("", _ADDRESS.sub(lambda found: _QUERY.sub(r"\1…", _without_user(found[0])), text))
    return _OBEYED.sub(_escaped, text)


def shown(text: str) -> str:
    """Return a text as one line that is `redacted`; what is long in it, quoted or a word, has lost its middle."""
    line = _LINES.sub(_escaped, redacted(text))
    return shortened(_VALUE.sub(lambda found: shortened(found[0], LONGEST_VALUE), line), LONGEST)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters: a longer one loses its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def redacted_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict whose texts are `redacted`."""
    return {name: redacted(value) if isinstance(value, str) else value for name, value in values.items()}


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # how Python writes a byte that is no text
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def _without_user(uri: str) -> str:
    scheme, slashes, rest = re.split("(://?)", uri, maxsplit=1)
    host = rest.partition("/")[0]
    if "@" in host:
        rest = host.rpartition("@")[2] + rest[len(host) :]
    elif not host.partition(":")[2].isdigit() and ":" in host:  # a password with an unquoted / in it
        rest = rest.rpartition("@")[2]
    return f"{scheme}{slashes}{rest}"
