"""The relay, on each database, with a hub that is a function and a clock that is a variable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from flask_mercure.database import outbox_table
from flask_mercure.database.claims import LEASE, Claims, machine
from flask_mercure.database.relay import Relay, wakeup_for
from flask_mercure.database.table import channel, list_updates, moment, purge, read_stats, retry, write
from flask_mercure.errors import HubUnreachable, PublishError, TokenError
from flask_mercure.updates import Publication
from tests.flask_mercure.databases import failing_commit

pytestmark = pytest.mark.minutes

TABLE = outbox_table(MetaData())


class Hub:
    """Takes updates, or raises what is planned for a topic."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.requests: list[int] = []
        self.attempts: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.before: Callable[[Publication], None] = lambda _publication: None

    def send(self, hub: str, publications: Sequence[Publication]) -> None:
        """All of them or none."""
        self.requests.append(len(publications))
        taken = list(self.taken)
        try:
            for publication in publications:
                self._take(hub, publication)
        except Exception:
            self.taken = taken
            raise

    def _take(self, hub: str, publication: Publication) -> None:
        topic = publication.topics[0]
        self.attempts.append(publication.data)
        self.before(publication)
        for planned in (topic, publication.data, hub):
            if planned in self.errors:
                raise self.errors[planned]
        self.taken.append((topic, publication.data))

    def of(self, topic: str) -> list[str]:
        return [data for name, data in self.taken if name == topic]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create_engine(database, poolclass=NullPool)
    if made.dialect.name == "sqlite":

        @event.listens_for(made, "connect")
        def pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")

    TABLE.create(made)
    yield made
    made.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def relay(engine: Engine, hub: Hub, clock: Clock) -> Iterator[Relay]:
    with relaying(engine, hub, clock) as made:
        yield made


@contextmanager
def relaying(engine: Engine, hub: Hub, clock: Clock, **options: Any) -> Iterator[Relay]:
    wakeup = wakeup_for(engine, channel(TABLE))
    with wakeup:
        yield Relay(engine, TABLE, hub.send, wakeup, clock=clock, chance=lambda: 1.0, **options)


def put(engine: Engine, *updates: tuple[str | list[str], str], hub: str = "default", now: float = 0) -> None:
    rows = [
        (
            hub,
            Publication(
                [topics] if isinstance(topics, str) else topics, data, id=f"urn:x:{data}", private=False
            ),
        )
        for topics, data in updates
    ]
    with engine.begin() as connection:
        write(connection, TABLE, rows, now)


def rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(TABLE).order_by(TABLE.c.sequence)).all())


def test_the_relay_sends_in_order_and_deletes(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, *[("ab"[number % 2], str(number)) for number in range(250)])
    done = relay.run_once()
    assert done.sent == 250
    assert hub.of("a") == [str(number) for number in range(0, 250, 2)]
    assert hub.of("b") == [str(number) for number in range(1, 250, 2)]
    assert rows(engine) == []


def test_what_is_sent_is_what_was_written(engine: Engine, hub: Hub, relay: Relay) -> None:
    sent: list[Publication] = []
    hub.before = sent.append
    written = Publication(["é", "b"], "zwölf\n€ \u2028", True, id="urn:é", type="t", retry=5)
    with engine.begin() as connection:
        write(connection, TABLE, [("default", written)], 0)
    relay.run_once()
    assert sent == [written]


def test_a_failing_topic_stops_only_what_shares_it(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock
) -> None:
    put(engine, ("a", "1"), ("b", "2"), (["c", "a"], "3"), ("c", "4"), ("b", "5"))
    hub.errors["a"] = PublishError("busy", status=500)
    done = relay.run_once()
    assert hub.taken == [("b", "2"), ("b", "5")]  # 3 waits for 1, and 4 for 3
    assert (done.sent, done.failed) == (2, 1)
    assert [(row.attempts, row.error) for row in rows(engine)] == [(1, "busy"), (0, None), (0, None)]
    hub.errors.clear()
    assert relay.run_once().sent == 0  # its time has not come
    clock.now += 0.3
    relay.run_once()
    assert hub.taken[2:] == [("a", "1"), ("c", "3"), ("c", "4")]


def test_a_poison_update_is_parked_and_the_next_one_goes(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(engine, ("a", "poison"), ("a", "fine"))
    hub.errors["poison"] = PublishError("the hub answered 403", status=403)
    with caplog.at_level(logging.INFO):
        assert relay.run_once().parked == 1
    assert hub.of("a") == ["fine"]
    clock.now += 10_000
    assert relay.run_once().sent == 0
    assert hub.attempts.count("poison") == 1
    with engine.begin() as connection:
        (parked,) = list_updates(connection, TABLE, "parked")
        assert (parked.id, parked.error, parked.attempts) == ("urn:x:poison", "the hub answered 403", 1)
        assert read_stats(connection, TABLE, clock.now).parked == 1
        assert retry(connection, TABLE, [parked.sequence]) == 1
    hub.errors.clear()
    relay.run_once()
    assert hub.of("a") == ["fine", "poison"]
    assert rows(engine) == []
    assert "is parked: the hub answered 403" in caplog.text


def test_without_a_hub_one_attempt_is_made(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(engine, *[(f"t{number}", str(number)) for number in range(50)])
    hub.errors["default"] = HubUnreachable("no connection")
    relay.run_once()
    relay.run_once()
    assert hub.attempts == ["0"]
    for pause in (0.25, 0.5, 1.0):
        clock.now += pause - 0.01
        relay.run_once()
        before = len(hub.attempts)
        clock.now += 0.02
        relay.run_once()
        assert len(hub.attempts) == before + 1
    hub.errors.clear()
    clock.now += 2
    relay.run_once()
    assert len(hub.taken) == 50
    assert "takes updates again" in caplog.text


CUT = HubUnreachable("the connection broke before the answer", possibly_published=True)
"""What a proxy does that does not like what is in a request; and what a hub does that hangs."""


@pytest.mark.parametrize("takes_batches", [False, True])
def test_an_update_that_no_connection_survives_stops_only_its_topic(
    engine: Engine, hub: Hub, clock: Clock, takes_batches: bool
) -> None:
    put(engine, ("big", "poison"), ("big", "behind"), *[(f"t{number}", str(number)) for number in range(50)])
    hub.errors["poison"] = CUT
    with relaying(engine, hub, clock, takes_batches=lambda _hub: takes_batches) as relay:
        assert relay.run_once().sent == 50
        assert [(row.data, row.attempts) for row in rows(engine)] == [("poison", 1), ("behind", 0)]
        clock.now += 1
        put(engine, *[(f"t{number}", str(number)) for number in range(50)])
        assert relay.run_once().sent == 50
    assert hub.attempts.count("poison") <= 3  # in a batch, alone, and alone a second later
    assert hub.of("big") == []


@pytest.mark.parametrize("bad", [2, 4])
def test_several_updates_that_no_connection_survives_hide_no_other(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock, bad: int
) -> None:
    """Not even when so much waits behind them that one look at the outbox does not reach the others."""
    for number in range(bad):
        put(engine, (f"bad{number}", f"poison{number}"), *[(f"bad{number}", "behind")] * 200)
        hub.errors[f"poison{number}"] = CUT
    put(engine, ("free", "x"), ("free", "y"))
    for _ in range(8):
        relay.run_once()
        clock.now += 1
    assert hub.taken == [("free", "x"), ("free", "y")]


def test_a_hub_that_hangs_gets_two_updates_and_then_one_at_a_time(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock
) -> None:
    put(engine, *[(f"t{number}", str(number)) for number in range(50)])
    hub.errors["default"] = CUT
    relay.run_once()
    assert hub.attempts == ["0", "1"]
    for pause in (0.25, 0.5, 1.0):
        clock.now += pause - 0.01
        relay.run_once()
        before = len(hub.attempts)
        clock.now += 0.02
        relay.run_once()
        assert len(hub.attempts) == before + 1
    assert hub.attempts == ["0", "1", "2", "3", "4"]  # each time another one
    hub.errors.clear()
    clock.now += 60
    relay.run_once()
    assert len(hub.taken) == 50


def attempt_for(seconds: float, relay: Relay, clock: Clock) -> int:
    """Let a relay look once a minute, more seldom than it would; how many updates it parks."""
    until, parked = clock.now + seconds, 0
    while clock.now < until:
        clock.now += 60
        parked += relay.run_once().parked
    return parked


ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what takes many looks at the outbox and depends on no engine."""


@ON_SQLITE
@pytest.mark.parametrize("error", [CUT, PublishError("500", status=500)])
def test_what_the_hub_never_takes_is_parked_after_an_hour_in_which_it_takes_others(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    put(engine, ("a", "poison"), ("a", "behind"), now=clock.now)
    hub.errors["poison"] = error
    for _ in range(59):
        put(engine, ("b", "fine"))
        assert attempt_for(60, relay, clock) == 0
    assert hub.of("a") == []
    put(engine, ("b", "fine"))
    assert attempt_for(120, relay, clock) == 1
    assert hub.of("a") == ["behind"]
    with engine.begin() as connection:
        (parked,) = list_updates(connection, TABLE, "parked")
        assert parked.attempts >= 10
        assert parked.error == str(error)
        read = read_stats(connection, TABLE, clock.now)
        assert (read.waiting, read.parked) == (0, 1)
        retry(connection, TABLE)
        assert list_updates(connection, TABLE)[0].attempts == 0  # it gets as many as before
    assert "is parked after 10 attempts and more; the hub takes others" in caplog.text


@ON_SQLITE
def test_ten_attempts_after_a_long_outage_are_not_an_hour(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock
) -> None:
    put(engine, ("a", "1"), ("b", "2"), now=clock.now)
    hub.errors["default"] = HubUnreachable("no connection")
    assert attempt_for(4200, relay, clock) == 0
    hub.errors = {"1": CUT}
    assert attempt_for(3000, relay, clock) == 0
    assert hub.of("b") == ["2"]


@ON_SQLITE
def test_an_overtaken_update_is_parked(engine: Engine, relay: Relay, hub: Hub, clock: Clock) -> None:
    put(engine, ("a", "poison"), ("a", "1"), ("a", "2"), now=clock.now)
    hub.errors["default"] = CUT
    assert attempt_for(4200, relay, clock) == 0
    assert hub.taken == []
    hub.errors = {"poison": CUT}
    assert (
        attempt_for(3600, relay, clock) == 1
    )  # overtaken, so it is parked: sent now, it would be out of order
    assert hub.of("a") == ["1", "2"]
    put(engine, ("a", "3"))
    hub.errors = {}
    assert attempt_for(180, relay, clock) == 0
    assert hub.of("a") == ["1", "2", "3"]


@ON_SQLITE
def test_a_relay_that_cron_starts_parks_it_too(engine: Engine, hub: Hub, clock: Clock) -> None:
    put(engine, ("a", "poison"), now=clock.now)
    hub.errors["poison"] = CUT
    parked = 0
    for _ in range(70):
        clock.now += 60
        put(engine, ("b", "fine"))
        with relaying(engine, hub, clock) as relay:
            parked += relay.run_once().parked
    assert parked == 1


def test_failures_on_one_hub_do_not_count_for_another(engine: Engine, relay: Relay, hub: Hub) -> None:
    for number in range(9):
        put(engine, (f"t{number}", str(number)), hub="eu")
    put(engine, ("a", "first"), ("b", "second"), hub="us")
    hub.errors["eu"] = PublishError("503", status=503)
    hub.errors["first"] = PublishError("500", status=500)
    relay.run_once()
    assert hub.taken == [("b", "second")]


def test_what_was_sent_is_recorded_whatever_ends_the_pass(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, ("a", "1"), ("b", "2"), ("c", "3"))
    hub.errors["3"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        relay.run_once()
    assert [(row.data, row.leased_by) for row in rows(engine)] == [("3", None)]


@pytest.mark.parametrize("error", [PublishError("401", status=401), TokenError("no key")])
def test_a_wrong_setting_parks_nothing(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock, error: Exception
) -> None:
    put(engine, ("a", "1"), ("b", "2"))
    hub.errors["default"] = error
    relay.run_once()
    assert [row.state for row in rows(engine)] == ["waiting", "waiting"]
    hub.errors.clear()
    clock.now += 60
    assert relay.run_once().sent == 2


def test_the_relay_waits_as_long_as_the_hub_asks(
    engine: Engine, relay: Relay, hub: Hub, clock: Clock
) -> None:
    put(engine, ("a", "1"))
    hub.errors["a"] = PublishError("slow down", status=429, retry_after=120)
    relay.run_once()
    hub.errors.clear()
    clock.now += 119
    assert relay.run_once().sent == 0
    clock.now += 2
    assert relay.run_once().sent == 1


def test_one_hub_that_is_down_does_not_stop_another(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, ("a", "1"), ("a", "2"), hub="eu")
    put(engine, ("a", "3"), hub="us")
    hub.errors["eu"] = HubUnreachable("no connection")
    relay.run_once()
    assert hub.taken == [("a", "3")]


def test_many_failing_topics_are_a_failing_hub(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, *[(f"t{number}", str(number)) for number in range(50)])
    hub.errors["default"] = PublishError("503", status=503)
    relay.run_once()
    assert len(hub.attempts) == 10


def test_a_long_row_of_one_failing_topic_hides_no_other(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, *[("stuck", str(number)) for number in range(1200)], ("free", "x"))
    hub.errors["stuck"] = PublishError("500", status=500)
    relay.run_once()
    assert hub.taken == [("free", "x")]


def test_two_relays_share_topics_and_keep_their_order(engine: Engine, hub: Hub, clock: Clock) -> None:
    """While one relay is in the middle of topic a, another sends b and nothing of a."""
    put(engine, ("a", "1"), ("a", "2"), ("b", "3"), (["b", "a"], "4"))
    other = Hub()

    def meanwhile(publication: Publication) -> None:
        if publication.data == "1":
            put(engine, ("c", "5"), ("a", "6"))
            with relaying(engine, other, clock) as second:
                second.run_once()

    hub.before = meanwhile
    with relaying(engine, hub, clock) as first:
        first.run_once()
    assert other.taken == [("c", "5")]  # a and b are in the hands of the first
    assert hub.taken == [("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"), ("a", "6")]
    assert rows(engine) == []


def test_a_relay_that_dies_gives_its_updates_back(engine: Engine, hub: Hub, clock: Clock) -> None:
    put(engine, ("a", "1"), ("a", "2"))

    def die(publication: Publication) -> None:
        raise KeyboardInterrupt

    hub.before = die
    with relaying(engine, hub, clock) as first, pytest.raises(KeyboardInterrupt):
        first.run_once()
    hub.before = lambda _publication: None
    with relaying(engine, hub, clock) as second:
        second.run_once()
    assert hub.of("a") == ["1", "2"]


@pytest.mark.parametrize("takes_batches", [False, True])
def test_what_the_hub_took_before_a_commit_that_failed_is_sent_again_with_its_id(
    engine: Engine, hub: Hub, clock: Clock, takes_batches: bool
) -> None:
    """At least once, in order, and at once: no lease stays behind."""
    ids: list[str | None] = []
    hub.before = lambda publication: ids.append(publication.id)
    put(engine, ("a", "1"), ("b", "2"), ("a", "3"))
    with relaying(engine, hub, clock, takes_batches=lambda _hub: takes_batches) as relay:
        with failing_commit(engine, lambda: len(hub.taken) == 3), pytest.raises(OperationalError):
            relay.step()
        waits = [(row.state, row.attempts, row.leased_by) for row in rows(engine)]
        assert waits == [("waiting", 0, None)] * 3
        put(engine, ("a", "4"))
        assert relay.run_once().sent == 4
    assert hub.of("a") == ["1", "3", "1", "3", "4"]
    assert hub.of("b") == ["2", "2"]
    assert ids == [f"urn:x:{number}" for number in (1, 2, 3, 1, 2, 3, 4)]
    assert rows(engine) == []


def test_what_was_recorded_by_a_commit_whose_answer_was_lost_is_not_sent_again(
    engine: Engine, hub: Hub, clock: Clock, relay: Relay
) -> None:
    put(engine, ("a", "1"), ("a", "2"))
    with failing_commit(engine, lambda: len(hub.taken) == 2, is_done=True), pytest.raises(OperationalError):
        relay.step()
    assert rows(engine) == []
    put(engine, ("a", "3"))
    assert relay.run_once().sent == 1
    assert hub.of("a") == ["1", "2", "3"]


def test_a_relay_goes_on_after_a_commit_that_failed(
    engine: Engine, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    put(engine, ("a", "1"))
    wakeup = wakeup_for(engine, channel(TABLE))
    relay = Relay(engine, TABLE, hub.send, wakeup)
    waits: list[bool] = []

    def wait(longest: float, *, urgent_only: bool = False) -> None:
        waits.append(urgent_only)
        if not urgent_only:  # nothing is left to send
            relay.stop()

    wakeup.wait = wait  # type: ignore[method-assign]
    with failing_commit(engine, lambda: hub.taken):
        relay.run()
    assert waits == [True, False]  # a pause first
    assert hub.of("a") == ["1", "1"]
    assert rows(engine) == []
    assert "trying again in" in caplog.text


def test_leases_end_by_time_and_with_the_process(engine: Engine, clock: Clock) -> None:
    """What stays of a relay that was killed, where there are no locks on rows."""
    if engine.dialect.name != "sqlite":
        pytest.skip("the engine has locks on rows")
    put(engine, ("a", "1"))
    claims = Claims(engine, TABLE)

    def lease(owner: str) -> None:
        with engine.begin() as connection:
            until = moment(clock.now + LEASE)
            connection.execute(update(TABLE).values(leased_by=owner, leased_until=until))

    def taken() -> int:
        with claims.take(clock.now, 10) as claim:
            return len(claim.rows)

    lease("another-machine:1:abc")
    assert taken() == 0
    clock.now += LEASE + 1
    assert taken() == 1
    import socket
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    lease(f"{socket.gethostname()[:64]}:{process.pid}:abc")  # perhaps of another container of that name
    assert taken() == 0
    lease(f"{machine()}:{process.pid}:abc")
    assert taken() == 1
    lease(f"{machine()}0:{process.pid}:abc")  # of another container
    assert taken() == 0
    clock.now += LEASE + 1
    assert taken() == 1
    assert [row.leased_by for row in rows(engine)] == [None]


@ON_SQLITE
@pytest.mark.parametrize(("longest_request", "least"), [(7.0, 30.0), (60.0, 240.0)])
def test_a_lease_is_longer_than_a_batch_can_take(
    engine: Engine, hub: Hub, clock: Clock, longest_request: float, least: float
) -> None:
    put(engine, ("a", "1"))
    leases: list[float] = []

    def look(_publication: Publication) -> None:
        leases.extend((row.leased_until - moment(clock.now)).total_seconds() for row in rows(engine))

    hub.before = look
    with relaying(engine, hub, clock, longest_request=longest_request) as relay:
        relay.run_once()
    (lease,) = leases
    assert lease >= least


def test_a_row_that_is_no_update_is_parked(engine: Engine, relay: Relay, hub: Hub) -> None:
    put(engine, ("a", "1"))
    with engine.begin() as connection:
        broken = {
            "state": "waiting", "hub": "default", "id": "x", "topics": "not JSON", "data": "",
            "private": False, "created_at": moment(0), "attempts": 0,
        }  # fmt: skip
        connection.execute(insert(TABLE), [broken, {**broken, "topics": '["*"]'}])
    assert relay.run_once().parked == 2
    assert hub.taken == [("a", "1")]


def test_the_relay_is_woken_and_stops(engine: Engine, hub: Hub) -> None:
    """Nothing but the wake-up can bring it to look within the interval."""
    arrived = threading.Event()
    hub.before = lambda _publication: arrived.set()
    wakeup = wakeup_for(engine, channel(TABLE))
    relay = Relay(engine, TABLE, hub.send, wakeup, interval=600)
    thread = threading.Thread(target=relay.run)
    idle = threading.Event()
    original = wakeup.wait

    def wait(longest: float, *, urgent_only: bool = False) -> None:
        idle.set()
        original(longest, urgent_only=urgent_only)

    wakeup.wait = wait  # type: ignore[method-assign]
    thread.start()
    try:
        assert idle.wait(10)
        put(engine, ("a", "1"))
        if engine.dialect.name != "postgresql":
            relay.wake()  # PostgreSQL has told it
        assert arrived.wait(10)
    finally:
        relay.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_a_database_that_fails_does_not_end_the_relay(
    engine: Engine, hub: Hub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    TABLE.drop(engine)
    wakeup = wakeup_for(engine, channel(TABLE))
    relay = Relay(engine, TABLE, hub.send, wakeup)
    waits: list[float] = []

    def wait(longest: float, *, urgent_only: bool = False) -> None:
        waits.append(longest)
        if len(waits) == 3:
            TABLE.create(engine)
            put(engine, ("a", "1"))
        if len(waits) > 3:
            relay.stop()

    wakeup.wait = wait  # type: ignore[method-assign]
    relay.run()
    assert hub.of("a") == ["1"]
    assert caplog.text.count("the outbox cannot be read") == 3
    assert "INSERT" not in caplog.text


def test_purging_the_outbox_changes_its_numbers(engine: Engine, clock: Clock, relay: Relay, hub: Hub) -> None:
    put(engine, ("a", "1"), now=clock.now - 100)
    put(engine, ("b", "2"), now=clock.now - 10)
    hub.errors["b"] = PublishError("400", status=400)
    hub.errors["a"] = PublishError("500", status=500)
    relay.run_once()
    with engine.begin() as connection:
        read = read_stats(connection, TABLE, clock.now)
        assert (read.waiting, read.failing, read.parked, round(read.oldest_age)) == (1, 1, 1, 100)
        assert purge(connection, TABLE, before=clock.now - 50) == 0
        assert purge(connection, TABLE) == 1
        assert retry(connection, TABLE) == 1
        assert purge(connection, TABLE, states=("waiting",)) == 1
        assert read_stats(connection, TABLE, clock.now).oldest_age == 0


@pytest.fixture
def batching(engine: Engine, hub: Hub, clock: Clock) -> Iterator[Relay]:
    """A relay to a hub that takes batches."""
    with relaying(engine, hub, clock, takes_batches=lambda name: name == "default") as made:
        yield made


def test_a_hub_that_takes_batches_gets_one_request(engine: Engine, batching: Relay, hub: Hub) -> None:
    put(engine, *[("ab"[number % 2], str(number)) for number in range(10)])
    put(engine, ("a", "10"), ("a", "11"), hub="other")
    assert batching.run_once().sent == 12
    assert hub.requests == [10, 1, 1]
    assert hub.taken == [*(("ab"[number % 2], str(number)) for number in range(10)), ("a", "10"), ("a", "11")]
    assert rows(engine) == []


def test_a_request_does_not_grow_without_end(engine: Engine, batching: Relay, hub: Hub) -> None:
    put(engine, *[("a", f"{number}" * 100_000) for number in range(5)])
    assert batching.run_once().sent == 5
    assert hub.requests == [2, 2, 1]


def test_an_update_that_is_refused_does_not_take_its_batch_along(
    engine: Engine, batching: Relay, hub: Hub
) -> None:
    hub.errors["1"] = PublishError("no", status=403)
    put(engine, *[("a", str(number)) for number in range(4)])
    done = batching.run_once()
    assert (done.sent, done.parked) == (3, 1)
    assert hub.of("a") == ["0", "2", "3"]
    assert hub.requests == [4, 1, 1, 1, 1]
    assert [row.id for row in rows(engine)] == ["urn:x:1"]


def test_an_update_that_must_wait_holds_its_topic_back_in_a_batch_too(
    engine: Engine, batching: Relay, hub: Hub, clock: Clock
) -> None:
    hub.errors["1"] = PublishError("busy", status=503)
    put(engine, ("a", "1"), ("b", "2"), ("a", "3"))
    assert batching.step().sent == 1
    assert hub.taken == [("b", "2")]
    hub.errors.clear()
    clock.now += 60
    assert batching.step().sent == 2
    assert hub.taken == [("b", "2"), ("a", "1"), ("a", "3")]


def test_a_hub_that_is_down_gets_one_update_before_the_next_batch(
    engine: Engine, batching: Relay, hub: Hub, clock: Clock
) -> None:
    hub.errors["default"] = HubUnreachable("gone")
    put(engine, *[("a", str(number)) for number in range(5)])
    done = batching.run_once()
    assert (done.sent, done.failed) == (0, 1)
    assert hub.requests == [5]
    assert [row.error for row in rows(engine)] == ["gone", None, None, None, None]
    assert {row.attempts for row in rows(engine)} == {0}  # no update is to blame
    hub.errors.clear()
    clock.now += 60
    assert batching.run_once().sent == 5
    assert hub.of("a") == ["0", "1", "2", "3", "4"]
    assert hub.requests[:2] == [5, 1]


def test_whether_a_hub_takes_batches_cannot_be_asked_while_it_is_down(
    engine: Engine, hub: Hub, clock: Clock
) -> None:
    def ask(_hub: str) -> bool:
        raise HubUnreachable("gone")

    with relaying(engine, hub, clock, takes_batches=ask) as relay:
        put(engine, ("a", "1"), ("b", "2"))
        done = relay.run_once()
        assert (done.sent, done.failed) == (0, 1)
        assert hub.requests == []


def test_another_hub_in_its_place_is_not_sent_twice_what_it_has(
    engine: Engine, hub: Hub, clock: Clock
) -> None:
    """It turned the batch down, got the updates one by one, and refused the third."""

    def send(_hub: str, publications: Sequence[Publication]) -> None:
        hub.requests.append(len(publications))
        if len(publications) > 1:
            hub.taken += [(one.topics[0], one.data) for one in publications[:2]]
            error = PublishError("no", status=403)
            error.published = ("urn:x:0", "urn:x:1")
            raise error
        hub.send(_hub, publications)

    wakeup = wakeup_for(engine, channel(TABLE))
    with wakeup:
        relay = Relay(engine, TABLE, send, wakeup, takes_batches=lambda _hub: True, clock=clock)
        put(engine, *[("a", str(number)) for number in range(4)])
        assert relay.run_once().sent == 4
    assert hub.of("a") == ["0", "1", "2", "3"]
