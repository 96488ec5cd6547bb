"""The extension on a Python that lacks what Windows lacks, and what the command of the hub says there.

No Windows is here: this takes away the modules and names that it does not have.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mercure_hub
from mercure_hub import cli

ROOT = Path(__file__).resolve().parent.parent

TAKE_AWAY = """
import functools, os, select, signal, socket, subprocess, sys, tempfile, time
import cryptography, flask, joserfc, jwt, requests, sqlalchemy, sqlalchemy.dialects.sqlite

socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # there, of TCP
for name in ("fcntl", "resource", "pwd", "grp", "termios", "syslog"):
    sys.modules[name] = None
for module, names in {
    os: "fork forkpty getuid geteuid getgid getegid chown fchown fchmod mkfifo register_at_fork writev "
        "eventfd O_CLOEXEC O_NOFOLLOW O_DIRECTORY setsid killpg uname",
    select: "poll epoll POLLIN POLLOUT POLLRDHUP",
    socket: "AF_UNIX SO_REUSEPORT",
    signal: "SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGKILL SIGALRM pthread_sigmask sigtimedwait sigwait",
    time: "CLOCK_BOOTTIME CLOCK_MONOTONIC clock_gettime",
}.items():
    for name in names.split():
        vars(module).pop(name, None)
sys.platform = "win32"
"""

USES = """
import importlib, pkgutil
import flask_mercure
from flask_mercure import Mercure

for module in pkgutil.walk_packages(flask_mercure.__path__, "flask_mercure."):
    if not module.name.endswith(("debug_panel", "commands")):
        importlib.import_module(module.name)

app = flask.Flask(__name__)
app.config.update(MERCURE_URL="http://127.0.0.1:1/.well-known/mercure", MERCURE_JWT_SECRET="x" * 48)
mercure = Mercure(app)
from flask_mercure.publishing.recorder import record
with app.app_context(), record() as updates:
    mercure.publish("t", {"a": 1})
    assert len(updates) == 1
runner = app.test_cli_runner()
answer = runner.invoke(importlib.import_module("flask_mercure.cli").mercure, ["hub"])
print(answer.output, answer.exit_code)
from flask_mercure.database.claims import machine
from flask_mercure.database.relay import Wakeup
with Wakeup() as wakeup:
    wakeup.wake()
    wakeup.wait(10)
print("works", machine() != "")
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TAKE_AWAY + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.minutes
def test_the_extension_works_and_tells_where_the_hub_runs() -> None:
    output = run(USES)
    assert "works True" in output
    assert mercure_hub.NOT_ON_WINDOWS in " ".join(output.split())


@pytest.mark.minutes
def test_the_pytest_plugin_can_be_loaded() -> None:
    assert run("import pytest_mercure; print('loaded')") == "loaded\n"


@pytest.mark.parametrize("words", [[], ["run"], ["--listen", ":3000"], ["check"], ["history", "stats"]])
def test_the_hub_says_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"mercure-hub: {mercure_hub.NOT_ON_WINDOWS}\n"


def test_a_check_elsewhere_than_on_linux_names_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY", "x" * 48)
    assert cli.main(["check", "--transport-url", f"sqlite:///{tmp_path}/hub.db"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("# system: darwin, where some things differ from Linux: ")
    assert last.endswith("/platforms.md")


def test_keys_can_be_made_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.main(["keys"]) == 0
    assert len(capsys.readouterr().out) > 32
