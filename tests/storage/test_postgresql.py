"""The link to PostgreSQL where it differs: failures of the server, locks, poolers, versions of the tables."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt, StorageUnusable
from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import address_of
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import (
    SHARED_GRACE,
    AlreadyStored,
    Batch,
    Break,
    Commit,
    LeaseLost,
    Presence,
    Resume,
    Retention,
    Unstorable,
)
from mercure_hub.storage.postgresql import retention, schema
from mercure_hub.storage.postgresql.connection import DEADLINE, Connection, Connector, is_away
from mercure_hub.storage.postgresql.link import PostgresqlLink
from mercure_hub.storage.store import Store
from tests.engines import PostgresqlServer, running
from tests.needs import need
from tests.storage.log import until, update

pytestmark = pytest.mark.minutes

PATIENCE = 30.0
IN_TIME = 3 * DEADLINE  # the machine may be busy

Join = Callable[..., PostgresqlLink]
_Answer = TypeVar("_Answer")


@pytest.fixture
def url(postgresql_engine: PostgresqlServer) -> str:
    return postgresql_engine.url()


@pytest.fixture
def join(url: str) -> Iterator[Join]:
    """Opens links to one database."""
    links: list[PostgresqlLink] = []

    def join(
        other: str = "", *, kept: Retention | None = None, ahead: Callable[[], float] = lambda: 0.0
    ) -> PostgresqlLink:
        link = PostgresqlLink(address_of(other or url), kept or Retention(), ahead=ahead)
        links.append(link)
        link.open()
        return link

    yield join
    for link in links:
        link.close(is_writer_left=False)


@pytest.fixture
def sql(url: str) -> Iterator[psycopg.Connection]:
    """Another session."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """A server that a test may kill."""
    need("postgresql")
    server = PostgresqlServer()
    with running(server):
        yield server


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder that other users may enter, which they cannot do with pytest's."""
    with tempfile.TemporaryDirectory(prefix="mercure-") as path:
        yield Path(path)


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def batch(number: int, *ids: str, presence: Presence | None = None) -> Batch:
    updates = [update(id=one) for one in ids]
    return Batch(number, updates, [presence is not None] * len(ids), [presence] if presence else ())


def once(number: int, *ids: str) -> Batch:
    updates = [replace(update(id=one), once=True) for one in ids]
    return Batch(number, updates, [False] * len(ids), ())


def ids(link: PostgresqlLink) -> list[str]:
    return [entry.update.id for entry in link.after(0, 1000, 1 << 30)]


class Proxy:
    """A way to a server that a test can stop.

    What a client sends while it is stopped arrives later, even if the client has gone.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            for one in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pass, args=one)
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, is_held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_held:
                    self._passes.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        self._passes.clear()

    def go_on(self) -> None:
        self._passes.set()

    def close(self) -> None:
        self.go_on()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


@pytest.fixture
def proxy(postgresql_engine: PostgresqlServer) -> Iterator[Proxy]:
    found = Proxy(postgresql_engine.port)
    yield found
    found.close()


class TestDoubt:
    def test_an_append_that_arrives_after_its_outcome_stores_nothing(
        self, join: Join, url: str, proxy: Proxy, postgresql_engine: PostgresqlServer
    ) -> None:
        link = join(url.replace(f":{postgresql_engine.port}/", f":{proxy.port}/"))
        link.append(batch(1, "before"))
        proxy.stop()
        with pytest.raises(StorageInDoubt):
            link.append(batch(2, "late"))
        watch = join()
        link._connector._url = url  # the way around
        assert link.outcome(2) is None
        proxy.go_on()
        until(lambda: not _sessions(watch, "application_name = 'mercure-hub' AND state <> 'idle'"))
        assert ids(watch) == ["before"]
        assert link.append(batch(3, "after")) == 2

    def test_an_append_that_waits_is_stored_or_not_as_its_outcome_says(
        self, join: Join, sql: psycopg.Connection, aside: ThreadPoolExecutor
    ) -> None:
        """The server may notice that the client has gone while the statement waits for a lock, or not."""
        link = join()
        link.append(batch(1, "before"))
        with sql.transaction():
            sql.execute("SELECT FROM mercure_position FOR UPDATE")
            appended = aside.submit(link.append, batch(2, "doubtful"))
            until(lambda: _sessions(link, "wait_event_type = 'Lock'"))
            assert link._writer is not None
            with socket.fromfd(link._writer.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM) as cut:
                cut.shutdown(socket.SHUT_RDWR)
            with pytest.raises(StorageInDoubt):
                appended.result(PATIENCE)
        first = _sure(lambda: link.outcome(2))
        assert ids(link) == (["before"] if first is None else ["before", "doubtful"])
        assert link.append(batch(3, "after")) == (2 if first is None else 3)

    def test_a_claim_wins_over_an_append_that_waits_for_it(
        self, join: Join, sql: psycopg.Connection, aside: ThreadPoolExecutor
    ) -> None:
        """The condition on the number is looked at again after the lock (READ COMMITTED)."""
        link = join()
        with sql.transaction():
            sql.execute("UPDATE mercure_node SET number = 1, first = NULL WHERE id = %s", [link._node])
            appended = aside.submit(link.append, batch(1, "x"))
            until(lambda: _sessions(link, "wait_event_type = 'Lock'"))
        with pytest.raises(StorageError, match="has been given up"):
            appended.result(PATIENCE)
        assert ids(link) == []

    def test_a_node_that_dies_while_its_append_waits_stores_nothing(
        self, join: Join, sql: psycopg.Connection, aside: ThreadPoolExecutor
    ) -> None:
        link = join()
        with sql.transaction():
            sql.execute("UPDATE mercure_node SET dead = true WHERE id = %s", [link._node])
            appended = aside.submit(link.append, batch(1, "x", presence=Presence("key", "record")))
            until(lambda: _sessions(link, "wait_event_type = 'Lock'"))
        with pytest.raises(LeaseLost):
            appended.result(PATIENCE)
        assert not link.renew()
        assert link.append(batch(1, "y")) == 1
        assert ids(link) == ["y"]

    def test_a_lock_that_does_not_come_stores_nothing(self, join: Join, sql: psycopg.Connection) -> None:
        link = join()
        with sql.transaction():
            sql.execute("SELECT FROM mercure_position FOR UPDATE")
            with pytest.raises(StorageAway):
                link.append(batch(1, "x"))
        assert link.outcome(1) is None
        assert link.append(batch(2, "y")) == 1

    def test_an_append_that_no_replica_has_stays_in_doubt(
        self, own_server: PostgresqlServer, join: Join, aside: ThreadPoolExecutor
    ) -> None:
        link = join(own_server.url())
        own_server.run("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        own_server.run("SELECT pg_reload_conf()")
        appended = aside.submit(link.append, batch(1, "x"))
        until(lambda: own_server.run(_WAITS_FOR_REPLICA) == ["1"])
        own_server.kill()
        with pytest.raises(StorageInDoubt):
            appended.result(PATIENCE)
        own_server.start()
        with pytest.raises(StorageError):
            link.outcome(1)
        own_server.run("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.run("SELECT pg_reload_conf()")
        assert _sure(lambda: link.outcome(1)) == 1


class TestOnce:
    def test_an_append_sees_the_one_that_it_waited_for(
        self, join: Join, url: str, aside: ThreadPoolExecutor
    ) -> None:
        """Its statement began before the other was committed."""
        one, other, third = join(), join(), join()
        with psycopg.connect(url) as sql:
            sql.execute("SELECT FROM mercure_position FOR UPDATE")
            appended = [
                aside.submit(link.append, once(1, f"own {number}", "x"))
                for number, link in enumerate((one, other, third))
            ]
            until(lambda: _sessions(one, "wait_event_type = 'Lock'") == 3)
        known = []
        for future in appended:
            try:
                future.result(PATIENCE)
            except AlreadyStored as error:
                known.append(list(error.positions))
        assert known == [[1], [1]]
        assert [number for number in ids(one) if number == "x"] == ["x"]
        assert one.position().last == 2

    def test_the_same_ids_with_other_content_keep_nobody_waiting(
        self, join: Join, sql: psycopg.Connection, aside: ThreadPoolExecutor
    ) -> None:
        one, other = join(), join()
        one.append(once(1, "x"))
        fresh = Update(("a",), "fresh", "x", once=True)
        with sql.transaction():
            sql.execute("SELECT FROM mercure_position FOR UPDATE")
            appended = [aside.submit(link.append, Batch(2, [fresh], [False], ())) for link in (one, other)]
            until(lambda: _sessions(one, "wait_event_type = 'Lock'") == 2)
        failures = [future.exception(PATIENCE) for future in appended]
        assert [type(one) for one in failures if one is not None] == [AlreadyStored]
        assert [entry.update.data for entry in one.after(0, 9, 99)] == ["", "fresh"]

    def test_what_no_replica_has_is_not_acknowledged_to_its_publisher_either(
        self, own_server: PostgresqlServer, join: Join, aside: ThreadPoolExecutor
    ) -> None:
        url = own_server.url()
        link = join(url)
        own_server.run("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        own_server.run("SELECT pg_reload_conf()")
        appended = aside.submit(link.append, once(1, "x"))
        until(lambda: own_server.run(_WAITS_FOR_REPLICA) == ["1"])
        own_server.kill()  # as a crash: the update is there afterwards
        with pytest.raises(StorageInDoubt):
            appended.result(PATIENCE)
        own_server.start()
        other = aside.submit(join, url)
        until(lambda: own_server.run(_WAITS_FOR_REPLICA) == ["1"])  # for its registration
        own_server.run("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.run("SELECT pg_reload_conf()")
        link = other.result(PATIENCE)
        own_server.run("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        own_server.run("SELECT pg_reload_conf()")
        repeated = aside.submit(link.append, once(1, "x"))
        until(lambda: own_server.run(_WAITS_FOR_REPLICA) == ["1"])
        assert not repeated.done()
        own_server.run("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.run("SELECT pg_reload_conf()")
        assert isinstance(repeated.exception(PATIENCE), AlreadyStored)


class TestServerAway:
    def test_ended_sessions_are_made_again(self, join: Join, sql: psycopg.Connection) -> None:
        link = join()
        link.append(batch(1, "x"))
        link.after(0, 1, 1)
        sql.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        assert link.append(batch(2, "y")) == 2
        assert link.position().last == 2
        assert link.resume([Resume("x", 2, None, 9)])[0].after == 1
        _deaf(link)
        link.wait(2, PATIENCE)
        with pytest.raises(StorageAway):
            link.after(0, 9, 9)
        assert ids(link) == ["x", "y"]

    def test_a_server_that_is_frozen_keeps_nobody(
        self, own_server: PostgresqlServer, join: Join, aside: ThreadPoolExecutor
    ) -> None:
        link = join(own_server.url())
        link.append(batch(1, "x"))
        link.after(0, 1, 1)
        own_server.signal(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            calls = [
                aside.submit(call)
                for call in (
                    lambda: link.append(batch(2, "y")),
                    lambda: link.after(1, 1, 1),
                    link.position,
                    lambda: link.adopt(1),
                    lambda: link.check(by_writing=True),
                )
            ]
            errors = [call.exception(PATIENCE) for call in calls]
            assert [type(error) for error in errors] == [StorageInDoubt] + [StorageAway] * 4
            with pytest.raises(StorageAway):
                link.position()  # it cannot connect
            assert time.monotonic() - begin < IN_TIME
        finally:
            own_server.signal(signal.SIGCONT)
        first = _sure(lambda: link.outcome(2))
        assert _sure(lambda: ids(link)) == (["x"] if first is None else ["x", "y"])

    def test_a_server_that_was_killed_is_found_again(self, own_server: PostgresqlServer, join: Join) -> None:
        link = join(own_server.url())
        link.append(batch(1, "x"))
        own_server.kill()
        for call in (lambda: link.append(batch(2, "y")), link.renew, link.position):
            with pytest.raises(StorageAway):
                call()
        _deaf(link)
        own_server.start()
        assert link.renew()
        with pytest.raises(StorageAway, match="was restarted"):
            link.append(batch(3, "y"))
        assert link.append(batch(4, "z")) == 2
        with pytest.raises(StorageAway, match="was restarted"):
            ids(link)
        assert ids(link) == ["x", "z"]

    def test_a_history_that_lost_its_end_is_not_appended_to_unnoticed(
        self, join: Join, sql: psycopg.Connection
    ) -> None:
        link = join()
        link.append(batch(1, "x", "y"))
        sql.execute("DELETE FROM mercure_update WHERE sequence = 2")
        sql.execute("DELETE FROM mercure_topic WHERE sequence = 2")
        sql.execute("UPDATE mercure_position SET last_sequence = 1")
        with pytest.raises(StorageAway):
            link.append(batch(2, "z"))
        assert link.append(batch(3, "z")) == 2

    def test_a_server_that_takes_no_more_connections_is_away(self, join: Join) -> None:
        need("postgresql")
        server = PostgresqlServer({"max_connections": "5", "superuser_reserved_connections": "0"})
        with running(server):
            link = join(server.url())
            with contextlib.ExitStack() as stack:
                with pytest.raises(psycopg.OperationalError):
                    while True:
                        stack.enter_context(
                            psycopg.connect(host="127.0.0.1", port=server.port, user="hub", dbname="postgres")
                        )
                with pytest.raises(StorageAway):
                    link.position()
            assert _sure(link.position).last == 0
            link.close(is_writer_left=False)

    def test_a_server_that_only_reads_is_away(self, own_server: PostgresqlServer, join: Join) -> None:
        link = join(own_server.url())
        own_server.run("ALTER SYSTEM SET default_transaction_read_only = on")
        own_server.run("SELECT pg_reload_conf()")
        until(lambda: own_server.run("SHOW default_transaction_read_only") == ["on"])
        assert link._writer is not None
        until(lambda: link._writer is None or link._writer.ask("SHOW transaction_read_only") == [("on",)])
        with pytest.raises(StorageAway):
            link.append(batch(1, "x"))
        with pytest.raises(StorageAway):  # it looks for another one
            link.append(batch(2, "x"))
        own_server.run("ALTER SYSTEM RESET default_transaction_read_only")
        own_server.run("SELECT pg_reload_conf()")
        assert _sure(lambda: link.append(batch(3, "x"))) == 1


class TestOpen:
    def opens(self, url: str) -> None:
        link = PostgresqlLink(address_of(url), Retention())
        try:
            link.open()
        finally:
            link.close(is_writer_left=False)

    def test_a_server_that_does_not_sync_has_to_be_asked_for(self, join: Join) -> None:
        need("postgresql")
        server = PostgresqlServer({"fsync": "off"})
        with running(server):
            url = server.url()
            with pytest.raises(StorageUnusable, match=r"fsync=off.*durability=relaxed"):
                self.opens(url)
            link = join(f"{url}?durability=relaxed")
            assert link.is_relaxed
            assert link.append(batch(1, "x")) == 1
            link.close(is_writer_left=False)

    @pytest.mark.parametrize(
        ("default", "query", "expected"),
        [
            ("off", "", "on"),
            ("local", "", "on"),
            ("remote_apply", "", "remote_apply"),
            ("off", "?durability=relaxed", "off"),
        ],
    )
    def test_commits_are_synchronous(
        self, join: Join, sql: psycopg.Connection, url: str, default: str, query: str, expected: str
    ) -> None:
        sql.execute(f"ALTER DATABASE {sql.info.dbname} SET synchronous_commit = {default}")
        link = join(url + query)
        assert link._writer is not None
        assert link._writer.ask("SHOW synchronous_commit") == [(expected,)]

    def test_nodes_do_not_hinder_each_other_where_transactions_are_isolated_more(
        self, join: Join, sql: psycopg.Connection, aside: ThreadPoolExecutor
    ) -> None:
        sql.execute(f"ALTER DATABASE {sql.info.dbname} SET default_transaction_isolation = serializable")
        link, other = join(), join()
        with sql.transaction():
            sql.execute("SELECT FROM mercure_position FOR UPDATE")
            waiting = [aside.submit(one.append, batch(1, "x")) for one in (link, other)]
            until(lambda: _sessions(link, "wait_event_type = 'Lock'") == 2)
        assert sorted(one.result() for one in waiting) == [1, 2]

    def test_an_old_server_is_refused(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PostgresqlLink, "oldest_server", 990000)
        with pytest.raises(StorageUnusable, match="needs 99 or newer"):
            self.opens(url)

    def test_another_encoding_is_refused(self, postgresql_engine: PostgresqlServer) -> None:
        name = f"latin_{uuid.uuid4().hex}"
        postgresql_engine.run(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        with pytest.raises(StorageUnusable, match=r"encoding LATIN1.*ENCODING 'UTF8'"):
            self.opens(f"postgresql://hub@127.0.0.1:{postgresql_engine.port}/{name}")

    def test_a_role_without_rights_is_told_what_to_grant(
        self, url: str, postgresql_engine: PostgresqlServer
    ) -> None:
        role = f"role_{uuid.uuid4().hex}"
        postgresql_engine.run(f"CREATE ROLE {role} LOGIN")
        with pytest.raises(StorageUnusable, match=f"GRANT CREATE, USAGE ON SCHEMA public TO {role}"):
            self.opens(url.replace("hub@", f"{role}@"))

    def test_a_role_needs_no_more_rights_than_its_own_tables(
        self, url: str, postgresql_engine: PostgresqlServer, join: Join, sql: psycopg.Connection
    ) -> None:
        role = f"role_{uuid.uuid4().hex}"
        postgresql_engine.run(f"CREATE ROLE {role} LOGIN")
        sql.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {role}")
        link = join(url.replace("hub@", f"{role}@"), kept=Retention(size=1))
        link.append(batch(1, "x", "y", presence=Presence("key", "record")))
        link.discard()
        link.check(by_writing=True)
        assert link.size().bytes

    @pytest.mark.parametrize(
        ("path", "error", "words"),
        [
            ("nowhere", StorageAway, "does not exist"),
            ("nowhere?conect_timeout=1", StorageUnusable, "conect_timeout"),
            ("nowhere?port=x", StorageAway, "x"),
        ],
    )
    def test_a_wrong_url_is_told_without_the_password(
        self, postgresql_engine: PostgresqlServer, path: str, error: type[StorageError], words: str
    ) -> None:
        with pytest.raises(error, match=words) as caught:
            self.opens(f"postgresql://hub:pass%20word@127.0.0.1:{postgresql_engine.port}/{path}")
        assert "pass" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_password_that_is_missing_or_wrong(self, own_server: PostgresqlServer) -> None:
        rules = own_server.folder / "data" / "pg_hba.conf"
        rules.write_text("local all all trust\nhost all all all scram-sha-256\n")
        own_server.run("SELECT pg_reload_conf()")
        own_server.run("ALTER ROLE hub PASSWORD 'right'")
        url = own_server.url()
        with pytest.raises(StorageUnusable, match="no password"):
            self.opens(url)
        with pytest.raises(StorageAway, match="password authentication failed") as caught:
            self.opens(url.replace("hub@", "hub:wrongone@"))
        assert "wrongone" not in str(caught.value)
        self.opens(url.replace("hub@", "hub:right@"))

    def test_all_hosts_are_named(self) -> None:
        address = address_of("postgresql://hub@/mercure?host=one&port=1&host=two&port=2")
        assert address.shown == "database mercure of PostgreSQL at one,two, port 1,2"

    @pytest.mark.parametrize(
        "query", ["host=127.0.0.1&port=1&host=127.0.0.1&port={}", "host=127.0.0.1,127.0.0.1&port=1,{}"]
    )
    def test_the_host_that_answers_is_taken(
        self, join: Join, url: str, postgresql_engine: PostgresqlServer, query: str
    ) -> None:
        _, _, name = url.rpartition("/")
        link = join(f"postgresql://hub@/{name}?{query.format(postgresql_engine.port)}")
        assert link.append(batch(1, "x")) == 1


_NEXT = max(schema.STEPS) + 1
_STEPS = {**schema.STEPS, _NEXT: "ALTER TABLE mercure_update ADD COLUMN new text"}


class TestTables:
    def test_an_old_hub_goes_on_beside_a_new_one(self, join: Join, sql: psycopg.Connection) -> None:
        old = join()
        with Connector(old._address.url, "it").connect() as connection:
            schema.migrate(connection, _STEPS, oldest=1)
        assert old.append(batch(1, "x")) == 1
        assert ids(old) == ["x"]
        assert ids(join()) == ["x"]
        assert sql.execute("SELECT version, oldest FROM mercure_schema").fetchall() == [(_NEXT, 1)]

    def test_a_hub_that_is_too_old_is_refused(self, join: Join) -> None:
        link = join()
        with Connector(link._address.url, "it").connect() as connection:
            schema.migrate(connection, _STEPS, oldest=_NEXT)
        with pytest.raises(StorageUnusable, match=rf"version {_NEXT}.*knows version {_NEXT - 1}"):
            join()

    def test_a_hub_that_knows_no_revocations_is_refused(self, join: Join, url: str) -> None:
        """It would admit those whose access has ended, and discard what rules keep."""
        join()
        with (
            Connector(url, "it").connect() as connection,
            pytest.raises(StorageUnusable, match="knows version 1"),
        ):
            schema.migrate(connection, {1: schema.STEPS[1]})

    def test_a_history_of_the_first_version_is_brought_up_to_date(
        self, join: Join, url: str, sql: psycopg.Connection
    ) -> None:
        with Connector(url, "it").connect() as connection:
            schema.migrate(connection, {1: schema.STEPS[1]})
        old = (("a",), "data", "x")
        sql.execute("UPDATE mercure_position SET last_sequence = 1")
        sql.execute(
            "INSERT INTO mercure_update VALUES (1, %s, 'x', %s, 'data', false, NULL, NULL, 0, 0, NULL)",
            [topic_hash("x"), '["a"]'],
        )
        link = join()
        assert sql.execute("SELECT version, oldest FROM mercure_schema").fetchall() == [(_NEXT - 1, 2)]
        with pytest.raises(AlreadyStored):
            link.append(Batch(1, [Update(*old, once=True)], [False], ()))
        assert link.append(once(2, "y")) == 2
        assert link.revocations(0, 10).newest == 0

    def test_of_several_hubs_one_makes_the_tables(
        self, join: Join, aside: ThreadPoolExecutor, sql: psycopg.Connection
    ) -> None:
        links = list(aside.map(lambda _: join(), range(6)))
        assert {link.position().last for link in links} == {0}
        assert sql.execute("SELECT count(*) FROM mercure_node").fetchone() == (6,)

    def test_tables_are_in_the_schema_of_the_search_path(
        self, join: Join, sql: psycopg.Connection, url: str
    ) -> None:
        sql.execute("CREATE SCHEMA other")
        one, other = join(), join(f"{url}?options=-csearch_path%3Dother")
        one.append(batch(1, "x"))
        assert ids(other) == []
        assert other.append(batch(1, "y")) == 1


PGBOUNCER = """
[databases]
* = host=127.0.0.1 port={server} user=hub
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
auth_type = any
pool_mode = {mode}
default_pool_size = 3
max_client_conn = 100
unix_socket_dir =
logfile = {log}
"""


@contextlib.contextmanager
def pgbouncer(server: PostgresqlServer, folder: Path, mode: str) -> Iterator[int]:
    """A pooler before a server.

    :returns: its port.
    """
    need("pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    log = folder / "log"
    log.touch()
    settings = folder / "pgbouncer.ini"
    settings.write_text(PGBOUNCER.format(server=server.port, own=port, mode=mode, log=log))
    for path in (folder, log, settings):
        path.chmod(0o777)
    as_root = ("setpriv", "--reuid=nobody", "--clear-groups") if os.geteuid() == 0 else ()
    with subprocess.Popen(
        [*as_root, "/usr/sbin/pgbouncer", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: _answers(port))
            yield port
        finally:
            process.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


class TestPooler:
    def test_without_notify_updates_are_looked_for(
        self,
        postgresql_engine: PostgresqlServer,
        url: str,
        join: Join,
        sql: psycopg.Connection,
        short_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        sql.execute(f"ALTER DATABASE {sql.info.dbname} SET synchronous_commit = off")
        with pgbouncer(postgresql_engine, short_path, "transaction") as port:
            pooled = url.replace(f":{postgresql_engine.port}/", f":{port}/")
            one, other = join(pooled, kept=Retention(size=3)), join(pooled)
            assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
            assert "PgBouncer" in caplog.text
            for number in range(1, 21):  # over all sessions of the pool
                (one if number % 2 else other).append(
                    Batch(number, [update(id=str(number))], [number > 18], [Presence(str(number), "record")])
                )
                one.wait(number, PATIENCE)
                other.wait(number, PATIENCE)
                assert len(ids(one)) == len(ids(other)) == number
                assert one.resume([Resume("1", number, ("a",), 99)] * 3)[0].after == 1
                assert one.renew()
                assert other.position().last == number
                one.check(by_writing=True)
            other.close(is_writer_left=False)
            one.discard()
            assert ids(one) == ["16", "17", "18", "19", "20"]
            assert len(one.adopt(99)) == 10
            # Nothing was set for those who share the sessions.
            with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as beside:
                for name, expected in [("statement_timeout", "0"), ("enable_seqscan", "on")]:
                    assert beside.execute(f"SHOW {name}").fetchone() == (expected,)
            one.close(is_writer_left=False)

    def test_transactions_that_are_isolated_more_are_refused(
        self,
        postgresql_engine: PostgresqlServer,
        url: str,
        join: Join,
        sql: psycopg.Connection,
        short_path: Path,
    ) -> None:
        sql.execute(f"ALTER DATABASE {sql.info.dbname} SET default_transaction_isolation = 'repeatable read'")
        with pgbouncer(postgresql_engine, short_path, "transaction") as port:
            pooled = url.replace(f":{postgresql_engine.port}/", f":{port}/")
            with pytest.raises(StorageUnusable, match="isolation=repeatable read"):
                join(pooled)

    def test_a_pool_of_sessions_is_like_none(
        self,
        postgresql_engine: PostgresqlServer,
        url: str,
        join: Join,
        short_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with pgbouncer(postgresql_engine, short_path, "session") as port:
            link = join(url.replace(f":{postgresql_engine.port}/", f":{port}/"))
            assert caplog.records == []
            other = join()
            other.append(batch(1, "x"))
            link.wait(0, 10 * PATIENCE)
            link.close(is_writer_left=False)


class TestDiscard:
    def test_others_have_time_to_read(self, join: Join) -> None:
        seconds = [0.0]
        link = join(kept=Retention(size=1), ahead=lambda: seconds[0])
        other = join(ahead=lambda: seconds[0])
        link.append(batch(1, "x", "y"))
        link.discard()
        assert ids(link) == ["x", "y"]
        seconds[0] = 290.0
        other.renew()
        link.discard()
        assert ids(link) == ["x", "y"]
        seconds[0] = 310.0
        link.discard()
        assert ids(link) == ["y"]

    def test_nothing_is_kept_for_a_process_that_has_left(self, join: Join) -> None:
        link = join(kept=Retention(size=1))
        other = join()
        link.append(batch(1, "x", "y"))
        other.close(is_writer_left=False)
        link.discard()
        assert ids(link) == ["y"]

    def test_one_process_discards_at_a_time(self, join: Join, sql: psycopg.Connection) -> None:
        link = join(kept=Retention(size=1))
        link.append(batch(1, "x", "y"))
        with sql.transaction():
            sql.execute(f"SELECT pg_advisory_xact_lock({schema.DISCARD_LOCK})")
            link.discard()
            assert ids(link) == ["x", "y"]
        link.discard()
        assert ids(link) == ["y"]

    def test_a_process_that_stands_still_while_it_discards_keeps_nobody(self, join: Join) -> None:
        stands_still, other = join(), join(kept=Retention(size=1), ahead=lambda: 2 * SHARED_GRACE)
        other.append(batch(1, "x", "y"))
        assert stands_still._writer is not None
        stands_still._writer.ask("BEGIN")
        stands_still._writer.ask(f"SELECT pg_advisory_xact_lock({schema.DISCARD_LOCK})")
        other.discard()
        assert ids(other) == ["x", "y"]

        def is_discarded() -> bool:
            other.discard()
            return ids(other) == ["y"]

        until(is_discarded)

    def test_events_between_updates_are_no_hindrance(self, join: Join, sql: psycopg.Connection) -> None:
        link = join(kept=Retention(size=2))
        number = 0
        for _ in range(5):
            number += 1
            link.append(batch(number, f"update {number}"))
            number += 1
            link.append(batch(number, *["event"] * 30, presence=Presence("key", "record")))
        for _ in range(2):
            link.discard()
        assert [one for one in ids(link) if one != "event"] == ["update 7", "update 9"]
        assert len(ids(link)) == 152
        beginning = link.beginning(1000)
        assert (beginning.updates, beginning.events) == (64, 1)
        assert link.size().updates == 2
        assert sql.execute("SELECT count(*) FROM mercure_topic").fetchone() == (152,)

    def test_what_could_not_be_discarded_is_tried_again(self, join: Join, sql: psycopg.Connection) -> None:
        link = join(kept=Retention(size=2))
        link.append(batch(1, *"abcde"))
        sql.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql "
            "AS $$BEGIN RAISE 'the disk is full'; END$$"
        )
        sql.execute(
            "CREATE CONSTRAINT TRIGGER fail AFTER DELETE ON mercure_update DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION fail()"  # at the commit
        )
        with pytest.raises(StorageError, match="the disk is full"):
            link.discard()
        assert ids(link) == [*"abcde"]
        assert not link.is_discard_due()
        sql.execute("DROP TRIGGER fail ON mercure_update")
        link.discard()
        assert ids(link) == [*"de"]
        assert link.append(batch(2, "f")) == 6

    def test_a_history_that_lost_its_end_is_discarded_all_the_same(
        self, join: Join, sql: psycopg.Connection
    ) -> None:
        link = join(kept=Retention(size=1))
        for number in range(1, 5):
            link.append(batch(number, str(number)))
            link.discard()
        sql.execute("TRUNCATE mercure_update, mercure_topic")
        sql.execute("UPDATE mercure_position SET last_sequence = 1")
        sql.execute("UPDATE mercure_discarded SET updates_gone = 0")
        with pytest.raises(StorageAway):
            link.append(batch(5, "5"))
        link.append(batch(6, "6", "7"))
        link.discard()
        assert ids(link) == ["7"]

    def test_a_server_that_has_discarded_less_gets_no_hole(self, join: Join, sql: psycopg.Connection) -> None:
        link = join(kept=Retention(size=1))
        for number in range(1, 5):
            link.append(batch(number, str(number)))
            link.discard()
        sql.execute("TRUNCATE mercure_update, mercure_topic")
        sql.execute("UPDATE mercure_position SET last_sequence = 0")
        sql.execute("UPDATE mercure_discarded SET updates_gone = 0")
        join().append(batch(1, *"abcdefg"))
        sql.execute("UPDATE mercure_update SET published_at = 0")
        sql.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        link.discard()
        assert ids(link) == ["g"]

    def test_the_oldest_events_make_room(self, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retention, "EVENTS_BYTES", 60)
        link = join()
        link.append(batch(1, "update"))
        for number in range(2, 12):
            link.append(Batch(number, [update(data="x" * 17)], [True], [Presence("key", "record")]))
        assert link.is_discard_due()
        link.discard()
        assert [entry.sequence for entry in link.after(0, 99, 99999)] == [1, 9, 10, 11]

    def test_a_clock_that_was_ahead_keeps_nothing_for_long(self, join: Join) -> None:
        seconds = [0.0]
        link = join(kept=Retention(max_age=60.0), ahead=lambda: seconds[0])
        for number, ahead in enumerate([0.0, 1e6, 10.0], 1):
            seconds[0] = ahead
            link.append(batch(number, str(number)))
        seconds[0] = 65.0
        link.discard()
        assert ids(link) == ["2", "3"]
        seconds[0] = 75.0
        link.discard()
        assert ids(link) == []

    def test_many_go_in_steps(self, join: Join) -> None:
        link = join(kept=Retention(size=10))
        link.append(batch(1, *map(str, range(2500))))
        lengths = []
        while link.is_discard_due():
            link.discard()
            lengths.append(len(link.after(0, 9999, 1 << 30)))
        assert lengths == [1500, 500, 10]


class TestLeases:
    def test_a_lease_that_expired_is_lost_once_somebody_adopts(self, join: Join) -> None:
        seconds = [0.0]
        sleeps, adopts = (join(ahead=lambda: seconds[0]) for _ in range(2))
        sleeps.append(batch(1, "x", presence=Presence("key", "record")))
        seconds[0] = 14.0
        assert adopts.renew()
        assert adopts.adopt(9) == []
        seconds[0] = 16.0
        assert sleeps.renew()  # late, and nobody has noticed
        seconds[0] = 28.0
        adopts.renew()
        seconds[0] = 32.0
        assert adopts.adopt(9) == ["record"]
        for _ in range(2):
            with pytest.raises(LeaseLost):
                sleeps.append(batch(2, "y"))
        assert sleeps.adopt(9) == []
        assert sleeps.outcome(1) == 1
        assert not sleeps.renew()
        assert sleeps.append(batch(3, "z")) == 2

    def test_leases_that_ended_while_the_server_was_away_can_be_renewed(self, join: Join) -> None:
        seconds = [0.0]
        one, other, dies, leaves = (join(ahead=lambda: seconds[0]) for _ in range(4))
        for name, link in (("one", one), ("dies", dies), ("leaves", leaves)):
            link.append(batch(1, "x", presence=Presence(name, name)))
        leaves.leave()
        seconds[0] = 60.0
        assert other.adopt(9) == ["leaves"]
        assert other.renew()
        assert other.adopt(9) == []
        seconds[0] = 61.0
        assert one.renew()
        assert other.adopt(9) == []
        seconds[0] = 69.0
        assert other.adopt(9) == ["dies"]
        assert one.renew()

    def test_each_record_is_adopted_once(self, join: Join, aside: ThreadPoolExecutor) -> None:
        dies = join()
        for number in range(1, 41):
            dies.append(batch(number, "x", presence=Presence(str(number), str(number))))
        adopting = [join() for _ in range(4)]
        dies.close(is_writer_left=False)

        def adopt(link: PostgresqlLink) -> list[str]:
            found: list[str] = []
            while some := link.adopt(3):
                found += some
            return found

        found = [one for some in aside.map(adopt, adopting) for one in some]
        assert sorted(found, key=int) == [str(number) for number in range(1, 41)]

    def test_an_adoption_is_told_once_whichever_answer_is_lost(
        self, join: Join, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adopts = join()
        wait = Connection.wait
        answers = 0

        def lose(self: Connection, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
            nonlocal answers
            answer = wait(self, gen, interval, timeout)
            answers -= 1
            if answers == 0:
                self.close()
                raise psycopg.OperationalError("the answer is lost")
            return answer

        lost = 0
        while answers <= 0:
            lost += 1
            dies = join()
            dies.append(batch(1, "x", presence=Presence(str(lost), str(lost))))
            dies.close(is_writer_left=False)
            adopts.position()  # over a connection for which nothing is to be set
            found: list[str] = []
            with monkeypatch.context() as patched:
                patched.setattr(Connection, "wait", lose)
                answers = lost
                with contextlib.suppress(StorageAway):
                    found += adopts.adopt(9)
            found += adopts.adopt(9)
            assert found == [str(lost)]
        assert lost > 5

    def test_the_dead_are_forgotten_after_a_day(self, join: Join, sql: psycopg.Connection) -> None:
        seconds = [0.0]
        dies = join(ahead=lambda: seconds[0])
        seconds[0] = 100.0
        living = join(ahead=lambda: seconds[0])
        living.adopt(9)
        assert sql.execute("SELECT dead FROM mercure_node ORDER BY dead").fetchall() == [(False,), (True,)]
        seconds[0] = 87000.0
        living.renew()
        living.adopt(9)
        assert sql.execute("SELECT id FROM mercure_node").fetchall() == [(living._node,)]
        with pytest.raises(LeaseLost):
            dies.append(batch(1, "x"))


class TestValues:
    @pytest.mark.parametrize("length", [2048, 20_000])
    def test_long_texts(self, join: Join, length: int) -> None:
        link, other = join(), join()
        long = "".join(chr(0x4E00 + (7919 * number) % 20000) for number in range(length))
        one = update(long, data="x", id=long)
        link.append(Batch(1, [one], [True], [Presence(long, "record", long)]))
        assert [entry.update for entry in other.after(0, 1, 1)] == [one]
        assert other.resume([Resume(long, 1, None, 1)])[0].after == 1
        assert other.others(long, None, 1).records == ["record"]
        assert other.others(None, long[:-1], 1).records == ["record"]
        assert other.others(None, long, 1).records == []

    @pytest.mark.parametrize(
        "one",
        [update(id="\0"), update(id="\ud800"), update("\ud800"), update(data="\udfff")],
        ids=["NUL in an id", "a surrogate in an id", "one in a topic", "one in data"],
    )
    def test_what_text_cannot_hold(self, join: Join, one: Update) -> None:
        link = join()
        with pytest.raises(Unstorable):
            link.append(Batch(1, [one], [False], []))
        assert link.append(batch(2, "x")) == 1

    def test_a_topic_may_hold_anything_else(self, join: Join) -> None:
        link = join()
        one = update("\0", "\x7f", data="\0")
        link.append(Batch(1, [one], [False], []))
        assert [entry.update for entry in link.read(0, 1, ["\0"], 1).entries] == [one]

    def test_large_updates_come_one_by_one(self, join: Join) -> None:
        link = join()
        large = [update(data="\N{SNOWMAN}" * 100_000, id=str(number)) for number in range(5)]
        link.append(Batch(1, large, [False] * 5, []))
        assert [len(link.after(0, 5, size)) for size in (1, 100_000, 100_001, 300_001, 10**9)] == [
            1,
            1,
            2,
            4,
            5,
        ]
        page = link.read(0, 5, None, 5)
        assert (len(page.entries), page.reached) == (1, 1)


class TestWait:
    def test_a_process_that_always_writes_looks_for_others_all_the_same(
        self, join: Join, aside: ThreadPoolExecutor
    ) -> None:
        link = join()
        is_over = threading.Event()

        def write() -> None:
            for number in itertools.count(1):
                link.append(batch(number, "x"))
                if is_over.is_set():
                    return

        writing = aside.submit(write)
        until(lambda: link.position().last > 1)
        waiting = aside.submit(link.wait, 0, 0.2)
        try:
            waiting.result(PATIENCE)
        finally:
            is_over.set()
            writing.result(PATIENCE)

    def test_what_it_stores_itself_wakes_nobody_but_others(self, join: Join) -> None:
        link, other = join(), join()
        link.append(batch(1, "x"))
        begin = time.monotonic()
        other.wait(0, 10 * PATIENCE)
        link.wait(0, 0.2)
        assert time.monotonic() - begin > 0.15


_WAITS_FOR_REPLICA = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
_IS_REPLAYED = "SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication"


class Replica(PostgresqlServer):
    def __init__(self, primary: PostgresqlServer) -> None:
        super().__init__()
        self._primary = primary

    def make_data(self) -> None:
        address = ("-h", self._primary.host, "-p", str(self._primary.port), "-U", "hub")
        data = str(self.folder / "data")
        self.run_tool("pg_basebackup", "-D", data, *address, "-R", "--no-sync", "--checkpoint=fast")


class TestReplacedHistory:
    """The pump on a database that is not what it was."""

    @pytest.fixture
    def commits(self) -> list[Commit[int]]:
        return []

    @pytest.fixture
    def open_store(self, commits: list[Commit[int]]) -> Iterator[Callable[[str], Store[int]]]:
        stores: list[Store[int]] = []

        def open_store(url: str) -> Store[int]:
            store: Store[int] = Store(PostgresqlLink(address_of(url), Retention()))
            store.first_retry = 0.01
            store.open(lambda: commits.extend(store.collect()))
            stores.append(store)
            return store

        yield open_store
        for store in stores:
            store.close()

    def breaks(self, commits: list[Commit[int]]) -> list[Break]:
        return [one.broken for one in commits if one.broken is not None]

    def test_a_backup_that_took_its_place(
        self,
        url: str,
        sql: psycopg.Connection,
        commits: list[Commit[int]],
        open_store: Callable[[str], Store[int]],
    ) -> None:
        store = open_store(url)
        store.append([update(id="x")], 1)
        until(lambda: commits)
        sql.execute("UPDATE mercure_position SET epoch = 'of the backup'")
        sql.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        until(lambda: self.breaks(commits))
        assert self.breaks(commits) == [Break.REPLACED]

    def test_a_replica_that_lacks_the_newest_updates(
        self,
        own_server: PostgresqlServer,
        commits: list[Commit[int]],
        open_store: Callable[[str], Store[int]],
    ) -> None:
        url = own_server.url()
        replica = Replica(own_server)
        with running(replica):
            here, there = (f"127.0.0.1:{server.port}" for server in (own_server, replica))
            store = open_store(url.replace(here, f"{here},{there}"))
            store.append([update(id="both have it")], 1)
            until(lambda: commits)
            until(lambda: own_server.run(_IS_REPLAYED) == ["t"])
            replica.run("ALTER SYSTEM SET primary_conninfo = ''")
            replica.run("SELECT pg_reload_conf()")
            until(lambda: not own_server.run("SELECT FROM pg_stat_replication"))
            store.append([update(id="lost")], 2)
            until(lambda: len(commits) == 2)
            own_server.kill()
            replica.run("SELECT pg_promote()")
            until(lambda: self.breaks(commits))
            assert self.breaks(commits) == [Break.REWOUND]

            def publish() -> bool:
                store.append([update(id="after")], 3)
                until(lambda: any(3 in one.tickets for one in commits))
                answers = [one for one in commits if 3 in one.tickets]
                is_stored = any(one.error is None for one in answers)
                if not is_stored:
                    commits[:] = [one for one in commits if 3 not in one.tickets]
                return is_stored

            until(publish)
            assert [entry.sequence for one in commits for entry in one.entries] == [1, 2, 2]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.OperationalError("the connection is lost"), True),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_after_which_the_server_counts_as_away(error: Exception, expected: bool) -> None:
    assert is_away(error) is expected


def _sessions(link: PostgresqlLink, condition: str) -> int:
    """How many sessions there are, beside the one that looks."""
    with link._reader.connection() as connection:
        ((count,),) = connection.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            f"AND datname = current_database() AND {condition}"
        )
    return int(count)


def _deaf(link: PostgresqlLink) -> None:
    """Wait until the link finds out that it hears nothing; it may still hear what it has stored itself."""
    with pytest.raises(StorageAway, match="listened to"):
        while True:
            link.wait(0, PATIENCE)


def _sure(call: Callable[[], _Answer]) -> _Answer:
    """The answer of a server that is coming back."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except StorageError:
            assert time.monotonic() < end
            time.sleep(0.05)
