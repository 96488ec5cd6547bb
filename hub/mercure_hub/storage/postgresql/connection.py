"""Connections to PostgreSQL that give up in time, and what their errors mean.

If a server stops answering, libpq waits as long as the kernel keeps the connection, which can be for ever.
Each call here has a deadline. After it, the connection is closed, because an answer may still come.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus, Format
from psycopg.types.numeric import Int8BinaryDumper

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageUnusable

DEADLINE = 4.0
"""Seconds after which a call gives up."""
STATEMENT_TIMEOUT = 3.0
"""Seconds after which the server gives up a statement; sooner, so that it can say that nothing was stored."""

_DEFAULTS = {
    "fallback_application_name": "mercure-hub",
    "target_session_attrs": "read-write",
    "connect_timeout": "3",  # seconds, for each host
    "tcp_user_timeout": "3000",  # milliseconds
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "client_encoding": "UTF8",
}
_MAX_REASON = 400  # characters
_CHECKS_CLIENTS = 140000  # PostgreSQL 14
_EVENTS = {
    waiting.Wait.R: select.POLLIN,
    waiting.Wait.W: select.POLLOUT,
    waiting.Wait.RW: select.POLLIN | select.POLLOUT,
}

_Result = TypeVar("_Result")
Rows = list[tuple[Any, ...]]


class NotAnswered(psycopg.OperationalError):
    """The deadline of a call has passed."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection in autocommit mode whose calls give up after ``deadline`` seconds."""

    deadline = DEADLINE

    def wait(
        self,
        gen: PQGen[_Result],
        interval: float = 0.0,  # noqa: ARG002 - psycopg's own wait wakes up so often
        timeout: float | None = None,  # noqa: ARG002
    ) -> _Result:
        """Run a call of psycopg."""
        end = time.monotonic() + self.deadline
        try:
            wanted = next(gen)
            socket = self.pgconn.socket
            poller = select.poll()
            poller.register(socket, _EVENTS[wanted])
            while True:
                found = poller.poll(max(end - time.monotonic(), 0.0) * 1000)
                if not found:
                    raise NotAnswered("the server did not answer in time")
                event = found[0][1]
                # An end of the connection counts as both.
                may_read, may_write = bool(event & ~select.POLLOUT), bool(event & ~select.POLLIN)
                before, wanted = wanted, gen.send(may_read * waiting.Ready.R | may_write * waiting.Ready.W)
                if wanted is not before:
                    poller.modify(socket, _EVENTS[wanted])
        except StopIteration as done:
            result: _Result = done.value
            return result

    def ask(self, statement: str, values: Any = None) -> Rows:
        """Run one statement.

        :param values: by name.
        :returns: its rows.
        """
        cursor = self.cursor(binary=True)
        cursor.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def ask_all(self, statements: Iterable[tuple[str, Any]]) -> list[Rows]:
        """Run statements in one round trip; each sees what was committed before it."""
        cursors = []
        with self.pipeline():
            for statement, values in statements:
                cursor = self.cursor(binary=True)
                cursor.execute(statement.encode(), values)
                cursors.append(cursor)
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def is_stale(self) -> bool:
        """Whether the server has ended it since it was last used."""
        if self.closed:
            return True
        poller = select.poll()
        poller.register(self.pgconn.socket, select.POLLIN)
        if not poller.poll(0):
            return False
        try:
            self.pgconn.consume_input()
        except psycopg.Error:
            return True
        return bool(poller.poll(0)) or self.pgconn.status != ConnStatus.OK  # an end can be read again

    def heard(self) -> list[int]:
        """The sessions whose notifications have arrived since the last call."""
        self.pgconn.consume_input()
        sessions = []
        while (notification := self.pgconn.notifies()) is not None:
            sessions.append(notification.be_pid)
        return sessions


class Connector:
    """Makes connections.

    :param url: of the database, as libpq takes it; ``host`` and ``port`` may be there several times.
    :param shown: the database in words.
    """

    def __init__(self, url: str, shown: str) -> None:
        self.shown = shown
        self._url = url
        self._secrets: list[str] = []
        self.settings = {
            "statement_timeout": str(int(STATEMENT_TIMEOUT * 1000)),
            # TCP may take hours to notice that a hub was cut off, which must not keep its locks so long.
            "idle_in_transaction_session_timeout": "5s",
            # A stricter one refuses what had to wait for another node.
            "default_transaction_isolation": "read committed",
            # The tables grow from nothing to millions of rows, and a plan is made once.
            "enable_seqscan": "off",
            "jit": "off",
        }
        """Of each session."""
        self.has_sessions = False
        """Whether each connection is known to have a session of its own. A pooler may give each transaction
        another one, which others use too: then nothing is set, prepared or listened to."""

    def connect(self) -> Connection:
        """Make a connection.

        :raises StorageAway: the server cannot be reached, or refuses for now.
        :raises StorageUnusable: another attempt would fail again.
        """
        connection: Connection | None = None
        try:
            connection = Connection.connect(
                "", **self._parameters(), autocommit=True, prepare_threshold=None, context=_ADAPTERS
            )
            self.configure(connection)
        except psycopg.Error as error:
            if connection is not None:
                connection.close()
            is_password_missing = error.pgconn is not None and error.pgconn.needs_password
            kind = StorageUnusable if is_password_missing else StorageAway
            raise kind(f"{self.shown} cannot be reached: {self.reason(error)}") from None
        return connection

    def configure(self, connection: Connection) -> None:
        """Apply the settings of each session, once it is known that there are sessions."""
        if not self.has_sessions:
            return
        settings = dict(self.settings)
        if connection.info.server_version >= _CHECKS_CLIENTS:
            # A statement that waits for a lock ends with its client.
            settings["client_connection_check_interval"] = "1s"
        names = ", ".join(f"set_config('{name}', %({name})s, false)" for name in settings)
        connection.ask(f"SELECT {names}", settings)
        connection.prepare_threshold = 0

    def _parameters(self) -> dict[str, Any]:
        base, _, query = self._url.partition("?")
        given = parse_qsl(query, keep_blank_values=True)
        # Of a parameter that is there twice libpq takes the last one.
        hosts = {key: ",".join(value for name, value in given if name == key) for key in ("host", "port")}
        rest = [one for one in given if one[0] not in hosts]
        try:
            parameters = conninfo_to_dict(f"{base}?{urlencode(rest, quote_via=quote)}" if rest else base)
        except psycopg.Error as error:
            raise StorageUnusable(f"the URL of {self.shown} cannot be read: {self.reason(error)}") from None
        self._secrets = [str(parameters[key]) for key in ("password", "sslpassword") if key in parameters]
        return {**_DEFAULTS, **parameters, **{key: value for key, value in hosts.items() if value}}

    def failure(self, participle: str, error: Exception) -> StorageError:
        """What an error means for a call that stored nothing.

        :param participle: what cannot be done.
        """
        kind = StorageAway if is_away(error) else StorageError
        return kind(f"{self.shown} cannot be {participle}: {self.reason(error)}")

    def reason(self, error: Exception) -> str:
        """The server's own words, on one line and without secrets."""
        words = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        _, _, credentials = self._url.partition("://")
        credentials = credentials.partition("@")[0] if "@" in credentials else ""
        in_url = credentials.partition(":")[2]
        for secret in {*self._secrets, in_url, unquote(in_url), quote(unquote(in_url))} - {""}:
            words = words.replace(secret, "***")
        return words[:_MAX_REASON] or type(error).__name__


def is_away(error: Exception) -> bool:
    """Whether the server serves nobody now, or not this process."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state[:2] in _AWAY_CLASSES or state in _AWAY_STATES


def is_answer(error: psycopg.Error) -> bool:
    """Whether the server has refused a statement, so that nothing of it is stored."""
    return error.sqlstate is not None and error.diag.severity_nonlocalized == "ERROR"


# Connection exceptions and operator intervention (PostgreSQL documentation, appendix A). A full disk is not
# among them: the server answers, and only what needs space fails.
_AWAY_CLASSES = ("08", "57")
# Too many connections; a standby, as after a failover; a lock that did not come in time.
_AWAY_STATES = ("53300", "25006", "55P03")


class _Array(bytes):
    """An array as PostgreSQL sends and receives it, so that psycopg need not look at each element."""


class Bigints(_Array):
    """An array of ``bigint``."""


class Texts(_Array):
    """An array of ``text``."""


class Blobs(_Array):
    """An array of ``bytea``."""


class Bools(_Array):
    """An array of ``boolean``."""


_ARRAYS: dict[type[_Array], tuple[int, int]] = {  # the type of the array, and that of an element (pg_type)
    Bigints: (1016, 20),
    Texts: (1009, 25),
    Blobs: (1001, 17),
    Bools: (1000, 16),
}
_HEAD = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i").pack
_BIGINT = struct.Struct(">iq").pack
_NULL = _LENGTH(-1)
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"


def bigints(values: Sequence[int | None]) -> Bigints:
    """An array of numbers."""
    return Bigints(_array(Bigints, [_NULL if one is None else _BIGINT(8, one) for one in values]))


def texts(values: Sequence[str | None]) -> Texts:
    """An array of texts.

    :raises ValueError: one of them holds U+0000 or a surrogate.
    """
    parts = []
    for one in values:
        if one is None:
            parts.append(_NULL)
            continue
        encoded = one.encode()
        if b"\0" in encoded:
            raise ValueError("it holds the character U+0000")
        parts.append(_LENGTH(len(encoded)) + encoded)
    return Texts(_array(Texts, parts))


def blobs(values: Sequence[bytes]) -> Blobs:
    """An array of bytes."""
    return Blobs(_array(Blobs, [_LENGTH(len(one)) + one for one in values]))


def bools(values: Sequence[bool]) -> Bools:
    """An array of truth values."""
    return Bools(_array(Bools, [_TRUE if one else _FALSE for one in values]))


def _array(kind: type[_Array], parts: list[bytes]) -> bytes:
    _, element = _ARRAYS[kind]
    if not parts:
        return struct.pack(">iiI", 0, 0, element)
    return _HEAD.pack(1, int(_NULL in parts), element, len(parts), 1) + b"".join(parts)


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    for kind, (number, _) in _ARRAYS.items():

        class OfArray(Dumper):
            format = Format.BINARY
            oid = number

            def dump(self, obj: bytes) -> bytes:
                return obj

        adapters.register_dumper(kind, OfArray)
    adapters.register_dumper(int, Int8BinaryDumper)  # one type for all numbers: a statement is prepared once
    return adapters


_ADAPTERS = _adapters()
