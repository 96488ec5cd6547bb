"""The load generator finds what a hub does wrong, and counts what it does right."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.certificate import certificate
from tests.bench.faulty_hub import Deliver, correct, faulty_hub

pytestmark = pytest.mark.minutes

TIMEOUT = 30


def run(sseload: Path, mode: str, *options: object) -> dict[str, Any]:
    """One run; ``exit`` in the result is the program's status."""
    words = [str(sseload), mode, "-timeout", "1", *(str(option) for option in options)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["exit"] == done.returncode
    return result


def fanout(sseload: Path, deliver: Deliver, *options: object) -> dict[str, Any]:
    with faulty_hub(deliver) as hub:
        return run(sseload, "fanout", "-a", hub.address, "-n", 3, "-c", 1, "-m", 4, "-order", *options)


def test_the_floor_is_clean(sseload: Path) -> None:
    result = run(sseload, "floor", "-n", 20, "-m", 30, "-order")
    assert result["exit"] == 0
    assert result["deliveries"] == result["expected"] == 600
    assert result["deliveries_per_cpu_s"] > 0
    assert result["delivery_ms"]["n"] == 600
    assert 0 < result["delivery_ms"]["p50"] <= result["delivery_ms"]["p99"] <= result["delivery_ms"]["max"]
    assert sum(result["sockets_connected"]) == 21  # with the one that listens


def test_the_durable_floor_has_written_what_it_answers(sseload: Path, tmp_path: Path) -> None:
    path = tmp_path / "updates"
    result = run(sseload, "publish", "-a", "durable", "-file", path, "-p", 3, "-m", 50, "-s", 40)
    assert (result["exit"], result["published_ok"]) == (0, 50)
    text = path.read_text()
    assert (len(text), text.count("T0")) == (50 * 40, 50)
    assert result["hub_cpu_us_per_publish"] > 0


def test_a_hub_that_does_all_right_is_clean(sseload: Path) -> None:
    result = fanout(sseload, correct)
    assert (result["exit"], result["deliveries"], result["wrong_subscribers"]) == (0, 12, 0)


def test_bytes_may_come_one_by_one(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        for sock in subscribers:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b": comment\r\nid: 1\r\n" + events[-1]:
                sock.sendall(bytes([byte]))

    assert fanout(sseload, deliver, "-s", 30)["exit"] == 0


def test_tls(sseload: Path, tmp_path: Path) -> None:
    """Also in records of one byte."""

    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        for sock in subscribers:
            for byte in events[-1]:
                sock.sendall(bytes([byte]))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with faulty_hub(deliver, tls=context) as hub:
        options = ("-tls", "-a", hub.address, "-n", 3, "-m", 4, "-s", 30, "-order")
        result = run(sseload, "fanout", *options)
    assert (result["exit"], result["deliveries"], result["tls"][:7]) == (0, 12, "TLSv1.3")


def test_tls_with_a_hub_that_has_none(sseload: Path) -> None:
    with faulty_hub(correct) as hub:
        result = run(sseload, "connect", "-tls", "-a", hub.address, "-n", 1, "-timeout", 0.3)
    assert (result["exit"], result["connected"]) == (1, 0)


def test_a_missing_event_is_found(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        correct(subscribers[: 2 if len(events) == 2 else 3], events)

    result = fanout(sseload, deliver)
    assert (result["exit"], result["deliveries"], result["wrong_subscribers"]) == (1, 11, 1)


def test_an_event_that_comes_twice_is_found(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        correct(subscribers, events)
        if len(events) == 4:
            subscribers[0].sendall(events[-1])

    result = fanout(sseload, deliver)
    assert (result["exit"], result["wrong_subscribers"]) == (1, 1)


def test_one_twice_and_another_never_do_not_make_up_for_each_other(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        correct(subscribers[1:], events)
        subscribers[0].sendall(events[0])

    result = fanout(sseload, deliver)
    assert result["deliveries"] == result["expected"]
    assert (result["exit"], result["wrong_subscribers"]) == (1, 1)


def test_another_order_for_one_is_found(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        correct(subscribers[1:], events)
        if len(events) == 4:
            subscribers[0].sendall(b"".join(events[i] for i in (0, 2, 1, 3)))

    result = fanout(sseload, deliver)
    assert (result["wrong_subscribers"], result["reordered"], result["ordered_differently"]) == (0, 1, 2)
    assert result["exit"] == 1


def test_another_order_for_all_is_found_with_one_publisher(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        if len(events) == 4:
            for event in reversed(events):
                correct(subscribers, [event])

    result = fanout(sseload, deliver)
    assert (result["ordered_differently"], result["exit"]) == (0, 1)
    # Several publishers have no order among themselves.
    assert fanout(sseload, deliver, "-p", 4)["exit"] == 0


def test_a_connection_that_ends_is_found(sseload: Path) -> None:
    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        correct(subscribers, events)
        if len(events) == 4:
            subscribers[0].shutdown(socket.SHUT_RDWR)

    result = fanout(sseload, deliver)
    assert (result["exit"], result["disconnects"]) == (1, 1)


def test_events_of_another_topic_are_found(sseload: Path) -> None:
    """With a topic for each, what goes to all is wrong."""
    with faulty_hub(correct) as hub:
        result = run(
            sseload, "fanout", "-a", hub.address, "-n", 3, "-m", 3, "-path", "/?match=t%d", "-topic", "t%d"
        )
    assert (result["exit"], result["expected"]) == (1, 3)
    assert result["wrong_subscribers"] > 0


def test_headers_and_indices(sseload: Path, tmp_path: Path) -> None:
    """Each subscriber has the line of its own; ``%d`` begins again at ``-k``, ``%u`` does not."""
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"Authorization: Bearer {index}\n" for index in range(4)))
    publisher = tmp_path / "publisher"
    publisher.write_text("Authorization: Bearer publisher\n")
    with faulty_hub(lambda _subscribers, _events: None) as hub:
        run(
            sseload, "fanout", "-a", hub.address, "-n", 4, "-k", 2, "-m", 1, "-expect", 0, "-path",
            "/?match=t%d&index=%u", "-HF", tokens, "-PH", f"@{publisher}", "-c", 1,
        )  # fmt: skip
        heads = hub.heads
    assert [head.split()[1] for head in heads if head.startswith("GET")] == [
        f"/?match=t{index % 2}&index={index}" for index in range(4)
    ]
    assert [head.partition("Bearer ")[2].split("\r\n")[0] for head in heads] == [
        "0",
        "1",
        "2",
        "3",
        "publisher",
    ]


def test_updates_for_some_of_the_topics(sseload: Path) -> None:
    """The others are connected and expect nothing."""

    def deliver(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
        subscribers[(len(events) - 1) % 2].sendall(events[-1])

    with faulty_hub(deliver) as hub:
        options = ("-n", 5, "-pk", 2, "-m", 6, "-path", "/?match=t%d", "-topic", "t%d", "-c", 1)
        result = run(sseload, "fanout", "-a", hub.address, *options)
    assert (result["exit"], result["deliveries"], result["wrong_subscribers"]) == (0, 6, 0)


def test_those_who_stall_do_not_count(sseload: Path) -> None:
    result = run(sseload, "fanout", "-a", "floor", "-n", 20, "-stall", 5, "-m", 10, "-order")
    assert (result["exit"], result["deliveries"]) == (0, 150)


@pytest.mark.parametrize(
    ("numbers", "status", "wrong"),
    [
        ([7, 8, 9], 0, 0),
        ([7, 9, 8], 1, 2),
        ([8, 9, 10], 1, 2),
        ([7, 8, 9, 10], 1, 2),
        ([7, 8, 8, 9], 1, 2),
    ],
)
def test_replay(sseload: Path, numbers: list[int], status: int, wrong: int) -> None:
    """History comes in order, without gaps and not a piece too much."""
    greeting = b"".join(b"data: T%016x and more\n\n" % number for number in numbers)
    with faulty_hub(correct, greeting) as hub:
        result = run(
            sseload, "replay", "-a", hub.address, "-n", 2, "-events", 3, "-first", 7, "-settle", 0.05
        )
    assert (result["exit"], result["wrong_subscribers"], result["complete"]) == (status, wrong, 2)
    assert result["last_event_ms"]["n"] == 2


def test_replay_of_too_few_events_is_found(sseload: Path) -> None:
    with faulty_hub(correct, b"data: T%016x\n\n" % 1) as hub:
        result = run(sseload, "replay", "-a", hub.address, "-events", 2, "-n", 1, "-timeout", 0.3)
    assert (result["exit"], result["complete"], result["wrong_subscribers"]) == (1, 0, 1)


def test_children_of_the_hub_are_counted(sseload: Path) -> None:
    """Their CPU and memory are the hub's."""
    burn = "import sys; sys.stdout.write('x'); sys.stdout.flush()\nwhile True: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"x"
            with faulty_hub(correct) as hub:
                options = ("-a", hub.address, "-n", 1, "-hold", 0.3, "-pid", process.pid)
                result = run(sseload, "connect", *options)
            assert result["idle_hub_cpu_s"] > 0.002  # the parent sleeps
            assert len(result["sockets_connected"]) == 2
        finally:
            for child in children(process.pid):
                subprocess.run(["kill", str(child)], check=True)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    "options",
    [
        ["fanout", "-a", "192.0.2.1:80"],
        ["fanout", "-a", "floor", "-n", "3", "-stall", "4"],
        ["fanout", "-a", "floor", "-stall", "1", "-path", "/%d", "-topic", "t%d"],
        ["fanout", "-a", "floor", "-HF", "/nowhere"],
        ["fanout", "-a", "floor", "-s", "3"],
        ["fanout", "-a", "floor", "-n", "many"],
        ["fanout", "-a", "floor", "-tls"],
        ["fanout", "-a", "durable", "-file", "/tmp/updates"],
        ["publish", "-a", "durable"],
        ["connect", "-a", "floor", "-h2", "1"],
        ["connect", "-a", "127.0.0.1:1", "-window", "1000"],
    ],
)
def test_options_that_cannot_be(sseload: Path, options: list[str]) -> None:
    done = subprocess.run(
        [str(sseload), *options], capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert done.returncode == 2
    assert "sseload: " in done.stderr
