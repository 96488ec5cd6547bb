"""Field sections of HTTP/2: from their compressed form to a request, from an answer to theirs.

Received fields are decompressed by hpack. What is sent is a sequence of literals that use no table: the same
answer has the same bytes on every connection, so it is encoded once for thousands of streams.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

from mercure_hub.protocol.errors import ContentTooLarge, HeaderTooLarge, InvalidRequest
from mercure_hub.protocol.http import Headers
from mercure_hub.server.http import MAX_FIELDS, ONCE, Message, one_line

CONTINUE = b"\x08\x03100"
"""The field section of an interim answer: ``:status`` is 100."""

NO_TABLE = b"\x20"
"""Begins the first section that is sent: its writer keeps no table (RFC 7541 section 6.3)."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_PATH = re.compile(rb"/[\x21-\x7e\x80-\xff]*")
_LENGTH = re.compile("[0-9]{1,19}")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_CONNECTIONS = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


class Malformed(Exception):
    """A request that breaks the rules of RFC 9113 section 8.1.1; the argument says how."""


def has_many_updates(block: bytes) -> bool:
    """Whether a section begins with more changes of the table's size than the two that have a use.

    RFC 7541 section 4.2 allows no more; each costs the decoder more than its one byte.
    """
    at = 0
    for _ in range(3):
        if block[at : at + 1] == b"" or block[at] & 0xE0 != 0x20:
            return False
        is_long = block[at] & 0x1F == 0x1F
        at += 1
        while is_long and at < len(block):
            is_long = block[at] >= 0x80
            at += 1
    return True


def request(fields: Iterable[tuple[bytes, bytes]]) -> Message:
    """A request without its content.

    :param fields: the decompressed section.
    :raises Malformed: the section is not one of a request.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: dict[str, str] = {}
    message = Message(headers=headers, takes_chunks=False)
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in pseudo or name not in _PSEUDO or not _VALUE.fullmatch(value):
                raise Malformed("a pseudo-header field is unknown, repeated or too late")
            pseudo[name] = value
            continue
        check_field(name, value)
        _add(headers, name.decode("latin-1"), value.decode("latin-1"))
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method) or not pseudo.get(b":scheme"):
        raise Malformed("the method or the scheme is missing or invalid")
    if not _PATH.fullmatch(path) and not (method == b"OPTIONS" and path == b"*"):
        raise Malformed("the path is missing or invalid")
    authority = pseudo.get(b":authority", b"").decode("latin-1")
    if authority:
        if headers.get("host", authority).lower() != authority.lower():
            raise Malformed("Host and :authority differ")
        headers["host"] = authority
    message.method, message.target = method.decode("latin-1"), path
    return message


def check_field(name: bytes, value: bytes) -> None:
    """Check a field of a request, or a trailer field.

    :raises Malformed: it must not be there, or has a character that it must not have.
    """
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Malformed("a field has an invalid character")
    if name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed("a field is about the connection")


def _add(headers: dict[str, str], name: str, value: str) -> None:
    if name not in headers:
        headers[name] = value
    elif name == "content-length" and headers[name] != value:
        raise Malformed("Content-Length is there twice")
    elif name != "content-length":
        # Cookies may come in pieces (RFC 9113 section 8.2.3).
        headers[name] += ("; " if name == "cookie" else "\n" if name in ONCE else ", ") + value


def content_length(message: Message) -> int | None:
    """How many bytes of content a request announces; ``None`` if it does not.

    :raises Malformed: the field is not a number.
    """
    value = message.headers.get("content-length")
    if value is None:
        return None
    if not _LENGTH.fullmatch(value):
        raise Malformed("Content-Length is not a number")
    return int(value)


def problem_with(message: Message, fields: int, max_body: int) -> InvalidRequest | None:
    """Why a well-formed request is refused before its content arrives, if it is.

    :param fields: their number.
    :param max_body: bytes of content that are accepted.
    """
    if fields > MAX_FIELDS:
        return HeaderTooLarge(f"More than {MAX_FIELDS} header fields.")
    if "host" not in message.headers:
        return InvalidRequest("The Host header is missing.", "Host")
    for name in ONCE:
        if "\n" in message.headers.get(name, ""):
            return InvalidRequest(f"The header field {name} is there twice.", name)
    length = content_length(message)
    return too_large(max_body) if length is not None and length > max_body else None


def too_large(limit: int) -> ContentTooLarge:
    """The error for more content than the hub accepts."""
    return ContentTooLarge(f"The body is over {limit} bytes (MERCURE_MAX_REQUEST_BODY_SIZE).")


# -- what is sent --------------------------------------------------------------------------------------------


def answer(status: int, headers: Headers, extra: Headers, now: float, length: int | None) -> bytes:
    """The field section of an answer.

    :param extra: fields besides the answer's own.
    :param now: seconds since the epoch.
    :param length: bytes of its content; ``None`` for a stream.
    """
    section = _status(status) + _date(int(now)) + _section(tuple(headers)) + _section(tuple(extra))
    return section if length is None else section + _literal("content-length", str(length))


@lru_cache(maxsize=64)
def _status(status: int) -> bytes:
    return b"\x08" + _text(str(status))  # a literal whose name is entry 8 of the static table


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return _literal("date", formatdate(second, usegmt=True))


@lru_cache(maxsize=256)  # most answers have the same fields as the one before
def _section(headers: tuple[tuple[str, str], ...]) -> bytes:
    return b"".join(
        [
            _literal(name.lower(), one_line(value).strip(" \t"))
            for name, value in headers
            if name.lower().encode() not in _OF_CONNECTIONS
        ]
    )


def _literal(name: str, value: str) -> bytes:
    """A field that no table holds (RFC 7541 section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    """A string without Huffman coding (RFC 7541 section 5.2)."""
    encoded = text.encode("latin-1", "replace")
    return _integer(len(encoded)) + encoded


def _integer(number: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541 section 5.1)."""
    if number < 127:
        return bytes((number,))
    encoded = bytearray((127,))
    number -= 127
    while number >= 128:
        encoded.append(128 | number & 127)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
