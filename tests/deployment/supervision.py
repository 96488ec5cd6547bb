"""A private supervisord that runs the hub with the program of ``mercure-hub install --print supervisor``."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mercure_hub.tools.installation.pieces import Layout, render
from tests.deployment.front import is_listening, wait_until
from tests.deployment.site import ROOT, fill_in
from tests.examples.browser import end

_DAEMON = """
[unix_http_server]
file={folder}/supervisor.sock
chmod=0700

[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
minfds=4096

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{folder}/supervisor.sock

[include]
files={folder}/mercure-hub.conf
"""


@dataclass(frozen=True)
class Supervised:
    """A hub that comes back.

    :param folder: with the configuration, the database and the logs.
    :param port: of the hub.
    """

    folder: Path
    port: int

    @property
    def pid(self) -> int:
        """Of the hub; 0 while there is none."""
        done = subprocess.run(
            ["supervisorctl", "-c", self.folder / "supervisord.conf", "pid", "mercure-hub"],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(done.stdout) if done.stdout.strip().isdigit() else 0

    def kill(self) -> int:
        """End the hub without a chance to say anything; gives the process that was there."""
        before = self.pid
        os.kill(before, signal.SIGKILL)
        return before

    def log(self) -> str:
        return (self.folder / "hub.log").read_text()


@contextmanager
def supervised_hub(folder: Path, shop: Path, port: int, public_url: str) -> Iterator[Supervised]:
    """Run supervisord and the hub.

    :param folder: for everything that is written.
    :param shop: has the public key; ``hub.env`` is put there.
    :param port: where the hub listens.
    """
    layout = Layout(
        executable=f"{sys.executable} -m mercure_hub",
        user=getpass.getuser(),
        state=str(folder),
        settings=str(shop),
        public_url=public_url,
        port=port,
    )
    (shop / "hub.env").write_text(render("environment", layout) + "MERCURE_SUBSCRIPTIONS=1\n")
    program = render("supervisor", layout)
    (folder / "mercure-hub.conf").write_text(
        fill_in(program, {"/var/log/supervisor/mercure-hub.log": str(folder / "hub.log")})
    )
    configuration = folder / "supervisord.conf"
    configuration.write_text(_DAEMON.format(folder=folder))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(
            [shutil.which("supervisord") or "", "-c", configuration],
            env=environment | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: is_listening(port) or child.poll() is not None, "no hub")
        assert child.poll() is None, (folder / "output").read_text()
        yield Supervised(folder, port)
    finally:
        end(child)
