"""What a worker answers as bytes that can be read without trusting it: JSON, and bytes that it names."""

import json
import traceback
from collections.abc import Callable
from typing import Any


def answer(worker: str, call: Callable[[], Any]) -> bytes:
    """Return the worker's address with the value of a call, or in words what it raised: no object leaves the worker."""
    try:
        return packed({"worker": worker, "value": call()})
    except Exception as error:
        return packed({"worker": worker, "failed": in_words(error), "details": traceback.format_exc()})


def in_words(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def packed(value: Any) -> bytes:
    """Return a value of dicts, lists, text, numbers and bytes as bytes.

    Raises:
        TypeError: there is something else in it.
    """
    parts: list[bytes] = []

    def apart(part: Any) -> dict[str, int]:
        if not isinstance(part, bytes):
            raise TypeError(f"a {type(part).__name__} cannot leave a worker")
        parts.append(part)
        return {"bytes": len(part)}

    head = json.dumps(value, default=apart).encode()
    return b"\n".join([head, b"".join(parts)])


def unpacked(content: Any) -> Any:
    """Return the value that `packed` made bytes of; a tuple comes back as a list.

    Raises:
        ValueError: it did not make these.
    """
    if not isinstance(content, bytes):
        raise ValueError(f"a {type(content).__name__} instead of bytes")
    head, _, rest = content.partition(b"\n")

    def joined(pairs: dict[str, Any]) -> Any:
        nonlocal rest
        if pairs.keys() != {"bytes"}:
            return pairs
        part, rest = rest[: pairs["bytes"]], rest[pairs["bytes"] :]
        return part

    return json.loads(head, object_hook=joined)
