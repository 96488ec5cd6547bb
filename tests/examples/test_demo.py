"""``make demo``: hub and chat together, and nothing left afterwards."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.minutes

_ROOT = Path(__file__).resolve().parents[2]
_DEMO = _ROOT / "examples" / "chat" / "demo.py"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the demo with these arguments."""
    demos: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        demos.append(
            subprocess.Popen(
                [sys.executable, str(_DEMO), "--data", str(tmp_path / "data"), *arguments],
                env=os.environ | {"PYTHONPATH": path},
                cwd=_ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return demos[-1]

    yield begin
    for demo in demos:
        if demo.poll() is None:
            demo.terminate()
        demo.communicate(timeout=15)


def _address(demo: subprocess.Popen[str]) -> str:
    """The address that the demo prints."""
    assert demo.stdout is not None
    for line in demo.stdout:
        found = re.search(r"http://\S+/", line)
        if found:
            return found[0]
    assert demo.stderr is not None
    raise AssertionError(demo.stderr.read())


def _child_of(demo: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()[0])


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_address_and_ends_quietly(start: Start, number: signal.Signals) -> None:
    demo = start("--port", "0", "--hub-port", "0")
    with urlopen(_address(demo), timeout=5) as answer:
        assert b"Who are you today?" in answer.read()
    hub = _child_of(demo)
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=15)
    assert demo.returncode == 0
    assert errors == ""
    assert not _is_running(hub)


def test_a_port_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start("--port", str(port))
        output, errors = demo.communicate(timeout=15)
    assert demo.returncode == 1
    assert output == ""
    assert errors == f"demo: cannot listen on localhost port {port}: Address already in use (--port)\n"


def test_the_hub_dies(start: Start) -> None:
    demo = start("--port", "0", "--hub-port", "0")
    _address(demo)
    os.kill(_child_of(demo), signal.SIGKILL)
    _, errors = demo.communicate(timeout=15)
    assert demo.returncode == 1
    assert errors == "demo: the hub has ended with status -9; see above for its reason\n"


def test_nothing_is_announced_or_served_without_the_hub(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        page, hub = one.getsockname()[1], other.getsockname()[1]
    (data / f"chat-{hub}.db").write_text("no database, but a text of that length" * 60)
    output, errors = start("--port", str(page), "--hub-port", str(hub)).communicate(timeout=30)
    assert output == ""
    assert errors.endswith("demo: the hub has ended with status 2; see above for its reason\n")
    assert "MERCURE_TRANSPORT_URL" in errors


def test_the_hub_cannot_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a directory")
    demo = start("--port", "0", "--hub-port", "0")
    _, errors = demo.communicate(timeout=15)
    assert demo.returncode == 1
    assert "--data" in errors
    assert "Traceback" not in errors


def test_other_names_of_the_machine_lead_to_the_one_address(start: Start) -> None:
    demo = start("--port", "0", "--hub-port", "0")
    address = _address(demo)
    with urlopen(address.replace("localhost", "127.0.0.1") + "rooms/lobby", timeout=5) as answer:
        assert answer.url == f"{address}sign-in"
