"""An update as an application writes it, alone or in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from flask_mercure.errors import InvalidArgument
from flask_mercure.topics.matchers import exact_topics
from flask_mercure.updates import content
from flask_mercure.updates.content import UNSET, Unset
from flask_mercure.updates.publication import Publication
from mercure_hub.protocol.update import PublicationLimits

if TYPE_CHECKING:
    from flask_mercure.encryption.jwe import Recipients

_MOST = PublicationLimits().updates


@dataclass(frozen=True, slots=True)
class Update:
    """An update for :meth:`Mercure.publish_many`; the values are the arguments of :meth:`Mercure.publish`.

    :param topics: the canonical topic, or several: the canonical one and its alternates.
    :param data: a ``str`` is sent as it is, anything else as JSON, by Flask's provider.
    :param private: deliver only to subscribers whose token allows one of the topics.
    :param id: of the update; without one the hub makes it.
    :param type: event type.
    :param retry: milliseconds after which a browser that lost the connection tries again.
    :param encrypt_for: who shall read the update; left out: all who may.
    """

    topics: str | Iterable[str]
    data: Any = ""
    private: bool = False
    id: str | None = None
    type: str | None = None
    retry: int | None = None
    encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET

    def publication(self) -> Publication:
        """What the hub gets of it.

        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update.
        :raises TypeError: a value has the wrong type, or ``data`` cannot be written as JSON.
        """
        if self.encrypt_for is UNSET:
            text = content.text(self.data)
        else:
            text = content.encrypted(self.data, self.encrypt_for)
        return Publication(
            exact_topics(self.topics), text, self.private, id=self.id, type=self.type, retry=self.retry
        )


def publications(updates: Iterable[Update]) -> list[Publication]:
    """What the hub gets of a batch.

    :raises InvalidArgument: an update would be refused; the message has its index. Or there are too many.
    :raises TypeError: something is no update.
    """
    found: list[Publication] = []
    for index, update in enumerate(updates):
        if not isinstance(update, Update):
            raise TypeError(f"update {index} is a {type(update).__name__}; give flask_mercure.Update objects")
        if index == _MOST:
            raise InvalidArgument(f"more than {_MOST} updates in one batch; publish them in parts")
        try:
            found.append(update.publication())
        except InvalidArgument as error:
            raise InvalidArgument(f"update {index} (the first is 0): {error}") from error
    return found


class Batch:
    """Updates that are published together when a ``with`` block ends; none when it raises.

    ``ids`` has the ids of the updates afterwards, in order.

    :param publish: publishes them and returns their ids.
    """

    def __init__(self, publish: Callable[[Sequence[Update]], list[str]]) -> None:
        self.ids: list[str] = []
        self._publish = publish
        self._updates: list[Update] = []
        self._is_open = True

    def __len__(self) -> int:
        return len(self._updates)

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = False,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET,
    ) -> None:
        """Add an update; the arguments and errors are those of :meth:`Mercure.publish`.

        ``data`` is written as JSON now: what changes in it later is not published.

        :raises RuntimeError: the batch is published already.
        """
        if not self._is_open:
            raise RuntimeError("this batch is over; begin another one with mercure.batch()")
        made = Update(topics, data, private, id, type, retry, encrypt_for).publication()
        self._updates.append(Update(made.topics, made.data, made.private, made.id, made.type, made.retry))

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        if kind is None and self._updates:
            self.ids = self._publish(self._updates)
