"""A hub in a process of its own that is abused, and a witness who notices whether others are served."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.http2.client import Connection, open_socket
from tests.http2.frames import PREFACE, settings
from tests.hub.running import TIMEOUT
from tests.server.test_workers import Workers, workers

IN_TIME = 2.0  # seconds for an update to reach the witness, beside other tests on the same cores
GROWTH = 8 << 20  # bytes that a process may take for one client that abuses it


class Victim:
    """The hub and its witness, who is a client of HTTP/1.1."""

    def __init__(self, hub: Workers) -> None:
        self.hub = hub
        self.token = hub.token()
        self._witness = hub.subscribe({"match": "witness"})
        self._count = 0
        self._noticed = 0

    def serves(self) -> None:
        """Publish an update, which the witness must have in time."""
        self._count += 1
        started = time.monotonic()
        reply = self.hub.publish({"topic": "witness", "data": str(self._count)}, self.token)
        assert reply.status == 200
        assert self._witness.take(1) == [str(self._count)]
        assert time.monotonic() - started < IN_TIME

    def memory(self) -> int:
        """The proportional set size of the process, in bytes."""
        lines = Path(f"/proc/{self.hub.child.pid}/smaps_rollup").read_text(encoding="ascii")
        found = re.search(r"^Pss:\s+(\d+) kB", lines, re.MULTILINE)
        assert found
        return int(found[1]) << 10

    def wild(self, first: bytes = PREFACE + settings()) -> Connection:
        """A client that need not behave."""
        return Connection(open_socket(self.hub), first)

    def flood(self, connection: Connection, piece: bytes, times: int) -> bool:
        """Send a piece again and again, reading nothing; publish meanwhile.

        :returns: whether the hub took it all.
        """
        connection.sock.settimeout(0.2)
        for number in range(times):
            try:
                connection.sock.sendall(piece)
            except TimeoutError:  # the hub waits for this client to read
                break
            except OSError:
                return False
            if number % max(1, times // 5) == 0:
                self.serves()
        connection.sock.settimeout(TIMEOUT)
        return True

    @contextmanager
    def bounded(self, growth: int = GROWTH) -> Iterator[None]:
        """What is done meanwhile leaves no trace: in memory, in the log, in the service for others."""
        self.serves()
        before, at = self.memory(), len(self._log())
        yield
        self.serves()
        taken = self.memory() - before
        assert taken < growth, f"{taken >> 20} MiB more"
        told = self._log()[at:]
        assert self.token not in told
        assert "Traceback" not in told
        assert len(re.findall(r" (WARNING|ERROR|CRITICAL) ", told)) <= 2, told[-2000:]

    def _log(self) -> str:
        return self.hub.log.read_text(encoding="utf-8")


@contextmanager
def victim(folder: Path, **variables: str) -> Iterator[Victim]:
    """Run a hub to be abused."""
    with workers(folder, 1, 0, **variables) as hub:
        yield Victim(hub)
