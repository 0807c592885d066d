"""JSON text to Python's values, and to objects of dataclasses, every value of the type that its class says.

Files may come from anywhere: whatever is wrong with one is a ValueError. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar

T = TypeVar("T")

_LARGEST: Final = 2**63
"""Numbers lie below: larger ones mean nothing in any of our files, and Python makes no floats of the largest."""


def json_value(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is not JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def json_object(kind: type[T], text: str) -> T:
    """An object of a dataclass from the JSON text of its fields; lists become tuples.

    Args:
        kind: the dataclass; fields are str, bool, int, float, None, tuples, mappings, dataclasses, Any, or one of them.
        text: a JSON object. Fields with a default may be missing.

    Raises:
        ValueError: another text, a field that is missing, unknown, or of another type, or a number that is not finite.
        Exception: what the dataclass raises itself.
    """
    value: T = _of_type(json_value(text), kind, kind.__name__)
    return value


def _of_type(value: Any, kind: Any, name: str) -> Any:
    """A value of JSON as the type that is said of it; `name` is for the message."""
    if kind is Any or (type(value) is kind and kind is not float and (kind is not int or abs(value) < _LARGEST)):
        return value
    origin, arguments = _parts(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _of_type(value, next(one for one in arguments if one is not type(None)), name)
    if origin is tuple and isinstance(value, list):
        parts = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(parts) == len(value):
            return tuple(_of_type(part, its, name) for part, its in zip(value, parts, strict=True))
    elif origin in (dict, Mapping):
        if isinstance(value, dict):
            return {key: _of_type(part, arguments[1], name) for key, part in value.items()}
    elif kind is float and type(value) in (int, float):
        if abs(value) < _LARGEST:  # neither is infinity or NaN
            return float(value)
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _of_dataclass(value, kind)
    raise ValueError(f"{name} cannot be {json.dumps(value)[:40]}")


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a type is made of: asked for every value of a results file, it took most of the time."""
    return typing.get_origin(kind), typing.get_args(kind)


def _of_dataclass(data: Mapping[str, Any], kind: Any) -> Any:
    types_of_fields, needed = _fields(kind)
    if wrong := needed - data.keys() or data.keys() - types_of_fields.keys():
        raise ValueError(f"{'without' if wrong <= needed else 'unknown:'} {', '.join(sorted(wrong))}")
    return kind(**{name: _of_type(value, types_of_fields[name], name) for name, value in data.items()})


@cache
def _fields(kind: type[Any]) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Types of a dataclass's fields by name, and the names of those without a default."""
    without = (dataclasses.MISSING, dataclasses.MISSING)
    needed = (field.name for field in dataclasses.fields(kind) if (field.default, field.default_factory) == without)
    return typing.get_type_hints(kind), frozenset(needed)
