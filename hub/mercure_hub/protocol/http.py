"""HTTP as values: forms, content codings, answers, and the one map from an error to its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote, unquote_to_bytes

from mercure_hub.protocol.errors import (
    AuthorizationError,
    InvalidRequest,
    MercureError,
    MethodNotAllowed,
    StorageAway,
    StorageError,
    StorageInDoubt,
    TokenMissing,
    TokenRevoked,
    TooManyRequests,
    UpgradeRequired,
    problem_type,
    reference,
)

Pairs = list[tuple[str, str]]


def parse_form(encoded: bytes) -> Pairs:
    """Parse a query component or a form body into names and values.

    A stray ``%`` stands for itself, ``;`` is no delimiter, a name without ``=`` has an empty
    value, an empty part is skipped (URL standard, section 5.1).

    :param encoded: without a leading ``?``.
    :returns: decoded names and values in order.
    :raises InvalidRequest: a name or value is not valid UTF-8.
    """
    pairs: Pairs = []
    for part in encoded.split(b"&"):
        if not part:
            continue
        name, _, value = part.partition(b"=")
        pairs.append((_decode(name, None), _decode(value, name)))
    return pairs


def _decode(encoded: bytes, name: bytes | None) -> str:
    if b"+" in encoded:
        encoded = encoded.replace(b"+", b" ")
    if b"%" in encoded:
        encoded = _unescaped(encoded)
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        if name is None:
            raise InvalidRequest("A parameter name is not valid UTF-8.") from None
        shown = name.decode("ascii", "replace")
        raise InvalidRequest(f"The value of {shown!r} is not valid UTF-8.", shown) from None


def _unescaped(encoded: bytes) -> bytes:
    """Percent-decode; a stray ``%`` stands for itself (URL standard, section 1.3)."""
    # A codec of C reads %41 as the escape \x41, in a tenth of the time that Python's loop takes.
    escaped = encoded.replace(b"\\", b"\\\\").replace(b"%", b"\\x")
    try:
        return escaped.decode("unicode_escape").encode("latin-1")
    except UnicodeDecodeError:  # a stray one
        return unquote_to_bytes(encoded)


_WEIGHT = re.compile(r"[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*")


def prefers(coding: str, accept_encoding: str | None) -> bool:
    """Tell whether a client prefers a content coding, or weighs it like none (RFC 9110 section 12.5.3).

    Clients that only do not exclude it, with ``*`` or without the field, get the content as it is: many of
    them have no decoder.

    :param coding: in lower case, such as ``zstd``.
    :param accept_encoding: value of the request's ``Accept-Encoding``.
    """
    if not accept_encoding:
        return False
    weights = _weights(accept_encoding)
    weight = weights.get(coding, 0.0)
    return weight > 0 and weight >= weights.get("identity", 0.0)


def _weights(field: str) -> dict[str, float]:
    """The weight of each coding: the smaller one of a repeated coding, 0 for a malformed weight."""
    weights: dict[str, float] = {}
    for member in field.split(","):
        name, separator, parameter = member.partition(";")
        name = name.strip(" \t").lower()
        match = _WEIGHT.fullmatch(parameter) if separator else None
        weight = float(match[1]) if match else 0.0 if separator else 1.0
        if name:
            weights[name] = min(weight, weights.get(name, 1.0))
    return weights


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


def text_answer(status: int, body: str) -> Answer:
    """Answer with plain text in UTF-8."""
    return Answer(status, body.encode(), [("Content-Type", "text/plain; charset=utf-8")])


def json_answer(document: object, content_type: str = "application/json") -> Answer:
    """Answer 200 with a JSON document."""
    return _of_json(encode_json(document), content_type)


def json_list_answer(
    document: Mapping[str, object], name: str, members: Iterable[str], content_type: str = "application/json"
) -> Answer:
    """Answer 200 with a JSON document that has a long list.

    :param name: of the list.
    :param members: of the list, each from ``encode_json``, so that the caller can pause between thousands.
    """
    around = encode_json({**document, name: []})
    return _of_json(f"{around[:-2]}{','.join(members)}]}}", content_type)


def encode_json(document: object) -> str:
    """A document as JSON."""
    return _encode(document)


def _of_json(text: str, content_type: str) -> Answer:
    # A payload may hold half a surrogate pair ("\\ud800" in the token), which UTF-8 cannot carry: escape it.
    return Answer(200, text.encode("utf-8", "backslashreplace"), [("Content-Type", content_type)])


def error_answer(error: MercureError, resource_metadata: str | None = None) -> Answer:
    """The HTTP answer to an error.

    :param error: what was raised.
    :param resource_metadata: absolute URL of the protected resource metadata (RFC 9728), named in
        each bearer challenge.
    :returns: a bearer challenge (RFC 6750 section 3; spec, Error Responses) for authorization
        errors, and always a problem document (RFC 9457); its ``type`` names a section of the documentation,
        its ``help`` is the URL of that section.
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
            # The error's own detail names the database: only for the log.
            detail, seconds = "The history cannot be read or written now. The hub's log says why.", "5"
            if isinstance(error, StorageAway):
                detail = "The database cannot be reached now. Nothing was stored; try again."
                seconds = "2"
            elif isinstance(error, StorageInDoubt):
                detail = (
                    "The database did not answer: what was published may be stored, or not. "
                    "Publish it again with the same id."
                )
            return _problem(error, 503, "Service Unavailable", detail, [("Retry-After", seconds)])
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
    if isinstance(error, TokenRevoked):
        return "This access token was revoked, as at a logout. Get a new one."
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
    answer = json_answer(document, "application/problem+json")
    answer.status = status
    answer.headers.extend(headers)
    return answer
