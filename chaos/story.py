"""Tells of violations: what was done, what the hub answered, which update and which subscriber."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chaos.invariants import Violation
from chaos.plan import Plan
from chaos.record import End, Publication, Record, Session

_MOST = 3  # violations of one rule that are told
_UPDATES = 3  # updates of one violation whose way is told


def story(plan: Plan, record: Record, found: Sequence[Violation]) -> str:
    """A text for people: the plan, then each rule that did not hold with the steps that led there.

    :param found: what ``violations`` returned.
    """
    lines = plan.words()
    by_rule: dict[object, list[Violation]] = {}
    for violation in found:
        by_rule.setdefault(violation.invariant, []).append(violation)
    for violations in by_rule.values():
        first = violations[0]
        lines += ["", f"{first.invariant.name}: {first.invariant.value} ({len(violations)} times)"]
        for violation in violations[:_MOST]:
            lines += [f"  {violation.at:7.2f} s  {violation.words}"]
        lines.append("  how it came about:")
        lines += [f"  {at:7.2f} s  {words}" for at, words in sorted(_steps(record, first))]
    return "\n".join(lines)


def _steps(record: Record, violation: Violation) -> Iterator[tuple[float, str]]:
    """What happened before a violation and has to do with it."""
    for deed in record.deeds:
        if deed.begin <= violation.at:
            happened = "" if deed.happened else " (without effect)"
            yield deed.begin, f"{deed.words}{happened}; over at {deed.end:.2f} s"
    for death in record.deaths:
        if death.at <= violation.at:
            yield death.at, f"a {death.what} ends with status {death.code}"
    publications = {
        update.number: publication for publication in record.publications for update in publication.updates
    }
    told: list[Publication] = []
    for number in violation.numbers[:_UPDATES]:
        publication = publications.get(number)
        if publication is not None and publication not in told:
            told.append(publication)
            yield from _publication(number, publication)
    session = next((one for one in record.sessions if one.name == violation.session), None)
    if session is not None:
        yield from _session(session, violation)


def _publication(number: int, publication: Publication) -> Iterator[tuple[float, str]]:
    [update] = [one for one in publication.updates if one.number == number]
    kind = "private " if update.private else ""
    many = f" with {len(publication.updates) - 1} others" if len(publication.updates) > 1 else ""
    how = "a new connection" if publication.is_fresh else "a kept connection"
    yield (
        publication.sent,
        f"{publication.publisher} sends {kind}update {number}{many} to {' '.join(update.topics)} on {how}",
    )
    status = f" {publication.status}" if publication.status else ""
    yield (
        publication.done,
        f"update {number}: {publication.outcome.value}{status} {publication.detail}".rstrip(),
    )


def _session(session: Session, violation: Violation) -> Iterator[tuple[float, str]]:
    cursor = f"from {session.cursor}" if session.cursor else "without a cursor"
    matchers = " ".join(map(str, session.matchers))
    form = "WebSocket" if session.is_websocket else "stream"
    yield session.opened, f"{session.name} asks for {matchers}, {form}, {cursor}"
    if session.head:
        yield session.head, f"{session.name} is answered {session.status}, {_answered(session)}"
    before = [
        (at, number)
        for (_, number), at in zip(session.received, session.arrivals, strict=True)
        if at <= violation.at
    ]
    for at, number in before[-_UPDATES - 1 :]:
        yield at, f"{session.name} gets {_named(number)}"
    if session.end is not End.OPEN:
        yield session.ended, f"{session.name} is ended by the {session.end.value}"


def _answered(session: Session) -> str:
    return f"Mercure-Last-Event-ID: {session.answered}" if session.answered else "without a cursor"


def _named(number: int) -> str:
    return f"update {number}" if number >= 0 else "an event of the hub"


def summary(found: Iterable[Violation]) -> str:
    """The rules that did not hold, in one line."""
    names: dict[str, int] = {}
    for violation in found:
        names[violation.invariant.name] = names.get(violation.invariant.name, 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in names.items()) or "nothing"
