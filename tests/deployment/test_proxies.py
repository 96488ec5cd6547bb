"""The hub behind a real nginx and a real Caddy, configured by what ``mercure-hub install`` prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deployment.caddy import Caddy, running_caddy
from tests.deployment.front import Front, curl, free_ports, wait_until
from tests.deployment.nginx import Nginx, running_nginx
from tests.deployment.site import hub_process, make_sources, readable_folder
from tests.deployment.test_apache import (
    METADATA,
    ORDER,
    check_figures_stay_inside,
    check_names,
    check_refusal,
    check_websocket,
    pay,
    subscriptions,
    token,
)
from tests.hub.running import RunningHub
from tests.needs import need

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shop() -> Iterator[Path]:
    """The folder of the application."""
    with readable_folder() as folder:
        make_sources(folder)
        yield folder


@pytest.fixture(scope="module")
def hub_port() -> int:
    """Each test has a hub of its own there."""
    return free_ports(1)[0]


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, shop: Path, hub_port: int) -> Iterator[Nginx | Caddy]:
    """Each of the proxies, with the application behind it."""
    need(request.param)
    running = running_nginx if request.param == "nginx" else running_caddy
    with running(shop, hub_port) as front:
        yield front


@pytest.fixture
def hub(front: Front, shop: Path, hub_port: int, folder: Path) -> Iterator[RunningHub]:
    """The hub, as seen on its own port."""
    with hub_process(folder, hub_port, front.public_url, shop, MERCURE_SUBSCRIPTIONS="1") as running:
        yield running


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_application_publishes_and_a_browser_reads_at_once(
    front: Front, hub: RunningHub, scheme: str
) -> None:
    with front.follow(ORDER, scheme, Cookie=front.cookie(), Accept_Encoding="gzip, br") as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert "Content-Encoding" not in stream.response.headers
        for number in range(5):
            started = time.monotonic()
            id_ = pay(front, f"s{number}")
            event = stream.next()
            assert (event.data, event.id) == (f"s{number}", id_)
            assert time.monotonic() - started < 20, "the hub sends heartbeats each 40 s"


def test_http_2(front: Front, hub: RunningHub) -> None:
    """Many streams on one connection is what a browser with many tabs has."""
    headers = ("-H", f"Cookie: {front.cookie()}", "-H", "Accept-Encoding: gzip, br")
    with curl("--http2", "-i", *headers, f"{front.public_url}?{ORDER}") as output:
        assert output.readline().startswith(b"HTTP/2 200")
        for number in range(5):
            pay(front, f"s{number}")
            while (line := output.readline()) != f"data: s{number}\n".encode():
                assert line, "the stream ended"


def test_refusals_and_names_and_what_was_missed(front: Front, hub: RunningHub, shop: Path) -> None:
    check_refusal(front)
    first = pay(front, "s0")
    pay(front, "s1")
    with front.follow(ORDER, Cookie=front.cookie(), Last_Event_ID=first) as stream:
        assert stream.next().data == "s1"
        check_names(front, hub, shop)


def test_a_thousand_streams_and_a_reload(front: Nginx | Caddy, hub: RunningHub) -> None:
    cookie, idle = front.cookie(), _page_time(front)
    with ExitStack() as stack:
        streams = [stack.enter_context(front.follow(ORDER, "http", Cookie=cookie)) for _ in range(1000)]
        busy = _page_time(front)
        assert busy < max(5 * idle, 0.5)
        pay(front, "before")
        assert {stream.next().data for stream in streams} == {"before"}
        front.reload()
        late = stack.enter_context(front.follow(ORDER, Cookie=front.cookie()))
        pay(front, "after")
        assert {stream.next().data for stream in (*streams, late)} == {"after"}


def _page_time(front: Front) -> float:
    """Seconds for a page of the application, the best of some."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        assert front.fetch("/")[0] == 200
        times.append(time.monotonic() - started)
    return min(times)


def test_who_leaves_is_noticed(front: Front, shop: Path, hub_port: int, folder: Path) -> None:
    settings = {"MERCURE_SUBSCRIPTIONS": "1", "MERCURE_HEARTBEAT": "1"}
    with hub_process(folder, hub_port, front.public_url, shop, **settings) as hub:
        with front.follow(ORDER, Cookie=front.cookie()):
            assert len(subscriptions(hub, front, shop)) == 1
        wait_until(lambda: not subscriptions(hub, front, shop), "the subscriber is still there", 6)


def test_a_hub_that_was_restarted_is_found_at_once(
    front: Front, shop: Path, hub_port: int, folder: Path
) -> None:
    assert front.fetch(f"{front.path}?{ORDER}")[0] in (502, 503)
    with hub_process(folder, hub_port, front.public_url, shop):
        assert front.fetch(f"{front.path}?{ORDER}")[0] == 401


def test_a_client_does_not_choose_the_public_url(
    front: Front, shop: Path, hub_port: int, folder: Path
) -> None:
    """A hub without MERCURE_PUBLIC_URL takes it from the proxy."""
    with hub_process(folder, hub_port, "", shop):
        for headers in ({}, {"X_Forwarded_Host": "elsewhere.example"}, {"X_Forwarded_Proto": "http"}):
            _, _, text = front.fetch(METADATA + front.path, **headers)
            assert json.loads(text)["resource"] == front.public_url
        bearer = f"Bearer {token(shop, 'https://elsewhere.example/.well-known/mercure')}"
        headers = {"Authorization": bearer, "X_Forwarded_Host": "elsewhere.example"}
        assert front.fetch(f"{front.path}?{ORDER}", **headers)[0] == 401


def test_a_websocket_goes_through(front: Front, hub: RunningHub) -> None:
    check_websocket(front)


def test_the_figures_stay_inside(front: Front, shop: Path, hub_port: int, folder: Path) -> None:
    with hub_process(folder, hub_port, front.public_url, shop, MERCURE_METRICS="1") as own:
        check_figures_stay_inside(front, own)


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
@pytest.mark.parametrize(
    ("path", "is_tls"), [("/.well-known/mercure", True), ("/hub", False), ("/hub/", False)]
)
def test_the_other_files(
    shop: Path, hub_port: int, folder: Path, proxy: str, path: str, is_tls: bool
) -> None:
    need(proxy)
    settings = {"MERCURE_SUBSCRIPTIONS": "1"}
    if is_tls:
        settings["MERCURE_TLS_CERT"] = str(shop / "self-signed.pem")
    running = running_nginx if proxy == "nginx" else running_caddy
    with (
        running(shop, hub_port, path, is_tls=is_tls) as front,
        hub_process(folder, hub_port, front.public_url, shop, **settings) as hub,
        front.follow(ORDER, Cookie=front.cookie()) as stream,
    ):
        assert stream.response.status == 200
        for number in range(3):
            pay(front, f"s{number}")
            assert stream.next().data == f"s{number}"
        check_refusal(front)
        check_names(front, hub, shop)


def test_the_application_under_uwsgi(shop: Path, hub_port: int, folder: Path) -> None:
    need("nginx")
    with (
        running_nginx(shop, hub_port, uwsgi=True) as front,
        hub_process(folder, hub_port, front.public_url, shop),
        front.follow(ORDER, Cookie=front.cookie()) as stream,
    ):
        id_ = pay(front, "paid")
        event = stream.next()
        assert (event.data, event.id) == ("paid", id_)
