"""Digests: an honest retry is never a conflict, another content always is (property 11)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import InvalidEvent
from gate.ledger.digest import Digester, conflicts

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=12
)
DOCUMENTS = st.dictionaries(st.text(), VALUES, max_size=5)
PLAIN = Digester(())


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(inner) for name, inner in reversed(value.items())}
    if isinstance(value, list):
        return [reordered(inner) for inner in value]
    return value


def as_floats(value: Any) -> Any:
    """As an encoder writes it that knows no whole numbers, as JavaScript's and many a JSON column."""
    if isinstance(value, dict):
        return {name: as_floats(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_floats(inner) for inner in value]
    return float(value) if type(value) is int and abs(value) <= 2**53 else value


def differ(one: Any, other: Any) -> bool:
    return json.dumps(as_floats(one), sort_keys=True) != json.dumps(as_floats(other), sort_keys=True)


@given(DOCUMENTS)
def test_encoding_again_is_no_conflict(document: dict[str, Any]) -> None:
    digest = PLAIN.of_document(orjson.loads(orjson.dumps(document)))
    spaced = json.dumps(reordered(document), indent=2, ensure_ascii=True)

    assert digest == PLAIN.of_document(orjson.loads(spaced))


@given(DOCUMENTS)
def test_a_whole_number_is_the_same_with_and_without_a_fraction(document: dict[str, Any]) -> None:
    assert PLAIN.of_document(document) == PLAIN.of_document(as_floats(document))


@pytest.mark.parametrize("text", ["1", "1.0", "1.00", "1e0", "10e-1", "0.1e1", "1E0", "1e+0"])
@pytest.mark.parametrize("frame", ['{"a":%s}', '{"a":[%s]}', '{"a":[%s,2]}', '{"a":{"b":%s,"c":0}}'])
def test_all_spellings_of_one_are_one(text: str, frame: str) -> None:
    assert PLAIN.of_document(orjson.loads(frame % "1")) == PLAIN.of_document(orjson.loads(frame % text))


@pytest.mark.parametrize(
    ("one", "other"), [("0", "-0.0"), ("1e15", "1000000000000000"), ("9007199254740992", "9007199254740992.0")]
)
def test_other_numbers_have_one_spelling_too(one: str, other: str) -> None:
    assert PLAIN.of_document({"a": orjson.loads(one)}) == PLAIN.of_document({"a": orjson.loads(other)})


@given(DOCUMENTS, DOCUMENTS)
def test_another_content_is_a_conflict(one: dict[str, Any], other: dict[str, Any]) -> None:
    if differ(one, other):
        assert conflicts(PLAIN.of_document(one), PLAIN.of_document(other))


@pytest.mark.parametrize(
    ("one", "other"), [(1, "1"), (0, None), (True, 1), ([], {}), ("1.0,", "1,"), ([1, 2], [2, 1]), (1.5, 1), (0, False)]
)
def test_what_only_looks_alike_is_a_conflict(one: Any, other: Any) -> None:
    assert conflicts(PLAIN.of_document({"a": one}), PLAIN.of_document({"a": other}))


@given(VALUES, VALUES)
def test_volatile_values_are_left_out(one: Any, other: Any) -> None:
    digester = Digester(("request.ip", "session"))
    steady = {"user": {"email": "ada@example.com"}}

    assert digester.of_document({**steady, "request": {"ip": one, "ua": "x"}, "session": one}) == digester.of_document(
        {**steady, "request": {"ua": "x", "ip": other}, "session": other}
    )


def test_a_missing_volatile_value_is_no_conflict() -> None:
    digester = Digester(("request.ip",))

    assert digester.of_document({"request": {"ip": "192.0.2.1"}}) == digester.of_document({"request": {}})


def test_what_is_not_volatile_counts() -> None:
    digester = Digester(("request.ip",))

    assert conflicts(digester.of_document({"ip": 1}), digester.of_document({"ip": 2}))
    assert conflicts(digester.of_document({"request": {"ua": 1}}), digester.of_document({"request": {"ua": 2}}))


def test_a_volatile_parent_takes_its_children_along() -> None:
    for paths in (("a", "a.b"), ("a.b", "a")):
        digester = Digester(paths)

        assert digester.of_document({"a": {"b": 1, "c": 1}}) == digester.of_document({"a": {"b": 2, "c": 2}})


@given(DOCUMENTS)
def test_a_digest_leaves_the_document_as_it_is(document: dict[str, Any]) -> None:
    before = json.dumps(document)
    Digester(tuple(document)[:1]).of_document(document)

    assert before == json.dumps(document)


@given(DOCUMENTS, DOCUMENTS)
def test_other_volatile_paths_never_conflict(one: dict[str, Any], other: dict[str, Any]) -> None:
    """A new setting must not turn a retry of an attempt decided under the old one into a conflict."""
    assert not conflicts(PLAIN.of_document(one), Digester(("a",)).of_document(other))


def test_the_order_of_the_volatile_paths_is_no_other_setting() -> None:
    assert Digester(("a", "b")).of_document({"c": 1}) == Digester(("b", "a", "b")).of_document({"c": 1})


@given(st.binary(), st.binary())
def test_unreadable_values_conflict_unless_equal(one: bytes, other: bytes) -> None:
    assert (one != other) == conflicts(PLAIN.of_bytes(one), PLAIN.of_bytes(other))


@given(DOCUMENTS, st.none() | st.binary())
def test_an_unreadable_value_never_conflicts_with_a_readable_one(document: dict[str, Any], value: bytes | None) -> None:
    assert not conflicts(PLAIN.of_document(document), PLAIN.of_bytes(value))


@pytest.mark.parametrize("depth", [255, 1000])
def test_an_attempt_nested_too_deeply_is_invalid_and_nothing_worse(depth: int) -> None:
    document = orjson.loads('{"a":' * depth + "1.0" + "}" * depth)

    with pytest.raises(InvalidEvent, match="nested"):
        PLAIN.of_document(document)


def test_an_attempt_nested_as_deeply_as_can_be_has_a_digest() -> None:
    document = orjson.loads('{"a":' * 254 + "1.0" + "}" * 254)

    assert PLAIN.of_document(document).startswith(b"c1-")
