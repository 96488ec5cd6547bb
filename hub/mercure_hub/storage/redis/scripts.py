"""The scripts that run in the server, and the keys on which they work.

A script runs alone: it is atomic, and everybody waits for it. So each does a bounded amount of work.

All keys begin with the name of the hub in braces, so that they are in one slot of a Redis Cluster, and a
pattern of an ACL can name them:

* ``state``: a hash with the epoch, the version of this schema, the last sequence, the bytes of all events
  ever, the sequences up to which updates and events were discarded, and when leases went on that had ended;
  after a copy also how many events are not counted by the stream of events (``events_base``).
* ``log``: a stream; the entry ``0-7`` has the sequence 7, with its id (``i``), topics as JSON (``t``), data
  (``d``) and what few have (``m``).
* ``updates``, ``events``: streams with the same entries, updates of publishers and events of the hub apart,
  for retention: id, hashes of the topics (``h``), milliseconds since 1970 (``a``), of events the bytes up to
  here (``b``). What is discarded can be found without its data.
* ``ids``: a hash from an id to the earliest sequence; ``i:ID``: a sorted set with the later ones.
* ``rules``: a hash about retention by topic: the ``text`` of the rules in force, their ``generation`` and
  ``count`` with the rest, the sequence up to which updates are ``assigned``, what each has discarded
  (``gone:NUMBER``, ``strays:NUMBER``), what was discarded before (``before``, ``rest_before``), and up to
  where it is ``forgotten`` of which topics.
* ``r:GENERATION:NUMBER``: a sorted set with the sequences that belong to a rule; ``earlier``: a set with the
  names of those of earlier generations.
* ``past``: a sorted set with sequence and id of what rules have discarded, which ``ids`` still has; ``gone``:
  one with the hashes of its topics, each with the newest sequence.
* ``t:HASH``: a sorted set with the sequences of a topic; ``topics``: one with hash and topic.
* ``nodes``: a hash from a node to the number and the first sequence of its last batch, with an ``x`` once the
  node counts as dead; ``leases``: a sorted set of the living with the time at which their leases end;
  ``dead``: the same of the dead; ``left``: a set of the dead that have left presence.
* ``presence``: a hash from a key to its node, the hash of its value, and its record; ``keys`` and ``values``:
  sorted sets with the keys, and with hash and key; ``n:NODE``: a set with the keys of a node.
* ``adoptions``: a hash from a node to the number of its last adoption; ``a:NODE``: a set with its keys.

* ``revoked``: a hash from the key of a revocation to its times, name and topic, and under ``last`` the newest
  version; ``revoked:versions`` and ``revoked:ends``: sorted sets with the keys, by when each was written last
  and by when it is over.

Times are those of the server, but for those of revocations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import sha1

from mercure_hub.storage.interface import (
    EVENTS_BYTES,
    EVENTS_MAX_AGE,
    LEASE,
    MOST_COMPARED,
    RESUMPTION,
    SHARED_GRACE,
)

Argument = str | bytes | int | float
Command = tuple[Argument, ...]

SCHEMA = 2
"""The version of the keys. ``state`` has that of the newest hub, and the least that a hub has to know.

A hub of the first one knows neither revocations nor retention by topic: it would admit those whose access has
ended, and discard what rules keep.
"""

DAY = 86_400_000  # milliseconds


class Script:
    """A script of the server.

    :param flags: what it may do, as the server has to know before it runs it.
    :param text: in Lua; ``p`` is the prefix of all keys, and ``now`` takes milliseconds to add.
    """

    def __init__(self, flags: str, text: str) -> None:
        self.text = f"#!lua flags={flags}\n{_HEAD}{text}" if flags else f"#!lua\n{_HEAD}{text}"
        self._sha = sha1(self.text.encode()).hexdigest()  # noqa: S324 - the server's name of it

    def call(self, prefix: bytes, *arguments: Argument) -> Command:
        """The command that runs it."""
        return "EVALSHA", self._sha, 1, prefix, *arguments


def columns(reply: Sequence[bytes], width: int) -> Iterable[tuple[bytes, ...]]:
    """The rows that scripts return as two strings: the lengths of all texts, and all texts in one.

    :param width: texts of a row.
    """
    lengths, joined = reply
    parts: list[bytes] = []
    end = 0
    for length in map(int, lengths.split()):
        begin, end = end, end + length
        parts.append(joined[begin:end])
    return zip(*[iter(parts)] * width, strict=True)


_HEAD = """
local p, call, sub = KEYS[1], redis.call, string.sub
local function now(ahead)
    local time = call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000) + ahead
end
"""

MAKE = f"""
    if call('HSETNX', state, 'epoch', epoch) == 1 then
        call('HSET', state, 'schema', {SCHEMA}, 'least', {SCHEMA}, 'last', 0, 'event_bytes', 0)
        call('HSET', state, 'updates_gone', 0, 'events_gone', 0)
    elseif tonumber(call('HGET', state, 'schema') or '0') < {SCHEMA} then
        call('HSET', state, 'schema', {SCHEMA}, 'least', {SCHEMA})
    end
"""
"""The part of a script that makes the ``state`` if it is not there, and brings it to this version."""

FORGET = """
    local function forget_id(sequence, id)
        if call('HGET', ids, id) == sequence then
            local later = call('ZPOPMIN', p .. 'i:' .. id)
            if later[1] then
                call('HSET', ids, id, later[1])
            else
                call('HDEL', ids, id)
            end
        else
            call('ZREM', p .. 'i:' .. id, sequence)
        end
    end
    local function forget_topics(sequence, hashes)
        for h = 1, #hashes, 8 do
            local hash = sub(hashes, h, h + 7)
            local topic = p .. 't:' .. hash
            call('ZREM', topic, sequence)
            if call('ZCARD', topic) == 0 then
                call('ZREMRANGEBYLEX', topics, '[' .. hash, '(' .. hash .. '\\255')
            end
        end
    end
"""
"""The part of a script with functions that remove an update from ``ids`` and ``topics``."""

KEEP = """
    local log, ids, topics = p .. 'log', p .. 'ids', p .. 'topics'
    local updates, events = p .. 'updates', p .. 'events'
    local function keep(sequence, id, encoded, hashes, data, rest, at, bytes)
        local place = '0-' .. sequence
        call('XADD', log, place, 'i', id, 't', encoded, 'd', data, 'm', rest)
        if bytes == '' then
            call('XADD', updates, place, 'i', id, 'h', hashes, 'a', at)
        else
            call('XADD', events, place, 'i', id, 'h', hashes, 'a', at, 'b', bytes)
        end
        if call('HSETNX', ids, id, sequence) == 0 then
            call('ZADD', p .. 'i:' .. id, sequence, sequence)
        end
        for h = 1, #hashes, 8 do
            local hash = sub(hashes, h, h + 7)
            local topic = p .. 't:' .. hash
            if call('ZADD', topic, sequence, sequence) == 1 and call('ZCARD', topic) == 1 then
                call('ZADD', topics, 0, hash .. cjson.decode(encoded)[(h + 7) / 8])
            end
        end
    end
"""
"""The part of a script with a function that stores an update.

``bytes`` is the size of all events up to this one, and empty for an update of a publisher.
"""

APPEND = Script(
    "",
    f"""
    local node, number, at, count = ARGV[1], tonumber(ARGV[2]), now(ARGV[3]), tonumber(ARGV[4])
    local row = call('HGET', p .. 'nodes', node)
    if not row or sub(row, -1) == 'x' then
        return -1
    end
    local known, first = string.match(row, '^(%d+) (%d+)')
    if tonumber(known) >= number then
        return tonumber(first)
    end
    {KEEP}
    local stored, most = {{}}, {MOST_COMPARED - 1}
    for position in string.gmatch(ARGV[5], '%d+') do
        local k = 6 + 6 * position
        local id = ARGV[k]
        local earliest = call('HGET', ids, id)
        local sequences = {{}}
        if earliest then
            sequences = call('ZREVRANGEBYSCORE', p .. 'i:' .. id, '+inf', '-inf', 'LIMIT', 0, most)
            sequences[#sequences + 1] = earliest
        end
        for _, sequence in ipairs(sequences) do
            local place = '0-' .. sequence
            local entry = call('XRANGE', log, place, place)[1]
            local has = entry and entry[2]
            if has and has[4] == ARGV[k + 1] and has[6] == ARGV[k + 3] and has[8] == ARGV[k + 4] then
                stored[#stored + 1] = tonumber(position)
                break
            end
        end
    end
    if #stored > 0 then
        -- Written though it is the same, so that a replica can acknowledge it together with these updates.
        call('HSET', p .. 'nodes', node, row)
        return stored
    end
    local state = p .. 'state'
    local before = call('HMGET', state, 'last', 'event_bytes')
    local last, bytes = tonumber(before[1]), tonumber(before[2])
    first = last + 1
    local k = 6
    for _ = 1, count do
        local size = ARGV[k + 5]
        last = last + 1
        if size ~= '' then
            bytes = bytes + size
            size = bytes
        end
        keep(last, ARGV[k], ARGV[k + 1], ARGV[k + 2], ARGV[k + 3], ARGV[k + 4], at, size)
        k = k + 6
    end
    for change = k, #ARGV, 4 do
        local key, hash, record = ARGV[change], ARGV[change + 2], ARGV[change + 3]
        local old = call('HGET', p .. 'presence', key)
        if old then
            call('SREM', p .. 'n:' .. sub(old, 1, 32), key)
            call('ZREM', p .. 'values', sub(old, 33, 40) .. key)
        end
        if ARGV[change + 1] == '' then
            call('HDEL', p .. 'presence', key)
            call('ZREM', p .. 'keys', key)
        else
            call('HSET', p .. 'presence', key, node .. hash .. record)
            call('ZADD', p .. 'keys', 0, key)
            call('ZADD', p .. 'values', 0, hash .. key)
            call('SADD', p .. 'n:' .. node, key)
        end
    end
    call('HSET', state, 'last', last, 'event_bytes', bytes)
    call('HSET', p .. 'nodes', node, number .. ' ' .. first)
    redis.pcall('PUBLISH', p .. 'bell', node .. ' ' .. last)
    return first
    """,
)
"""Stores a batch.

All is stored before the others are told: if the server refuses that, as by an ACL, they look each second.

Returns its first sequence; 0: ``OUTCOME`` was asked before; -1: the node counts as dead; a list with the
positions of updates that are to be stored once and are there: nothing was stored.
"""

OUTCOME = Script(
    "allow-oom",
    """
    local node, number = ARGV[1], tonumber(ARGV[2])
    local row = call('HGET', p .. 'nodes', node)
    if not row then
        return 0
    end
    local known, first, dead = string.match(row, '^(%d+) (%d+)(.*)$')
    if tonumber(known) < number then
        known, first = number, 0
    end
    -- Written even if it is the same, so that a replica can acknowledge it together with the batch.
    call('HSET', p .. 'nodes', node, known .. ' ' .. first .. dead)
    return tonumber(known) == number and tonumber(first) or 0
    """,
)
"""Returns the first sequence of a batch; 0: it was not stored, and will not be."""

RENEW = Script(
    "allow-oom",
    f"""
    local node, at, state, epoch = ARGV[1], now(ARGV[3]), p .. 'state', ARGV[4]
    {MAKE}
    local schema = call('HMGET', state, 'schema', 'least')
    if tonumber(schema[2]) > {SCHEMA} then
        return {{0, schema[1]}}
    end
    local row = call('HGET', p .. 'nodes', node)
    local is_kept = row and sub(row, -1) ~= 'x'
    if not is_kept then
        node = ARGV[2]
        call('HSET', p .. 'nodes', node, '0 0')
    elseif tonumber(call('ZSCORE', p .. 'leases', node) or '0') < at then
        call('HSET', state, 'resumed', at)
    end
    call('ZADD', p .. 'leases', at + {int(LEASE * 1000)}, node)
    return {{is_kept and 1 or 0, '{SCHEMA}'}}
    """,
)
"""Renews the lease of a node; a dead one gets another identity.

Returns whether it was kept, and the version that a hub has to know.
"""

ADOPT = Script(
    "allow-oom",
    f"""
    local node, at, limit = ARGV[1], now(ARGV[2]), tonumber(ARGV[3])
    local number, wanted = tonumber(ARGV[4]), tonumber(ARGV[5])
    local nodes, dead, presence = p .. 'nodes', p .. 'dead', p .. 'presence'
    local row = call('HGET', nodes, node)
    local before = tonumber(call('HGET', p .. 'adoptions', node) or '0')
    if not row or sub(row, -1) == 'x' or number <= before then
        return {{}}
    end
    call('HSET', p .. 'adoptions', node, number)
    local ended = at
    if tonumber(call('ZSCORE', p .. 'leases', node) or '0') < at then
        call('HSET', p .. 'state', 'resumed', at)
    end
    if at - tonumber(call('HGET', p .. 'state', 'resumed') or '0') < {int(RESUMPTION * 1000)} then
        ended = 1  -- only nodes that have left
    end
    local expired = call('ZRANGEBYSCORE', p .. 'leases', '-inf', '(' .. ended, 'WITHSCORES', 'LIMIT', 0, 100)
    for k = 1, #expired, 2 do
        local one = expired[k]
        if one ~= node then
            call('ZREM', p .. 'leases', one)
            call('ZADD', dead, expired[k + 1], one)
            call('HSET', nodes, one, (call('HGET', nodes, one) or '0 0') .. ' x')
            call('HDEL', p .. 'adoptions', one)
            call('DEL', p .. 'a:' .. one)
            if call('EXISTS', p .. 'n:' .. one) == 1 then
                call('SADD', p .. 'left', one)
            end
        end
    end
    for _, one in ipairs(call('ZRANGEBYSCORE', dead, '-inf', at - {DAY}, 'LIMIT', 0, 100)) do
        call('ZREM', dead, one)
        call('HDEL', nodes, one)
    end
    local adopted, records = p .. 'a:' .. node, {{}}
    if before > wanted then
        for _, key in ipairs(call('SMEMBERS', adopted)) do
            local value = call('HGET', presence, key)
            if value and sub(value, 1, 32) == node then
                records[#records + 1] = sub(value, 41)
            end
        end
        return records
    end
    call('DEL', adopted)
    while #records < limit do
        local one = call('SRANDMEMBER', p .. 'left')
        if not one then
            break
        end
        for _, key in ipairs(call('SPOP', p .. 'n:' .. one, limit - #records)) do
            local value = call('HGET', presence, key)
            call('HSET', presence, key, node .. sub(value, 33))
            call('SADD', p .. 'n:' .. node, key)
            call('SADD', adopted, key)
            records[#records + 1] = sub(value, 41)
        end
        if call('EXISTS', p .. 'n:' .. one) == 0 then
            call('SREM', p .. 'left', one)
        end
    end
    return records
    """,
)
"""Counts nodes without a lease as dead, and gives their presence to a living one.

A call has a number, and tells that of the last one whose answer was received. If the answer to a later one
was lost, its records are returned again; and one that comes too late does nothing.
"""

OTHERS = Script(
    "no-writes",
    """
    local node, hash, beyond, limit = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[5])
    local index = hash == '' and p .. 'keys' or p .. 'values'
    local low = ARGV[3] == '' and '[' or '('
    local keys = call('ZRANGEBYLEX', index, low .. hash .. beyond, '(' .. hash .. '\\255', 'LIMIT', 0, limit)
    local found = {''}
    if #keys == limit then
        found[1] = sub(keys[limit], #hash + 1)
    end
    for _, key in ipairs(keys) do
        local value = call('HGET', p .. 'presence', sub(key, #hash + 1))
        if value and sub(value, 1, 32) ~= node then
            found[#found + 1] = sub(value, 41)
        end
    end
    return found
    """,
)
"""Returns a key to go on after, or nothing, and the records of other nodes."""

_COLLECT = """
    local lengths, parts, weight = {}, {}, 0
    local size, overhead = tonumber(ARGV[1]), tonumber(ARGV[2])
    local function collect(entry)
        local sequence, fields, k = sub(entry[1], 3), entry[2], #parts
        parts[k + 1], lengths[k + 1] = sequence, #sequence
        for field = 1, 4 do
            local part = fields[2 * field]
            parts[k + 1 + field], lengths[k + 1 + field] = part, #part
        end
        weight = weight + overhead + #fields[6]
        return weight >= size
    end
    local function collected()
        return {table.concat(lengths, ' '), table.concat(parts)}
    end
"""

PAGE = Script(
    "no-writes",
    _COLLECT
    + """
    local after, upto, limit = ARGV[3], ARGV[4], tonumber(ARGV[5])
    local count = 0
    while count < limit do
        local ask = math.min(8, limit - count)
        local some = call('XRANGE', p .. 'log', '(0-' .. after, '0-' .. upto, 'COUNT', ask)
        for _, entry in ipairs(some) do
            if collect(entry) then
                return collected()
            end
        end
        count = count + #some
        if #some < ask then
            break
        end
        after = sub(some[ask][1], 3)
    end
    return collected()
    """,
)
"""Returns entries of a part of the history: sequence, id, topics, data and the rest of each.

It looks at few at once, because each may have megabytes of data. It returns two strings, the lengths of all
that and all that in one: the driver is slow with many.
"""

ENTRIES = Script(
    "no-writes",
    _COLLECT
    + """
    for k = 3, #ARGV do
        local place = '0-' .. ARGV[k]
        local entry = call('XRANGE', p .. 'log', place, place)[1]
        if entry and collect(entry) then
            break
        end
    end
    return collected()
    """,
)
"""The same for given sequences."""

NEWEST = Script(
    "no-writes",
    """
    local limit, lengths, parts = tonumber(ARGV[1]), {}, {}
    for k = 2, #ARGV, 2 do
        local places = call('ZREVRANGEBYSCORE', p .. 't:' .. ARGV[k], ARGV[k + 1], '-inf', 'LIMIT', 0, limit)
        for _, sequence in ipairs(places) do
            local place = '0-' .. sequence
            local entry = call('XRANGE', p .. 'log', place, place)[1]
            if entry then
                local fields = entry[2]
                local found = {k / 2 - 1, sequence, fields[4], #fields[6], fields[8]}
                for part = 1, 5 do
                    local text = tostring(found[part])
                    lengths[#lengths + 1], parts[#parts + 1] = #text, text
                end
            end
        end
    end
    return {table.concat(lengths, ' '), table.concat(parts)}
    """,
)
"""Returns the newest entries of topics, which are given as hash and last sequence.

For each entry the place of its topic among those, and its sequence, topics, size of the data and rest; in two
strings as ``PAGE`` does.
"""

_TURN = f"""
    local turn = call('HMGET', p .. 'state', 'discards', 'discards_until')
    local is_taken = turn[1] and turn[1] ~= node and tonumber(turn[2]) > at
    local shared = at - {int(SHARED_GRACE * 1000)}
    local others = call('ZCARD', p .. 'leases') - (call('ZSCORE', p .. 'leases', node) and 1 or 0)
    local is_shared = others > 0 or call('ZCOUNT', p .. 'dead', shared, '+inf') > 0
"""

DISCARD = Script(
    "allow-oom",
    f"""
    local node, at = ARGV[1], now(ARGV[2])
    local size, age, step = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
    local state, ids, topics = p .. 'state', p .. 'ids', p .. 'topics'
    local text = call('HGET', p .. 'rules', 'text') or ''
    {_TURN}
    if is_taken then
        return {{0, text}}
    end
    local newest = is_shared and shared or at
    {FORGET}
    local function discard(stream, gone, is_too_old)
        local entries = call('XRANGE', stream, '-', '+', 'COUNT', step)
        -- An update that was stamped by a fast clock is as old as the one after it.
        local times, later = {{}}, at
        for k = #entries, 1, -1 do
            local stamp = tonumber(entries[k][2][6])
            if stamp <= at then
                later = stamp
            end
            times[k] = later
        end
        local places, work = {{}}, 0
        for k, entry in ipairs(entries) do
            if times[k] > newest or work > step * 4 or not is_too_old(k, times[k], entry[2]) then
                break
            end
            places[k] = entry[1]
            forget_id(sub(entry[1], 3), entry[2][2])
            forget_topics(sub(entry[1], 3), entry[2][4])
            work = work + 3 + #entry[2][4] / 8
        end
        if #places > 0 then
            call('XDEL', p .. 'log', unpack(places))
            call('XDEL', stream, unpack(places))
            call('HSET', state, gone, sub(places[#places], 3))
            call('HSET', state, 'discards', node, 'discards_until', at + 3000)
        end
        return (#places == step or work > step * 4) and 1 or 0
    end
    local more = 0
    if text == '' and ARGV[6] == '' and (size > 0 or age > 0) then
        local surplus = size > 0 and call('XLEN', p .. 'updates') - size or 0
        local oldest = age > 0 and at - age or 0
        more = discard(p .. 'updates', 'updates_gone', function(k, time)
            return k <= surplus or time < oldest
        end)
    end
    local bytes = tonumber(call('HGET', state, 'event_bytes'))
    local oldest = at - {int(EVENTS_MAX_AGE * 1000)}
    if age > 0 then
        oldest = math.max(oldest, at - age)
    end
    local more_events = discard(p .. 'events', 'events_gone', function(_, time, fields)
        return bytes - fields[8] >= {EVENTS_BYTES} or time < oldest
    end)
    return {{math.max(more, more_events), text}}
    """,
)
"""Discards one step of what is too old; updates of publishers only if there are no rules, here and there.

Returns 1 if there is more, and the text of the rules that are in force.
"""

DECLARE = Script(
    "allow-oom",
    """
    local text, count, rules = ARGV[1], ARGV[2], p .. 'rules'
    local old = call('HMGET', rules, 'text', 'generation', 'count', 'before')
    local generation = old[2] or '0'
    if (old[1] or '') == text then
        return 0
    end
    local before = tonumber(old[4] or '0')
    for number = 0, tonumber(old[3] or '0') - 1 do
        before = math.max(before, tonumber(call('HGET', rules, 'gone:' .. number) or '0'))
        call('HDEL', rules, 'gone:' .. number, 'strays:' .. number)
        local group = 'r:' .. generation .. ':' .. number
        if call('EXISTS', p .. group) == 1 then
            call('SADD', p .. 'earlier', group)
        end
    end
    call('HSET', rules, 'text', text, 'generation', generation + 1, 'count', count, 'assigned', 0)
    call('HSET', rules, 'before', before, 'rest_before', call('HGET', p .. 'state', 'updates_gone'))
    return 1
    """,
)
"""Puts rules in force, unless they are."""

RULES = Script(
    "no-writes",
    f"""
    local node, at = ARGV[1], now(ARGV[2])
    {_TURN}
    local found = call('HMGET', p .. 'rules', 'text', 'generation', 'assigned', 'count')
    local counts = {{}}
    for number = 0, tonumber(found[4] or '0') - 1 do
        counts[number + 1] = call('ZCARD', p .. 'r:' .. found[2] .. ':' .. number)
    end
    return {{
        is_taken and 1 or 0, at, is_shared and 1 or 0,
        found[1] or '', found[2] or '', found[3] or '0', counts
    }}
    """,
)
"""Returns what there is about rules.

That is: whether another node discards now, the time, whether other nodes read here, the text of the rules,
their generation (empty: there never were any), up to where updates are assigned, and how many to each.
"""

CLEAR = Script(
    "allow-oom",
    """
    local group = call('SRANDMEMBER', p .. 'earlier')
    if not group then
        return 0
    end
    local gone = call('ZPOPMIN', p .. group, ARGV[1])
    if call('EXISTS', p .. group) == 0 then
        call('SREM', p .. 'earlier', group)
    end
    return #gone / 2
    """,
)
"""Forgets some of what was assigned to earlier rules, and returns how many."""

_DESCRIBE = """
    local lengths, parts = {}, {}
    local function add(part)
        parts[#parts + 1], lengths[#lengths + 1] = part, #part
    end
    local function describe(sequence, entry)
        add(sequence)
        if not entry then
            for _ = 1, 3 do add('') end
            return
        end
        local fields, values = entry[2], {}
        local hashes = fields[4]
        for h = 1, #hashes, 8 do
            local hash = sub(hashes, h, h + 7)
            local low, high = '[' .. hash, '(' .. hash .. '\\255'
            local member = call('ZRANGEBYLEX', p .. 'topics', low, high, 'LIMIT', 0, 1)[1]
            values[#values + 1] = member and sub(member, 9)
        end
        add(fields[2])
        add(cjson.encode(values))
        add(fields[6])
    end
    local function described()
        return {table.concat(lengths, ' '), table.concat(parts)}
    end
"""

FOLLOWING = Script(
    "no-writes",
    _DESCRIBE
    + """
    for _, entry in ipairs(call('XRANGE', p .. 'updates', '(0-' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
        describe(sub(entry[1], 3), entry)
    end
    return described()
    """,
)
"""Returns updates of publishers after a sequence, without their data.

Of each come the sequence, the id, the topics and the time; in two strings as ``PAGE`` does.
"""

DESCRIBED = Script(
    "no-writes",
    _DESCRIBE
    + """
    for _, sequence in ipairs(ARGV) do
        local place = '0-' .. sequence
        describe(sequence, call('XRANGE', p .. 'updates', place, place)[1])
    end
    return described()
    """,
)
"""The same for given sequences; what is not there has no time."""

NTH = Script(
    "no-writes",
    """
    local found = {}
    for k = 1, #ARGV, 3 do
        local topic = p .. 't:' .. ARGV[k]
        local place = call('ZCOUNT', topic, '(' .. ARGV[k + 1], '+inf') + ARGV[k + 2]
        found[#found + 1] = call('ZREVRANGE', topic, place, place)[1] or ''
    end
    return found
    """,
)
"""Returns sequences of topics, counted back.

For each are given the hash of its topic, the last sequence, and how many to skip.
"""

ASSIGN = Script(
    "allow-oom",
    """
    local rules, generation, before = p .. 'rules', ARGV[3], ARGV[4]
    local found = call('HMGET', rules, 'generation', 'assigned')
    if found[1] ~= generation or found[2] ~= before then
        return 0
    end
    for k = 5, #ARGV, 2 do
        local sequence = ARGV[k + 1]
        local place = '0-' .. sequence
        if call('XRANGE', p .. 'updates', place, place)[1] then
            call('ZADD', p .. 'r:' .. generation .. ':' .. ARGV[k], sequence, sequence)
        end
    end
    call('HSET', rules, 'assigned', ARGV[#ARGV])
    call('HSET', p .. 'state', 'discards', ARGV[1], 'discards_until', now(ARGV[2]) + 3000)
    return 1
    """,
)
"""Assigns updates that are there to rules, if all before them are assigned and nothing after."""

DISCARD_BY_RULE = Script(
    "allow-oom",
    f"""
    local generation, number, strays, remembered = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
    local state, rules, ids, topics = p .. 'state', p .. 'rules', p .. 'ids', p .. 'topics'
    local updates, past, gone = p .. 'updates', p .. 'past', p .. 'gone'
    if call('HGET', rules, 'generation') ~= generation then
        return 0
    end
    {FORGET}
    local newest, added = 0, 0
    for k = 7, #ARGV do
        local sequence = ARGV[k]
        local place = '0-' .. sequence
        local entry = call('XRANGE', updates, place, place)[1]
        call('ZREM', p .. 'r:' .. generation .. ':' .. number, sequence)
        if entry then
            local id, hashes = entry[2][2], entry[2][4]
            call('XDEL', p .. 'log', place)
            call('XDEL', updates, place)
            forget_topics(sequence, hashes)
            newest = math.max(newest, tonumber(sequence))
            if number == '0' then
                forget_id(sequence, id)
            else
                call('ZADD', past, sequence, sequence .. ' ' .. id)
                for h = 1, #hashes, 8 do
                    call('ZADD', gone, 'GT', sequence, sub(hashes, h, h + 7))
                    added = added + 1
                end
            end
        end
    end
    local function note(key, field, value)
        if value > tonumber(call('HGET', key, field) or '0') then
            call('HSET', key, field, value)
        end
    end
    if number == '0' then
        note(state, 'updates_gone', newest)
    else
        note(rules, 'gone:' .. number, newest)
        note(rules, 'strays:' .. number, strays)
        local function oldest(key)
            return call('ZPOPMIN', key, math.max(math.min(call('ZCARD', key) - remembered, 2 * added), 0))
        end
        for k, member in ipairs(oldest(past)) do
            if k % 2 == 1 then
                local space = string.find(member, ' ', 1, true)
                forget_id(sub(member, 1, space - 1), sub(member, space + 1))
            end
        end
        local forgotten = oldest(gone)
        note(rules, 'forgotten', tonumber(forgotten[#forgotten] or '0'))
    end
    call('HSET', state, 'discards', ARGV[1], 'discards_until', now(ARGV[2]) + 3000)
    return 1
    """,
)
"""Discards updates of a rule, and notes that; of those of the rest nothing stays."""

UNASSIGN = """
    local found = call('HMGET', p .. 'rules', 'generation', 'count')
    local function unassign(sequence)
        for number = 0, tonumber(found[2] or '0') - 1 do
            if call('ZREM', p .. 'r:' .. found[1] .. ':' .. number, sequence) == 1 then
                return
            end
        end
    end
"""
"""The part of a script with a function that takes an update out of the rules."""

GONE = Script(
    "no-writes",
    """
    local rules = p .. 'rules'
    local found = call('HMGET', p .. 'state', 'updates_gone', 'events_gone')
    local of_rules = call('HMGET', rules, 'generation', 'text', 'rest_before', 'before', 'forgotten', 'count')
    local gone = {found[1] or '0', found[2] or '0'}
    if of_rules[1] then
        for k = 2, 5 do
            gone[#gone + 1] = of_rules[k] or '0'
        end
        for number = 1, tonumber(of_rules[6]) - 1 do
            gone[#gone + 1] = call('HGET', rules, 'gone:' .. number) or '0'
            gone[#gone + 1] = call('HGET', rules, 'strays:' .. number) or '0'
        end
    end
    return gone
    """,
)
"""Returns what was discarded: up to where of updates and of events.

If there ever were rules, also: the text of those in force, what was discarded before of the rest and by
rules, up to where topics are forgotten, and of each rule what it discarded, and of that what has other topics
too.
"""

OF_TOPICS = Script(
    "no-writes",
    """
    local newest, hashes = 0, ARGV[1]
    for h = 1, #hashes, 8 do
        newest = math.max(newest, tonumber(call('ZSCORE', p .. 'gone', sub(hashes, h, h + 7)) or '0'))
    end
    return newest
    """,
)
"""Returns the newest that rules have discarded of topics, whose hashes are given in one string."""

REVOKE = Script(
    "allow-oom",
    """
    local revoked, versions, ends = p .. 'revoked', p .. 'revoked:versions', p .. 'revoked:ends'
    for _, key in ipairs(call('ZRANGEBYSCORE', ends, '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)) do
        call('HDEL', revoked, key)
        call('ZREM', versions, key)
        call('ZREM', ends, key)
    end
    for k = 2, #ARGV, 4 do
        local key, rest, before, ends_at = ARGV[k], ARGV[k + 1], ARGV[k + 2], ARGV[k + 3]
        local old = call('HGET', revoked, key)
        if old then
            local old_before, old_end = string.match(old, '^(%S+) (%S+) ')
            if tonumber(old_before) > tonumber(before) then
                before = old_before
            end
            if tonumber(old_end) > tonumber(ends_at) then
                ends_at = old_end
            end
        end
        call('HSET', revoked, key, before .. ' ' .. ends_at .. ' ' .. rest)
        call('ZADD', versions, call('HINCRBY', revoked, 'last', 1), key)
        call('ZADD', ends, ends_at, key)
    end
    return 1
    """,
)
"""Stores revocations, each joined with the one of its key, and discards what is over."""

REVOCATIONS = Script(
    "no-writes",
    """
    local revoked = p .. 'revoked'
    local newest = tonumber(call('HGET', revoked, 'last') or '0')
    local found = {newest}
    if newest == tonumber(ARGV[1]) then
        return found
    end
    local keys = call(
        'ZRANGEBYSCORE', p .. 'revoked:versions', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]
    )
    for k = 1, #keys, 2 do
        found[#found + 1] = call('HGET', revoked, keys[k])
        found[#found + 1] = keys[k + 1]
    end
    return found
    """,
)
"""Returns the newest version, and the revocations after another one with their versions."""

CHECK = Script(
    "",
    """
    if call('EXISTS', p .. 'state') == 1 then
        call('HINCRBY', p .. 'state', 'checks', 1)
    end
    return 1
    """,
)
"""Writes something that changes nothing."""

_WORKING = (
    *(APPEND, OUTCOME, RENEW, ADOPT, OTHERS, PAGE, ENTRIES, NEWEST, DISCARD, REVOKE, REVOCATIONS, CHECK),
    *(DECLARE, RULES, CLEAR, FOLLOWING, DESCRIBED, NTH, ASSIGN, DISCARD_BY_RULE, GONE, OF_TOPICS),
)
_TAKES_NOTHING = frozenset({"DEL", "EXISTS", "SMEMBERS", "SPOP", "SRANDMEMBER", "XLEN", "ZCARD", "ZPOPMIN"})
_TAKES_TWO = frozenset(
    {
        *("HINCRBY", "HSET", "HSETNX", "XRANGE", "XREVRANGE"),
        *(
            "ZADD",
            "ZCOUNT",
            "ZRANGEBYLEX",
            "ZRANGEBYSCORE",
            "ZREVRANGE",
            "ZREVRANGEBYSCORE",
            "ZREMRANGEBYLEX",
        ),
    }
)
_CALLS = {name for script in _WORKING for name in re.findall(r"[( ]call\('([A-Z]+)'", script.text)}


def _check(name: str) -> str:
    """A Lua expression that tells whether an ACL allows a command on a key.

    Redis, not Valkey, wants a number of arguments that the command takes.
    """
    number = 0 if name in _TAKES_NOTHING else 2 if name in _TAKES_TWO else 3 if name == "XADD" else 1
    return f"redis.acl_check_cmd('{name}', p .. 'state'{', 0' * number})"


FORBIDDEN = Script(
    "no-writes",
    "local forbidden = {}\n"
    + "\n".join(
        f"if not {_check(name)} then table.insert(forbidden, '{name}') end"
        for name in sorted(_CALLS - {"TIME", "XINFO"})
    )
    + "\nreturn forbidden",
)
"""Returns the commands of the other scripts that an ACL forbids.

A script that is stopped in its middle has done the part before it: an update would be stored, and refused.
"""

SCRIPTS = (*_WORKING, FORBIDDEN)
