"""``application/x-www-form-urlencoded``, parsed as the URL standard says.

The standard library's ``parse_qsl`` drops names without a value or rejects them, knows limits by
exception type and replaces invalid UTF-8; the protocol wants each name kept, and text that is not
UTF-8 refused (spec, Subscription and Publication).
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from mercure_hub.protocol.errors import InvalidRequest

Pairs = list[tuple[str, str]]


def parse(encoded: bytes) -> Pairs:
    """Parse a query component or a form body into names and values.

    A stray ``%`` stands for itself, ``;`` is no delimiter, a name without ``=`` has an empty
    value, an empty part is skipped (URL standard, section 5.1).

    :param encoded: the octets, without a leading ``?``.
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


def _decode(octets: bytes, name: bytes | None) -> str:
    if b"+" in octets:
        octets = octets.replace(b"+", b" ")
    if b"%" in octets:
        octets = unquote_to_bytes(octets)
    try:
        return octets.decode()
    except UnicodeDecodeError:
        if name is None:
            raise InvalidRequest("A parameter name is not valid UTF-8.") from None
        shown = name.decode("ascii", "replace")
        raise InvalidRequest(f"The value of {shown!r} is not valid UTF-8.", shown) from None
