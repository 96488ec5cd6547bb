"""What has to hold in every run, as functions over its record. Nothing here touches a hub or a clock."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.plan import LEASE
from chaos.record import (
    ANY,
    EARLIEST,
    Effect,
    End,
    Entry,
    Listing,
    Look,
    Outcome,
    Publication,
    Record,
    Session,
)
from chaos.topics import ALL

BOUND = 10.0
"""Seconds within which anything has to be noticed, answered or repaired."""

SOON = 5.0
"""The same for what nodes on one engine have to do after a fault."""

_TOLERANCE = 2.0  # seconds, for clients that look once in a while on a busy machine
_PROMPT = 1.0  # seconds of a publication that the troubles of others must not delay
_ADOPTED = LEASE + SOON  # seconds after which the subscriptions of a dead node are ended
_CLOCKS = 1.5  # seconds by which two looks at clocks may differ
_FEW = 5  # publications that make a judgement over a span of time
_MORE_MEMORY = 48 << 20  # bytes for each process
_MORE_DESCRIPTORS = 24  # for each process: it opens connections to the store when it needs them
_MORE_THREADS = 6
_IDLE = 0.5  # of a core


class Invariant(enum.Enum):
    """The rules, each with what its violation means."""

    LOST = "an acknowledged update is not in the log"
    DOUBLED = "an update is in the log twice"
    REORDERED = "the log contradicts the order of the answers"
    TORN = "a batch is not stored as a whole, in its order"
    PHANTOM = "an update that was refused is in the log"
    UNTOLD = "an update was stored, and its publisher never got an answer"
    DROPPED = "a request was not answered, though its connection could carry an answer"
    SLOW = "a publication was not answered in time"
    GAP = "a stream went on past an update that it lacks"
    REPEATED = "a stream repeated an update"
    UNSTORED = "a stream delivered an update that is not in the log"
    STRAY = "a stream delivered an update that it had not asked for"
    LEAK = "a stream delivered a private update that its token does not allow"
    EXPIRED = "a stream delivered an update after its token had expired"
    FORGOTTEN = "a cursor that is in the history was answered as unknown"
    CUT = "streams were ended because an update could not be sent, and nothing explains that"
    STUCK = "an open stream did not deliver the last updates"
    LATE = "a stream delivered an update late"
    OLD_KEY = "a key that was taken away still opens the hub"
    NEW_KEY = "the current key is refused"
    FLAWED = "a token that is expired or for another hub opens the hub"
    OUTLIVES = "a stream outlives the key of its token"
    BLIND = "health is well while every publication is refused"
    ALARM = "health is bad while every publication succeeds"
    GHOST = "a connection that ended is listed as present"
    ABSENT = "a connection that is open is not listed as present"
    UNENDED = "presence events do not pair: one beginning and one end for each connection"
    DOWN = "the hub did not recover by itself"
    CRASHED = "a process ended that nobody had told to"
    RUINED = "the log cannot be read any more"
    REPLAY = "a replay from the beginning differs from the log"
    DELAYED = "the trouble of one node delayed a publication to another one"
    GAPPED = "the sequences of the log have a gap"
    READY = "a node that cannot reach its engine says that it is ready"
    HELD = "a stream went on after the log had lost what it had delivered"
    DISAGREE = "two nodes replay the log differently"
    LEFTOVER = "memory, descriptors, threads, files or CPU did not return to where they were"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that did not hold.

    :param at: when, in seconds since the run began.
    :param words: what was seen.
    :param numbers: of the updates that are involved.
    :param session: that is involved.
    """

    invariant: Invariant
    at: float
    words: str
    numbers: tuple[int, ...] = ()
    session: str = ""


def violations(record: Record) -> list[Violation]:
    """Judge a run.

    :returns: all that did not hold, in the order of time.
    """
    judge = _Judge(record)
    if record.ruin:  # there is no truth to hold the rest against
        return [*judge.recovery(), *judge.keys(), *judge.health()]
    found = [
        *judge.publications(),
        *judge.order(),
        *judge.streams(),
        *judge.endings(),
        *judge.keys(),
        *judge.health(),
        *judge.presence(),
        *judge.nodes(),
        *judge.recovery(),
    ]
    return sorted(found, key=lambda violation: violation.at)


class _Judge:
    def __init__(self, record: Record) -> None:
        self.record = record
        self.log = list(record.log)
        self.places: dict[str, list[int]] = {}
        for index, entry in enumerate(self.log):
            self.places.setdefault(entry.id, []).append(index)
        self.by_number: dict[int, list[Entry]] = defaultdict(list)
        for entry in self.log:
            if entry.number >= 0:
                self.by_number[entry.number].append(entry)
        self.publication_of = {
            update.number: publication
            for publication in record.publications
            for update in publication.updates
        }
        self._wanted: dict[tuple[object, object], list[int]] = {}

    # -- publishing --------------------------------------------------------------------------------

    def publications(self) -> Iterator[Violation]:
        for one in self.record.publications:
            yield from self._publication(one)

    def _publication(self, one: Publication) -> Iterator[Violation]:
        numbers = tuple(update.number for update in one.updates)
        stored = [self.by_number[number] for number in numbers]
        is_stored = any(stored)
        what = f"{_updates(numbers)} of {one.publisher}"
        for number, entries in zip(numbers, stored, strict=True):
            if len(entries) > 1 and not self._was_gone(one, entries):
                places = ", ".join(str(entry.sequence) for entry in entries)
                yield Violation(
                    Invariant.DOUBLED, one.done, f"update {number} is at {places} of the log", (number,)
                )
        if is_stored and not self._is_whole(stored):
            yield Violation(Invariant.TORN, one.done, f"{what}: {_places(stored)}", numbers)
        if one.attempts > 1:
            if one.outcome is Outcome.STORED and one.sent > self.record.damaged:
                yield from self._acknowledged(one, numbers, stored, what)
            return  # of a single attempt nothing is known
        match one.outcome:
            case Outcome.STORED if one.sent > self.record.damaged:
                yield from self._acknowledged(one, numbers, stored, what)
            case Outcome.REFUSED if is_stored:
                words = f"{what} got {one.status} after {one.done - one.sent:.2f} s, and is in the log"
                yield Violation(Invariant.PHANTOM, one.done, words, numbers)
            case Outcome.UNANSWERED if not self._died(one.sent, one.done, one.node):
                if is_stored:
                    words = f"{what} was sent at {one.sent:.2f} s; the connection ended without an answer"
                    yield Violation(Invariant.UNTOLD, one.done, words, numbers)
                elif not self._may_close(one):
                    words = f"{what} was sent at {one.sent:.2f} s: {one.detail}"
                    yield Violation(Invariant.DROPPED, one.done, words, numbers)
        took = one.done - one.sent
        if one.outcome not in (Outcome.UNSENT, Outcome.CUT) and took > BOUND:
            excuse = Effect.STALLS | Effect.STARVES | Effect.CUTS | Effect.KILLS
            if not self._lately(excuse, one.sent, one.done, one.node):
                yield Violation(Invariant.SLOW, one.done, f"{what} took {took:.1f} s", numbers)

    def _was_gone(self, one: Publication, entries: Sequence[Entry]) -> bool:
        """Whether the hub may have discarded an update before it was published again."""
        size, age = self.record.history_size, self.record.history_age
        between = entries[1].sequence - entries[0].sequence
        return one.attempts > 1 and (0 < size <= between or 0 < age <= one.done - one.sent)

    def _acknowledged(
        self, one: Publication, numbers: tuple[int, ...], stored: Sequence[list[Entry]], what: str
    ) -> Iterator[Violation]:
        ids = tuple(entries[0].id if entries else None for entries in stored)
        if None in ids:
            words = f"{what} got 200 at {one.done:.2f} s, and is not in the log"
            yield Violation(Invariant.LOST, one.done, words, numbers)
        elif ids != one.ids:
            words = f"{what} was answered with {one.ids}, and the log has {ids}"
            yield Violation(Invariant.LOST, one.done, words, numbers)

    @staticmethod
    def _is_whole(stored: Sequence[list[Entry]]) -> bool:
        first = stored[0][0].sequence if stored[0] else None
        return first is not None and all(
            entries and entries[0].sequence == first + index for index, entries in enumerate(stored)
        )

    def _died(self, begin: float, end: float, node: int) -> bool:
        """Whether a process of a node may have died without a word in a span of time."""
        return self.record.during(Effect.KILLS | Effect.STARVES, begin, end, node) or any(
            begin - 1 <= death.at <= end + 1 for death in self.record.deaths if node in (ANY, death.node)
        )

    def _may_close(self, one: Publication) -> bool:
        """Whether a connection may have ended before its request was read: HTTP allows it, if it was kept."""
        is_down = any(
            not death.is_restarted and death.at < one.done
            for death in self.record.deaths
            if one.node in (ANY, death.node)
        )
        ends = Effect.STOPS | Effect.KILLS | Effect.STARVES
        if is_down or self._lately(ends, one.sent, one.done, one.node):
            return True  # the proxy accepts while there is no hub behind it
        return not one.is_fresh and not self.record.during(Effect.STALLS, one.sent, one.done, one.node)

    def _lately(self, effect: Effect, begin: float, end: float, node: int = ANY) -> bool:
        """Whether a fault touches a span of time, or was over only just before it."""
        return self.record.during(effect, begin - BOUND, end, node)

    def order(self) -> Iterator[Violation]:
        """What was answered before another publication was sent comes before it in the log."""
        stored = [
            (one, self.by_number[one.updates[0].number][0].sequence)
            for one in self.record.publications
            if one.outcome is Outcome.STORED and self.by_number[one.updates[0].number]
        ]
        by_done = sorted(stored, key=lambda pair: pair[0].done)
        last: tuple[Publication, int] | None = None
        index = 0
        for one, sequence in sorted(stored, key=lambda pair: pair[0].sent):
            while index < len(by_done) and by_done[index][0].done < one.sent:
                if last is None or by_done[index][1] > last[1]:
                    last = by_done[index]
                index += 1
            if last is not None and last[1] > sequence:
                numbers = (last[0].updates[0].number, one.updates[0].number)
                words = (
                    f"update {numbers[0]}, answered at {last[0].done:.3f} s, is at {last[1]} of the log, "
                    f"after update {numbers[1]} at {sequence}, which was sent at {one.sent:.3f} s"
                )
                yield Violation(Invariant.REORDERED, one.done, words, numbers)

    # -- streams -----------------------------------------------------------------------------------

    def streams(self) -> Iterator[Violation]:
        for session in self.record.sessions:
            if session.status == 200 and not self._is_damaged(session):
                yield from self._stream(session)
                yield from self._times(session)

    def _is_damaged(self, session: Session) -> bool:
        """Whether the log of that time is gone: then there is nothing to hold the stream against."""
        return self.record.during(Effect.REPLACES, session.opened, float("inf"))

    def _wanted_by(self, session: Session) -> list[int]:
        """Places in the log of what a subscriber should get."""
        key = session.matchers, session.grants
        if key not in self._wanted:
            self._wanted[key] = [index for index, entry in enumerate(self.log) if session.allows(entry)]
        return self._wanted[key]

    def _stream(self, session: Session) -> Iterator[Violation]:
        wanted = self._wanted_by(session)
        begin = self._beginning(session, wanted)
        if isinstance(begin, Violation):
            yield begin
            begin = None
        at = begin
        begun: set[bool] = set()  # the kinds that it got something of: events of the hub, and updates
        for (id_, number), when in zip(session.received, session.arrivals, strict=True):
            if id_ not in self.places:
                words = f"{session.name} got {_update(number, id_)}, which is not in the log"
                yield Violation(Invariant.UNSTORED, when, words, _known(number), session.name)
                continue
            place = self._begun_with(session, id_) if at is None else self._next(id_, wanted, at)
            index = bisect_left(wanted, place)
            if index == len(wanted) or wanted[index] != place:
                yield self._stranger(session, self.log[place], when)
                continue
            if at is None:
                at = self._first(session, wanted, index)
            missing = [place for place in wanted[at:index] if not self._may_be_gone(session, place, begun)]
            begun.add(self.log[place].is_event)
            if missing:
                yield self._gap(session, missing, self.log[place], when)
            elif index < at:
                words = f"{session.name} got {_update(number, id_)} again"
                yield Violation(Invariant.REPEATED, when, words, _known(number), session.name)
            at = max(at, index + 1)
        yield from self._rest(session, wanted, at)

    def _begun_with(self, session: Session, id_: str) -> int:
        """The place of an update at which, or after which, a stream begins.

        One that was published again after the hub had discarded it has two places in the log.
        """
        known = (places[0] for got, _ in session.received if len(places := self.places.get(got, [])) == 1)
        first = next(known, len(self.log))
        return max((place for place in self.places[id_] if place < first), default=self.places[id_][0])

    def _next(self, id_: str, wanted: list[int], at: int) -> int:
        """The first place of an update that a stream has not passed, or else the last one."""
        places = self.places[id_]
        return next((place for place in places if bisect_left(wanted, place) >= at), places[-1])

    def _may_be_gone(self, session: Session, place: int, begun: set[bool]) -> bool:
        """Whether an update was discarded before the stream began, and the client was told so."""
        is_event = self.log[place].is_event
        is_told = session.answered == EARLIEST and session.cursor is not None
        return is_told and is_event not in begun and self._discards(session.ended, events=is_event)

    def _discards(self, before: float, *, events: bool) -> bool:
        """Whether the hub may have discarded updates, or its own events, which are kept for a day."""
        if events:
            return not self.record.is_shared and self.record.during(Effect.CLOCK, 0.0, before)
        return bool(self.record.history_size or self.record.history_age)

    def _beginning(self, session: Session, wanted: list[int]) -> int | Violation | None:
        """Where in ``wanted`` a stream has to begin; ``None``: with whatever comes first."""
        if session.cursor is None or session.answered is None:
            return None
        if session.answered == session.cursor and session.cursor != EARLIEST:
            if session.cursor not in self.places:
                return None
            return bisect_left(wanted, self._begun_with(session, session.cursor) + 1)
        if session.answered != EARLIEST:
            return None
        return self._forgotten(session)

    def _forgotten(self, session: Session) -> Violation | None:
        """A cursor that was answered with ``earliest`` though it must have been in the history."""
        places = self.places.get(session.cursor or "")
        if not places or self._lately(Effect.REPLACES, session.opened, session.head):
            return None
        place = places[0]
        wants_events = any(self.log[index].is_event for index in self._wanted_by(session))
        if wants_events and self._discards(session.head, events=True):
            return None
        size = self.record.history_size
        # Only updates that come after it in the log count; what was stored after the answer may be too much.
        after = sum(
            1 for entry in self.log[place + 1 :] if not entry.is_event and self._was_sent(entry, session.head)
        )
        if size and after > size // 2:
            return None
        words = (
            f"{session.name} asked for what comes after {self._named(self.log[place])}, which the history "
            f"has, and was answered with {session.answered!r}"
        )
        return Violation(Invariant.FORGOTTEN, session.head, words, (), session.name)

    def _was_sent(self, entry: Entry, before: float) -> bool:
        publication = self.publication_of.get(entry.number)
        return publication is None or publication.sent < before

    def _first(self, session: Session, wanted: list[int], index: int) -> int:
        """Where a stream without a known cursor had to begin at the latest."""
        if session.answered == EARLIEST and session.cursor is not None:
            return 0
        for earlier in range(index):
            publication = self.publication_of.get(self.log[wanted[earlier]].number)
            if publication is not None and publication.sent > session.head:
                return earlier
        return index

    def _gap(self, session: Session, missing: list[int], next_: Entry, when: float) -> Violation:
        entries = [self.log[index] for index in missing]
        numbers = tuple(entry.number for entry in entries if entry.number >= 0)
        began = f"from {session.answered!r}" if session.answered else "without a cursor"
        words = (
            f"{session.name}, opened at {session.head:.2f} s {began}, lacks {len(missing)} updates before "
            f"{self._named(next_)}: {', '.join(map(self._named, entries[:5]))}{', ...' * (len(entries) > 5)}"
        )
        return Violation(Invariant.GAP, when, words, numbers[:5], session.name)

    def _stranger(self, session: Session, entry: Entry, when: float) -> Violation:
        wants = any(one.matches(topic) for one in session.matchers for topic in entry.topics)
        invariant = Invariant.LEAK if wants else Invariant.STRAY
        words = f"{session.name} got {self._named(entry)} with the topics {', '.join(entry.topics)}"
        return Violation(invariant, when, words, _known(entry.number), session.name)

    def _rest(self, session: Session, wanted: list[int], at: int | None) -> Iterator[Violation]:
        """An open stream has all of the log at the end."""
        settled = self.record.settled
        if session.end is not End.OPEN or settled == float("inf") or not session.is_prompt:
            return
        begin = at
        if begin is None:
            begin = next(
                (
                    index
                    for index, place in enumerate(wanted)
                    if (one := self.publication_of.get(self.log[place].number)) and one.sent > session.head
                ),
                len(wanted),
            )
        missing = [
            place
            for place in wanted[begin:]
            if (one := self.publication_of.get(self.log[place].number)) is not None
            and one.outcome is Outcome.STORED
            and one.done < settled - BOUND / 5
        ]
        if missing:
            entries = [self.log[place] for place in missing]
            numbers = tuple(entry.number for entry in entries[:5])
            words = (
                f"{session.name} is open since {session.head:.2f} s and lacks the last {len(missing)} "
                f"updates: {', '.join(map(self._named, entries[:5]))}"
            )
            yield Violation(Invariant.STUCK, settled, words, numbers, session.name)

    def _times(self, session: Session) -> Iterator[Violation]:
        if not session.is_prompt:
            return  # what it reads now may have been sent long ago
        excuse = Effect.STALLS | Effect.STARVES | Effect.CLOCK
        end = session.arrivals[-1] if session.arrivals else 0.0
        if end > session.expires + _CLOCKS and not self._lately(excuse, session.expires, end, session.node):
            words = (
                f"{session.name} got updates until {end:.2f} s; its token expired at {session.expires:.2f} s"
            )
            yield Violation(Invariant.EXPIRED, end, words, (), session.name)
        for (_, number), when in zip(session.received, session.arrivals, strict=True):
            publication = self.publication_of.get(number)
            if publication is None or publication.outcome is not Outcome.STORED:
                continue
            begin = max(publication.done, session.head)
            if when - begin > BOUND and publication.done > session.head:
                if not self._lately(
                    excuse | Effect.CUTS | Effect.AWAY | Effect.FAR, begin, when, session.node
                ):
                    words = f"{session.name} got update {number} {when - begin:.1f} s after its answer"
                    yield Violation(Invariant.LATE, when, words, (number,), session.name)
                return

    def _named(self, entry: Entry) -> str:
        if entry.number < 0:
            return f"an event of the hub (at {entry.sequence} of the log)"
        publication = self.publication_of.get(entry.number)
        sent = "" if publication is None else f", sent at {publication.sent:.2f} s"
        return f"update {entry.number} (at {entry.sequence} of the log{sent})"

    def endings(self) -> Iterator[Violation]:
        """A stream is ended for an update that it would lack only where one can be lacking."""
        excuse = Effect.STALLS | Effect.STARVES | Effect.REPLACES | Effect.CLOCK | Effect.REFUSES
        for look in self.record.looks:
            if look.incomplete and not self.record.during(excuse, 0.0, look.at, look.node):
                words = f"{look.incomplete} streams were ended by {look.at:.2f} s"
                yield Violation(Invariant.CUT, look.at, words)
                return

    # -- keys --------------------------------------------------------------------------------------

    def keys(self) -> Iterator[Violation]:
        since = {0: 0.0, **{one.key: one.at for one in self.record.rotations}}
        for trial in self.record.trials:
            if self._lately(Effect.STALLS | Effect.CLOCK, trial.at, trial.at, trial.node):
                continue
            replaced = since.get(trial.key + 1, float("inf"))
            is_open = 200 <= trial.status < 300
            if trial.flaw:
                if is_open:
                    words = f"a token that {trial.flaw} may {trial.role} at {trial.at:.2f} s"
                    yield Violation(Invariant.FLAWED, trial.at, words)
                continue
            if is_open and trial.at > replaced + BOUND:
                words = (
                    f"a token of key {trial.key}, which was replaced at {replaced:.2f} s, may {trial.role} "
                    f"at {trial.at:.2f} s"
                )
                yield Violation(Invariant.OLD_KEY, trial.at, words)
            since_when = since[trial.key] + (BOUND if trial.key else 0.0)
            if trial.status in (401, 403) and since_when < trial.at < replaced - _CLOCKS:
                words = f"a token of key {trial.key}, the current one, may not {trial.role}: {trial.status}"
                yield Violation(Invariant.NEW_KEY, trial.at, words)
        for session in self.record.sessions:
            replaced = since.get(session.key + 1, float("inf"))
            end = min(session.ended, self.record.settled)
            if (
                session.status == 200
                and session.is_prompt
                and session.head < replaced < end < float("inf")
                and end - replaced
                > BOUND + self.record.spent(Effect.STALLS | Effect.AWAY, replaced, end, session.node)
            ):
                words = (
                    f"{session.name} is open at {end:.2f} s with a token of key {session.key}, which was "
                    f"replaced at {replaced:.2f} s"
                )
                yield Violation(Invariant.OUTLIVES, replaced + BOUND, words, (), session.name)

    # -- health ------------------------------------------------------------------------------------

    def health(self) -> Iterator[Violation]:
        for node in sorted({look.node for look in self.record.looks}):
            yield from self._health(node)

    def _health(self, node: int) -> Iterator[Violation]:
        done = sorted(
            (
                one
                for one in self.record.publications
                if one.node == node
                and one.outcome in (Outcome.STORED, Outcome.REFUSED, Outcome.IN_DOUBT)
                and (one.status == 200 or one.status >= 500)
            ),
            key=lambda one: one.done,
        )
        spans: list[list[Publication]] = []
        for one in done:
            if not spans or (spans[-1][0].status == 200) != (one.status == 200):
                spans.append([])
            spans[-1].append(one)
        for span in spans:
            begin, end = span[0].done, span[-1].done
            if len(span) >= _FEW and end - begin > BOUND:
                yield from self._disagreement(begin, end, node, works=span[0].status == 200)

    def _disagreement(self, begin: float, end: float, node: int, *, works: bool) -> Iterator[Violation]:
        for look in self.record.looks:
            last = end if works else end - _CLOCKS  # else it may work again, and nobody has published yet
            if look.node != node or not begin + BOUND <= look.at <= last or look.status == 0:
                continue
            if self.record.is_shared and look.path == "/healthz":
                continue  # it tells of the process alone
            said = look.status == 200 if look.works is None else look.works
            # One that stood still, or was cut off, has to catch up first.
            excuse = Effect.STOPS | Effect.STALLS | Effect.AWAY
            if said == works or (works and self._lately(excuse, look.at, look.at, node)):
                continue
            every = "accepted" if works else "refused"
            what = f"{look.path} said {'yes' if said else 'no'}"
            words = (
                f"every publication was {every} from {begin:.2f} s to {end:.2f} s; {what} at {look.at:.2f} s"
            )
            yield Violation(Invariant.ALARM if works else Invariant.BLIND, look.at, words)

    # -- presence ----------------------------------------------------------------------------------

    def presence(self) -> Iterator[Violation]:
        if not self.record.has_presence:
            return
        seen: set[tuple[Invariant, str]] = set()
        for listing in self.record.listings:
            for violation in self._listing(listing):
                if (violation.invariant, violation.session) not in seen:
                    seen.add((violation.invariant, violation.session))
                    yield violation
        if not self.record.damaged:
            yield from self._events()

    def _listing(self, listing: Listing) -> Iterator[Violation]:
        troubles = ~Effect.NONE & ~Effect.CUTS & ~Effect.CLOCK & ~Effect.BUSY
        if listing.status != 200 or self._lately(troubles, listing.at, listing.at, listing.node):
            return
        listed = set(listing.sessions)
        for session in self.record.sessions:
            if session.status != 200 or not _is_named(session):
                continue
            if session.name in listed and listing.at > self._leaves(session, listing):
                words = f"{session.name} ended at {session.ended:.2f} s and is listed at {listing.at:.2f} s"
                yield Violation(Invariant.GHOST, listing.at, words + _by(listing), (), session.name)
            if (
                session.is_prompt  # a slow one is listed when it has read its history
                and session.name not in listed
                and session.head < listing.at - BOUND
                and session.ended > listing.at + 1
                and not self._lately(troubles, listing.at, listing.at, session.node)
            ):
                words = (
                    f"{session.name} is open since {session.head:.2f} s and not listed at {listing.at:.2f} s"
                )
                yield Violation(Invariant.ABSENT, listing.at, words + _by(listing), (), session.name)

    def _leaves(self, session: Session, listing: Listing) -> float:
        """When a session that has ended must not be listed any more."""
        bound = BOUND
        if session.is_silent_when_cut and session.end is End.NETWORK:
            bound = max(BOUND, 3 * self.record.heartbeat + 5)
        if not self.record.is_shared:
            return session.ended + bound
        troubles = Effect.KILLS | Effect.STOPS | Effect.STALLS | Effect.AWAY | Effect.FAR
        over = [
            min(deed.end, listing.at)
            for deed in self.record.deeds
            if deed.effect & troubles and deed.befalls(session.node) and deed.end > session.ended - LEASE
        ]
        died = [death.at for death in self.record.deaths if session.node in (ANY, death.node)]
        return max(session.ended + bound, *(at + _ADOPTED + _TOLERANCE for at in (*over, *died)), 0.0)

    def _events(self) -> Iterator[Violation]:
        begins: dict[str, int] = defaultdict(int)
        ends: dict[str, int] = defaultdict(int)
        paths: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for entry in self.log:
            if entry.session:
                (begins if entry.is_active else ends)[entry.session] += 1
                paths[entry.session][entry.topics[0]].append(entry.is_active)
        settled = self.record.settled
        for session in self.record.sessions:
            count = len(session.matchers)
            if not _is_named(session) or session.status != 200 or session.head > settled - BOUND:
                continue
            is_over = session.ended < settled - self._dealt_with(session) and not (
                session.is_silent_when_cut and session.end is End.NETWORK
            )
            begun, ended = begins[session.name], ends[session.name]
            if self.record.is_shared:
                # A node that lost its lease announces its sessions again, with other identities.
                said = [
                    active
                    for active in paths[session.name].values()
                    if active[:2] != [True, False][: len(active)]
                ]
                is_wrong = bool(said) or (is_over and begun != ended)
            else:
                is_wrong = begun not in (0, count) or ended > count or (is_over and begun != ended)
            if is_wrong:
                words = f"{session.name}: {begun} beginnings and {ended} ends for {count} matchers"
                yield Violation(Invariant.UNENDED, min(session.ended, settled), words, (), session.name)

    def _dealt_with(self, session: Session) -> float:
        """Seconds after which the end of a session is in the log."""
        troubles = Effect.KILLS | Effect.STOPS | Effect.STALLS | Effect.AWAY | Effect.FAR
        is_troubled = self.record.during(troubles, session.ended - LEASE, float("inf"), session.node) or any(
            death.at > session.ended - LEASE for death in self.record.deaths
        )
        return _ADOPTED + _TOLERANCE if self.record.is_shared and is_troubled else BOUND

    # -- nodes -------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Violation]:
        """What holds where several nodes share an engine."""
        if not self.record.is_shared:
            return
        for one in self.record.publications:
            if one.outcome is Outcome.STORED and one.node != ANY:
                yield from self._delayed(one)
        for look in self.record.looks:
            since = self._away_since(look)
            if look.path == "/readyz" and look.status == 200 and look.at - since > BOUND + 2 * _TOLERANCE:
                words = (
                    f"node {look.node} does not reach its engine since {since:.2f} s, and is ready at "
                    f"{look.at:.2f} s"
                )
                yield Violation(Invariant.READY, look.at, words)
        if self.record.damaged:
            yield from self._held()
        yield from self._one_order()

    def _one_order(self) -> Iterator[Violation]:
        """Sequences without gaps, and the same for all nodes."""
        record = self.record
        for before, after in pairwise(entry.sequence for entry in self.log):
            if after != before + 1:
                words = f"the log goes on with {after} after {before}"
                yield Violation(Invariant.GAPPED, record.finished, words)
                break
        if record.replayed is None or record.history_size:  # what is discarded meanwhile differs
            return
        for number, replayed in enumerate(record.elsewhere, 1):
            if replayed is not None and list(replayed) != list(record.replayed):
                words = f"node 0 replays {len(record.replayed)} updates, node {number} {len(replayed)}"
                words += " in another order" * (len(replayed) == len(record.replayed))
                yield Violation(Invariant.DISAGREE, record.finished, words)

    def _delayed(self, one: Publication) -> Iterator[Violation]:
        if one.attempts > 1:
            return
        took = one.done - one.sent
        troubles = ~Effect.NONE & ~Effect.CLOCK
        if (
            took > _PROMPT + self.record.spent(Effect.BUSY, one.sent, one.done)
            and not self.record.during(troubles, one.sent - SOON, one.done + _PROMPT, one.node)
            and self._others_are_troubled(one)
        ):
            numbers = tuple(update.number for update in one.updates)
            words = f"{_updates(numbers)} of {one.publisher} took {took:.1f} s on node {one.node}"
            yield Violation(Invariant.DELAYED, one.done, words, numbers)

    def _others_are_troubled(self, one: Publication) -> bool:
        return any(
            deed.happened
            and deed.node not in (ANY, one.node)
            and deed.begin <= one.done
            and one.sent <= deed.end
            for deed in self.record.deeds
        )

    def _away_since(self, look: Look) -> float:
        """Since when a node has not reached its engine, at the time of a look at its health."""
        return min(
            (
                deed.begin
                for deed in self.record.deeds
                if deed.effect & Effect.AWAY and deed.befalls(look.node) and deed.begin < look.at < deed.end
            ),
            default=look.at,
        )

    def _held(self) -> Iterator[Violation]:
        """Streams that got what was lost are ended, so that their clients learn of it."""
        for session in self.record.sessions:
            lost = next(
                (
                    when
                    for (id_, _), when in zip(session.received, session.arrivals, strict=True)
                    if id_ not in self.places
                ),
                None,
            )
            if lost is None or self._died(session.opened, self.record.damaged + BOUND, session.node):
                continue
            end = min(session.ended, self.record.settled, self.record.finished)
            if end > self.record.damaged + BOUND + _TOLERANCE:
                words = (
                    f"{session.name} had got what the log lost by {self.record.damaged:.2f} s, and was open "
                    f"until {end:.2f} s"
                )
                yield Violation(Invariant.HELD, end, words, (), session.name)

    # -- recovery ----------------------------------------------------------------------------------

    def recovery(self) -> Iterator[Violation]:
        record = self.record
        if record.ruin:
            yield Violation(Invariant.RUINED, record.finished, record.ruin)
        for death in record.deaths:
            # A store that cannot be opened may let a start fail, as long as there is another one.
            excuse = Effect.STARVES
            if death.is_restarted and not death.served:
                excuse |= Effect.REFUSES | Effect.REPLACES | Effect.AWAY
            if not self._lately(excuse, death.at, death.at, death.node):
                again = "" if death.is_restarted else ", and is not started again"
                words = f"a {death.what} ended with status {death.code}{again}"
                yield Violation(Invariant.CRASHED, death.at, words)
        if record.recovered > record.calm + self._patience():
            words = f"the faults were over at {record.calm:.2f} s; it works " + (
                f"again at {record.recovered:.2f} s" if record.recovered < float("inf") else "not any more"
            )
            yield Violation(Invariant.DOWN, record.calm + BOUND, words)
        if record.ruin or record.recovered == float("inf"):
            return
        yield from self._replay()
        yield from self._leftovers()

    def _patience(self) -> float:
        """Seconds that a recovery may take."""
        record = self.record
        if record.during(Effect.STALLS, record.calm, record.calm + BOUND):
            return 3 * BOUND
        starts = Effect.KILLS | Effect.STOPS | Effect.STALLS
        if record.is_shared and not record.during(starts, record.calm - BOUND, record.calm):
            return SOON + _TOLERANCE
        return BOUND

    def _replay(self) -> Iterator[Violation]:
        """The replay is what the log still held: all of it, or the end of it where the hub discards."""
        record = self.record
        if record.replayed is None:
            yield Violation(
                Invariant.REPLAY, record.finished, "after a kill -9 the history could not be read"
            )
            return
        got = [id_ for id_, _ in record.replayed]
        upto = self._last(got[-1]) if got and got[-1] in self.places else len(self.log) - 1
        log = self.log[: upto + 1]  # what was stored while the replay was read does not count
        for events in (False, True):
            ids = [entry.id for entry in log if entry.is_event is events]
            some = [id_ for id_ in got if self._is_event(id_) is events]
            begin = len(ids) - len(some) if self._discards(record.finished, events=events) else 0
            least = 0 if events or record.history_age else min(record.history_size, len(ids))
            if len(some) < least:
                words = f"the history has {len(some)} updates; {record.history_size} were to be kept"
                yield Violation(Invariant.REPLAY, record.finished, words)
            if begin < 0 or ids[begin:] != some:
                what = "events of the hub" if events else "updates"
                words = f"the log has {len(ids)} {what}, a replay from the beginning {len(some)}"
                yield Violation(Invariant.REPLAY, record.finished, words + self._first_break(ids, some))
        places = [self._last(id_) for id_ in got if id_ in self.places]
        if places != sorted(places):
            words = "a replay from the beginning has events of the hub and updates in another order"
            yield Violation(Invariant.REPLAY, record.finished, words)

    def _first_break(self, log: Sequence[str], replayed: Sequence[str]) -> str:
        """Where a replay does not go on as the log does, in words."""
        following = dict(pairwise(log))
        for before, after in pairwise(replayed):
            if following.get(before) != after:
                where = [
                    str(self.log[self._last(id_)].sequence) if id_ in self.places else id_
                    for id_ in (before, after)
                ]
                return f"; it goes on with {where[1]} after {where[0]}"
        return f"; it begins with {replayed[0]}" if replayed else ""

    def _is_event(self, id_: str) -> bool:
        return id_ in self.places and self.log[self._last(id_)].is_event

    def _last(self, id_: str) -> int:
        """The place that an update has in the history at the end."""
        return self.places[id_][-1]

    def _leftovers(self) -> Iterator[Violation]:
        before, after = self.record.before, self.record.after
        if before is None or after is None:
            return
        if self.record.during(Effect.KILLS | Effect.STOPS, 0.0, before.at):
            return  # the machine was so slow that the first look came too late
        said = []
        if after.processes > before.processes:
            said.append(f"{before.processes} processes, then {after.processes}")
        more = (after.descriptors - after.streams) - (before.descriptors - before.streams)
        if more > _MORE_DESCRIPTORS * max(before.processes, 1):
            said.append(
                f"{before.descriptors} descriptors with {before.streams} streams, then {after.descriptors} "
                f"with {after.streams}"
            )
        if after.threads > before.threads + _MORE_THREADS * max(before.processes, 1):
            said.append(f"{before.threads} threads, then {after.threads}")
        if after.memory > before.memory + _MORE_MEMORY * max(before.processes, 1):
            said.append(f"{before.memory >> 20} MiB, then {after.memory >> 20} MiB")
        if self.record.idle > _IDLE:
            said.append(f"{100 * self.record.idle:.0f} % of a core while nobody publishes")
        if new := set(after.files) - set(before.files):
            said.append(f"new files: {', '.join(sorted(new))}")
        if said:
            yield Violation(Invariant.LEFTOVER, after.at, "; ".join(said))


def _is_named(session: Session) -> bool:
    """Whether the hub shows the name of a session: the token's payload goes with matchers that it covers."""
    return all(ALL in session.grants or one in session.grants for one in session.matchers)


def _by(listing: Listing) -> str:
    return f" by node {listing.node}"


def _updates(numbers: tuple[int, ...]) -> str:
    return f"update {numbers[0]}" if len(numbers) == 1 else f"updates {numbers[0]} to {numbers[-1]}"


def _update(number: int, id_: str) -> str:
    return f"update {number}" if number >= 0 else f"the event {id_}"


def _known(number: int) -> tuple[int, ...]:
    return (number,) if number >= 0 else ()


def _places(stored: Sequence[list[Entry]]) -> str:
    return (
        "at " + ", ".join(str(entries[0].sequence) if entries else "-" for entries in stored) + " of the log"
    )
