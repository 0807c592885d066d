"""JSON to objects: every value of the type that the class says, and one kind of error for everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from algm_trt.runtime.json_text import json_object, json_value

DEEP = "[" * 100_000


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    pair: tuple[int, str]
    list_of: tuple[float, ...]
    inner: Inner | None
    flag: bool = False
    by_name: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None


FULL = Outer(1, 0.5, (2, "b"), (1.0, 2.0), Inner("c"), True, {"d": 3}, [{"e": None}])


def test_what_was_written_comes_back() -> None:
    assert json_object(Outer, json.dumps(asdict(FULL))) == FULL


def test_fields_with_a_default_may_be_missing_and_whole_numbers_are_numbers() -> None:
    text = '{"count": 1, "share": 2, "pair": [3, ""], "list_of": [], "inner": null}'
    assert json_object(Outer, text) == Outer(1, 2.0, (3, ""), (), None)
    assert type(json_object(Outer, text).share) is float


@pytest.mark.parametrize(
    "change",
    [
        {"count": 1.0},
        {"count": True},
        {"count": None},
        {"count": 2**63},
        {"share": "1"},
        {"share": False},
        {"share": float("nan")},
        {"share": float("-inf")},
        {"share": 10**400},
        {"pair": [1]},
        {"pair": [1, "b", 2]},
        {"pair": ["b", 1]},
        {"list_of": 1.0},
        {"list_of": "12"},
        {"list_of": [None]},
        {"inner": {}},
        {"inner": ["c"]},
        {"inner": {"name": "c", "more": 1}},
        {"inner": {"name": 1}},
        {"flag": 1},
        {"by_name": []},
        {"by_name": {"d": "3"}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_value_of_another_type(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot be|without|unknown"):
        json_object(Outer, json.dumps(asdict(FULL) | change))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1", "{}", "{", '"text"', DEEP, "1" * 5000], ids=lambda text: text[:5]
)
def test_text_that_is_no_object(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json_object(Outer, text)


def test_nesting_is_no_error_of_another_kind() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        json_value(DEEP)


def test_types_are_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(asdict(FULL))
    json_object(Outer, text)
    monkeypatch.delattr("typing.get_origin")  # a results file has millions of values
    assert json_object(Outer, text) == FULL
