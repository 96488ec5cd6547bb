"""One process of a measurement of storage: the hub's store on an engine, without HTTP and fan-out.

``bench/rows/engines.py`` runs some of them at once, as the hubs of several machines. Each of its publishers
has one update in flight, and each node follows what the others store. It talks to its parent in lines:

* it prints ``ready``, waits for ``go``, and prints ``done SEQUENCE`` when its publishers have ended;
* told ``stop SEQUENCE``, it goes on until it has seen that one, and prints what it measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import address_of
from mercure_hub.storage.doorbell import Bell, Doorbell, bells
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Commit, Entry, Resume, Retention
from mercure_hub.storage.store import Store

SIZE = 200
"""Bytes of an update's data."""

_TOPICS = 1000
_BEHIND = 10  # updates; bench/history.py makes the history
_LANES = 2  # threads in which a hub looks up where subscribers go on
_PAGE = 500
_MS = 1e-6  # of a nanosecond


class Broken(Exception):
    """The engine did not do what it has to; the text says what."""


class Node:
    """Publishers on a store, and a reader of what other nodes publish.

    :param url: of the engine.
    :param own_bells: eventfds of the nodes on a file of SQLite, this one's first; empty on other engines.
    :param publishers: how many, each with one update in flight.
    """

    def __init__(self, url: str, own_bells: Sequence[int], publishers: int) -> None:
        own, *others = [Bell((fd, fd)) for fd in own_bells] or bells(1)
        self._store: Store[int] = Store(link_to(address_of(url), Retention(), Doorbell(own, others)))
        self._publishers = publishers
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK)
        self._prefix = f"urn:uuid:{str(uuid.uuid4())[:24]}"
        self._sent = [0] * publishers
        self._in_flight = 0
        self._count = 0
        self._seen = 0
        self._last_own = 0
        self._window = (0, 0)
        self.answers: list[float] = []
        self.arrivals: list[float] = []

    def open(self) -> None:
        """Connect."""
        self._seen, _ = self._store.open(lambda: os.eventfd_write(self._wakeup, 1))

    def close(self) -> None:
        """Disconnect."""
        self._store.close()

    def publish(self, warm_up: float, seconds: float) -> int:
        """Publish until the time is over, and everything is answered.

        :param warm_up: seconds before what is measured.
        :returns: sequence of the last own update.
        """
        begin = time.monotonic_ns() + int(warm_up * 1e9)
        self._window = begin, begin + int(seconds * 1e9)
        for publisher in range(self._publishers):
            self._send(publisher)
        while self._in_flight:
            self._collect()
        return self._last_own

    def follow_until_told(self) -> None:
        """Read on until the parent says something."""
        while not select.select([sys.stdin], [], [], 0)[0]:
            self._collect(sys.stdin.fileno())

    def follow(self, upto: int) -> None:
        """Read on until a sequence was seen."""
        deadline = time.monotonic() + 30
        while self._seen < upto:
            if time.monotonic() > deadline:
                raise Broken(f"of {upto} updates only {self._seen} came within 30 s")
            self._collect()

    def resume(self, event_id: str, topic: str, seconds: float, at_once: int) -> dict[str, Any]:
        """Come back with a cursor again and again, as many clients do.

        :param at_once: clients that share a trip to the engine.
        """
        upto, _ = self._store.newest()
        wanted = [Resume(event_id, upto, (topic,), _PAGE)] * at_once
        end = time.monotonic() + seconds

        def come_back(_: int) -> list[float]:
            took: list[float] = []
            while (began := time.monotonic()) < end:
                for resumed in self._store.resume(wanted):
                    if resumed.page is None or len(resumed.page.entries) != _BEHIND:
                        raise Broken(f"a client did not get the {_BEHIND} updates that it had missed")
                took.append((time.monotonic() - began) * 1000)
            return took

        began = time.monotonic()
        with ThreadPoolExecutor(_LANES) as lanes:
            trips = [one for lane in lanes.map(come_back, range(_LANES)) for one in lane]
        return {"resumes_per_s": len(trips) * at_once / (time.monotonic() - began), "trips_ms": trips}

    def _send(self, publisher: int) -> None:
        self._count += 1
        self._in_flight += 1
        now = self._sent[publisher] = time.monotonic_ns()
        topic = f"https://example.com/topics/{self._count % _TOPICS}"
        update = Update((topic,), f"T{now:016x}".ljust(SIZE, "x"), f"{self._prefix}{self._count:012x}")
        self._store.append((update,), publisher)

    def _collect(self, *others: int) -> None:
        """Wait for commits, or for other descriptors."""
        if self._wakeup in select.select([self._wakeup, *others], [], [], 1.0)[0]:
            os.eventfd_read(self._wakeup)
        for commit in self._store.collect():
            self._take(commit)

    def _take(self, commit: Commit[int]) -> None:
        if commit.error is not None:
            raise commit.error
        if commit.broken is not None:
            raise Broken(commit.broken.value)
        now = time.monotonic_ns()
        begin, end = self._window
        for entry in commit.entries:
            self._see(entry, now)
        for publisher in commit.tickets:
            self._in_flight -= 1
            sent = self._sent[publisher]
            if begin <= sent < end:
                self.answers.append((now - sent) * _MS)
            if now < end:
                self._send(publisher)

    def _see(self, entry: Entry, now: int) -> None:
        if entry.sequence != self._seen + 1:
            raise Broken(f"update {entry.sequence} came after {self._seen}")
        self._seen = entry.sequence
        if entry.update.id.startswith(self._prefix):
            self._last_own = entry.sequence
            return
        sent = int(entry.update.data[1:17], 16)
        if self._window[0] <= sent < self._window[1]:
            self.arrivals.append((now - sent) * _MS)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="bench.node", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bells", default="", help="descriptors, with commas")
    parser.add_argument("--publishers", type=int, default=0)
    parser.add_argument("--warm-up", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--resume", default="", metavar="ID", help="come back with this instead of publishing"
    )
    parser.add_argument("--topic", default="")
    parser.add_argument("--at-once", type=int, default=1)
    options = parser.parse_args()
    node = Node(options.url, [int(one) for one in options.bells.split(",") if one], options.publishers)
    node.open()
    try:
        _say("ready")
        _expect("go")
        began = time.process_time()
        if options.resume:
            result = node.resume(options.resume, options.topic, options.seconds, options.at_once)
            _say("done 0")
            _expect("stop")
        else:
            _say(f"done {node.publish(options.warm_up, options.seconds)}")
            node.follow_until_told()
            node.follow(int(_expect("stop")))
            result = {"answers_ms": node.answers, "arrivals_ms": node.arrivals}
        _say(json.dumps({**result, "cpu_s": time.process_time() - began}))
    finally:
        node.close()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _expect(word: str) -> str:
    """Wait for a line of the parent.

    :returns: what comes after the word.
    """
    said, _, rest = sys.stdin.readline().strip().partition(" ")
    if said != word:
        raise Broken(f"the parent said {said!r} instead of {word!r}")
    return rest


if __name__ == "__main__":
    sys.exit(main())
