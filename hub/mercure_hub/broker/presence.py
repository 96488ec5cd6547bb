"""Who is connected: subscription events, and the active subscriptions of all processes (spec)."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import gevent

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.threads import in_thread
from mercure_hub.fanout.engine import Engine
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.subscription import Subscription, of_subscriber, restored
from mercure_hub.storage.interface import Presence

_BETWEEN_PAUSES = 100  # subscriptions
_PAGE = 500  # records that are read, or adopted, at once

_log = logging.getLogger("mercure_hub.subscriber")

T = TypeVar("T")


class ActiveSubscriptions:
    """The subscriptions that are active in all processes.

    :param storage: where processes tell each other of theirs.
    :param dispatcher: publishes subscription events.
    :param engine: has the subscribers of this process.
    :param are_announced: publish subscription events (MERCURE_SUBSCRIPTIONS).
    :param retry_after: seconds until subscriptions of dead processes are looked for again after a failure.
    """

    def __init__(
        self,
        storage: Storage,
        dispatcher: Dispatcher,
        engine: Engine,
        *,
        are_announced: bool,
        retry_after: float,
    ) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._engine = engine
        self._are_announced = are_announced
        self._retry_after = retry_after
        self._retrying: gevent.Greenlet | None = None

    def new_subscriber_id(self) -> str:
        """A random identifier for a connection; empty when nobody can ask for it."""
        return f"urn:uuid:{uuid.uuid4()}" if self._are_announced else ""

    def announce(self, subscriber: Subscriber, *, active: bool) -> None:
        """Publish that the subscriptions of a subscriber begin or end."""
        if not self._are_announced:
            return
        identity = subscriber.identity
        for subscription in _subscriptions(subscriber):
            record = subscription.record(identity) if active else None
            presence = Presence(subscription.path(identity), record, subscription.matcher.value)
            self._dispatcher.announce(subscription.event(identity, active=active), presence)

    def matching(self, value: str | None) -> Iterator[Subscription]:
        """The subscriptions that are active now, in all processes; with pauses, because there may be many.

        :param value: only those with this matcher; ``None``: all.
        :raises StorageError: those of other processes cannot be read.
        """
        subscribers = list(self._engine) if value is None else self._engine.listening_with(value)
        for subscriber in _with_pauses(subscribers):
            yield from _subscriptions(subscriber)
        beyond: str | None = None
        while True:
            page = in_thread(partial(self._storage.others, value, beyond, _PAGE))
            yield from _restored(page.records, value)
            if page.beyond is None:
                return
            beyond = page.beyond

    def end_of_dead_processes(self) -> None:
        """Publish the end of subscriptions whose process was killed; retries later if that fails."""
        if not self._are_announced:
            return
        try:
            self._adopt()
        except StorageError as error:  # a full disk, for example; streams can go on
            _log.error("subscriptions of processes that died are still listed: %s", error)
            self._retrying = gevent.spawn(self._retry)

    def _retry(self) -> None:
        while True:
            gevent.sleep(self._retry_after)
            try:
                self._adopt()
            except StorageError:
                continue
            _log.info("subscriptions of processes that died are no longer listed")
            return

    def _adopt(self) -> None:
        records: Sequence[str] = [""] * _PAGE
        while len(records) == _PAGE:
            records = in_thread(partial(self._storage.adopt, _PAGE))
            for record in records:
                subscription, identity = restored(record)
                presence = Presence(subscription.path(identity), None, subscription.matcher.value)
                self._dispatcher.announce(subscription.event(identity, active=False), presence)

    def close(self) -> None:
        """Stop retrying."""
        if self._retrying is not None:
            self._retrying.kill()


def _subscriptions(subscriber: Subscriber) -> Iterator[Subscription]:
    return of_subscriber(subscriber.matchers, subscriber.id, subscriber.grant.payload_for)


def _restored(records: Sequence[str], value: str | None) -> list[Subscription]:
    if value is not None:
        encoded = json.dumps(value)  # as in the record; parsing every record takes forty times as long
        records = [record for record in records if encoded in record]
    return [restored(record)[0] for record in records]


def _with_pauses(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        if number % _BETWEEN_PAUSES == 0:
            gevent.sleep(0)
        yield item
