"""A log on a real file, with a clock that the test turns and commits that can be waited for."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mercure_hub.protocol.update import Update
from mercure_hub.storage.doorbell import Doorbell
from mercure_hub.storage.interface import Commit, Entry, Presence, Resume, Retention
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.store import Store

_PATIENCE = 30.0


def update(*topics: str, data: str = "", id: str = "") -> Update:
    return Update(topics or ("a",), data, id or "some-id")


def leave_presence(path: Path) -> None:
    """Leave a record of a process that has died."""
    with beside(path) as database:
        database.execute("INSERT INTO mercure_presence (key, seat, record) VALUES ('key', 77, 'record')")


class Log:
    """The store under test, on SQLite.

    :param path: of the database.
    """

    def __init__(
        self, path: Path, retention: Retention | None = None, doorbell: Doorbell | None = None
    ) -> None:
        self.now = 1_000_000.0
        self.ahead = 0.0  # of the wall clock
        self.path = path
        self.link = SqliteLink(
            f"sqlite:///{path}",
            retention or Retention(),
            lambda: self.now + self.ahead,
            doorbell,
            boot=lambda: self.now,
        )
        self.store: Store[int] = Store(self.link)
        self._woken = threading.Event()

    def open(self) -> None:
        self.store.open(self._woken.set)

    def close(self) -> None:
        self.store.close()

    def wait(self, tickets: int, entries: int = 0) -> list[Commit[int]]:
        """The commits up to and with a number of tickets, and of entries."""
        commits: list[Commit[int]] = []
        while (
            sum(len(commit.tickets) for commit in commits) < tickets
            or sum(len(commit.entries) for commit in commits) < entries
        ):
            assert self._woken.wait(_PATIENCE), "the log did not answer"
            self._woken.clear()
            commits += self.store.collect()
        return commits

    def append(self, *updates: Update) -> list[Entry]:
        """Append updates, which have to become durable."""
        for ticket, one in enumerate(updates):
            self.store.append((one,), ticket)
        commits = self.wait(len(updates))
        assert [commit.error for commit in commits] == [None] * len(commits)
        return [entry for commit in commits for entry in commit.entries]

    def announce(self, *data: str) -> list[Entry]:
        """Append events of the hub, as when subscribers come."""
        for ticket, one in enumerate(data):
            self.store.append((update("/subscriptions/x", data=one),), ticket, Presence(one, one))
        return [entry for commit in self.wait(len(data)) for entry in commit.entries]

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id."""
        return self.store.resume([Resume(event_id, 0, None, 0)])[0].after

    def everything(self) -> list[Entry]:
        entries: list[Entry] = []
        reached, end = 0, 1 << 60
        while reached < end:
            page = self.store.read(reached, end, None, 1 << 30)
            entries += page.entries
            reached = page.reached
        return entries

    def sequences(self) -> list[int]:
        return [entry.sequence for entry in self.everything()]

    def topic_rows(self) -> int:
        with beside(self.path) as database:
            found: int = database.execute("SELECT count(*) FROM mercure_topic").fetchone()[0]
            return found


@contextmanager
def beside(path: Path) -> Iterator[sqlite3.Connection]:
    """Another connection to the database."""
    with closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as database:
        yield database


def waiting_for_locks(path: Path) -> int:
    """How many wait for a lock on a file that somebody else has."""
    file = f":{path.stat().st_ino} "
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return sum(": -> " in line and file in line for line in lines)


def until(condition: Callable[[], object]) -> None:
    """Wait for what gives no sign."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Stores that are opened in here have ended their threads at the end."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if "mercure-store" in thread.name] == []


@contextmanager
def broken(path: Path, tables: Sequence[str] = ("mercure_update", "mercure_position")) -> Iterator[None]:
    """A database that refuses to be written, as one on a full disk does."""
    with beside(path) as database:
        for table in tables:
            for event in ("INSERT", "UPDATE"):
                database.execute(
                    f"CREATE TRIGGER break_{table}_{event} BEFORE {event} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
                )
    yield
    with beside(path) as database:
        for table in tables:
            for event in ("INSERT", "UPDATE"):
                database.execute(f"DROP TRIGGER break_{table}_{event}")
