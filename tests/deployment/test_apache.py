"""The hub behind a real Apache, configured by the files of docs/apache as they are shipped.

The application runs under mod_wsgi and has an RSA key pair, of which the hub knows the public half.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus

from flask_mercure import EVERYTHING
from flask_mercure.tokens import TokenFactory
from mercure_hub.protocol.tokens.keys import load
from tests.deployment import site
from tests.deployment.front import Front, curl, free_ports, wait_until
from tests.deployment.site import (
    TOPIC,
    Apache,
    hub_process,
    make_sources,
    readable_folder,
    running_apache,
)
from tests.hub.running import TIMEOUT, RunningHub
from tests.hub.websocket import client, end, messages

pytestmark = pytest.mark.servers

METADATA = "/.well-known/oauth-protected-resource"
ORDER = "match=" + quote(TOPIC, safe="")


@pytest.fixture(scope="module")
def shop(environment: Path) -> Iterator[Path]:
    """The folder of the application."""
    with readable_folder() as folder:
        (folder / "venv").symlink_to(environment)
        make_sources(folder)
        yield folder


@pytest.fixture(scope="module")
def hub_port() -> int:
    """Each test has a hub of its own there."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def apache(shop: Path, hub_port: int) -> Iterator[Apache]:
    """Apache with mercure.conf and mpm.conf."""
    with running_apache(shop, hub_port) as running:
        yield running


@pytest.fixture
def hub(apache: Apache, shop: Path, hub_port: int, folder: Path) -> Iterator[RunningHub]:
    """The hub, as seen on its own port."""
    with hub_process(folder, hub_port, apache.public_url, shop, MERCURE_SUBSCRIPTIONS="1") as running:
        yield running


def token(shop: Path, *audience: str) -> str:
    """For everything."""
    key = load((shop / "private.pem").read_text(), "", purpose="sign", exists=os.path.exists)
    factory = TokenFactory(
        issuer="urn:flask-mercure",
        audience=audience,
        publisher_key=key,
        subscriber_key=key,
        protocol="1.0",
        lifetime=600,
    )
    return factory.create(subscribe=EVERYTHING)


def pay(apache: Front, state: str) -> str:
    """Have the application publish, by the hub's internal URL; returns the id of the update."""
    status, _, text = apache.fetch("/pay", "POST", f"state={state}")
    assert status == 200, text + apache.log()
    return text


def subscriptions(hub: RunningHub, apache: Front, shop: Path) -> list[dict[str, Any]]:
    """Who is connected, by the hub itself."""
    path = f"{apache.path.rstrip('/')}/subscriptions"
    reply = hub.get(path=path, token=token(shop, apache.public_url))
    assert reply.status == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["subscriptions"]
    return found


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_application_publishes_and_a_browser_reads_at_once(
    apache: Apache, hub: RunningHub, scheme: str
) -> None:
    with apache.follow(ORDER, scheme, Cookie=apache.cookie(), Accept_Encoding="gzip, br") as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert "Content-Encoding" not in stream.response.headers
        for number in range(5):  # nothing comes after an event that could push it through but a heartbeat
            started = time.monotonic()
            id_ = pay(apache, f"s{number}")
            event = stream.next()
            assert (event.data, event.id) == (f"s{number}", id_)
            assert time.monotonic() - started < 20, "the hub sends heartbeats each 40 s"
    _, headers, _ = apache.fetch("/", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip", "the site of this test is meant to compress"


def test_http_2(apache: Apache, hub: RunningHub) -> None:
    headers = ("-H", f"Cookie: {apache.cookie()}", "-H", "Accept-Encoding: gzip, br")
    with curl("--http2", "-i", *headers, f"{apache.public_url}?{ORDER}") as output:
        assert output.readline().startswith(b"HTTP/2 200")
        for number in range(5):
            pay(apache, f"s{number}")
            while (line := output.readline()) != f"data: s{number}\n".encode():
                assert line, "the stream ended"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_compressed_stream_passes_unharmed(
    apache: Apache, shop: Path, hub_port: int, folder: Path, version: str
) -> None:
    """curl asks for what it can decode, zstd among it, and decodes as it reads."""
    with hub_process(folder, hub_port, apache.public_url, shop, MERCURE_COMPRESSION="zstd"):
        headers = ("--compressed", "-H", f"Cookie: {apache.cookie()}")
        with curl(version, "-i", *headers, f"{apache.public_url}?{ORDER}") as output:
            head = b"".join(iter(output.readline, b"\r\n")).lower()
            assert b"content-encoding: zstd" in head
            for state in ("s0", "s1" * 1000, "s2"):
                pay(apache, state)
                while (line := output.readline()) != f"data: {state}\n".encode():
                    assert line, "the stream ended"


def test_without_a_cookie(apache: Apache, hub: RunningHub) -> None:
    check_refusal(apache)


def check_refusal(apache: Front) -> None:
    """It leads to the metadata, and these are there."""
    status, headers, _ = apache.fetch(f"{apache.path}?{ORDER}")
    assert status == 401
    metadata = METADATA + apache.path
    origin = apache.public_url.removesuffix(apache.path)
    assert f'resource_metadata="{origin}{metadata}"' in headers["WWW-Authenticate"]
    status, _, text = apache.fetch(metadata)
    assert (status, json.loads(text)["resource"]) == (200, apache.public_url)


def test_a_browser_reconnects_and_misses_nothing(apache: Apache, hub: RunningHub) -> None:
    first = pay(apache, "s0")
    pay(apache, "s1")
    pay(apache, "s2")
    with apache.follow(ORDER, Cookie=apache.cookie(), Last_Event_ID=first) as stream:
        assert [stream.next().data for _ in range(2)] == ["s1", "s2"]


def test_names_of_subscriptions_pass_unchanged(apache: Apache, hub: RunningHub, shop: Path) -> None:
    with apache.follow(ORDER, Cookie=apache.cookie()):
        check_names(apache, hub, shop)


def check_names(apache: Front, hub: RunningHub, shop: Path) -> None:
    """They hold an encoded slash, which Apache refuses by default."""
    (found,) = subscriptions(hub, apache, shop)
    assert quote(TOPIC, safe="") in found["id"]
    bearer = f"Bearer {token(shop, apache.public_url)}"
    status, _, text = apache.fetch(found["id"], Authorization=bearer)
    assert status == 200, text
    assert json.loads(text)["id"] == found["id"]


def test_tokens_stay_out_of_the_logs(apache: Apache, hub: RunningHub, folder: Path) -> None:
    """The marker is a word of its own: what does not look like a token has to go, too."""
    before = apache.log("access.log").count("GET")
    status, _, _ = apache.fetch(f"{apache.path}?topic=a&authorization=hush-hush")
    assert status == 401
    wait_until(lambda: apache.log("access.log").count("GET") > before, "no line in the access log")
    assert "hush-hush" not in apache.log("access.log")
    wait_until(
        lambda: "authorization=[redacted]" in (folder / "hub.log").read_text(), "no line in the hub's log"
    )
    assert "hush-hush" not in (folder / "hub.log").read_text()


def test_three_hundred_streams_and_a_reload(apache: Apache, hub: RunningHub) -> None:
    """Debian's own numbers end at 150, and the site hangs."""
    cookie = apache.cookie()
    with ExitStack() as stack:
        streams = [stack.enter_context(apache.follow(ORDER, Cookie=cookie)) for _ in range(300)]
        started = time.monotonic()
        assert apache.fetch("/")[0] == 200
        assert time.monotonic() - started < 20
        pay(apache, "before")
        assert {stream.next().data for stream in streams} == {"before"}
        apache.reload()
        late = stack.enter_context(apache.follow(ORDER, Cookie=apache.cookie()))
        pay(apache, "after")
        assert {stream.next().data for stream in (*streams, late)} == {"after"}


def test_browsers_with_six_streams_each_over_http_2(apache: Apache, hub: RunningHub, shop: Path) -> None:
    """A browser has one connection, which holds a thread, and each of its streams holds an H2 worker."""
    browsers, tabs = 140, 6
    names = (
        f"https://browser[1-{browsers // 4}].test:{apache.https}/.well-known/mercure?{ORDER}&tab=[1-{tabs}]"
    )
    options = ("--http2", "--parallel", "--parallel-max", str(browsers // 4 * tabs))
    resolve = ("--resolve", f"*:{apache.https}:127.0.0.1")  # names of one server: a connection for each
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(curl(*options, *resolve, "-H", f"Cookie: {apache.cookie()}", names))
        wait_until(
            lambda: len(subscriptions(hub, apache, shop)) == browsers * tabs,
            "not all streams are open",
            seconds=60,
        )
        for _ in range(10):
            with curl("--http2", "--max-time", "5", f"https://127.0.0.1:{apache.https}/") as output:
                assert output.read()


def test_who_leaves_is_noticed(apache: Apache, shop: Path, hub_port: int, folder: Path) -> None:
    settings = {"MERCURE_SUBSCRIPTIONS": "1", "MERCURE_HEARTBEAT": "1"}
    with hub_process(folder, hub_port, apache.public_url, shop, **settings) as hub:
        with apache.follow(ORDER, Cookie=apache.cookie(), X_Forwarded_For="203.0.113.9"):
            assert len(subscriptions(hub, apache, shop)) == 1
        wait_until(lambda: not subscriptions(hub, apache, shop), "the subscriber is still there", 6)
    assert "203.0.113.9" in (folder / "hub.log").read_text()


def test_a_hub_that_was_restarted_is_found_at_once(
    apache: Apache, shop: Path, hub_port: int, folder: Path
) -> None:
    assert apache.fetch(f"{apache.path}?{ORDER}")[0] == 503
    with hub_process(folder, hub_port, apache.public_url, shop):
        assert apache.fetch(f"{apache.path}?{ORDER}")[0] == 401


def test_a_client_does_not_choose_the_public_url(
    apache: Apache, shop: Path, hub_port: int, folder: Path
) -> None:
    """A hub without MERCURE_PUBLIC_URL takes it from Apache."""
    with hub_process(folder, hub_port, "", shop):
        for headers in ({}, {"X_Forwarded_Host": "elsewhere.example"}, {"X_Forwarded_Proto": "http"}):
            _, _, text = apache.fetch(METADATA + apache.path, **headers)
            assert json.loads(text)["resource"] == apache.public_url
        bearer = f"Bearer {token(shop, 'https://elsewhere.example/.well-known/mercure')}"
        headers = {"Authorization": bearer, "X_Forwarded_Host": "elsewhere.example"}
        assert apache.fetch(f"{apache.path}?{ORDER}", **headers)[0] == 401


@pytest.mark.parametrize(
    ("fragment", "path"),
    [
        ("mercure-tls.conf", "/.well-known/mercure"),
        ("mercure-prefix.conf", "/hub/"),
        ("mercure-prefix.conf", "/hub"),
    ],
)
def test_the_other_fragments(shop: Path, hub_port: int, folder: Path, fragment: str, path: str) -> None:
    settings = {"MERCURE_SUBSCRIPTIONS": "1"}
    if "tls" in fragment:
        settings["MERCURE_TLS_CERT"] = str(shop / "self-signed.pem")
    with (
        running_apache(shop, hub_port, fragment, path) as apache,
        hub_process(folder, hub_port, apache.public_url, shop, **settings) as hub,
        apache.follow(ORDER, Cookie=apache.cookie()) as stream,
    ):
        assert stream.response.status == 200
        for number in range(3):
            pay(apache, f"s{number}")
            assert stream.next().data == f"s{number}"
        check_refusal(apache)
        check_names(apache, hub, shop)
        # By a name that the hub's certificate does not have.
        assert apache.fetch(f"{apache.path}?{ORDER}", Host="example.com")[0] == 401


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of docs/apache, to change."""
    with readable_folder() as parent:
        shutil.copytree(site.SHIPPED, parent / "apache")
        monkeypatch.setattr(site, "SHIPPED", parent / "apache")
        yield parent / "apache"


def test_a_prefix_that_is_stripped(shop: Path, hub_port: int, folder: Path, shipped: Path) -> None:
    page = site.PAGE.read_text().partition("**strip** a prefix")[2]
    lines = [line[4:] for line in page.partition("`ProxyPass")[0].splitlines() if line.startswith("    ")]
    (shipped / "mercure.conf").write_text("\n".join(lines))
    path = "/hub/.well-known/mercure"
    with (
        running_apache(shop, hub_port, "mercure.conf", path) as apache,
        hub_process(folder, hub_port, apache.public_url, shop, MERCURE_SUBSCRIPTIONS="1") as hub,
        apache.follow(ORDER, Cookie=apache.cookie()) as stream,
    ):
        assert stream.response.status == 200
        pay(apache, "paid")
        assert stream.next().data == "paid"
        check_refusal(apache)
        check_names(apache, hub, shop)
        assert apache.fetch("/hub/healthz")[0] == 404


@pytest.mark.parametrize("scheme", ["h2c", "h2"])
def test_the_hub_is_spoken_to_over_http_2(
    shop: Path, hub_port: int, folder: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The fragments need another scheme and no more; a WebSocket cannot pass."""
    fragment = "mercure.conf" if scheme == "h2c" else "mercure-tls.conf"
    text = (shipped / fragment).read_text().replace(" upgrade=websocket", "")
    (shipped / fragment).write_text(re.sub("https?://127", f"{scheme}://127", text))
    monkeypatch.setattr(site, "_DEFAULT_MODULES", (*site._DEFAULT_MODULES, "proxy_http2"))
    settings = {} if scheme == "h2c" else {"MERCURE_TLS_CERT": str(shop / "self-signed.pem")}
    with (
        running_apache(shop, hub_port, fragment) as apache,
        hub_process(folder, hub_port, apache.public_url, shop, MERCURE_SUBSCRIPTIONS="1", **settings) as hub,
        apache.follow(ORDER, Cookie=apache.cookie()) as stream,
    ):
        assert stream.response.status == 200
        pay(apache, "paid")
        assert stream.next().data == "paid"
        check_refusal(apache)
        check_names(apache, hub, shop)


def check_websocket(front: Front) -> None:
    """Updates come and messages go, with what was missed; pages of strangers are refused."""
    public = RunningHub(front.https, "https")
    origin = f"https://127.0.0.1:{front.https}"
    cookie = front.cookie()
    with client(public, {"match": TOPIC}, origin=origin, Cookie=cookie) as connection:
        first = pay(front, "paid")
        assert messages(connection)[0]["id"] == first
        assert connection.ping().wait(TIMEOUT)
        second = pay(front, "sent")
        query = {"match": TOPIC, "last_event_id": first}
        with client(public, query, origin=origin, Cookie=cookie) as late:
            assert [messages(one)[0]["id"] for one in (connection, late)] == [second, second]
        connection.send("no")
        assert end(connection)[0] == 1003
    with (
        pytest.raises(InvalidStatus, match="403"),
        client(public, {"match": TOPIC}, origin="https://evil.example", Cookie=cookie),
    ):
        pass


def check_figures_stay_inside(front: Front, own: RunningHub) -> None:
    """The hub serves them on its own port, and nobody gets them through the proxy."""
    assert own.get(path="/metrics").status == 200
    for target in ("/metrics", "/.well-known/mercure/metrics", "/.well-known/mercure/../../metrics"):
        assert "mercure_updates" not in front.fetch(target)[2]


def test_a_websocket_goes_through(apache: Apache, hub: RunningHub) -> None:
    check_websocket(apache)


def test_the_figures_stay_inside(apache: Apache, shop: Path, hub_port: int, folder: Path) -> None:
    with hub_process(folder, hub_port, apache.public_url, shop, MERCURE_METRICS="1") as own:
        check_figures_stay_inside(apache, own)
