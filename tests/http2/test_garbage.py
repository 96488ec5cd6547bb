"""What remains of connections and requests over HTTP/2 is freed at once: cycles would be memory for each."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from mercure_hub.endpoints.request import Request
from mercure_hub.fanout.multiplexed import Multiplexed
from mercure_hub.server.connection import ClientConnection
from mercure_hub.server.http2.receiving import Receiver
from mercure_hub.server.http2.session import Exchange, Session
from tests.http2.client import Connection
from tests.hub.running import running_hub
from tests.storage.log import until

pytestmark = pytest.mark.minutes


LAST = ["Multiplexed", "Receiver", "Session"]  # of one connection without a request


def _left() -> list[str]:
    kinds = (Session, Receiver, Multiplexed, Exchange, Request)
    return sorted(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), kinds))


def test_nothing_waits_for_the_garbage_collector(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        token = hub.token()
        with Connection.to(hub) as first:
            first.publish({"topic": "t"}, token)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                with Connection.to(hub) as connection:
                    streams = [connection.subscribe({"match": "t"}) for _ in range(5)]
                    connection.publish({"topic": "t", "data": "x"}, token)
                    assert [stream.take(1) for stream in streams] == [["x"]] * 5
            with Connection.to(hub) as last:
                for _ in range(100):  # until the hub has noticed that the others left
                    last.publish({"topic": "t"}, token)
                    if _left() == LAST:
                        break
                assert _left() == LAST
        finally:
            gc.enable()


def test_no_connection_waits_for_the_next_one(folder: Path) -> None:
    """The greenlet that served a subscriber's request waits for another connection."""
    with running_hub(folder, anonymous=1) as hub:
        streams = [hub.subscribe({"match": "t"}) for _ in range(3)]
        hub.send("t", "x")
        assert [stream.take(1) for stream in streams] == [["x"]] * 3
        hub.close()
        until(lambda: not any(issubclass(type(one), ClientConnection) for one in gc.get_objects()))
