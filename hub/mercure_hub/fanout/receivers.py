"""Who gets an update: those who listen to one of its topics, and whose token covers a private one.

The cost follows the number of those who match, not of those who are connected. An exact topic is one look-up.
Of the distinct patterns, those that can match a topic are each tried once, and the outcome is remembered as
long as no pattern comes or goes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from mercure_hub.fanout.encoding import Form, Topics
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.matching.table import PatternTable, Scope
from mercure_hub.protocol.topics import WILDCARD
from mercure_hub.protocol.update import Update

_TRIAL, _DECISION = 5, 8  # estimated microseconds: to try a pattern, to ask a token
_NAMED = 4  # subscribers to whom a topic is named in a microsecond
_AT_ONCE = 250  # subscribers that are looked at between two looks at the time

Listeners = Subscriber | dict[Subscriber, None]
"""Who listens to one thing: a subscriber, or several, in their order.

A dict for one subscriber takes 250 bytes, and a hub where each user has a topic needs one for each of them.
So a lone subscriber is stored without a dict.
"""


class Pace:
    """Tells long work when to pause, so that others are served meanwhile.

    :param limit: estimated microseconds of work between two pauses.
    """

    def __init__(self, limit: int = 4_000) -> None:
        self.limit = limit
        self._spent = 0

    def is_over(self, spent: int) -> bool:
        """Count work in microseconds; true when it is time to pause."""
        self._spent += spent
        if self._spent < self.limit:
            return False
        self._spent = 0
        return True


class Receivers:
    """Subscribers by what they listen to.

    :param pace: when to pause.
    :param max_remembered: topics whose patterns are remembered.
    """

    def __init__(self, pace: Pace, max_remembered: int = 10_000) -> None:
        self._pace = pace
        self._max_remembered = max_remembered
        self._exact: dict[str, Listeners] = {}
        self._patterns: PatternTable[Listeners] = PatternTable()
        self._everything: dict[Subscriber, None] = {}
        self._remembered: dict[str, tuple[Listeners, ...]] = {}
        self._changes = 0  # of the patterns
        self._count = dict.fromkeys(Form, 0)
        self._forms: list[Form] = []  # that are in use

    def add(self, subscriber: Subscriber) -> None:
        """Enter a subscriber under each of its matchers."""
        self._change_count(subscriber.form, 1)
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything[subscriber] = None
            elif matcher.exact is not None:
                self._exact[matcher.exact] = with_one(self._exact.get(matcher.exact), subscriber)
            else:
                before = self._patterns.get(matcher)
                after = with_one(before, subscriber)
                if after is not before:
                    self._patterns.put(matcher, after)
                    self._forget()

    def remove(self, subscriber: Subscriber) -> None:
        """Take out a subscriber that was added."""
        self._change_count(subscriber.form, -1)
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything.pop(subscriber, None)
            elif matcher.exact is not None:
                listeners = self._exact.get(matcher.exact)
                if listeners is not None and without_one(listeners, subscriber) is None:
                    del self._exact[matcher.exact]
            else:
                listeners = self._patterns.get(matcher)
                if listeners is not None and without_one(listeners, subscriber) is None:
                    self._patterns.remove(matcher)
                    self._forget()

    @property
    def websockets(self) -> int:
        """How many subscribers have a WebSocket."""
        return sum(count for form, count in self._count.items() if form.is_websocket)

    def _change_count(self, form: Form, change: int) -> None:
        before = self._count[form]
        self._count[form] = before + change
        if not before or not before + change:
            self._forms = [form for form, count in self._count.items() if count]

    # -- listeners -------------------------------------------------------------------------------------------

    @property
    def has_patterns(self) -> bool:
        """Whether there is anything to try."""
        return bool(self._patterns)

    def try_patterns(self, topics: Sequence[str]) -> Iterator[None]:
        """Try patterns ahead of ``listening_to``, which then only looks up the outcome.

        :returns: an iterator to exhaust; each step is a pause.
        """
        at_once = max(self._pace.limit // (2 * _TRIAL), 1)
        for topic in topics:
            if topic in self._remembered:
                continue
            changes = self._changes
            candidates = self._patterns.candidates(topic)
            selecting: list[Listeners] = []
            for start in range(0, len(candidates) or 1, at_once):
                some = candidates[start : start + at_once]
                selecting += [listeners for matcher, listeners in some if matcher.matches(topic)]
                if self._pace.is_over((len(some) + 1) * _TRIAL):
                    yield
            if changes == self._changes:  # else a pattern came or went in a pause
                self._remember(topic, tuple(selecting))

    def listening_to(self, topics: Sequence[str]) -> list[Subscriber]:
        """The subscribers that listen to one of the topics, each once."""
        groups: list[Listeners] = [self._everything] if self._everything else []
        for topic in topics:
            listeners = self._exact.get(topic)
            if listeners is not None:
                groups.append(listeners)
            if self._patterns:
                groups += self._by_pattern(topic)
        if not groups:
            return []
        if len(groups) == 1:
            return as_list(groups[0])
        merged: dict[Subscriber, None] = {}
        for group in groups:
            if isinstance(group, dict):
                merged.update(group)
            else:
                merged[group] = None
        return list(merged)

    def listening_with(self, value: str) -> list[Subscriber]:
        """The subscribers that have a matcher with this value, whatever its type, each once."""
        merged: dict[Subscriber, None] = {}
        if value == WILDCARD:
            merged.update(self._everything)
        listeners = self._exact.get(value)
        if listeners is not None:
            merged.update(dict.fromkeys(as_list(listeners)))
        for matcher, others in self._patterns:
            if matcher.value == value:
                merged.update(dict.fromkeys(as_list(others)))
        return list(merged)

    def _by_pattern(self, topic: str) -> tuple[Listeners, ...]:
        known = self._remembered.get(topic)
        if known is None:
            candidates = self._patterns.candidates(topic)
            known = tuple(listeners for matcher, listeners in candidates if matcher.matches(topic))
            self._remember(topic, known)
        return known

    def _remember(self, topic: str, selecting: tuple[Listeners, ...]) -> None:
        if len(self._remembered) >= self._max_remembered:
            self._remembered.clear()
        self._remembered[topic] = selecting

    def _forget(self) -> None:
        self._remembered.clear()
        self._changes += 1

    # -- grants and groups -----------------------------------------------------------------------------------

    def allowed(
        self, listening: Sequence[Subscriber], topics: Sequence[str]
    ) -> Generator[None, None, list[Subscriber]]:
        """Those whose token covers one of the topics of a private update, decided once for each token.

        :returns: a generator; each step is a pause.
        """
        decided: dict[Scope, bool] = {}
        allowed: list[Subscriber] = []
        for subscriber in listening:
            scope = subscriber.grant.subscribe
            decision = decided.get(scope)
            if decision is None:
                decision = decided[scope] = scope.covers_any(topics)
                if self._pace.is_over(_DECISION):
                    yield
            if decision:
                allowed.append(subscriber)
        return allowed

    def by_form(self, receivers: list[Subscriber]) -> list[tuple[Form, list[Subscriber]]]:
        """Group receivers by the form of their stream; most often all have the same."""
        if len(self._forms) == 1:
            return [(self._forms[0], receivers)]
        groups = ((form, [one for one in receivers if one.form is form]) for form in self._forms)
        return [(form, group) for form, group in groups if group]

    def by_topics(
        self, receivers: list[Subscriber], update: Update
    ) -> Generator[None, None, list[tuple[Topics | None, list[Subscriber]]]]:
        """Group receivers of an update by those of its topics that are named to them; see ``named_topics``.

        :returns: a generator; each step is a pause.
        """
        topics = update.topics
        if len(topics) == 1:
            return [(topics, receivers)]
        named: dict[Subscriber, dict[str, None]] = {one: {} for one in receivers}
        for topic in topics:
            exact = self._exact.get(topic, {})
            others = (self._everything, *(self._by_pattern(topic) if self._patterns else ()))
            is_open = not update.private or topic is topics[0]
            decided: dict[Scope, bool] = {}
            for listeners in (exact, *others):
                some = as_list(listeners)
                for start in range(0, len(some) or 1, _AT_ONCE):
                    before = len(decided)
                    for one in some[start : start + _AT_ONCE]:
                        if one in named and (
                            is_open or listeners is exact or _covers(one.grant.subscribe, topic, decided)
                        ):
                            named[one][topic] = None
                    spent = min(len(some), _AT_ONCE) // _NAMED + (len(decided) - before) * _DECISION
                    if self._pace.is_over(spent):
                        yield
        groups: dict[Topics, list[Subscriber]] = {}
        for number, (one, selected) in enumerate(named.items(), 1):
            groups.setdefault(tuple(selected), []).append(one)
            if number % _AT_ONCE == 0 and self._pace.is_over(_AT_ONCE // _NAMED):
                yield
        return list(groups.items())


def may_read(subscriber: Subscriber, update: Update) -> bool:
    """Whether a subscriber's token covers a private update."""
    return subscriber.grant.subscribe.covers_any(update.topics)


def named_topics(subscriber: Subscriber, wanted: Scope, update: Update) -> Topics:
    """The topics of an update that are named to a subscriber: those that its matchers select.

    The alternate topics of a private update say whom else it is for. One that a pattern selects is named only
    if the token covers it, or a user could list those of others.

    :param wanted: its matchers.
    """
    selected = [topic for topic in update.topics if wanted.covers(topic)]
    if update.private and len(update.topics) > 1:
        known = {update.topics[0], *(matcher.exact for matcher in subscriber.matchers)}
        scope = subscriber.grant.subscribe
        selected = [topic for topic in selected if topic in known or scope.covers(topic)]
    return tuple(selected)


def _covers(scope: Scope, topic: str, decided: dict[Scope, bool]) -> bool:
    decision = decided.get(scope)
    if decision is None:
        decision = decided[scope] = scope.covers(topic)
    return decision


def with_one(listeners: Listeners | None, subscriber: Subscriber) -> Listeners:
    """Add a subscriber.

    :returns: the listeners to keep; the same dict if it was one.
    """
    if listeners is None or listeners is subscriber:
        return subscriber
    if not isinstance(listeners, dict):
        return {listeners: None, subscriber: None}
    listeners[subscriber] = None
    return listeners


def without_one(listeners: Listeners, subscriber: Subscriber) -> Listeners | None:
    """Remove a subscriber.

    :returns: the listeners to keep, the same dict if it was one; ``None`` when nobody is left.
    """
    if not isinstance(listeners, dict):
        return None if listeners is subscriber else listeners
    listeners.pop(subscriber, None)
    return listeners or None


def as_list(listeners: Listeners) -> list[Subscriber]:
    """The listeners in the order in which they came."""
    return list(listeners) if isinstance(listeners, dict) else [listeners]
