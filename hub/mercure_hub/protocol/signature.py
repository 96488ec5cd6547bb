"""Whether a key has signed a token (RFC 7515 section 5.2).

The cryptography is PyJWT's. Its ``decode`` is not used: it reads the parts of the token anew, character by
character, and prepares the key each time, and a hub has its keys for long and each token of a stream is new.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from mercure_hub.protocol.errors import TokenInvalid, shown
from mercure_hub.protocol.keys import ALGORITHMS, Key
from mercure_hub.protocol.sections import Section

_ALGORITHMS: Mapping[str, Algorithm] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS
}
_SECRETS = 256


def decoded(segment: str) -> bytes:
    """A part of a token.

    :param segment: base64url without padding (RFC 7515 section 2).
    :raises ValueError: it is not, or the bits that stand for nothing are not zero.
    """
    octets = urlsafe_b64decode(segment + "==")
    if urlsafe_b64encode(octets).rstrip(b"=") != segment.encode():
        raise ValueError(segment)
    return octets


def check_extensions(header: Mapping[str, Any]) -> None:
    """Refuse a token that means something else to who knows an extension; none is known here.

    :param header: of the token, not verified.
    :raises TokenInvalid: it has such a field (RFC 7515 section 4.1.11, RFC 7797).
    """
    if "crit" in header:
        raise TokenInvalid(
            f"crit is {shown(header['crit'])}; the hub knows no extension of JWS", Section.SIGNATURE
        )
    if header.get("b64") is False:
        raise TokenInvalid("b64 is false; the payload has to be in the token, encoded", Section.SIGNATURE)


def fits(token: str, algorithm: str, key: Key) -> bool:
    """Whether a key has signed a token.

    :param token: in compact serialization.
    :param algorithm: that the token names, one of the key's.
    :raises TokenInvalid: that cannot be found out.
    """
    signed, _, signature = token.rpartition(".")
    try:
        used, material = _ALGORITHMS[algorithm], key.material
        prepared = (
            _checked(algorithm, material) if isinstance(material, bytes) else used.prepare_key(material)
        )
        return used.verify(signed.encode(), prepared, decoded(signature))
    except (PyJWTError, TypeError, ValueError) as error:
        raise TokenInvalid(f"the token cannot be verified: {shown(str(error))}", Section.SIGNATURE) from None


@lru_cache(maxsize=_SECRETS)
def _checked(algorithm: str, secret: bytes) -> Any:
    """The secret, if it is no PEM, DER or JWK in disguise: to find that out costs more than to use it."""
    return _ALGORITHMS[algorithm].prepare_key(secret)
