"""The history in Redis or Valkey.

A script runs alone in the server, and hubs may be at work. So each looks at a few hundred updates at most.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.protocol.revocation import MAX_REVOCATIONS, Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import Address
from mercure_hub.storage.encoding import decoded_topics, encoded_topics, topic_hash
from mercure_hub.storage.interface import SHARED_GRACE
from mercure_hub.storage.redis.by_rules import beginning_from
from mercure_hub.storage.redis.connection import Line, Server
from mercure_hub.storage.redis.link import decoded_rest, decoded_revocation, encoded_rest
from mercure_hub.storage.redis.scripts import (
    FORGET,
    GONE,
    KEEP,
    MAKE,
    REVOCATIONS,
    SCHEMA,
    UNASSIGN,
    Argument,
    Script,
)
from mercure_hub.tools.history.history import (
    PAGE,
    STOP_ALL,
    HistoryError,
    Marks,
    Row,
    Selection,
    at_work,
    changed,
)

_STEP = 200  # updates of a script
_STEP_BYTES = 1 << 20
_HUB_STARTED, _CHANGED = -1, -2
_FIELDS = 8

_ROWS = Script(
    "no-writes",
    """
    local after, upto, limit, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
    local is_backward, has_data = ARGV[5] == '1', ARGV[6] == '1'
    local lengths, parts, count, size = {}, {}, 0, 0
    local function add(part)
        parts[#parts + 1], lengths[#lengths + 1] = part, #part
    end
    while count < limit and size < most do
        local ask, some = math.min(8, limit - count), nil
        if is_backward then
            some = call('XREVRANGE', p .. 'log', '0-' .. upto, '(0-' .. after, 'COUNT', ask)
        else
            some = call('XRANGE', p .. 'log', '(0-' .. after, '0-' .. upto, 'COUNT', ask)
        end
        for _, entry in ipairs(some) do
            local place, fields = entry[1], entry[2]
            local index = call('XRANGE', p .. 'updates', place, place)[1]
            index = index or call('XRANGE', p .. 'events', place, place)[1] or {'', {}}
            add(sub(place, 3))
            add(fields[2])
            add(fields[4])
            add(has_data and fields[6] or '')
            add(tostring(#fields[6]))
            add(fields[8])
            add(index[2][6] or '0')
            add(index[2][8] or '')
            if has_data then
                size = size + #fields[6]
            end
        end
        count = count + #some
        if #some < ask then
            break
        end
        if is_backward then
            upto = sub(some[ask][1], 3) - 1
        else
            after = sub(some[ask][1], 3)
        end
    end
    return {table.concat(lengths, ' '), table.concat(parts)}
    """,
)
"""Returns updates: the lengths of their fields, and the fields in one string.

The fields are sequence, id, topics, data, its length, the rest, the time and the bytes of events.
"""

_STORE = Script(
    "",
    f"""
    local state, epoch = p .. 'state', ARGV[1]
    if call('ZCOUNT', p .. 'leases', now(0), '+inf') > 0 then
        return {_HUB_STARTED}
    end
    {MAKE}
    if call('HGET', state, 'last') ~= ARGV[2] then
        return {_CHANGED}
    end
    {KEEP}
    for k = 7, #ARGV, 8 do
        keep(unpack(ARGV, k, k + 7))
        if ARGV[k + 7] ~= '' then
            call('HSET', state, 'event_bytes', ARGV[k + 7])
        end
    end
    local added = 0
    if call('EXISTS', events) == 1 then
        local information = call('XINFO', 'STREAM', events)
        for k = 1, #information, 2 do
            if information[k] == 'entries-added' then
                added = information[k + 1]
            end
        end
    end
    call('HSET', state, 'last', ARGV[3], 'events_base', ARGV[4] - added)
    call('HSET', state, 'updates_gone', ARGV[5], 'events_gone', ARGV[6])
    return 1
    """,
)
"""Appends updates as they are, unless a hub is at work, or something else was stored."""

_DELETE = Script(
    "allow-oom",
    f"""
    local state, ids, topics = p .. 'state', p .. 'ids', p .. 'topics'
    {FORGET}
    {UNASSIGN}
    local gone = 0
    for k = 1, #ARGV, 3 do
        local place = '0-' .. ARGV[k]
        if call('XDEL', p .. 'log', place) == 1 then
            gone = gone + 1
            call('XDEL', p .. 'updates', place)
            call('XDEL', p .. 'events', place)
            forget_id(ARGV[k], ARGV[k + 1])
            forget_topics(ARGV[k], ARGV[k + 2])
            unassign(ARGV[k])
        end
    end
    local first = call('XRANGE', p .. 'updates', '-', '+', 'COUNT', 1)[1]
    local mark = first and sub(first[1], 3) - 1 or tonumber(call('HGET', state, 'last'))
    if mark > tonumber(call('HGET', state, 'updates_gone')) then
        call('HSET', state, 'updates_gone', mark)
    end
    return gone
    """,
)
"""Discards updates, and notes where the history begins then. Returns how many were still there."""


class _Stored(NamedTuple):
    """An update as it comes from the server."""

    sequence: int
    id: bytes
    topics: tuple[str, ...]
    data: bytes
    size: int
    rest: bytes
    milliseconds: float
    event_bytes: int | None


class RedisHistory:
    """Implements ``History``.

    :param line: to the server.
    :param address: of the engine.
    """

    def __init__(self, line: Line, address: Address) -> None:
        self._line = line
        self._address = address
        self._prefix = f"{{{address.name}}}:"
        self._tally = (0, 0)  # a sequence, and how many events there are up to it

    @property
    def name(self) -> str:
        """The keys and the server, without credentials."""
        return self._address.shown

    @property
    def has_state(self) -> bool:
        """Whether a hub, or a command, has made the keys."""
        return bool(self._ask("EXISTS", self._key("state")))

    def least_schema(self) -> int:
        """The version that a program has to know."""
        return int(self._ask("HGET", self._key("state"), "least") or 0)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _ask(self, *command: Argument) -> Any:
        return self._line.ask(command)[0]

    def run(self, script: Script, *arguments: Argument) -> Any:
        """Run a script, which the server need not have yet."""
        return self._ask("EVAL", script.text, 1, self._prefix, *arguments)

    def hubs(self) -> int:
        """Those whose leases have not ended."""
        seconds, microseconds = self._ask("TIME")
        now = int(seconds) * 1000 + int(microseconds) // 1000
        return int(self._ask("ZCOUNT", self._key("leases"), now, "+inf"))

    def grace(self) -> float:
        """Some minutes while a hub is at work: it may be on another machine."""
        return SHARED_GRACE if self.hubs() else 0.0

    def now(self) -> float:
        """The time of the server."""
        seconds, microseconds = self._ask("TIME")
        return float(int(seconds) + int(microseconds) / 1_000_000)

    def marks(self) -> Marks:
        """The state; for rules as if what they discarded was the beginning."""
        marks = self.state()
        discarded = beginning_from(self.run(GONE), 0).discarded
        if discarded is None:
            return marks
        gone = max(discarded.before, *(newest for newest, _ in discarded.by_rule), marks.updates_gone)
        return replace(marks, updates_gone=gone)

    def state(self) -> Marks:
        """The state, with the events that the stream of events has counted."""
        names = ("last", "events_base", "updates_gone", "events_gone")
        last, base, *gone = (int(one or 0) for one in self._ask("HMGET", self._key("state"), *names))
        return Marks(last, base + self._events()[0], *gone)

    def _events(self) -> tuple[int, int]:
        """How many events were ever added to their stream, and how many it has."""
        (reply,) = self._line.replies(("XINFO", "STREAM", self._key("events")))
        if isinstance(reply, RedisError):
            if self._ask("EXISTS", self._key("events")):
                raise reply
            return 0, 0
        information = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(information[b"entries-added"]), int(information[b"length"])

    def page(
        self, after: int, upto: int, selection: Selection, *, is_backward: bool = False, has_data: bool = True
    ) -> Iterator[Row]:
        """Several calls; the server decides nothing, because it has no index of times."""
        del selection
        before = 0 if is_backward else self._events_until(after)
        for one in self._scan(after, upto, PAGE, is_backward=is_backward, has_data=has_data):
            yield _row(one, before)
            if one.event_bytes is not None and not is_backward:
                before += 1
                self._tally = one.sequence, before

    def _events_until(self, sequence: int) -> int:
        """How many events there ever were up to a sequence."""
        known, count = self._tally
        if sequence == 0 or known > sequence:
            known, count = 0, 0
        if known == 0:
            added, length = self._events()
            count = int(self._ask("HGET", self._key("state"), "events_base") or 0) + added - length
        while known < sequence:
            some = self._ask(*("XRANGE", self._key("events"), f"(0-{known}", f"0-{sequence}", "COUNT", _STEP))
            count += len(some)
            known = int(some[-1][0][2:]) if len(some) == _STEP else sequence
        self._tally = sequence, count
        return count

    def _scan(
        self, after: int, upto: int, limit: int, *, is_backward: bool = False, has_data: bool = True
    ) -> Iterator[_Stored]:
        """Updates in order, or from the newest."""
        while limit > 0:
            ask = min(limit, _STEP)
            lengths, joined = self.run(
                _ROWS, after, upto, ask, _STEP_BYTES, "1" if is_backward else "", "1" if has_data else ""
            )
            parts = _parts(lengths, joined)
            if not parts:
                return
            limit -= len(parts) // _FIELDS
            for sequence, id_, topics, data, size, rest, time, size_of_events in zip(
                *[iter(parts)] * _FIELDS, strict=True
            ):
                event_bytes = int(float(size_of_events)) if size_of_events else None
                yield _Stored(
                    *(int(sequence), id_, decoded_topics(topics.decode()), data),
                    *(int(size), rest, float(time), event_bytes),
                )
            newest = int(parts[-_FIELDS])
            if is_backward:
                upto = newest - 1
            else:
                after = newest

    def revocations(self) -> list[Revocation]:
        """One call; each comes with its version."""
        _, *parts = self.run(REVOCATIONS, 0, MAX_REVOCATIONS)
        return [decoded_revocation(one) for one in parts[::2]]

    def delete(self, rows: Sequence[Row]) -> int:
        """Discard some at a time."""
        gone = 0
        for start in range(0, len(rows), _STEP):
            arguments: list[Argument] = []
            for row in rows[start : start + _STEP]:
                arguments += (row.sequence, row.update.id.encode(), _hashes(row.update))
            gone += self.run(_DELETE, *arguments)
        return gone

    def return_space(self) -> None:
        """Do nothing: the memory is free."""

    @contextmanager
    def writing(self) -> Iterator[RedisWriter]:
        """Look with each step whether a hub is at work."""
        if self.hubs():
            raise at_work(self.name, STOP_ALL)
        yield RedisWriter(self)

    def ids(self, ids: Sequence[str]) -> list[int | None]:
        """The sequences of the earliest updates with some ids."""
        found = self._ask("HMGET", self._key("ids"), *[one.encode() for one in ids])
        return [None if one is None else int(one) for one in found]

    def statistics(self, top: int) -> dict[str, Any]:
        """Look at all updates, without their data; hubs may store more meanwhile."""
        marks = self.marks()
        count = size = private = events = event_bytes = 0
        topics: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        oldest = newest = None
        after = 0
        while after < marks.last:
            reached = marks.last
            for number, one in enumerate(self._scan(after, marks.last, PAGE, has_data=False), 1):
                reached = one.sequence if number == PAGE else marks.last
                topics.update(one.topics)
                for topic in one.topics:
                    sizes[topic] += one.size
                if one.event_bytes is not None:
                    events += 1
                    event_bytes += one.size
                    continue
                count += 1
                size += one.size
                private += bool(one.rest) and decoded_rest(one.rest)[0]
                newest = {"id": one.id.decode(), "published_at": one.milliseconds / 1000}
                oldest = oldest or newest
            after = reached
        memory = dict(line.partition(":")[::2] for line in self._ask("INFO", "memory").decode().splitlines())
        return {
            "database": self.name,
            "version": int(self._ask("HGET", self._key("state"), "schema")),
            "hubs": self.hubs(),
            "updates": count,
            "bytes": size,
            "private": private,
            "ever_published": marks.last - marks.events,
            "subscription_events": events,
            "subscription_event_bytes": event_bytes,
            "oldest": oldest,
            "newest": newest,
            "sizes": {"server memory": int(memory["used_memory"])},
            "topics": [
                {"topic": topic, "updates": number, "bytes": sizes[topic]}
                for topic, number in topics.most_common(top)
            ],
        }


class RedisWriter:
    """Implements ``Writer``.

    :param history: that is written into.
    """

    is_atomic = False

    def __init__(self, history: RedisHistory) -> None:
        self._history = history
        self._epoch = uuid.uuid4().hex
        self._marks = history.state()
        self._first = self._marks.last

    @property
    def marks(self) -> Marks:
        """Where the history ends and begins."""
        return self._marks

    def known(self, ids: Collection[str]) -> set[str]:
        """Look ids up."""
        asked = list(ids)
        found = zip(asked, self._history.ids(asked), strict=True)
        return {one for one, sequence in found if sequence is not None and sequence <= self._first}

    def store(self, rows: Sequence[Row], marks: Marks) -> None:
        """Store a few at a time."""
        step: list[Row] = []
        size = 0
        for row in rows:
            step.append(row)
            size += len(row.update.data)
            if len(step) == _STEP or size >= _STEP_BYTES:
                self._store(step, _marks_at(row, marks))
                step, size = [], 0
        self._store(step, marks)

    def _store(self, rows: Sequence[Row], marks: Marks) -> None:
        arguments: list[Argument] = []
        for row in rows:
            update = row.update
            arguments += (
                *(row.sequence, update.id.encode(), encoded_topics(update.topics).encode(), _hashes(update)),
                update.data.encode(),
                encoded_rest(update.private, update.type, update.retry, row.is_event),
                round(row.published_at * 1000),
                "" if row.event_bytes is None else row.event_bytes,
            )
        done = self._history.run(
            _STORE,
            *(self._epoch, self._marks.last, marks.last, marks.events, marks.updates_gone, marks.events_gone),
            *arguments,
        )
        if done == _HUB_STARTED:
            raise HistoryError(
                f"a hub has started on {self._history.name}, so the rest was not stored; {STOP_ALL}, "
                "and run this again: copy continues, and import needs --skip-known"
            )
        if done == _CHANGED:
            raise changed(self._history.name)
        self._marks = marks

    def commit(self) -> None:
        """Do nothing: it is stored."""


def _marks_at(row: Row, marks: Marks) -> Marks:
    """The marks that count when a row was stored, and those after it were not."""
    return Marks(
        row.sequence,
        row.events_before + row.is_event,
        min(marks.updates_gone, row.sequence),
        min(marks.events_gone, row.sequence),
    )


def _parts(lengths: bytes, joined: bytes) -> list[bytes]:
    parts: list[bytes] = []
    end = 0
    for length in map(int, lengths.split()):
        begin, end = end, end + length
        parts.append(joined[begin:end])
    return parts


def _row(stored: _Stored, events_before: int) -> Row:
    private, type_, retry, _ = decoded_rest(stored.rest) if stored.rest else (False, None, None, False)
    update = Update(stored.topics, stored.data.decode(), stored.id.decode(), private, type_, retry)
    return Row(stored.sequence, update, stored.milliseconds / 1000, events_before, stored.event_bytes)


def _hashes(update: Update) -> bytes:
    return b"".join(topic_hash(one).to_bytes(8, "big", signed=True) for one in update.topics)


@contextmanager
def opened(address: Address, *, is_made: bool = False) -> Iterator[RedisHistory]:
    """Open a history for one command.

    :param is_made: there may be none yet.
    :raises HistoryError: there is none.
    :raises StorageError: it cannot be read or written.
    """
    server = Server(address)
    line = Line(server)
    try:
        history = RedisHistory(line, address)
        if history.has_state:
            least = history.least_schema()
            if least > SCHEMA:
                raise StorageUnusable(
                    f"{address.shown} cannot be used: it is for hubs that know version {least}, and this one "
                    f"knows {SCHEMA}; it was made by a newer mercure-hub, so install "
                    "that version of flask-mercure"
                )
        elif not is_made:
            raise HistoryError(f"there is no {address.shown}; name another one with --transport-url")
        yield history
    except BrokenPipeError:
        raise
    except (RedisError, OSError) as error:
        raise server.failure("used", error) from None
    finally:
        line.close()
