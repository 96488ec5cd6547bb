"""Runs the load generator ``sseload`` and takes its result."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

SSELOAD = Path(__file__).parent / "sseload"
Result = dict[str, Any]
"""One run's counts, times in seconds or as the name says, and the command under ``command``."""

_TIMEOUT = 180


def has_tls() -> bool:
    """Whether it was built with OpenSSL."""
    done = subprocess.run([str(SSELOAD), "features"], capture_output=True, text=True, check=True, timeout=10)
    return "tls" in done.stdout.split()


class Fault(Exception):
    """A run is not clean: an update went missing, came twice, in another order, or not at all."""


def sseload(mode: str, *options: str) -> Result:
    """One run.

    :param mode: fanout, publish, connect, replay or floor.
    :raises Fault: it is not clean.
    """
    command = [str(SSELOAD), mode, "-timeout", str(_TIMEOUT), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT + 30)
    shown = " ".join(["sseload", mode, *options])
    if done.returncode != 0:
        raise Fault(f"not clean: {shown}\n{done.stdout}{done.stderr}")
    result: Result = json.loads(done.stdout)
    return {**result, "command": shown}


def at(result: Result, *path: str) -> float | None:
    """A number in a result, or ``None`` if it is not there, as CPU is not without ``-pid``."""
    value: Any = result
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else float(value)
