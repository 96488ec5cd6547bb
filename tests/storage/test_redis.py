"""The link to Redis and Valkey: what it refuses, and what it does when the server fails."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt, StorageUnusable
from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import address_of
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
    Rule,
)
from mercure_hub.storage.redis.link import RedisLink
from mercure_hub.storage.store import Store
from mercure_hub.tools.history.engines import opened
from mercure_hub.tools.history.history import HistoryError, Selection
from tests.engines import RedisServer, running
from tests.needs import need
from tests.storage.log import update

pytestmark = pytest.mark.minutes

PATIENCE = 30.0
PAGE = Path(__file__).parents[2] / "docs/redis.md"


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Sentinel(RedisServer):
    """Knows where a primary is."""

    def command(self) -> list[str]:
        path = self.folder / "sentinel.conf"
        path.touch()
        path.chmod(0o666)
        return ["valkey-server", str(path), "--sentinel", "--bind", self.host, "--port", str(self.port)]


class Servers:
    """Makes servers, links and clients that are gone after the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def server(self, *settings: str, program: str = "valkey-server") -> RedisServer:
        need(program)
        server = RedisServer(program, settings)
        self._stack.enter_context(running(server))
        return server

    def sentinel(self) -> RedisServer:
        """One that monitors nothing yet."""
        need("valkey-server")
        server = Sentinel()
        self._stack.enter_context(running(server))
        return server

    def client(self, server: RedisServer) -> Any:
        return self._stack.enter_context(
            closing(Redis(host=server.host, port=server.port, socket_timeout=2 * PATIENCE))
        )

    def link(
        self, url: str, kept: Retention | None = None, ahead: Callable[[], float] = lambda: 0
    ) -> RedisLink:
        link = RedisLink(address_of(url), kept or Retention(), ahead=ahead)
        link.open()
        self._stack.callback(link.close, is_writer_left=False)
        return link


@pytest.fixture
def servers(cleanup: ExitStack) -> Servers:
    return Servers(cleanup)


def batch(number: int, *ids: str) -> Batch:
    return Batch(number, [update(id=one) for one in ids], [False] * len(ids), ())


def ids(link: RedisLink) -> list[str]:
    return [entry.update.id for entry in link.after(0, 1 << 20, 1 << 30)]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object]) -> None:
    """Wait for what gives no sign."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestOpen:
    def test_a_server_that_may_lose_updates_is_refused(self, servers: Servers) -> None:
        server = servers.server("--appendfsync", "everysec")
        with pytest.raises(StorageUnusable, match="has appendfsync everysec; set it to always"):
            servers.link(server.url())
        assert servers.link(server.url() + "&durability=relaxed").is_relaxed

    def test_settings_that_change_later_are_noticed(self, servers: Servers) -> None:
        server = servers.server()
        link, client = servers.link(server.url()), servers.client(server)
        assert not link.is_relaxed
        client.config_set("appendfsync", "everysec")
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StorageAway, match="has appendfsync everysec"):
            link.append(batch(1, "x"))
        client.config_set("appendfsync", "always")
        assert link.append(batch(1, "x")) == 1

    def test_a_replica_is_refused(self, servers: Servers) -> None:
        server = servers.server("--replicaof", "127.0.0.1 1")
        with pytest.raises(StorageAway, match="is a replica"):
            servers.link(server.url())

    @pytest.mark.parametrize("user", ["hub:wrong", "nobody:secret", ":wrong"])
    def test_credentials_that_are_refused_are_not_told(self, servers: Servers, user: str) -> None:
        server = servers.server()
        servers.client(server).config_set("requirepass", "good")
        with pytest.raises(StorageUnusable) as caught:
            servers.link(server.url().replace("//", f"//{user}@"))
        assert user.partition(":")[2] not in str(caught.value).replace("wrong username", "")

    def test_a_server_that_is_not_there_is_away(self, servers: Servers) -> None:
        with pytest.raises(StorageAway, match="cannot be reached"):
            servers.link("redis://127.0.0.1:1/0")

    def test_a_parameter_that_the_driver_does_not_take_is_named(self, servers: Servers) -> None:
        with pytest.raises(StorageUnusable, match="colour"):
            servers.link("redis://127.0.0.1:1/0?colour=red")

    def test_a_newer_schema_is_refused(self, servers: Servers) -> None:
        server = servers.server()
        servers.link(server.url() + "x")
        client = servers.client(server)
        (key,) = client.keys("*:state")
        client.hset(key, mapping={"schema": 8, "least": 7})
        url = f"redis://127.0.0.1:{server.port}/0?name={key.decode()[1:-7]}"
        with pytest.raises(StorageUnusable, match="has version 8, and this hub knows 2"):
            servers.link(url)
        client.hset(key, "least", 1)
        assert servers.link(url).position().last == 0

    def test_a_hub_that_knows_no_revocations_is_refused(self, servers: Servers) -> None:
        """It looks at what the keys say a hub has to know, whenever it renews its lease."""
        server = servers.server()
        servers.link(server.url() + "x")
        client = servers.client(server)
        (key,) = client.keys("*:state")
        assert client.hmget(key, "schema", "least") == [b"2", b"2"]
        client.hset(key, mapping={"schema": 1, "least": 1})
        servers.link(f"redis://127.0.0.1:{server.port}/0?name={key.decode()[1:-7]}")
        assert client.hmget(key, "schema", "least") == [b"2", b"2"]

    def test_tls_needs_a_certificate_that_is_trusted(self, servers: Servers, cleanup: ExitStack) -> None:
        folder = Path(cleanup.enter_context(TemporaryDirectory(prefix="mercure-tls-")))
        folder.chmod(0o755)  # another user runs the server
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=engine "
            "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem && chmod 644 key.pem",
            shell=True,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        certificate, port = str(folder / "cert.pem"), str(free_port())
        server = servers.server(
            *("--tls-port", port, "--tls-cert-file", certificate, "--tls-ca-cert-file", certificate),
            *("--tls-key-file", str(folder / "key.pem"), "--tls-auth-clients", "no"),
        )
        url = f"rediss://{server.host}:{port}/0?name=x"
        with pytest.raises(StorageAway, match="certificate"):
            servers.link(url)
        url += f"&ssl_ca_certs={quote(certificate, safe='')}"
        with pytest.raises(StorageAway, match="certificate"):  # of another host
            servers.link(url.replace("127.0.0.1", "localhost"))
        reads, writes = servers.link(url), servers.link(url)
        reads.wait(0, 0)
        writes.append(batch(1, *[str(n) for n in range(2000)]))
        reads.wait(0, PATIENCE)
        assert len(ids(reads)) == 2000

    def test_one_server_of_a_cluster_has_everything(self, servers: Servers) -> None:
        server = servers.server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        with pytest.raises(StorageError):
            servers.link(server.url())
        servers.client(server).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        url = server.url()
        until(lambda: b"cluster_state:ok" in servers.client(server).execute_command("CLUSTER", "INFO"))
        link = servers.link(url)
        assert link.append(batch(1, "x")) == 1
        assert ids(link) == ["x"]


class TestAcl:
    @pytest.mark.parametrize("program", ["valkey-server", "redis-server"])
    def test_a_user_needs_these_rights(self, servers: Servers, program: str) -> None:
        server = servers.server(program=program)
        client = servers.client(server)
        url = server.url()
        name = address_of(url).name
        (rule,) = re.findall(r"^ +user mercure (on .*)$", PAGE.read_text(), re.MULTILINE)
        client.execute_command("ACL", "SETUSER", "mercure", *rule.replace("{mercure}", f"{{{name}}}").split())
        url = url.replace("//", "//mercure:secret@")
        one, other = servers.link(url, Retention(size=1)), servers.link(url)
        change = Presence("key", "record", "value")
        one.append(Batch(1, [update(id="x"), update(id="x"), update()], [False, False, True], [change]))
        assert list(other.others("value", None, 9).records) == ["record"]
        with pytest.raises(AlreadyStored):
            one.append(Batch(2, [replace(update(id="x"), once=True)], [False], ()))
        other.wait(0, 0)
        other.wait(0, 0)
        other.resume([Resume("x", 3, ("a",), 9)])
        other.topics(0, 3, None, 9)
        other.newest_update()
        other.check(by_writing=True)
        assert other.size().bytes is not None
        one.close(is_writer_left=False)
        assert other.adopt(9) == ["record"]
        other.append(Batch(1, [update()], [True], [Presence("key", None)]))
        other.discard()
        late = servers.link(url, Retention(size=1), ahead=lambda: 2 * SHARED_GRACE)
        late.discard()
        assert [entry.sequence for entry in late.after(0, 9, 1 << 20)] == [2, 3, 4]
        assert late.outcome(1) is None
        rules = (Rule("exact", "*", size_per_topic=1),)
        by_rules = servers.link(url, Retention(rules=rules), ahead=lambda: 4 * SHARED_GRACE)
        by_rules.append(Batch(1, [update(id="old"), update(id="new")], [False] * 2, ()))
        servers.link(url, Retention(rules=rules), ahead=lambda: 8 * SHARED_GRACE).discard()
        assert by_rules.resume([Resume("old", 9, ("a",), 9)])[0].beginning.discarded is not None
        servers.link(url, Retention(), ahead=lambda: 8 * SHARED_GRACE)
        servers.link(url, Retention(rules=rules), ahead=lambda: 8 * SHARED_GRACE).discard()
        with opened(url) as history:
            history.statistics(9)
            rows = list(history.page(0, 9, Selection()))
            assert history.delete(rows[:1]) == 1
            with pytest.raises(HistoryError, match="a hub is at work"), history.writing():
                pass
        assert client.execute_command("ACL", "LOG") == []

    def test_what_is_stored_is_not_refused_because_others_may_not_be_told(self, servers: Servers) -> None:
        server = servers.server()
        servers.client(server).execute_command(
            "ACL", "SETUSER", "hub", "on", ">secret", "~*", "resetchannels", "+@all"
        )
        link = servers.link(server.url().replace("//", "//hub:secret@"))
        assert link.append(batch(1, "x")) == 1
        assert ids(link) == ["x"]
        with pytest.raises(StorageError, match="channel"):
            link.wait(1, 0)

    @pytest.mark.parametrize("command", ["zadd", "xadd", "hsetnx", "spop", "zremrangebylex"])
    def test_a_user_that_could_store_only_a_part_is_refused(self, servers: Servers, command: str) -> None:
        server = servers.server()
        servers.client(server).execute_command(
            "ACL", "SETUSER", "hub", "on", ">secret", "~*", "&*", "+@all", f"-{command}"
        )
        with pytest.raises(StorageUnusable, match=f"forbids .*; allow \\+{command}$"):
            servers.link(server.url().replace("//", "//hub:secret@"))

    def test_a_right_that_is_taken_from_a_running_hub_counts_as_an_absence(self, servers: Servers) -> None:
        server = servers.server()
        client = servers.client(server)
        client.execute_command("ACL", "SETUSER", "hub", "on", ">secret", "~*", "&*", "+@all")
        link = servers.link(server.url().replace("//", "//hub:secret@"))
        assert link.append(batch(1, "x")) == 1
        client.execute_command("ACL", "SETUSER", "hub", "-zadd")
        client.execute_command("CLIENT", "KILL", "USER", "hub")
        with pytest.raises(StorageAway, match=r"allow \+zadd"):
            link.append(batch(2, "y"))
        client.execute_command("ACL", "SETUSER", "hub", "+zadd")
        assert link.append(batch(2, "y")) == 2
        assert ids(link) == ["x", "y"]

    def test_a_server_that_does_not_tell_its_settings_counts_as_relaxed(self, servers: Servers) -> None:
        server = servers.server()
        servers.client(server).execute_command(
            "ACL", "SETUSER", "hub", "on", ">secret", "~*", "&*", "+@all", "-config", "-memory"
        )
        url = server.url().replace("//", "//hub:secret@")
        with pytest.raises(StorageUnusable, match="does not say whether"):
            servers.link(url)
        link = servers.link(url + "&durability=relaxed")
        assert link.is_relaxed
        assert link.size().bytes is None


class TestAway:
    def test_connections_that_were_closed_are_made_again(self, servers: Servers) -> None:
        server = servers.server()
        link, other, client = servers.link(server.url()), servers.link(server.url()), servers.client(server)
        for number in range(1, 4):
            client.client_kill_filter(_type="normal", skipme=True)
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert link.append(batch(number, "x")) == number
            assert link.position().last == number
            assert len(link.after(0, 9, 9)) == number
        assert other.position().last == 0

    def test_a_server_that_stands_still_leaves_doubt_for_some_seconds_only(self, servers: Servers) -> None:
        server = servers.server()
        link = servers.link(server.url())
        link.append(batch(1, "x"))
        server.signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(StorageInDoubt):
            link.append(batch(2, "y"))
        with pytest.raises(StorageAway):
            link.position()
        assert time.monotonic() - begin < PATIENCE
        server.signal(signal.SIGCONT)
        first = link.outcome(2)  # the old connection may come first, or the new one
        assert first in (None, 2)
        assert ids(link) == (["x"] if first is None else ["x", "y"])
        assert link.append(batch(3, "z")) == (2 if first is None else 3)

    def test_an_append_that_comes_after_the_outcome_stores_nothing(self, servers: Servers) -> None:
        link = servers.link(servers.server().url())
        link.append(batch(1, "x"))
        assert link.outcome(2) is None
        with pytest.raises(StorageError, match="given up"):
            link.append(batch(2, "y"))
        assert link.outcome(2) is None
        assert link.append(batch(3, "z")) == 2
        assert link.outcome(3) == 2
        assert ids(link) == ["x", "z"]

    def test_a_primary_that_became_a_replica_is_away(self, servers: Servers) -> None:
        server = servers.server("--replica-serve-stale-data", "yes")
        link, client = servers.link(server.url()), servers.client(server)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        for _ in range(2):
            with pytest.raises(StorageAway):
                link.append(batch(1, "x"))
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert link.append(batch(1, "x")) == 1

    def test_calls_do_not_queue_for_long(self, servers: Servers) -> None:
        server = servers.server()
        link = servers.link(server.url())
        server.signal(signal.SIGSTOP)
        failed: list[float] = []
        begin = time.monotonic()

        def ask() -> None:
            with pytest.raises(StorageAway):
                link.position()
            failed.append(time.monotonic() - begin)

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.signal(signal.SIGCONT)
        assert max(failed) < 20  # ten times three seconds if all waited for their turn
        assert link.position().last == 0

    def test_a_primary_without_the_replicas_that_it_has_to_have_is_away(self, servers: Servers) -> None:
        server = servers.server()
        link = servers.link(server.url())
        servers.client(server).config_set("min-replicas-to-write", 1)
        with pytest.raises(StorageAway):
            link.append(batch(1, "x"))
        servers.client(server).config_set("min-replicas-to-write", 0)
        assert link.outcome(1) is None
        assert ids(link) == []

    def test_a_full_server_stores_nothing_and_can_be_cleared(self, servers: Servers) -> None:
        server = servers.server()
        kept = Retention(size=1)
        link, client = servers.link(server.url(), kept), servers.client(server)
        link.append(batch(1, "x", "y"))
        client.config_set("maxmemory", 1)
        with pytest.raises(StorageError, match="has reached its maxmemory") as caught:
            link.append(batch(2, "z"))
        assert not isinstance(caught.value, StorageAway | StorageInDoubt)
        with pytest.raises(StorageError, match="has reached its maxmemory"):
            link.check(by_writing=True)
        assert link.outcome(2) is None
        assert link.renew()
        link.discard()
        assert ids(link) == ["y"]
        client.config_set("maxmemory", 0)
        assert link.append(batch(3, "z")) == 3

    def test_a_server_that_runs_somebodys_script_is_away(self, servers: Servers) -> None:
        server = servers.server("--busy-reply-threshold", "1")
        link, client, killer = servers.link(server.url()), servers.client(server), servers.client(server)
        killer.ping()

        def hang() -> None:
            with pytest.raises(Exception, match="killed"):
                client.eval("while true do end", 0)

        thread = threading.Thread(target=hang)
        thread.start()

        def is_busy() -> bool:
            try:
                link.check(by_writing=True)
            except StorageAway as error:
                return "BUSY" in str(error)
            return False

        until(is_busy)
        with pytest.raises(StorageAway):
            link.append(batch(1, "x"))
        killer.execute_command("SCRIPT", "KILL")
        thread.join()
        assert link.append(batch(1, "y")) == 1
        assert ids(link) == ["y"]

    def test_scripts_that_were_flushed_are_loaded_again(self, servers: Servers) -> None:
        server = servers.server()
        link, client = servers.link(server.url()), servers.client(server)
        client.script_flush()
        assert link.append(batch(1, "x")) == 1
        client.script_flush()
        assert ids(link) == ["x"]


class Hub:
    """A store, of which every commit is collected."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self.store: Store[str] = Store(RedisLink(address_of(url), Retention()))
        self.commits: list[Commit[str]] = []
        self._woken = threading.Event()
        self.store.open(self._woken.set)
        stack.callback(self.store.close)

    def publish(self, *ids: str) -> None:
        for one in ids:
            self.store.append((update(id=one),), one)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 2 * PATIENCE
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, self.commits
            self._woken.wait(min(left, 0.2))
            self._woken.clear()
            self.store.expire(time.monotonic())
            self.commits += self.store.collect()

    def answered(self) -> int:
        return sum(len(one.tickets) for one in self.commits)

    def seen(self) -> list[str]:
        return [entry.update.id for one in self.commits for entry in one.entries]

    def breaks(self) -> list[Break]:
        return [one.broken for one in self.commits if one.broken is not None]


class TestFailover:
    def test_nothing_that_was_acknowledged_is_lost_when_the_server_is_killed(
        self, servers: Servers, cleanup: ExitStack
    ) -> None:
        server = servers.server()
        url = server.url()
        hub, other = Hub(cleanup, url), Hub(cleanup, url)
        published: list[str] = []

        def publish(count: int) -> None:
            some = [f"{len(published) + n}" for n in range(count)]
            published.extend(some)
            hub.publish(*some)

        for _ in range(3):
            publish(50)
            hub.until(lambda: hub.answered() > len(published) - 25)
            server.kill()
            publish(5)
            server.start()
            hub.until(lambda: hub.answered() == len(published))
            hub.until(lambda: hub.store.absence is None)
        failed = [(one.error, ticket) for one in hub.commits if one.error for ticket in one.tickets]
        refused = {ticket for error, ticket in failed if not isinstance(error, StorageInDoubt)}
        doubtful = {ticket for error, ticket in failed if isinstance(error, StorageInDoubt)}
        stored = ids(servers.link(url))
        assert len(set(stored)) == len(stored)
        assert set(published) - refused - doubtful <= set(stored) <= set(published) - refused
        other.until(lambda: len(other.seen()) >= len(stored))
        assert (hub.seen(), other.seen()) == (stored, stored)
        assert hub.breaks() == other.breaks() == []

    def test_a_deleted_history_is_replaced(self, servers: Servers, cleanup: ExitStack) -> None:
        server = servers.server()
        hub = Hub(cleanup, server.url())
        hub.publish("x", "y")
        hub.until(lambda: len(hub.seen()) == 2)
        servers.client(server).flushall()
        hub.until(hub.breaks)
        assert hub.breaks() == [Break.REPLACED]
        hub.publish("z")
        hub.until(lambda: "z" in hub.seen())
        assert [one.lease for one in hub.commits if one.lease is not None] == [1]

    def test_an_append_after_the_history_was_deleted_is_refused(self, servers: Servers) -> None:
        server = servers.server()
        link = servers.link(server.url())
        link.append(batch(1, "x"))
        epoch = link.position().epoch
        servers.client(server).flushall()
        with pytest.raises(LeaseLost):
            link.append(batch(2, "y"))
        assert link.outcome(2) is None
        with pytest.raises(StorageAway, match="deleted"):
            link.after(0, 9, 9)
        assert not link.renew()
        assert link.append(batch(3, "z")) == 1
        assert link.position().epoch != epoch
        link.check(by_writing=False)  # neither hides it from who follows
        with pytest.raises(StorageAway, match="replaced"):
            link.after(0, 9, 9)
        assert ids(link) == ["z"]

    def test_an_update_without_its_replicas_is_in_doubt_until_they_have_it(self, servers: Servers) -> None:
        primary = servers.server()
        replica = servers.server("--replicaof", f"127.0.0.1 {primary.port}")
        client = servers.client(primary)
        until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        link = servers.link(primary.url() + "&replicas=1")
        until(lambda: _is_stored(lambda: link.append(batch(1, "x"))))
        replica.signal(signal.SIGSTOP)
        with pytest.raises(StorageInDoubt, match="0 of 1 replicas"):
            link.append(batch(2, "y"))
        with pytest.raises(StorageError, match="0 of 1 replicas"):
            link.outcome(2)
        replica.signal(signal.SIGCONT)
        until(lambda: _is_stored(lambda: link.outcome(2)))
        assert link.outcome(2) == 2
        assert link.outcome(3) is None
        assert ids(link) == ["x", "y"]

    def test_an_update_without_its_replicas_is_in_doubt_for_a_repeat_too(self, servers: Servers) -> None:
        primary = servers.server()
        replica = servers.server("--replicaof", f"127.0.0.1 {primary.port}")
        client = servers.client(primary)
        until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        url = primary.url() + "&replicas=1"
        one, other = servers.link(url), servers.link(url)
        until(lambda: _is_stored(lambda: one.append(batch(1, "x"))))
        replica.signal(signal.SIGSTOP)
        update = Update(("a",), "", "y", once=True)
        for link in (one, other):
            with pytest.raises(StorageInDoubt, match="0 of 1 replicas"):
                link.append(Batch(2, [update], [False], ()))
        replica.signal(signal.SIGCONT)
        until(lambda: _is_stored(lambda: one.outcome(2)))
        assert other.outcome(2) is None
        with pytest.raises(AlreadyStored):
            other.append(Batch(3, [update], [False], ()))
        assert ids(one) == ["x", "y"]

    def test_a_primary_that_lacks_the_newest_updates_is_noticed(
        self, servers: Servers, cleanup: ExitStack
    ) -> None:
        primary = servers.server()
        replica = servers.server("--replicaof", f"127.0.0.1 {primary.port}")
        client, of_replica = servers.client(primary), servers.client(replica)
        until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        sentinel = servers.sentinel()
        of_sentinel = servers.client(sentinel)
        of_sentinel.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main?name=x"
        hub, other = Hub(cleanup, url), Hub(cleanup, url)
        hub.publish("a", "b")
        other.until(lambda: len(other.seen()) == 2)
        hub.until(lambda: hub.answered() == 2)
        until(lambda: of_replica.xlen("{x}:log") == 2)
        of_replica.execute_command("REPLICAOF", "NO", "ONE")
        hub.publish("c", "d", "e")
        other.until(lambda: len(other.seen()) == 5)
        primary.kill()
        of_sentinel.execute_command("SENTINEL", "REMOVE", "main")
        of_sentinel.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", replica.port, 1)
        for one in (hub, other):
            one.until(one.breaks)
            assert one.breaks() == [Break.REWOUND]
            assert [commit.newest for commit in one.commits if commit.newest is not None] == [(2, "b")]
        hub.until(lambda: hub.store.absence is None)
        hub.publish("f")
        hub.until(lambda: "f" in hub.seen())
        other.until(lambda: "f" in other.seen())
        assert ids(servers.link(url)) == ["a", "b", "f"]


class TestPresence:
    def test_an_adoption_whose_answer_was_lost_is_told_again(self, servers: Servers) -> None:
        server = servers.server()
        url = server.url()
        dies, adopts = servers.link(url), servers.link(url)
        dies.append(Batch(1, [update()], [True], [Presence("key", "record")]))
        dies.close(is_writer_left=False)
        adopts.adopt(0)
        server.signal(signal.SIGSTOP)
        with pytest.raises(StorageAway):
            adopts.adopt(9)
        server.signal(signal.SIGCONT)
        answers: list[list[str]] = []
        until(lambda: answers.append(adopts.adopt(9)) or answers[-1])  # type: ignore[func-returns-value]
        assert answers[-1] == ["record"]
        assert adopts.adopt(9) == []

    def test_a_lease_ends_by_the_clock_of_the_server(self, servers: Servers) -> None:
        url = servers.server().url()
        now = 0.0
        one, other = servers.link(url, ahead=lambda: now), servers.link(url, ahead=lambda: now)
        one.append(Batch(1, [update()], [True], [Presence("key", "record")]))
        now = 10.0
        other.renew()
        assert other.adopt(9) == []
        now = 16.0
        assert other.adopt(9) == ["record"]
        with pytest.raises(LeaseLost):
            one.append(Batch(2, [update()], [True], [Presence("key", None)]))
        assert one.outcome(1) == 1
        assert one.outcome(2) is None
        assert one.adopt(9) == []
        assert not one.renew()
        assert one.renew()
        assert list(one.others(None, None, 9).records) == ["record"]

    def test_leases_that_ended_while_the_server_was_away_can_be_renewed(self, servers: Servers) -> None:
        url = servers.server().url()
        now = 0.0
        one, other, dies = (servers.link(url, ahead=lambda: now) for _ in range(3))
        for link in (one, dies):
            link.append(Batch(1, [update()], [True], [Presence(f"of {link is one}", f"{link is one}")]))
        now = 60.0
        assert other.adopt(9) == []
        assert other.renew()
        assert other.adopt(9) == []
        now = 61.0
        assert one.renew()
        assert other.adopt(9) == []
        now = 69.0
        assert other.adopt(9) == ["False"]
        assert one.renew()

    def test_who_leaves_while_leases_go_on_is_adopted_at_once(self, servers: Servers) -> None:
        url = servers.server().url()
        now = 0.0
        leaves, other = (servers.link(url, ahead=lambda: now) for _ in range(2))
        leaves.append(Batch(1, [update()], [True], [Presence("key", "record")]))
        now = 60.0
        other.renew()
        leaves.close(is_writer_left=False)
        assert other.adopt(9) == ["record"]


class TestDiscard:
    def discard(self, link: RedisLink) -> list[str]:
        while link.is_discard_due():
            link.discard()
        return ids(link)

    def test_updates_stay_for_other_machines(self, servers: Servers) -> None:
        url = servers.server().url()
        now = 0.0
        kept = Retention(size=1)
        link, other = (servers.link(url, kept, lambda: now) for _ in range(2))
        link.append(batch(1, "x", "y"))
        assert self.discard(link) == ["x", "y"]
        now = SHARED_GRACE - 10
        other.renew()
        assert self.discard(other) == ["x", "y"]
        now = SHARED_GRACE + 10
        assert self.discard(servers.link(url, kept, lambda: now)) == ["y"]

    def test_one_machine_at_a_time_discards(self, servers: Servers) -> None:
        url = servers.server().url()
        now = 0.0
        kept = Retention(size=1)
        one, other = (servers.link(url, kept, lambda: now) for _ in range(2))
        one.append(batch(1, *[str(n) for n in range(600)]))
        now = 2 * SHARED_GRACE
        one.discard()
        left = len(ids(one))
        other.discard()
        assert len(ids(one)) == left < 600
        assert self.discard(one) == ["599"]

    def test_a_machine_that_left_needs_no_updates(self, servers: Servers) -> None:
        url = servers.server().url()
        link, other = (servers.link(url, Retention(size=1)) for _ in range(2))
        link.append(batch(1, "x", "y"))
        other.close(is_writer_left=False)
        link.adopt(9)
        assert self.discard(link) == ["y"]

    def test_the_next_update_with_an_id_is_found_when_the_first_is_gone(self, servers: Servers) -> None:
        link = servers.link(servers.server().url(), Retention(size=2))
        link.append(batch(1, "x", "y", "x", "x", "y"))
        found = link.resume([Resume(one, 5, None, 0) for one in ("x", "y")])
        assert [one.after for one in found] == [1, 2]
        link.discard()
        found = link.resume([Resume(one, 5, None, 0) for one in ("x", "y")])
        assert [one.after for one in found] == [4, 5]

    def test_steps_are_bounded_and_nothing_is_left_behind(self, servers: Servers) -> None:
        server = servers.server()
        now = 0.0
        link = servers.link(server.url(), Retention(size=1, max_age=60), lambda: now)
        updates = [update("a", f"topic/{n}", id=str(n % 100)) for n in range(300)]
        link.append(Batch(1, updates, [False] * 300, ()))
        link.append(Batch(2, updates, [True] * 300, ()))
        link.discard()
        assert link.is_discard_due()
        assert 300 < len(ids(link)) < 600
        self.discard(link)
        now = 100.0
        link.discard_interval = 0.0
        link.discard()
        while ids(link):
            link.discard()
        keys = {key.partition(b":")[2] for key in servers.client(server).scan_iter()}
        # A stream stays when it is empty: it knows its last entry.
        assert keys == {b"state", b"nodes", b"leases", b"log", b"updates", b"events"}
        assert (link.beginning(0).updates, link.beginning(0).events) == (301, 601)
        assert link.append(batch(3, "x")) == 601

    def test_what_a_clock_stamped_that_was_ahead_is_discarded_in_its_order(self, servers: Servers) -> None:
        now = 7200.0
        link = servers.link(servers.server().url(), Retention(max_age=60), lambda: now)
        link.append(batch(1, "ahead"))
        now = 0.0
        link.append(batch(2, "right"))
        now = 50.0
        assert self.discard(link) == ["ahead", "right"]
        link.discard_interval = 0.0
        now = 100.0
        link.discard()
        assert ids(link) == []


def _is_stored(append: Callable[[], object]) -> bool:
    try:
        append()
    except StorageError:
        return False
    return True
