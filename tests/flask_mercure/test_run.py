"""``flask mercure run``: the app and its hub together, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from flask_mercure import ConfigurationError, development

pytestmark = pytest.mark.minutes

_APP = """
from flask import Flask
from flask_mercure import Mercure

app = Flask(__name__)
app.config.from_prefixed_env()
mercure = Mercure(app)

@app.get("/")
def index():
    position = mercure.last_event_id()
    response = {"id": mercure.publish("a", 1, private=True), "url": mercure.url("a"), "position": position}
    return mercure.set_cookie(app.make_response(response), subscribe=["a"])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the app in ``tmp_path``, with these options of ``flask`` and arguments of the command."""
    (tmp_path / "shop.py").write_text(_APP)
    running: list[subprocess.Popen[str]] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and children inherit that

    def begin(*arguments: str, options: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("MERCURE_", "FLASK_"))
        }
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "shop", *options, "mercure", "run", *arguments],
                env=kept | {"PYTHONUNBUFFERED": "1"} | variables,
                cwd=tmp_path,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=15)
    signal.signal(signal.SIGHUP, before)


def _address(process: subprocess.Popen[str]) -> str:
    """The address that the command prints."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        found = re.search(r"Running on (https?://\S+)", line)
        if found:
            return found[1]
    raise AssertionError("".join(said))


def _children_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def _hub_of(process: subprocess.Popen[str]) -> int:
    [hub] = [
        pid for pid in _children_of(process) if b"mercure_hub" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return hub


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["plain", "debug"])
def test_an_app_without_settings_publishes_and_all_ends_together(
    start: Start, tmp_path: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    process = start("--port", "0", options=options)
    with urlopen(_address(process), timeout=15) as answer:
        page = json.load(answer)
        cookie, _ = answer.headers.get_all("Set-Cookie")
    assert page["url"].startswith("http://127.0.0.1:3")
    assert cookie.startswith("mercure_access_token=")
    assert "Secure" not in cookie
    hub = _hub_of(process)
    assert list((tmp_path / "instance").glob("mercure-3*.db"))
    process.send_signal(number)
    assert process.wait(15) == 0
    assert not _is_running(hub)


@pytest.mark.parametrize(("options", "workers"), [((), "1"), ((), "2"), (("--debug",), "1")], ids=str)
def test_nothing_is_left_of_a_run_that_is_killed(
    start: Start, options: tuple[str, ...], workers: str
) -> None:
    process = start("--port", "0", options=options, MERCURE_WORKERS=workers)
    with urlopen(_address(process), timeout=15):  # by now the reloader has started the app
        children = [os.pidfd_open(pid) for pid in _children_of(process)]
    assert len(children) == 1 + len(options)
    process.kill()
    for child in children:
        is_over = bool(select.select([child], [], [], 15)[0])
        if not is_over:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        assert is_over


@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["plain", "debug"])
def test_the_app_ends_when_its_hub_dies(start: Start, options: tuple[str, ...]) -> None:
    process = start("--port", "0", options=options)
    _address(process)
    os.kill(_hub_of(process), signal.SIGKILL)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 1
    assert output.endswith("Error: the hub has ended with status -9; it has said why above\n")
    assert "Traceback" not in output


def test_a_port_that_is_taken_ends_the_hub(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--port", str(taken.getsockname()[1]))
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "in use" in output


def test_a_hub_that_cannot_start_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_text("no database, but a text of that length" * 60)
    process = start("--port", "0", MERCURE_TRANSPORT_URL=f"sqlite:///{tmp_path}/broken.db")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "MERCURE_TRANSPORT_URL" in output
    assert output.endswith("Error: the hub has ended with status 2; it has said why above\n")


def test_what_is_configured_counts(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start("--port", "0", FLASK_MERCURE_URL=f"http://localhost:{port}/.well-known/mercure")
    with urlopen(_address(process).replace("127.0.0.1", "localhost"), timeout=15) as answer:
        assert json.load(answer)["url"].startswith(f"http://localhost:{port}/")


def test_the_next_port_is_taken_when_the_usual_one_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(development, "_FIRST_PORT", port)
        settings, held = development.settings_of_a_run("127.0.0.1", None)
        held.close()
    assert _port_of(settings) > port


def test_two_at_the_same_moment_take_two_ports() -> None:
    settings, held = development.settings_of_a_run("127.0.0.1", None)
    with held:
        others, other = development.settings_of_a_run("127.0.0.1", None)
        other.close()
    assert _port_of(settings) != _port_of(others)


def _port_of(settings: Mapping[str, str]) -> int:
    port = urlsplit(settings["FLASK_MERCURE_URL"]).port
    assert port is not None
    return port


def test_a_host_that_is_no_address_of_this_machine_is_said_so() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        development.settings_of_a_run("192.0.2.1", None)


def test_with_a_certificate_pages_and_hub_are_on_https() -> None:
    settings, held = development.settings_of_a_run("localhost", ("/cert.pem", "/key.pem"))
    held.close()
    assert settings["FLASK_MERCURE_URL"].startswith("https://localhost:3")
    assert settings["MERCURE_TLS_CERT"] == settings["FLASK_MERCURE_VERIFY_TLS"] == "/cert.pem"
    assert "FLASK_MERCURE_COOKIE_SECURE" not in settings
