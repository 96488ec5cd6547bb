"""The judgement over a run: each rule sees its violation, and sees none in what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.invariants import BOUND, Invariant, violations
from chaos.record import (
    Death,
    Deed,
    Effect,
    End,
    Entry,
    Listing,
    Load,
    Look,
    Outcome,
    Publication,
    Record,
    Rotation,
    Session,
    Trial,
    Update,
)
from chaos.topics import ALL, Form, Matcher

ROOM = Matcher(Form.ROOM, "a")
A, B = "https://example.com/a/1", "https://example.com/b/1"


def entry(sequence: int, topic: str = A, *, private: bool = False, number: int | None = None) -> Entry:
    """An update of the log; its number is its sequence unless another one is given."""
    return Entry(sequence, f"id-{sequence}", (topic,), private, sequence if number is None else number)


def stored(number: int, sent: float, topic: str = A, *, private: bool = False) -> Publication:
    """A publication that was acknowledged a moment after it was sent."""
    return Publication(
        "p",
        (Update(number, (topic,), private),),
        sent,
        True,
        0,
        sent + 0.01,
        Outcome.STORED,
        200,
        (f"id-{number}",),
    )


def session(*numbers: int, cursor: str | None = None, answered: str | None = None) -> Session:
    """A stream that was opened at 1 s and got updates at the times of their numbers."""
    return Session(
        "s",
        "s.1",
        (ROOM,),
        (),
        cursor,
        0.9,
        0,
        status=200,
        head=1.0,
        answered=answered,
        received=[(f"id-{number}", number) for number in numbers],
        arrivals=[float(number) for number in numbers],
    )


def record(**changes: object) -> Record:
    """A run of five updates, sent at 1.1 s, 2 s and so on, that all went well."""
    log = [entry(number) for number in range(1, 6)]
    made = Record(
        publications=[stored(number, max(number - 0.5, 1.1)) for number in range(1, 6)],
        sessions=[session(1, 2, 3, 4, 5)],
        log=log,
        oldest=1,
        replayed=[(one.id, one.number) for one in log],
        calm=6.0,
        recovered=6.1,
        settled=7.0,
        finished=9.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def again(*numbers: int, cursor: str | None = None, answered: str | None = None) -> Record:
    """A run in which the history keeps four updates, and the second one was stored again as the sixth.

    :param numbers: what a stream got.
    """
    log = [*(entry(n) for n in range(1, 6)), replace(entry(6, number=2), id="id-2"), entry(7)]
    made = record(
        publications=[stored(number, max(number - 0.5, 1.1)) for number in (1, 2, 3, 4, 5, 7)],
        log=log,
        history_size=4,
        sessions=[replace(session(*numbers, cursor=cursor, answered=answered), ended=6.5, end=End.HUB)],
        replayed=[(one.id, one.number) for one in log[-4:]],
    )
    return changed(made, 1, attempts=2, done=5.6)


def mixed(**changes: object) -> Record:
    """A run with events of the hub in every other place of the log, sent before a stream was opened."""
    event = "/.well-known/mercure/subscriptions/exact/a/b"
    log = [
        entry(number, event, private=True, number=-1) if number % 2 else entry(number)
        for number in range(1, 7)
    ]
    made = record(
        publications=[stored(number, 0.1 * number) for number in (2, 4, 6)],
        sessions=[],
        log=log,
        replayed=[(one.id, one.number) for one in log],
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def watching(*ids: str, cursor: str = "unknown") -> Session:
    """A stream of everything, which was told that something may be missing before the first it got."""
    return replace(
        session(cursor=cursor, answered="earliest"),
        matchers=(ALL,),
        grants=(ALL,),
        received=[(one, 0) for one in ids],
        arrivals=[1.1] * len(ids),
    )


def rules(seen: Record) -> set[Invariant]:
    """The rules that a run broke."""
    return {violation.invariant for violation in violations(seen)}


def changed(seen: Record, index: int, **changes: object) -> Record:
    """A run with one publication changed."""
    publications = list(seen.publications)
    publications[index] = replace(publications[index], **changes)  # type: ignore[arg-type]
    return replace(seen, publications=publications)


def deed(effect: Effect, begin: float, end: float) -> Deed:
    """A fault."""
    return Deed("FAULT", begin, end, effect, "a fault")


def test_a_run_that_went_well_breaks_no_rule() -> None:
    assert violations(record()) == []


LONG = [stored(number, number / 2, B) for number in range(1, 41)]
"""Twenty seconds of publications, two each second, outside of the room."""


def long_run(**changes: object) -> Record:
    """Twenty seconds of updates that nobody listens to."""
    log = [entry(number, B) for number in range(1, 41)]
    replayed = [(one.id, one.number) for one in log]
    return record(publications=LONG, log=log, replayed=replayed, sessions=[], **changes)


def refused_run(**changes: object) -> Record:
    """Twenty seconds in which every publication is refused."""
    refused = [replace(one, outcome=Outcome.REFUSED, status=503, ids=()) for one in LONG]
    return record(publications=refused, log=[entry(99)], replayed=[("id-99", 99)], sessions=[], **changes)


def listed(*names: str, **changes: object) -> Record:
    """A run with presence on, and a list of who is there at 30 s."""
    present = replace(session(1, 2, 3, 4, 5), grants=(ALL,))
    return record(
        has_presence=True,
        sessions=[replace(present, **changes)],  # type: ignore[arg-type]
        listings=[Listing(30.0, 200, names)],
    )


def shared(**changes: object) -> Record:
    """The run of five updates on two nodes, of which node 1 was in trouble from 2 s to 4 s."""
    trouble = replace(deed(Effect.AWAY, 2.0, 4.0), node=1)
    return replace(record(deeds=[trouble]), is_shared=True, **changes)  # type: ignore[arg-type]


def adopted(*names: str, at: float, **changes: object) -> Record:
    """A list of node 0, after node 1 was killed at 6 s; the session was on node 1."""
    seen = listed(**changes)
    killed = replace(deed(Effect.KILLS, 6.0, 6.1), node=1)
    return replace(
        seen,
        sessions=[replace(seen.sessions[0], node=1, end=End.HUB)],
        listings=[Listing(at, 200, names)],
        deeds=[killed],
        is_shared=True,
    )


def announced(*events: tuple[str, bool], **changes: object) -> Record:
    """A session that ended at 6.5 s, with events for subscriptions of it."""
    log = [
        *(entry(n) for n in range(1, 6)),
        *(
            Entry(6 + number, f"e-{number}", (path,), True, -1, "s.1", active)
            for number, (path, active) in enumerate(events)
        ),
    ]
    seen = replace(listed(ended=6.5, end=End.HUB), log=log, settled=60.0, is_shared=True)
    return replace(seen, replayed=[(one.id, one.number) for one in log], listings=[], **changes)  # type: ignore[arg-type]


BROKEN: dict[str, tuple[Invariant, Callable[[], Record]]] = {
    "an acknowledged update is missing": (
        Invariant.LOST,
        lambda: record(log=[entry(n) for n in (1, 2, 3, 4)], sessions=[]),
    ),
    "the answer names another id": (Invariant.LOST, lambda: changed(record(), 1, ids=("id-9",))),
    "an update is stored twice": (
        Invariant.DOUBLED,
        lambda: record(log=[*(entry(n) for n in range(1, 6)), entry(6, number=2)]),
    ),
    "an update that was published again is stored twice": (
        Invariant.DOUBLED,
        lambda: changed(record(log=[*(entry(n) for n in range(1, 6)), entry(6, number=2)]), 1, attempts=2),
    ),
    "a stream lacks what lies between two publications of an update": (
        Invariant.GAP,
        lambda: again(1, 2, 3, 5, 2, 7),
    ),
    "a stream repeats an update that is stored twice": (
        Invariant.REPEATED,
        lambda: again(1, 2, 3, 4, 5, 2, 2),
    ),
    "an update that was published again is not stored": (
        Invariant.LOST,
        lambda: changed(record(log=[entry(n) for n in (1, 3, 4, 5)], sessions=[]), 1, attempts=2),
    ),
    "a refused update is stored": (
        Invariant.PHANTOM,
        lambda: changed(record(), 1, outcome=Outcome.REFUSED, status=503),
    ),
    "an update is stored and unanswered": (
        Invariant.UNTOLD,
        lambda: changed(record(), 1, outcome=Outcome.UNANSWERED, status=0, ids=()),
    ),
    "a request on a new connection is dropped": (
        Invariant.DROPPED,
        lambda: changed(
            record(log=[entry(n) for n in (1, 3, 4, 5)], sessions=[]),
            1,
            outcome=Outcome.UNANSWERED,
            ids=(),
        ),
    ),
    "an answer takes too long": (Invariant.SLOW, lambda: changed(record(), 4, done=4.5 + BOUND + 1)),
    "half of a batch is stored": (
        Invariant.TORN,
        lambda: changed(
            record(), 4, updates=(Update(5, (A,), False), Update(7, (A,), False)), outcome=Outcome.CUT
        ),
    ),
    "a later answer comes earlier in the log": (
        Invariant.REORDERED,
        lambda: changed(changed(record(), 1, sent=4.8, done=4.9), 4, sent=5.5, done=5.6),
    ),
    "a stream lacks an update": (Invariant.GAP, lambda: record(sessions=[session(1, 2, 4, 5)])),
    "a replay begins too late": (
        Invariant.GAP,
        lambda: record(sessions=[session(4, 5, cursor="id-2", answered="id-2")]),
    ),
    "a replay of everything begins too late": (
        Invariant.GAP,
        lambda: record(sessions=[session(4, 5, cursor="id-99", answered="earliest")]),
    ),
    "a new stream begins after what was sent later": (
        Invariant.GAP,
        lambda: record(sessions=[session(3, 4, 5)]),
    ),
    "a stream repeats an update": (Invariant.REPEATED, lambda: record(sessions=[session(1, 2, 2, 3, 4, 5)])),
    "a stream has what is not in the log": (
        Invariant.UNSTORED,
        lambda: record(sessions=[session(1, 2, 3, 4, 5, 6)]),
    ),
    "a stream has another room's update": (
        Invariant.STRAY,
        lambda: record(log=[*(entry(n) for n in (1, 2)), entry(3, B), entry(4), entry(5)]),
    ),
    "a stream has a private update of others": (
        Invariant.LEAK,
        lambda: record(log=[*(entry(n) for n in (1, 2)), entry(3, private=True), entry(4), entry(5)]),
    ),
    "an update comes after the token's end": (
        Invariant.EXPIRED,
        lambda: record(sessions=[replace(session(1, 2, 3, 4, 5), expires=2.0)]),
    ),
    "a cursor that is there is unknown": (
        Invariant.FORGOTTEN,
        lambda: record(sessions=[session(1, 2, 3, 4, 5, cursor="id-3", answered="earliest")]),
    ),
    "the last update does not come": (Invariant.STUCK, lambda: record(sessions=[session(1, 2, 3)])),
    "an update comes late": (
        Invariant.LATE,
        lambda: record(
            sessions=[replace(session(1, 2, 3, 4, 5), arrivals=[1.0, 2.0, 3.0, 4.0, 5.0 + BOUND + 1])]
        ),
    ),
    "a key that was taken away publishes": (
        Invariant.OLD_KEY,
        lambda: record(rotations=[Rotation(2.0, 1)], trials=[Trial(13.0, 0, "publish", 200)]),
    ),
    "a token that is expired publishes": (
        Invariant.FLAWED,
        lambda: record(trials=[Trial(3.0, 0, "publish", 200, "is expired")]),
    ),
    "streams are ended without a reason": (
        Invariant.CUT,
        lambda: record(looks=[Look(3.0, "/metrics", 200, works=True, incomplete=2)]),
    ),
    "events are missing between others": (
        Invariant.GAP,
        lambda: mixed(history_size=2, sessions=[watching("id-1", "id-5", "id-6")]),
    ),
    "events are gone too early": (
        Invariant.GAP,
        lambda: mixed(sessions=[watching("id-2", "id-4", "id-5", "id-6")]),
    ),
    "events push out updates": (
        Invariant.REPLAY,
        lambda: mixed(history_size=3, replayed=[(f"id-{n}", n) for n in (3, 4, 5, 6)]),
    ),
    "a replay has another order": (
        Invariant.REPLAY,
        lambda: mixed(replayed=[(f"id-{n}", n) for n in (2, 1, 3, 4, 5, 6)]),
    ),
    "a cursor is forgotten for events that came after it": (
        Invariant.FORGOTTEN,
        lambda: mixed(history_size=2, sessions=[watching("id-6", cursor="id-4")]),
    ),
    "the history is shorter than it has to be": (
        Invariant.REPLAY,
        lambda: record(history_size=4, replayed=[(f"id-{n}", n) for n in (3, 4, 5)], oldest=3),
    ),
    "the current key is refused": (
        Invariant.NEW_KEY,
        lambda: record(rotations=[Rotation(2.0, 1)], trials=[Trial(13.0, 1, "publish", 401)]),
    ),
    "a stream outlives its key": (
        Invariant.OUTLIVES,
        lambda: record(rotations=[Rotation(2.0, 1)], settled=20.0),
    ),
    "a stream outlives its key, though the process was stopped": (
        Invariant.OUTLIVES,
        lambda: record(rotations=[Rotation(2.0, 1)], settled=40.0, deeds=[deed(Effect.STALLS, 3.0, 19.0)]),
    ),
    "health is well while all is refused": (
        Invariant.BLIND,
        lambda: refused_run(looks=[Look(15.0, "/healthz", 200)]),
    ),
    "metrics are well while all is refused": (
        Invariant.BLIND,
        lambda: refused_run(looks=[Look(15.0, "/metrics", 200, works=True)]),
    ),
    "health is bad while all succeeds": (
        Invariant.ALARM,
        lambda: long_run(looks=[Look(15.0, "/readyz", 503)]),
    ),
    "who left is listed": (Invariant.GHOST, lambda: listed("s.1", ended=6.5, end=End.CLIENT)),
    "who is there is not listed": (Invariant.ABSENT, listed),
    "an end is told without a beginning": (
        Invariant.UNENDED,
        lambda: replace(
            listed(ended=6.5, end=End.CLIENT),
            log=[*(entry(n) for n in range(1, 6)), Entry(6, "e", ("x",), True, -1, "s.1", False)],
            settled=40.0,
        ),
    ),
    "it does not recover": (Invariant.DOWN, lambda: record(recovered=float("inf"), settled=float("inf"))),
    "a process dies": (Invariant.CRASHED, lambda: record(deaths=[Death(3.0, "worker", -11, True)])),
    "the log is ruined": (Invariant.RUINED, lambda: record(ruin="malformed")),
    "a replay lacks an update": (Invariant.REPLAY, lambda: record(replayed=[("id-1", 1), ("id-5", 5)])),
    "it is never idle": (
        Invariant.LEFTOVER,
        lambda: record(before=Load(1.0, 1, 0, 20, 3, ()), after=Load(7.0, 1, 0, 20, 3, ()), idle=0.9),
    ),
    "descriptors stay open": (
        Invariant.LEFTOVER,
        lambda: record(before=Load(1.0, 1, 0, 20, 3, (), 10), after=Load(7.0, 1, 0, 60, 3, (), 10)),
    ),
    "the trouble of another node delays": (
        Invariant.DELAYED,
        lambda: changed(shared(), 2, done=4.0),
    ),
    "a node without its engine is ready": (
        Invariant.READY,
        lambda: shared(
            deeds=[replace(deed(Effect.AWAY, 2.0, 20.0), node=1)],
            looks=[Look(17.0, "/readyz", 200, node=1)],
        ),
    ),
    "a stream goes on after its updates were lost": (
        Invariant.HELD,
        lambda: shared(
            damaged=4.0,
            deeds=[deed(Effect.REPLACES | Effect.AWAY, 3.0, 4.0)],
            sessions=[session(1, 2, 77)],
            settled=30.0,
            finished=40.0,
        ),
    ),
    "two nodes replay differently": (
        Invariant.DISAGREE,
        lambda: shared(elsewhere=[[(f"id-{n}", n) for n in (1, 3, 2, 4, 5)]]),
    ),
    "a sequence is left out": (
        Invariant.GAPPED,
        lambda: shared(
            log=[*(entry(n) for n in range(1, 5)), replace(entry(6, number=5), id="id-5")],
        ),
    ),
    "a dead node's subscriptions are listed after its lease": (
        Invariant.GHOST,
        lambda: adopted("s.1", at=30.0, ended=6.1),
    ),
    "a subscription is ended twice": (
        Invariant.UNENDED,
        lambda: announced(("/a", True), ("/a", False), ("/a", False)),
    ),
    "a subscription that is announced again is not ended": (
        Invariant.UNENDED,
        lambda: announced(("/a", True), ("/a", False), ("/b", True)),
    ),
    "a node recovers too slowly": (Invariant.DOWN, lambda: shared(calm=10.0, recovered=18.0)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_violation_is_seen(what: str) -> None:
    rule, seen = BROKEN[what]
    assert rule in rules(seen())


ALLOWED: dict[str, Callable[[], Record]] = {
    "a stream outlives its key while the process is stopped": lambda: record(
        rotations=[Rotation(2.0, 1)], settled=20.0, deeds=[deed(Effect.STALLS, 3.0, 19.0)]
    ),
    "unanswered when the process is killed": lambda: changed(
        record(deeds=[deed(Effect.KILLS, 1.4, 1.6)]), 1, outcome=Outcome.UNANSWERED, ids=()
    ),
    "unanswered when the network is cut": lambda: changed(record(), 1, outcome=Outcome.CUT, ids=()),
    "published again until it is refused, and stored by the first attempt": lambda: changed(
        record(), 1, attempts=3, outcome=Outcome.UNANSWERED, ids=(), done=2.0
    ),
    "discarded before it is published again": lambda: changed(
        record(log=[*(entry(n) for n in range(1, 6)), entry(6, number=2)], history_size=4, sessions=[]),
        1,
        attempts=2,
    ),
    "discarded before it is published again, and a stream has it twice": lambda: again(1, 2, 3, 4, 5, 2),
    "the same, and a stream begins with the later one": lambda: again(2, 7, cursor="id-5", answered="id-5"),
    "the same, and a stream resumes after the earlier one": lambda: again(
        3, 4, 5, 2, 7, cursor="id-2", answered="id-2"
    ),
    "the same, and a stream resumes after the later one": lambda: again(7, cursor="id-2", answered="id-2"),
    "published again after seconds": lambda: changed(record(), 4, attempts=9, done=4.5 + BOUND + 1),
    "in doubt and stored": lambda: changed(record(), 1, outcome=Outcome.IN_DOUBT, status=503, ids=()),
    "a kept connection is closed before the request is read": lambda: changed(
        record(
            log=[entry(n) for n in (1, 3, 4, 5)], sessions=[], replayed=[(f"id-{n}", n) for n in (1, 3, 4, 5)]
        ),
        1,
        outcome=Outcome.UNANSWERED,
        is_fresh=False,
        ids=(),
    ),
    "slow while the process is stopped": lambda: changed(
        record(deeds=[deed(Effect.STALLS, 4.0, 15.0)]), 4, done=15.5
    ),
    "a stream that ended lacks the rest": lambda: record(
        sessions=[replace(session(1, 2), ended=2.5, end=End.HUB)]
    ),
    "updates are gone and events of before are not": lambda: mixed(
        history_size=2, sessions=[watching("id-1", "id-3", "id-5", "id-6")]
    ),
    "events are gone after a jump of the clock and updates are not": lambda: mixed(
        sessions=[watching("id-2", "id-4", "id-5", "id-6")],
        replayed=[(one, 0) for one in ("id-2", "id-4", "id-5", "id-6")],
        deeds=[deed(Effect.CLOCK, 0.1, 0.5)],
    ),
    "a replay from a cursor": lambda: record(sessions=[session(3, 4, 5, cursor="id-2", answered="id-2")]),
    "the client is told that its cursor is gone": lambda: record(
        history_size=2,
        sessions=[replace(session(4, 5, cursor="id-1", answered="earliest"), head=3.7)],
        oldest=4,
    ),
    "what was lost before the damage": lambda: record(
        damaged=9.0,
        log=[entry(1)],
        sessions=[],
        replayed=[("id-1", 1)],
        deeds=[deed(Effect.REPLACES, 9.0, 9.5)],
    ),
    "streams are ended for the updates of a process that stood still": lambda: record(
        looks=[Look(3.0, "/metrics", 200, works=True, incomplete=2)], deeds=[deed(Effect.STALLS, 1.5, 2.5)]
    ),
    "a token that is expired is refused": lambda: record(
        trials=[Trial(3.0, 0, "publish", 401, "is expired")]
    ),
    "an old key within the bound": lambda: record(
        rotations=[Rotation(2.0, 1)], trials=[Trial(11.0, 0, "publish", 200)]
    ),
    "a start fails while the store cannot be opened": lambda: record(
        deaths=[Death(3.0, "main process", 1, True, served=False)], deeds=[deed(Effect.REFUSES, 2.0, 3.5)]
    ),
    "a node cannot start while its engine is away": lambda: record(
        deaths=[Death(3.0, "main process", 1, True, served=False)], deeds=[deed(Effect.AWAY, 2.0, 3.5)]
    ),
    "health follows after a while": lambda: refused_run(looks=[Look(9.0, "/healthz", 200)]),
    "a peer that vanished is listed for some heartbeats": lambda: listed(
        "s.1", ended=6.5, end=End.NETWORK, is_silent_when_cut=True
    ),
    "a token without a name": lambda: replace(
        listed(), sessions=[replace(session(1, 2, 3, 4, 5), grants=())]
    ),
    "a publication to a node in trouble takes long": lambda: replace(
        shared(), publications=[replace(one, node=1) for one in changed(shared(), 2, done=4.0).publications]
    ),
    "the machine is busy while another node is in trouble": lambda: changed(
        shared(
            deeds=[replace(deed(Effect.AWAY, 2.0, 4.0), node=1), deed(Effect.BUSY, 3.0, 3.3)],
        ),
        2,
        done=4.0,
    ),
    "a node becomes unready in time": lambda: shared(
        deeds=[replace(deed(Effect.AWAY, 2.0, 20.0), node=1)],
        looks=[Look(11.0, "/readyz", 200, node=1), Look(15.0, "/readyz", 200, node=0)],
    ),
    "a stream is ended after its updates were lost": lambda: shared(
        damaged=4.0,
        deeds=[deed(Effect.REPLACES | Effect.AWAY, 3.0, 4.0)],
        sessions=[replace(session(1, 2, 77), ended=6.0, end=End.HUB)],
        settled=30.0,
    ),
    "a dead node's subscriptions are listed until its lease ends": lambda: adopted("s.1", at=25.0, ended=6.1),
    "a node announces a subscription again": lambda: announced(
        ("/a", True), ("/b", True), ("/a", False), ("/b", False)
    ),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_is_allowed_is_no_violation(what: str) -> None:
    assert violations(ALLOWED[what]()) == []


def test_each_rule_has_a_case() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(Invariant)
