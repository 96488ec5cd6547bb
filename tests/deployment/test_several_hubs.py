"""Two hubs on one log behind each of the proxies, configured by what ``mercure-hub install`` prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mercure_hub.tools.installation.pieces import Layout, render
from tests.deployment.front import Follower, free_ports, is_listening, wait_until
from tests.deployment.site import ROOT, readable_folder
from tests.engines import PostgresqlServer
from tests.examples.browser import end
from tests.hub.running import HUB_PATH, SECRET, TIMEOUT, Reply, RunningHub, Stream, running_hub
from tests.hub.websocket import client
from tests.needs import need

pytestmark = pytest.mark.servers

_SILENCE = 4  # seconds, with heartbeats each second
_APACHE_MODULES = (
    *("mpm_event", "authz_core", "env", "headers", "proxy", "proxy_http"),
    *("proxy_balancer", "proxy_hcheck", "lbmethod_bybusyness", "slotmem_shm"),
)


def _nginx(folder: Path, port: int, layout: Layout) -> list[str | Path]:
    (folder / "mercure.conf").write_text(render("nginx", layout))
    paths = "".join(
        f"    {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user www-data;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}pid {folder}/pid;\nerror_log {folder}/log;\nevents {{}}\nhttp {{\n{paths}"
        f"    access_log off;\n{render('nginx-hubs', layout)}\n"
        f"    server {{ listen 127.0.0.1:{port}; include {folder}/mercure.conf; }}\n}}\n"
    )
    return ["/usr/sbin/nginx", "-e", folder / "log", "-c", folder / "nginx.conf", "-g", "daemon off;"]


def _apache(folder: Path, port: int, layout: Layout) -> list[str | Path]:
    modules = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in _APACHE_MODULES
    )
    user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
    (folder / "apache2.conf").write_text(
        f"{modules}{user}Listen 127.0.0.1:{port}\nServerName 127.0.0.1\nPidFile {folder}/pid\n"
        f"ErrorLog {folder}/log\nDefaultRuntimeDir {folder}\n"
        f"<VirtualHost *:{port}>\n{render('apache', layout)}</VirtualHost>\n"
    )
    return ["/usr/sbin/apache2", "-f", folder / "apache2.conf", "-DFOREGROUND"]


def _caddy(folder: Path, port: int, layout: Layout) -> list[str | Path]:
    layout = replace(layout, public_url=f"http://127.0.0.1:{port}{HUB_PATH}")
    text = render("caddy", layout).replace(f"\n127.0.0.1:{port} {{", f"\nhttp://127.0.0.1:{port} {{")
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n\tgrace_period 1s\n\tdefault_bind 127.0.0.1\n}\n" + text
    )
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


PROXIES: dict[str, Callable[[Path, int, Layout], list[str | Path]]] = {
    "nginx": _nginx,
    "apache2": _apache,
    "caddy": _caddy,
}


@contextmanager
def _running(name: str, ports: tuple[int, int], silence: int | None = None) -> Iterator[int]:
    """Run a proxy before hubs with these ports, and give its own.

    :param silence: seconds after which it gives up a stream, instead of 90.
    """
    need(name)
    with readable_folder() as folder:
        (port,) = free_ports(1)
        layout = Layout(port=ports[0], hubs=(f"127.0.0.1:{ports[1]}",))
        command = PROXIES[name](folder, port, layout)
        if silence is not None:
            for path in filter(Path.is_file, folder.iterdir()):
                text = path.read_text().replace("proxy_read_timeout 90s", f"proxy_read_timeout {silence}s")
                path.write_text(text.replace("timeout=90", f"timeout={silence}"))
        with (folder / "output").open("wb") as output:
            child = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )
        try:
            wait_until(lambda: is_listening(port) or child.poll() is not None, f"{name} does not listen")
            assert child.poll() is None, (folder / "output").read_text()
            yield port
        finally:
            end(child)


def _follow(port: int, last: str | None = None) -> Follower:
    cursor = {} if last is None else {"Last-Event-ID": last}
    follower = Follower("http", port, f"{HUB_PATH}?match=a", cursor)
    assert follower.response.status == 200
    return follower


def _send(site: RunningHub, data: str) -> None:
    """Publish, and again after a 502, which Caddy gives for a second (see its template)."""
    status = 502

    def is_answered() -> bool:
        nonlocal status
        status = site.publish({"topic": "a", "data": data}).status
        return status != 502

    wait_until(is_answered, "no hub takes the publication", 20)
    assert status == 200


@pytest.mark.parametrize("name", PROXIES)
def test_one_hub_stops_and_the_other_serves_its_clients(name: str, tmp_path: Path) -> None:
    """Publications and streams go to whichever is there; what a stream missed, the other one has."""
    ports = free_ports(2)
    with ExitStack() as stack:
        public = stack.enter_context(_running(name, (ports[0], ports[1])))
        second = stack.enter_context(ExitStack())
        url = f"http://127.0.0.1:{public}{HUB_PATH}"
        stack.enter_context(running_hub(tmp_path, port=ports[0], public_url=url, anonymous=1))
        second.enter_context(running_hub(tmp_path, port=ports[1], public_url=url, anonymous=1))
        site = RunningHub(public, public_url=url)
        streams = [stack.enter_context(_follow(public)) for _ in range(8)]
        first = site.send("a", "both")
        assert {stream.next().data for stream in streams} == {"both"}
        second.close()
        started = time.monotonic()
        for number in range(5):
            _send(site, f"alone {number}")
        assert time.monotonic() - started < 20, "each publication waited for the hub that is gone"
        for _ in range(8):
            with _follow(public, first) as stream:
                assert [stream.next().data for _ in range(5)] == [f"alone {number}" for number in range(5)]
        second.enter_context(running_hub(tmp_path, port=ports[1], public_url=url, anonymous=1))
        again = [stack.enter_context(_follow(public)) for _ in range(8)]
        site.send("a", "both again")
        assert {stream.next().data for stream in again} == {"both again"}


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


@pytest.fixture(params=PROXIES)
def site(request: pytest.FixtureRequest, postgresql_engine: PostgresqlServer) -> Iterator[Site]:
    """Two hubs on a PostgreSQL, and a proxy that gives up a silent stream after four seconds."""
    first, second = free_ports(2)
    with readable_folder() as folder, ExitStack() as stack:
        site = Site(folder, postgresql_engine.url(), (first, second), RunningHub(0))
        stack.callback(site.close)
        for port in site.ports:
            site.start(port)
        site.front.port = stack.enter_context(_running(request.param, site.ports, _SILENCE))
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
            # An empty 503: the proxy has not noticed yet that the hub that was started again is there.
            assert reply.status == 502 or (reply.status, reply.text) == (503, ""), reply.text
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


@pytest.mark.parametrize("site", ["apache2", "caddy"], indirect=True)
def test_a_hub_that_hangs_is_left_out(site: Site) -> None:
    frozen = site.ports[0]
    site.hubs[frozen].send_signal(signal.SIGSTOP)
    try:

        def is_left_out() -> bool:
            try:
                return all(site.publish("hello").status == 200 for _ in range(4))
            except TimeoutError:
                return False

        wait_until(is_left_out, "requests go to the hub that hangs")
    finally:
        site.hubs[frozen].send_signal(signal.SIGCONT)


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
