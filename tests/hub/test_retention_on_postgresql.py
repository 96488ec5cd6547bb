"""Retention by topic on PostgreSQL, where the workers read the history from the server (docs/history.md)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.engines import PostgresqlServer
from tests.hub.test_process import process
from tests.hub.test_retention import RULES
from tests.storage.log import until

pytestmark = pytest.mark.servers


def test_each_topic_has_its_retention(folder: Path, postgresql_engine: PostgresqlServer) -> None:
    url = postgresql_engine.url()
    (folder / "hub.toml").write_text(RULES)
    variables = {"MERCURE_CONFIG": str(folder / "hub.toml"), "MERCURE_TRANSPORT_URL": url}
    with process(folder, MERCURE_WORKERS="2", **variables) as (_, hub):
        order = hub.send("/orders/1", "order")
        tokens = [hub.send("/answers/7", f"token {n}") for n in range(30)]
        gauges = [hub.send("/gauges/power", str(n)) for n in range(3)]
        later = hub.send("/orders/2", "later")
        with psycopg.connect(url, autocommit=True) as database:
            database.execute("UPDATE mercure_update SET published_at = published_at - 7200")
            statement = "SELECT id FROM mercure_update ORDER BY sequence"
            expected = [order, gauges[-1], later]
            until(lambda: [row[0] for row in database.execute(statement)] == expected)

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
