"""Messages of protocol buffers: against the package onnx, numbers there and back, and what is no message."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from algm_trt.runtime.backends.protobuf import (
    EIGHT_BYTES,
    FOUR_BYTES,
    MOST_FIELDS,
    PREFIXED,
    VARINT,
    as_message,
    as_number,
    as_text,
    encoded_varint,
    fields,
    varint,
)


def test_fields_are_those_that_protobuf_wrote() -> None:
    attribute = onnx.AttributeProto(name="größe", i=2**63 - 1, f=1.5, t=onnx.TensorProto(double_data=[2.5]))
    content = memoryview(attribute.SerializeToString())
    found = {field.number: field.value for field in fields(content)}
    assert as_text(found[1]) == "größe"
    assert as_number(found[3]) == 2**63 - 1
    assert np.frombuffer(as_message(found[2]), "<f4") == 1.5
    (packed,) = fields(as_message(found[5]))
    assert np.frombuffer(as_message(packed.value), "<f8") == 2.5
    assert b"".join(field.whole for field in fields(content)) == content


@pytest.mark.parametrize(
    ("kind", "content"),
    [(VARINT, b"\x96\x01"), (EIGHT_BYTES, bytes(range(8))), (PREFIXED, b"\x03abc"), (FOUR_BYTES, b"\x00\x01\x02\x03")],
)
def test_every_wire_type_ends_where_the_next_field_begins(kind: int, content: bytes) -> None:
    whole = encoded_varint(20 << 3 | kind) + content
    first, second = fields(memoryview(whole * 2))
    assert first == second
    assert first.number == 20
    assert first.whole == whole
    expected: int | bytes = {VARINT: 150, PREFIXED: b"abc"}.get(kind, content)
    assert first.value == expected


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_numbers_go_there_and_back(number: int) -> None:
    content = encoded_varint(number)
    assert varint(memoryview(b"\xff" + content + b"\xff"), 1) == (number, 1 + len(content))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80" * 11 + b"\x01",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x08",
        b"\x08\x80",
        b"\x0a\x02a",
        b"\x09" + bytes(7),
        b"\x0d" + bytes(3),
        b"\x0b",
        b"\x0c",
        b"\x0e",
        b"\x00\x01",
        b"\x02\x01a",
    ],
    ids=[
        "endless key",
        "endless number",
        "no number",
        "half a number",
        "text cut off",
        "eight bytes cut off",
        "four bytes cut off",
        "begin of a group",
        "end of a group",
        "unknown wire type",
        "number of field 0",
        "text of field 0",
    ],
)
def test_what_is_no_message_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"number|message|wire type"):
        list(fields(memoryview(content)))


def test_a_message_of_too_many_fields_is_an_error() -> None:
    """They are kept as objects, a hundred times as large."""
    with pytest.raises(ValueError, match="more fields than a model has"):
        for _ in fields(memoryview(b"\x08\x01" * MOST_FIELDS)):
            pass
    assert sum(1 for _ in fields(memoryview(b"\x08\x01" * 1000))) == 1000


def test_values_of_another_kind_are_errors() -> None:
    with pytest.raises(ValueError, match="a message where a number belongs"):
        as_number(memoryview(b"1"))
    for read in (as_message, as_text):
        with pytest.raises(ValueError, match="a number where a message belongs"):
            read(1)
    with pytest.raises(ValueError, match="utf-8"):
        as_text(memoryview(b"\xff"))
