"""Messages of protocol buffers, which ONNX files are, read without a package for them and without a copy.

A message is a row of fields. Each begins with a key, its number and its wire type, which says how long it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

VARINT: Final = 0
EIGHT_BYTES: Final = 1
PREFIXED: Final = 2
FOUR_BYTES: Final = 5
"""Wire types: a number of variable length, fixed lengths, and a length followed by as many bytes."""

MOST_BITS: Final = 64
"""Of a number."""

MOST_FIELDS: Final = 2**20
"""Of a message: far more than models have, and few enough to be kept."""


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: which field of the message it is, at least 1.
        value: a number where the wire type is VARINT, else the content: bytes, a text or a message.
        whole: all of its bytes, the key included.
    """

    number: int
    value: int | memoryview
    whole: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message of bytes, in order; nothing is copied.

    Raises:
        ValueError: it is no message, cut off, or has as many as MOST_FIELDS.
    """
    at = 0
    for _ in range(MOST_FIELDS):
        if at == len(message):
            return
        key, begin = varint(message, at)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == VARINT:
            value, stop = varint(message, begin)
        else:
            if kind == PREFIXED:
                length, begin = varint(message, begin)
            elif kind in (EIGHT_BYTES, FOUR_BYTES):
                length = 8 if kind == EIGHT_BYTES else 4
            else:
                raise ValueError(f"wire type {kind}")
            stop = begin + length
            value = message[begin:stop]
        if number == 0 or stop > len(message):
            raise ValueError("not a message, or cut off")
        yield Field(number, value, message[at:stop])
        at = stop
    raise ValueError("more fields than a model has")


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte and the lowest first, and the place behind it.

    Raises:
        ValueError: it is cut off, or longer than numbers are.
    """
    value = 0
    for shift in range(0, MOST_BITS, 7):
        if at >= len(message):
            raise ValueError("a number that is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an endless number")


def encoded_varint(value: int) -> bytes:
    """A number, at least 0, as `varint` reads it."""
    parts = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


def as_number(value: int | memoryview | bytes) -> int:
    """The value of a field that holds a number.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(value, int):
        raise ValueError("a message where a number belongs")
    return value


def as_message(value: int | memoryview | bytes) -> memoryview:
    """The value of a field that holds a message or bytes.

    Raises:
        ValueError: it holds a number.
    """
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return memoryview(value)


def as_text(value: int | memoryview | bytes) -> str:
    """The value of a field that holds a text.

    Raises:
        ValueError: it holds a number, or bytes that are no UTF-8.
    """
    return str(as_message(value), "utf-8")
