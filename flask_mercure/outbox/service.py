"""The relay of an app: put together, as a foreground process and as a thread."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from flask import Flask

from flask_mercure.delivery import deliver
from flask_mercure.outbox.relay import Relay
from flask_mercure.outbox.rows import channel
from flask_mercure.outbox.wakeup import wakeup_for
from flask_mercure.outbox.writer import outbox_of
from flask_mercure.publication import Publication
from flask_mercure.reliability import reliability_of
from flask_mercure.state import state_of


def relay_for(app: Flask) -> Relay:
    """A relay, to be used in the context of its app.

    :raises ConfigurationError: the app has no outbox.
    """
    outbox, settings, state = outbox_of(app), reliability_of(app).settings, state_of(app)

    def send(hub: str, publication: Publication) -> None:
        deliver(state.hub(hub), [publication])

    return Relay(
        outbox.engine,
        outbox.table,
        send,
        wakeup_for(outbox.engine, channel(outbox.table)),
        interval=settings.interval,
        keep=settings.keep,
    )


@contextlib.contextmanager
def ending_on_signals(relay: Relay) -> Iterator[None]:
    """Let SIGTERM and SIGINT end a relay after the update that is under way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        relay.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
