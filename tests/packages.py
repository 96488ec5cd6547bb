"""Debian's packages that the tests need: which are missing, and how they are installed.

``python3 tests/packages.py [LAYER]``, or ``--only PACKAGE...``, runs before there is a virtual environment:
this module imports nothing but the standard library.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The file whose exit status tells Debian's packages whether they may start their services.
POLICY = Path("/usr/sbin/policy-rc.d")
_SLOW = 20  # seconds without an answer from the archive
_APT = (
    *("apt-get", "-qq", "-o", f"Acquire::http::Timeout={_SLOW}", "-o", "Acquire::Retries=0"),
    *("-o", "DPkg::Lock::Timeout=120"),
)

# Layer -> package -> what shows that it is there: the name of a program, or a path with wildcards.
PACKAGES = {
    "seconds": {"python3-venv": f"{Path(os.__file__).parent}/ensurepip/__init__.py"},  # of this interpreter
    "minutes": {
        "gcc": "cc",
        "iproute2": "ip",
        "libc6-dev": "/usr/include/stdio.h",
        "libssl-dev": "/usr/include/openssl/ssl.h",
        "make": "make",
        "nodejs": "node",
        "pgbouncer": "/usr/sbin/pgbouncer",
        "postgresql": "/usr/lib/postgresql/*/bin/postgres",
        "redis-server": "redis-server",
        "systemd": "systemd-analyze",
        "valkey-server": "valkey-server",
    },
    "servers": {
        "apache2": "/usr/sbin/apache2",
        "caddy": "caddy",
        "chromium": "chromium",
        "chromium-driver": "chromedriver",
        "curl": "curl",
        "haproxy": "/usr/sbin/haproxy",
        "libapache2-mod-wsgi-py3": "/etc/apache2/mods-available/wsgi.load",
        "nghttp2-client": "h2load",
        "nghttp2-server": "nghttpd",
        "nginx": "/usr/sbin/nginx",
        "npm": "npm",
        "python3": "/usr/bin/python3",
        "supervisor": "supervisord",
    },
}
EVIDENCE = {package: shown for packages in PACKAGES.values() for package, shown in packages.items()}


def missing(packages: Iterable[str]) -> list[str]:
    """Those packages of the list that are not installed."""
    return [package for package in packages if not _is_here(EVIDENCE[package])]


def needed(layer: str) -> list[str]:
    """The packages of the layers that an expression chooses.

    :param layer: what ``pytest -m`` takes; empty for all layers.
    """
    if not layer:
        return sorted(EVIDENCE)
    chosen = [one for one in PACKAGES if eval(layer, {}, defaultdict(bool, {one: True}))]
    return sorted({*PACKAGES["seconds"], *(package for one in chosen for package in PACKAGES[one])})


def command(packages: Iterable[str]) -> str:
    """What the user of this process types to install packages."""
    as_root = "" if os.geteuid() == 0 else "sudo "
    return f"{as_root}apt-get install -y {' '.join(packages)}"


def install(packages: Iterable[str]) -> list[str]:
    """As root on Debian, install what is missing, unless ``TEST_SETUP=no``. Services are not started.

    :param packages: names from the list.
    :returns: the packages that are still missing, whatever the reason.
    """
    lacking = missing(packages)
    may_install = os.geteuid() == 0 and os.environ.get("TEST_SETUP") != "no"
    if not lacking or not may_install or shutil.which("apt-get") is None:
        return lacking
    print(  # noqa: T201
        "Packages of the system are missing, which are now installed; this takes minutes, no service is "
        f"started, and TEST_SETUP=no leaves them out:\n  {' '.join(lacking)}",
        flush=True,
    )
    with _no_services():
        # A list that cannot be fetched is an error: without a network each package would be tried in turn.
        renewed = _apt("update", "-o", "APT::Update::Error-Mode=any")
        problem = renewed or _apt("install", "-y", *filter(_is_known, lacking))
    lacking = missing(lacking)
    if lacking:
        print(*filter(None, [problem]), f"Still missing: {' '.join(lacking)}", sep="\n", flush=True)  # noqa: T201
    return lacking


def _is_here(shown: str) -> bool:
    if not shown.startswith("/"):
        return shutil.which(shown) is not None
    return any(Path("/").glob(shown.lstrip("/")))


def _apt(*arguments: str) -> str:
    """Its last complaint, if it failed."""
    done = subprocess.run(
        [*_APT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    return "\n".join(done.stderr.splitlines()[-1:]) if done.returncode else ""


def _is_known(package: str) -> bool:
    """Whether this release has it: apt-get installs nothing at all if it lacks one."""
    found = subprocess.run(
        ["apt-cache", "show", package], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return found.returncode == 0


@contextmanager
def _no_services() -> Iterator[None]:
    """Forbid packages to start what they install, unless this machine has a policy of its own."""
    if POLICY.exists():
        yield
        return
    # Should this process be killed by SIGKILL, the file that is left forbids nothing.
    POLICY.write_text(f"#!/bin/sh\nkill -0 {os.getpid()} 2>/dev/null && exit 101\nexit 0\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the policy goes away then, too
    only = sys.argv[2:] if sys.argv[1:2] == ["--only"] else None
    left = install(needed("".join(sys.argv[1:])) if only is None else only)
    sys.exit(bool(left and os.environ.get("CI")))
