"""The pytest plugin of flask-mercure: a real hub, a recorder, a subscriber (docs/testing.md).

It is a module beside the package because pytest loads it in every run, where it must cost nothing, and
importing anything from ``flask_mercure`` loads Flask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from flask_mercure import Recording, Subscription
    from flask_mercure.development import LocalHub
    from flask_mercure.topics import Topics


class Subscribes(Protocol):
    """The type of the fixture ``mercure_subscribe``."""

    def __call__(
        self, topics: Topics, last_event_id: str | None = None, timeout: float | None = 5.0
    ) -> Subscription: ...


@pytest.fixture(scope="session")
def mercure_hub_settings() -> dict[str, str]:
    """Environment variables for the hub of ``mercure_hub``; override it to change them."""
    return {}


@pytest.fixture(scope="session")
def mercure_hub(
    tmp_path_factory: pytest.TempPathFactory, mercure_hub_settings: dict[str, str]
) -> Iterator[LocalHub]:
    """A real hub on a free port, with a database and a secret of its own, until the session ends.

    ``app.config.update(mercure_hub.config)`` before ``init_app`` lets an app use it.
    """
    from flask_mercure.development import local_hub  # noqa: PLC0415 - see above

    with local_hub(tmp_path_factory.mktemp("mercure-hub"), mercure_hub_settings) as hub:
        yield hub


@pytest.fixture
def mercure_recorder() -> Iterator[Recording]:
    """Record what apps publish during a test; nothing is sent."""
    from flask_mercure.publishing.recorder import record  # noqa: PLC0415

    with record() as updates:
        yield updates


@pytest.fixture
def mercure_subscribe(mercure_hub: LocalHub) -> Iterator[Subscribes]:
    """Subscribe to topics of ``mercure_hub``; open subscriptions are closed at the end of the test.

    ``events = mercure_subscribe("books/1")``, then ``events.wait(5)`` for the next event.
    """
    opened: list[Subscription] = []

    def subscribe(
        topics: Topics, last_event_id: str | None = None, timeout: float | None = 5.0
    ) -> Subscription:
        subscription = mercure_hub.subscribe(topics, last_event_id, timeout)
        opened.append(subscription)
        return subscription

    yield subscribe
    for subscription in opened:
        subscription.close()
