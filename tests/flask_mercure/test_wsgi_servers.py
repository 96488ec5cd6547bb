"""Publishing from the servers that run Flask apps: forked processes, and threads in each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.flask_mercure.fake_hub import SECRET, running
from tests.hub.running import running_hub

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).resolve().parent.parent.parent
APP = "tests.flask_mercure.served:app"
COUNT = 60

UWSGI = str(Path(sysconfig.get_path("scripts")) / "uwsgi")

SERVERS = {
    "gunicorn": [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers=3",
        "--threads=4",
        "--bind=127.0.0.1:0",
        APP,
    ],
    "waitress": [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "--threads=8", APP],
    "uwsgi": [
        *(UWSGI, "--http-socket=127.0.0.1:0", "--master", "--processes=3", "--threads=4", "--die-on-term"),
        *("--listen=64", f"--home={sys.prefix}", f"--module={APP}"),
    ],
}
FORKED = {"gunicorn", "uwsgi"}


class Served:
    """A server in a process of its own, on a port that it has chosen."""

    def __init__(self, name: str, hub_url: str, topic: str, **variables: str) -> None:
        environment = {**os.environ, "MERCURE_URL": hub_url, "BEFORE_FORK": topic, "PYTHONPATH": str(ROOT)}
        environment |= {"PYTHONFAULTHANDLER": "1", **variables}
        self._process = subprocess.Popen(
            SERVERS[name],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._port: str | None = None
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._known.wait(30) or self._port is None:
            self.stop()
            raise AssertionError("".join(self._said))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if found := re.search(
                r"(?:Listening at:|Serving on|bound to TCP address) (?:http://)?127\.0\.0\.1:(\d+)", line
            ):
                self._port = found[1]
                self._known.set()
        self._known.set()

    def publish(self, topic: str, number: int) -> str:
        body = urlencode({"topic": topic, "data": str(number), "id": f"urn:n:{number}"}).encode()
        url = f"http://127.0.0.1:{self._port}/publish"
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            text: bytes = answer.read()
        return text.decode()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGABRT)  # each process says where it is, and ends
            self._process.wait(30)
            self._reader.join(10)
            raise AssertionError("".join(self._said)) from None
        finally:
            self._reader.join(10)
            assert self._process.stderr is not None
            self._process.stderr.close()


@contextmanager
def serving(name: str, hub_url: str, topic: str, **variables: str) -> Iterator[Served]:
    served = Served(name, hub_url, topic, **variables)
    try:
        yield served
    finally:
        served.stop()


def publish_together(served: Served, topic: str) -> list[str]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda number: served.publish(topic, number), range(COUNT)))


@pytest.mark.parametrize("name", SERVERS)
def test_concurrent_publications_all_reach_a_real_hub(name: str, tmp_path: Path) -> None:
    with running_hub(tmp_path, publisher_jwt_key=SECRET, anonymous=1) as hub:
        stream = hub.subscribe({"match": "a"})
        with serving(name, hub.url, "a") as served:
            ids = publish_together(served, "a")
        received = [stream.next() for _ in range(COUNT + 1)]
    assert ids == [f"urn:n:{number}" for number in range(COUNT)]  # each got the answer to its own request
    first, *others = (event.data.split() for event in received)
    assert first[2] == "before"
    assert sorted(int(number) for _, _, number in others) == list(range(COUNT))
    processes = {process for process, _, _ in others}
    assert (first[0] in processes) == (name not in FORKED)  # the parent of forked workers publishes no more
    assert len({thread for _, thread, _ in others}) > 1


@pytest.mark.parametrize("name", SERVERS)
def test_no_process_uses_the_connection_of_another(name: str) -> None:
    with running() as hub:
        with serving(name, hub.url, "a") as served:
            publish_together(served, "a")
        connections: dict[str, set[int]] = {}
        for one in hub.received:
            process = dict(one.pairs)["data"].split()[0]
            connections.setdefault(process, set()).add(one.connection)
    assert len(hub.received) == COUNT + 1
    every = [port for ports in connections.values() for port in ports]
    assert len(every) == len(set(every))
    assert len(every) < COUNT  # and they are used again


@pytest.mark.parametrize("name", SERVERS)
def test_each_worker_has_a_background_of_its_own(name: str, tmp_path: Path) -> None:
    """Also where that of the process that forked it had begun.

    Not in uWSGI: it forks without a word to Python, and a thread of its master may have the GIL then.
    """
    before = "" if name == "uwsgi" else "a"
    wanted = [*(["before"] if before else []), *map(str, range(COUNT))]
    with running_hub(tmp_path, publisher_jwt_key=SECRET, anonymous=1) as hub:
        stream = hub.subscribe({"match": "a"})
        with serving(name, hub.url, before, ON_FAILURE="background") as served:
            publish_together(served, "a")
            received = [stream.next().data.split()[2] for _ in wanted]
    assert sorted(received) == sorted(wanted)
