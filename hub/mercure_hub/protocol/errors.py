# ruff: noqa: S105 - names of sections, no passwords
"""Everything that the hub refuses: one tree of exceptions, and the sections of the documentation on them.

    MercureError
    ├── InvalidRequest          400  the request breaks a rule of the protocol
    │   ├── NotFound            404
    │   ├── MethodNotAllowed    405
    │   ├── RequestTimeout      408
    │   ├── ContentTooLarge     413
    │   ├── UnsupportedMedia    415
    │   ├── Misdirected         421  the public URL is not one that this hub serves
    │   ├── UpgradeRequired     426  a WebSocket handshake that lacks something
    │   ├── TooManyRequests     429  a limit on connections is reached
    │   │   ├── TooManyPatterns
    │   │   └── TooManyRevocations
    │   └── HeaderTooLarge      431
    ├── AuthorizationError           what the token does not allow
    │   ├── TokenMissing        401
    │   ├── TokenInvalid        401  error="invalid_token"
    │   │   ├── KeyUnknown           its issuer may have the key by now
    │   │   └── TokenRevoked         it was valid, and was revoked
    │   ├── TokenMalformed      400  error="invalid_request"
    │   ├── InsufficientScope   403  error="insufficient_scope"
    │   └── CrossSite           403  a page of another site may not do this
    ├── StorageError            503
    │   ├── StorageAway              the engine cannot be reached now
    │   ├── StorageInDoubt           the update may be stored, or not
    │   └── StorageUnusable          needs an administrator; another start cannot help
    └── KeyMaterialError             a configured key cannot be used (never an HTTP answer)
        └── PassphraseError          its passphrase is missing, wrong or not needed

Only ``mercure_hub.protocol.http.error_answer`` maps them to HTTP answers.
"""

from __future__ import annotations

from enum import StrEnum

from mercure_hub import DOCUMENTATION

PAGE = f"{DOCUMENTATION}/troubleshooting.md"
"""The page that explains each section."""

_TYPE = "urn:flask-mercure:problem:"


class Section(StrEnum):
    """The sections that problem documents and log lines name; each value is an anchor of the page.

    The values are part of the interface: people search for them, and later versions keep them.
    """

    TOKEN_MISSING = "token-missing"
    TOKEN_REFUSED = "token-refused"
    TOKEN_MALFORMED = "token-malformed"
    TOKEN_EXPIRED = "token-expired"
    TOKEN_REVOKED = "token-revoked"
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
    TOO_MANY_PATTERNS = "too-many-patterns"
    TOO_MANY_REVOCATIONS = "too-many-revocations"
    HEADER_TOO_LARGE = "header-too-large"
    STORAGE = "storage"
    STORAGE_AWAY = "storage-away"
    STORAGE_IN_DOUBT = "storage-in-doubt"
    DEFECT = "hub-failed"


REFUSALS = (
    *(Section.TOKEN_MISSING, Section.TOKEN_REFUSED, Section.TOKEN_MALFORMED, Section.TOKEN_EXPIRED),
    *(
        Section.TOKEN_REVOKED,
        Section.TOKEN_NOT_YET_VALID,
        Section.TOKEN_CLAIMS,
        Section.TOKEN_IN_URL,
        Section.SIGNATURE,
    ),
    *(Section.ALGORITHM, Section.ISSUER, Section.KEY_UNKNOWN, Section.AUDIENCE, Section.GENERATION),
    *(Section.SCOPE, Section.CROSS_SITE),
)
"""The sections on refused tokens; the metrics count refused requests by them."""


def reference(section: StrEnum) -> str:
    """The URL of a section of the documentation."""
    return f"{PAGE}#{section}"


def problem_type(section: Section) -> str:
    """The section as the ``type`` of a problem document (RFC 9457 section 3.1.1).

    A URN, because a relative reference would lead to a path on the hub's own host, where there is nothing.
    """
    return _TYPE + section


class MercureError(Exception):
    """Base class of all errors that this package raises."""

    section = Section.DEFECT


class InvalidRequest(MercureError):
    """The request breaks a rule of the protocol.

    :param detail: what is wrong and what to do, for the client; never holds a secret.
    :param field: name of the parameter, form field or header that is wrong.
    """

    status = 400
    title = "Bad Request"
    section = Section.BAD_REQUEST

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class NotFound(InvalidRequest):
    """There is nothing at this path."""

    status = 404
    title = "Not Found"
    section = Section.NOT_FOUND


class MethodNotAllowed(InvalidRequest):
    """The resource exists, the method does not apply to it.

    :param allow: value of the ``Allow`` header.
    """

    status = 405
    title = "Method Not Allowed"
    section = Section.METHOD

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class RequestTimeout(InvalidRequest):
    """The request did not arrive in time."""

    status = 408
    title = "Request Timeout"
    section = Section.REQUEST_TIMEOUT


class ContentTooLarge(InvalidRequest):
    """Body, field or number of topics over the limit."""

    status = 413
    title = "Content Too Large"
    section = Section.TOO_LARGE


class UnsupportedMedia(InvalidRequest):
    """The body is not ``application/x-www-form-urlencoded``."""

    status = 415
    title = "Unsupported Media Type"
    section = Section.MEDIA_TYPE


class Misdirected(InvalidRequest):
    """The request is for a public URL that this hub does not serve."""

    status = 421
    title = "Misdirected Request"
    section = Section.MISDIRECTED


class UpgradeRequired(InvalidRequest):
    """A WebSocket handshake of another version, or one that lost its Upgrade field in a proxy."""

    status = 426
    title = "Upgrade Required"
    section = Section.UPGRADE


class TooManyRequests(InvalidRequest):
    """A limit on connections is reached.

    :param retry_after: seconds after which another attempt makes sense.
    """

    status = 429
    title = "Too Many Requests"
    section = Section.TOO_MANY

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooManyPatterns(TooManyRequests):
    """The hub holds as many patterns that need much memory as it may."""

    section = Section.TOO_MANY_PATTERNS


class TooManyRevocations(TooManyRequests):
    """The hub keeps as many revocations as it may."""

    section = Section.TOO_MANY_REVOCATIONS


class HeaderTooLarge(InvalidRequest):
    """Request line and headers are over the limit."""

    status = 431
    title = "Request Header Fields Too Large"
    section = Section.HEADER_TOO_LARGE


class AuthorizationError(MercureError):
    """The token is missing, not valid, or does not allow the operation.

    :param cause: the precise reason, for the hub's log. It never holds the token or a key. Only
        ``InsufficientScope`` and ``CrossSite`` show it to the client (spec, Error Responses).
    :param explained: section on this cause, for the log; the client gets that of the class.
    """

    status = 401
    code: str | None = None
    section = Section.TOKEN_REFUSED

    def __init__(self, cause: str, explained: Section | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.explained = explained or self.section


class TokenMissing(AuthorizationError):
    """No access token was presented and the operation requires one."""

    section = Section.TOKEN_MISSING


class TokenInvalid(AuthorizationError):
    """A token was presented and fails validation."""

    code = "invalid_token"


class KeyUnknown(TokenInvalid):
    """No known key has signed the token, but its issuer changes its keys and may have a newer one.

    :param issuer: the identifier of that issuer.
    """

    def __init__(self, cause: str, issuer: str, explained: Section | None = None) -> None:
        super().__init__(cause, explained)
        self.issuer = issuer


class TokenRevoked(TokenInvalid):
    """The token is valid but for a revocation. Its holder is told so."""

    section = Section.TOKEN_REVOKED


class TokenMalformed(AuthorizationError):
    """The token is presented in a way that cannot be read."""

    status = 400
    code = "invalid_request"
    section = Section.TOKEN_MALFORMED


class InsufficientScope(AuthorizationError):
    """The token is valid and does not allow this."""

    status = 403
    code = "insufficient_scope"
    section = Section.SCOPE


class CrossSite(AuthorizationError):
    """A page of another origin tried what only pages of known origins may do."""

    status = 403
    code = "insufficient_scope"
    section = Section.CROSS_SITE


class StorageError(MercureError):
    """The history of updates cannot be read or written.

    :param detail: what failed, for the hub's log: it names the database, but no credentials. The client does
        not see it.
    """

    section = Section.STORAGE

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class StorageAway(StorageError):
    """The engine cannot be reached, or serves nobody now; nothing was stored."""

    section = Section.STORAGE_AWAY


class StorageInDoubt(StorageError):
    """The engine did not answer: the updates may be stored, or not."""

    section = Section.STORAGE_IN_DOUBT


class StorageUnusable(StorageError):
    """The history cannot be opened, and another start will not change that: an administrator has to act."""


class KeyMaterialError(MercureError):
    """A configured key cannot be used; the message says why and what to do, never the key."""


class PassphraseError(KeyMaterialError):
    """The passphrase of a key is missing, wrong or not needed."""


def shown(value: object) -> str:
    """A value of unknown origin, for the log: on one line, and at most 200 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
