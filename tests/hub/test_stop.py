"""A hub that is told to stop while requests arrive."""

from __future__ import annotations

import fcntl
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from mercure_hub.broker.broker import Broker
from mercure_hub.fanout.engine import Engine, Logged
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.store import Store
from tests.certificates import self_signed
from tests.hub.running import TIMEOUT, RunningHub, process_environment, running_hub
from tests.storage.log import until, waiting_for_locks

pytestmark = pytest.mark.minutes

SOME = 5


def publication(hub: RunningHub, number: int) -> bytes:
    """A request that publishes."""
    body = f"topic=t&data={number}"
    return (
        f"POST /.well-known/mercure HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n"
        f"Authorization: Bearer {hub.token()}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_a_request_that_has_arrived_in_a_kept_connection_is_answered(folder: Path, is_tls: bool) -> None:
    """Stored without an answer, it would be published twice."""
    with running_hub(folder, tls_cert=self_signed(folder) if is_tls else "") as hub:
        kept = [hub.connect() for _ in range(SOME)]
        for number, sock in enumerate(kept):
            sock.sendall(publication(hub, number))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
        requests = [publication(hub, SOME + number) for number in range(SOME)]

        def send() -> None:
            for sock, request in zip(kept, requests, strict=True):
                sock.sendall(request)

        assert hub.stop_after is not None
        hub.stop_after(send)
        answers = [sock.recv(65536) for sock in kept]
        for sock in kept:
            sock.close()
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * SOME
    with running_hub(folder, anonymous=1) as again:
        stored = again.subscribe({"match": "t", "last_event_id": "earliest"}).take(2 * SOME)
        assert sorted(stored, key=int) == [str(number) for number in range(2 * SOME)]


def test_a_client_in_the_middle_of_its_tls_handshake_is_answered(folder: Path) -> None:
    """It has been accepted: no successor will have its request."""
    with running_hub(folder, tls_cert=self_signed(folder)) as hub:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(received, sent)
        with socket.create_connection(("127.0.0.1", hub.port), TIMEOUT) as sock:
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            sock.sendall(sent.read())
            received.write(sock.recv(65536))
            client.do_handshake()
            assert hub.stop_after is not None
            hub.stop_after(lambda: None)
            until(lambda: not accepts(hub))
            client.write(publication(hub, 1))
            sock.sendall(sent.read())
            answer = b""
            while b"\r\n\r\n" not in answer:
                piece = sock.recv(65536)
                assert piece, "the hub gave up"
                received.write(piece)
                with suppress(ssl.SSLWantReadError):
                    answer += client.read(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def accepts(hub: RunningHub) -> bool:
    """Whether the hub accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", hub.port), TIMEOUT).close()
    except ConnectionError:
        return False
    return True


def test_an_update_that_was_answered_is_sent_before_its_stream_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_stopping = threading.Event()
    dispatch, drain = Engine.dispatch, Broker.drain

    def dispatch_later(engine: Engine, entries: Sequence[Logged]) -> Iterator[None]:
        while not is_stopping.is_set():
            yield
        yield from dispatch(engine, entries)

    def begin_to_drain(broker: Broker, timeout: float) -> None:
        is_stopping.set()
        drain(broker, timeout)

    monkeypatch.setattr(Engine, "dispatch", dispatch_later)
    monkeypatch.setattr(Broker, "drain", begin_to_drain)
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({"match": "t"})
        assert hub.send("t", "answered")
        assert hub.stop_after is not None
        hub.stop_after(lambda: None)
        assert stream.take(1) == ["answered"]
        assert stream.ended()


@pytest.mark.sqlite("it has a lock file")
@pytest.mark.linux("it locks a byte of the lock file")
class TestWhileSomebodyHoldsTheLock:
    """Any process that may read the lock file can lock it."""

    @pytest.fixture
    def held(self, folder: Path) -> Iterator[IO[bytes]]:
        with (folder / "hub.db-lock").open("ab+") as foreign:
            fcntl.lockf(foreign, fcntl.LOCK_SH, 1, 0)
            yield foreign

    def test_publishers_and_health_are_told_and_the_hub_can_be_stopped(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Store, "turn_timeout", 0.1)
        monkeypatch.setattr(SqliteLink, "patience", 0.1)
        with (folder / "hub.db-lock").open("ab+") as foreign, running_hub(folder) as hub:
            hub.send("t", "before")
            fcntl.lockf(foreign, fcntl.LOCK_SH, 1, 0)
            assert hub.publish({"topic": "t"}, hub.token()).status == 503
            assert hub.get(path="/healthz").status == 503
            assert hub.get(path="/livez").status == 200
            fcntl.lockf(foreign, fcntl.LOCK_UN, 1, 0)
            until(lambda: hub.get(path="/healthz").status == 200)
            hub.send("t", "after")
            fcntl.lockf(foreign, fcntl.LOCK_SH, 1, 0)
            assert hub.publish({"topic": "t"}, hub.token()).status == 503
            # What follows is the end of the hub, with the lock held.
        with running_hub(folder, anonymous=1) as again:
            assert again.subscribe({"match": "t", "last_event_id": "earliest"}).take(2) == ["before", "after"]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_hub_that_waits_at_its_start_can_be_stopped(
        self, folder: Path, held: IO[bytes], workers: int
    ) -> None:
        with starting(folder, workers) as child:
            until(lambda: waiting_for_locks(folder / "hub.db-lock"))
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=TIMEOUT)
        assert child.returncode == 0
        assert "listens on" not in errors
        assert "Traceback" not in errors

    @pytest.mark.parametrize("workers", [1, 2])
    def test_signals_that_come_too_early_count_when_it_serves(
        self, folder: Path, held: IO[bytes], workers: int
    ) -> None:
        with starting(folder, workers) as child:
            until(lambda: waiting_for_locks(folder / "hub.db-lock"))
            child.send_signal(signal.SIGHUP)
            held.close()
            assert child.stderr is not None
            lines: list[str] = []
            while "listens on" not in "".join(lines) or "were reloaded" not in "".join(lines):
                lines.append(child.stderr.readline())
                assert lines[-1], lines
            child.terminate()
            assert child.wait(TIMEOUT) == 0


@contextmanager
def starting(folder: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    environment = process_environment(folder, MERCURE_WORKERS=str(workers))
    command = [sys.executable, "-W", "error", "-m", "mercure_hub"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()
