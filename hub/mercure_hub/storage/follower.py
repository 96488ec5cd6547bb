"""Follows what other processes append to the log, so that all of them see one order.

What a process writes itself it need not read, as long as it knows what came before: then it reads the
gap only. Everything is handed over under one lock, by the thread that writes or by the one that waits
for the bell.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from mercure_hub.storage.append import Statement
from mercure_hub.storage.interface import GRACE, Commit, Entry
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.locks import Doorbell

Ticket = TypeVar("Ticket")

_LOOK = 1.0  # seconds after which the log is looked at though no bell rang
_LOOK_BLIND = 0.05  # the same when somebody writes who does not ring: the hub that this one takes over from
_PAUSE = 0.02
_MOST = 500  # updates that are read at once
_MOST_CHARACTERS = 8 << 20  # the same for their size, give or take some rows
_ROWS = 10  # fetched at once

_log = logging.getLogger("mercure_hub.storage")


class Follower(Generic[Ticket]):
    """Hands over commits, own and others', in the order of the log.

    :param engine: of the log.
    :param doorbell: tells that others have written.
    :param hand_over: takes a commit, from any thread.
    :param is_crowded: whether so much was handed over that more has to wait.
    :param companions: how many other processes are at work on the log.
    """

    def __init__(
        self,
        engine: sa.Engine,
        doorbell: Doorbell,
        hand_over: Callable[[Commit[Ticket]], None],
        is_crowded: Callable[[], bool],
        companions: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._doorbell = doorbell
        self._hand_over = hand_over
        self._is_crowded = is_crowded
        self._companions = companions
        self._thread = threading.Thread(target=self._follow, name="mercure-log-follower", daemon=True)
        self._is_closing = False
        self._lock = threading.Lock()
        self._seen = 0  # the sequence up to which everything was handed over
        self._connection: sa.PoolProxiedConnection | None = None
        table = schema.update
        following = (
            sa.select(table)
            .where(table.c.sequence > sa.bindparam("after", type_=sa.BigInteger))
            .order_by(table.c.sequence)
        )
        self._next = Statement(engine, following.suffix_with(f"LIMIT {_MOST}"), ["after"])

    def start(self, seen: int) -> None:
        """Begin to listen.

        :param seen: the sequence after which everything is handed over.
        """
        self._seen = seen
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._is_closing = True
        self._doorbell.ring_own()
        if self._thread.is_alive():
            self._thread.join()
        self._disconnect()

    def committed(self, entries: Sequence[Entry], tickets: Sequence[Ticket]) -> None:
        """Hand over an own commit, and tell the others of it.

        :param entries: with consecutive sequences.
        """
        self._doorbell.ring()
        with self._lock:
            if entries[0].sequence != self._seen + 1:
                self._try_to_catch_up()
            fresh: Sequence[Entry] = ()
            if entries[0].sequence <= self._seen + 1:  # what is missing was read, maybe more than that
                fresh = entries[self._seen + 1 - entries[0].sequence :]
                self._seen = max(self._seen, entries[-1].sequence)
            self._hand_over(Commit(fresh, tickets))
        if entries[-1].sequence > self._seen:
            self._doorbell.ring_own()

    def catch_up(self) -> None:
        """Hand over all that others have written by now."""
        more = True
        while more and not self._is_closing:
            with self._lock:
                more = self._try_to_catch_up()

    def _follow(self) -> None:
        while True:
            self._doorbell.wait(_LOOK_BLIND if self._is_blind() else _LOOK)
            more = True
            while more and not self._is_closing:
                if self._is_crowded():
                    self._doorbell.wait(_PAUSE)
                    continue
                with self._lock:
                    more = self._try_to_catch_up()
            if self._is_closing:
                return

    def _is_blind(self) -> bool:
        """Whether somebody may write who does not ring."""
        try:
            return self._companions() > self._doorbell.others
        except OSError:  # of the lock file: it cannot be told now, and this thread must live on
            return True

    def _try_to_catch_up(self) -> bool:
        """Hand over a part of what others wrote.

        :returns: whether there may be more at once.
        """
        try:
            return self._catch_up()
        except Exception as error:  # of the driver, whichever it is
            self._disconnect()
            _log.error("the updates of other processes have to wait: %s", error)
            return False

    def _catch_up(self) -> bool:
        entries, is_all = self._read()
        if not entries:
            return False
        if entries[0].sequence > self._seen + 1:
            _log.error(
                "updates %d to %d were discarded before this process could send them: it stood still for "
                "more than %d s, or the clock was set",
                self._seen + 1,
                entries[0].sequence - 1,
                GRACE,
            )
        self._seen = entries[-1].sequence
        self._hand_over(Commit(entries, ()))
        return not is_all

    def _read(self) -> tuple[list[Entry], bool]:
        """The next entries, as many as may be in memory at once.

        :returns: and whether they were all.
        """
        if self._connection is None:
            self._connection = self._engine.raw_connection()
        cursor = self._connection.cursor()
        try:
            self._next.run(cursor, (self._seen,))
            entries: list[Entry] = []
            characters = 0
            while characters < _MOST_CHARACTERS and (rows := cursor.fetchmany(_ROWS)):
                read = [schema.entry(row) for row in rows]
                characters += sum(len(entry.update.data) for entry in read)
                entries += read
            return entries, len(entries) < _MOST and characters < _MOST_CHARACTERS
        finally:
            cursor.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection: Any = self._connection
            self._connection = None
            connection.close()
