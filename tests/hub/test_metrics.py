"""Health, readiness and metrics of a running hub."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.monitoring import ready
from mercure_hub.protocol import errors
from mercure_hub.protocol.errors import REFUSALS, Section, StorageError
from mercure_hub.storage.interface import Lag
from mercure_hub.storage.store import Store
from tests.hub.running import HUB_PATH, SECRET, RunningHub, read_reply, running_hub
from tests.hub.websocket import client, messages
from tests.metrics.test_tally import Samples, of, samples
from tests.server.test_workers import ENOUGH, many, workers
from tests.storage.log import until

pytestmark = pytest.mark.minutes

OF_PROXIES = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")

SOURCE = Path(errors.__file__).parents[1]


def scrape(port: int) -> Samples:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: prometheus\r\nConnection: close\r\n\r\n")
        reply = read_reply(sock)[2]
    assert reply.status == 200, reply.text
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(reply.text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum over all workers."""
    return sum(
        value
        for (one, pairs), value in found.items()
        if one == name and labels.items() <= dict(pairs).items()
    )


def wait_for(port: int, name: str, value: float, **labels: str) -> Samples:
    """Scrape until a figure is there."""
    end = time.monotonic() + 20
    while True:
        found = scrape(port)
        if total(found, name, **labels) == value:
            return found
        assert time.monotonic() < end, f"{name} is {total(found, name, **labels)}, not {value}"
        time.sleep(0.01)  # a worker that starts needs the machine too


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_a_hub_that_is_well(hub: RunningHub, path: str) -> None:
    assert (hub.get(path=path).status, hub.get(path=path).text) == (200, "ok\n")
    assert hub.request("POST", path).status == 405


def test_a_hub_without_its_storage_lives_and_is_not_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise StorageError("the disk is gone")

    with running_hub(folder, anonymous=1, metrics=1) as hub:
        assert scrape(hub.port)[("mercure_storage_works", ())] == 1
        monkeypatch.setattr(Store, "check", fails)
        assert [hub.get(path=path).status for path in ("/livez", "/healthz", "/readyz")] == [200, 503, 503]
        found = scrape(hub.port)
        assert found[("mercure_storage_works", ())] == 0
        assert ("mercure_history_updates", ()) not in found
        assert total(found, "mercure_http_answers_total", status="503") == 2


def test_a_hub_that_ends_is_not_ready() -> None:
    lag = Lag(0.0, 0, False)
    broker = SimpleNamespace(is_draining=False, check=lambda: None, lag=lambda: lag, is_relaxed=False)
    hub = cast(Hub, SimpleNamespace(broker=broker))
    assert ready(hub).status == 200
    broker.is_draining = True
    assert ready(hub).status == 503


def test_what_happens_is_counted(folder: Path) -> None:
    with running_hub(folder, anonymous=1, metrics=1, cors_origins="https://a.example") as hub:
        stream = hub.subscribe({"match": "t"})
        with client(hub, {"match": "t"}) as connection:
            for _ in range(3):
                hub.send("t", "x")
            hub.send("elsewhere")
            stream.take(3)
            messages(connection, 3)
            found = wait_for(hub.port, "mercure_delivery_seconds_count", 4)
            assert found[of("mercure_subscribers_connected", transport="sse")] == 1
            assert found[of("mercure_subscribers_connected", transport="websocket")] == 1
        assert found[of("mercure_subscribers_total", transport="sse")] == 1
        assert found[of("mercure_subscribers_total", transport="websocket")] == 1
        assert found[of("mercure_updates_total")] == found[of("mercure_publish_seconds_count")] == 4
        assert found[of("mercure_deliveries_total")] == 6
        assert found[of("mercure_http_answers_total", status="101")] == 1
        assert found[of("mercure_http_answers_total", status="200")] >= 5
        assert found[of("mercure_queue_updates", waiting_for="commit")] == 0
        assert found[("mercure_history_updates", ())] == 4
        assert found[("mercure_history_bytes", ())] >= 4096
        assert found[("mercure_storage_works", ())] == 1
        assert found[of("mercure_process_resident_memory_bytes")] > 10 << 20
        assert found[of("mercure_process_cpu_seconds_total")] > 0
        assert found[of("mercure_process_open_fds")] > 5
        assert found[of("mercure_process_starts_total")] == 1
        assert hub.raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        stream.close()
        found = wait_for(hub.port, "mercure_subscribers_ended_total", 2, reason="client")
        assert found[of("mercure_http_answers_total", status="400")] == 1
        assert total(found, "mercure_subscribers_connected") == 0


def test_a_batch_is_one_request_of_many_updates(folder: Path) -> None:
    with running_hub(folder, metrics=1) as hub:
        reply = hub.request(
            "POST",
            HUB_PATH,
            {"Content-Type": "application/json", "Authorization": f"Bearer {hub.token()}"},
            b'[{"topic": "t"}, {"topic": "t"}, {"topic": "u"}]',
        )
        assert reply.status == 200
        found = wait_for(hub.port, "mercure_delivery_seconds_count", 3)
        assert found[of("mercure_updates_total")] == 3
        assert found[of("mercure_publish_seconds_count")] == 1


def test_every_refusal_of_a_token_can_be_counted() -> None:
    """A section that the code names and the table lacks would be counted as another one."""
    named = set()
    tokens = [f"protocol/tokens/{name}.py" for name in ("access_token", "claims", "grant", "issuer")]
    for file in (*tokens, "endpoints/authorization.py"):
        named |= set(re.findall(r"\bSection\.([A-Z_]+)", (SOURCE / file).read_text(encoding="utf-8")))
    left = [errors.AuthorizationError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        named.add(kind.section.name)
    assert named == {section.name for section in REFUSALS}


def test_refused_tokens_by_cause(folder: Path) -> None:
    with running_hub(folder, metrics=1, protocol="1.0") as hub:
        wrong = RunningHub(hub.port, secret=SECRET + "!")
        for token, cause in (
            (None, Section.TOKEN_MISSING),
            ("x", Section.TOKEN_MALFORMED),
            (wrong.token(), Section.SIGNATURE),
            (hub.token(iss="urn:other"), Section.ISSUER),
            (hub.token(aud="https://other.example/"), Section.AUDIENCE),
            (hub.token(lifetime=-5), Section.TOKEN_EXPIRED),
            (hub.old_token(publish=["*"]), Section.GENERATION),
            (hub.token(authorization_details=5), Section.TOKEN_CLAIMS),
            (hub.token(publish=["other"]), Section.SCOPE),
        ):
            assert cause in REFUSALS
            before = scrape(hub.port)
            assert hub.publish({"topic": "t"}, token).status in (401, 403)
            after = scrape(hub.port)
            key = of("mercure_tokens_refused_total", cause=cause)
            assert after[key] - before[key] == 1, cause
            assert total(after, key[0]) - total(before, key[0]) == 1


class TestWhoIsServed:
    def test_off_unless_asked_for(self, hub: RunningHub) -> None:
        assert hub.get(path="/metrics").status == 404

    def test_not_through_a_proxy(self, folder: Path) -> None:
        with running_hub(folder, metrics=1) as hub:
            assert hub.get(path="/metrics").status == 200
            for field in (*OF_PROXIES, "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Client-IP", "CF-Ray"):
                assert hub.request("GET", "/metrics", {field: "192.0.2.1"}).status == 404
                assert hub.request("GET", "/livez", {field: "192.0.2.1"}).status == 200

    def test_an_address_of_its_own(self, folder: Path) -> None:
        port = free_port()
        with running_hub(folder, anonymous=1, metrics_listen=f"127.0.0.1:{port}") as hub:
            watched = RunningHub(port)
            assert scrape(port)[of("mercure_updates_total")] == 0
            assert [watched.get(path=path).status for path in ("/healthz", "/livez", "/readyz")] == [200] * 3
            assert watched.get({"match": "t"}).status == 404
            assert watched.publish({"topic": "t"}).status == 405
            assert hub.get(path="/metrics").status == 404

    def test_an_address_that_is_taken(self, folder: Path) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(Exception, match="MERCURE_METRICS_LISTEN"),
            running_hub(folder, metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}"),
        ):
            pass


def test_any_worker_answers_for_all_and_counters_outlive_them(folder: Path) -> None:
    port = free_port()
    with workers(folder, 2, MERCURE_METRICS_LISTEN=f"127.0.0.1:{port}") as hub:
        streams = many(hub)
        for number in range(10):
            hub.send("t", str(number))
        for stream in streams:
            stream.take(10)
        found = wait_for(port, "mercure_deliveries_total", 10 * ENOUGH)
        found = wait_for(port, "mercure_subscribers_connected", ENOUGH)
        assert all(found[of("mercure_subscribers_connected", one, transport="sse")] > 0 for one in (0, 1))
        assert total(found, "mercure_updates_total") == 10
        starts = total(found, "mercure_process_starts_total")  # with that of the feeder, if there is one
        os.kill(hub.pids[-1], signal.SIGKILL)
        hub.wait_for_log("it is replaced")
        found = wait_for(port, "mercure_process_starts_total", starts + 1)
        assert total(found, "mercure_deliveries_total") == 10 * ENOUGH
        assert total(found, "mercure_updates_total") == 10
        until(lambda: 0 < total(scrape(port), "mercure_subscribers_connected") < ENOUGH)
