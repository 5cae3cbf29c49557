"""Values of parameters, held against what each of them may be."""

import dataclasses
import math
import numbers
import re
from typing import Any

from cnnsim_tf.errors import ParameterError


def checked(parameter: dataclasses.Field, value: Any) -> Any:
    """Return `value` in the parameter's type and within its limits."""
    limits, name = parameter.metadata, parameter.name
    for text in value if isinstance(value, (tuple, list)) else [value]:
        if isinstance(text, str) and re.search(r"[\ud800-\udfff]", text):  # as Python holds bytes that are no text
            raise ParameterError(f"{name} is {text}, which is not UTF-8: give it, or the file, a name that is")
    if parameter.type == tuple[str, ...]:
        return _checked_names(name, value, limits["least"])
    if parameter.type in (int, float):
        value = _checked_number(name, parameter.type, value, limits)
    elif not isinstance(value, parameter.type):  # type: ignore[arg-type]
        raise ParameterError(f"{name} is {value!r}: it must be {'true or false' if parameter.type is bool else 'text'}")
    if isinstance(value, str) and not value.strip():
        raise ParameterError(f"{name} is empty: it needs a value, for example {parameter.default!r}")
    if "choices" in limits and value not in limits["choices"]:
        raise ParameterError(f"{name} is {value!r}: it must be one of {', '.join(limits['choices'])}")
    return value


def _checked_number(name: str, kind: type, value: Any, limits: Any) -> Any:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    allowed = f"above {above} and at most {high}" if above is not None else f"{low} to {high}"
    noun = "a whole number" if kind is int else "a number"
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = fits and -math.inf < value <= high and (kind is float or value == int(value))
    if not fits or (value <= above if above is not None else value < low):
        raise ParameterError(f"{name} is {value!r}: it must be {noun}, {allowed}")
    return kind(value)


def _checked_names(name: str, value: Any, least: int) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, str) for v in value):
        raise ParameterError(f"{name} is {value!r}: it must be a list of names")
    names = tuple(v.strip() for v in value)
    if not all(names) or len(names) < least:
        raise ParameterError(
            f"{name} is {','.join(names)!r}: it needs at least {least} name{'s' * (least > 1)}, separated by commas"
        )
    for repeated in {n for n in names if names.count(n) > 1}:
        raise ParameterError(f"{name} names {repeated!r} twice: each may stand there once")
    return names
