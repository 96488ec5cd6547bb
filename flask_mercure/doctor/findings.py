"""What a check has found, and the lines of configuration that mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mercure_hub.protocol.errors import Section


class Symptom(StrEnum):
    """What only the doctor sees, from outside; each value is an anchor of the troubleshooting page."""

    UNREACHABLE = "unreachable"
    NOT_A_HUB = "not-a-hub"
    REDIRECT = "redirect"
    PROXY_ERROR = "proxy-error"
    LOOPBACK = "loopback-url"
    CERTIFICATE = "certificate"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CLOCK = "clock"
    DIFFERENT_HUBS = "different-hubs"
    NOT_DELIVERED = "not-delivered"
    BUFFERING = "buffering"
    COMPRESSION = "compression"
    CUT = "stream-cut"
    CONNECTIONS = "connections"
    COOKIE_REFUSED = "cookie-refused"
    COOKIE_NAME = "cookie-name"
    COOKIE_LOST = "cookie-lost"
    HEADER_LOST = "authorization-lost"
    CORS = "cors"
    MIXED_CONTENT = "mixed-content"


class Level(StrEnum):
    """How bad it is; only a problem makes the command fail."""

    OK = "ok"
    NOTE = "note"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Remedy:
    """A line that mends it.

    :param where: whose configuration: ``app``, ``hub``, ``nginx``, ``Apache``, ``page`` or ``shell``.
    :param line: as it stands there.
    """

    where: str
    line: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check. It never holds a token or a key.

    :param check: what was checked, in one word.
    :param level: how bad it is.
    :param summary: what was found, with the values.
    :param remedies: lines of configuration. Of several, one is enough, unless the summary says otherwise.
    :param section: of the documentation.
    """

    check: str
    level: Level
    summary: str
    remedies: tuple[Remedy, ...] = ()
    section: Section | Symptom | None = None


def ok(check: str, summary: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, summary)


def note(check: str, summary: str, section: Section | Symptom | None = None, *remedies: Remedy) -> Finding:
    """Something to know."""
    return Finding(check, Level.NOTE, summary, remedies, section)


def skipped(check: str, summary: str) -> Finding:
    """Not checked, and why."""
    return Finding(check, Level.SKIPPED, summary)


def warning(check: str, summary: str, section: Section | Symptom, *remedies: Remedy) -> Finding:
    """It works here and now, and may fail elsewhere or later."""
    return Finding(check, Level.WARNING, summary, remedies, section)


def problem(check: str, summary: str, section: Section | Symptom, *remedies: Remedy) -> Finding:
    """It does not work."""
    return Finding(check, Level.PROBLEM, summary, remedies, section)


def app(line: str) -> Remedy:
    """A line of the app's configuration."""
    return Remedy("app", line)


def hub(line: str) -> Remedy:
    """A setting of the hub."""
    return Remedy("hub", line)


def nginx(line: str) -> Remedy:
    """A line in nginx's ``location`` of the hub."""
    return Remedy("nginx", line)


def apache(line: str) -> Remedy:
    """A line in Apache's ``Location`` of the hub."""
    return Remedy("Apache", line)
