"""Variables that look like settings and are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flask_mercure.config.settings import KEYS
from mercure_hub.config import settings
from mercure_hub.config.settings import VARIABLES, unknown_variables

ROOT = Path(__file__).parents[2]


def test_every_setting_is_a_known_variable() -> None:
    assert unknown_variables([*VARIABLES, "HOME"]) == []


def test_every_setting_of_the_extension_is_a_known_variable() -> None:
    """Both often have one environment."""
    assert {f"MERCURE_{name}" for name in settings._OF_THE_EXTENSION} == set(KEYS) - set(VARIABLES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MERCURE_HEARTBEET", "did you mean MERCURE_HEARTBEAT?"),
        ("MERCURE_PUBLISHER_JWT_KEYS", "did you mean MERCURE_PUBLISHER_JWT_KEY?"),
        ("MERCURE_CORS_ORIGIN", "did you mean MERCURE_CORS_ORIGINS?"),
        ("MERCURE_EXTRA_DIRECTIVES", "see mercure-hub --help"),
        ("MERCURE_", "see mercure-hub --help"),
    ],
)
def test_an_unknown_variable_is_named_with_a_hint(name: str, hint: str) -> None:
    (warning,) = unknown_variables([name, "MERCURE_URL"])
    assert warning.startswith(f"{name} in the environment is not a setting of the hub")
    assert warning.endswith(hint)


@pytest.mark.minutes
def test_a_starting_hub_warns_of_unknown_variables(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
    with (tmp_path / "taken").open("w"):
        done = subprocess.run(
            [sys.executable, "-m", "mercure_hub"],
            cwd=ROOT,
            env={
                **clean,
                "MERCURE_PUBLISHER_JWT_KEY": "a secret that is long enough for HMAC-SHA-256",
                "MERCURE_TRANSPORT_URL": f"sqlite:///{tmp_path}/nowhere/hub.db",
                "MERCURE_LISTEN": "127.0.0.1:0",
                "MERCURE_HEARTBEET": "hunter2",
                "MERCURE_URL": "http://127.0.0.1:1/hub",
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if "WARNING" in line)
    assert line.endswith("is not a setting of the hub; did you mean MERCURE_HEARTBEAT?")
    assert "hunter2" not in done.stderr
