"""Two hubs on one log behind a real nginx, Apache and Caddy, configured as docs/several-machines.md says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deployment.front import free_ports, is_listening, wait_until
from tests.deployment.site import ROOT, fill_in, readable_folder
from tests.docs.markdown import blocks
from tests.engines import PostgresqlServer
from tests.examples.browser import end
from tests.hub.running import SECRET, TIMEOUT, Reply, RunningHub, Stream
from tests.hub.websocket import client
from tests.needs import need

pytestmark = pytest.mark.servers

_SILENCE = 4  # seconds, with heartbeats each second
_MODULES = Path("/usr/lib/apache2/modules")
_NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {upstream}
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""
_APACHE = """
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
Mutex file:{folder}
ErrorLog {folder}/log
User www-data
Group www-data
{modules}
<VirtualHost *:{port}>
{balancer}
{location}
</VirtualHost>
"""
_CADDY = """
{{
    admin off
    auto_https off
    grace_period 1s
}}
http://127.0.0.1:{port} {{
    {block}
}}
"""


@dataclass
class Site:
    """Two hubs and a proxy.

    :param log: URL of the engine.
    :param ports: of the hubs.
    :param front: what clients see, at the port of the proxy.
    """

    folder: Path
    log: str
    ports: tuple[int, int]
    front: RunningHub
    hubs: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, port: int) -> None:
        """Start a hub."""
        settings = {
            "MERCURE_LISTEN": f"127.0.0.1:{port}",
            "MERCURE_TRANSPORT_URL": self.log,
            "MERCURE_PUBLISHER_JWT_KEY": SECRET,
            "MERCURE_ANONYMOUS": "1",
            "MERCURE_HEARTBEAT": "1",
            "MERCURE_METRICS": "1",
        }
        with (self.folder / f"hub-{port}").open("ab") as output:
            self.hubs[port] = hub = subprocess.Popen(
                [sys.executable, "-m", "mercure_hub"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **settings},
                stderr=output,
            )
        wait_until(lambda: is_listening(port) or hub.poll() is not None, "the hub does not listen")
        assert hub.poll() is None, (self.folder / f"hub-{port}").read_text()

    def kill(self, port: int) -> None:
        """What a crash does."""
        self.hubs[port].kill()
        self.hubs[port].wait()

    def close(self) -> None:
        """End the streams and the hubs."""
        self.front.close()
        for port in self.hubs:
            self.kill(port)

    def subscribe(self, last: str = "") -> Stream:
        """Subscribe through the proxy."""
        return self.front.subscribe({"match": "a"}, **({"Last_Event_ID": last} if last else {}))

    def publish(self, data: str) -> Reply:
        """Publish through the proxy."""
        return self.front.publish({"topic": "a", "data": data})

    def streams(self, port: int) -> int:
        """How many streams a hub has."""
        page = RunningHub(port).get(path="/metrics").text
        found = re.search(r'^mercure_subscribers_connected{.*"sse".*} (\d+)', page, re.MULTILINE)
        assert found, page
        return int(found[1])


def _shown(beginning: str) -> str:
    """The block of the page that begins with a word."""
    found = [
        block.code
        for block in blocks()
        if block.page.name == "several-machines.md" and block.code.startswith(beginning)
    ]
    assert len(found) == 1, beginning
    return found[0]


def _addresses(ports: tuple[int, int]) -> dict[str, str]:
    return {f"10.0.0.{number}:3000": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}


def _nginx(site: Site) -> list[str | Path]:
    location = (ROOT / "docs" / "nginx" / "mercure.conf").read_text()
    lines = _shown("proxy_pass").replace("60s", f"{_SILENCE}s")
    location = location.replace("    proxy_read_timeout 3600s;\n", "")
    location = location.replace("    proxy_pass http://127.0.0.1:3000;\n", lines)
    text = _NGINX.format(
        folder=site.folder,
        port=site.front.port,
        upstream=fill_in(_shown("upstream"), _addresses(site.ports)),
        location=location,
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (site.folder / "proxy.conf").write_text(user + text)
    return ["/usr/sbin/nginx", "-p", site.folder, "-e", site.folder / "log", "-c", site.folder / "proxy.conf"]


def _apache(site: Site) -> list[str | Path]:
    location = (ROOT / "docs" / "apache" / "mercure.conf").read_text()
    location, count = re.subn(r" *ProxyPass .*\n", _shown("ProxyPass"), location, count=1)
    assert count == 1
    enabled = _shown("a2enmod").split()[1:]
    modules = ("mpm_event", "authz_core", "env", "headers", "proxy", "proxy_http", "slotmem_shm", *enabled)
    text = _APACHE.format(
        folder=site.folder,
        port=site.front.port,
        modules="".join(f"LoadModule {one}_module {_MODULES}/mod_{one}.so\n" for one in modules),
        balancer=fill_in(
            _shown("<Proxy"),
            {**_addresses(site.ports), "timeout=60": f"timeout={_SILENCE}"},
        ),
        location=location,
    )
    (site.folder / "proxy.conf").write_text(text)
    return ["/usr/sbin/apache2", "-d", site.folder, "-f", site.folder / "proxy.conf", "-DFOREGROUND"]


def _caddy(site: Site) -> list[str | Path]:
    block = fill_in(_shown("reverse_proxy"), _addresses(site.ports))
    (site.folder / "proxy.conf").write_text(_CADDY.format(port=site.front.port, block=block))
    return ["/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", site.folder / "proxy.conf"]


_PROXIES = {"nginx": _nginx, "apache2": _apache, "caddy": _caddy}


@pytest.fixture(params=_PROXIES)
def site(request: pytest.FixtureRequest, postgresql_engine: PostgresqlServer) -> Iterator[Site]:
    """Two hubs on a PostgreSQL, and a proxy that gives up a silent stream after four seconds."""
    need(request.param)
    with readable_folder() as folder, ExitStack() as stack:
        port, *ports = free_ports(3)
        site = Site(folder, postgresql_engine.url(), (ports[0], ports[1]), RunningHub(port))
        stack.callback(site.close)
        for one in site.ports:
            site.start(one)
        command = _PROXIES[request.param](site)
        with (folder / "output").open("wb") as output:
            proxy = subprocess.Popen(
                command, env={"HOME": str(folder), "PATH": os.environ["PATH"]}, stdout=output, stderr=output
            )
        stack.callback(end, proxy)
        wait_until(lambda: is_listening(port) or proxy.poll() is not None, "the proxy does not listen")
        assert proxy.poll() is None, (folder / "output").read_text()
        yield site


def test_streams_move_to_the_other_hub_and_miss_nothing(site: Site) -> None:
    streams = [site.subscribe() for _ in range(6)]
    assert {site.streams(port) for port in site.ports} == {3}, "not spread evenly"
    expected = ["begin"]
    assert site.publish("begin").status == 200
    for port in site.ports:  # the second one while the proxy may not have forgiven the first one
        last = ""
        for stream in streams:
            while (event := stream.next()).data != expected[-1]:
                pass
            assert last in ("", event.id)
            last = event.id
        site.kill(port)
        # A publication that was on its way to the hub is not sent to the other one: it would be stored twice.
        while (reply := site.publish("on its way")).status != 200:
            assert reply.status == 502, reply.text
        expected = [reply.text]
        expected += [site.publish(f"{number}").text for number in range(10)]
        streams = [site.subscribe(last) for _ in streams]
        for stream in streams:
            assert [stream.next().id for _ in expected] == expected
        site.start(port)
        assert site.publish(f"after {port}").status == 200
        expected.append(f"after {port}")


@pytest.mark.parametrize("site", ["nginx", "apache2"], indirect=True)
def test_a_stream_of_a_hub_that_hangs_is_given_up(site: Site) -> None:
    streams = [site.subscribe(), site.subscribe()]
    assert {site.streams(port) for port in site.ports} == {1}
    site.hubs[site.ports[0]].send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: any(map(_is_closed, streams)), "the proxy waits", 20)
        assert not all(map(_is_closed, streams))
    finally:
        site.hubs[site.ports[0]].send_signal(signal.SIGCONT)


def _is_closed(stream: Stream) -> bool:
    """Whether it is at its end; drops what has arrived."""
    stream.sock.setblocking(False)
    try:
        while stream.sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    return True


def test_a_websocket_passes(site: Site) -> None:
    with client(site.front, {"match": "a"}) as socket:
        assert site.publish("hello").status == 200
        assert "hello" in str(socket.recv(timeout=TIMEOUT))
