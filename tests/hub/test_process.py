"""The hub as its users start it: a process with environment variables, and signals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest

from mercure_hub.config.loading import load_settings
from mercure_hub.config.settings import SettingError, Settings
from mercure_hub.server.lifecycle import Process
from mercure_hub.storage.store import Store
from tests.chosen_engine import transport_url
from tests.hub.running import SECRET, TIMEOUT, RunningHub, process_environment

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]


@contextmanager
def process(folder: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], RunningHub]]:
    """Start ``python -m mercure_hub`` and wait for the line that names its address."""
    environment = process_environment(folder, **{"MERCURE_ANONYMOUS": "1", **variables})
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "mercure_hub"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    with child:
        try:
            line = child.stderr.readline()
            found = re.search(r"listens on http://127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield child, RunningHub(int(found[1]))
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_and_process(folder: Path, number: signal.Signals) -> None:
    with process(folder, MERCURE_SUBSCRIPTIONS="1") as (child, hub):
        streams = [hub.subscribe({"match": "t"}) for _ in range(20)]
        hub.send("t", "before the end")
        child.send_signal(number)
        for stream in streams:
            assert stream.take(1) == ["before the end"]
            assert stream.ended()
        assert child.wait(TIMEOUT) == 0
        with pytest.raises(ConnectionRefusedError):
            hub.connect()
        hub.close()


def test_an_answered_update_survives_kill_9(folder: Path) -> None:
    ids: list[str] = []
    with process(folder) as (child, hub):
        for number in range(20):
            ids.append(hub.send("t", str(number)))
        child.kill()
        child.wait(TIMEOUT)
    with process(folder) as (_, hub):
        assert hub.subscribe({"match": "t", "last_event_id": ids[0]}).take(19) == [
            str(i) for i in range(1, 20)
        ]
        assert hub.send("t", "next")
        hub.close()


def test_a_publication_under_way_is_answered(folder: Path) -> None:
    with process(folder) as (child, hub):
        body = b"topic=t&data=x"
        head = (
            "POST /.well-known/mercure HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {hub.token(aud='http://x/.well-known/mercure')}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        with hub.connect() as sock:
            sock.sendall(head + body[:5])
            assert hub.get(path="/healthz").status == 200  # the hub has seen the beginning
            child.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionRefusedError):
                while True:
                    with contextlib.suppress(ConnectionResetError):  # at the moment when it closes
                        hub.connect().close()
            sock.sendall(body[5:])
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert child.wait(TIMEOUT) == 0
    with process(folder) as (_, hub):
        assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(1) == ["x"]
        hub.close()


def test_a_hub_that_gets_many_signals_stops_once(folder: Path) -> None:
    with process(folder) as (child, _):
        for _ in range(5):
            child.send_signal(signal.SIGTERM)
        assert child.wait(TIMEOUT) == 0
        assert child.stderr is not None
        assert "Traceback" not in child.stderr.read()


def test_no_log_line_is_lost_when_the_hub_stops(folder: Path) -> None:
    with process(folder) as (child, hub):
        for _ in range(30):
            assert hub.get(path="/healthz").status == 200
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        lines = child.stderr.read().splitlines()
        assert child.wait(TIMEOUT) == 0
    ends = [number for number, line in enumerate(lines) if line.endswith("the hub stops")]
    requests = [number for number, line in enumerate(lines) if '"GET /healthz" 200' in line]
    assert len(requests) == 30 and len(ends) == 1
    assert requests[-1] < ends[0]


def test_a_log_on_a_full_disk_fails_no_request(folder: Path) -> None:
    with process(folder, MERCURE_ACCESS_LOG="/dev/full") as (child, hub):
        for _ in range(3):
            assert hub.get(path="/healthz").status == 200
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        assert child.stderr.read().count("'/dev/full' cannot be written: No space left on device") == 1
        assert child.wait(TIMEOUT) == 0


def test_log_lines_as_json_in_a_file(folder: Path) -> None:
    import json

    path = folder / "hub.log"
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mercure_hub",
            "--log-file",
            str(path),
            "--log-format",
            "json",
            "--listen",
            "127.0.0.1:0",
        ],
        env={
            "PATH": os.environ["PATH"],
            "MERCURE_PUBLISHER_JWT_KEY": SECRET,
            "MERCURE_TRANSPORT_URL": transport_url(folder),
        },
    )
    try:
        while not path.exists() or "listens" not in path.read_text():
            assert child.poll() is None
    finally:
        child.terminate()
        assert child.wait(TIMEOUT) == 0
    messages = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert messages[-1] == "the hub stops"


def test_requests_in_the_kernel_s_queue_are_answered_when_the_hub_stops(folder: Path) -> None:
    """They are in the kernel's queue: closing the socket would reset them."""
    with process(folder) as (child, hub):
        child.send_signal(signal.SIGSTOP)
        waiting = [hub.connect() for _ in range(5)]
        for sock in waiting:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGCONT)
        for sock in waiting:
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
            sock.close()
        assert child.wait(TIMEOUT) == 0


def test_a_reload_ends_a_doubt_about_the_clock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted: list[object] = []

    def note(transport: object) -> None:
        trusted.append(transport)

    monkeypatch.setattr(Store, "trust_clock", note)
    settings = load_settings(process_environment(folder), {})
    counts = []

    def refuse() -> Settings:
        raise SettingError("MERCURE_LISTEN: wrong")

    def run() -> None:
        hub = Process(settings)
        hub.start()
        for reread in (lambda: settings, refuse):
            hub.reload(reread)
            counts.append(len(trusted))
        hub.close()
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert counts == [1, 1]
