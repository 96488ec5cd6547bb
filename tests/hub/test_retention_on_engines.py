"""Retention by topic where the workers read the history from a server of an engine (docs/history.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from mercure_hub.storage.address import address_of
from mercure_hub.storage.interface import Retention, Rule
from mercure_hub.storage.redis.link import RedisLink
from tests.engines import PostgresqlServer, RedisServer
from tests.hub.test_process import process
from tests.hub.test_retention import RULES
from tests.storage.log import until

pytestmark = pytest.mark.servers

HOURS = 7200.0
THE_SAME = (
    Rule("urlpattern", "/answers/:id", max_age=3600.0),
    Rule("urlpattern", "/orders/*", max_age=2592000.0),
    Rule("urlpattern", "/gauges/:name", size_per_topic=1),
)


def test_on_postgresql(folder: Path, postgresql_engine: PostgresqlServer) -> None:
    url = postgresql_engine.url()

    def age(expected: list[str]) -> None:
        with psycopg.connect(url, autocommit=True) as database:
            database.execute("UPDATE mercure_update SET published_at = published_at - 7200")
            statement = "SELECT id FROM mercure_update ORDER BY sequence"
            until(lambda: [row[0] for row in database.execute(statement)] == expected)

    _each_topic_has_its_retention(folder, url, age)


def test_on_valkey(folder: Path, valkey_engine: RedisServer) -> None:
    url = valkey_engine.url()

    def age(expected: list[str]) -> None:
        other = RedisLink(address_of(url), Retention(rules=THE_SAME), ahead=lambda: HOURS)
        other.open()
        for _ in range(3):
            other.discard()
        assert [one.update.id for one in other.after(0, 99, 1 << 20)] == expected
        other.close(is_writer_left=False)

    _each_topic_has_its_retention(folder, url, age)


def _each_topic_has_its_retention(folder: Path, url: str, age: Callable[[list[str]], None]) -> None:
    """Publish, let two hours pass, and read what is left.

    :param age: lets them pass, and checks that exactly these updates are left.
    """
    (folder / "hub.toml").write_text(RULES)
    variables = {"MERCURE_CONFIG": str(folder / "hub.toml"), "MERCURE_TRANSPORT_URL": url}
    with process(folder, MERCURE_WORKERS="2", **variables) as (_, hub):
        order = hub.send("/orders/1", "order")
        tokens = [hub.send("/answers/7", f"token {n}") for n in range(30)]
        gauges = [hub.send("/gauges/power", str(n)) for n in range(3)]
        later = hub.send("/orders/2", "later")
        age([order, gauges[-1], later])

        def told(cursor: str, **query: object) -> str:
            stream = hub.subscribe({**query, "last_event_id": cursor})
            stream.close()
            return stream.reply.headers["mercure-last-event-id"]

        for _ in range(4):  # whichever worker answers
            for query in ({"match": "/orders/1"}, {"match_urlpattern": "/orders/*"}, {"match": "/answers/8"}):
                assert told(order, **query) == order
            for query in ({"match": "/answers/7"}, {"match_urlpattern": "/answers/:id"}, {"match": "*"}):
                assert told(order, **query) == "earliest"
            both = ["/answers/7", "/orders/2"]
            stream = hub.subscribe({"match": both, "last_event_id": tokens[-1]})
            assert stream.reply.headers["mercure-last-event-id"] == tokens[-1]
            assert stream.take(1) == ["later"]
            stream = hub.subscribe({"match_urlpattern": "/:kind/:id", "last_value": "1"})
            assert stream.take(3) == ["order", "2", "later"]
        hub.close()
