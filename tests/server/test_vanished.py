"""Clients that are out of reach all at once, and cannot say that they leave."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest

from chaos.hosts import Host
from tests.server.test_workers import API, Workers, workers

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("other_hosts")]

REQUEST = "GET /.well-known/mercure?match=t HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE = 30.0  # seconds


def present(hub: Workers) -> int:
    """How many subscriptions the API lists."""
    token = hub.token(subscribe=[{"match": API}])
    found = json.loads(hub.get(path=API, token=token).body)["subscriptions"]
    return len(found)


def wait_until_present(hub: Workers, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while present(hub) != count:
        assert time.monotonic() < deadline, f"{present(hub)} are listed as present"
        time.sleep(0.1)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.linux("TCP_USER_TIMEOUT")
def test_a_client_whose_link_is_cut_is_not_listed_for_long(folder: Path, count: int) -> None:
    """The kernel alone would take a quarter of an hour to notice."""
    everywhere = workers(
        folder, count, MERCURE_LISTEN="0.0.0.0:0", MERCURE_SUBSCRIPTIONS="1", MERCURE_HEARTBEAT="1"
    )
    with Host() as host, everywhere as hub, contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(host.connect(hub.port))
            sock.sendall(REQUEST.encode())
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        with hub.subscribe({"match": "t"}).sock:
            wait_until_present(hub, 4)
            with host.outage():
                wait_until_present(hub, 1)
