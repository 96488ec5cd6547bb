"""Queries, forms and publications.

Invariant: any bytes are read or refused with ``InvalidRequest``, never with another exception. What a
form encodes comes back as it was. What is accepted as an update leaves as exactly one event, with
the fields that the publisher gave and no other.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mercure_hub.protocol import update
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.event_stream import HEARTBEAT, Event, Parser
from mercure_hub.protocol.http import parse_form
from mercure_hub.protocol.topics import forbidden_character
from mercure_hub.protocol.update import EARLIEST, PublicationLimits

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.sampled_from(["topic", "data", "id", "type", "retry", "private", "Topic", ""])
VALUES = st.one_of(
    TEXT,
    st.sampled_from(
        ["*", "#1", "earliest", "mercure", "007", "9" * 400, "a\r\nb", "\r", "id: x\n\nevent: y"]
    ),
)
PIECES = st.lists(
    st.sampled_from(
        [b"&", b"=", b"+", b"%", b"%2", b"%zz", b"%26", b"%C3%A9", b"%ff", b";", b"a", b"\xc3", b"\0"]
    ),
    max_size=12,
).map(b"".join)
BYTES = st.one_of(st.binary(max_size=60), PIECES)


@given(BYTES)
@example(b"%")
@example(b"a=%C3&=%A9")
@example(b"a;b=c;d")
@example(b"&&=&")
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        pairs = parse_form(content)
    except InvalidRequest:
        return
    assert parse_form(urlencode(pairs).encode()) == pairs


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6))
@example([("", "")])
@example([("a", "&=+;%\0\r\n"), ("a", "")])
def test_what_is_encoded_comes_back(pairs: list[tuple[str, str]]) -> None:
    assert parse_form(urlencode(pairs).encode()) == pairs
    raw = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    assert parse_form(raw.encode()) == pairs


@given(BYTES, BYTES)
def test_query_and_body_are_read_as_one(query: bytes, body: bytes) -> None:
    try:
        together = parse_form(query + b"&" + body)
    except InvalidRequest:
        with pytest.raises(InvalidRequest):
            parse_form(query) + parse_form(body)
    else:
        assert together == parse_form(query) + parse_form(body)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
@example([("topic", "a"), ("data", ""), ("data", "x")])
@example([("topic", "a"), ("data", "\n\ndata: x\r\n\r\nid: 1"), ("private", "")])
@example([("topic", "a"), ("retry", "0" * 5000)])
@example([("topic", "a\u2028b"), ("id", " "), ("type", " ")])
def test_an_accepted_publication_is_one_event(pairs: list[tuple[str, str]]) -> None:
    try:
        new = update.from_form(pairs, PublicationLimits(topics=4, topic_length=100))
    except InvalidRequest:
        return
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    assert new.topics == tuple(dict.fromkeys(value for name, value in pairs if name == "topic"))
    assert new.private is ("private" in first)
    assert new.id == (first.get("id") or new.id)
    assert not any(forbidden_character(value) for value in (*new.topics, new.id, new.type or ""))
    assert "*" not in new.topics
    assert not new.id.startswith("#")
    assert new.id != EARLIEST
    assert new.type != "mercure"
    data = first.get("data", "").replace("\r\n", "\n").replace("\r", "\n")
    parser = Parser()
    assert list(parser.feed(HEARTBEAT + new.encode() + HEARTBEAT)) == [
        Event(data, new.id, first.get("type") or "message")
    ]
    assert parser.retry == new.retry
    assert (new.retry is None) is ("retry" not in first)
