"""The hub behind a real nginx, with the files of docs/nginx."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.site import ROOT, fill_in, free_ports, is_listening, wait_until
from tests.hub.running import TIMEOUT, RunningHub, running_hub
from tests.hub.websocket import client, end, messages

pytestmark = pytest.mark.apache

NGINX = "/usr/sbin/nginx"

MAIN = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/mercure-map.conf;
    server {{
        listen 127.0.0.1:{port};
        include {folder}/mercure.conf;
    }}
}}
"""


@pytest.fixture
def front(folder: Path) -> Iterator[RunningHub]:
    """The hub as seen through nginx."""
    if not Path(NGINX).exists():
        if os.environ.get("CI"):
            pytest.fail("apt-get install nginx-light")
        pytest.skip("apt-get install nginx-light")
    port, own = free_ports(2)
    with (
        running_hub(
            folder, port=own, anonymous=1, heartbeat=1, trusted_proxies="127.0.0.1", cookie_name="mercure"
        ),
        tempfile.TemporaryDirectory() as place,
    ):
        shutil.copy(ROOT / "docs" / "nginx" / "mercure-map.conf", place)
        shipped = (ROOT / "docs" / "nginx" / "mercure.conf").read_text()
        Path(place, "mercure.conf").write_text(fill_in(shipped, {"127.0.0.1:3000": f"127.0.0.1:{own}"}))
        Path(place, "nginx.conf").write_text(MAIN.format(folder=place, port=port))
        with subprocess.Popen(
            [NGINX, "-p", place, "-c", f"{place}/nginx.conf"], stderr=subprocess.PIPE, text=True
        ) as child:
            try:
                wait_until(lambda: is_listening(port) or child.poll() is not None, "nginx does not listen")
                assert child.poll() is None and child.stderr is not None
                yield RunningHub(port)
            finally:
                child.terminate()
                child.wait(TIMEOUT)


def test_both_ways_to_receive(front: RunningHub) -> None:
    stream = front.subscribe({"match": "a"})
    cookie = f"mercure={front.token()}"
    origin = f"http://127.0.0.1:{front.port}"
    with client(front, {"match": "a"}, origin=origin, Cookie=cookie) as connection:
        first = front.send("a", "secret", private="on")
        front.send("a", "public")
        assert [one["data"] for one in messages(connection, 2)] == ["secret", "public"]
        assert stream.take(1) == ["public"]
        stream.read_until(b":\n")
        assert connection.ping().wait(TIMEOUT)
        with client(front, {"match": "a", "last_event_id": first}) as late:
            assert messages(late)[0]["data"] == "public"
        connection.send("no")
        assert end(connection)[0] == 1003
    stream.close()
    front.close()


def test_the_figures_stay_inside(front: RunningHub) -> None:
    assert front.get(path="/metrics").status in (403, 404)  # of nginx, which has no files here
