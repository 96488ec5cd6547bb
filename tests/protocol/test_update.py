"""The publication form: every rule, with the field that breaks it."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.event_stream import Event, Parser
from mercure_hub.protocol.http import Pairs, parse_form
from mercure_hub.protocol.update import PublicationLimits, Update, from_batch, from_form, new_id, to_batch

LIMITS = PublicationLimits()
UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def read(*pairs: tuple[str, str], limits: PublicationLimits = LIMITS) -> Update:
    return from_form([("topic", "t"), *pairs], limits)


def refused(*pairs: tuple[str, str]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        from_form(list(pairs), LIMITS)
    return refusal.value


def test_a_topic_is_enough() -> None:
    update = read()
    assert update == Update(topics=("t",), data="", id=update.id)
    assert UUID.fullmatch(update.id)
    assert not update.private
    assert update.type is None
    assert update.retry is None


def test_all_fields_of_a_form() -> None:
    form: Pairs = [
        ("topic", "canonical"), ("data", "x\ny"), ("topic", "alternate"), ("private", "on"), ("id",
            "urn:1"), ("type", "t"), ("retry", "5"),
    ]  # fmt: skip
    assert from_form(form, LIMITS) == Update(("canonical", "alternate"), "x\ny", "urn:1", True, "t", 5)


def test_the_example_of_the_spec() -> None:
    update = from_form(parse_form(b"topic=https://example.com/foo&data=the%20content"), LIMITS)
    assert update.topics == ("https://example.com/foo",)
    assert update.data == "the content"


@pytest.mark.parametrize(
    "pairs", [[], [("data", "x")], [("Topic", "x")], [("topics", "x")], [("topic[]", "x")], [(" topic", "x")]]
)
def test_a_topic_is_needed(pairs: Pairs) -> None:
    assert refused(*pairs).field == "topic"


@pytest.mark.parametrize("value", ["*"])
def test_the_wildcard_is_no_topic(value: str) -> None:
    assert refused(("topic", value)).field == "topic"
    assert refused(("topic", "a"), ("topic", value)).field == "topic"


@pytest.mark.parametrize("topic", ["**", " *", "* ", "a*", "*a"])
def test_other_topics_may_hold_a_star(topic: str) -> None:
    assert read(("topic", topic)).topics == ("t", topic)


@pytest.mark.parametrize("field", ["topic", "id", "type"])
@pytest.mark.parametrize(
    "char",
    [
        "\0",
        "\n",
        "\r",
        "\r\n",
        "\x1f",
        "\x7f",
        "\x80",
        "\x9f",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\U000e0001",
        "\u00ad",
    ],
)
@pytest.mark.parametrize("place", ["{}", "a{}", "{}a", "a{}b"])
def test_control_and_format_characters_are_refused(field: str, char: str, place: str) -> None:
    error = refused(("topic", "t"), (field, place.format(char)))
    assert error.status == 400
    assert error.field == field


@pytest.mark.parametrize("data", ["", "\0", "a\rb\nc\r\n", "\u202e", "\ufeff", "x" * 100_000, "id: 1", "😀"])
def test_data_may_be_any_text(data: str) -> None:
    assert read(("data", data)).data == data


@pytest.mark.parametrize("value", ["on", "", "off", "0", "false", "no", "null", " "])
def test_private_by_presence_whatever_its_value(value: str) -> None:
    assert read(("private", value)).private


@pytest.mark.parametrize("encoded", [b"private", b"private=", b"private&data=x", b"private=0&private=1"])
def test_private_without_a_value(encoded: bytes) -> None:
    assert from_form(parse_form(b"topic=t&" + encoded), LIMITS).private


@pytest.mark.parametrize("name", ["Private", "PRIVATE", " private", "private ", "privat", "data"])
def test_other_names_are_not_private(name: str) -> None:
    assert not read((name, "on")).private


@pytest.mark.parametrize("value", ["#", "#1", "##", "earliest"])
def test_reserved_ids(value: str) -> None:
    assert refused(("topic", "t"), ("id", value)).field == "id"


@pytest.mark.parametrize(
    "value",
    ["a#", "Earliest", "EARLIEST", " earliest", "earliest2", "urn:uuid:x", "1", "é", "did:example:1", " #"],
)
def test_other_ids_are_kept(value: str) -> None:
    assert read(("id", value)).id == value


def test_an_empty_id_is_none() -> None:
    assert UUID.fullmatch(read(("id", "")).id)


@pytest.mark.parametrize("value", ["mercure"])
def test_the_reserved_type(value: str) -> None:
    assert refused(("topic", "t"), ("type", value)).field == "type"


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("", None),
        ("Mercure", "Mercure"),
        (" mercure", " mercure"),
        ("mercures", "mercures"),
        ("message", "message"),
    ],
)
def test_event_types_that_are_allowed(value: str, type_: str | None) -> None:
    assert read(("type", value)).type == type_


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        ("0", 0),
        ("1", 1),
        ("007", 7),
        ("000000000000005", 5),
        ("0" * 50, 0),
        ("3000", 3000),
        ("2147483648", 2**31 - 1),
        ("9" * 10_000, 2**31 - 1),
    ],
)
def test_retry_is_in_milliseconds(value: str, retry: int) -> None:
    assert read(("retry", value)).retry == retry


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        " 1",
        "1 ",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x10",
        "1_0",
        "٣",
        "²",
        "\uff11",
        "①",
        "1\n",
        "1\0",
        "NaN",
        "on",
    ],
)
def test_retry_is_made_of_ascii_digits(value: str) -> None:
    assert refused(("topic", "t"), ("retry", value)).field == "retry"


@pytest.mark.parametrize("name", ["foo", "", "data2", "match", "authorization", "x\0y", "ID", "Retry", "é"])
def test_unknown_fields_are_ignored(name: str) -> None:
    update = read((name, "\0#*mercure"), ("id", "1"))
    assert update == Update(("t",), "", "1")


def test_the_first_of_a_repeated_field_counts() -> None:
    update = read(
        ("id", "1"),
        ("id", "2"),
        ("type", "a"),
        ("type", "b"),
        ("retry", "1"),
        ("retry", "x"),
        ("data", "x"),
        ("data", "y"),
    )
    assert update == Update(("t",), "x", "1", False, "a", 1)


def test_a_repeated_topic_counts_once() -> None:
    assert from_form([("topic", "a"), ("topic", "b"), ("topic", "a")], LIMITS).topics == ("a", "b")


def test_limits_of_a_publication() -> None:
    limits = PublicationLimits(topics=2, topic_length=3)
    assert from_form([("topic", "abc"), ("topic", "äöü"), ("id", "123"), ("type", "abc")], limits).topics == (
        "abc",
        "äöü",
    )


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        ([("topic", "a"), ("topic", "b"), ("topic", "c")], "topic"),
        ([("topic", "a"), ("topic", "a"), ("topic", "a")], "topic"),
        ([("topic", "abcd")], "topic"),
        ([("topic", "a"), ("topic", "abcd")], "topic"),
        ([("topic", "a"), ("id", "1234")], "id"),
        ([("topic", "a"), ("type", "abcd")], "type"),
    ],
)
def test_beyond_a_limit_it_is_413(pairs: Pairs, field: str) -> None:
    with pytest.raises(ContentTooLarge) as refusal:
        from_form(pairs, PublicationLimits(topics=2, topic_length=3))
    assert refusal.value.status == 413
    assert refusal.value.field == field


def test_ids_are_random() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(map(UUID.fullmatch, ids))
    assert len({one.removeprefix("urn:uuid:")[8:] for one in ids}) == 1000


def test_ids_begin_alike_but_not_for_long() -> None:
    """Neighbours in an index; and whoever knows one learns little of others."""
    beginnings = [new_id().removeprefix("urn:uuid:")[:8] for _ in range(2000)]
    assert 4 < len(set(beginnings)) < 20
    assert len(list(itertools.groupby(beginnings))) == len(set(beginnings))


def test_an_update_is_encoded() -> None:
    update = Update(("a", "b"), "x\r\ny", "urn:1", True, "t", 0)
    assert update.encode() == b"id: urn:1\nevent: t\nretry: 0\ndata: x\ndata: y\n\n"


@pytest.mark.parametrize("data", ["x\n\nid: forged\nevent: mercure\ndata: forged", "\r\rdata: forged\r\r"])
def test_a_publisher_cannot_forge_an_event(data: str) -> None:
    events = list(Parser().feed(read(("data", data), ("id", "real"), ("type", "t")).encode()))
    assert [(event.id, event.type) for event in events] == [("real", "t")]
    assert events == [Event(data.replace("\r", "\n"), "real", "t")]


BATCH_LIMITS = PublicationLimits()


def batch_read(*items: Any, limits: PublicationLimits = BATCH_LIMITS) -> list[Update]:
    return from_batch(json.dumps(items).encode(), limits)


def batch_refused(body: bytes | list[Any], limits: PublicationLimits = BATCH_LIMITS) -> InvalidRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as refusal:
        from_batch(raw, limits)
    return refusal.value


def test_updates_come_in_order_with_all_their_fields() -> None:
    first, second = batch_read(
        {"topic": "a"},
        {"topic": ["b", "c"], "data": "x\ny", "private": True, "id": "urn:1", "type": "t", "retry": 5},
    )
    assert first == Update(("a",), "", first.id)
    assert first.id.startswith("urn:uuid:")
    assert second == Update(("b", "c"), "x\ny", "urn:1", private=True, type="t", retry=5)


def test_null_stands_for_absent_only_where_nothing_depends_on_it() -> None:
    (one,) = batch_read({"topic": "a", "id": None, "type": None, "retry": None, "unknown": {"x": 1}})
    assert (one.type, one.retry, one.private) == (None, None, False)
    assert batch_refused([{"topic": "a", "private": None}]).field == "/0/private"
    assert batch_refused([{"topic": "a", "data": None}]).field == "/0/data"
    assert batch_refused([{"topic": None}]).field == "/0/topic"


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
    error = batch_refused([{"topic": "good"}, item, {"topic": "*"}])
    assert error.field == f"/1/{field}"
    assert error.detail.startswith("Update 1 (the first is 0): ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b'{"topic": "a"}', "not a JSON array"),
        (b"null", "not a JSON array"),
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
    assert words in batch_refused(body).detail


def test_limits_of_a_batch() -> None:
    limits = PublicationLimits(updates=2, batch_topics=3)
    assert len(batch_read({"topic": ["a", "b"]}, {"topic": "c"}, limits=limits)) == 2
    assert isinstance(batch_refused([{"topic": "a"}] * 3, limits), ContentTooLarge)
    error = batch_refused([{"topic": ["a", "b"]}, {"topic": ["c", "d"]}], limits)
    assert isinstance(error, ContentTooLarge)
    assert error.field == "/1/topic"


def test_what_is_encoded_is_read() -> None:
    pairs: list[Pairs] = [
        [("topic", "a"), ("data", "é\u2028\U0001f600")],
        [("topic", "b"), ("topic", "c"), ("data", ""), ("private", "on"), ("id", "1"), ("retry", "0")],
    ]
    first, second = from_batch(to_batch(pairs), BATCH_LIMITS)
    assert (first.topics, first.data) == (("a",), "é\u2028\U0001f600")
    assert second == Update(("b", "c"), "", "1", private=True, retry=0)


@pytest.mark.parametrize("value", ["on", "", "off", "0"])
def test_once_by_presence_whatever_its_value(value: str) -> None:
    update = read(("id", "1"), ("once", value))
    assert update.once
    assert update == Update(("t",), "", "1")  # it is no part of the update


@pytest.mark.parametrize("name", ["Once", "ONCE", " once", "onc", "only_once"])
def test_other_names_are_not_once(name: str) -> None:
    assert not read(("id", "1"), (name, "on")).once


@pytest.mark.parametrize("pairs", [[("once", "on")], [("once", "on"), ("id", "")]])
def test_once_needs_an_id(pairs: Pairs) -> None:
    assert refused(("topic", "t"), *pairs).field == "id"


def test_once_in_a_batch() -> None:
    forms: list[Pairs] = [
        [("topic", "t"), ("data", "x"), ("id", "1"), ("once", "on")],
        [("topic", "t"), ("data", "x"), ("id", "2")],
    ]
    body = to_batch(forms)
    assert [item.get("once") for item in json.loads(body)] == [True, None]
    assert [one.once for one in from_batch(body, LIMITS)] == [True, False]
    assert not from_batch(b'[{"topic": "t", "once": false}]', LIMITS)[0].once
