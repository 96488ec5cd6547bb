"""Discards by rules, in bounded steps, whatever the engine.

First updates are assigned to rules, in the order of the history, once they have settled: an update of which
a newer one takes the place stays for a minute, so that clients that reconnect miss nothing. Then each rule
discards the oldest of its own.

Rules may be changed at a restart. Then all updates are assigned anew, step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import Retention
from mercure_hub.storage.rules import REST, Rules

STEP = 1000
"""Updates that one step looks at, or discards: as many as one batch brings, so that trimming keeps up."""

SETTLED = 60.0
"""Seconds for which an update stays at least where there are rules."""

REMEMBERED = 100_000
"""Discarded updates of which it is known what position and topics they had, the last ones."""

FEW = 8
"""Updates that are looked for first: mostly few go."""

NEVER = float("-inf")
"""Seconds since the epoch, in place of the time before which nothing is kept."""

_log = logging.getLogger("mercure_hub.storage")


class Stored(NamedTuple):
    """What retention reads of an update."""

    sequence: int
    id: str
    topics: tuple[str, ...]
    published_at: float


@dataclass(slots=True)
class RuleState:
    """What the engine has about rules.

    :param rules: the ``text`` of those in force.
    :param assigned: sequence up to which updates are assigned to them.
    :param counts: how many updates belong to each, first the rest.
    """

    rules: str
    assigned: int
    counts: list[int]


class Tables(Protocol):
    """What an engine has to do, within a transaction that writes."""

    def state(self) -> RuleState:
        """What there is about rules."""

    def clear(self, limit: int) -> int:
        """Forget what was assigned to earlier rules; returns how many."""

    def unassigned(self, after: int, limit: int) -> list[Stored]:
        """Updates of publishers after a sequence, in order."""

    def assign(self, rows: Sequence[tuple[int, int]]) -> None:
        """Assign updates, given as number of the rule and sequence, in order."""

    def nth(self, wanted: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """Sequences of updates, counted back: given a topic's hash, the last one, and how many to skip."""

    def stored(self, sequences: Sequence[int]) -> list[Stored]:
        """The updates with some sequences, as far as they are there."""

    def oldest(self, number: int, limit: int) -> list[tuple[int, Stored | None]]:
        """The first sequences that are assigned to a rule, each with its update unless that is gone."""

    def forget(self, number: int, sequences: Sequence[int]) -> None:
        """Forget that updates were assigned to a rule: somebody else has discarded them."""

    def discard(self, number: int, rows: Sequence[Stored], strays: int) -> None:
        """Discard updates of a rule, and note that.

        Those that belong to a rule leave their positions; of those and of their topics the last
        ``REMEMBERED`` are known.

        :param strays: sequence of the newest one that has a topic which the rule does not match; 0: none.
        """


class _Limits(NamedTuple):
    """What may be discarded of a rule.

    ``settled``: what is younger stays; ``oldest``: what is older goes; ``surplus``: so many go; ``most``: not
    more in one step.
    """

    now: float
    settled: float
    oldest: float
    surplus: int
    most: int


class RuleTrimmer:
    """Discards by rules.

    :param retention: how much to keep.
    """

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._rules = Rules(retention.rules, retention.base)
        self._is_told = False

    @property
    def rules(self) -> Rules:
        """The rules."""
        return self._rules

    def step(self, tables: Tables, now: float, grace: float, *, by_age: bool) -> int:
        """Discard one step.

        :param now: seconds since the epoch.
        :param grace: seconds for which everything stays: other processes read it here.
        :param by_age: also discard for its age.
        :returns: how much was done; ``STEP`` or more if there may be more to do at once.
        """
        state = tables.state()
        if not self.is_in_force(state.rules):
            return 0
        done = tables.clear(STEP)
        if done == STEP:
            return done
        settled = now - max(grace, SETTLED)
        assigned, discarded = self._assign(tables, state, now, settled)
        for number, count in enumerate(state.counts):
            if discarded < STEP:
                age = self._max_age(number) if by_age else 0.0
                size = self._size(number)
                limits = _Limits(
                    now, settled, now - age if age else NEVER, count - size if size else 0, STEP - discarded
                )
                discarded += self._trim(tables, number, limits)
        return max(assigned, discarded)

    def is_in_force(self, text: str) -> bool:
        """Whether the rules are those that the engine has; another hub may have brought others."""
        is_in_force = text == self._rules.text
        if not is_in_force and not self._is_told:
            self._is_told = True
            _log.warning(
                "another hub on this history was started later, with other [[retention]] tables: those "
                "count, and this hub discards no updates; give all hubs the same ones"
            )
        return is_in_force

    def _size(self, number: int) -> int:
        return self._rules.rules[number - 1].size if number else self._retention.size

    def _size_per_topic(self, number: int) -> int:
        return self._rules.rules[number - 1].size_per_topic if number else 0

    def _max_age(self, number: int) -> float:
        return self._rules.rules[number - 1].max_age if number else self._retention.max_age

    def _assign(self, tables: Tables, state: RuleState, now: float, settled: float) -> tuple[int, int]:
        """Assign what has settled, and discard what it takes the place of.

        :returns: how many were assigned, and how many discarded.
        """
        rows = tables.unassigned(state.assigned, STEP)
        times = times_of([row.published_at for row in rows], now)
        count = next((place for place, time in enumerate(times) if time > settled), len(rows))
        if not count:
            return 0, 0
        assigned: list[tuple[int, int]] = []
        replaced: list[tuple[str, int, int]] = []  # topic, sequence, and how many of the topic stay
        for row in rows[:count]:
            number, _ = self._rules.of(row.topics)
            assigned.append((number, row.sequence))
            state.counts[number] += 1
            # Whatever its rule is, it is the newest of all its topics.
            for topic in row.topics:
                keep = self._size_per_topic(number if len(row.topics) == 1 else self._rules.of((topic,))[0])
                if keep:
                    replaced.append((topic, row.sequence, keep))
        tables.assign(assigned)
        discarded = 0
        for number, surplus in self._surplus(tables, replaced, assigned[-1][1]).items():
            self._discard(tables, number, surplus)
            state.counts[number] -= len(surplus)
            discarded += len(surplus)
        return count, discarded

    def _surplus(
        self, tables: Tables, replaced: Sequence[tuple[str, int, int]], upto: int
    ) -> dict[int, list[Stored]]:
        """The updates that are not among the newest of any of their topics, by rule.

        :param replaced: topics with a new update, its sequence, and how many of the topic stay.
        :param upto: sequence of the last update that counts.
        """
        if not replaced:
            return {}
        found = tables.nth([(topic_hash(topic), sequence, keep) for topic, sequence, keep in replaced])
        surplus: dict[int, list[Stored]] = {}
        for one in tables.stored(sorted({sequence for sequence in found if sequence is not None})):
            number, topics = self._rules.of(one.topics)
            keep = self._size_per_topic(number)
            if keep and (len(topics) == 1 or self._is_replaced(tables, one, topics, upto, keep)):
                surplus.setdefault(number, []).append(one)
        return surplus

    @staticmethod
    def _is_replaced(tables: Tables, one: Stored, topics: Iterable[str], upto: int, keep: int) -> bool:
        """Whether an update is not among the newest of any of some topics."""
        newest = tables.nth([(topic_hash(topic), upto, keep - 1) for topic in topics])
        return all(sequence is not None and sequence > one.sequence for sequence in newest)

    def _trim(self, tables: Tables, number: int, limits: _Limits) -> int:
        """Discard the oldest updates of a rule."""
        if limits.oldest == NEVER and limits.surplus <= 0:
            return 0
        old: list[Stored] = []
        gone: list[int] = []
        for limit in (min(FEW, limits.most), limits.most):  # mostly few go
            rows = tables.oldest(number, limit)
            stamps = [limits.now if one is None else one.published_at for _, one in rows]
            old, gone = [], []
            for place, (time, (sequence, one)) in enumerate(
                zip(times_of(stamps, limits.now), rows, strict=True)
            ):
                if one is None:
                    gone.append(sequence)
                elif time <= limits.settled and (place < limits.surplus or time < limits.oldest):
                    old.append(one)
                else:
                    break
            if len(old) + len(gone) < limit:
                break
        if gone:
            tables.forget(number, gone)
        if old:
            self._discard(tables, number, old)
        return len(old) + len(gone)

    def _discard(self, tables: Tables, number: int, rows: Sequence[Stored]) -> None:
        strays = 0
        if number != REST:
            for row in rows:
                if len(row.topics) > 1 and len(self._rules.of(row.topics)[1]) < len(row.topics):
                    strays = max(strays, row.sequence)
        tables.discard(number, rows, strays)


def times_of(stamps: Sequence[float], now: float) -> list[float]:
    """When updates were published: what a clock stamped that was ahead is as old as what came after it.

    :param stamps: of the clock, in the order of the sequences.
    """
    times = [now]
    for stamp in reversed(stamps):
        times.append(stamp if stamp <= now else times[-1])
    return times[:0:-1]
