"""The store under the hubs: where it is, what the log holds, and a shadow that keeps what is discarded.

Each engine has one class. What the checker needs of it: a URL for the hub, a shadow of the log written by
the store itself in the same transactions, and the log with it at the end.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Protocol

from chaos.client import number_of
from chaos.record import Entry

_BUSY = 10.0  # seconds


class Ruined(Exception):
    """The store cannot be read; the message says why."""


class Engine(Protocol):
    """A store."""

    folder: Path

    @property
    def url(self) -> str:
        """The value of ``MERCURE_TRANSPORT_URL``."""

    def shadow(self) -> None:
        """Have the store keep a copy of each update from now on, beside the history of the hub."""

    def log(self) -> tuple[list[Entry], int]:
        """All updates ever stored, in order, and the sequence of the oldest one that the history has.

        :raises Ruined: it cannot be read.
        """


class Sqlite:
    """A database file of SQLite.

    :param folder: of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "hub.db"
        self.wal = folder / "hub.db-wal"
        self.lock = folder / "hub.db-lock"

    @property
    def url(self) -> str:
        """The URL of the file."""
        return f"sqlite:///{self.database}"

    def shadow(self) -> None:
        """A trigger copies each row in the transaction that stores it."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=_BUSY)) as connection, connection:
            connection.executescript(
                """
                CREATE TABLE IF NOT EXISTS chaos_shadow
                    (sequence INTEGER PRIMARY KEY, id TEXT, topics TEXT, data BLOB, private INTEGER);
                CREATE TRIGGER IF NOT EXISTS chaos_keep AFTER INSERT ON mercure_update BEGIN
                    INSERT INTO chaos_shadow
                    VALUES (new.sequence, new.id, new.topics, substr(new.data, 1, 2000), new.private);
                END;
                """
            )

    def log(self) -> tuple[list[Entry], int]:
        """Read the shadow and the history."""
        try:
            return self._log()
        except sqlite3.DatabaseError as error:
            raise Ruined(str(error)) from None

    def _log(self) -> tuple[list[Entry], int]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=_BUSY)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            columns = "sequence, id, topics, substr(data, 1, 2000), private"
            selects = [f"SELECT {columns} FROM mercure_update"]  # noqa: S608 - our own words
            if "chaos_shadow" in tables:
                selects.append(f"SELECT {columns} FROM chaos_shadow")  # noqa: S608
            rows = connection.execute(f"{' UNION '.join(selects)} ORDER BY sequence").fetchall()
            oldest = connection.execute("SELECT min(sequence) FROM mercure_update").fetchone()[0]
        return [_entry(*row) for row in rows], oldest or 0


def _entry(sequence: int, id_: str, topics: str, data: bytes | None, private: int) -> Entry:
    session, is_active = "", False
    data = data or b""  # SQLite makes NULL of a part of nothing
    number = number_of(data)
    if number < 0:
        with contextlib.suppress(ValueError):
            document = json.loads(data)
            session = (document.get("payload") or {}).get("session", "")
            is_active = bool(document.get("active"))
    return Entry(sequence, id_, tuple(json.loads(topics)), bool(private), number, session, is_active)
