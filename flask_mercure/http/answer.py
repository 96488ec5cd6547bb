"""What the hub's answer to a publication means, and what its silence does.

Sections Publication and Error Responses of the spec.
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import responses
from typing import Protocol
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

from flask_mercure.configuration.settings import Configuration
from flask_mercure.errors import HubUnreachable, PublishError
from hub.protocol.topics import forbidden_character

_MAX_ID = 2048


class _HasHeaders(Protocol):
    headers: CaseInsensitiveDict[str]


_ERROR_CODE = re.compile(r'\berror="([a-z_]+)"')


def published_id(response: requests.Response, body: bytes, configuration: Configuration) -> str:
    """The id in the answer.

    :raises PublishError: this is not the answer of a hub that published.
    """
    _check_status(response, body, configuration)
    status = response.status_code
    media_type = _media_type(response)
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
            f"{_kind(media_type, body)}, not with the id "
            "of an update: something else than a Mercure hub answers there",
            status=status,
            reason=reason(response, body),
        )
    return text


def published_ids(
    response: requests.Response, body: bytes, configuration: Configuration, count: int
) -> list[str]:
    """The ids in the answer to a batch (docs/protocol.md, Batches).

    :param count: of the updates in the batch.
    :raises PublishError: this is not the answer of a hub that published all of them.
    """
    _check_status(response, body, configuration)
    try:
        ids = json.loads(body)["ids"]
    except (ValueError, RecursionError, TypeError, KeyError):
        ids = None
    if not isinstance(ids, list) or len(ids) != count or not all(isinstance(one, str) for one in ids):
        raise PublishError(
            f"{configuration.url} ({configuration.setting('URL')}) answered 200 to a batch "
            f"of {count} updates, not with their "
            "ids; they may have been published",
            status=response.status_code,
            possibly_published=True,
        )
    return ids


def _check_status(response: requests.Response, body: bytes, configuration: Configuration) -> None:
    status = response.status_code
    if status != HTTPStatus.OK:
        raise PublishError(
            _refusal(response, body, configuration),
            status=status,
            reason=reason(response, body),
            possibly_published=status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT),
            retry_after=retry_after(response),
        )


def _refusal(response: requests.Response, body: bytes, configuration: Configuration) -> str:
    """What a status other than 200 means, and what to do."""
    status = response.status_code
    said = reason(response, body)
    answered = f"the hub at {configuration.url} answered {status} {responses.get(status, '')}".rstrip()
    if said:
        answered += f" ({said})"
    if _media_type(response) == "text/html":
        answered += (
            ", with an HTML page: it is probably not the hub that answers, but a proxy or another site"
        )
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return (
                f"{answered}. Compare with the settings of the hub: the key (MERCURE_PUBLISHER_JWT_KEY or "
                f"MERCURE_JWT_SECRET), the issuer (MERCURE_ISSUER={configuration.issuer!r}), the audience "
                f"(MERCURE_PUBLIC_URL={configuration.public_url!r}) and the protocol "
                f"(MERCURE_PROTOCOL={configuration.protocol!r}). The hub's log has the cause"
            )
        case _ if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", ""))
            return (
                f"{answered}, a redirect to {target.scheme}://{target.netloc}{target.path}. It is not "
                f"followed, since the token would be lost or go astray: set "
                f"{configuration.setting('URL')} to the "
                "hub's own URL"
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

    :param response: headers of the answer.
    :param body: its content, or the beginning of it.
    :returns: the problem document's detail or title (RFC 9457), else the error code of the challenge
        (RFC 6750 section 3), else a plain text's first line.
    """
    media_type = _media_type(response)
    said: object = None
    if media_type in ("application/problem+json", "application/json"):
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            said = document.get("detail") or document.get("title")
    code = _ERROR_CODE.search(response.headers.get("WWW-Authenticate", ""))
    if code is not None:
        said = f"{code[1]}: {said}" if isinstance(said, str) else code[1]
    if said is None and media_type == "text/plain":
        said = next(iter(body.decode("utf-8", "replace").splitlines()), None)
    if not isinstance(said, str) or not said.strip():
        return None
    return "".join(character if character.isprintable() else " " for character in said[:300]).strip()


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the hub asks to wait (RFC 9110 section 10.2.3).

    A date counts from that of the answer, so that no two clocks are compared.
    """
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(response.headers.get("Date", ""))).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of them names no time zone
        return None


def _media_type(response: _HasHeaders) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _kind(media_type: str, body: bytes) -> str:
    if not body.strip():
        return "an empty body"
    if media_type == "text/html" or body.lstrip()[:1] == b"<":
        return "an HTML page"
    return f"a body of type {media_type or 'unknown'}"


def unreachable(error: Exception, configuration: Configuration) -> HubUnreachable:
    """An error of the connection, in words; it never holds the request's headers."""
    where = f"{configuration.url} ({configuration.setting('URL')})"
    cause = error.args[0] if error.args else None
    while isinstance(cause, MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    if isinstance(cause, SSLError):
        return HubUnreachable(
            f"no TLS connection to {where}: {_words(cause)}. For a certificate of your own set "
            f"{configuration.setting('VERIFY_TLS')} to the path of its CA file"
        )
    if isinstance(cause, NewConnectionError):  # before its base class ConnectTimeoutError
        return HubUnreachable(f"no connection to {where}: {_words(cause)}. Does the hub run?")
    if isinstance(cause, ConnectTimeoutError):
        return HubUnreachable(
            f"no connection to {where} within {configuration.connect_timeout:g} s "
            f"({configuration.setting('CONNECT_TIMEOUT')})"
        )
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return HubUnreachable(
            f"no answer from {where} within {configuration.read_timeout:g} s "
            f"({configuration.setting('TIMEOUT')}); "
            "the update may have been published",
            possibly_published=True,
        )
    return HubUnreachable(
        f"the connection to {where} broke before the answer: {_words(cause or error)}; "
        "the update may have been published",
        possibly_published=True,
    )


def _words(error: object) -> str:
    """The innermost text of an error that urllib3 has wrapped several times."""
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^)'\"]+)|\[SSL[^\]]*\] ([^(]+)|'([^']+)'\)*$", text)
    inner = next((group for group in found.groups() if group), text) if found else text
    return inner.strip().rstrip(".")
