"""Which content coding a client asks for (RFC 9110 section 12.5.3)."""

from __future__ import annotations

import re

_WEIGHT = re.compile(r"[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*")


def prefers(coding: str, accept_encoding: str | None) -> bool:
    """Tell whether a client asks for a coding, and likes it no less than none at all.

    Clients that merely do not exclude it, with ``*`` or without the field, get the content as it is: many of
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
    """The weight of each coding; of one that is there twice the smaller, of a malformed one 0."""
    weights: dict[str, float] = {}
    for member in field.split(","):
        name, separator, parameter = member.partition(";")
        name = name.strip(" \t").lower()
        found = _WEIGHT.fullmatch(parameter) if separator else None
        weight = float(found[1]) if found else 0.0 if separator else 1.0
        if name:
            weights[name] = min(weight, weights.get(name, 1.0))
    return weights
