"""What was measured on: the machine and the versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.hubs import HERE, nginx

PYTHON = "Python"
"""What the column of another interpreter begins with; its version follows."""

_POSTGRES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[-1:]]
_PACKAGES = (
    "gevent",
    "greenlet",
    "httptools",
    "sqlalchemy",
    "urlpattern",
    "google-re2",
    "pyjwt",
    "psycopg",
    "redis",
)


def describe() -> dict[str, str]:
    """The machine and the versions, each with its name."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "revision": _output("git", "-C", str(HERE), "describe", "--always", "--dirty"),
        "nchan": _nchan(),
        "PostgreSQL": _engine(*_POSTGRES),
        "Valkey": _engine("valkey-server"),
        **{name: _version(name) for name in _PACKAGES},
    }


def sentence(machine: dict[str, str]) -> str:
    """The machine in a line for people."""
    servers = "".join(f", {name} {machine[name]}" for name in ("PostgreSQL", "Valkey") if name in machine)
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory']}, {machine['kernel']}, "
        f"Python {machine['python']}, gevent {machine['gevent']}{servers}; "
        f"revision {machine['revision']}; load before the run {machine['load'].split()[0]}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _nchan() -> str:
    server = _output(nginx(), "-v") if nginx() else ""
    module = _output("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
    return f"{server.rpartition(' ')[2]}, nchan {module}" if module else "absent"


def _engine(*program: str) -> str:
    """The version of a server."""
    found = re.search(r"\d+(\.\d+)+", _output(*program, "--version")) if program else None
    return found[0] if found else "absent"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""
