"""Retention by rules in Redis: which updates are assigned to them, and what is known of those gone.

A step is several calls, so that each keeps others waiting only for a moment. Whatever comes between them,
each does what is right by itself: what may be discarded once may be discarded ever after. What takes the
place of others is assigned after those are gone, so that a step that was cut off is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mercure_hub.storage import trimming
from mercure_hub.storage.encoding import decoded_topics
from mercure_hub.storage.interface import SHARED_GRACE, Beginning, Discarded
from mercure_hub.storage.redis import scripts
from mercure_hub.storage.redis.connection import Line
from mercure_hub.storage.redis.scripts import Argument, Command, columns
from mercure_hub.storage.rules import Rules
from mercure_hub.storage.trimming import RuleState, Stored

_AT_ONCE = 250  # updates that a script looks at, about
_DISCARDED = 1000  # updates and topics that a script discards, about

_T = TypeVar("_T")


def declaration(prefix: bytes, rules: Rules) -> Command:
    """The command that puts rules in force, unless they are; see ``sqlite.by_rules.declare``."""
    return scripts.DECLARE.call(prefix, rules.text, len(rules.rules) + 1 if rules.rules else 0)


def beginning_from(gone: Sequence[bytes], of_topics: int) -> Beginning:
    """Where the history begins.

    :param gone: the reply of ``scripts.GONE``.
    :param of_topics: of the topics that were asked for.
    """
    updates, events, *of_rules = gone
    discarded = None
    if of_rules:
        text, *numbers = of_rules
        rest_before, before, forgotten, *by_rule = map(int, numbers)
        pairs = tuple(zip(by_rule[::2], by_rule[1::2], strict=True))
        discarded = Discarded(text.decode(), pairs, rest_before, before, of_topics, forgotten)
    return Beginning(int(updates) + 1, int(events) + 1, discarded)


class RedisTables:
    """Implements ``Tables``.

    :param line: to the server.
    :param prefix: of all keys.
    :param node: this process.
    :param ahead: milliseconds by which the server's clock counts as fast.
    """

    def __init__(self, line: Line, prefix: bytes, node: str, ahead: int) -> None:
        self._line = line
        self._prefix = prefix
        self._turn = node, ahead
        is_taken, now, is_shared, text, generation, assigned, counts = self._run(scripts.RULES, *self._turn)
        self.is_taken = bool(is_taken)
        """Whether another process discards now."""
        self.is_declared = bool(generation)
        """Whether any rules have ever been in force."""
        self.now: float = now / 1000
        """The time of the server."""
        self.grace = SHARED_GRACE if is_shared else 0.0
        """Seconds for which everything stays."""
        self._state = RuleState(text.decode(), int(assigned), counts)
        self._generation: str = generation.decode()
        self._assigned = int(assigned)
        self._pending: Sequence[tuple[int, int]] = ()

    def _run(self, script: scripts.Script, *arguments: Argument) -> Any:
        return self._line.ask(script.call(self._prefix, *arguments))[0]

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode()

    def _group(self, number: int) -> bytes:
        return self._key(f"r:{self._generation}:{number}")

    def state(self) -> RuleState:
        """As it was when the step began."""
        return self._state

    def clear(self, limit: int) -> int:
        """From one group after another."""
        done = 0
        while done < limit:
            count = int(self._run(scripts.CLEAR, min(_AT_ONCE, limit - done)))
            if not count:
                break
            done += count
        return done

    def unassigned(self, after: int, limit: int) -> list[Stored]:
        """Some with each call."""
        found: list[Stored] = []
        while len(found) < limit:
            count = min(_AT_ONCE, limit - len(found))
            some = [one for _, one in _described(self._run(scripts.FOLLOWING, after, count))]
            found += [one for one in some if one is not None]
            if len(some) < count:
                break
            after = found[-1].sequence
        return found

    def assign(self, rows: Sequence[tuple[int, int]]) -> None:
        """Do it later, when those are discarded of which they take the place."""
        self._pending = rows

    def finish(self) -> None:
        """Assign what is still to be assigned."""
        rows, self._pending = self._pending, ()
        for some in _pieces(rows, _AT_ONCE):
            pairs = [value for row in some for value in row]
            self._run(scripts.ASSIGN, *self._turn, self._generation, self._assigned, *pairs)
            self._assigned = some[-1][1]

    def nth(self, wanted: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """A look-up in the sorted set of the topic for each."""
        found: list[int | None] = []
        for some in _pieces(wanted, _AT_ONCE):
            arguments: list[Argument] = []
            for hashed, upto, skipped in some:
                arguments += (hashed.to_bytes(8, "big", signed=True), upto, skipped)
            found += [int(one) if one else None for one in self._run(scripts.NTH, *arguments)]
        return found

    def _described(self, sequences: Sequence[int]) -> Iterator[tuple[int, Stored | None]]:
        for some in _pieces(sequences, _AT_ONCE):
            yield from _described(self._run(scripts.DESCRIBED, *some))

    def stored(self, sequences: Sequence[int]) -> list[Stored]:
        """A look-up for each."""
        return [one for _, one in self._described(sequences) if one is not None]

    def oldest(self, number: int, limit: int) -> list[tuple[int, Stored | None]]:
        """From the sorted set of the rule."""
        self.finish()
        command = ("ZRANGEBYSCORE", self._group(number), "-inf", "+inf", "LIMIT", 0, limit)
        return list(self._described([int(one) for one in self._line.ask(command)[0]]))

    def forget(self, number: int, sequences: Sequence[int]) -> None:
        """Take them out of the sorted set of the rule."""
        self._line.ask(("ZREM", self._group(number), *sequences))

    def discard(self, number: int, rows: Sequence[Stored], strays: int) -> None:
        """Discard some with each call."""
        piece: list[int] = []
        weight = 0
        for row in rows:
            piece.append(row.sequence)
            weight += 3 + len(row.topics)
            if weight >= _DISCARDED or row is rows[-1]:
                self._run(
                    *(scripts.DISCARD_BY_RULE, *self._turn, self._generation, number),
                    *(strays, trimming.REMEMBERED, *piece),
                )
                piece, weight = [], 0


def _pieces(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _described(reply: Sequence[bytes]) -> Iterable[tuple[int, Stored | None]]:
    for sequence, id_, topics, milliseconds in columns(reply, 4):
        place = int(sequence)
        if milliseconds:
            one = Stored(place, id_.decode(), decoded_topics(topics.decode()), int(milliseconds) / 1000)
            yield place, one
        else:
            yield place, None
