"""Retention by topic in a hub with workers, and what subscribers are told (docs/history.md)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure_hub.storage import trimming
from tests.hub.running import RunningHub, running_hub
from tests.hub.test_process import process
from tests.storage.log import beside, until

pytestmark = [pytest.mark.minutes, pytest.mark.sqlite("looks into its file")]

RULES = """
[[retention]]
match_urlpattern = "/answers/:id"
max_age = 3600

[[retention]]
match_urlpattern = "/orders/*"
max_age = 2592000

[[retention]]
match_urlpattern = "/gauges/:name"
size_per_topic = 1
"""


class Aged:
    """A hub on a history that can be made older.

    :param folder: of the database.
    """

    def __init__(self, hub: RunningHub, folder: Path) -> None:
        self.hub = hub
        (self._path,) = folder.glob("*.db")

    def pass_time(self, seconds: float) -> None:
        """Make everything older, and wait until nothing more goes."""
        with beside(self._path) as database:
            database.execute("UPDATE mercure_update SET published_at = published_at - ?", (seconds,))

            def is_assigned() -> bool:
                (left,) = database.execute(
                    "SELECT count(*) FROM mercure_update, mercure_retention "
                    "WHERE sequence > assigned AND event_bytes IS NULL"
                ).fetchone()
                return bool(left == 0)

            until(is_assigned)

    def wait_for(self, *ids: str) -> None:
        """Wait until the history has these updates and no others."""
        with beside(self._path) as database:
            statement = "SELECT id FROM mercure_update WHERE event_bytes IS NULL ORDER BY sequence"
            until(lambda: [row[0] for row in database.execute(statement)] == list(ids))

    def cursor(self, cursor: str, **query: object) -> str:
        """What a subscriber is told about its position."""
        stream = self.hub.subscribe({**query, "last_event_id": cursor})
        stream.close()
        return stream.reply.headers["mercure-last-event-id"]


@pytest.fixture
def two_workers(folder: Path) -> Iterator[Aged]:
    (folder / "hub.toml").write_text(RULES)
    with process(folder, MERCURE_WORKERS="2", MERCURE_CONFIG=str(folder / "hub.toml")) as (_, hub):
        yield Aged(hub, folder)
        hub.close()


def test_each_topic_has_its_retention_and_gaps_concern_their_own(two_workers: Aged) -> None:
    hub = two_workers.hub
    order = hub.send("/orders/1", "order")
    tokens = [hub.send("/answers/7", f"token {n}") for n in range(30)]
    gauges = [hub.send("/gauges/power", str(n)) for n in range(3)]
    later = hub.send("/orders/2", "later")
    two_workers.pass_time(120)
    two_workers.wait_for(order, *tokens, gauges[-1], later)
    two_workers.pass_time(3600)
    two_workers.wait_for(order, gauges[-1], later)
    for _ in range(4):  # whichever worker answers
        for query in ({"match": "/orders/1"}, {"match_urlpattern": "/orders/*"}, {"match": "/answers/8"}):
            assert two_workers.cursor(order, **query) == order
        for query in ({"match": "/answers/7"}, {"match_urlpattern": "/answers/:id"}, {"match": "*"}):
            assert two_workers.cursor(order, **query) == "earliest"
        both = ["/answers/7", "/orders/2"]
        assert two_workers.cursor(tokens[-1], match=both) == tokens[-1]
        assert hub.subscribe({"match": both, "last_event_id": tokens[-1]}).take(1) == ["later"]
        assert hub.subscribe({"match": both, "last_event_id": tokens[0]}).take(1) == ["later"]
        assert two_workers.cursor(tokens[0], match=both) == "earliest"
        stream = hub.subscribe({"match_urlpattern": "/:kind/:id", "last_value": "1"})
        assert stream.take(3) == ["order", "2", "later"]
        stream.close()


def test_the_last_value_is_kept_for_ever(two_workers: Aged) -> None:
    hub = two_workers.hub
    gauges = [hub.send(f"/gauges/{n % 2}", str(n)) for n in range(10)]
    two_workers.pass_time(400 * 86400)
    two_workers.wait_for(*gauges[-2:])
    assert hub.subscribe({"match_urlpattern": "/gauges/:x", "last_event_id": "earliest"}).take(2) == [
        "8",
        "9",
    ]


def test_other_rules_after_a_restart(folder: Path) -> None:
    config = folder / "hub.toml"
    config.write_text(RULES)
    with process(folder, MERCURE_CONFIG=str(config)) as (_, hub):
        gauges = [hub.send("/gauges/a", str(n)) for n in range(3)]
        orders = [hub.send("/orders/1", str(n)) for n in range(3)]
        aged = Aged(hub, folder)
        aged.pass_time(120)
        aged.wait_for(gauges[-1], *orders)
        hub.close()
    config.write_text('[[retention]]\nmatch_urlpattern = "/orders/*"\nsize_per_topic = 2\n')
    with process(folder, MERCURE_CONFIG=str(config)) as (_, hub):
        aged = Aged(hub, folder)
        aged.wait_for(gauges[-1], *orders[1:])
        assert aged.cursor(orders[0], match="/gauges/a") == orders[0]
        assert aged.cursor(gauges[0], match="/gauges/a") == "earliest"
        assert aged.cursor(gauges[-1], match="/orders/1") == "earliest"
        hub.close()


def test_a_subscriber_that_was_told_of_a_gap_gets_all_that_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rules discard while it reads does not end its stream again and again."""
    monkeypatch.setattr(trimming, "SETTLED", 0.0)
    monkeypatch.setattr("mercure_hub.storage.sqlite.link.SqliteLink.discard_interval", 0.0)
    (folder / "hub.toml").write_text(RULES)
    with running_hub(folder, anonymous=1, config=folder / "hub.toml") as hub:
        is_over = threading.Event()

        def publish() -> None:
            number = 0
            while not is_over.is_set():
                hub.send(f"/gauges/{number % 5}", f"{number}")
                number += 1

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            rounds = ends = 0
            while rounds < 20:
                stream = hub.subscribe({"match_urlpattern": "/gauges/:x", "last_event_id": "long ago"})
                assert stream.reply.headers["mercure-last-event-id"] == "earliest"
                try:
                    numbers = [int(data) for data in stream.take(20)]
                except EOFError:  # the machine stood still for so long that what came since is gone, too
                    ends += 1
                    assert ends < 10
                    continue
                assert numbers == sorted(set(numbers))
                assert numbers[-10:] == list(range(numbers[-10], numbers[-10] + 10))
                stream.close()
                rounds += 1
        finally:
            is_over.set()
            publisher.join()
