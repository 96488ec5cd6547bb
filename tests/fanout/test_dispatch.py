"""Who gets an update: all whom it is for, once, in the order of the log, and nobody else."""

from __future__ import annotations

import logging

import pytest

from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.tokens.grant import Grant
from tests.fanout.bench import LEFT, Bench, Reader, encoded, exact, ids, may_read, pattern, template

SLICE = 512


def test_an_update_reaches_those_that_match(bench: Bench) -> None:
    same, other, everything = bench.connect(exact("a")), bench.connect(exact("b")), bench.connect(exact("*"))
    by_pattern = bench.connect(pattern("https://example.com/:id"))
    by_template = bench.connect(template("https://example.com/{id}"))

    bench.publish("a", data="one")
    bench.publish("https://example.com/7", data="two")

    assert [event.data for event in same.events()] == ["one"]
    assert other.events() == []
    assert [event.data for event in everything.events()] == ["one", "two"]
    assert [event.data for event in by_pattern.events()] == ["two"]
    assert [event.data for event in by_template.events()] == ["two"]


def test_updates_come_in_the_order_of_the_log(bench: Bench) -> None:
    reader = bench.connect(exact("a"), exact("b"))
    entries = [bench.update("ab"[n % 2], data=f"{n}\n{n}") for n in range(50)]
    bench.dispatch(*entries[:20])
    for entry in entries[20:30]:
        bench.dispatch(entry)
    bench.dispatch(*entries[30:])
    assert reader.ids() == ids(entries)
    assert bytes(reader.received) == encoded(entries)


def test_several_topics_and_overlapping_matchers_deliver_once(bench: Bench) -> None:
    reader = bench.connect(
        exact("https://example.com/1"),
        exact("https://example.com/2"),
        exact("https://example.com/1"),
        pattern("https://example.com/:id"),
        pattern("https://example.com/*"),
        template("https://example.com/{id}"),
        exact("*"),
    )
    bench.publish("https://example.com/1", "https://example.com/2", "https://example.com/3")
    bench.dispatch(
        bench.update("https://example.com/1", "https://example.com/2"),
        bench.update("https://example.com/2", "https://example.com/1"),
    )
    assert reader.ids() == ["1", "2", "3"]


def test_a_private_update_needs_a_scope_that_covers_one_of_its_topics(bench: Bench) -> None:
    allowed = bench.connect(exact("a"), grant=may_read(exact("a")))
    by_alternate = bench.connect(exact("a"), grant=may_read(exact("b")))
    by_pattern = bench.connect(exact("*"), grant=may_read(pattern("https://example.com/*")))
    anonymous = bench.connect(exact("a"))
    publisher_only = bench.connect(exact("a"), grant=Grant(publish=Scope((exact("*"),))))
    not_listening = bench.connect(exact("c"), grant=may_read(exact("*")))

    bench.publish("a", private=True)
    bench.publish("a", "b", private=True)
    bench.publish("a", "https://example.com/x", private=True)
    bench.publish("a")

    assert allowed.ids() == ["1", "2", "3", "4"]
    assert by_alternate.ids() == ["2", "4"]
    assert by_pattern.ids() == ["3", "4"]
    assert anonymous.ids() == ["4"]
    assert publisher_only.ids() == ["4"]
    assert not_listening.ids() == []


def test_a_lone_listener_gets_no_private_update_that_its_token_does_not_cover(bench: Bench) -> None:
    anonymous, allowed = bench.connect(exact("a")), bench.connect(exact("b"), grant=may_read(exact("b")))
    for topic in ("a", "b"):
        bench.publish(topic, private=True)
        bench.publish(topic)
    assert anonymous.ids() == ["2"]
    assert allowed.ids() == ["3", "4"]


@pytest.mark.parametrize("listening", [1, 2])
def test_a_private_update_that_nobody_may_read_is_noted(
    bench: Bench, caplog: pytest.LogCaptureFixture, listening: int
) -> None:
    caplog.set_level(logging.INFO, "mercure_hub.fanout")
    for _ in range(listening):
        bench.connect(exact("a"))
    bench.connect(exact("b"), grant=may_read(exact("b")))
    for topic in ("a", "b", "c"):
        bench.publish(topic, private=True)
        bench.publish(topic)
    (noted,) = (one.getMessage() for one in caplog.records if "private" in one.getMessage())
    assert noted.startswith("update 1 is private, and no token covers its topics")
    assert noted.endswith(f"none of {listening} that listen here")


def test_private_and_public_in_one_batch_are_not_mixed_up(bench: Bench) -> None:
    anonymous, allowed = bench.connect(exact("a")), bench.connect(exact("a"), grant=may_read(exact("a")))
    bench.dispatch(
        bench.update("a"),
        bench.update("a", private=True),
        bench.update("a", private=True),
        bench.update("a"),
    )
    assert anonymous.ids() == ["1", "4"]
    assert allowed.ids() == ["1", "2", "3", "4"]


def test_an_update_for_nobody_is_passed_over(bench: Bench) -> None:
    reader = bench.connect(exact("a"))
    bench.dispatch(bench.update("x", data="\n" * 10), bench.update("a"), bench.update("y"))
    assert reader.ids() == ["2"]
    assert bench.engine.dispatched == 3
    bench.dispatch()
    assert bench.engine.dispatched == 3


def test_dispatched_is_the_last_update_whose_receivers_are_chosen(bench: Bench) -> None:
    for _ in range(SLICE + 1):
        bench.connect(exact("a"))
    seen: list[int] = []
    bench.dispatch(
        bench.update("a"), bench.update("a"), between=lambda _: seen.append(bench.engine.dispatched)
    )
    assert seen == [2]


@pytest.mark.parametrize("topics", [["a", "a"], ["a", "b"]], ids=["same receivers", "different receivers"])
class TestSlices:
    """More subscribers than fit into a slice, on both ways through the engine."""

    def crowd(self, bench: Bench) -> list[Reader]:
        return [bench.connect(exact("a"), exact("b")) for _ in range(SLICE * 2 + 3)]

    def test_all_subscribers_get_all_updates(self, bench: Bench, topics: list[str]) -> None:
        readers = self.crowd(bench)
        slices = bench.dispatch(*[bench.update(topic) for topic in topics])
        assert slices == 3
        assert {tuple(reader.ids()) for reader in readers} == {("1", "2")}

    def test_a_subscriber_dropped_between_slices_harms_no_other(
        self, bench: Bench, topics: list[str]
    ) -> None:
        readers = self.crowd(bench)
        leaves = [readers[0], readers[SLICE], readers[SLICE + 1], readers[-1]]

        def drop_some(count: int) -> None:
            if count == 1:
                for reader in leaves:
                    bench.engine.drop(reader.subscriber, LEFT)

        bench.dispatch(*[bench.update(topic) for topic in topics], between=drop_some)
        assert leaves[0].ids() == ["1", "2"]
        assert [reader.ids() for reader in leaves[1:]] == [[], [], []]
        assert {tuple(reader.ids()) for reader in readers if reader not in leaves} == {("1", "2")}
        assert bench.reasons() == ["closed by the client"] * 4

    def test_a_subscriber_whose_connection_broke_is_dropped_in_the_pass(
        self, bench: Bench, topics: list[str]
    ) -> None:
        readers = self.crowd(bench)
        for place in (1, 2, SLICE, SLICE + 5):
            readers[place].close()
        bench.dispatch(*[bench.update(topic) for topic in topics])
        assert bench.reasons() == ["closed by the client"] * 4
        rest = [reader for reader in readers if reader.subscriber.is_connected]
        assert len(rest) == len(readers) - 4 == len(bench.engine)
        assert {tuple(reader.ids()) for reader in rest} == {("1", "2")}

    def test_a_subscriber_that_joins_between_slices_gets_only_later_updates(
        self, bench: Bench, topics: list[str]
    ) -> None:
        self.crowd(bench)
        joined: list[Reader] = []

        def join(count: int) -> None:
            if count == 1:
                joined.append(bench.connect(exact("a"), exact("b")))

        bench.dispatch(*[bench.update(topic) for topic in topics], between=join)
        assert joined[0].ids() == []
        bench.publish("a")
        assert joined[0].ids() == ["3"]

    def test_a_descriptor_used_again_between_slices_gets_nothing_of_the_old(
        self, bench: Bench, topics: list[str]
    ) -> None:
        readers = self.crowd(bench)
        joined: list[Reader] = []

        def replace(count: int) -> None:
            if count == 1:
                old = readers[-1].subscriber.fd
                bench.engine.drop(readers[-1].subscriber, LEFT)
                joined.append(bench.connect(exact("c")))
                assert joined[0].subscriber.fd == old

        bench.dispatch(*[bench.update(topic) for topic in topics], between=replace)
        assert joined[0].read() == b""

    def test_a_held_subscriber_that_starts_between_slices_keeps_the_order(
        self, bench: Bench, topics: list[str]
    ) -> None:
        self.crowd(bench)
        late = bench.connect(exact("a"), exact("b"), start=False)
        bench.engine.hold(late.subscriber)
        bench.publish("a")

        def start(count: int) -> None:
            if count == 1:
                bench.start(late)

        bench.dispatch(*[bench.update(topic) for topic in topics], between=start)
        assert late.ids() == ["1", "2", "3"]


def test_many_updates_are_dispatched_in_several_batches(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(batch=4))
    reader = bench.connect(exact("a"), exact("b"))
    entries = [bench.update("ab"[n % 2]) for n in range(12)]
    assert bench.dispatch(*entries) == 3
    assert reader.ids() == ids(entries)
    bench.close()


def test_the_trial_of_many_patterns_pauses(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(pause_after=20))
    readers = [bench.connect(pattern(f"https://example.com/:any/{n}")) for n in range(5)]
    entries = [bench.update(f"https://example.com/{n}/{n % 5}") for n in range(20)]
    assert bench.dispatch(*entries) > 8
    assert [len(reader.ids()) for reader in readers] == [4] * 5
    bench.close()


def test_a_burst_larger_than_the_buffer_harms_nobody_who_reads(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(buffer=1000))
    reader = bench.connect(exact("*"))
    entries = [bench.update("ab"[n % 2], data="x" * 100) for n in range(40)]
    bench.dispatch(*entries)
    assert bench.gone == []
    assert reader.ids() == ids(entries)
    bench.close()
