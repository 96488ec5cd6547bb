"""What a token allows: a set of topics to publish on, a set to read, payloads for presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mercure_hub.protocol.keys import Key
from mercure_hub.protocol.matchers import Matcher
from mercure_hub.protocol.pattern_table import PatternTable

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None


_FEW = 4  # that are tried one after another; more are looked up


class Scope:
    """The topics that a token allows for one action, or that a subscriber listens to.

    :param matchers: any of them covers the topic.
    """

    __slots__ = ("_everything", "_exact", "_patterns", "_table")

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._everything = any(matcher.is_wildcard for matcher in matchers)
        exact = dict.fromkeys(matcher.exact for matcher in matchers if matcher.exact is not None)
        # Most tokens have one topic, and a set of one is four times as large as a tuple.
        self._exact: tuple[str, ...] | frozenset[str] = (
            tuple(exact) if len(exact) <= _FEW else frozenset(exact)
        )
        self._patterns = tuple(
            matcher for matcher in matchers if matcher.exact is None and not matcher.is_wildcard
        )
        self._table: PatternTable[None] | None = None
        if len(self._patterns) > _FEW:
            self._table = PatternTable()
            for matcher in dict.fromkeys(self._patterns):
                self._table.put(matcher, None)

    def covers(self, topic: str) -> bool:
        """Tell whether the topic is allowed."""
        if self._everything or topic in self._exact:
            return True
        if self._table is not None:
            return any(matcher.matches(topic) for matcher, _ in self._table.candidates(topic))
        return any(matcher.matches(topic) for matcher in self._patterns)

    def covers_any(self, topics: Sequence[str]) -> bool:
        """Tell whether one of the topics is allowed: enough to read a private update."""
        return any(self.covers(topic) for topic in topics)

    def reaches(self, path: str) -> bool:
        """Whether it may cover a topic that begins with a path of the hub.

        It says no only if that is certain.
        """
        return (
            self._everything
            or any(topic.startswith(path) for topic in self._exact)
            or any(matcher.reaches(path) for matcher in self._patterns)
        )

    def first_outside(self, topics: Sequence[str]) -> str | None:
        """The first topic that is not allowed: all must be, to publish."""
        return next((topic for topic in topics if not self.covers(topic)), None)


NOTHING = Scope(())


@dataclass(frozen=True, slots=True)
class Grant:
    """The content of a verified token.

    :param publish: topics on which updates may be published.
    :param subscribe: topics whose private updates may be read.
    :param payloads: of each ``subscribe`` entry its matchers and its payload or ``None``, in the
        token's order; nothing if none has a payload. An entry without matchers is the payload of 0.x,
        which belongs to every subscription.
    :param expires_at: seconds since the epoch, or ``None`` for a 0.x token that never expires.
    :param is_old: the token is one of 0.x.
    :param fingerprint: tells tokens apart without holding them; empty without a token.
    :param key: verified the token; ``None`` without a token.
    :param subject: whose token it is, told apart from those of other issuers; empty if it does not say.
    """

    publish: Scope = NOTHING
    subscribe: Scope = NOTHING
    payloads: tuple[tuple[tuple[Matcher, ...], Json], ...] = ()
    expires_at: float | None = None
    is_old: bool = False
    fingerprint: bytes = b""
    key: Key | None = None
    subject: str = ""

    def payload_for(self, matcher: Matcher) -> Json:
        """The payload of the first entry that covers a subscription's matcher (spec, Payloads).

        :returns: the payload, or ``None``: an entry without one hides those of the entries after it.
        """
        for matchers, payload in self.payloads:
            if not matchers or any(own.selects(matcher) for own in matchers):
                return payload
        return None


ANONYMOUS = Grant()
