"""What happens to an update that cannot be published now, as the app configures it.

``raise`` leaves it to the caller, ``log`` writes one line, ``background`` hands every update to a thread of
this process, and with the outbox it waits in the app's own database.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from flask import Flask

from flask_mercure import conversion, recorder
from flask_mercure.background import BackgroundCounters, BackgroundQueue, log_failure
from flask_mercure.errors import ConfigurationError, MercureError
from flask_mercure.publication import Publication
from flask_mercure.retry import Verdict, verdict
from flask_mercure.state import HubState

if TYPE_CHECKING:
    from flask_mercure.broadcast.transaction import Outgoing
    from flask_mercure.outbox.binding import Outbox
    from flask_mercure.outbox.thread import RelayThread

KEY = "mercure.reliability"
"""Of the object in ``app.extensions``."""

OnFailure = Literal["raise", "log", "background"]

_POLICIES: tuple[OnFailure, ...] = get_args(OnFailure)

Send = Callable[[HubState, Sequence[Publication]], list[str]]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ReliabilitySettings:
    """What the configuration says.

    :param on_failure: of ``publish``.
    :param queue_size: updates that may wait in the background.
    :param publish_to_outbox: whether ``publish`` writes to the outbox too.
    :param keep: seconds for which delivered updates stay in the outbox.
    :param interval: seconds between two looks of the relay at the table.
    :param relay_thread: whether the processes of the app relay themselves.
    """

    on_failure: OnFailure = "raise"
    queue_size: int = 1000
    publish_to_outbox: bool = False
    keep: float = 0.0
    interval: float = 1.0
    relay_thread: bool = False


class Reliability:
    """The ways of one app's updates.

    :param app: whose context they need.
    :param settings: of the app.
    :param outbox: of the app, or ``None``.
    :param send: sends updates now.
    """

    def __init__(self, app: Flask, settings: ReliabilitySettings, outbox: Outbox | None, send: Send) -> None:
        self._app = app
        self._send = send
        self.settings = settings
        self.outbox = outbox
        self.relay_thread: RelayThread | None = None
        self._queues: dict[str, BackgroundQueue] = {}

    def publish(
        self, hub: HubState, publications: Sequence[Publication], on_failure: OnFailure | None = None
    ) -> list[str]:
        """Publish updates.

        :param hub: to publish on.
        :param publications: in order.
        :param on_failure: instead of what the app has configured.
        :returns: their ids; those of updates that failed too, unless that raises.
        :raises PublishError: with ``raise``.
        """
        policy = self.settings.on_failure if on_failure is None else check_policy(on_failure)
        if policy == "raise":
            return self._send(hub, publications)
        named = [with_id(one) for one in publications]
        if policy == "background":
            for one in named:
                self.queue(hub).put(one)
        else:
            self._send_or_log(hub, named)
        return [one.id or "" for one in named]

    def _send_or_log(self, hub: HubState, publications: Sequence[Publication]) -> None:
        """Send one by one; when there is no hub, the rest is not tried: each try may take seconds."""
        for position, publication in enumerate(publications):
            try:
                self._send(hub, [publication])
            except MercureError as error:
                log_failure(publication, str(error))
                if verdict(error) not in (Verdict.REFUSED, Verdict.LATER):
                    for untried in publications[position + 1 :]:
                        log_failure(untried, "not tried after the one before")
                    return

    def queue(self, hub: HubState) -> BackgroundQueue:
        """The queue of a hub."""
        queue = self._queues.get(hub.name)
        if queue is None:

            def send(publication: Publication) -> None:
                # The app's own token factory may need its context.
                with self._app.app_context():
                    self._send(hub, [publication])

            # setdefault is atomic: of two threads that come first, both take the same one
            queue = self._queues.setdefault(hub.name, BackgroundQueue(send, self.settings.queue_size))
        return queue

    @property
    def background(self) -> Mapping[str, BackgroundCounters]:
        """Numbers of the queues of this process, by hub."""
        return {name: queue.counters for name, queue in self._queues.items()}

    def publish_to_outbox(self, hub: HubState, publications: Sequence[Publication]) -> list[str]:
        """Publish updates when the transaction of the current session commits.

        :returns: their ids.
        """
        writer = import_module("flask_mercure.outbox.writer").OutboxWriter(hub.name)
        ids: list[str] = writer.add(publications)
        return ids

    def settled(self, updates: Sequence[Outgoing]) -> None:
        """Updates were written to the outbox, in a transaction that is committed."""
        for update in updates:
            sink = recorder.sink(update.hub)
            if sink is not None:
                sink([update.publication])
        self.written()

    def written(self) -> None:
        """Rows were committed to the outbox: have them sent, if this process does that."""
        if self.relay_thread is not None:
            self.relay_thread.wake()


def with_id(publication: Publication) -> Publication:
    """The update with an id of its own, by which a repeat can be recognised."""
    return publication if publication.id is not None else replace(publication, id=f"urn:uuid:{uuid.uuid4()}")


def check_policy(value: object) -> OnFailure:
    """A failure policy.

    :raises ValueError: there is no such policy.
    """
    for policy in _POLICIES:
        if value == policy:
            return policy
    raise ValueError(f"on_failure is {value!r}; use 'raise', 'log' or 'background'")


def reliability_of(app: Flask) -> Reliability:
    """The ways of an app's updates.

    :raises ConfigurationError: ``init_app`` was not called for it.
    """
    found = app.extensions.get(KEY)
    if not isinstance(found, Reliability):
        raise ConfigurationError(
            f"the app {app.name!r} has no Mercure: call Mercure(app) or mercure.init_app(app)"
        )
    return found


def init_app(app: Flask, send: Send) -> None:
    """Read the configuration of an app and keep what it says in ``app.extensions``.

    :param send: sends updates now.
    :raises ConfigurationError: with all problems at once.
    """
    problems: list[str] = []

    def take(key: str, convert: Callable[[Any], _T], default: _T) -> _T:
        value = app.config.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return default
        try:
            return convert(value)
        except ValueError as error:
            problems.append(f"{key} {error}")
            return default

    settings = ReliabilitySettings(
        on_failure=take("MERCURE_ON_FAILURE", _policy, _POLICIES[0]),
        queue_size=take("MERCURE_BACKGROUND_QUEUE", _count, 1000),
        publish_to_outbox=take("MERCURE_OUTBOX_PUBLISH", conversion.boolean, default=False),
        keep=take("MERCURE_OUTBOX_KEEP", _duration, 0.0),
        interval=take("MERCURE_RELAY_INTERVAL", conversion.seconds, 1.0),
        relay_thread=take("MERCURE_RELAY_THREAD", conversion.boolean, default=False),
    )
    outbox = take("MERCURE_OUTBOX", lambda value: _outbox(value, app), None)
    if outbox is None and not problems:
        problems += [
            f"{key} is on, and MERCURE_OUTBOX is not set: name the database, such as your db object"
            for key, is_on in (
                ("MERCURE_OUTBOX_PUBLISH", settings.publish_to_outbox),
                ("MERCURE_RELAY_THREAD", settings.relay_thread),
            )
            if is_on
        ]
    if problems:
        raise ConfigurationError(problems)
    reliability = Reliability(app, settings, outbox, send)
    app.extensions[KEY] = reliability
    if outbox is not None and settings.relay_thread:
        from flask_mercure.outbox.thread import RelayThread  # noqa: PLC0415

        reliability.relay_thread = RelayThread(app)
        # At the first request, not now: a server may fork its workers after it has loaded the app.
        app.before_request(reliability.relay_thread.ensure)


def _policy(value: object) -> OnFailure:
    try:
        return check_policy(value)
    except ValueError:
        raise ValueError(f"is {value!r}; use 'raise', 'log' or 'background'") from None


def _count(value: object) -> int:
    try:
        number = int(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"is {value!r}; give a whole number of updates, 1 or more")
    return number


def _duration(value: object) -> float:
    """Seconds, 0 included."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    return conversion.seconds(value)


def _outbox(value: object, app: Flask) -> Outbox | None:
    if isinstance(value, str) and ":" not in value:
        value = conversion.boolean(value)
    if value is False:
        return None
    if isinstance(value, str):
        value = conversion.imported(value)
    try:
        binding = import_module("flask_mercure.outbox.binding")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs a package that is not installed ({error.name}): pip install 'flask-mercure[outbox]'"
        ) from None
    outbox: Outbox = binding.bind(value, app.extensions)
    return outbox
