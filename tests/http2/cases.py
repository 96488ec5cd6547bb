"""The table of cases: what a client sends, and what a server may do (RFC 9113, RFC 7541).

It has the cases of h2spec, by its groups and in its order, and more. Sections are those of RFC 9113 unless
they begin with ``HPACK``. A server may always treat a stream error as a connection error (section 5.4.1).
Where many clients share a proxy's connection that is too harsh: ``MALFORMED`` ends no more than the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from tests.http2.frames import (
    ACKNOWLEDGEMENT,
    DEFAULT_FRAME_SIZE,
    END,
    GREATEST_WINDOW,
    PREFACE,
    Code,
    Flag,
    Kind,
    Setting,
    block,
    continuation,
    data,
    dependency,
    frame,
    goaway,
    headers,
    integer,
    literal,
    ping,
    priority,
    reset,
    settings,
    text,
    window,
)
from tests.hub.running import HUB_PATH


class Wait(str):
    """A point at which the client waits for something of the server's."""


ENDED: Final = Wait("stream 1 is over")
DATA: Final = Wait("DATA on stream 1")
SETTLED: Final = Wait("SETTINGS are acknowledged")

Step = bytes | Wait | Callable[[Mapping[int, int]], bytes]
"""Bytes, a wait, or what makes bytes from the server's settings."""


@dataclass(frozen=True)
class Right:
    """What a server may do.

    :ivar lives: the connection may go on, with PING answered.
    :ivar answers: then stream 1 has an answer.
    :ivar stream: the codes that RST_STREAM may have for the stream of the case.
    :ivar refusal: an answer with a status of 4xx does as well (section 8.1.1).
    :ivar connection: the codes that GOAWAY may have, with the end of the connection.
    :ivar closes: it may close the connection without a word.
    :ivar sizes: those of the first DATA frames of stream 1.
    """

    lives: bool = False
    answers: bool = False
    stream: frozenset[Code] = frozenset()
    refusal: bool = False
    connection: frozenset[Code] = frozenset()
    closes: bool = False
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One row.

    :param section: of RFC 9113, or ``HPACK`` with one of RFC 7541.
    :param what: is sent.
    :param steps: of the client.
    :param right: what the server may do.
    :param stream: the one that a stream error is for.
    :param first: what is sent before the steps.
    """

    section: str
    what: str
    steps: tuple[Step, ...]
    right: Right
    stream: int = 1
    first: bytes = field(default=PREFACE + settings(), repr=False)

    @property
    def name(self) -> str:
        return f"{self.section} {self.what}"


LIVES = Right(lives=True)
ANSWERED = Right(lives=True, answers=True)
LIVES_OR_LEAVES = Right(lives=True, closes=True, connection=frozenset({Code.NO_ERROR}))
CLOSES = Right(closes=True, connection=frozenset({Code.PROTOCOL_ERROR}))
MALFORMED = Right(stream=frozenset({Code.PROTOCOL_ERROR}), refusal=True)


def connection_error(*codes: Code) -> Right:
    """GOAWAY, and the end of the connection (section 5.4.1)."""
    return Right(connection=frozenset(codes))


def stream_error(*codes: Code) -> Right:
    """RST_STREAM, or GOAWAY and the end of the connection (sections 5.4.1 and 5.4.2)."""
    return Right(stream=frozenset(codes), connection=frozenset(codes))


PROTOCOL = connection_error(Code.PROTOCOL_ERROR)
COMPRESSION = connection_error(Code.COMPRESSION_ERROR)
FRAME_SIZE = connection_error(Code.FRAME_SIZE_ERROR)
FLOW_CONTROL = connection_error(Code.FLOW_CONTROL_ERROR)
CLOSED = stream_error(Code.STREAM_CLOSED)
# RFC 9113 deprecates priorities: what they say counts for nothing any longer (section 5.3.2).
IGNORED_PRIORITY = Right(
    lives=True, stream=frozenset({Code.PROTOCOL_ERROR}), connection=frozenset({Code.PROTOCOL_ERROR})
)

Pairs = list[tuple[str | bytes, str | bytes]]

GET: Pairs = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", HUB_PATH),
    (":authority", "127.0.0.1"),
]
POST: Pairs = [(":method", "POST"), *GET[1:]]
HEAD: Pairs = [(":method", "HEAD"), *GET[1:]]
LENGTH: Pairs = [("content-length", "4")]
BODY = b"test"
LAST_DATA = data(1, BODY, Flag.END_STREAM)
NO_WINDOW = settings((Setting.INITIAL_WINDOW_SIZE, 0))
SOME_FIELD = literal("x-some", "a" * 100)
UNKNOWN = frame(Kind.UNKNOWN, bytes(8))
OPEN = headers(1, block(POST), Flag.END_HEADERS)
"""A request whose body is to come."""
WHOLE = headers(1, block(GET))
"""A request that is complete."""
OTHER = headers(3, block(GET))
WAITING = NO_WINDOW + WHOLE
"""The same, whose answer cannot end, so that its stream is half-closed."""
START = headers(1, block(POST), Flag.NONE)
"""A request whose header block is to go on."""
# The Huffman codes of "custom-key" and "custom-value" (RFC 7541, appendix C.4.3).
HUFFMAN_NAME = bytes.fromhex("25a849e95ba97d7f")
HUFFMAN_VALUE = bytes.fromhex("25a849e95bb8e8b4bf")
HUFFMAN_LITERAL = text(b"", huffman=HUFFMAN_NAME) + text(b"", huffman=HUFFMAN_VALUE)
PLAIN_LITERAL = text(b"custom-key") + text(b"custom-value")
USER_AGENT = 58  # in the static table
FIRST_DYNAMIC = 62


def _request(extra: bytes, fields: Pairs = GET) -> bytes:
    """A request with bytes behind its header block."""
    return headers(1, block(fields) + extra)


def _with(*pairs: tuple[str | bytes, str | bytes]) -> tuple[bytes]:
    """A request with more fields."""
    return (headers(1, block([*GET, *pairs])),)


def _without(name: str) -> Pairs:
    return [pair for pair in GET if pair[0] != name]


def _changed(name: str, value: str | bytes) -> tuple[bytes]:
    """A request with another value of a pseudo-field."""
    return (headers(1, block((one, value if one == name else old) for one, old in GET)),)


def _one_too_many(server: Mapping[int, int]) -> bytes:
    """More requests at a time than the server said; the last has the identifier of ``LAST``."""
    whole = block(GET)
    most = server.get(Setting.MAX_CONCURRENT_STREAMS, 1000)
    return b"".join(headers(2 * number + 1, whole) for number in range(most)) + headers(LAST, whole)


LAST = 99_999


def _table_too_large(server: Mapping[int, int]) -> bytes:
    size = server.get(Setting.HEADER_TABLE_SIZE, 4096)
    return headers(1, integer(size + 1, 5, 0x20) + block(GET))


def _body(server: Mapping[int, int], more: int = 0) -> bytes:
    return data(1, bytes(server.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE) + more), Flag.END_STREAM)


def _body_too_large(server: Mapping[int, int]) -> bytes:
    return _body(server, 1)


def _head_too_large(server: Mapping[int, int]) -> bytes:
    size = server.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE)
    return headers(1, block(GET) + literal("x", b"x" * size))


def _rows(*rows: tuple[str, str, tuple[Step, ...], Right]) -> list[Case]:
    return [Case(*row) for row in rows]


GENERIC = [
    Case("3.4", "the preface", (SETTLED,), LIVES),
    *_rows(
        ("5.1", "PRIORITY on an idle stream", (priority(1),), LIVES),
        ("5.1", "WINDOW_UPDATE on a half-closed stream", (WAITING, window(1, 1), DATA), LIVES),
        ("5.1", "PRIORITY on a half-closed stream", (WAITING, priority(1), window(1, 1), DATA), LIVES),
        ("5.1", "RST_STREAM on a half-closed stream", (WAITING, reset(1)), LIVES),
        ("5.1", "PRIORITY on a closed stream", (WHOLE, ENDED, priority(1)), LIVES),
        ("6.1", "DATA", (OPEN, LAST_DATA), ANSWERED),
        ("6.1", "DATA in two frames", (OPEN, data(1, BODY), LAST_DATA), ANSWERED),
        ("6.1", "DATA with a padding", (OPEN, data(1, BODY, Flag.END_STREAM, padding=5)), ANSWERED),
        ("6.2", "HEADERS", (WHOLE,), ANSWERED),
        ("6.2", "HEADERS with a padding", (headers(1, block(GET), padding=8),), ANSWERED),
        ("6.2", "HEADERS with a priority", (headers(1, block(GET), priority=dependency()),), ANSWERED),
        ("6.3", "PRIORITY with a weight of 1", (priority(1, weight=0), WHOLE), ANSWERED),
        ("6.3", "PRIORITY with a weight of 256", (priority(1, weight=255), WHOLE), ANSWERED),
        ("6.3", "PRIORITY with a dependency", (priority(3, on=1), WHOLE), ANSWERED),
        ("6.3", "an exclusive PRIORITY", (priority(1, exclusive=True), WHOLE), ANSWERED),
        ("6.3", "PRIORITY of a later stream", (priority(3), WHOLE), ANSWERED),
        ("6.4", "RST_STREAM on an open stream", (OPEN, reset(1)), LIVES),
        (
            "6.5",
            "SETTINGS with all parameters",
            (
                settings(
                    (Setting.HEADER_TABLE_SIZE, 4096),
                    (Setting.ENABLE_PUSH, 1),
                    (Setting.MAX_CONCURRENT_STREAMS, 100),
                    (Setting.INITIAL_WINDOW_SIZE, 65535),
                    (Setting.MAX_FRAME_SIZE, 16384),
                    (Setting.MAX_HEADER_LIST_SIZE, 100),
                ),
                SETTLED,
            ),
            LIVES,
        ),
        ("6.7", "PING", (ping(),), LIVES),
        ("6.8", "GOAWAY", (goaway(debug=b"good bye"),), LIVES_OR_LEAVES),
        ("6.9", "WINDOW_UPDATE of the connection", (window(0, 1),), LIVES),
        ("6.9", "WINDOW_UPDATE of a stream", (WHOLE, window(1, 1)), ANSWERED),
        (
            "6.10",
            "CONTINUATION",
            (headers(1, block(GET)[:5], Flag.END_STREAM), continuation(1, block(GET)[5:])),
            ANSWERED,
        ),
        (
            "6.10",
            "two CONTINUATION frames",
            (
                headers(1, block(GET)[:5], Flag.END_STREAM),
                continuation(1, block(GET)[5:10], 0),
                continuation(1, block(GET)[10:]),
            ),
            ANSWERED,
        ),
        ("8.1", "GET", (WHOLE,), ANSWERED),
        ("8.1", "HEAD", (headers(1, block(HEAD)),), ANSWERED),
        ("8.1", "POST", (OPEN, LAST_DATA), ANSWERED),
        (
            "8.1",
            "POST with trailers",
            (
                headers(1, block([*POST, ("trailer", "x-test")]), Flag.END_HEADERS),
                data(1, BODY),
                headers(1, block([("x-test", "ok")])),
            ),
            ANSWERED,
        ),
        (
            "HPACK 6.1",
            "a field of the dynamic table",
            (_request(literal("x-indexed", "yes", 0x40) + integer(FIRST_DYNAMIC, 7, 0x80)),),
            ANSWERED,
        ),
        *(
            (f"HPACK {section}", f"a literal {how}, {which}", (_request(encoded),), ANSWERED)
            for section, how, first, prefix in (
                ("6.2.1", "with indexing", 0x40, 6),
                ("6.2.2", "without indexing", 0, 4),
                ("6.2.3", "that is never indexed", 0x10, 4),
            )
            for which, encoded in (
                ("with an indexed name", integer(USER_AGENT, prefix, first) + text(b"a client")),
                (
                    "with an indexed name and a Huffman code",
                    integer(USER_AGENT, prefix, first) + text(b"", huffman=HUFFMAN_VALUE),
                ),
                ("with a new name", bytes([first]) + PLAIN_LITERAL),
                ("with a new name in Huffman codes", bytes([first]) + HUFFMAN_LITERAL),
            )
        ),
        ("HPACK 6.3", "a smaller table", (headers(1, integer(128, 5, 0x20) + block(GET)),), ANSWERED),
        (
            "HPACK 6.3",
            "two changes of the table's size",
            (headers(1, integer(128, 5, 0x20) + integer(4096, 5, 0x20) + block(GET)),),
            ANSWERED,
        ),
    ),
]

FRAMES = [
    Case("3.4", "SETTINGS are the server's first frame", (SETTLED,), LIVES),
    Case("3.4", "no preface", (), CLOSES, first=b"INVALID CONNECTION PREFACE\r\n\r\n"),
    *_rows(
        ("4.1", "an unknown type", (UNKNOWN,), LIVES),
        ("4.1", "undefined flags", (ping(flags=0x16),), LIVES),
        ("4.1", "the reserved bit", (frame(Kind.PING, bytes(8), 0x16, 1 << 31),), LIVES),
        ("4.2", "the largest DATA", (OPEN, _body), ANSWERED),
        ("4.2", "DATA that is too large", (OPEN, _body_too_large), stream_error(Code.FRAME_SIZE_ERROR)),
        ("4.2", "HEADERS that are too large", (_head_too_large,), FRAME_SIZE),
        ("4.3", "a broken header block", (headers(1, b"\x40"),), COMPRESSION),
        ("4.3", "PRIORITY in a header block", (START, priority(1), continuation(1, SOME_FIELD)), PROTOCOL),
        (
            "4.3",
            "HEADERS of another stream in a header block",
            (START, OTHER, continuation(1, SOME_FIELD)),
            PROTOCOL,
        ),
        (
            "5.1",
            "idle: DATA",
            (LAST_DATA,),
            connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        ),
        ("5.1", "idle: RST_STREAM", (reset(1),), PROTOCOL),
        ("5.1", "idle: WINDOW_UPDATE", (window(1, 100),), PROTOCOL),
        ("5.1", "idle: CONTINUATION", (continuation(1, block(GET)),), PROTOCOL),
        ("5.1", "half-closed: DATA", (WAITING, LAST_DATA), CLOSED),
        ("5.1", "half-closed: HEADERS", (WAITING, WHOLE), CLOSED),
        (
            "5.1",
            "half-closed: CONTINUATION",
            (WAITING, continuation(1, block(GET))),
            connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        ),
        ("5.1", "reset: DATA", (OPEN, reset(1), LAST_DATA), CLOSED),
        ("5.1", "reset: HEADERS", (OPEN, reset(1), WHOLE), CLOSED),
        (
            "5.1",
            "reset: CONTINUATION",
            (OPEN, reset(1), continuation(1, SOME_FIELD)),
            connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        ),
        ("5.1", "closed: DATA", (WHOLE, ENDED, LAST_DATA), CLOSED),
        ("5.1", "closed: HEADERS", (WHOLE, ENDED, WHOLE), connection_error(Code.STREAM_CLOSED)),
        (
            "5.1",
            "closed: CONTINUATION",
            (WHOLE, ENDED, continuation(1, SOME_FIELD)),
            connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
        ),
        ("5.1.1", "an even stream", (headers(2, block(GET)),), PROTOCOL),
        (
            "5.1.1",
            "a stream below an earlier one",
            (headers(5, block(GET)), OTHER),
            PROTOCOL,
        ),
    ),
    Case(
        "5.1.2",
        "more streams than the server allows",
        (NO_WINDOW, SETTLED, _one_too_many),
        stream_error(Code.PROTOCOL_ERROR, Code.REFUSED_STREAM),
        stream=LAST,
    ),
    *_rows(
        (
            "5.3",
            "HEADERS that depend on themselves",
            (headers(1, block(GET), priority=dependency(on=1)),),
            IGNORED_PRIORITY,
        ),
        ("5.3", "PRIORITY that depends on itself", (priority(1, on=1),), IGNORED_PRIORITY),
        ("5.4.1", "GOAWAY before the end", (frame(Kind.PING, bytes(8), 0, 3),), PROTOCOL),
        ("5.4.1", "the end after an error", (frame(Kind.PING, bytes(8), 0, 3),), PROTOCOL),
        ("5.5", "an unknown frame", (UNKNOWN, WHOLE), ANSWERED),
        ("5.5", "an unknown frame in a header block", (START, UNKNOWN), PROTOCOL),
        ("6.1", "DATA on stream 0", (data(0, BODY, Flag.END_STREAM),), PROTOCOL),
        ("6.1", "DATA after END_STREAM", (NO_WINDOW, headers(1, block(POST)), data(1, BODY)), CLOSED),
        (
            "6.1",
            "DATA with more padding than payload",
            (
                headers(1, block([*POST, *LENGTH]), Flag.END_HEADERS),
                frame(Kind.DATA, b"\x06" + BODY, Flag.END_STREAM | Flag.PADDED, 1),
            ),
            PROTOCOL,
        ),
        ("6.2", "PRIORITY before END_HEADERS", (START, priority(1), continuation(1, SOME_FIELD)), PROTOCOL),
        (
            "6.2",
            "HEADERS of another stream before END_HEADERS",
            (START, OTHER, continuation(1, SOME_FIELD)),
            PROTOCOL,
        ),
        ("6.2", "HEADERS on stream 0", (headers(0, block(GET)),), PROTOCOL),
        (
            "6.2",
            "HEADERS with more padding than payload",
            (frame(Kind.HEADERS, bytes([len(block(GET)) + 2]) + block(GET), END | Flag.PADDED, 1),),
            PROTOCOL,
        ),
        ("6.3", "PRIORITY on stream 0", (priority(0),), PROTOCOL),
        (
            "6.3",
            "PRIORITY of four bytes",
            (WAITING, frame(Kind.PRIORITY, bytes(4), 0, 1)),
            stream_error(Code.FRAME_SIZE_ERROR),
        ),
        ("6.4", "RST_STREAM on stream 0", (reset(0),), PROTOCOL),
        ("6.4", "RST_STREAM on an idle stream", (reset(1),), PROTOCOL),
        ("6.4", "RST_STREAM of three bytes", (WAITING, frame(Kind.RST_STREAM, bytes(3), 0, 1)), FRAME_SIZE),
        ("6.5", "an acknowledgement with a payload", (frame(Kind.SETTINGS, b"\0", Flag.ACK),), FRAME_SIZE),
        ("6.5", "SETTINGS on a stream", (frame(Kind.SETTINGS, bytes([0, 3, 0, 0, 0, 100]), 0, 1),), PROTOCOL),
        ("6.5", "SETTINGS of three bytes", (frame(Kind.SETTINGS, bytes([0, 3, 0])),), FRAME_SIZE),
        ("6.5.2", "ENABLE_PUSH of 2", (settings((Setting.ENABLE_PUSH, 2)),), PROTOCOL),
        (
            "6.5.2",
            "a window above the maximum",
            (settings((Setting.INITIAL_WINDOW_SIZE, 2**31)),),
            FLOW_CONTROL,
        ),
        ("6.5.2", "frames below the minimum", (settings((Setting.MAX_FRAME_SIZE, 16_383)),), PROTOCOL),
        ("6.5.2", "frames above the maximum", (settings((Setting.MAX_FRAME_SIZE, 2**24)),), PROTOCOL),
        ("6.5.2", "an unknown setting", (settings((0xFF, 1)), SETTLED), LIVES),
        (
            "6.5.3",
            "a setting twice",
            (
                settings((Setting.INITIAL_WINDOW_SIZE, 100), (Setting.INITIAL_WINDOW_SIZE, 1)),
                SETTLED,
                WHOLE,
                DATA,
            ),
            Right(lives=True, sizes=(1,)),
        ),
        ("6.5.3", "SETTINGS are acknowledged", (settings((Setting.ENABLE_PUSH, 0)), SETTLED), LIVES),
        ("6.7", "PING is answered", (ping(b"12345678"),), LIVES),
        ("6.7", "PING with ACK is not answered", (ping(b"invalid!", Flag.ACK),), LIVES),
        ("6.7", "PING on a stream", (frame(Kind.PING, bytes(8), 0, 1),), PROTOCOL),
        ("6.7", "PING of six bytes", (frame(Kind.PING, bytes(6)),), FRAME_SIZE),
        ("6.8", "GOAWAY on a stream", (frame(Kind.GOAWAY, bytes(8), 0, 1),), PROTOCOL),
        ("6.9", "WINDOW_UPDATE of 0", (window(0, 0),), PROTOCOL),
        ("6.9", "WINDOW_UPDATE of 0 on a stream", (OPEN, window(1, 0)), stream_error(Code.PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of three bytes", (frame(Kind.WINDOW_UPDATE, bytes([0, 0, 1])),), FRAME_SIZE),
        (
            "6.9.1",
            "a window of one byte",
            (settings((Setting.INITIAL_WINDOW_SIZE, 1)), SETTLED, WHOLE, DATA),
            Right(lives=True, sizes=(1,)),
        ),
        (
            "6.9.1",
            "a window of the connection above the maximum",
            (window(0, GREATEST_WINDOW), window(0, GREATEST_WINDOW)),
            FLOW_CONTROL,
        ),
        (
            "6.9.1",
            "a window of a stream above the maximum",
            (OPEN, window(1, GREATEST_WINDOW), window(1, GREATEST_WINDOW)),
            stream_error(Code.FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2",
            "a larger window for an open stream",
            (NO_WINDOW, SETTLED, WHOLE, settings((Setting.INITIAL_WINDOW_SIZE, 1)), DATA),
            Right(lives=True, sizes=(1,)),
        ),
        (
            "6.9.2",
            "a window below zero",
            (
                *(settings((Setting.INITIAL_WINDOW_SIZE, 3)), SETTLED, WHOLE, DATA),
                *(settings((Setting.INITIAL_WINDOW_SIZE, 2)), SETTLED, window(1, 2), DATA),
            ),
            Right(lives=True, sizes=(3, 1)),
        ),
        (
            "6.9.2",
            "an initial window above the maximum",
            (frame(Kind.SETTINGS, bytes.fromhex("000480000000")),),
            FLOW_CONTROL,
        ),
        (
            "6.10",
            "CONTINUATION frames with more fields",
            (
                headers(1, block(GET), Flag.END_STREAM),
                continuation(1, SOME_FIELD, 0),
                continuation(1, SOME_FIELD),
            ),
            ANSWERED,
        ),
        (
            "6.10",
            "CONTINUATION, and then DATA",
            (START, continuation(1, SOME_FIELD, 0), LAST_DATA),
            PROTOCOL,
        ),
        ("6.10", "CONTINUATION on stream 0", (START, continuation(0, SOME_FIELD)), PROTOCOL),
        ("6.10", "CONTINUATION after END_HEADERS", (WAITING, continuation(1, SOME_FIELD)), PROTOCOL),
        (
            "6.10",
            "CONTINUATION after one with END_HEADERS",
            (START, continuation(1, SOME_FIELD), continuation(1, SOME_FIELD)),
            PROTOCOL,
        ),
        (
            "6.10",
            "CONTINUATION after DATA",
            (
                START,
                LAST_DATA,
                continuation(1, SOME_FIELD, 0),
                continuation(0, SOME_FIELD),
            ),
            PROTOCOL,
        ),
        ("7", "GOAWAY with an unknown code", (goaway(code=0xFF),), LIVES_OR_LEAVES),
        ("7", "RST_STREAM with an unknown code", (OPEN, reset(1, 0xFF)), LIVES),
    ),
]

MESSAGES = _rows(
    (
        "8.1",
        "trailers without END_STREAM",
        (OPEN, data(1, BODY), headers(1, block([("x-test", "ok")]), Flag.END_HEADERS)),
        MALFORMED,
    ),
    ("8.2.1", "a name in capitals", _with(("X-TEST", "ok")), MALFORMED),
    ("8.3", "an unknown pseudo-field", _with((":test", "ok")), MALFORMED),
    ("8.3", "a pseudo-field of answers", _with((":status", "200")), MALFORMED),
    (
        "8.3",
        "a pseudo-field in trailers",
        (OPEN, data(1, BODY), headers(1, block([(":method", "POST")]))),
        MALFORMED,
    ),
    ("8.3", "a pseudo-field after a field", (headers(1, block([("x-test", "ok"), *GET])),), MALFORMED),
    ("8.2.2", "connection", _with(("connection", "keep-alive")), MALFORMED),
    ("8.2.2", "te with more than trailers", _with(("te", "trailers, deflate")), MALFORMED),
    ("8.3.1", "an empty :path", _changed(":path", ""), MALFORMED),
    *(
        ("8.3.1", f"no {name}", (headers(1, block(_without(name))),), MALFORMED)
        for name in (":method", ":scheme", ":path")
    ),
    *(
        ("8.3.1", f"{name} twice", _with((name, dict(GET)[name])), MALFORMED)
        for name in (":method", ":scheme", ":path")
    ),
    (
        "8.1.1",
        "a body that is longer than content-length",
        (
            headers(1, block([*POST, ("content-length", "1")]), Flag.END_HEADERS),
            LAST_DATA,
        ),
        MALFORMED,
    ),
    (
        "8.1.1",
        "a body in two frames that is longer than content-length",
        (
            headers(1, block([*POST, ("content-length", "1")]), Flag.END_HEADERS),
            data(1, BODY),
            LAST_DATA,
        ),
        MALFORMED,
    ),
    ("8.4", "PUSH_PROMISE", (frame(Kind.PUSH_PROMISE, bytes([0, 0, 0, 3]) + block(GET), 4, 1),), PROTOCOL),
)

COMPRESSED = _rows(
    ("HPACK 2.3.3", "an index beyond the tables", (_request(integer(70, 7, 0x80)),), COMPRESSION),
    (
        "HPACK 2.3.3",
        "a literal whose name has an index beyond the tables",
        (_request(integer(70, 6, 0x40) + text(b"")),),
        COMPRESSION,
    ),
    ("HPACK 4.2", "a change of the table's size behind a field", (_request(b"\x21"),), COMPRESSION),
    (
        "HPACK 5.2",
        "a Huffman code with eight bits of padding",
        (_request(b"\0" + text(b"", huffman=HUFFMAN_NAME) + text(b"", huffman=HUFFMAN_VALUE + b"\xff")),),
        COMPRESSION,
    ),
    (
        "HPACK 5.2",
        "a Huffman code padded with zeros",
        (_request(b"\0" + text(b"", huffman=HUFFMAN_NAME) + text(b"", huffman=b"\x18")),),
        COMPRESSION,
    ),
    (
        "HPACK 5.2",
        "a Huffman code with its end symbol",
        (_request(b"\0" + text(b"", huffman=HUFFMAN_NAME) + text(b"", huffman=b"\xff\xff\xff\xff")),),
        COMPRESSION,
    ),
    ("HPACK 6.1", "the index 0", (_request(b"\x80"),), COMPRESSION),
    ("HPACK 6.3", "a table larger than the server's", (_table_too_large,), COMPRESSION),
)

H2SPEC = [*GENERIC, *FRAMES, *MESSAGES, *COMPRESSED]
"""The cases that h2spec has, some of them more than once as there."""

MORE = [
    Case("6.5.2", "NO_RFC7540_PRIORITIES", (WHOLE,), ANSWERED, first=PREFACE + settings((9, 1))),
    Case("3.4", "another preface", (), CLOSES, first=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings()),
    Case("3.4", "a preface without SETTINGS", (ping(),), PROTOCOL, first=PREFACE),
    Case("3.4", "a request instead of SETTINGS", (WHOLE,), PROTOCOL, first=PREFACE),
    Case("3.4", "a request together with the preface", (WHOLE,), ANSWERED),
    *_rows(
        ("5.1", "reset: WINDOW_UPDATE", (OPEN, reset(1), window(1, 1)), LIVES),
        ("5.1", "reset: RST_STREAM", (OPEN, reset(1), reset(1)), LIVES),
        ("5.1", "closed: WINDOW_UPDATE", (WHOLE, ENDED, window(1, 1)), LIVES),
        ("5.1", "closed: RST_STREAM", (WHOLE, ENDED, reset(1)), LIVES),
        ("5.1.1", "the last stream there can be", (headers(2**31 - 1, block(GET)), WHOLE), PROTOCOL),
        ("6.1", "a padding and nothing else", (OPEN, data(1, b"", 0, 255), data(1, BODY, 1)), ANSWERED),
        (
            "6.5",
            "an acknowledgement nobody asked for",
            (ACKNOWLEDGEMENT, ACKNOWLEDGEMENT),
            Right(lives=True, connection=frozenset({Code.PROTOCOL_ERROR})),
        ),
        (
            "6.9.2",
            "an initial window that takes a stream's above the maximum",
            (OPEN, window(1, GREATEST_WINDOW - 65_535), settings((Setting.INITIAL_WINDOW_SIZE, 65_536))),
            FLOW_CONTROL,
        ),
        ("6.9.1", "WINDOW_UPDATE with the reserved bit", (window(0, 1 << 31 | 1), WHOLE), ANSWERED),
        ("8.2.1", "a name with a blank", _with(("x test", "ok")), MALFORMED),
        ("8.2.1", "a name with a colon", _with(("x:test", "ok")), MALFORMED),
        ("8.2.1", "an empty name", _with(("", "ok")), MALFORMED),
        ("8.2.1", "a name with a byte above 127", _with((b"x\xe4", "ok")), MALFORMED),
        *(
            ("8.2.1", f"a value with {what}", _with((b"x-test", value)), MALFORMED)
            for what, value in (
                ("CR LF and a field", b"a\r\nx-other: b"),
                ("LF", b"a\nb"),
                ("CR", b"a\rb"),
                ("NUL", b"a\0b"),
                ("a blank before it", b" a"),
                ("a tab behind it", b"a\t"),
            )
        ),
        ("8.2.1", "a value with bytes above 127", _with((b"x-test", b"\xff\xc3\xa4")), ANSWERED),
        *(
            ("8.2.2", name, _with((name, value)), MALFORMED)
            for name, value in (
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
            )
        ),
        ("8.2.2", "te with trailers", _with(("te", "trailers")), ANSWERED),
        ("8.2.3", "cookies in several fields", _with(("cookie", "a=1"), ("cookie", "b=2")), ANSWERED),
        ("8.3.1", ":authority twice", _with((":authority", "127.0.0.1")), MALFORMED),
        ("8.3.1", "a :path that is no path", _changed(":path", "relative"), MALFORMED),
        ("8.3.1", "a :path with a blank", _changed(":path", "/a b"), MALFORMED),
        ("8.3.1", "a :path with CR LF", _changed(":path", "/ HTTP/1.1\r\nx: y"), MALFORMED),
        ("8.3.1", "a :path with a byte above 127", _changed(":path", b"/\xe4"), MALFORMED),
        ("8.3.1", "a :method with a blank", _changed(":method", "GET /x"), MALFORMED),
        ("8.3.1", "an :authority with user information", _changed(":authority", "me@127.0.0.1"), MALFORMED),
        ("8.3.1", "no :authority and no host", (headers(1, block(_without(":authority"))),), MALFORMED),
        (
            "8.3.1",
            "host instead of :authority",
            (headers(1, block([*_without(":authority"), ("host", "127.0.0.1")])),),
            ANSWERED,
        ),
        ("8.3.1", "host as :authority", _with(("host", "127.0.0.1")), ANSWERED),
        ("8.3.1", "host other than :authority", _with(("host", "elsewhere")), MALFORMED),
        ("8.1.1", "content-length that is no number", _with(("content-length", "4x")), MALFORMED),
        ("8.1.1", "content-length twice", _with(("content-length", "0"), ("content-length", "1")), MALFORMED),
        (
            "8.1.1",
            "a body that is shorter than content-length",
            (headers(1, block([*POST, ("content-length", "5")]), 4), LAST_DATA),
            MALFORMED,
        ),
        ("8.1.1", "content-length and no body", (headers(1, block([*POST, *LENGTH])),), MALFORMED),
        ("8.5", "CONNECT", (headers(1, block([(":method", "CONNECT"), (":authority", "x:1")])),), MALFORMED),
        ("8.5", "CONNECT with :protocol", _with((":protocol", "websocket")), MALFORMED),
        ("HPACK 4.2", "a table of no size", (headers(1, b"\x20" + block(GET)), ENDED), ANSWERED),
        (
            "HPACK 4.3",
            "a field that a smaller table has lost",
            (
                headers(1, literal("x", "y", 0x40) + b"\x20" + block(GET)),
                headers(3, integer(FIRST_DYNAMIC, 7, 0x80) + block(GET)),
            ),
            COMPRESSION,
        ),
        (
            "HPACK 5.1",
            "an integer without an end",
            (_request(b"\xff" + b"\x80" * 100 + b"\x01"),),
            COMPRESSION,
        ),
        ("HPACK 5.1", "an integer above 32 bits", (_request(b"\xff" + b"\xff" * 6 + b"\x01"),), COMPRESSION),
        ("HPACK 5.2", "a string beyond the block", (_request(b"\0" + integer(2000, 7) + b"x"),), COMPRESSION),
    ),
]

CASES: list[Case] = list(chain(H2SPEC, MORE))
