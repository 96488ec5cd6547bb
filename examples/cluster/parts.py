"""The processes of the cluster: an engine, two hubs, a proxy. Each can be killed and started again."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

_HERE = Path(__file__).resolve().parent
_PATIENCE = 30.0  # seconds
_LOOK = 0.05


class Trouble(Exception):
    """The demo cannot go on; the message says why."""


class Part:
    """A process with a folder of its own.

    :param name: shown to people.
    :param folder: working directory, made by the caller; its ``log`` has what the process writes.
    :param command: what starts it.
    :param answers: whether it takes requests.
    :param environment: beside the usual one.
    :param user: that runs it, if not this one.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Sequence[str | Path],
        answers: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self._command = command
        self._answers = answers
        self._environment = environment or {}
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it unless it runs, and wait until it takes requests.

        :raises Trouble: it does not.
        """
        if self.is_running:
            return
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
        with (self.folder / "log").open("ab") as log:
            # A session of its own: Ctrl-C is for the demo, which then ends its parts in order.
            self._process = process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=inherited | dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user,
                extra_groups=[] if self._user else None,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = "".join((self.folder / "log").read_text(errors="replace").splitlines(True)[-8:])
                raise Trouble(f"{self.name} does not start. The end of its log:\n{said}")
            time.sleep(_LOOK)

    def kill(self) -> None:
        """Kill it, as a power failure would: it can clean up nothing."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """End it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# -- the parts --------------------------------------------------------------------------------------


def postgresql(folder: Path, port: int) -> tuple[Part, str]:
    """A PostgreSQL of its own.

    :returns: it, and the URL of its database for the hubs.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parts[-2]))
    binaries = found[-1] if found else Path(_program("postgres", "postgresql")).parent
    user = _unprivileged(folder)  # PostgreSQL refuses to run as root
    made = subprocess.run(
        [str(binaries / "initdb"), "-D", "data", "-U", "hub", "--auth=trust", "--encoding=UTF8"],
        cwd=folder,
        user=user,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Trouble(f"initdb cannot make a database: {made.stderr.strip()}")
    command: list[str | Path] = [
        *(binaries / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port)),
        *("-c", "listen_addresses=127.0.0.1"),
    ]
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]

    def answers() -> bool:
        return subprocess.run(ready, check=False).returncode == 0

    part = Part("PostgreSQL", folder, command, answers, user=user)
    return part, f"postgresql://hub@127.0.0.1:{port}/postgres"


def valkey(folder: Path, port: int) -> tuple[Part, str]:
    """A Valkey of its own, or a Redis; the same."""
    program = shutil.which("valkey-server") or _program("redis-server", "valkey-server (or redis-server)")
    command: list[str | Path] = [
        *(program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
        # The hub refuses to start without the second line: it acknowledges what is on the disk.
        *("--save", "", "--appendonly", "yes"),
        *("--appendfsync", "always", "--maxmemory-policy", "noeviction"),
    ]

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")  # not while it reads its log
        except OSError:
            return False

    return Part("Valkey", folder, command, answers), f"redis://127.0.0.1:{port}/0"


ENGINES = {"postgresql": postgresql, "valkey": valkey}


def hub(name: str, folder: Path, port: int, settings: Mapping[str, str]) -> Part:
    """A hub, configured by its environment alone.

    :param settings: what all hubs of the cluster have in common.
    """
    own = {"MERCURE_LISTEN": f"127.0.0.1:{port}"}
    return Part(
        name,
        folder,
        [sys.executable, "-m", "mercure_hub"],
        lambda: status_of(f"http://127.0.0.1:{port}/livez") == 200,
        environment={**settings, **own},
    )


def nginx(folder: Path, ports: Mapping[str, int | str]) -> Part:
    """The proxy in front: ``nginx.conf`` with its ports filled in.

    :param ports: what stands between two @ there.
    """
    program = _program("nginx", "nginx", "/usr/sbin")
    text = re.sub(r"@(\w+)@", lambda found: str(ports[found[1]]), (_HERE / "nginx.conf").read_text())
    if os.geteuid() == 0:  # its workers would run as a user that may not enter the folder
        text = f"user {getpass.getuser()};\n{text}"
    (folder / "nginx.conf").write_text(text)
    command: list[str | Path] = [program, "-p", folder, "-e", folder / "log", "-c", folder / "nginx.conf"]
    page = f"http://{ports['host']}:{ports['page']}/sign-in"
    return Part("nginx", folder, command, lambda: status_of(page) == 200)


def status_of(url: str) -> int | None:
    """Status of the answer to a GET; ``None`` without an answer."""
    try:
        with urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return None


def _program(name: str, package: str, folder: str = "") -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), folder]))
    if found is None:
        raise Trouble(f"{name} is not installed; on Debian: apt-get install {package}")
    return found


def _unprivileged(folder: Path) -> str | None:
    """A user other than root, who is made the owner of the folder; ``None``: the current user."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in users else "nobody"
    folder.parent.chmod(0o711)  # to enter, not to look around
    shutil.chown(folder, user)
    return user
