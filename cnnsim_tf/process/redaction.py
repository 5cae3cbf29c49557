"""Addresses without the secrets in them: what is printed, logged and stored shows where, never who with what."""

import os
import re
from collections.abc import Mapping
from typing import Any

# With one slash where a path was made of it.
_ADDRESS = re.compile(r"(?!models:|runs:)\b[A-Za-z][\w+.-]*:/(?:/[^\s'\"<>]+|[^\s'\"<>/][^\s'\"<>]*[@?][^\s'\"<>]*)")
_BARE = re.compile(r"(?<![\w/:.@-])[^\s:/@'\"<>(]+:[^\s/@'\"<>]+@(?=[\w\[])")  # user:password@ of no scheme
# But for orderByKey, which is MLflow's own in addresses of its UI.
_QUERY = re.compile(
    r"(?i)([?&;](?!orderByKey=)(?:[\w.-]*(?:pass|pwd|token|secret|sign|key|auth|cred)[\w.-]*|sig|odbc_connect)=)[^&;]+"
)
_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def redacted(text: str) -> str:
    """Return a text whose addresses (scheme://…) have lost user names, passwords and secrets in their queries."""
    for uri in filter(None, map(os.environ.get, _VARIABLES)):
        if uri in text and "@" in uri:  # whole, since a password with a space in it would not look like one address
            text = text.replace(uri, _without_user(uri))
    return _BARE.sub("", _ADDRESS.sub(lambda found: _QUERY.sub(r"\1…", _without_user(found[0])), text))


def redacted_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict whose texts are `redacted`."""
    return {name: redacted(value) if isinstance(value, str) else value for name, value in values.items()}


def _without_user(uri: str) -> str:
    scheme, slashes, rest = re.split("(://?)", uri, maxsplit=1)
    host = rest.partition("/")[0]
    if "@" in host:
        rest = host.rpartition("@")[2] + rest[len(host) :]
    elif not host.partition(":")[2].isdigit() and ":" in host:  # a password with an unquoted / in it
        rest = rest.rpartition("@")[2]
    return f"{scheme}{slashes}{rest}"
