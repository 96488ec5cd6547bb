"""How a relay waits: for its time, for a call from this process, for a ``NOTIFY`` of PostgreSQL.

All three end one ``poll``: a call writes into a socket pair, which is safe in a signal handler too, and a
notification makes the database's own socket readable.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

_log = logging.getLogger("flask_mercure.relay")


class Wakeup:
    """Waits for a time or a call; open within a ``with`` block."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._soonest: float | None = None

    def wake(self) -> None:
        """End the wait, or the next one; for any thread and for signal handlers."""
        with contextlib.suppress(OSError):  # full: a call waits already; closed: nobody waits
            self._theirs.send(b".")

    def expect(self, delay: float) -> None:
        """Let the next wait be no longer than this.

        :param delay: seconds.
        """
        self._soonest = delay if self._soonest is None else min(self._soonest, delay)

    def wait(self, longest: float, *, urgent_only: bool = False) -> None:
        """Wait.

        :param longest: seconds.
        :param urgent_only: only a call ends it sooner: the database is what does not work.
        """
        soonest, self._soonest = self._soonest, None
        if soonest is not None:
            longest = min(longest, max(0.0, soonest))
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        other = None if urgent_only else self._database()
        if other is not None:
            poll.register(other, select.POLLIN)
        ready = poll.poll(longest * 1000)
        if any(descriptor == other for descriptor, _ in ready):
            self._take_notifications()
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass

    def _database(self) -> int | None:
        """The descriptor that is readable when the database calls."""
        return None

    def _take_notifications(self) -> None:
        """Read what made it readable."""

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ListeningWakeup(Wakeup):
    """Waits for ``NOTIFY`` too, on a connection of its own.

    When that connection is lost, it is opened again at the next wait; the relay looks at the table meanwhile.

    :param engine: of PostgreSQL, with psycopg 3.
    :param channel: to listen on.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        super().__init__()
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._channel = engine.dialect.identifier_preparer.quote(channel)
        self._connection: Connection | None = None

    def _database(self) -> int | None:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                # Not back into the pool: a connection that listens is of no use to others.
                self._connection.detach()
                self._connection.exec_driver_sql(f"LISTEN {self._channel}")
                self.wake()  # what was committed before is announced no more: look once again
            # What came while the relay was at work is in the driver's memory, not in the socket.
            if self._pending():
                self.wake()
            return int(self._driver.fileno())
        except (SQLAlchemyError, OSError, self._driver_error()):
            self._disconnect()
            return None

    @property
    def _driver(self) -> Any:
        assert self._connection is not None
        return self._connection.connection.dbapi_connection  # a detached one has no driver_connection

    def _driver_error(self) -> type[Exception]:
        import psycopg  # noqa: PLC0415

        return psycopg.Error

    def _pending(self) -> bool:
        return bool(list(self._driver.notifies(timeout=0)))

    def _take_notifications(self) -> None:
        try:
            self._pending()
        except (OSError, self._driver_error()) as error:
            _log.debug("the connection that listens was lost: %s", type(error).__name__)
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError, OSError, self._driver_error()):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._disconnect()
        super().close()


def wakeup_for(engine: Engine, channel: str) -> Wakeup:
    """What fits a database: listening with psycopg 3, else waiting for time and calls."""
    if engine.dialect.name == "postgresql" and engine.dialect.driver == "psycopg":
        return ListeningWakeup(engine, channel)
    return Wakeup()
