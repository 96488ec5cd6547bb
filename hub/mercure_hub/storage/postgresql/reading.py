"""Reads parts of the history; the cost depends on what is wanted, not on the size of the history."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg

from mercure_hub.protocol.errors import StorageAway
from mercure_hub.storage.encoding import MAX_PAGE, decoded_topics, topic_hash, topic_page
from mercure_hub.storage.interface import (
    MANY_TOPICS,
    OVERHEAD,
    Beginning,
    Entry,
    Outline,
    Page,
    Resume,
    Resumed,
    TopicPage,
)
from mercure_hub.storage.postgresql.by_rules import BEGINNING, OF_TOPICS, discarded
from mercure_hub.storage.postgresql.connection import DEADLINE, Connection, Connector, Rows, bigints, texts
from mercure_hub.storage.postgresql.schema import ENTRY, INCARNATION, entry

_FEW = 128  # topics that are looked up one by one: more than one request can name
_WINDOW = 10_000  # sequences that are searched for many topics at once, to begin with

_FIND = """
    SELECT (
        SELECT min(f.sequence) FROM (
            (
                SELECT u.sequence FROM mercure_update u WHERE u.id_hash = w.hash AND u.id = w.id
                ORDER BY u.id_hash, u.sequence LIMIT 1
            ) UNION ALL (
                SELECT p.sequence FROM mercure_past p WHERE p.id_hash = w.hash AND p.id = w.id
                ORDER BY p.id_hash, p.sequence LIMIT 1
            )
        ) f
    ) FROM unnest(%(hashes)s, %(ids)s) WITH ORDINALITY w(hash, id, number) ORDER BY w.number
"""


def _bounded(rows: str, objects: int, more: str = "") -> str:
    """A statement that returns rows until a size is reached; data is not read only to leave it out.

    :param objects: bytes of an entry beside its data.
    :param more: further columns.
    """
    size = f"octet_length(u.data) + {objects}"
    return f"""
        SELECT {ENTRY} {more} FROM (
            SELECT u.*, sum({size}) OVER (ORDER BY u.sequence) - ({size}) AS size_before FROM ({rows}) u
        ) u WHERE u.size_before < %(size)s ORDER BY u.sequence
    """  # noqa: S608 - constants


_RANGE = """
    SELECT * FROM mercure_update WHERE sequence > %(after)s AND sequence <= %(upto)s
    ORDER BY sequence LIMIT %(limit)s
"""
_OF_RANGE = _bounded(_RANGE, OVERHEAD)
_OF_TOPICS = _bounded(
    """
    SELECT u.* FROM (
        SELECT DISTINCT t.sequence FROM unnest(%(hashes)s) h CROSS JOIN LATERAL (
            SELECT t.sequence FROM mercure_topic t
            WHERE t.topic_hash = h AND t.sequence > %(after)s AND t.sequence <= %(upto)s
            ORDER BY t.topic_hash, t.sequence LIMIT %(limit)s
        ) t ORDER BY t.sequence LIMIT %(limit)s
    ) t JOIN mercure_update u ON u.sequence = t.sequence
    """,
    OVERHEAD,
)
_SEQUENCES_OF_MANY = """
    SELECT DISTINCT sequence FROM mercure_topic
    WHERE topic_hash = ANY(%(hashes)s) AND sequence > %(after)s AND sequence <= %(upto)s
    ORDER BY sequence LIMIT %(limit)s
"""
_OF_SEQUENCES = _bounded("SELECT * FROM mercure_update WHERE sequence = ANY(%(sequences)s)", OVERHEAD)
_FOLLOWING = _bounded(_RANGE, 0, f", {INCARNATION}")

_NEWEST = """
    SELECT w.number, u.sequence, u.topics, u.private, octet_length(u.data)
    FROM unnest(%(hashes)s, %(uptos)s) WITH ORDINALITY w(hash, upto, number) CROSS JOIN LATERAL (
        SELECT u.sequence, u.topics, u.private, u.data
        FROM mercure_topic t JOIN mercure_update u ON u.sequence = t.sequence
        WHERE t.topic_hash = w.hash AND t.sequence <= w.upto AND u.event_bytes IS NULL
        ORDER BY t.topic_hash DESC, t.sequence DESC LIMIT %(limit)s
    ) u ORDER BY w.number, u.sequence DESC
"""

# Skips through the index of topics from one to the next: each costs one look-up, however many updates it has.
_TOPICS = """
    WITH RECURSIVE distinct_topic(topic_hash, number) AS (
        SELECT min(topic_hash), 1 FROM mercure_topic WHERE topic_hash > %(beyond)s
        UNION ALL
        SELECT (SELECT min(topic_hash) FROM mercure_topic t WHERE t.topic_hash > d.topic_hash), d.number + 1
        FROM distinct_topic d WHERE d.topic_hash IS NOT NULL AND d.number < %(limit)s
    )
    SELECT d.topic_hash, u.topics FROM distinct_topic d LEFT JOIN LATERAL (
        SELECT u.topics FROM mercure_update u WHERE u.sequence = (
            SELECT min(t.sequence) FROM mercure_topic t
            WHERE t.topic_hash = d.topic_hash AND t.sequence > %(after)s AND t.sequence <= %(upto)s
        )
    ) u ON true
    WHERE d.topic_hash IS NOT NULL ORDER BY d.number
"""


class Reader:
    """Finds and reads updates over a few connections.

    :param connector: makes them.
    :param connections: how many to use at most.
    """

    def __init__(self, connector: Connector, connections: int) -> None:
        self._connector = connector
        self._idle: deque[Connection] = deque()
        self._free = threading.Semaphore(connections)

    @contextlib.contextmanager
    def connection(self, participle: str = "read") -> Iterator[Connection]:
        """A connection for one use.

        :param participle: what cannot be done when it fails.
        :raises StorageError: it fails.
        """
        if not self._free.acquire(timeout=DEADLINE):
            raise StorageAway(f"{self._connector.shown} cannot be {participle}: all connections are in use")
        try:
            connection = self._take()
            try:
                yield connection
            except psycopg.Error as error:
                connection.close()
                raise self._connector.failure(participle, error) from None
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
        finally:
            self._free.release()

    def _take(self) -> Connection:
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if not connection.is_stale():
                    return connection
                connection.close()
        return self._connector.connect()

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    # -- reading ---------------------------------------------------------------------------------

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Where subscribers go on: two round trips for all of them; see ``Link.resume``."""
        if not wanted:
            return []
        with self.connection() as connection:
            afters = _find(connection, [one.event_id for one in wanted])
            questions: list[tuple[str, Any]] = []
            pages: dict[int, int] = {}  # number of the subscriber, and of its question
            alone: list[int] = []
            for number, (one, after) in enumerate(zip(wanted, afters, strict=True)):
                if after is None or not one.has_page(after):
                    continue
                question = _page_question(after, one.upto, one.topics, one.limit)
                if question is None:
                    alone.append(number)
                else:
                    pages[number] = len(questions)
                    questions.append(question)
            # Last: what is discarded meanwhile must not be missed.
            questions += [_of_topics(one.topics) for one in wanted]
            questions.append((BEGINNING, None))
            answers = connection.ask_all(questions)
            gone, of_topics = answers[-1], answers[-1 - len(wanted) : -1]
            resumed = []
            for number, (one, after) in enumerate(zip(wanted, afters, strict=True)):
                beginning = _beginning(gone, of_topics[number], one.upto)
                page = None
                if number in pages:
                    page = _page(answers[pages[number]], one.upto, one.limit, beginning)
                resumed.append(Resumed(after, page, beginning))
        for number in alone:
            one, after = wanted[number], afters[number]
            assert after is not None
            page = self.page(after, one.upto, one.topics, one.limit)
            resumed[number] = Resumed(after, page, page.beginning)
        return resumed

    def page(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Updates in their order; see ``Link.read``."""
        with self.connection() as connection:
            question = _page_question(after, upto, topics, limit)
            if question is None:
                assert topics is not None
                sequences, upto = _in_windows(connection, after, upto, topics, limit)
                question = _OF_SEQUENCES, {"sequences": bigints(sequences), "size": MAX_PAGE}
            rows, of_topics, gone = connection.ask_all([question, _of_topics(topics), (BEGINNING, None)])
        return _page(rows, upto, limit, _beginning(gone, of_topics, upto))

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins; see ``Link.beginning``."""
        with self.connection() as connection:
            of_topics, gone = connection.ask_all([_of_topics(topics), (BEGINNING, None)])
            return _beginning(gone, of_topics, upto)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics of updates in a part of the history; see ``Link.topics``."""
        before_all = -(1 << 63)
        bounds = {"after": after, "upto": upto, "limit": limit}
        bounds["beyond"] = before_all if beyond is None else beyond
        with self.connection() as connection:
            return topic_page(connection.ask(_TOPICS, bounds), limit)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics; see ``Link.newest_of``."""
        values = {
            "hashes": bigints([topic_hash(topic) for topic, _ in wanted]),
            "uptos": bigints([upto for _, upto in wanted]),
            "limit": limit,
        }
        found: list[list[Outline]] = [[] for _ in wanted]
        with self.connection() as connection:
            for number, sequence, topics, private, size in connection.ask(_NEWEST, values):
                found[number - 1].append(Outline(sequence, decoded_topics(topics), private, size))
        return list(found)

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences; see ``Link.at``."""
        values = {"sequences": bigints(sequences), "size": MAX_PAGE}
        with self.connection() as connection:
            return [entry(row) for row in connection.ask(_OF_SEQUENCES, values)]


def following(
    connection: Connection, sequence: int, limit: int, size: int
) -> tuple[list[Entry], float | None]:
    """The entries after a sequence; see ``Link.after``.

    :returns: and the incarnation of the server that has them, if there are any.
    """
    entries: list[Entry] = []
    incarnation: float | None = None
    is_cut = True
    while is_cut and len(entries) < limit and size > 0:
        values = {"after": sequence, "upto": _NO_END, "limit": limit - len(entries), "size": size}
        rows = connection.ask(_FOLLOWING, values)
        some = [entry(row) for row in rows]
        entries += some
        # The server counts bytes, the caller characters, which may be fewer.
        is_cut = sum(len(row[3]) for row in rows) >= size
        size -= sum(len(one.update.data) for one in some)
        if rows:
            sequence, incarnation = rows[-1][0], rows[-1][-1]
    return entries, incarnation


_NO_END = (1 << 63) - 1  # the largest sequence


def is_storable(text: str) -> bool:
    """Whether the database can hold a text at all."""
    return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _find(connection: Connection, ids: Sequence[str]) -> list[int | None]:
    """Sequences of the earliest updates with ids (spec, Reconciliation)."""
    known = [number for number, one in enumerate(ids) if is_storable(one)]
    some = [ids[number] for number in known]
    rows: Rows = []
    if some:
        rows = connection.ask(
            _FIND, {"hashes": bigints([topic_hash(one) for one in some]), "ids": texts(some)}
        )
    found: list[int | None] = [None] * len(ids)
    for number, (sequence,) in zip(known, rows, strict=True):
        found[number] = sequence
    return found


def _page_question(
    after: int, upto: int, topics: Collection[str] | None, limit: int
) -> tuple[str, dict[str, Any]] | None:
    """What one statement asks for a page; ``None``: it takes several."""
    values: dict[str, Any] = {"after": after, "upto": upto, "limit": limit, "size": MAX_PAGE}
    if topics is None or len(topics) > MANY_TOPICS:
        return _OF_RANGE, values
    hashes = {topic_hash(one) for one in topics}
    if len(hashes) > _FEW:
        return None
    return _OF_TOPICS, {**values, "hashes": bigints(list(hashes))}


def _page(rows: Rows, upto: int, limit: int, beginning: Beginning) -> Page:
    entries = [entry(row) for row in rows]
    size = sum(len(row[3]) + OVERHEAD for row in rows)
    is_whole = len(rows) < limit and size < MAX_PAGE
    return Page(entries, upto if is_whole or not entries else entries[-1].sequence, beginning)


def _of_topics(topics: Collection[str] | None) -> tuple[str, dict[str, Any]]:
    """What asks for the newest that rules have discarded of topics."""
    some = () if topics is None or len(topics) > MANY_TOPICS else topics
    return OF_TOPICS, {"hashes": bigints([topic_hash(one) for one in some])}


def _beginning(rows: Rows, of_topics: Rows, upto: int) -> Beginning:
    updates_gone, events_gone, oldest, *columns = rows[0]
    by_rules = discarded(columns, of_topics[0][0])
    if by_rules is None:
        return Beginning.noted(updates_gone, events_gone, oldest, upto)
    return Beginning(updates_gone + 1, events_gone + 1, by_rules)


def _in_windows(
    connection: Connection, after: int, upto: int, topics: Collection[str], limit: int
) -> tuple[list[int], int]:
    """The sequences of many topics, with few statements.

    One over the whole history would sort all sequences of all topics for each page.

    :returns: the sequences, and up to where they are all.
    """
    hashes = bigints(list({topic_hash(one) for one in topics}))
    sequences: list[int] = []
    window = _WINDOW
    while after < upto and len(sequences) < limit:
        end = min(after + window, upto)
        wanted = limit - len(sequences)
        values = {"hashes": hashes, "after": after, "upto": end, "limit": wanted}
        some = [row[0] for row in connection.ask(_SEQUENCES_OF_MANY, values)]
        sequences += some
        after = some[-1] if len(some) == wanted else end
        window *= 2
    return sequences, after
