"""The package itself."""

from __future__ import annotations

from importlib.metadata import version

import flask_mercure


def test_version_is_that_of_the_distribution() -> None:
    assert flask_mercure.__version__ == version("flask-mercure")
