"""What the hub's answer to a publication means, and what a missing answer means.

Spec, Publication and Error Responses.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import responses
from typing import Protocol
from urllib.parse import urlsplit

from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

from flask_mercure.client.connection import describe, has_timed_out
from flask_mercure.client.session import Reply
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import HubUnreachable, PublishError
from mercure_hub.protocol.errors import Section, problem_type
from mercure_hub.protocol.topics import forbidden_character

_MAX_ID = 2048
_AWAY, _IN_DOUBT = problem_type(Section.STORAGE_AWAY), problem_type(Section.STORAGE_IN_DOUBT)


class _Headers(Protocol):
    def get(self, name: str, default: str, /) -> str: ...


class _HasHeaders(Protocol):
    @property
    def headers(self) -> _Headers: ...


_CHALLENGE = re.compile(r"(?:^|,)\s*bearer\b", re.IGNORECASE)
_ERROR_CODE = re.compile(r'\berror="([a-z_]+)"')


def published_id(reply: Reply, configuration: Configuration) -> str:
    """The id in the answer.

    :raises PublishError: this is not the answer of a hub that published.
    """
    _check_status(reply, configuration)
    body, media_type = reply.body, _media_type(reply.headers)
    text = body.decode("utf-8", "replace").strip()
    if (
        media_type not in ("", "text/plain")
        or not 0 < len(text) <= _MAX_ID
        or forbidden_character(text)
        or "\ufffd" in text
        or text.startswith(("<", "{"))
    ):
        raise PublishError(
            f"{configuration.url} ({configuration.setting('URL')}) answered 200 with "
            f"{_kind(media_type, body)}, not with the id of an update: something else than a Mercure hub "
            "answers there",
            status=reply.status_code,
            reason=reason(reply, body),
            from_hub=False,
        )
    return text


def published_ids(reply: Reply, configuration: Configuration, count: int) -> list[str]:
    """The ids in the answer to a batch (docs/protocol.md, Batches).

    :param count: of the updates in the batch.
    :raises PublishError: this is not the answer of a hub that published all of them.
    """
    _check_status(reply, configuration)
    try:
        ids = json.loads(reply.body)["ids"]
    except (ValueError, RecursionError, TypeError, KeyError):
        ids = None
    if not isinstance(ids, list) or len(ids) != count or not all(isinstance(one, str) for one in ids):
        raise PublishError(
            f"{configuration.url} ({configuration.setting('URL')}) answered 200 to a batch of {count} "
            "updates, not with their ids; they may have been published",
            status=reply.status_code,
            possibly_published=True,
            from_hub=False,
        )
    return ids


_BY_A_PROXY: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: ". A proxy before the hub seems to refuse the request: its log has the cause",
    HTTPStatus.FORBIDDEN: ". Or a proxy before the hub refuses the request: its log has the cause then",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ", or the limit of the proxy before it",
}


def is_of_a_hub(headers: _Headers, body: bytes) -> bool:
    """Whether an answer that refuses an update comes from a hub, and not from a proxy before it.

    :param headers: of the answer; their names are case-insensitive.
    :param body: its content, or the beginning of it.
    :returns: true for a challenge (RFC 6750 section 3), a problem document (RFC 9457) and plain text, which
        the reference hub sends; false for a page of HTML, and when nothing tells.
    """
    media_type = _media_type(headers)
    start = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if media_type in ("text/html", "application/xhtml+xml") or start == b"<":
        return False
    return (
        _CHALLENGE.search(headers.get("WWW-Authenticate", "")) is not None
        or media_type == "application/problem+json"
        or (media_type == "text/plain" and start != b"")
    )


def _check_status(reply: Reply, configuration: Configuration) -> None:
    status = reply.status_code
    if status != HTTPStatus.OK:
        from_hub = is_of_a_hub(reply.headers, reply.body)
        problem = _problem(reply).get("type")
        raise PublishError(
            _refusal(reply, configuration) + ("" if from_hub else _BY_A_PROXY.get(status, "")),
            status=status,
            reason=reason(reply, reply.body),
            possibly_published=status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
            or problem == _IN_DOUBT,
            retry_after=retry_after(reply),
            from_hub=from_hub,
            is_storage_away=problem in (_AWAY, _IN_DOUBT),
        )


def _refusal(reply: Reply, configuration: Configuration) -> str:
    """What a status other than 200 means, and what to do."""
    status = reply.status_code
    said = reason(reply, reply.body)
    answered = f"the hub at {configuration.url} answered {status} {responses.get(status, '')}".rstrip()
    if said:
        answered += f" ({said})"
    if _media_type(reply.headers) == "text/html":
        answered += ", with an HTML page: probably a proxy or another site answers, not the hub"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return (
                f"{answered}. Compare with the settings of the hub: the key (MERCURE_PUBLISHER_JWT_KEY or "
                f"MERCURE_JWT_SECRET), the issuer (MERCURE_ISSUER={configuration.issuer!r}), the audience "
                f"(MERCURE_PUBLIC_URL={configuration.public_url!r}) and the protocol "
                f"(MERCURE_PROTOCOL={configuration.protocol!r}). The hub's log has the cause"
            )
        case _ if 300 <= status < 400:
            target = urlsplit(reply.headers.get("Location", ""))
            return (
                f"{answered}, a redirect to {target.scheme}://{target.netloc}{target.path}. It is not "
                "followed, since the token would be lost or go to another server: set "
                f"{configuration.setting('URL')} to the hub's own URL"
            )
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            return (
                f"{answered}. Is the path of {configuration.setting('URL')} right? It usually is "
                "/.well-known/mercure"
            )
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return f"{answered}. Send less, or raise MERCURE_MAX_REQUEST_BODY_SIZE in the hub"
        case HTTPStatus.BAD_GATEWAY | HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.GATEWAY_TIMEOUT:
            return f"{answered}. The hub, or a proxy before it, cannot serve now"
        case _:
            return answered


def reason(response: _HasHeaders, body: bytes) -> str | None:
    """What the hub said about a refusal, on one line.

    :param response: the answer, or its head.
    :param body: its content, or the beginning of it.
    :returns: the problem document's detail or title (RFC 9457), else the error code of the challenge
        (RFC 6750 section 3), else a plain text's first line.
    """
    media_type = _media_type(response.headers)
    said: object = None
    if media_type in ("application/problem+json", "application/json"):
        document = _object(body)
        said = document.get("detail") or document.get("title")
    code = _ERROR_CODE.search(response.headers.get("WWW-Authenticate", ""))
    if code is not None:
        said = f"{code[1]}: {said}" if isinstance(said, str) else code[1]
    if said is None and media_type == "text/plain":
        said = next(iter(body.decode("utf-8", "replace").splitlines()), None)
    if not isinstance(said, str) or not said.strip():
        return None
    return "".join(character if character.isprintable() else " " for character in said[:300]).strip()


def _problem(reply: Reply) -> dict[str, object]:
    """The problem document in an answer (RFC 9457); empty if there is none."""
    return _object(reply.body) if _media_type(reply.headers) == "application/problem+json" else {}


def _object(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def retry_after(response: _HasHeaders) -> float | None:
    """Seconds that the hub asks to wait (RFC 9110 section 10.2.3).

    A date is compared with the date of the answer, so that both come from one clock.
    """
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(response.headers.get("Date", ""))).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of them has no time zone
        return None


def _media_type(headers: _Headers) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _kind(media_type: str, body: bytes) -> str:
    if not body.strip():
        return "an empty body"
    if media_type == "text/html" or body.lstrip()[:1] == b"<":
        return "an HTML page"
    return f"a body of type {media_type or 'unknown'}"


def unreachable(error: Exception, configuration: Configuration) -> HubUnreachable:
    """The exception for a publication without an answer; its message never holds the request's headers.

    :param error: of requests or urllib3.
    """
    where = f"{configuration.url} ({configuration.setting('URL')})"
    cause = error.args[0] if error.args else None
    while isinstance(cause, MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    if isinstance(cause, SSLError):
        return HubUnreachable(
            f"no TLS connection to {where}: {describe(error)}. For a certificate of your own set "
            f"{configuration.setting('VERIFY_TLS')} to the path of its CA file"
        )
    if isinstance(cause, NewConnectionError):  # before its base class ConnectTimeoutError
        return HubUnreachable(f"no connection to {where}: {describe(error)}. Does the hub run?")
    if isinstance(cause, ConnectTimeoutError):
        return HubUnreachable(
            f"no connection to {where} within {configuration.connect_timeout:g} s "
            f"({configuration.setting('CONNECT_TIMEOUT')})"
        )
    if has_timed_out(error):
        return HubUnreachable(
            f"no answer from {where} within {configuration.read_timeout:g} s "
            f"({configuration.setting('TIMEOUT')}); the update may have been published",
            possibly_published=True,
        )
    return HubUnreachable(
        f"the connection to {where} broke before the answer: {describe(error)}; "
        "the update may have been published",
        possibly_published=True,
    )
