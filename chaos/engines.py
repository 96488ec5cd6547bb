"""The store under the hubs: where it is, what the log holds, and a shadow that keeps what is discarded.

Each engine has one class. What the checker needs of it: a URL for the hub, a shadow of the log written by
the store itself in the same transactions, and the log with it at the end.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis

from chaos.client import number_of
from chaos.plan import POSTGRESQL
from chaos.record import Entry
from tests.engines import EngineServer, PostgresqlServer, RedisServer

_BUSY = 10.0  # seconds
_LOOK = 0.05
_NEVER_REWRITTEN = ("--auto-aof-rewrite-percentage", "0")


class Ruined(Exception):
    """The store cannot be read; the message says why."""


class Engine(Protocol):
    """A store."""

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


class Shared(ABC):
    """A server that nodes share. Its methods block.

    :param server: not started yet.
    """

    def __init__(self, server: EngineServer) -> None:
        self.server = server
        self._replica: EngineServer | None = None
        self._old: list[EngineServer] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens now."""
        return self.server.host, self.server.port

    @abstractmethod
    def url_by(self, host: str, port: int) -> str:
        """The value of ``MERCURE_TRANSPORT_URL`` for a node that reaches it by some wire."""

    def open(self) -> None:
        """Start it."""
        self.server.start()

    def close(self) -> None:
        """End it and remove what it left."""
        for server in filter(None, (self.server, self._replica, *self._old)):
            server.stop()

    @abstractmethod
    def shadow(self) -> None:
        """Have a copy of each update kept from now on, beside the history of the hubs."""

    @abstractmethod
    def log(self) -> tuple[list[Entry], int]:
        """As for any engine."""

    def kill(self) -> None:
        """Kill -9."""
        self.server.kill()

    def start(self) -> None:
        """Start it again."""
        self.server.start()

    def halt(self) -> None:
        """Stop it in order."""
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGINT)
        self.server.process.wait(_BUSY)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.server.signal(signal.SIGCONT)

    @abstractmethod
    def disconnect(self) -> None:
        """End all connections of nodes."""

    @abstractmethod
    def probe(self) -> None:
        """Write something, to see how long that takes.

        :raises Exception: it cannot.
        """

    @abstractmethod
    def make_replica(self) -> None:
        """Start a replica, and wait until it has everything."""

    @abstractmethod
    def leave_behind(self) -> None:
        """Have the replica get no more updates."""

    @abstractmethod
    def fail_over(self) -> None:
        """The replica takes over; the old server is gone for good."""

    def _replace(self) -> None:
        assert self._replica is not None
        self._old.append(self.server)
        self.server, self._replica = self._replica, None


class Postgresql(Shared):
    """A PostgreSQL."""

    def __init__(self) -> None:
        super().__init__(PostgresqlServer({"wal_sender_timeout": "2s", "shared_buffers": "32MB"}))
        self._database = ""

    def open(self) -> None:
        super().open()
        self._database = self.server.url().rpartition("/")[2]

    def url_by(self, host: str, port: int) -> str:
        return f"postgresql://hub@{host}:{port}/{self._database}"

    def shadow(self) -> None:
        with self._connected() as connection:
            connection.execute(
                """
                CREATE TABLE IF NOT EXISTS chaos_shadow
                    (sequence bigint PRIMARY KEY, id text, topics text, data bytea, private boolean);
                CREATE OR REPLACE FUNCTION chaos_keep() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    INSERT INTO chaos_shadow
                    VALUES (new.sequence, new.id, new.topics, substr(new.data, 1, 2000), new.private);
                    RETURN NULL;
                END $$;
                DROP TRIGGER IF EXISTS chaos_keep ON mercure_update;
                CREATE TRIGGER chaos_keep AFTER INSERT ON mercure_update
                    FOR EACH ROW EXECUTE FUNCTION chaos_keep();
                """
            )

    def log(self) -> tuple[list[Entry], int]:
        try:
            with self._connected() as connection:
                rows = connection.execute(
                    """
                    SELECT sequence, id, topics, substr(data, 1, 2000), private FROM mercure_update
                    UNION SELECT * FROM chaos_shadow ORDER BY sequence
                    """
                ).fetchall()
                (oldest,) = connection.execute("SELECT min(sequence) FROM mercure_update").fetchone() or (0,)
        except psycopg.Error as error:
            raise Ruined(str(error)) from None
        return [_entry(*row) for row in rows], oldest or 0

    def probe(self) -> None:
        with self._connected() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS chaos_probe (at timestamptz)")
            connection.execute("INSERT INTO chaos_probe VALUES (now())")

    def disconnect(self) -> None:
        with self._connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )

    def make_replica(self) -> None:
        assert isinstance(self.server, PostgresqlServer)
        self._replica = replica = _Standby(self.server)
        replica.start()
        assert replica.process is not None

    def leave_behind(self) -> None:
        assert isinstance(self._replica, PostgresqlServer)
        self._replica.run("ALTER SYSTEM SET primary_conninfo = ''")
        self._replica.run("SELECT pg_reload_conf()")
        deadline = time.monotonic() + _BUSY
        while self._replica.run("SELECT 1 FROM pg_stat_wal_receiver") and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def fail_over(self) -> None:
        assert isinstance(self._replica, PostgresqlServer)
        if self._replica.run("SELECT 1 FROM pg_stat_wal_receiver"):
            self.halt()  # which sends everything first
        else:
            self.kill()
        self._replica.run("SELECT pg_promote()")
        self._replace()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        host, port = self.address
        with psycopg.connect(
            host=host, port=port, user="hub", dbname=self._database, autocommit=True, connect_timeout=10
        ) as connection:
            yield connection


class _Standby(PostgresqlServer):
    """A server that copies another one."""

    def __init__(self, primary: PostgresqlServer) -> None:
        super().__init__({"hot_standby": "on", "shared_buffers": "32MB"})
        self._primary = primary

    def make_data(self) -> None:
        primary = self._primary
        self.run_tool(
            *("pg_basebackup", "-D", str(self.folder / "data"), "-R", "-X", "stream", "--no-sync"),
            *("-c", "fast", "-h", primary.host, "-p", str(primary.port), "-U", "hub"),
        )


class Valkey(Shared):
    """A Valkey. Its append-only file, which is never rewritten here, is the shadow: nothing leaves it."""

    def __init__(self) -> None:
        super().__init__(RedisServer(settings=_NEVER_REWRITTEN))
        self._name = ""

    def open(self) -> None:
        super().open()
        self._name = self.server.url().rpartition("=")[2]

    def url_by(self, host: str, port: int) -> str:
        return f"redis://{host}:{port}/0?name={self._name}"

    @property
    def _key(self) -> bytes:
        return f"{{{self._name}}}:log".encode()

    def shadow(self) -> None:
        """There is one already."""

    def log(self) -> tuple[list[Entry], int]:
        try:
            with self._client() as client:
                rows = client.xrange(self._key)
        except (redis.RedisError, OSError) as error:
            raise Ruined(str(error)) from None
        kept = {entry.sequence: entry for entry in map(_of_stream, self._added())}
        kept |= {entry.sequence: entry for entry in (_of_stream((id_, fields)) for id_, fields in rows)}
        return [kept[one] for one in sorted(kept)], _sequence(rows[0][0]) if rows else 0

    def _added(self) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Whatever was added to the log, as the server's file has it."""
        for path in sorted(self.server.folder.glob("appendonlydir/*.incr.aof")):
            for name, *words in _commands(path.read_bytes()):
                if name.upper() == b"XADD" and words[0] == self._key:
                    yield words[1], dict(zip(words[2::2], words[3::2], strict=True))

    def probe(self) -> None:
        with self._client() as client:
            client.set("chaos", time.time())

    def disconnect(self) -> None:
        with self._client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def make_replica(self) -> None:
        host, port = self.address
        self._replica = RedisServer(settings=_NEVER_REWRITTEN)
        self._replica.start()
        deadline = time.monotonic() + _BUSY
        with self._client(self._replica) as client:
            # Not by a setting, which would make it a replica again when it is started again.
            client.execute_command("REPLICAOF", host, str(port))
            while client.info("replication").get("master_link_status") != "up":
                if time.monotonic() > deadline:
                    raise RuntimeError("the replica does not follow")
                time.sleep(_LOOK)

    def leave_behind(self) -> None:
        with self._client(self._replica) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        with self._client(self._replica) as replica:
            if replica.info("replication")["role"] == "slave":
                with self._client() as client:
                    client.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
                    sent = client.info("replication")["master_repl_offset"]
                deadline = time.monotonic() + _BUSY
                while replica.info("replication")["slave_repl_offset"] < sent:
                    if time.monotonic() > deadline:
                        raise RuntimeError("the replica does not follow")
                    time.sleep(_LOOK)
            self.kill()
            replica.execute_command("REPLICAOF", "NO", "ONE")
        self._replace()

    @contextlib.contextmanager
    def _client(self, server: EngineServer | None = None) -> Iterator[Any]:
        server = server or self.server
        client: Any = redis.Redis(
            server.host, server.port, socket_timeout=_BUSY, socket_connect_timeout=_BUSY
        )
        with contextlib.closing(client):
            yield client


def shared(engine: str) -> Shared:
    """The engine of a plan."""
    return Postgresql() if engine == POSTGRESQL else Valkey()


def _of_stream(row: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    place, fields = row
    is_private = bool(json.loads(fields[b"m"])[0]) if fields[b"m"] else False
    id_, topics = fields[b"i"].decode(), fields[b"t"].decode()
    return _entry(_sequence(place), id_, topics, fields[b"d"][:2000], is_private)


def _commands(file: bytes) -> Iterator[list[bytes]]:
    """The commands in an append-only file; the last one may be cut off, and does not count then."""
    at = 0
    while at < len(file):
        end = file.find(b"\r\n", at)
        if end < 0 or file[at : at + 1] != b"*":
            return
        count, at = int(file[at + 1 : end]), end + 2
        words = []
        for _ in range(count):
            end = file.find(b"\r\n", at)
            if end < 0:
                return
            size, at = int(file[at + 1 : end]), end + 2
            words.append(file[at : at + size])
            at += size + 2
        if at > len(file):
            return
        yield words


def _sequence(id_: bytes) -> int:
    return int(id_.partition(b"-")[2])


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
