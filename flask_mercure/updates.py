"""Updates: as an application writes them, and as the form that a publisher sends (spec, Publication)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack
from urllib.parse import urlencode

from flask import json

from flask_mercure.encryption import encrypt
from flask_mercure.errors import InvalidArgument
from flask_mercure.html import TurboStream, html_type, is_html_type
from flask_mercure.topics import check_characters, exact_topics
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.topics import WILDCARD
from mercure_hub.protocol.update import EARLIEST, HUB_EVENT_TYPE, PublicationLimits, new_id

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients

_MAX_UPDATES = PublicationLimits().updates


class Unset(Enum):
    """The value of an argument that was left out."""

    UNSET = 0

    def __repr__(self) -> str:
        return "unset"


# Not None: a user whose key is missing must not lead to an update that everybody can read.
UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Publication:
    """An update on its way to the hub, checked.

    :param topics: the canonical topic and its alternates.
    :param data: the content.
    :param private: deliver only to subscribers whose token allows one of the topics.
    :param id: of the update; ``None`` leaves it to the hub.
    :param type: Server-Sent Events ``event`` field.
    :param retry: reconnection time in milliseconds.
    :raises InvalidArgument: the hub would refuse a value.
    :raises TypeError: a value has the wrong type.
    """

    topics: list[str]
    data: str
    private: bool
    id: str | None = None
    type: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        if not self.topics:
            raise InvalidArgument("topics is empty; an update needs at least one topic")
        if WILDCARD in self.topics:
            raise InvalidArgument("topics holds '*', the wildcard of subscribers: nobody can publish to it")
        if not isinstance(self.private, bool):
            # This decides who can read the update: do not guess what None or "false" means.
            raise TypeError(f"private is {self.private!r}; use True or False")
        if self.id is not None:
            check_characters(self.id, "id")
            if self.id.startswith("#") or self.id == EARLIEST:
                raise InvalidArgument(f"id is {self.id!r}; '#…' and {EARLIEST!r} are reserved for the hub")
        if self.type is not None and check_characters(self.type, "type") == HUB_EVENT_TYPE:
            raise InvalidArgument(f"type is {HUB_EVENT_TYPE!r}, which is reserved for the hub's own events")
        if self.retry is not None:
            if isinstance(self.retry, bool) or not isinstance(self.retry, int):
                raise TypeError(f"retry is {self.retry!r}; give a whole number of milliseconds")
            if self.retry < 0:
                raise InvalidArgument(f"retry is {self.retry}; give a number of milliseconds, 0 or more")

    def with_id(self) -> Publication:
        """The publication with an id, by which subscribers recognise a repeat; a new UUID if it has none."""
        return self if self.id is not None else replace(self, id=new_id())

    def pairs(self) -> Pairs:
        """The fields of the form; with an id, the update is one that the hub is to store once."""
        pairs = [("topic", topic) for topic in self.topics]
        pairs.append(("data", self.data))
        if self.private:
            pairs.append(("private", "on"))
        optional = (("id", self.id), ("type", self.type), ("retry", self.retry))
        pairs.extend((name, str(value)) for name, value in optional if value is not None)
        if self.id is not None:  # each attempt to publish it has this id
            pairs.append(("once", "on"))
        return pairs

    def encode(self) -> bytes:
        """The request's body, ``application/x-www-form-urlencoded``."""
        try:
            return urlencode(self.pairs()).encode("ascii")
        except UnicodeEncodeError:
            raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry") from None


@dataclass(frozen=True, slots=True)
class Update:
    """An update for :meth:`Mercure.publish_many`; the values are the arguments of :meth:`Mercure.publish`.

    :param topics: the canonical topic, or several: the canonical one and its alternates.
    :param data: a ``str`` is sent as it is, anything else as JSON, by Flask's provider.
    :param private: ``False`` for an update that everybody who can connect may read.
    :param id: of the update; by default the hub makes one.
    :param type: event type; ``turbo`` and ``htmx`` are kept for HTML that the app has rendered.
    :param retry: milliseconds after which a browser that lost the connection tries again.
    :param encrypt_for: keys of those who can read the update, as in :meth:`Mercure.encrypt`; by default the
        update is not encrypted.
    """

    topics: str | Iterable[str]
    data: Any = ""
    private: bool = True
    id: str | None = None
    type: str | None = None
    retry: int | None = None
    encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET

    def publication(self) -> Publication:
        """The update as the hub gets it.

        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update, or it has a type of HTML and other data.
        :raises TypeError: a value has the wrong type, or ``data`` cannot be written as JSON.
        """
        if self.encrypt_for is UNSET:
            type, text = html_type(self.type, self.data), as_text(self.data)
        elif is_html_type(self.type):
            raise InvalidArgument(
                f"type is {self.type!r}, of HTML that pages show as it comes, and the update is encrypted: "
                "choose another type"
            )
        else:
            type, text = self.type, encrypted(self.data, self.encrypt_for)
        return Publication(
            exact_topics(self.topics), text, self.private, id=self.id, type=type, retry=self.retry
        )


class UpdateOptions(TypedDict, total=False):
    """The keyword arguments of an :class:`Update`, for methods that pass them on."""

    private: bool
    id: str | None
    type: str | None
    retry: int | None
    encrypt_for: Recipients | Literal[Unset.UNSET]


def as_text(data: Any) -> str:
    """Data as a hub takes it: text and Turbo Streams as they are, anything else as JSON, by Flask's provider.

    :raises TypeError: ``data`` is bytes, or cannot be written as JSON.
    """
    if isinstance(data, TurboStream):
        return data.published()
    if isinstance(data, bytes | bytearray | memoryview):
        raise TypeError("data is bytes, and an update is text: decode it, or encode it as base64")
    return str(data) if isinstance(data, str) else json.dumps(data)  # markup too is plain text here


def encrypted(data: Any, keys: Recipients, content_type: str | None = None) -> str:
    """Data as a JWE; the arguments and errors are those of :meth:`flask_mercure.Mercure.encrypt`."""
    if isinstance(data, bytes | bytearray | memoryview):
        plain: str | bytes = bytes(data)
        default_type = "application/octet-stream"
    elif isinstance(data, str):
        plain, default_type = data, "text/plain;charset=utf-8"
    elif isinstance(data, TurboStream):
        plain, default_type = data.published(), TurboStream.MEDIA_TYPE
    else:
        plain, default_type = json.dumps(data), "application/json"
    return encrypt(plain, keys, default_type if content_type is None else content_type)


def publications(updates: Iterable[Update]) -> list[Publication]:
    """A batch as the hub gets it.

    :raises InvalidArgument: there are too many, or the hub would refuse one, whose index is in the message.
    :raises TypeError: an element is not an :class:`Update`.
    """
    checked: list[Publication] = []
    for index, update in enumerate(updates):
        if not isinstance(update, Update):
            raise TypeError(f"update {index} is a {type(update).__name__}; give flask_mercure.Update objects")
        _check_room(index)
        try:
            checked.append(update.publication())
        except InvalidArgument as error:
            raise InvalidArgument(f"update {index} (the first is 0): {error}") from error
    return checked


def _check_room(number: int) -> None:
    """Check that another update fits into a batch.

    :param number: updates that the batch has.
    """
    if number == _MAX_UPDATES:
        raise InvalidArgument(f"more than {_MAX_UPDATES} updates in one batch; publish them in parts")


class Batch:
    """Updates that are published together at the end of a ``with`` block, unless the block raises.

    Afterwards ``ids`` has the ids of the updates, in order.

    :param publish: publishes them and returns their ids.
    """

    def __init__(self, publish: Callable[[Sequence[Publication]], list[str]]) -> None:
        self.ids: list[str] = []
        self._publish = publish
        self._updates: list[Publication] = []
        self._is_open = True

    def __len__(self) -> int:
        return len(self._updates)

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        **options: Unpack[UpdateOptions],
    ) -> None:
        """Add an update; the arguments and errors are those of :meth:`Mercure.publish`.

        ``data`` is written as JSON now; later changes to it are not published.

        :raises RuntimeError: the batch has been published.
        """
        if not self._is_open:
            raise RuntimeError("this batch is over; begin another one with mercure.batch()")
        _check_room(len(self))
        self._updates.append(Update(topics, data, **options).publication())

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
