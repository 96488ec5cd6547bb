"""The depth of the outbox for Prometheus; needs prometheus_client, which the application has then.

Register it once, in a process that is scraped: ``REGISTRY.register(OutboxCollector(app))``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flask import Flask

from flask_mercure.errors import ConfigurationError
from flask_mercure.outbox.app import outbox_of
from flask_mercure.outbox.contents import Stats, stats

if TYPE_CHECKING:
    from prometheus_client import Metric

_GAUGES = {
    "waiting": "Updates that are to be sent.",
    "failing": "Waiting updates that have failed while the hub took others.",
    "parked": "Updates that the hub refused for good or never took.",
    "oldest_age": "Seconds since the oldest waiting update was written.",
}


def outbox_stats(app: Flask, clock: Callable[[], float] = time.time) -> Stats:
    """The numbers of an app's outbox, read now.

    :param clock: gives the seconds since the epoch.
    :raises ConfigurationError: the app has no outbox.
    """
    with app.app_context():
        outbox = outbox_of(app).binding
        with outbox.engine.connect() as connection:
            return stats(connection, outbox.table, clock())


class OutboxCollector:
    """Reads the numbers when Prometheus asks for them.

    :param app: whose outbox it is.
    :raises ConfigurationError: prometheus_client is not installed.
    """

    def __init__(self, app: Flask) -> None:
        try:
            import prometheus_client.core  # noqa: F401, PLC0415
        except ModuleNotFoundError:
            raise ConfigurationError(
                "OutboxCollector needs a package that is not installed: pip install prometheus-client"
            ) from None
        self._app = app

    def describe(self) -> list[Metric]:
        """No look at the database when the collector is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One gauge for each number."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        read = outbox_stats(self._app)
        for name, meaning in _GAUGES.items():
            unit = "_seconds" if name == "oldest_age" else ""
            yield GaugeMetricFamily(f"mercure_outbox_{name}{unit}", meaning, value=getattr(read, name))
