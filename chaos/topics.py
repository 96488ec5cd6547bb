"""The topics of a run, and which of them a matcher selects: a model that knows nothing of the hub's."""

from __future__ import annotations

import enum
from dataclasses import dataclass

ORIGIN = "https://example.com"
ROOMS = ("a", "b", "c")
TOPICS = tuple(f"{ORIGIN}/{room}/{number}" for room in ROOMS for number in range(4))
CANARY = f"{ORIGIN}/canary"
"""What trials of keys publish to; nobody but a wildcard listens."""


class Form(enum.Enum):
    """How a matcher selects."""

    EXACT = "exact"
    ROOM = "room"
    """All topics of a room, as a URL Pattern or as a URI Template."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Matcher:
    """A matcher of a subscriber or of a token.

    :param value: the topic, or the room.
    """

    form: Form
    value: str = ""

    def matches(self, topic: str) -> bool:
        """Whether it selects a topic."""
        match self.form:
            case Form.ALL:
                return True
            case Form.EXACT:
                return topic == self.value
            case Form.ROOM:
                rest = topic.removeprefix(f"{ORIGIN}/{self.value}/")
                return rest != topic and "/" not in rest

    def parameter(self, *, old: bool) -> tuple[str, str]:
        """The query parameter of a subscription.

        :param old: in the words of protocol 0.x.
        """
        if old:
            return "topic", self.selector
        name = "match_urlpattern" if self.form is Form.ROOM else "match"
        return name, self._pattern

    @property
    def selector(self) -> str:
        """The topic selector of 0.x."""
        match self.form:
            case Form.ALL:
                return "*"
            case Form.EXACT:
                return self.value
            case Form.ROOM:
                return f"{ORIGIN}/{self.value}/{{number}}"

    @property
    def claim(self) -> dict[str, str]:
        """The matcher of an authorization detail."""
        found = {"match": self._pattern}
        if self.form is Form.ROOM:
            found["match_type"] = "urlpattern"
        return found

    @property
    def _pattern(self) -> str:
        return f"{ORIGIN}/{self.value}/:number" if self.form is Form.ROOM else self.selector

    def __str__(self) -> str:
        return self.selector


ALL = Matcher(Form.ALL)
