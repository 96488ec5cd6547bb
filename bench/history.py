"""A database with a long history, filled by the hub's own statements."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import address_of
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Batch, Retention
from mercure_hub.storage.sqlite.database import Database
from mercure_hub.storage.sqlite.link import Appender, SqliteLink

NEWEST = "newest"
"""Topic of the last ten updates."""

RARE = "https://example.com/rare/1"
"""Topic of ten updates that lie far apart."""

RARE_PATTERN = "https://example.com/rare/:id"

EVENTS = 10
_BATCH = 10_000
_SHARED_BATCH = 1000  # as many as a hub appends at once
_OTHERS = 1000  # topics of all the other updates


@dataclass(frozen=True, slots=True)
class History:
    """A filled database.

    :param url: for MERCURE_TRANSPORT_URL.
    :param behind: id of the update before the last ten.
    """

    url: str
    behind: str


def fill(url: str, size: int) -> History:
    """Fill a new history on an engine that several machines share."""
    link = link_to(address_of(url), Retention())
    link.open()
    try:
        updates = _updates(size)
        for number, batch in enumerate(iter(lambda: list(islice(updates, _SHARED_BATCH)), []), 1):
            with link.turn():
                link.append(Batch(number, batch, [False] * len(batch), ()))
            link.renew()
    finally:
        link.close(is_writer_left=False)
    return History(url, _id(size - EVENTS))


def filled(folder: Path, size: int) -> History:
    """The history with so many updates; made once in a folder.

    Each update's data begins as ``sseload`` expects it: its running number within its topic.
    """
    path = folder / f"history-{size}.db"
    url = f"sqlite:///{path}"
    if not path.exists():
        _fill(path, size)
    return History(url, _id(size - EVENTS))


def _fill(path: Path, size: int) -> None:
    partial = path.with_suffix(".partial")
    url = f"sqlite:///{partial}"
    empty = SqliteLink(url, Retention(), time.time)
    empty.open()  # makes the tables
    empty.close(is_writer_left=False)
    with closing(Database(str(partial), "OFF").connect()) as connection:
        appender = Appender(connection, seat=0)
        updates = _updates(size)
        for number, batch in enumerate(iter(lambda: list(islice(updates, _BATCH)), []), 1):
            appender.append(Batch(number, batch, [False] * len(batch), ()), time.time())
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    partial.rename(path)
    Path(f"{partial}-lock").unlink()


def _updates(size: int) -> Iterator[Update]:
    distance = size // EVENTS
    for number in range(1, size + 1):
        if number > size - EVENTS:
            topic, within = NEWEST, number - (size - EVENTS)
        elif number % distance == 1:
            topic, within = RARE, number // distance + 1
        else:
            topic, within = f"https://example.com/others/{number % _OTHERS}", number
        yield Update((topic,), f"T{within:016x}".ljust(200, "x"), _id(number), False, None, None)


def _id(number: int) -> str:
    return f"urn:uuid:00000000-0000-4000-8000-{number:012x}"
