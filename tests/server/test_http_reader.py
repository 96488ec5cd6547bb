"""Requests from bytes: however they are cut, and none that two parsers could read in two ways."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from mercure_hub.protocol.errors import ContentTooLarge, HeaderTooLarge, InvalidRequest
from mercure_hub.server.http import Message, RequestReader

MAX_BODY = 1000
HOST = b"Host: hub.example.com\r\n"


def get(target: bytes = b"/", *fields: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


def chunked(*chunks: bytes, after: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(body + after, b"Transfer-Encoding: chunked")


def read(*pieces: bytes) -> list[Message]:
    """The requests in a stream that arrives in pieces."""
    reader = RequestReader(MAX_BODY)
    found: list[Message] = []
    for piece in pieces:
        reader.feed(piece)
        found += reader.ready
        reader.ready.clear()
    return found


def read_bytewise(data: bytes) -> list[Message]:
    return read(*[data[n : n + 1] for n in range(len(data))])


REQUESTS: dict[str, tuple[bytes, Message]] = {
    "get": (
        get(b"/.well-known/mercure?match=a%20b&x", b"Accept: text/event-stream"),
        Message(
            "GET",
            b"/.well-known/mercure?match=a%20b&x",
            {"host": "hub.example.com", "accept": "text/event-stream"},
        ),
    ),
    "head": (
        b"HEAD /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        Message("HEAD", b"/healthz", {"host": "hub.example.com"}),
    ),
    "options": (
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        Message("OPTIONS", b"*", {"host": "hub.example.com"}),
    ),
    "absolute form": (
        get(b"http://hub.example.com/x?y"),
        Message("GET", b"http://hub.example.com/x?y", {"host": "hub.example.com"}),
    ),
    "content-length": (
        post(b"topic=a", b"Content-Length: 7"),
        Message("POST", b"/", {"host": "hub.example.com", "content-length": "7"}, b"topic=a"),
    ),
    "no content": (
        post(b"", b"Content-Length: 0"),
        Message("POST", b"/", {"host": "hub.example.com", "content-length": "0"}),
    ),
    "chunked": (
        chunked(b"topic", b"=", b"a" * 300),
        Message(
            "POST",
            b"/",
            {"host": "hub.example.com", "transfer-encoding": "chunked"},
            b"topic=" + b"a" * 300,
        ),
    ),
    "repeated fields": (
        get(b"/", b"Cookie: a=1", b"X-Forwarded-For: 1", b"COOKIE: b=2", b"x-forwarded-for: 2"),
        Message("GET", b"/", {"host": "hub.example.com", "cookie": "a=1; b=2", "x-forwarded-for": "1, 2"}),
    ),
    "white space and bytes": (
        get(b"/", b"X: \t caf\xc3\xa9 \t", b"Empty:"),
        Message("GET", b"/", {"host": "hub.example.com", "x": "caf\xc3\xa9".encode().decode(), "empty": ""}),
    ),
    "close": (
        get(b"/", b"Connection: close"),
        Message("GET", b"/", {"host": "hub.example.com", "connection": "close"}, keep_alive=False),
    ),
    "http/1.0": (
        b"GET / HTTP/1.0\r\n\r\n",
        Message("GET", b"/", {}, keep_alive=False, takes_chunks=False),
    ),
    "http/1.0 keep-alive": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        Message("GET", b"/", {"connection": "keep-alive"}, takes_chunks=False),
    ),
    "upgrade": (
        get(b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
        Message(
            "GET",
            b"/",
            {
                "host": "hub.example.com",
                "connection": "Upgrade, HTTP2-Settings",
                "upgrade": "h2c",
            },
            keep_alive=False,
        ),
    ),
    "upgrade with content": (
        post(b"topic=a", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 7"),
        Message(
            "POST",
            b"/",
            {
                "host": "hub.example.com",
                "connection": "Upgrade",
                "upgrade": "h2c",
                "content-length": "7",
            },
            b"topic=a",
            keep_alive=False,
        ),
    ),
    "upgrade with chunks": (
        post(
            b"7\r\ntopic=a\r\n0\r\n\r\n",
            b"Connection: upgrade",
            b"Upgrade: websocket",
            b"Transfer-Encoding: chunked",
        ),
        Message(
            "POST",
            b"/",
            {
                "host": "hub.example.com",
                "connection": "upgrade",
                "upgrade": "websocket",
                "transfer-encoding": "chunked",
            },
            b"topic=a",
            keep_alive=False,
        ),
    ),
}
each_request = pytest.mark.parametrize(("data", "expected"), REQUESTS.values(), ids=list(REQUESTS))


@each_request
def test_a_request_that_arrives_at_once(data: bytes, expected: Message) -> None:
    assert read(data) == [expected]


@each_request
def test_a_request_that_arrives_byte_by_byte(data: bytes, expected: Message) -> None:
    assert read_bytewise(data) == [expected]


@each_request
def test_a_request_that_arrives_together_with_the_next(data: bytes, expected: Message) -> None:
    """What follows is the next request, or nobody's when the connection ends with this one."""
    reader = RequestReader(MAX_BODY)
    reader.feed(data + get(b"/next"))
    assert reader.ready[0] == expected
    targets = [message.target for message in reader.ready][1:]
    assert targets == ([b"/next"] if expected.keep_alive else [])


def test_many_requests_in_pieces_of_any_size() -> None:
    chance = random.Random(3)
    kept = [pair for pair in REQUESTS.values() if pair[1].keep_alive]
    for _ in range(30):
        chosen = chance.choices(kept, k=8)
        stream = b"".join(data for data, _ in chosen)
        pieces = []
        start = 0
        while start < len(stream):
            size = chance.choice([1, 2, 7, 50, 400])
            pieces.append(stream[start : start + size])
            start += size
        assert read(*pieces) == [message for _, message in chosen]


def state(reader: RequestReader) -> tuple[bool, bool, int]:
    return reader.started, reader.expects_continue, len(reader.ready)


def test_started_and_expects_continue_follow_the_stream() -> None:
    reader = RequestReader(MAX_BODY)
    assert state(reader) == (False, False, 0)
    reader.feed(b"\r\n")
    assert state(reader) == (False, False, 0)
    reader.feed(b"P")
    assert state(reader) == (True, False, 0)
    reader.feed(post(b"", b"Content-Length: 3", b"Expect: 100-Continue")[1:])
    assert state(reader) == (True, True, 0)
    reader.feed(b"abc")
    assert state(reader) == (False, False, 1)
    reader.feed(get())
    assert state(reader) == (False, False, 2)


def test_an_expectation_together_with_an_upgrade() -> None:
    reader = RequestReader(MAX_BODY)
    reader.feed(
        post(b"", b"Expect: 100-continue", b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 3")
    )
    assert state(reader) == (True, True, 0)
    reader.feed(b"abc")
    assert [message.body for message in reader.ready] == [b"abc"]


AMBIGUOUS: dict[str, bytes] = {
    "length and chunks": post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunks and length": post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": post(b"ab", b"Content-Length: 1", b"Content-Length: 2"),
    "two equal lengths": post(b"a", b"Content-Length: 1", b"Content-Length: 1"),
    "a list of lengths": post(b"a", b"Content-Length: 1, 1"),
    "a length with a sign": post(b"a", b"Content-Length: +1"),
    "a negative length": post(b"a", b"Content-Length: -1"),
    "a hexadecimal length": post(b"a", b"Content-Length: 0x1"),
    "a length in superscript": post(b"a", b"Content-Length: \xb2"),
    "a length with a space": post(b"a", b"Content-Length: 1 0"),
    "an empty length": post(b"a", b"Content-Length:"),
    "a length over 64 bits": post(b"a", b"Content-Length: 18446744073709551617"),
    "another coding": post(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"),
    "a coding after chunked": post(b"0\r\n\r\n", b"Transfer-Encoding: chunked, identity"),
    "identity": post(b"", b"Transfer-Encoding: identity"),
    "an unknown coding": post(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"),
    "chunked twice": post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked with a vertical tab": post(b"0\r\n\r\n", b"Transfer-Encoding: \x0bchunked"),
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded field": get(b"/", b"X: a\r\n b"),
    "a field folded with a tab": get(b"/", b"X: a\r\n\tb"),
    "white space before the first field": b"GET / HTTP/1.1\r\n X: a\r\n" + HOST + b"\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "a bare line feed after a field": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "a bare line feed at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "white space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no name": get(b"/", b": a"),
    "no colon": get(b"/", b"abc"),
    "NUL in a value": get(b"/", b"X: a\0b"),
    "NUL in a name": get(b"/", b"X\0: b"),
    "escape in a value": get(b"/", b"X: a\x1bb"),
    "delete in a value": get(b"/", b"X: a\x7fb"),
    "bytes in the target": get(b"/caf\xc3\xa9"),
    "a space in the target": get(b"/a b"),
    "a tab in the target": get(b"/a\tb"),
    "NUL in the target": get(b"/a\0b"),
    "chunk size with a space": chunked(after=b"1 \r\na\r\n0\r\n\r\n"),
    "chunk size with a sign": chunked(after=b"+1\r\na\r\n0\r\n\r\n"),
    "chunk size negative": chunked(after=b"-1\r\na\r\n0\r\n\r\n"),
    "chunk size with 0x": chunked(after=b"0x1\r\na\r\n0\r\n\r\n"),
    "chunk size missing": chunked(after=b"\r\na\r\n0\r\n\r\n"),
    "chunk size over 64 bits": chunked(after=b"FFFFFFFFFFFFFFFFF\r\na"),
    "chunk longer than its size": chunked(after=b"1\r\nab\r\n0\r\n\r\n"),
    "chunk with bare line feeds": chunked(after=b"1\na\n0\n\n"),
    "chunk extension with a line feed": chunked(after=b'1;a="\n"\r\na\r\n0\r\n\r\n'),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": get(b"/", b"Host: other.example.com"),
    "two equal hosts": get(b"/", b"HOST: hub.example.com"),
    "two content types": post(b"", b"Content-Type: a/b", b"Content-Type: c/d", b"Content-Length: 0"),
    "two origins": get(b"/", b"Origin: https://a.example", b"Origin: https://b.example"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 with its version": b"GET / HTTP/0.9\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "the PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method that nobody knows": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "no request": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    for pieces in ([data], [bytes([byte]) for byte in data], [data, get()]):
        with pytest.raises(InvalidRequest) as caught:
            read(*pieces)
        assert caught.value.status in (400, 413)


def test_trailer_fields_are_not_header_fields() -> None:
    """A proxy that checks or sets a field does not look for it behind the content."""
    data = chunked(b"a", after=b"0\r\nAuthorization: Bearer x\r\nHost: evil\r\nX-Forwarded-For: 1\r\n\r\n")
    (message,) = read(data)
    assert message.headers == {"host": "hub.example.com", "transfer-encoding": "chunked"}
    assert message.body == b"a"
    assert read_bytewise(data) == [message]


def test_a_chunk_extension_is_ignored() -> None:
    assert read(chunked(after=b"1;a=b\r\nx\r\n0;c\r\n\r\n"))[0].body == b"x"


class TestLimits:
    def refusal(self, *pieces: bytes) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            read(*pieces)
        return caught.value

    def test_the_length_of_the_target_is_limited(self) -> None:
        assert isinstance(self.refusal(get(b"/" + b"a" * 65536)), HeaderTooLarge)
        assert len(read(get(b"/" + b"a" * 60000))[0].target) == 60001

    def test_the_size_of_the_head_is_limited(self) -> None:
        assert isinstance(
            self.refusal(get(b"/", *[b"X-%d: " % n + b"a" * 8000 for n in range(9)])), HeaderTooLarge
        )
        assert len(read(get(b"/", *[b"X-%d: " % n + b"a" * 8000 for n in range(8)]))) == 1

    def test_the_number_of_fields_is_limited(self) -> None:
        assert len(read(get(b"/", *[b"X: 1"] * 199))[0].headers) == 2
        assert isinstance(self.refusal(get(b"/", *[b"X: 1"] * 200)), HeaderTooLarge)

    @pytest.mark.parametrize(
        "start",
        [
            b"GET / HTTP/1.1\r\nX: ",
            b"GET / HTTP/1.1\r\n" + HOST + b"X-",
            chunked(after=b"1;x="),
            chunked(b"a", after=b"0\r\nX: "),
        ],
        ids=["value", "name", "chunk extension", "trailer"],
    )
    def test_one_element_without_end_is_refused(self, start: bytes) -> None:
        """The parser keeps it to itself and calls nobody: what it gets has to be counted."""
        reader = RequestReader(MAX_BODY)
        reader.feed(start)
        with pytest.raises(HeaderTooLarge):
            for _ in range(20):
                reader.feed(b"a" * 8192)

    def test_empty_lines_without_end_are_refused(self) -> None:
        self.refusal(*[b"\r\n" * 4096] * 20)

    def test_trailer_fields_count_as_part_of_the_head(self) -> None:
        assert isinstance(self.refusal(chunked(after=b"0\r\n" + b"X: 1\r\n" * 300 + b"\r\n")), HeaderTooLarge)

    def test_content_is_limited_by_its_announced_length(self) -> None:
        assert read(post(b"a" * 1000, b"Content-Length: 1000"))[0].body == b"a" * 1000
        refusal = self.refusal(post(b"", b"Content-Length: 1001"))  # at once, before it arrives
        assert isinstance(refusal, ContentTooLarge)
        assert "1000 bytes (MERCURE_MAX_REQUEST_BODY_SIZE)" in refusal.detail

    def test_content_is_limited_by_a_length_with_many_zeros(self) -> None:
        data = post(b"a" * 1001, b"Content-Length: " + b"0" * 30 + b"1001")
        assert isinstance(self.refusal(data), ContentTooLarge)

    def test_content_in_chunks_is_limited(self) -> None:
        assert len(read(chunked(b"a" * 600, b"b" * 400))[0].body) == 1000
        assert isinstance(self.refusal(chunked(b"a" * 600, b"b" * 401)), ContentTooLarge)

    def test_content_of_a_request_with_an_upgrade_is_limited(self) -> None:
        fields = (b"Connection: Upgrade", b"Upgrade: h2c")
        assert isinstance(self.refusal(post(b"", *fields, b"Content-Length: 1001")), ContentTooLarge)
        data = post(b"3e9\r\n" + b"a" * 1001, *fields, b"Transfer-Encoding: chunked")
        assert isinstance(self.refusal(data), ContentTooLarge)

    def test_limits_count_for_each_request_alone(self) -> None:
        data = get(b"/", *[b"X-%d: " % n + b"a" * 8000 for n in range(7)]) + post(
            b"a" * 900, b"Content-Length: 900"
        )
        assert len(read(data * 5)) == 10


def test_a_body_takes_no_more_memory_for_coming_in_small_pieces() -> None:
    size = 1 << 20
    data = chunked(*[b"ab"] * (size // 2))
    reader = RequestReader(size)
    tracemalloc.start()
    try:
        for start in range(0, len(data) - 100, 1 << 16):
            reader.feed(data[start : min(start + (1 << 16), len(data) - 100)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 2 < held < 2 * size
    reader.feed(data[-100:])
    assert reader.ready[0].body == b"ab" * (size // 2)


def test_little_is_read_at_once_before_the_content() -> None:
    """Requests of a client that sends many in advance would take fifty times their size."""
    reader = RequestReader(MAX_BODY)
    few = reader.appetite
    tracemalloc.start()
    try:
        reader.feed((get() * few)[:few])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reader.ready) > 100
    assert held < 1 << 19
    reader = RequestReader(MAX_BODY)
    reader.feed(post(b"", b"Content-Length: 9"))
    assert reader.appetite > few
    reader.feed(b"123456789")
    assert reader.appetite == few


class TestAfterAnError:
    def test_requests_that_were_complete_come_first(self) -> None:
        reader = RequestReader(MAX_BODY)
        reader.feed(get(b"/1") + get(b"/2") + b"nonsense\r\n\r\n")
        assert [message.target for message in reader.ready] == [b"/1", b"/2"]
        reader.ready.clear()
        with pytest.raises(InvalidRequest):
            reader.feed(b"")

    def test_the_error_behind_requests_is_told_once_they_are_taken(self) -> None:
        reader = RequestReader(MAX_BODY)
        reader.feed(get() + b"nonsense\r\n\r\n")
        reader.check()
        reader.ready.clear()
        with pytest.raises(InvalidRequest):
            reader.check()

    def test_nothing_is_read_after_an_error(self) -> None:
        reader = RequestReader(MAX_BODY)
        for data in (b"nonsense\r\n\r\n", get(), get()):
            with pytest.raises(InvalidRequest):
                reader.feed(data)
        assert not reader.ready


def test_noise_raises_only_invalid_request() -> None:
    chance = random.Random(11)
    seeds = [data for data, _ in REQUESTS.values()] + list(AMBIGUOUS.values())
    for _ in range(3000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        reader = RequestReader(MAX_BODY)
        cut = chance.randrange(len(data) + 1)
        try:
            reader.feed(bytes(data[:cut]))
            reader.feed(bytes(data[cut:]))
        except InvalidRequest:
            pass


@pytest.mark.parametrize("name", [b"Host", b"host", b"HOST", b"hOST", b"Last-Event-ID", b"LAST-event-id"])
def test_the_case_of_a_field_name_does_not_matter(name: bytes) -> None:
    (message,) = read(b"GET / HTTP/1.0\r\n" + name + b": 1\r\n\r\n")
    assert message.headers == {name.decode().lower(): "1"}
