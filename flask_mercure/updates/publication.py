"""An update as the form that a publisher sends (spec, Publication)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlencode

from flask_mercure.errors import InvalidArgument
from flask_mercure.topics.characters import check_characters
from mercure_hub.protocol.cursor import EARLIEST
from mercure_hub.protocol.form import Pairs
from mercure_hub.protocol.topics import WILDCARD
from mercure_hub.protocol.update import new_id

_HUB_EVENT_TYPE = "mercure"


@dataclass(frozen=True, slots=True)
class Publication:
    """An update on its way to the hub.

    :param topics: the canonical topic and the alternate ones, already checked.
    :param data: the content.
    :param private: only for subscribers whose token allows one of the topics.
    :param id: of the update; ``None`` leaves it to the hub.
    :param type: Server-Sent Events ``event`` field.
    :param retry: reconnection time in milliseconds.
    :raises InvalidArgument: a value that the hub would refuse.
    :raises TypeError: a value of the wrong type.
    """

    topics: list[str]
    data: str
    private: bool = False
    id: str | None = None
    type: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        if not self.topics:
            raise InvalidArgument("topics is empty; an update needs at least one topic")
        if WILDCARD in self.topics:
            raise InvalidArgument("topics holds '*', the wildcard of subscribers: nobody can publish to it")
        if not isinstance(self.private, bool):
            # Who reads an update depends on it: None or "false" must not be guessed at.
            raise TypeError(f"private is {self.private!r}; use True or False")
        if self.id is not None:
            check_characters(self.id, "id")
            if self.id.startswith("#") or self.id == EARLIEST:
                raise InvalidArgument(f"id is {self.id!r}; the hub keeps '#…' and {EARLIEST!r} to itself")
        if self.type is not None and check_characters(self.type, "type") == _HUB_EVENT_TYPE:
            raise InvalidArgument(f"type is {_HUB_EVENT_TYPE!r}, which the hub keeps for its own events")
        if self.retry is not None:
            if isinstance(self.retry, bool) or not isinstance(self.retry, int):
                raise TypeError(f"retry is {self.retry!r}; give a whole number of milliseconds")
            if self.retry < 0:
                raise InvalidArgument(f"retry is {self.retry}; give a number of milliseconds, 0 or more")

    def pairs(self) -> Pairs:
        """The fields of the form."""
        pairs = [("topic", topic) for topic in self.topics]
        pairs.append(("data", self.data))
        if self.private:
            pairs.append(("private", "on"))
        optional = (("id", self.id), ("type", self.type), ("retry", self.retry))
        pairs.extend((name, str(value)) for name, value in optional if value is not None)
        return pairs

    def encode(self) -> bytes:
        """The body, ``application/x-www-form-urlencoded``."""
        try:
            return urlencode(self.pairs()).encode("ascii")
        except UnicodeEncodeError:
            raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry") from None


def with_id(publication: Publication) -> Publication:
    """The update with an id of its own, by which a repeat can be recognised."""
    return publication if publication.id is not None else replace(publication, id=new_id())
