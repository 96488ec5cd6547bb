"""The commands on a history from which retention by topic has discarded updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mercure_hub.storage.address import address_of
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Batch, Resume, Retention, Rule
from mercure_hub.storage.redis.link import RedisLink
from mercure_hub.tools.history.copying import copy
from mercure_hub.tools.history.engines import opened
from mercure_hub.tools.history.history import HistoryError, Selection, prune, select
from tests.engines import RedisServer
from tests.storage.log import Log, beside, until, update

pytestmark = pytest.mark.minutes

HOUR = 3600.0
RULES = (
    Rule("urlpattern", "/answers/:id", max_age=HOUR),
    Rule("urlpattern", "/gauges/:name", size_per_topic=1),
    Rule("urlpattern", "/orders/*", size=4),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mercure.db"


def hub(path: Path, work: Callable[[Log], object], now: float) -> None:
    log = Log(path, Retention(rules=RULES))
    log.now = now
    log.open()
    try:
        work(log)
    finally:
        log.close()


def ids(path: Path) -> list[str]:
    with beside(path) as database:
        return [row[0] for row in database.execute("SELECT id FROM mercure_update ORDER BY sequence")]


def publish(log: Log, *ids: str) -> None:
    log.append(*[update(f"/{one.partition(' ')[0]}s/1", id=one) for one in ids])


@pytest.fixture
def filled(path: Path) -> Iterator[Path]:
    """Of five of each kind, the tokens of the answer and all gauges but the last are gone."""

    def fill(log: Log) -> None:
        publish(log, *[f"{kind} {n}" for n in range(5) for kind in ("answer", "gauge", "other")])

    left = ["other 0", "other 1", "other 2", "other 3", "gauge 4", "other 4"]
    hub(path, fill, 1_000_000.0)
    hub(path, lambda _: until(lambda: ids(path) == left), 1_000_000.0 + 2 * HOUR)
    yield path


def test_what_is_there_can_be_read(filled: Path) -> None:
    with opened(f"sqlite:///{filled}") as history:
        assert [row.update.id for row in select(history, Selection())] == ids(filled)
        found = history.statistics(9)
        assert (found["updates"], found["ever_published"]) == (6, 15)


def test_what_is_pruned_does_not_count_for_its_rule(path: Path) -> None:
    hub(path, lambda log: publish(log, *[f"order {n}" for n in range(4)]), 1_000_000.0)
    hub(path, lambda log: until(lambda: log.store.size().updates == 4 and _is_assigned(path, 4)), 1_001_000.0)
    with opened(f"sqlite:///{path}") as history:
        assert prune(history, Selection(), 3, lambda _: None) == 1
    hub(path, lambda log: publish(log, "order 4"), 1_002_000.0)
    hub(path, lambda _: until(lambda: _is_assigned(path, 5)), 1_003_000.0)
    assert ids(path) == [f"order {n}" for n in range(1, 5)]


def _is_assigned(path: Path, upto: int) -> bool:
    with beside(path) as database:
        (found,) = database.execute("SELECT assigned FROM mercure_retention").fetchone()
        return bool(found == upto)


def test_a_copy_tells_of_what_the_source_discarded(filled: Path, tmp_path: Path) -> None:
    """There it is not known whom it concerns: everybody before it is told."""
    target = tmp_path / "copy.db"
    with opened(f"sqlite:///{filled}") as one, opened(f"sqlite:///{target}", is_made=True) as other:
        assert copy(one, other, lambda _: None).updates == 6
    assert ids(target) == ids(filled)
    link = link_to(address_of(f"sqlite:///{target}"), Retention())
    link.open()
    try:
        before, after = link.resume([Resume(one, 15, None, 100) for one in ("other 0", "other 4")])
        assert before.after is not None
        assert after.after is not None
        assert before.beginning.lacks(before.after, events=False)
        assert not after.beginning.lacks(after.after, events=False)
    finally:
        link.close(is_writer_left=False)


def test_a_copy_goes_on_after_its_last_update_was_discarded(filled: Path, tmp_path: Path) -> None:
    hub(filled, lambda log: publish(log, "gauge 5", "answer 5"), 1_010_000.0)
    target = tmp_path / "copy.db"
    urls = f"sqlite:///{filled}", f"sqlite:///{target}"
    with opened(urls[0]) as one, opened(urls[1], is_made=True) as other:
        copy(one, other, lambda _: None)
    assert ids(target)[-1] == "answer 5"

    def discard(log: Log) -> None:
        publish(log, "gauge 6")
        until(lambda: "answer 5" not in ids(filled))

    hub(filled, discard, 1_020_000.0)
    with opened(urls[0]) as one, opened(urls[1]) as other:
        assert copy(one, other, lambda _: None).updates == 1
    assert ids(target)[-3:] == ["gauge 5", "answer 5", "gauge 6"]
    with beside(filled) as database:
        database.execute("UPDATE mercure_update SET data = x'00'")
    with opened(urls[0]) as one, opened(urls[1]) as other, pytest.raises(HistoryError, match="is not a copy"):
        copy(one, other, lambda _: None)


def test_the_commands_know_what_rules_discarded_in_redis(valkey_engine: RedisServer, tmp_path: Path) -> None:
    url = valkey_engine.url()
    clock = [0.0]

    def discard(kept: Retention) -> None:
        clock[0] += 2 * HOUR
        link = RedisLink(address_of(url), kept, ahead=lambda: clock[0])
        link.open()
        for _ in range(3):
            link.discard()
        link.end_lease(link.node)
        link.close(is_writer_left=False)

    kept = Retention(rules=RULES)
    link = RedisLink(address_of(url), kept)
    link.open()
    names = [f"{kind} {n}" for n in range(5) for kind in ("answer", "gauge", "other", "order")]
    updates = [update(f"/{one.partition(' ')[0]}s/1", id=one) for one in names]
    link.append(Batch(1, updates, [False] * len(updates), ()))
    link.close(is_writer_left=False)
    discard(kept)
    left = [one for one in names if one.startswith("other") or one in ("gauge 4", *names[7::4])]
    with opened(url) as history:
        assert [row.update.id for row in select(history, Selection())] == left
        found = history.statistics(9)
        assert (found["updates"], found["ever_published"]) == (10, 20)
        assert history.marks().updates_gone == 17, "the newest answer"
        target = tmp_path / "copy.db"
        with opened(f"sqlite:///{target}", is_made=True) as other:
            assert copy(history, other, lambda _: None).updates == 10
        assert ids(target) == left
        orders = [row for row in history.page(0, 20, Selection()) if row.update.id in ("order 1", "order 2")]
        assert history.delete(orders) == 2
    link = RedisLink(address_of(url), kept)
    link.open()
    later = [update("/orders/1", id=f"order {n}") for n in range(5, 8)]
    link.append(Batch(1, later, [False] * 3, ()))
    link.close(is_writer_left=False)
    discard(kept)
    with opened(url) as history:
        stored = [row.update.id for row in select(history, Selection())]
    assert [one for one in stored if one.startswith("order")] == [f"order {n}" for n in range(4, 8)]
