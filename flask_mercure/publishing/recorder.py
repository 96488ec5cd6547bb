"""Records what an application publishes, for its tests; meanwhile nothing is sent to a hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mercure_hub.protocol.update import new_id

if TYPE_CHECKING:
    from flask_mercure.updates import Publication


@dataclass(frozen=True, slots=True)
class RecordedUpdate:
    """An update that was published while a recording ran.

    :param topics: the canonical topic and its alternates.
    :param data: the text, as a subscriber would get it.
    :param private: whether only subscribers get it whose token allows one of the topics.
    :param id: given by the app, or a new UUID, as from a hub.
    :param type: event type.
    :param retry: reconnection time in milliseconds.
    :param hub: name of the hub in the app's configuration.
    """

    topics: tuple[str, ...]
    data: str
    private: bool
    id: str
    type: str | None
    retry: int | None
    hub: str

    @property
    def topic(self) -> str:
        """The canonical topic."""
        return self.topics[0]

    @property
    def json(self) -> Any:
        """The data, read as JSON.

        :raises AssertionError: the data is not JSON.
        """
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise AssertionError(f"the update of {self.topic!r} is not JSON but {self.data!r}") from error


@dataclass(frozen=True, slots=True)
class RecordedRevocation:
    """Access that was ended while a recording ran, by ``mercure.revoke`` or at a logout.

    :param user: whose; ``None`` for a session or a token.
    :param topics: of the user, if not all access was ended.
    :param sid: of the session: one browser's, from a login to a logout.
    :param jti: of the token.
    :param hub: name of the hub in the app's configuration.
    """

    user: str | None
    topics: tuple[str, ...]
    sid: str | None
    jti: str | None
    hub: str


class Recording(list[RecordedUpdate]):
    """The recorded updates, in the order of publication; a list that grows while the recording runs.

    ``revoked`` lists the access that was ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.revoked: list[RecordedRevocation] = []
        self._grown = threading.Condition()
        self._from_outbox: set[tuple[str, str]] = set()

    def add(self, updates: Sequence[RecordedUpdate], *, from_outbox: bool = False) -> None:
        """Append updates and wake the threads that wait for them.

        :param from_outbox: whether the relay may bring them again, or has brought them before.
        """
        with self._grown:
            if from_outbox:
                updates = [one for one in updates if (one.hub, one.id) not in self._from_outbox]
                self._from_outbox.update((one.hub, one.id) for one in updates)
            self.extend(updates)
            self._grown.notify_all()

    def on(self, topic: str) -> list[RecordedUpdate]:
        """The updates that have a topic, be it as an alternate."""
        return [update for update in self if topic in update.topics]

    def one(self, topic: str | None = None) -> RecordedUpdate:
        """The only update, or the only one of a topic.

        :raises AssertionError: there is no such update, or several; the message lists what was published.
        """
        updates = list(self) if topic is None else self.on(topic)
        if len(updates) == 1:
            return updates[0]
        wanted = "one update" if topic is None else f"one update of {topic!r}"
        raise AssertionError(f"{len(updates)} instead of {wanted}; published were {self._shown()}")

    def wait(self, count: int = 1, timeout: float = 5.0) -> Recording:
        """Wait for updates that another thread publishes.

        :param count: how many updates, at least.
        :param timeout: seconds.
        :returns: the recording.
        :raises AssertionError: there are fewer after that time.
        """
        with self._grown:
            if not self._grown.wait_for(lambda: len(self) >= count, timeout):
                raise AssertionError(
                    f"{len(self)} instead of {count} updates within {timeout:g} s; "
                    f"published were {self._shown()}"
                )
        return self

    def _shown(self) -> str:
        return ", ".join(f"{update.topic!r}: {update.data[:80]!r}" for update in self) or "none"


_running: list[Recording] = []
_lock = threading.Lock()


@contextmanager
def record() -> Iterator[Recording]:
    """Record instead of publishing, in all apps and all threads of this process.

    Recordings may be nested; each has what was published while it ran.
    """
    recording = Recording()
    with _lock:
        _running.append(recording)
    try:
        yield recording
    finally:
        with _lock:
            # By identity: two recordings with the same updates are equal, as lists are.
            _running[:] = [one for one in _running if one is not recording]


def take_revocation(revocation: RecordedRevocation) -> None:
    """Add ended access to all recordings that run."""
    with _lock:
        for recording in _running:
            recording.revoked.append(revocation)


def is_recording() -> bool:
    """Whether a recording runs."""
    return bool(_running)


def take(hub: str, publications: Sequence[Publication], *, from_outbox: bool = False) -> list[str]:
    """Add updates to all recordings that run.

    :param hub: name of the hub in the app's configuration.
    :param publications: the updates.
    :param from_outbox: whether they come from the outbox: once when they are committed, and again when the
        relay sends them. A recording keeps them once.
    :returns: their ids.
    """
    updates = [
        RecordedUpdate(tuple(one.topics), one.data, one.private, one.id or new_id(), one.type, one.retry, hub)
        for one in publications
    ]
    with _lock:
        for recording in _running:
            recording.add(updates, from_outbox=from_outbox)
    return [update.id for update in updates]
