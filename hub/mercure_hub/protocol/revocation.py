"""Revocation: tokens that are refused before they end (an extension of this hub, docs/protocol.md).

A revocation names tokens by a claim of theirs: their user (``sub``), their session (``sid``), or themselves
(``jti``). A claim counts for one issuer only. What is stored and compared is a digest of it, which takes the
same space however long the claim is, and tells nobody who was signed out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.tokens.claims import REVOCABLE
from mercure_hub.protocol.topics import forbidden_character

if TYPE_CHECKING:  # it needs compiled packages; commands do without them
    from mercure_hub.protocol.tokens.grant import Grant

REVOCATION_METADATA = "flask_mercure_revocations"
"""Member of the metadata document (RFC 9728) that tells the URL to post to."""

LIFETIME = 30 * 86400.0
"""Seconds for which a revocation is kept if nobody says how long its tokens may live."""

MAX_LIFETIME = 366 * 86400.0
"""Seconds for which it can be kept."""

MAX_AHEAD = 86400.0
"""Seconds by which ``before`` may be in the future: by how much the clock of an application may be fast."""

MAX_REVOCATIONS = 100_000
"""How many a hub keeps."""

MAX_TOPICS = 100
"""Topics that are revoked of one user, one by one; beyond them all of the user's tokens are refused."""

_MAX_NAMES = 100
_BETWEEN_PAUSES = 2000  # names that are looked at
_MAX_TOPIC = 2048
_ALWAYS = 2.0**53  # later than any iat
_FIELDS = frozenset((*REVOCABLE, "topic", "before", "lifetime"))


def digest_of(claim: str, issuer: str, value: str) -> bytes:
    """What stands for a claim of the tokens of an issuer.

    :param claim: ``sub``, ``sid`` or ``jti``.
    :param issuer: identifier of the issuer.
    :param value: of the claim.
    """
    text = f"{claim} {issuer}\0{value}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Revocation:
    """Some tokens that are refused.

    :param name: digest of the claim that they have.
    :param topic: which they grant; empty: whatever they grant.
    :param before: they were issued before this time, in seconds since the epoch.
    :param until: when the last of them has ended, likewise.
    """

    name: bytes
    topic: str
    before: float
    until: float

    @property
    def key(self) -> bytes:
        """What it is stored under: a topic is too long for some indexes."""
        if not self.topic:
            return self.name
        return blake2b(self.name + self.topic.encode(), digest_size=16).digest()

    def joined(self, other: Revocation) -> Revocation:
        """One that refuses what either of two does, of the same name and topic."""
        return Revocation(self.name, self.topic, max(self.before, other.before), max(self.until, other.until))


class RevocationList:
    """The revocations that a process knows of.

    To look a token up takes the same time, however many there are.
    """

    def __init__(self) -> None:
        self._by_name: dict[bytes, dict[str, Revocation]] = {}
        self._count = 0
        self._spared: Grant | None = None  # the last one that is not refused: a new stream asks three times

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Revocation]:
        return (one for some in self._by_name.values() for one in some.values())

    def __contains__(self, one: Revocation) -> bool:
        """Whether there is one of the same name and topic."""
        return one.topic in self._by_name.get(one.name, _NONE)

    def topics_of(self, name: bytes) -> int:
        """How many topics of a user are revoked one by one."""
        return sum(bool(topic) for topic in self._by_name.get(name, ()))

    def add(self, revocations: Iterable[Revocation]) -> bool:
        """Add some, joined with those of the same name and topic.

        :returns: whether more is refused than before.
        """
        is_new = False
        self._spared = None
        for one in revocations:
            some = self._by_name.setdefault(one.name, {})
            known = some.get(one.topic)
            self._count += known is None
            some[one.topic] = joined = one if known is None else known.joined(one)
            is_new = is_new or known is None or joined.before > known.before
        return is_new

    def prune(self, now: float) -> Iterator[None]:
        """Forget those whose tokens have all ended.

        :param now: seconds since the epoch.
        :returns: an iterator to exhaust; each step is a pause, in which others may be added.
        """
        for number, name in enumerate(list(self._by_name), 1):
            some = self._by_name.get(name, {})
            for topic in [topic for topic, one in some.items() if one.until < now]:
                del some[topic]
                self._count -= 1
            if not some:
                self._by_name.pop(name, None)
            if number % _BETWEEN_PAUSES == 0:
                yield

    def refuses(self, grant: Grant) -> bool:
        """Whether the token of a grant is revoked."""
        if not self._by_name:
            return False
        if grant is self._spared:
            return False
        for claim in REVOCABLE:
            value: str = getattr(grant, claim)
            if not value:
                continue
            for topic, one in self._by_name.get(digest_of(claim, grant.issuer, value), _NONE).items():
                if grant.issued_at < one.before and (not topic or grant.names(topic)):
                    return True
        self._spared = grant
        return False


_NONE: dict[str, Revocation] = {}


def from_form(fields: Pairs, issuer: str, now: float) -> tuple[Revocation, ...]:
    """The revocations that a request asks for.

    :param fields: of the form.
    :param issuer: of the token that the request has: it can revoke tokens of the same issuer only.
    :param now: seconds since the epoch.
    :raises InvalidRequest: a field is missing, unknown or wrong.
    """
    for name, _ in fields:
        if name not in _FIELDS:
            # A misspelt topic must not revoke everything of a user.
            raise InvalidRequest(f"There is no field {name[:40]!r}; there are {', '.join(sorted(_FIELDS))}.")
    claims = [(name, value) for name, value in fields if name in REVOCABLE]
    if not claims:
        raise InvalidRequest("Nothing to revoke: name a user (sub), a session (sid) or a token (jti).", "sub")
    topics = [_topic(value) for name, value in fields if name == "topic"]
    if len(claims) * max(len(topics), 1) > _MAX_NAMES:
        raise ContentTooLarge(
            f"More than {_MAX_NAMES} users, sessions, tokens and topics in one request.", "sub"
        )
    until = now + _number(fields, "lifetime", LIFETIME, 1.0, MAX_LIFETIME)
    before = _number(fields, "before", now, 0.0, now + MAX_AHEAD)
    users_only = next((name for name, _ in fields if name in ("topic", "before")), None)
    found: list[Revocation] = []
    for claim, value in claims:
        if not value:
            raise InvalidRequest(f"{claim} is empty.", claim)
        if claim != "sub" and users_only is not None:
            raise InvalidRequest(f"{users_only} belongs to sub; {claim} names tokens by itself.", users_only)
        digest = digest_of(claim, issuer, value)
        limit = before if claim == "sub" else _ALWAYS
        found += [Revocation(digest, topic, limit, until) for topic in topics or [""]]
    return tuple(found)


def bounded(revocations: Sequence[Revocation], known: RevocationList) -> tuple[Revocation, ...]:
    """What is to be stored: each key once, and all tokens of a user where there would be too many topics.

    :param known: the revocations that there are.
    """
    topics: dict[bytes, set[str]] = {}
    for one in revocations:
        topics.setdefault(one.name, set()).add(one.topic)
    unique = RevocationList()
    for one in revocations:
        is_much = known.topics_of(one.name) + len(topics[one.name]) > MAX_TOPICS
        unique.add([Revocation(one.name, "", one.before, one.until) if is_much else one])
    return tuple(unique)


def _topic(value: str) -> str:
    if not value or len(value) > _MAX_TOPIC or forbidden_character(value):
        raise InvalidRequest(
            f"A topic is empty, over {_MAX_TOPIC} characters, or holds a control or format character.",
            "topic",
        )
    return value


def _number(fields: Pairs, name: str, default: float, least: float, most: float) -> float:
    values = [value for field, value in fields if field == name]
    if not values:
        return default
    try:
        number = float(values[0])
    except ValueError:
        number = math.nan
    if len(values) > 1 or not least <= number <= most or not values[0].isascii():
        shown = ", ".join(value[:40] for value in values[:2])
        raise InvalidRequest(
            f"{name} is {shown!r}; give one number of seconds, from {least:.0f} to {most:.0f}.", name
        )
    return number
