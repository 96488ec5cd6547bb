# ruff: noqa: S105 - names of sections, no passwords
"""Where the documentation explains what the hub refuses and what else goes wrong.

Each value is an anchor of one page. It is part of the interface: problem documents and log lines name it,
people search for it, and a later page keeps it.
"""

from __future__ import annotations

from enum import StrEnum

PAGE = "docs/troubleshooting.md"
"""The page with the sections, as it stands in the repository."""

_TYPE = "urn:flask-mercure:problem:"


class Section(StrEnum):
    """An anchor of the page."""

    # What the hub refuses: in problem documents and in the log.
    TOKEN_MISSING = "token-missing"
    TOKEN_REFUSED = "token-refused"
    TOKEN_MALFORMED = "token-malformed"
    TOKEN_EXPIRED = "token-expired"
    TOKEN_NOT_YET_VALID = "token-not-yet-valid"
    TOKEN_CLAIMS = "token-claims"
    TOKEN_IN_URL = "token-in-url"
    SIGNATURE = "signature"
    ALGORITHM = "algorithm"
    ISSUER = "issuer"
    KEY_UNKNOWN = "key-unknown"
    AUDIENCE = "audience"
    GENERATION = "protocol-generation"
    SCOPE = "scope"
    CROSS_SITE = "cross-site"
    BAD_REQUEST = "bad-request"
    NOT_FOUND = "not-found"
    METHOD = "method-not-allowed"
    REQUEST_TIMEOUT = "request-timeout"
    TOO_LARGE = "content-too-large"
    MEDIA_TYPE = "media-type"
    MISDIRECTED = "misdirected"
    UPGRADE = "websocket-handshake"
    TOO_MANY = "too-many-connections"
    HEADER_TOO_LARGE = "header-too-large"
    STORAGE = "storage"
    DEFECT = "hub-failed"

    # What only the doctor sees, from outside.
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


REFUSALS = (
    *(Section.TOKEN_MISSING, Section.TOKEN_REFUSED, Section.TOKEN_MALFORMED, Section.TOKEN_EXPIRED),
    *(Section.TOKEN_NOT_YET_VALID, Section.TOKEN_CLAIMS, Section.TOKEN_IN_URL, Section.SIGNATURE),
    *(Section.ALGORITHM, Section.ISSUER, Section.KEY_UNKNOWN, Section.AUDIENCE, Section.GENERATION),
    *(Section.SCOPE, Section.CROSS_SITE),
)
"""The sections on refused tokens; such requests are counted by them."""


def reference(section: Section) -> str:
    """Where a person finds the section."""
    return f"{PAGE}#{section}"


def problem_type(section: Section) -> str:
    """The section as the ``type`` of a problem document (RFC 9457 section 3.1.1).

    A name and no address: a relative reference would lead to a path of the hub's own host, where nothing is.
    """
    return _TYPE + section
