"""Two hubs with one history behind each of the proxies, configured by what ``mercure-hub install`` prints."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mercure_hub.tools.installation.pieces import Layout, render
from tests.deployment.front import Follower, free_ports, is_listening, wait_until
from tests.deployment.site import readable_folder
from tests.examples.browser import end
from tests.hub.running import HUB_PATH, RunningHub, running_hub
from tests.needs import need

pytestmark = pytest.mark.servers

_APACHE_MODULES = (
    *("mpm_event", "authz_core", "env", "headers", "proxy", "proxy_http"),
    *("proxy_balancer", "lbmethod_bybusyness", "slotmem_shm"),
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
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n" + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


PROXIES: dict[str, Callable[[Path, int, Layout], list[str | Path]]] = {
    "nginx": _nginx,
    "apache2": _apache,
    "caddy": _caddy,
}


@contextmanager
def _running(name: str, ports: tuple[int, int]) -> Iterator[int]:
    """Run a proxy before hubs with these ports, and give its own."""
    need(name)
    with readable_folder() as folder:
        (port,) = free_ports(1)
        layout = Layout(port=ports[0], hubs=(f"127.0.0.1:{ports[1]}",))
        with (folder / "output").open("wb") as output:
            child = subprocess.Popen(
                PROXIES[name](folder, port, layout),
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
