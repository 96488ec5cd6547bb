"""Streams over HTTP/2 while the hub stops, reloads its keys or gives way to another one."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import self_signed
from tests.http2.client import Connection
from tests.http2.frames import Code, Flag, Frame, Kind, block, data, headers
from tests.hub.running import running_hub
from tests.server.test_upgrade import other_key, pid_of_listener, wait_for_lines
from tests.server.test_workers import workers

pytestmark = pytest.mark.minutes

SECOND = 3
"""The stream of the second request of a connection."""


def last_stream(goaway: Frame) -> int:
    return int.from_bytes(goaway.payload[:4])


@pytest.mark.parametrize("count", [1, 2])
def test_a_hub_that_stops_ends_each_stream_and_says_goodbye(folder: Path, count: int) -> None:
    with workers(folder, count) as hub, ExitStack() as stack:
        connections = [stack.enter_context(Connection.to(hub)) for _ in range(4)]
        streams = [[one.subscribe({"match": "t"}) for _ in range(10)] for one in connections]
        hub.send("t", "before the end")
        hub.child.send_signal(signal.SIGTERM)
        for connection, several in zip(connections, streams, strict=True):
            for stream in several:
                assert stream.take(1) == ["before the end"]
                assert stream.ended()
            goaway = connection.end()
            assert goaway is not None
            assert (goaway.code, last_stream(goaway)) == (Code.NO_ERROR, 19)
        assert hub.child.wait(20) == 0


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_requests_that_have_arrived_are_answered(folder: Path, is_tls: bool) -> None:
    """GOAWAY names the last request that counts (RFC 9113 section 6.8)."""
    certificate = self_signed(folder) if is_tls else ""
    with running_hub(folder, tls_cert=certificate) as hub, ExitStack() as stack:
        token = hub.token()
        connections = [stack.enter_context(Connection.to(hub)) for _ in range(3)]
        for connection in connections:
            assert connection.publish({"topic": "t", "data": "first"}, token).status == 200

        def send() -> None:
            for connection in connections:
                connection.publication({"topic": "t", "data": "late"}, token)

        assert hub.stop_after is not None
        hub.stop_after(send)
        for connection in connections:
            assert connection.answer(SECOND).status == 200
            goaway = connection.end()
            assert goaway is not None
            assert last_stream(goaway) == SECOND
    with running_hub(folder, anonymous=1) as again:
        stream = again.subscribe({"match": "t", "last_event_id": "earliest"})
        assert stream.take(6) == ["first"] * 3 + ["late"] * 3


def test_a_body_that_is_on_its_way_is_waited_for(folder: Path) -> None:
    with workers(folder, 1) as hub, Connection.to(hub) as connection:
        fields = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", f"Bearer {hub.token()}"),
        ]
        number = connection.new_stream()
        whole = block(connection.fields("POST", "/.well-known/mercure", fields))
        connection.send(headers(number, whole, Flag.END_HEADERS), data(number, b"topic=t&"))
        assert connection.fence()
        hub.child.send_signal(signal.SIGTERM)
        assert connection.until(lambda: connection.of(Kind.GOAWAY))
        connection.send(data(number, b"data=x", Flag.END_STREAM))
        assert connection.answer(number).status == 200
        late = connection.request("GET", "/livez")
        connection.end()
        assert late not in connection.answers or connection.answers[late].reset is not None
        assert hub.child.wait(20) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_key_that_is_taken_away_ends_its_streams_and_not_their_connection(folder: Path, count: int) -> None:
    key = folder / "key"
    key.write_text("the first secret, long enough for HS256", encoding="utf-8")
    with workers(folder, count, MERCURE_PUBLISHER_JWT_KEY=f"@{key}") as hub:
        first = other_key(hub, "the first secret, long enough for HS256")
        second = other_key(hub, "the second secret, long enough for HS256")
        with Connection.to(hub) as connection:
            trusted = connection.subscribe({"match": "t"}, first.token())
            anonymous = connection.subscribe({"match": "t"})
            key.write_text(second.secret, encoding="utf-8")
            hub.child.send_signal(signal.SIGHUP)
            wait_for_lines(hub, "were reloaded", count)
            assert trusted.ended()
            assert connection.publish({"topic": "t", "data": "x"}, second.token()).status == 200
            assert anonymous.take(1) == ["x"]


def test_streams_move_to_a_hub_that_takes_over(folder: Path) -> None:
    """The old one says goodbye and ends each stream; the new one continues from there."""
    with workers(folder, 1, MERCURE_DRAIN="1") as hub:
        with Connection.to(hub) as old:
            streams = [old.subscribe({"match": "t"}) for _ in range(10)]
            ids = [hub.send("t", str(number)) for number in range(3)]
            hub.child.send_signal(signal.SIGUSR2)
            assert old.until(lambda: old.of(Kind.GOAWAY))
            assert old.of(Kind.GOAWAY)[0].code == Code.NO_ERROR
            for stream in streams:
                assert stream.take(3) == ["0", "1", "2"]
                assert stream.ended()
        assert hub.child.wait(30) == 0
        successor = pid_of_listener(hub.port)
        try:
            hub.send("t", "3")
            with Connection.to(hub) as new:
                assert new.subscribe({"match": "t"}, last_event_id=ids[1]).take(2) == ["2", "3"]
        finally:
            os.kill(successor, signal.SIGTERM)
            wait_for_lines(hub, "the hub stops", 2)
