"""The relay of an app: put together, as a foreground process and as a thread."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

from flask import Flask

from flask_mercure.outbox.app import AppOutbox, outbox_of
from flask_mercure.outbox.binding import bind
from flask_mercure.outbox.relay import Relay
from flask_mercure.outbox.rows import channel
from flask_mercure.outbox.thread import RelayThread
from flask_mercure.outbox.wakeup import wakeup_for
from flask_mercure.publishing import recorder
from flask_mercure.publishing.pipeline import PublishingSettings, pipeline_of
from flask_mercure.state import state_of
from flask_mercure.updates import Publication


def open_outbox(app: Flask, settings: PublishingSettings) -> AppOutbox:
    """The outbox that the settings of an app name, with a thread that empties it if they ask for one.

    :raises ValueError: with the end of a sentence that begins with ``MERCURE_OUTBOX``.
    """
    binding = bind(settings.outbox, app.extensions)
    if not settings.relay_thread:
        return AppOutbox(binding)
    thread = RelayThread(app, relay_for)
    # At the first request, not now: a server may fork its workers after it has loaded the app.
    app.before_request(thread.ensure)
    return AppOutbox(binding, thread)


def relay_for(app: Flask) -> Relay:
    """A relay, to be used in the context of its app.

    :raises ConfigurationError: the app has no outbox.
    """
    outbox, pipeline, state = outbox_of(app).binding, pipeline_of(app), state_of(app)

    def send(hub: str, publications: Sequence[Publication]) -> None:
        # whatever ``publish`` does in this app: the relay has to know what became of them
        pipeline.publish(state.hub(hub), publications, "raise", from_outbox=True)

    def takes_batches(hub: str) -> bool:
        if recorder.is_recording():
            return False  # a test without a hub
        return state.hub(hub).publisher.takes_batches()

    return Relay(
        outbox.engine,
        outbox.table,
        send,
        wakeup_for(outbox.engine, channel(outbox.table)),
        takes_batches=takes_batches,
        longest_request=max(
            hub.configuration.connect_timeout + hub.configuration.read_timeout for hub in state.hubs.values()
        ),
        interval=pipeline.settings.interval,
        keep=pipeline.settings.keep,
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
