"""Copies a history from one engine to another, so that clients can resume there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mercure_hub.protocol.revocation import Revocation
from mercure_hub.storage.address import address_of
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.interface import Retention
from mercure_hub.tools.history.history import (
    EVERYTHING,
    History,
    HistoryError,
    Marks,
    Progress,
    Row,
    select,
)

BATCH = 1000
_BATCH_CHARACTERS = 4 << 20
_ROUNDING = 0.002  # seconds
_COMPARED = (
    1000  # updates that are looked up in the source, which retention by topic may have discarded there
)


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied.

    :param updates: of publishers.
    :param events: of the hub.
    :param is_continued: an earlier copy had brought the ones before.
    :param is_behind: hubs at work on the source may have stored more meanwhile, or will.
    """

    updates: int
    events: int
    is_continued: bool
    is_behind: bool


def copy(source: History, target: History, progress: Progress) -> Copied:
    """Copy what the target does not have yet, with ids, times, order and sequences.

    Each batch brings the marks of the history with it: an interrupted copy leaves a valid beginning, and the
    next one continues it.

    :param source: hubs may be at work on it; up to the newest update of now is copied.
    :param target: empty, or filled by earlier copies of the same source and nothing else.
    :raises HistoryError: the target has something else, or a hub is at work on it.
    """
    with target.writing() as writer:
        begin, goal = writer.marks, source.marks()
        _check_beginning(source, goal, target, begin)
        updates = events = 0
        for batch in _batches(source, begin.last, goal.last):
            newest = batch[-1]
            marks = Marks(newest.sequence, newest.events_before + newest.is_event)
            writer.store(batch, _with_beginning(marks, begin, source.marks()))
            writer.commit()
            events += sum(row.is_event for row in batch)
            updates += sum(not row.is_event for row in batch)
            progress(updates + events)
        if writer.marks.last < goal.last or begin == Marks():
            writer.store((), _with_beginning(goal, begin, source.marks()))
            writer.commit()
    is_behind = source.hubs() > 0 or source.marks().last > goal.last
    return Copied(updates, events, begin.last > 0, is_behind)


def copy_revocations(revocations: Sequence[Revocation], url: str) -> None:
    """Copy revocations too: what was refused has to stay refused.

    :param revocations: of the source; what the target has is joined with them.
    :param url: of the target.
    """
    link = link_to(address_of(url), Retention())
    link.open()
    try:
        for start in range(0, len(revocations), BATCH):
            link.revoke(revocations[start : start + BATCH], 0.0)
    finally:
        link.close(is_writer_left=False)


def _batches(source: History, after: int, upto: int) -> Iterator[Sequence[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in select(source, EVERYTHING, after=after, upto=upto):
        batch.append(row)
        characters += len(row.update.data)
        if len(batch) >= BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _with_beginning(marks: Marks, begin: Marks, source: Marks) -> Marks:
    """Marks of the target, with where its history begins.

    What the source discarded before this copy began to read there is in the target. What it discarded after
    that may be missing.

    :param begin: the target's, before this copy.
    :param source: looked up after what was read.
    """

    def gone(ours: int, theirs: int) -> int:
        return min(theirs, marks.last) if theirs > begin.last or not begin.last else ours

    return Marks(
        marks.last,
        marks.events,
        gone(begin.updates_gone, source.updates_gone),
        gone(begin.events_gone, source.events_gone),
    )


def _is_same(one: Row | None, other: Row) -> bool:
    """Whether they are one update; engines round times to milliseconds, or not."""
    return (
        one is not None
        and (one.sequence, one.update, one.is_event) == (other.sequence, other.update, other.is_event)
        and abs(one.published_at - other.published_at) < _ROUNDING
    )


def _check_beginning(source: History, goal: Marks, target: History, begin: Marks) -> None:
    """Refuse a target with another history.

    What it has must be what the source has up to there: of its newest updates, the first that the source
    still has is compared in full, and between the newest one and its end the source must have nothing.
    """
    is_same = begin.last <= goal.last
    place = 0
    for number, row in enumerate(select(target, EVERYTHING, is_backward=True), 1):
        place = place or row.sequence
        there = next(select(source, EVERYTHING, after=row.sequence - 1, upto=row.sequence), None)
        if there is not None or number == _COMPARED:
            is_same = is_same and _is_same(there, row)
            break
    else:
        is_same = is_same and not place
    if is_same:
        is_same = next(select(source, EVERYTHING, after=place, upto=begin.last), None) is None
    if not is_same:
        raise HistoryError(
            f"{target.name} is not a copy of the beginning of {source.name}: name a new target, or empty "
            "this one if it is only an earlier copy"
        )
