"""Clients that send much and want nothing: each costs little, and nobody else notices it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http2.client import Connection
from tests.http2.frames import (
    DEFAULT_FRAME_SIZE,
    Code,
    Flag,
    Frame,
    Kind,
    block,
    continuation,
    data,
    frame,
    headers,
    integer,
    literal,
    ping,
    priority,
    reset,
    settings,
    window,
)
from tests.http2.victim import Victim, victim
from tests.hub.running import HUB_PATH

pytestmark = pytest.mark.minutes

GET = block(
    [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "127.0.0.1")],
)
STREAM = block(
    [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", f"{HUB_PATH}?match=t&last_event_id=earliest"),
        (":authority", "127.0.0.1"),
    ],
)
POST = block(
    [(":method", "POST"), (":scheme", "http"), (":path", HUB_PATH), (":authority", "127.0.0.1")],
)
TOO_MUCH = {Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with victim(tmp_path_factory.mktemp("hub"), MERCURE_SUBSCRIPTIONS="1") as running:
        for number in range(20):
            running.hub.send("t", f"{number}" * 1000)
        yield running


def ended(connection: Connection) -> Frame:
    """The GOAWAY with which the hub ended the connection."""
    last = connection.end()
    assert last is not None, "the connection ended without a word"
    return last


def streams(first: int, count: int) -> range:
    return range(first, first + 2 * count, 2)


@pytest.mark.parametrize("whole", [GET, STREAM, POST], ids=["answer", "stream", "half a request"])
def test_streams_that_are_reset_at_once(hub: Victim, whole: bytes) -> None:
    """CVE-2023-44487."""
    flags = Flag.END_HEADERS if whole is POST else Flag.END_STREAM | Flag.END_HEADERS
    with hub.bounded(), hub.wild() as connection:
        for first in range(1, 40_000, 400):
            connection.send(b"".join(headers(one, whole, flags) + reset(one) for one in streams(first, 200)))
            if first % 8000 == 1:
                hub.serves()
        assert ended(connection).code == Code.ENHANCE_YOUR_CALM


def test_streams_that_the_hub_is_made_to_reset(hub: Victim) -> None:
    """CVE-2025-8671: the client does not reset them, but sends what is an error of the stream."""
    with hub.bounded(), hub.wild() as connection:
        for first in range(1, 40_000, 400):
            connection.send(b"".join(headers(one, STREAM) + window(one, 0) for one in streams(first, 200)))
            if first % 8000 == 1:
                hub.serves()
        assert ended(connection).code in TOO_MUCH


def test_requests_that_are_malformed_again_and_again(hub: Victim) -> None:
    malformed = literal("x-first", "y") + GET
    with hub.bounded(), hub.wild() as connection:
        for first in range(1, 40_000, 400):
            connection.send(b"".join(headers(one, malformed) for one in streams(first, 200)))
            if first % 8000 == 1:
                hub.serves()
        assert ended(connection).code in TOO_MUCH


@pytest.mark.parametrize(
    "fragment", [b"", b"\0", literal("x-filling", "y" * 16_000)], ids=["empty", "a byte", "fields"]
)
def test_a_header_block_without_an_end(hub: Victim, fragment: bytes) -> None:
    """CVE-2024-27316."""
    with hub.bounded(), hub.wild() as connection:
        connection.send(headers(1, GET, Flag.END_STREAM))
        piece = continuation(1, fragment, 0)
        hub.flood(connection, piece * (20_000 // len(piece) + 1), 2000)
        assert ended(connection).code in TOO_MUCH


@pytest.mark.parametrize(
    ("piece", "ends"),
    [
        (ping(), True),
        (settings(), True),
        (settings((4, 100), (4, 65_535)), True),
        (settings((1, 0), (1, 4096)), True),
        (frame(Kind.PING, b"opaque--", Flag.ACK), False),
        (priority(1), False),
        (priority(3, on=1), False),
        (window(0, 1), False),
        (frame(Kind.UNKNOWN), False),
        (frame(Kind.UNKNOWN, bytes(1000)), False),
    ],
    ids=lambda given: repr(given[3:10]) if isinstance(given, bytes) else "",
)
def test_frames_that_carry_nothing(hub: Victim, piece: bytes, ends: bool) -> None:
    """The hub may end the connection; where each frame asks for an answer that nobody reads, it must."""
    with hub.bounded(), hub.wild() as connection:
        took_all = hub.flood(connection, piece * (20_000 // len(piece)), 300)
        last = connection.end() if ends or not took_all else None
        if last is not None:
            assert last.code in TOO_MUCH
        assert not ends or last is not None


def test_requests_that_are_dear_to_read(hub: Victim) -> None:
    """What has arrived already would take the hub seconds: others have their turn in between."""
    whole = GET + b"".join(literal("a", "b") for _ in range(190))
    with hub.bounded(), hub.wild() as connection:
        connection.sock.settimeout(0.2)
        for first in range(1, 8000, 200):
            try:
                connection.sock.sendall(b"".join(headers(one, whole) for one in streams(first, 100)))
            except TimeoutError:  # the hub reads no more for now
                break
        hub.serves()


@pytest.mark.parametrize("padding", [None, 0], ids=["empty", "padded"])
def test_bodies_of_nothing(hub: Victim, padding: int | None) -> None:
    with hub.bounded(), hub.wild() as connection:
        connection.send(headers(1, POST, Flag.END_HEADERS))
        if not hub.flood(connection, data(1, b"", 0, padding) * 2000, 300):
            assert ended(connection).code in TOO_MUCH


def test_data_for_a_stream_that_is_over(hub: Victim) -> None:
    """What nobody reads counts in the window of the connection all the same (RFC 9113 section 6.9)."""
    with hub.bounded(), hub.wild() as connection:
        connection.send(headers(1, POST, Flag.END_HEADERS), reset(1))
        hub.flood(connection, data(1, bytes(100)) * 100, 400)
        assert ended(connection).code in {*TOO_MUCH, Code.STREAM_CLOSED, Code.FLOW_CONTROL_ERROR}


def test_more_data_than_the_windows_allow(hub: Victim) -> None:
    with hub.bounded(), hub.wild() as connection:
        connection.send(headers(1, POST, Flag.END_HEADERS))
        hub.flood(connection, data(1, bytes(DEFAULT_FRAME_SIZE)), 4000)
        connection.until(lambda: connection.of(Kind.GOAWAY) or connection.of(Kind.RST_STREAM))
        assert (connection.of(Kind.GOAWAY) + connection.of(Kind.RST_STREAM))[0].code in {
            *(Code.FLOW_CONTROL_ERROR, Code.ENHANCE_YOUR_CALM, Code.NO_ERROR, Code.CANCEL),
            *(Code.STREAM_CLOSED, Code.REFUSED_STREAM),
        }


class TestHeaders:
    def refused(self, connection: Connection, stream: int = 1) -> bool:
        """An answer that says so, the end of the stream, or that of the connection."""
        connection.until(
            lambda: connection.of(Kind.GOAWAY) or ((one := connection.answers.get(stream)) and one.is_over)
        )
        answer = connection.answers.get(stream)
        if answer is None or answer.reset is not None:
            return True
        return answer.status == 431

    def test_one_field_many_times(self, hub: Victim) -> None:
        """A table entry of 4,000 bytes, of which one byte each makes another copy."""
        bomb = literal("x-bomb", "y" * 3900, 0x40) + integer(62, 7, 0x80) * 12_000
        with hub.bounded(), hub.wild() as connection:
            for stream in streams(1, 20):
                connection.send(headers(stream, GET + bomb))
                hub.serves()
                assert self.refused(connection, stream)
                if connection.of(Kind.GOAWAY):
                    break

    @pytest.mark.parametrize(
        "extra",
        [
            literal("x", "y") * 201,
            literal("cookie", "a=b") * 5000,
            literal("", "") * 10_000,
            literal("x-long", "y" * 70_000),
            literal("x" * 70_000, "y"),
            b"".join(literal(f"x-{number}", "y" * 1000) for number in range(70)),
            b"\x20\x3f\xe1\x1f" * 20_000,
        ],
        ids=["fields", "cookies", "empty names", "a value", "a name", "64 KiB", "sizes of the table"],
    )
    def test_too_many_and_too_large(self, hub: Victim, extra: bytes) -> None:
        whole = extra + GET if extra[:1] == b"\x20" else GET + extra
        pieces = [whole[at : at + DEFAULT_FRAME_SIZE] for at in range(0, len(whole), DEFAULT_FRAME_SIZE)]
        with hub.bounded(), hub.wild() as connection:
            first = Flag.END_STREAM | (Flag.END_HEADERS if len(pieces) == 1 else Flag.NONE)
            rest = [continuation(1, piece, 0) for piece in pieces[1:-1]]
            connection.send(headers(1, pieces[0], first), *rest)
            if len(pieces) > 1:
                connection.send(continuation(1, pieces[-1]))
            assert self.refused(connection)

    def test_what_is_just_small_enough(self, hub: Victim) -> None:
        extra = b"".join(literal(f"x-{number}", "y" * 900) for number in range(60))
        pieces = [extra[at : at + 10_000] for at in range(0, len(extra), 10_000)]
        with hub.bounded(), hub.wild() as connection:
            connection.send(
                headers(1, GET, Flag.END_STREAM),
                *(continuation(1, piece, 0) for piece in pieces),
                continuation(1, b""),
            )
            assert connection.answer(1).status == 200


def test_a_client_that_is_refused_is_told_how_far_it_got(hub: Victim) -> None:
    with hub.wild() as connection:
        connection.send(headers(1, GET))
        assert connection.answer(1).status == 200
        connection.send(window(0, 0))
        last = ended(connection)
        assert int.from_bytes(last.payload[:4]) == 1
