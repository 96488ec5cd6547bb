"""Retention by topic: what rules keep is there, what they discard is gone, and readers are told the truth."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mercure_hub.protocol.errors import StorageAway, StorageError
from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.storage import trimming
from mercure_hub.storage.interface import Beginning, Resume, Retention, Rule
from mercure_hub.storage.postgresql.link import PostgresqlLink
from mercure_hub.storage.redis.connection import Line
from mercure_hub.storage.redis.link import RedisLink
from mercure_hub.storage.redis.scripts import Command
from mercure_hub.storage.rules import Interest, Rules
from mercure_hub.storage.sqlite import by_rules
from mercure_hub.storage.sqlite.database import Database, writing
from mercure_hub.storage.trimming import SETTLED
from tests.engines import RedisServer, running
from tests.needs import need
from tests.storage.log import update
from tests.storage.test_link import Cluster, Node, SharedCluster, SqliteCluster

pytestmark = pytest.mark.minutes

HOUR, DAY, END = 3600.0, 86400.0, 1 << 60
MOMENT = 0.9  # times are whole seconds here, but on a server a little passes
SHARED = 600.0  # seconds; while several processes are at work, everything stays for half of that
ANSWERS = Rule("urlpattern", "/answers/:id", max_age=HOUR)
ORDERS = Rule("urlpattern", "/orders/*", max_age=30 * DAY)
GAUGES = Rule("urlpattern", "/gauges/:name", size_per_topic=1)
THREE = (ANSWERS, ORDERS, GAUGES)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteCluster]:
    found = SqliteCluster(tmp_path / "mercure.db")
    yield found
    found.close()


@pytest.fixture(scope="session")
def redis_engine() -> Iterator[RedisServer]:
    need("redis-server")
    with running(RedisServer("redis-server")) as server:
        assert isinstance(server, RedisServer)
        yield server


class Still(SharedCluster):
    """Its clock only goes when it is told so, but for a moment that a call takes."""

    def __init__(self, engine: type[PostgresqlLink | RedisLink], url: str) -> None:
        super().__init__(engine, url)
        self._start = time.monotonic()

    def ahead(self) -> float:
        return super().ahead() - (time.monotonic() - self._start)


@pytest.fixture
def valkey(valkey_engine: RedisServer) -> Iterator[SharedCluster]:
    found = Still(RedisLink, valkey_engine.url())
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgresql", "valkey", "redis"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param in ("sqlite", "valkey"):
        yield request.getfixturevalue(request.param)
        return
    if request.param == "postgresql":
        found = SharedCluster(PostgresqlLink, request.getfixturevalue("postgresql_engine").quick_url())
    else:
        found = SharedCluster(RedisLink, request.getfixturevalue("redis_engine").url())
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "valkey"])
def quick(request: pytest.FixtureRequest) -> Cluster:
    """An engine on which much can be tried."""
    found: Cluster = request.getfixturevalue(request.param)
    return found


def tried(on_sqlite: int, on_valkey: int) -> list[tuple[str, int]]:
    """Engines and seeds."""
    return [*(("sqlite", n) for n in range(on_sqlite)), *(("valkey", n) for n in range(on_valkey))]


def matcher(written: str) -> Matcher:
    """A pattern begins with ``~``."""
    if written.startswith("~"):
        return make(MatcherType.URLPATTERN, written[1:], Retention().base)
    return make(MatcherType.EXACT, written, "")


def lacks(beginning: Beginning, interest: Interest, after: int, told: int = 0) -> bool:
    """As a replay asks."""
    discarded = beginning.discarded
    if discarded is None:
        return beginning.lacks(after, events=False)
    has_rest = interest.has_rest(discarded)
    is_behind = interest.newest(discarded) > max(after, told)
    return is_behind or beginning.lacks(after, events=False, updates=has_rest)


def has_gap(node: Node, cursor: str, *written: str) -> bool:
    """Whether a subscriber with a cursor is told that something is missing."""
    matchers = [matcher(one) for one in written]
    exact = [one.exact for one in matchers if one.exact is not None]
    last = node.link.position().last
    wanted = Resume(cursor, last, exact if len(exact) == len(matchers) else None, 10_000)
    (found,) = node.link.resume([wanted])
    if found.after is None:
        return True
    return found.after < last and lacks(found.beginning, Interest(matchers), found.after)


def pass_time(cluster: Cluster, node: Node, seconds: float = 2 * SETTLED) -> None:
    """Let time pass, and what is too old then go."""
    cluster.now += seconds
    for _ in range(20):
        node.discard()


def send(node: Node, *topics: str, id: str = "") -> int:
    return node.append(update(*topics, id=id or f"urn:{random.getrandbits(64)}"))


class TestRules:
    @pytest.fixture
    def node(self, cluster: Cluster) -> Node:
        return cluster.join(Retention(size=3, rules=THREE))

    def test_each_topic_is_kept_as_its_rule_says(self, cluster: Cluster, node: Node) -> None:
        answers = [send(node, f"/answers/{n}") for n in range(3)]
        orders = [send(node, f"/orders/{n}") for n in range(3)]
        gauges = [send(node, f"/gauges/{n % 2}") for n in range(6)]
        others = [send(node, f"/others/{n}") for n in range(5)]
        pass_time(cluster, node)
        assert node.sequences() == [*answers, *orders, *gauges[-2:], *others[-3:]]
        pass_time(cluster, node, HOUR)
        assert node.sequences() == [*orders, *gauges[-2:], *others[-3:]]
        pass_time(cluster, node, 31 * DAY)
        assert node.sequences() == [*gauges[-2:], *others[-3:]]

    def test_the_last_value_outlives_the_beginning(self, cluster: Cluster, node: Node) -> None:
        gauge = send(node, "/gauges/a")
        for n in range(50):
            send(node, f"/others/{n}")
        pass_time(cluster, node, 400 * DAY)
        assert node.sequences() == [gauge, 49, 50, 51]
        assert [one.sequence for one in node.link.newest_of([("/gauges/a", END)], 1)[0]] == [gauge]
        assert node.link.size().updates == 4

    def test_what_takes_the_place_of_another_has_to_settle(self, cluster: Cluster, node: Node) -> None:
        first = send(node, "/gauges/a", id="first")
        pass_time(cluster, node)
        second = send(node, "/gauges/a", id="second")
        pass_time(cluster, node, SETTLED / 2)
        assert node.sequences() == [first, second]
        assert not has_gap(node, "first", "/gauges/a")
        pass_time(cluster, node, SETTLED)
        assert node.sequences() == [second]

    def test_an_update_stays_while_it_is_the_last_value_of_one_of_its_topics(
        self,
        cluster: Cluster,
        node: Node,
    ) -> None:
        both = send(node, "/gauges/a", "/gauges/b", "/elsewhere")
        newer = send(node, "/gauges/a")
        pass_time(cluster, node)
        assert node.sequences() == [both, newer]
        newest = send(node, "/gauges/b")
        pass_time(cluster, node)
        assert node.sequences() == [newer, newest]

    def test_the_size_of_a_rule(self, cluster: Cluster) -> None:
        rules = (Rule("urlpattern", "/a/:x", size=3), Rule("exact", "*", size_per_topic=2))
        node = cluster.join(Retention(rules=rules))
        ours = [send(node, f"/a/{n}") for n in range(10)]
        others = [send(node, f"/b/{n % 2}") for n in range(10)]
        pass_time(cluster, node)
        assert node.sequences() == [*ours[-3:], *others[-4:]]

    def test_a_rule_without_limits_keeps_all(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(max_age=1, rules=(Rule("urlpattern", "/audit/*"),)))
        ours = [send(node, f"/audit/{n}") for n in range(5)]
        send(node, "/else")
        pass_time(cluster, node, 1000 * DAY)
        assert node.sequences() == ours

    def test_events_of_the_hub_are_left_alone(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(rules=(Rule("exact", "*", size_per_topic=1),)))
        for n in range(3):
            node.announce("key", f"record {n}")
        pass_time(cluster, node)
        assert node.sequences() == [1, 2, 3]


class TestPositions:
    @pytest.fixture
    def node(self, cluster: Cluster) -> Node:
        return cluster.join(Retention(rules=THREE))

    def test_only_those_whom_it_concerns_are_told_of_a_gap(self, cluster: Cluster, node: Node) -> None:
        send(node, "/orders/1", id="order")
        for n in range(20):
            send(node, f"/answers/{n % 2}", id=f"token {n}")
        send(node, "/orders/1", id="later")
        pass_time(cluster, node, 2 * HOUR)
        for written in (
            ["/orders/1"],
            ["~/orders/:id"],
            ["/orders/1", "/rooms/1"],
            ["~/rooms/:id"],
            ["/answers/2"],
        ):
            assert not has_gap(node, "order", *written), written
        for written in (["/answers/1"], ["~/answers/:id"], ["*"], ["/orders/1", "/answers/0"], ["~/:a/:b"]):
            assert has_gap(node, "order", *written), written
        assert not has_gap(node, "later", "*")

    def test_a_position_that_was_discarded_is_still_one(self, cluster: Cluster, node: Node) -> None:
        for n in range(10):
            send(node, "/answers/1", id=f"token {n}")
        send(node, "/orders/1", id="order")
        pass_time(cluster, node, 2 * HOUR)
        (found,) = node.link.resume([Resume("token 9", 11, ["/answers/1", "/orders/1"], 100)])
        assert found.after == 10
        assert found.page is not None
        assert [one.update.id for one in found.page.entries] == ["order"]
        assert not has_gap(node, "token 9", "/answers/1", "/orders/1")
        assert has_gap(node, "token 8", "/answers/1", "/orders/1")

    def test_a_hub_that_starts_knows_the_newest_position(self, cluster: Cluster, node: Node) -> None:
        """As that of a page: everything that is left comes before it."""
        send(node, "/orders/1", id="order")
        assert (node.link.newest_update(), node.link.id_at(1)) == ("order", "order")
        send(node, "/answers/1", id="token")
        pass_time(cluster, node, 2 * HOUR)
        assert node.sequences() == [1]
        assert (node.link.newest_update(), node.link.id_at(2)) == ("token", "token")
        assert not has_gap(node, "token", "*")

    def test_topics_that_the_rule_does_not_match_count_too(self, cluster: Cluster, node: Node) -> None:
        send(node, "/orders/1", id="order")
        send(node, "/answers/1", "/users/7")
        send(node, "/orders/1", id="later")
        pass_time(cluster, node, 2 * HOUR)
        for written, expected in (
            (["/users/7"], True),
            (["~/users/:id"], True),
            (["/users/8"], False),
            (["/orders/1"], False),
        ):
            assert has_gap(node, "order", *written) is expected, written

    def test_what_is_forgotten_is_a_gap_for_whom_it_may_concern(
        self,
        cluster: Cluster,
        node: Node,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(trimming, "REMEMBERED", 5)
        send(node, "/orders/1", id="order")
        for n in range(20):
            send(node, f"/answers/{n}", id=f"token {n}")
        send(node, "/orders/1", id="later")
        pass_time(cluster, node, 2 * HOUR)
        assert not has_gap(node, "order", "/orders/1")
        assert not has_gap(node, "order", "~/orders/:id")
        assert has_gap(node, "order", "/answers/77")  # nobody knows
        assert has_gap(node, "token 3", "/answers/77")
        assert not has_gap(node, "token 18", "/answers/77")

    def test_other_rules_at_the_next_start(self, cluster: Cluster, node: Node) -> None:
        for n in range(4):
            send(node, "/gauges/a", id=f"gauge {n}")
            send(node, "/answers/1", id=f"token {n}")
            send(node, "/else", id=f"else {n}")
        pass_time(cluster, node, SHARED)
        assert len(node.sequences()) == 9
        other = cluster.join(Retention(size=2, rules=(Rule("urlpattern", "/answers/:x", size=1),)))
        pass_time(cluster, node, SHARED)
        assert len(node.sequences()) == 9, "the rules of the hub that was started later count"
        pass_time(cluster, other, SHARED)
        assert [one.id for one in other.everything()] == ["gauge 3", "token 3", "else 3"]
        assert has_gap(other, "gauge 3", "/else") is False
        assert has_gap(other, "else 0", "/gauges/a")
        assert not has_gap(other, "token 3", "/gauges/a", "/answers/1")

    def test_without_rules_again(self, cluster: Cluster, node: Node) -> None:
        for n in range(5):
            send(node, "/gauges/a", id=f"gauge {n}")
            send(node, "/else", id=f"else {n}")
        pass_time(cluster, node, SHARED)
        other = cluster.join(Retention(size=3))
        pass_time(cluster, other, SHARED)
        assert len(other.sequences()) == 3
        assert has_gap(other, "else 0", "/gauges/a")
        assert not has_gap(other, "gauge 4", "/gauges/a", "/else")


@dataclass
class Model:
    """What may be discarded, told naively from all that was ever published.

    :param rules: in force.
    """

    rules: Rules
    size: int
    max_age: float
    published: list[tuple[int, str, tuple[str, ...], float]] = field(default_factory=list)

    def limits(self, number: int) -> Rule:
        return self.rules.rules[number - 1] if number else Rule("", "", self.size, 0, self.max_age)

    def may_be_gone(self, sequence: int, now: float) -> bool:
        """Whether a rule lets an update go, whatever has become of the others."""
        _, _, topics, at = self.published[sequence - 1]
        number, matched = self.rules.of(topics)
        limits = self.limits(number)
        newer = self.published[sequence:]
        same = sum(self.rules.of(one[2])[0] == number for one in newer)
        return now - at >= SETTLED and (
            (limits.max_age > 0 and now - at > limits.max_age)
            or (0 < limits.size <= same)
            or (
                limits.size_per_topic > 0
                and all(sum(topic in one[2] for one in newer) >= limits.size_per_topic for topic in matched)
            )
        )

    def must_be_gone(self, sequence: int, now: float) -> bool:
        """Whether it is too old, or its place was taken, and all that took it has settled."""
        _, _, topics, at = self.published[sequence - 1]
        number, matched = self.rules.of(topics)
        limits = self.limits(number)
        settled = [one for one in self.published[sequence:] if now - one[3] >= SETTLED]
        return now - at >= SETTLED and (
            (limits.max_age > 0 and now - at > limits.max_age)
            or (
                limits.size_per_topic > 0
                and all(sum(topic in one[2] for one in settled) >= limits.size_per_topic for topic in matched)
            )
        )


TOPICS = [f"/{kind}/{n}" for kind in ("answers", "orders", "gauges", "rooms") for n in range(3)]
SUBSCRIPTIONS = [
    *([topic] for topic in TOPICS),
    ["/orders/1", "/gauges/2"],
    ["/answers/0", "/rooms/1"],
    ["~/answers/:id"],
    ["~/orders/*"],
    ["~/gauges/:name", "/orders/0"],
    ["~/rooms/:id"],
    ["*"],
]
CHOICES = [
    (ANSWERS, ORDERS, GAUGES),
    (Rule("urlpattern", "/gauges/:x", size_per_topic=2), Rule("urlpattern", "/answers/*", size=4)),
    (Rule("exact", "/rooms/1"), Rule("exact", "*", size_per_topic=1, max_age=DAY)),
    (Rule("urlpattern", "/:kind/1", size=5), Rule("urlpattern", "/gauges/*", max_age=HOUR)),
]


def select(subscription: list[str], topics: tuple[str, ...]) -> bool:
    return any(matcher(one).matches(topic) for one in subscription for topic in topics)


@pytest.mark.parametrize(("quick", "seed"), tried(24, 8), indirect=["quick"])
def test_whatever_is_published(quick: Cluster, seed: int) -> None:
    """Nothing that a rule keeps is missing, what it discards goes, and gaps are told to whom they concern."""
    chance = random.Random(seed)
    rules, size, max_age = CHOICES[seed % 4], chance.choice([0, 4]), chance.choice([0, HOUR])
    node = quick.join(Retention(size, max_age, rules))
    model = Model(Rules(rules, Retention().base), size, max_age)
    for _ in range(120):
        match chance.randrange(4):
            case 0 | 1:
                topics = tuple(chance.sample(TOPICS, chance.choice([1, 1, 1, 2, 3])))
                sequence = send(node, *topics, id=f"{len(model.published) + 1}")
                model.published.append((sequence, str(sequence), topics, quick.now))
            case 2:
                quick.now += chance.choice([1, 30, 61, 600, HOUR, DAY])
            case _:
                for _ in range(chance.choice([1, 3])):
                    node.discard()
        there = set(node.sequences())
        for sequence, *_ in model.published:
            assert sequence in there or model.may_be_gone(sequence, quick.now + MOMENT), sequence
    for _ in range(3):
        node.discard()
    there = set(node.sequences())
    # On a server, what is exactly as old as a limit goes before or after what takes its place.
    for sequence, *_ in model.published if isinstance(quick, SqliteCluster) else ():
        assert not (sequence in there and model.must_be_gone(sequence, quick.now)), sequence
    check_gaps(node, model, there)


def check_gaps(node: Node, model: Model, there: set[int]) -> None:
    gone = [one for one in model.published if one[0] not in there]
    for subscription in SUBSCRIPTIONS:
        missing = max((one[0] for one in gone if select(subscription, one[2])), default=0)
        rest = max((one[0] for one in gone if not model.rules.of(one[2])[0]), default=0)
        is_exact = not any(one[0] in "~*" for one in subscription)
        has_rest = any(not model.rules.of((one,))[0] for one in subscription)
        for sequence, cursor, *_ in model.published:
            # Of the rest the beginning is gone, with the positions in it, whatever the topics.
            is_known = sequence in there or model.rules.of(model.published[sequence - 1][2])[0] > 0
            told = has_gap(node, cursor, *subscription)
            if missing > sequence or not is_known:
                assert told, (subscription, cursor)
            elif is_exact:
                assert told == (has_rest and rest > sequence), (subscription, cursor)


@pytest.mark.parametrize(("quick", "seed"), tried(8, 4), indirect=["quick"])
def test_whatever_the_rules_become(quick: Cluster, seed: int) -> None:
    """A subscriber that misses something is told so, also if other rules discarded it."""
    chance = random.Random(seed)
    published: list[tuple[int, tuple[str, ...]]] = []
    for _ in range(4):
        kept = Retention(chance.choice([0, 4]), chance.choice([0, HOUR]), chance.choice([(), *CHOICES]))
        node = quick.join(kept)
        for _ in range(30):
            topics = tuple(chance.sample(TOPICS, chance.choice([1, 1, 2])))
            published.append((send(node, *topics, id=f"{len(published) + 1}"), topics))
            quick.now += chance.choice([0, 10, 100])
            node.discard()
        pass_time(quick, node, chance.choice([1, HOUR]))
    there = set(node.sequences())
    for subscription in SUBSCRIPTIONS:
        gone = [one for one, topics in published if one not in there and select(subscription, topics)]
        for sequence, _ in published:
            if max(gone, default=0) > sequence:
                assert has_gap(node, str(sequence), *subscription), (subscription, sequence)


def test_a_step_is_bounded(quick: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "STEP", 10)
    node = quick.join(Retention(rules=(Rule("exact", "*", size_per_topic=1, max_age=HOUR),)))
    node.append(*[update(f"t/{n % 7}", id=str(n)) for n in range(200)])
    quick.now += 2 * SETTLED
    before = 200
    for _ in range(30):
        node.discard()
        assert before - len(node.sequences()) <= 10
        before = len(node.sequences())
    assert before == 7


def test_what_was_discarded_on_demand_does_not_count(tmp_path: Path, sqlite: SqliteCluster) -> None:
    node = sqlite.join(Retention(rules=(Rule("exact", "*", size=3),)))
    sequences = [send(node, f"/a/{n}") for n in range(3)]
    pass_time(sqlite, node)
    connection = Database(str(tmp_path / "mercure.db")).connect()
    with writing(connection):
        connection.execute("DELETE FROM mercure_update WHERE sequence = ?", (sequences[0],))
        by_rules.unassign(connection, sequences[:1])
        connection.execute("DELETE FROM mercure_update WHERE sequence = ?", (sequences[1],))
    connection.close()
    later = send(node, "/a/9")
    pass_time(sqlite, node)
    assert node.sequences() == [sequences[2], later]


class TestRedis:
    def test_a_step_that_was_cut_off_is_done_again(
        self, valkey: SharedCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before what takes the place of others is assigned, or after a part of it."""
        node = valkey.join(Retention(rules=(Rule("exact", "*", size_per_topic=1),)))
        node.append(*[update(f"t/{n % 7}", id=str(n)) for n in range(600)])
        valkey.now += 2 * SETTLED
        line_ask, calls = Line.ask, 0

        def ask(line: Line, *commands: Command) -> list[Any]:
            nonlocal calls
            calls += 1
            if calls % 9 == 0:
                raise ConnectionError("cut")
            return line_ask(line, *commands)

        monkeypatch.setattr(Line, "ask", ask)
        for _ in range(12):
            with contextlib.suppress(StorageError):
                node.discard()
        monkeypatch.undo()
        node.discard()
        assert node.sequences() == list(range(594, 601))

    def test_rules_count_again_after_the_history_was_deleted(
        self, valkey: SharedCluster, valkey_engine: RedisServer
    ) -> None:
        node = valkey.join(Retention(rules=THREE))
        send(node, "/gauges/a")
        valkey_engine.run("FLUSHALL")
        assert not node.link.renew()
        node.number = 0
        sequences = [send(node, "/gauges/a") for _ in range(3)]
        pass_time(valkey, node)
        with pytest.raises(StorageAway, match="deleted or replaced"):
            node.sequences()
        assert node.sequences() == sequences[-1:]

    def test_nothing_is_left_of_what_is_forgotten(
        self, valkey: SharedCluster, valkey_engine: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trimming, "REMEMBERED", 10)
        node = valkey.join(Retention(size=1, rules=THREE))
        for n in range(20):
            node.append(*[update(f"/answers/{n}/{k}", f"/answers/{n}", id=f"{n} {k % 9}") for k in range(20)])
        pass_time(valkey, node, 2 * HOUR)
        assert node.sequences() == []
        server: Any = Redis(host=valkey_engine.host, port=valkey_engine.port)
        with closing(server) as client:
            left = {key.removeprefix(valkey.prefix.encode()) for key in client.keys(f"{valkey.prefix}*")}
            assert {key for key in left if key[:2] in (b"t:", b"r:") or key == b"topics"} == set()
            counts = [client.zcard(valkey.prefix + key) for key in ("past", "gone")]
            counts.append(client.hlen(valkey.prefix + "ids"))
            assert counts == [10, 10, 9]
            assert [key for key in left if key[:2] == b"i:"] == [b"i:19 1"]

    def test_one_discards_at_a_time(self, valkey: SharedCluster) -> None:
        one, other = valkey.join(Retention(rules=THREE)), valkey.join(Retention(rules=THREE))
        sequences = [send(one, "/gauges/a") for _ in range(2)]
        valkey.now += SHARED
        one.discard()
        sequences.append(send(one, "/gauges/a"))
        assert one.sequences() == sequences[1:]
        assert other.sequences() == sequences[1:]
        pass_time(valkey, other, SHARED)
        assert other.sequences() == sequences[2:]
