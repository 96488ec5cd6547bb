"""An app on a hub under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from flask_mercure import Mercure
from flask_mercure.extension import state_of
from tests.hub.running import SECRET, RunningHub


@contextmanager
def app_on(url: str | RunningHub, mercure: Mercure, **config: object) -> Iterator[Flask]:
    """An app whose context is active; its connections are closed at the end.

    :param url: of the hub, or the hub.
    :param mercure: to initialise.
    :param config: keys without ``MERCURE_``.
    """
    app = Flask("sample")
    app.config["MERCURE_URL"] = url if isinstance(url, str) else url.url
    app.config["MERCURE_JWT_SECRET"] = SECRET
    app.config.update({f"MERCURE_{key}": value for key, value in config.items()})
    mercure.init_app(app)
    try:
        with app.app_context():
            yield app
    finally:
        for hub in state_of(app).hubs.values():
            hub.publisher.close()
