"""What the fan-out costs, counted in work: it follows those that match, not those that are connected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.receivers import Pace, Receivers
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.matching.table import Scope
from tests.fanout.bench import LEFT, Bench, Reader, exact, ids, may_read, pattern, subscriber, template

SITE = "https://cost.example"


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a token has been asked about a topic."""
    counted: Counter[str] = Counter()
    covers_any = Scope.covers_any

    def count(self: Scope, topics: tuple[str, ...]) -> bool:
        counted[topics[0]] += 1
        return covers_any(self, topics)

    monkeypatch.setattr(Scope, "covers_any", count)
    return counted


@pytest.mark.parametrize("make", [pattern, template])
def test_of_many_patterns_only_those_are_tried_that_can_match(
    make: Callable[[str], Matcher], evaluations: Counter[str]
) -> None:
    variable = ":id" if make is pattern else "{id}"
    receivers = Receivers(Pace())
    listeners = [subscriber(make(f"{SITE}/rooms/{n % 100}/{variable}")) for n in range(1000)]
    for listener in listeners:
        receivers.add(listener)
    for number in range(100):
        found = receivers.listening_to([f"{SITE}/rooms/{number}/{number}"])
        assert found == listeners[number::100]
    assert len(evaluations) == evaluations.total() == 100


def test_a_pattern_without_a_literal_beginning_is_tried_for_every_topic(evaluations: Counter[str]) -> None:
    receivers = Receivers(Pace())
    listeners = [subscriber(pattern(f"{SITE}/:any/{n}")) for n in range(10)]
    for listener in listeners:
        receivers.add(listener)
    assert receivers.listening_to([f"{SITE}/rooms/3"]) == [listeners[3]]
    assert evaluations.total() == 10


@pytest.mark.parametrize("connected", [100, 1000])
def test_a_private_update_asks_the_tokens_of_those_that_match(
    bench: Bench, scopes: Counter[str], connected: int
) -> None:
    readers = [bench.connect(exact(f"{n}"), grant=may_read(exact(f"{n}"))) for n in range(connected)]
    for number in range(0, connected, 10):
        bench.publish(f"{number}", private=True)
    assert sum(len(reader.ids()) for reader in readers) == scopes.total() == connected / 10


def test_a_token_with_many_patterns_tries_few_of_them(evaluations: Counter[str]) -> None:
    scope = Scope([pattern(f"{SITE}/tokens/{n}/:id") for n in range(100)])
    for number in range(100):
        assert scope.covers(f"{SITE}/tokens/{number}/7")
        assert not scope.covers(f"{SITE}/others/{number}/7")
    assert evaluations.total() == 100


def test_a_pattern_that_many_tokens_share_is_tried_once(bench: Bench, evaluations: Counter[str]) -> None:
    shared = pattern(f"{SITE}/shared/:id")
    own = [pattern(f"{SITE}/{n}/:id") for n in range(3)]
    readers = [bench.connect(exact(f"{SITE}/shared/1"), grant=may_read(*own, shared)) for _ in range(50)]
    bench.publish(f"{SITE}/shared/1", private=True)
    assert {tuple(reader.ids()) for reader in readers} == {("1",)}
    assert evaluations == {one.value: 1 for one in (*own, shared)}


def test_the_memory_of_a_pattern_is_of_its_last_topic_only() -> None:
    one = pattern(f"{SITE}/last/:id")
    topics = [f"{SITE}/last/1", f"{SITE}/lost/1", "".join([f"{SITE}/", "last/1"])]
    for topic in topics * 3:
        assert one.matches(topic) is ("last" in topic)


def pauses(bench: Bench, *topics: str, private: bool = False) -> int:
    return bench.dispatch(bench.update(*topics, private=private)) - 1


def test_the_trial_of_one_update_with_many_topics_pauses(bench: Bench) -> None:
    readers = [bench.connect(pattern(f"{SITE}/:any/{n}")) for n in range(40)]
    assert pauses(bench, *[f"{SITE}/{n}/{n}" for n in range(100)]) >= 4
    assert [reader.ids() for reader in readers] == [["1"]] * 40


def test_the_trial_of_many_patterns_for_one_topic_pauses(evaluations: Counter[str]) -> None:
    receivers = Receivers(Pace(limit=2000))
    for number in range(1200):
        receivers.add(subscriber(template(f"{{a}}/{number}")))
    assert len(list(receivers.try_patterns(["x/7"]))) == 3
    assert evaluations.total() == 1200
    assert list(receivers.try_patterns(["x/7"])) == []
    assert len(receivers.listening_to(["x/7"])) == 1


def test_the_decision_about_many_tokens_pauses(bench: Bench, scopes: Counter[str]) -> None:
    readers = [bench.connect(exact("t"), grant=may_read(exact("t"), exact(f"{n}"))) for n in range(1100)]
    assert pauses(bench, "t", private=True) >= 2 + 2
    assert scopes.total() == 1100
    assert {tuple(reader.ids()) for reader in readers} == {("1",)}


def test_many_small_updates_for_many_different_readers_pause(bench: Bench) -> None:
    readers = [bench.connect(exact(f"{n}")) for n in range(10)]
    entries = [bench.update(f"{n % 10}") for n in range(3000)]
    assert bench.dispatch(*entries) > 3
    assert sum(len(reader.ids()) for reader in readers) == 3000


@pytest.mark.parametrize("topics", ["a", "ab"], ids=["same receivers", "different receivers"])
def test_large_updates_pause_after_fewer_writes(bench: Bench, topics: str) -> None:
    for _ in range(100):
        bench.connect(exact("a"), exact("b"))
    entries = [bench.update(topic, data="x" * (1 << 20)) for topic in topics]
    assert bench.dispatch(*entries) >= 100 / 9
    assert bench.dispatch(*[bench.update(topic) for topic in topics]) == 1


def test_many_events_of_sockets_are_handled_some_at_a_time(bench: Bench) -> None:
    readers = [bench.connect(exact("a")) for _ in range(300)]
    while bench.has_news():
        bench.poll()
    for reader in readers:
        reader.close()
    counts = []
    while bench.has_news():
        before = len(bench.gone)
        bench.poll()
        counts.append(len(bench.gone) - before)
    assert sum(counts) == 300
    assert not bench.use_epoll or max(counts) <= 128  # each watcher of the loop is called by itself


class TestChangesInAPause:
    """While patterns are tried or tokens asked, subscribers come and go."""

    @pytest.fixture
    def bench(self, no_descriptor_left: None) -> Iterator[Bench]:
        bench = Bench(EngineLimits(pause_after=1))
        yield bench
        bench.close()

    @pytest.fixture
    def crowd(self, bench: Bench) -> list[Reader]:
        return [bench.connect(pattern(f"{SITE}/:any/{n % 7}")) for n in range(14)]

    def test_a_pattern_that_comes_is_seen(self, bench: Bench, crowd: list[Reader]) -> None:
        """Before the receivers are chosen, so that it does not read the update in the log."""
        joined: list[Reader] = []

        def join(count: int) -> None:
            if count == 1:
                assert bench.engine.dispatched == 0
                joined.append(bench.connect(pattern(f"{SITE}/*/3")))

        entry = bench.update(f"{SITE}/x/3")
        bench.dispatch(entry, between=join)
        bench.publish(f"{SITE}/x/3")
        assert joined[0].ids() == crowd[3].ids() == crowd[10].ids() == ["1", "2"]

    def test_a_pattern_that_goes_is_forgotten(self, bench: Bench, crowd: list[Reader]) -> None:
        def leave(count: int) -> None:
            if count == 1:
                for place in (3, 10):
                    bench.engine.drop(crowd[place].subscriber, LEFT)

        bench.dispatch(bench.update(f"{SITE}/x/3"), between=leave)
        again = bench.connect(pattern(f"{SITE}/:any/3"))
        bench.publish(f"{SITE}/x/3")
        assert crowd[3].ids() == []
        assert again.ids() == ["2"]

    def test_a_subscriber_that_comes_after_the_choice_reads_the_update_in_the_history(
        self, bench: Bench, crowd: list[Reader]
    ) -> None:
        readers = [bench.connect(exact("t"), grant=may_read(exact("t"))) for _ in range(5)]
        seen: list[int] = []
        joined: list[Reader] = []

        def join(count: int) -> None:
            if bench.engine.dispatched and not joined:
                seen.append(bench.engine.dispatched)
                joined.append(bench.connect(exact("t"), grant=may_read(exact("t"))))

        entry = bench.update("t", private=True)
        bench.dispatch(entry, between=join)
        assert seen == [entry.sequence]
        assert joined[0].ids() == []
        assert [reader.ids() for reader in readers] == [ids([entry])] * 5


def test_leaving_with_many_matchers_touches_no_other_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    receivers = Receivers(Pace())
    stays = [subscriber(*[pattern(f"{SITE}/stays/{n}/{k}/:id") for k in range(20)]) for n in range(20)]
    leaves = subscriber(*[pattern(f"{SITE}/leaves/{k}/:id") for k in range(100)])
    for one in (*stays, leaves):
        receivers.add(one)
    matched: list[str] = []
    monkeypatch.setattr(Matcher, "_evaluate", lambda self, *_: matched.append(self.value))
    receivers.remove(leaves)
    assert matched == []
    assert len(receivers._patterns) == 400
