"""HTTP answers as values, and the one map from an error to its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from mercure_hub.protocol.errors import (
    AuthorizationError,
    InvalidRequest,
    MercureError,
    MethodNotAllowed,
    StorageError,
    TokenMissing,
    TooManyRequests,
    UpgradeRequired,
)
from mercure_hub.protocol.sections import problem_type, reference

Headers = list[tuple[str, str]]

_URL = ":/?#[]@!$&'()*+,;=%"  # stays as it is in a URL; quotes and line ends do not


@dataclass(slots=True)
class Answer:
    """A complete HTTP answer.

    :param status: status code.
    :param body: the content, already encoded.
    :param headers: fields to send, without ``Content-Length``, ``Date`` and ``Connection``.
    """

    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=list)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def text(status: int, body: str) -> Answer:
    """Answer with plain text in UTF-8."""
    return Answer(status, body.encode(), [("Content-Type", "text/plain; charset=utf-8")])


def to_json(document: object, content_type: str = "application/json") -> Answer:
    """Answer 200 with a JSON document."""
    return _of_json(encoded(document), content_type)


def to_json_list(
    document: Mapping[str, object], name: str, members: Iterable[str], content_type: str = "application/json"
) -> Answer:
    """Answer 200 with a JSON document that has a long list.

    :param name: of the list.
    :param members: what is in it, each ``encoded``: with thousands of them that takes a while.
    """
    around = encoded({**document, name: []})
    return _of_json(f"{around[:-2]}{','.join(members)}]}}", content_type)


def encoded(document: object) -> str:
    """A document as JSON."""
    return _encode(document)


def _of_json(text: str, content_type: str) -> Answer:
    # A payload may hold half a surrogate pair ("\\ud800" in the token): it leaves as it came.
    return Answer(200, text.encode("utf-8", "backslashreplace"), [("Content-Type", content_type)])


def for_error(error: MercureError, resource_metadata: str | None = None) -> Answer:
    """The HTTP answer to an error.

    :param error: what was raised.
    :param resource_metadata: absolute URL of the protected resource metadata (RFC 9728), named in
        each bearer challenge.
    :returns: a bearer challenge (RFC 6750 section 3; spec, Error Responses) for authorization
        errors, a problem document (RFC 9457) for both; its ``type`` names the section of the documentation,
        its ``help`` says where that is.
    """
    match error:
        case AuthorizationError():
            return _challenge(error, resource_metadata)
        case InvalidRequest():
            headers: Headers = []
            if isinstance(error, MethodNotAllowed):
                headers.append(("Allow", error.allow))
            if isinstance(error, TooManyRequests):
                headers.append(("Retry-After", str(error.retry_after)))
            if isinstance(error, UpgradeRequired):
                headers += [
                    ("Upgrade", "websocket"),
                    ("Connection", "Upgrade"),
                    ("Sec-WebSocket-Version", "13"),
                ]
            return _problem(error, error.status, error.title, error.detail, headers, field_name=error.field)
        case StorageError():
            # The detail names the database, which is for the log alone.
            detail = "The history cannot be read or written now. The hub's log says why."
            return _problem(error, 503, "Service Unavailable", detail, [("Retry-After", "5")])
        case _:
            return _problem(error, 500, "Internal Server Error", "The hub failed; its log says why.", [])


def _challenge(error: AuthorizationError, resource_metadata: str | None) -> Answer:
    parameters = ['realm="mercure"']
    if error.code is not None:
        parameters.append(f'error="{error.code}"')
    if resource_metadata is not None:
        parameters.append(f'resource_metadata="{quote(resource_metadata, safe=_URL)}"')
    answer = _problem(error, error.status, HTTPStatus(error.status).phrase, _public_detail(error), [])
    answer.headers.append(("WWW-Authenticate", "Bearer " + ", ".join(parameters)))
    return answer


def _public_detail(error: AuthorizationError) -> str:
    if isinstance(error, TokenMissing):
        return "This needs an access token, in an Authorization header or a cookie."
    if error.status == 401:
        return "The access token was refused. The hub's log says why."
    return error.cause


def _problem(
    error: MercureError,
    status: int,
    title: str,
    detail: str,
    headers: Headers,
    *,
    field_name: str | None = None,
) -> Answer:
    document: dict[str, object] = {
        "type": problem_type(error.section),
        "title": title,
        "status": status,
        "detail": detail,
        "help": reference(error.section),
    }
    if field_name is not None:
        document["field"] = field_name
    answer = to_json(document, "application/problem+json")
    answer.status = status
    answer.headers.extend(headers)
    return answer
