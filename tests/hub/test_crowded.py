"""More connections than the hub can hold: what waits for its client makes room for those that do not."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from mercure_hub.metrics.tally import ProcessMetrics
from mercure_hub.server.assembly import Limits
from mercure_hub.server.open_requests import OPEN_REQUEST, OVER_TLS
from tests.certificates import self_signed
from tests.hub.running import HUB_PATH, TIMEOUT, running_hub
from tests.hub.test_process import process

pytestmark = pytest.mark.minutes

ROOM_FOR_FIVE = Limits(open_requests=5 * OPEN_REQUEST + 1000)
BEGINNING = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
UNFINISHED = f"POST {HUB_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode()


def test_the_oldest_incomplete_request_makes_room(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mercure_hub.server")
    with running_hub(folder, limits=ROOM_FOR_FIVE) as hub, ExitStack() as stack:
        waiting: list[socket.socket] = []
        for _ in range(6):  # one too many
            assert hub.get(path="/livez").status == 200  # with which the hub has read the one before
            waiting.append(stack.enter_context(hub.connect()))
            waiting[-1].sendall(BEGINNING)
        for _ in range(10):
            assert hub.get(path="/livez").status == 200
        received = b""
        while data := waiting[0].recv(65536):
            received += data
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"too many incomplete requests" in received
        for sock in waiting[1:]:
            sock.sendall(b"\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert len([message for message in caplog.messages if "to make room" in message]) == 1


def test_connections_under_tls_that_ended_take_no_room(folder: Path) -> None:
    limits = Limits(open_requests=5 * (OPEN_REQUEST + OVER_TLS))
    with running_hub(folder, limits=limits, tls_cert=self_signed(folder)) as hub:
        for _ in range(20):
            assert hub.get(path="/livez").status == 200


def test_waiting_connections_end_when_no_descriptor_is_left(folder: Path) -> None:
    """Connections that wait for their clients end, and the log does not fill up."""
    with process(folder) as (child, hub), ExitStack() as stack:
        _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (64, hard))
        for _ in range(200):
            stack.enter_context(hub.connect()).sendall(UNFINISHED)
        for _ in range(10):
            assert hub.get(path="/livez").status == 200
        child.kill()
        assert child.stderr is not None
        lines = [line for line in child.stderr if "have to wait until they are accepted" in line]
        assert len(lines) == 1


def test_metrics_that_cannot_be_read_for_a_while_are_reported_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = 0
    goes_on = threading.Event()
    write = ProcessMetrics.write

    def fail(noting: ProcessMetrics, now: float) -> None:
        nonlocal written
        written += 1
        if written <= 10:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        write(noting, now)
        if written == 20:
            goes_on.set()

    monkeypatch.setattr(ProcessMetrics, "write", fail)
    with running_hub(folder, limits=Limits(sampling=0.01), metrics=1) as hub:
        assert hub.get(path="/metrics").status == 200
        assert goes_on.wait(TIMEOUT)
    lines = [message for message in caplog.messages if "cannot be read: Too many open files" in message]
    assert len(lines) == 1
