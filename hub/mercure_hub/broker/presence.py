"""Who is connected: subscription events, and the active subscriptions of all processes (spec)."""

from __future__ import annotations

import json
import logging
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import gevent

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.threads import in_thread
from mercure_hub.fanout.engine import Engine
from mercure_hub.fanout.subscriber import Announcement, Subscriber
from mercure_hub.protocol.count import (
    STORED_AS,
    Counts,
    Part,
    is_part,
    part_of_event,
    part_of_record,
    shown,
    told,
)
from mercure_hub.protocol.errors import StorageAway, StorageError
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.subscription import Subscription, of_subscriber, restored
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Presence

_BETWEEN_PAUSES = 100  # subscriptions
_PAGE = 500  # records that are read, or adopted, at once
_RETRY = 5.0  # seconds until an adoption that failed is tried again

_log = logging.getLogger("mercure_hub.subscriber")

T = TypeVar("T")


class ActiveSubscriptions:
    """The subscriptions that are active in all processes.

    :param storage: where processes tell each other of theirs.
    :param dispatcher: publishes subscription events.
    :param engine: has the subscribers of this process.
    :param are_announced: publish subscription events (MERCURE_SUBSCRIPTIONS).
    :param interval: seconds between two looks for subscriptions of dead processes.
    """

    def __init__(
        self,
        storage: Storage,
        dispatcher: Dispatcher,
        engine: Engine,
        *,
        are_announced: bool,
        interval: float,
    ) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._engine = engine
        self.are_announced = are_announced
        self._interval = interval
        self._lease = 0
        self._unknown: dict[Subscriber, None] = {}  # not announced again since the lease was lost
        self._is_failing = False
        self._counts = Counts(_random_name())
        self._knows_counts = False
        self._newer: set[tuple[str, str]] | None = None  # what was told since the reading of all parts began
        self._adopting: gevent.Greenlet | None = None
        self._announcing: gevent.Greenlet | None = None

    def announce(self, subscriber: Subscriber, *, active: bool) -> None:
        """Publish that the subscriptions of a subscriber begin or end."""
        if not self.are_announced:
            return
        if active:
            seen = shown(subscriber.matchers, subscriber.grant.subscribe, subscriber.identity)
            subscriber.announced = Announcement(_random_name(), seen.matchers, seen.counted)
            self._counts.enter(seen.counted)
        elif subscriber.announced is not None:
            self._counts.leave(subscriber.announced.counted)
        self._announce(subscriber, active=active)

    def _announce(self, subscriber: Subscriber, *, active: bool) -> None:
        if subscriber in self._unknown:  # others end them, by the id that they have had
            del self._unknown[subscriber]
            return
        for subscription in _subscriptions(subscriber):
            self._publish(subscription, subscriber.identity, active=active)

    def _publish(self, subscription: Subscription, identity: Identity, *, active: bool) -> None:
        record = subscription.record(identity) if active else None
        presence = Presence(subscription.path(identity), record, subscription.matcher.value, self._lease)
        self._dispatcher.announce(subscription.event(identity, active=active), presence)

    # -- when this process counted as dead -------------------------------------------------------

    def begin_lease(self, lease: int) -> None:
        """Announce all subscriptions again, because other processes end them.

        They get new ids, so it does not matter whether their ends or their new beginnings come first.

        :param lease: how many this process has lost.
        """
        self._lease = lease
        if not self.are_announced:
            return
        self._counts.begin(_random_name())
        self._unknown = dict.fromkeys(self._engine)
        if self._announcing is None or self._announcing.ready():
            self._announcing = gevent.spawn(self._announce_again)

    def _announce_again(self) -> None:
        number = 0
        while self._unknown:
            subscriber, _ = self._unknown.popitem()
            if subscriber.announced is not None:
                subscriber.announced.id = _random_name()
            self._announce(subscriber, active=True)
            number += 1
            if number % _BETWEEN_PAUSES == 0:
                gevent.sleep(0)
                self._dispatcher.wait_for_answers()

    # -- counts ----------------------------------------------------------------------------------

    def count(self, path: str) -> int:
        """How many are connected to a topic, in all processes.

        :param path: of the count.
        """
        return self._counts.total(path)

    def take(self, event: Update) -> None:
        """Learn what another process counts; called with all events of the hub."""
        part = part_of_event(event)
        if part is not None:
            self._counts.take(part)
            if self._newer is not None:
                self._newer.add((part.path, part.process))

    def forget_counts(self) -> None:
        """Read those of the others again: events may be missing."""
        self._knows_counts = False

    def tell_watched(self, subscriber: Subscriber) -> None:
        """Send a subscriber that has just begun the counts that it listens to."""
        if self.are_announced and subscriber.is_connected:
            scope, identity = subscriber.grant.subscribe, subscriber.identity
            for path in shown(subscriber.matchers, scope, identity).watched:
                for _ in self._engine.tell(told(path, self._counts.total(path)), only=subscriber):
                    pass

    def tell_counts(self) -> Iterator[None]:
        """Tell the other processes what has changed here, and the readers here what has changed anywhere.

        To be called once a second: it bounds what any number of subscribers can cause.

        :returns: an iterator to exhaust; each step is a pause.
        """
        if not self._knows_counts and self.are_announced and self._storage.absence is None:
            self._read_counts()
        # Not while the storage is away or slow: the numbers of then are enough.
        if self._storage.absence is None and not self._dispatcher.is_slow:
            for part in _with_pauses(self._counts.news()):
                if part.process == self._counts.process:  # else the lease was lost in a pause
                    self._publish_part(part)
        for path, number in self._counts.changes():
            yield
            yield from self._engine.tell(told(path, number))

    def _publish_part(self, part: Part) -> None:
        presence = Presence(part.key, part.record(), STORED_AS, self._lease, replaces=True)
        self._dispatcher.announce(part.event(), presence)

    def _read_counts(self) -> None:
        parts: list[Part] = []
        beyond: str | None = None
        self._knows_counts = True  # unless something is missed meanwhile
        newer: set[tuple[str, str]] = set()
        self._newer = newer
        try:
            while True:
                page = in_thread(partial(self._storage.others, STORED_AS, beyond, _PAGE))
                parts += [part_of_record(one) for one in page.records if is_part(one)]
                if page.beyond is None:
                    break
                beyond = page.beyond
        except Exception as error:  # the next call tries again
            self._knows_counts = False
            if not isinstance(error, StorageError):
                raise
            _log.debug("the counts of other processes cannot be read: %s", error)
            return
        finally:
            self._newer = None
        self._counts.replace(parts, newer)

    # -- the list --------------------------------------------------------------------------------

    def matching(self, value: str | None, subscriber: str | None = None) -> Iterator[Subscription]:
        """The subscriptions that are active now, in all processes; with pauses, because there may be many.

        :param value: only those with this matcher; ``None``: all.
        :param subscriber: only those of the subscriber with this id; ``None``: all.
        :raises StorageError: those of other processes cannot be read.
        """
        absence = self._storage.absence
        if absence is not None:
            raise absence
        own = list(self._engine) if value is None else self._engine.listening_with(value)
        if subscriber is not None:
            own = [one for one in own if one.announced is not None and one.announced.id == subscriber]
        # What an adopter has not ended yet may be of a connection that is here.
        listed = {one.announced.id for one in own if one.announced is not None}
        for one in _with_pauses(own):
            yield from _subscriptions(one)
        beyond: str | None = None
        while True:
            page = in_thread(partial(self._storage.others, value, beyond, _PAGE))
            found = _restored(page.records, [one for one in (value, subscriber) if one is not None])
            yield from (one for one in found if one.subscriber not in listed)
            if page.beyond is None:
                return
            beyond = page.beyond

    # -- processes that died ---------------------------------------------------------------------

    def end_of_dead_processes(self) -> None:
        """Publish the end of subscriptions whose process was killed: a page of them now, the others later."""
        if not self.are_announced:
            return
        self._read_counts()
        has_more = self._try_to_adopt()
        self._adopting = gevent.spawn(self._keep_adopting, has_more)

    def _keep_adopting(self, has_more: bool) -> None:
        while True:
            while has_more:
                self._dispatcher.wait_for_answers()
                has_more = self._try_to_adopt()
            pause = min(self._interval, _RETRY) if self._is_failing else self._interval
            # Not all processes at once: one of them gets all.
            gevent.sleep(pause * random.uniform(0.6, 1.0))  # noqa: S311 - no secret
            if self._storage.absence is None:
                has_more = self._try_to_adopt()

    def _try_to_adopt(self) -> bool:
        """Adopt a page, and end what is on it.

        :returns: whether there is more.
        """
        try:
            records = in_thread(partial(self._storage.adopt, _PAGE))
            for record in records:
                if is_part(record):
                    self._publish_part(replace(part_of_record(record), number=0))
                else:
                    self._publish(*restored(record), active=False)
        except StorageError as error:  # a full disk, for example; streams can go on
            if not (self._is_failing or isinstance(error, StorageAway)):
                _log.error("subscriptions of processes that died are still listed: %s", error)
                self._is_failing = True
        except Exception:
            _log.exception(
                "subscriptions of processes that died are still listed; this is a defect of the hub"
            )
        else:
            if self._is_failing:
                _log.info("subscriptions of processes that died are no longer listed")
            self._is_failing = False
            return len(records) == _PAGE
        return False

    def close(self) -> None:
        """Stop looking for dead processes, and stop announcing."""
        for greenlet in (self._adopting, self._announcing):
            if greenlet is not None:
                greenlet.kill()


def _subscriptions(subscriber: Subscriber) -> Iterator[Subscription]:
    announced = subscriber.announced
    if announced is None:
        return iter(())
    return of_subscriber(announced.matchers, announced.id, subscriber.grant.payload_for)


def _restored(records: Sequence[str], values: Sequence[str]) -> list[Subscription]:
    """The subscriptions in records that have some values somewhere."""
    records = [record for record in records if not is_part(record)]
    # As in the record; parsing every record takes forty times as long.
    for encoded in map(json.dumps, values):
        records = [record for record in records if encoded in record]
    return [restored(record)[0] for record in records]


def _with_pauses(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        if number % _BETWEEN_PAUSES == 0:
            gevent.sleep(0)
        yield item


def _random_name() -> str:
    return f"urn:uuid:{uuid.uuid4()}"
