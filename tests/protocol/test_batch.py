"""A batch: each update obeys the rules of one, and an error points to the update."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.update import PublicationLimits, Update, from_batch, to_batch

LIMITS = PublicationLimits()


def read(*items: Any, limits: PublicationLimits = LIMITS) -> list[Update]:
    return from_batch(json.dumps(items).encode(), limits)


def refused(body: bytes | list[Any], limits: PublicationLimits = LIMITS) -> InvalidRequest:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as refusal:
        from_batch(octets, limits)
    return refusal.value


def test_updates_come_in_order_with_all_their_fields() -> None:
    first, second = read(
        {"topic": "a"},
        {"topic": ["b", "c"], "data": "x\ny", "private": True, "id": "urn:1", "type": "t", "retry": 5},
    )
    assert first == Update(("a",), "", first.id)
    assert first.id.startswith("urn:uuid:")
    assert second == Update(("b", "c"), "x\ny", "urn:1", private=True, type="t", retry=5)


def test_null_stands_for_absent_only_where_nothing_depends_on_it() -> None:
    (one,) = read({"topic": "a", "id": None, "type": None, "retry": None, "unknown": {"x": 1}})
    assert (one.type, one.retry, one.private) == (None, None, False)
    assert refused([{"topic": "a", "private": None}]).field == "/0/private"
    assert refused([{"topic": "a", "data": None}]).field == "/0/data"
    assert refused([{"topic": None}]).field == "/0/topic"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"data": "x"}, "topic"),
        ({"topic": []}, "topic"),
        ({"topic": "*"}, "topic"),
        ({"topic": ["a", 1]}, "topic"),
        ({"topic": "a\n"}, "topic"),
        ({"topic": "a" * 2049}, "topic"),
        ({"topic": ["a"] * 101}, "topic"),
        ({"topic": "a", "data": {"no": "text"}}, "data"),
        ({"topic": "a", "data": "\ud800"}, "data"),
        ({"topic": "\ud800"}, "topic"),
        ({"topic": "a", "private": "on"}, "private"),
        ({"topic": "a", "private": 1}, "private"),
        ({"topic": "a", "id": "#x"}, "id"),
        ({"topic": "a", "id": 7}, "id"),
        ({"topic": "a", "type": "mercure"}, "type"),
        ({"topic": "a", "retry": "5"}, "retry"),
        ({"topic": "a", "retry": -1}, "retry"),
        ({"topic": "a", "retry": True}, "retry"),
        ({"topic": "a", "retry": 1.5}, "retry"),
    ],
)
def test_a_bad_update_is_named_with_its_index(item: dict[str, Any], field: str) -> None:
    error = refused([{"topic": "good"}, item, {"topic": "*"}])
    assert error.field == f"/1/{field}"
    assert error.detail.startswith("Update 1 (the first is 0): ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b'{"topic": "a"}', "no JSON array"),
        (b"null", "no JSON array"),
        (b"[]", "empty"),
        (b"\xff", "UTF-8"),
        (b"[" * 200_000, "nested"),
        (b'[{"topic": "a", "retry": ' + b"9" * 5000 + b"}]", "too many digits"),
        (b'[{"topic": "a", "private": true, "private": false}]', "two members"),
        (b"[1]", "JSON object"),
        (b'[["topic", "a"]]', "JSON object"),
    ],
)
def test_a_body_that_is_no_batch(body: bytes, words: str) -> None:
    assert words in refused(body).detail


def test_limits() -> None:
    limits = PublicationLimits(updates=2, batch_topics=3)
    assert len(read({"topic": ["a", "b"]}, {"topic": "c"}, limits=limits)) == 2
    assert isinstance(refused([{"topic": "a"}] * 3, limits), ContentTooLarge)
    error = refused([{"topic": ["a", "b"]}, {"topic": ["c", "d"]}], limits)
    assert isinstance(error, ContentTooLarge)
    assert error.field == "/1/topic"


def test_what_is_encoded_is_read() -> None:
    pairs: list[Pairs] = [
        [("topic", "a"), ("data", "é\u2028\U0001f600")],
        [("topic", "b"), ("topic", "c"), ("data", ""), ("private", "on"), ("id", "1"), ("retry", "0")],
    ]
    first, second = from_batch(to_batch(pairs), LIMITS)
    assert (first.topics, first.data) == (("a",), "é\u2028\U0001f600")
    assert second == Update(("b", "c"), "", "1", private=True, retry=0)
