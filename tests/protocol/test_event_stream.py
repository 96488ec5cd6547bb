"""Server-Sent Events: what is encoded cannot be forged, and the parser does not care how it is fed."""

from __future__ import annotations

import random
import time

import pytest

from mercure_hub.protocol.event_stream import HEARTBEAT, Event, Parser, encode, retry_from


@pytest.mark.parametrize(
    ("event_id", "data", "event", "retry", "encoded"),
    [
        ("1", "x", None, None, "id: 1\ndata: x\n\n"),
        ("1", "", None, None, "id: 1\ndata: \n\n"),
        ("1", "x", "", None, "id: 1\ndata: x\n\n"),
        ("1", "x", "t", 5, "id: 1\nevent: t\nretry: 5\ndata: x\n\n"),
        ("1", "x", None, 0, "id: 1\nretry: 0\ndata: x\n\n"),
        ("1", "a\nb", None, None, "id: 1\ndata: a\ndata: b\n\n"),
        ("1", "a\rb", None, None, "id: 1\ndata: a\ndata: b\n\n"),
        ("1", "a\r\nb", None, None, "id: 1\ndata: a\ndata: b\n\n"),
        ("1", "a\n\rb", None, None, "id: 1\ndata: a\ndata: \ndata: b\n\n"),
        ("1", "a\r\r\nb", None, None, "id: 1\ndata: a\ndata: \ndata: b\n\n"),
        ("1", "\n", None, None, "id: 1\ndata: \ndata: \n\n"),
        ("1", "a\n", None, None, "id: 1\ndata: a\ndata: \n\n"),
        ("1", "\r\n\r\n", None, None, "id: 1\ndata: \ndata: \ndata: \n\n"),
        ("1", " a", None, None, "id: 1\ndata:  a\n\n"),
        ("1", ":a", None, None, "id: 1\ndata: :a\n\n"),
        ("é", "日本", "ü", None, "id: é\nevent: ü\ndata: 日本\n\n"),
        ("1", "a\u2028b\x0bc\x0cd\x85e", None, None, "id: 1\ndata: a\u2028b\x0bc\x0cd\x85e\n\n"),
    ],
)
def test_an_event_is_encoded(
    event_id: str, data: str, event: str | None, retry: int | None, encoded: str
) -> None:
    assert encode(event_id, data, event, retry) == encoded.encode()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r", "\n\n\n"])
@pytest.mark.parametrize(
    "forged", ["id: forged", "event: mercure", "retry: 1", "data: forged", ": comment", "id", ""]
)
def test_data_cannot_inject_a_field(end: str, forged: str) -> None:
    parser = Parser()
    data = f"a{end}{forged}{end}{forged}"
    (event,) = parser.feed(encode("real", data))
    assert event == Event(data.replace("\r\n", "\n").replace("\r", "\n"), "real", "message")
    assert parser.retry is None
    assert parser.last_event_id == "real"


STREAMS: list[tuple[str, bytes, list[Event]]] = [
    ("nothing", b"", []),
    ("only line ends", b"\n\n\r\r\r\n\r\n", []),
    ("a comment", HEARTBEAT, []),
    ("comments", b": a\n:b\n:\n\n", []),
    ("an event", b"data: x\n\n", [Event("x", "", "message")]),
    ("carriage returns", b"id: 1\rdata: x\r\r", [Event("x", "1", "message")]),
    ("both", b"id: 1\r\ndata: x\r\n\r\n", [Event("x", "1", "message")]),
    ("mixed", b"id: 1\ndata: x\r\ndata: y\r\n\ndata: z\r\r\n", [Event("x\ny", "1", "message"), Event("z",
        "1", "message")]),
    ("cut off", b"data: x\n", []),
    ("cut off within", b"data: x", []),
    ("no space", b"data:x\n\n", [Event("x", "", "message")]),
    ("two spaces", b"data:  x\n\n", [Event(" x", "", "message")]),
    ("trailing space", b"data: x \n\n", [Event("x ", "", "message")]),
    ("a tab", b"data:\tx\n\n", [Event("\tx", "", "message")]),
    ("a colon", b"data: a: b\n\n", [Event("a: b", "", "message")]),
    ("data without a colon", b"data\n\n", [Event("", "", "message")]),
    ("twice", b"data\ndata\n\n", [Event("\n", "", "message")]),
    ("empty data", b"data:\n\n", [Event("", "", "message")]),
    ("standard example 1", b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10", "", "message")]),
    (
        "standard example 2",
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [Event("first event", "1", "message"), Event("second event", "", "message")],
    ),
    ("standard example 3", b"data\n\ndata\ndata\n\ndata:", [Event("", "", "message"), Event("\n", "",
        "message")]),
    ("standard example 4", b"data:test\n\ndata: test\n\n", [Event("test", "", "message")] * 2),
    ("a type", b"event: t\ndata: x\n\ndata: y\n\n", [Event("x", "", "t"), Event("y", "", "message")]),
    ("a type without data", b"event: t\n\ndata: y\n\n", [Event("y", "", "message")]),
    ("the last type counts", b"event: a\nevent: b\ndata: x\n\n", [Event("x", "", "b")]),
    ("an id lasts", b"id: 1\ndata: x\n\ndata: y\n\n", [Event("x", "1", "message"), Event("y", "1",
        "message")]),
    ("an id without data", b"id: 7\n\ndata: x\n\n", [Event("x", "7", "message")]),
    ("an id is taken back", b"id: 7\ndata: x\n\nid:\ndata: y\n\n", [Event("x", "7", "message"), Event("y",
        "", "message")]),
    ("an id with NULL", b"id: 1\nid: 2\x003\ndata: x\n\n", [Event("x", "1", "message")]),
    ("data with NULL", b"data: a\x00b\n\n", [Event("a\0b", "", "message")]),
    ("case counts", b"DATA: x\nData: y\ndata : z\n\n", []),
    ("unknown fields", b"foo: bar\nfoo\ndata: x\nid2: y\n\n", [Event("x", "", "message")]),
    ("a field with a space", b" data: x\n\n", []),
    ("a byte order mark", b"\xef\xbb\xbfdata: x\n\n", [Event("x", "", "message")]),
    ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: y\n\n", [Event("y", "", "message")]),
    ("a later byte order mark", b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [Event("x", "", "message")]),
    ("UTF-8", "id: é\nevent: ü\ndata: 😀\n\n".encode(), [Event("😀", "é", "ü")]),
    ("invalid UTF-8", b"data: \xff\xc3(\n\n", [Event("\ufffd\ufffd(", "", "message")]),
    ("half a character", b"data: \xf0\x9f\x98\n\n", [Event("\ufffd", "", "message")]),
    ("other line ends are none", "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
        [Event("a\u2028b\u0085c\x0bd\x0ce\x1cf", "", "message")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "events"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS]
)
class TestParser:
    def test_a_stream_is_parsed_at_once(self, stream: bytes, events: list[Event]) -> None:
        assert list(Parser().feed(stream)) == events

    def test_a_stream_is_parsed_byte_by_byte(self, stream: bytes, events: list[Event]) -> None:
        parser = Parser()
        assert [event for each in stream for event in parser.feed(bytes([each]))] == events

    def test_cut_in_two_anywhere(self, stream: bytes, events: list[Event]) -> None:
        for cut in range(len(stream) + 1):
            parser = Parser()
            assert [*parser.feed(stream[:cut]), *parser.feed(b""), *parser.feed(stream[cut:])] == events

    def test_events_behind_the_stream_are_parsed_too(self, stream: bytes, events: list[Event]) -> None:
        parser = Parser()
        found = list(parser.feed(stream + b"\n\n" + b"event: tail\ndata: tail\n\n"))
        assert found[: len(events)] == events
        assert found[-1].data.endswith("tail")
        assert found[-1].type == "tail"


def test_every_string_survives_encoding() -> None:
    rng = random.Random(7)
    alphabet = [
        "\r",
        "\n",
        "\r\n",
        ":",
        " ",
        "data",
        "id: x",
        "\0",
        "é",
        "😀",
        "\ufeff",
        "a",
        "",
        "\u2028",
        "\x85",
    ]
    parser, stream, expected = Parser(), b"", []
    for number in range(500):
        data = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        event_type = rng.choice([None, "t", " t", "mercure", "é:"])
        stream += encode(f"urn:{number}", data, event_type, rng.choice([None, 0, 10])) + rng.choice(
            [b"", HEARTBEAT]
        )
        lines = data.replace("\r\n", "\n").replace("\r", "\n")
        expected.append(Event(lines, f"urn:{number}", event_type or "message"))
    found: list[Event] = []
    while stream:
        size = rng.randint(1, 40)
        found += parser.feed(stream[:size])
        stream = stream[size:]
    assert found == expected


def test_a_resumed_stream_knows_its_last_id() -> None:
    parser = Parser("before")
    assert list(parser.feed(b"data: x\n\n")) == [Event("x", "before", "message")]
    assert parser.last_event_id == "before"


def test_an_id_counts_only_when_its_event_is_complete() -> None:
    parser = Parser("before")
    list(parser.feed(b"id: after\ndata: x\n"))
    assert parser.last_event_id == "before"
    list(parser.feed(b"\n"))
    assert parser.last_event_id == "after"


@pytest.mark.parametrize(
    ("digits", "milliseconds"),
    [
        ("0", 0), ("1", 1), ("3000", 3000), ("007", 7), ("0" * 5000, 0), ("0" * 5000 + "7", 7),
        ("2147483647", 2147483647),
        ("2147483648", 2147483647), ("9" * 5000, 2147483647), ("10000000000", 2147483647),
        ("99999999999999", 2147483647),
        ("", None), (" 1", None), ("1 ", None), ("-1", None), ("+1", None), ("1.0", None), ("1e3", None),
        ("0x1", None), ("1_000", None),
        ("٣", None), ("²", None), ("\uff11", None), ("1\0", None),
    ],
)  # fmt: skip
def test_the_reconnection_time_is_read(digits: str, milliseconds: int | None) -> None:
    assert retry_from(digits) == milliseconds
    parser = Parser()
    list(parser.feed(b"retry: " + digits.encode() + b"\n"))
    assert parser.retry == milliseconds


def test_a_wrong_reconnection_time_changes_nothing() -> None:
    parser = Parser()
    list(parser.feed(b"retry: 10\nretry: x\nretry\nretry:\n"))
    assert parser.retry == 10


def test_a_long_line_in_small_pieces() -> None:
    parser = Parser()
    start = time.thread_time()
    for _ in range(1024):
        assert list(parser.feed(b"data: " + b"x" * 1018)) == []
    (event,) = parser.feed(b"\n\n")
    assert len(event.data) > 1_000_000
    assert time.thread_time() - start < 2
