"""Signatures, held against what PyJWT says of the whole token."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from mercure_hub.protocol.errors import TokenInvalid
from mercure_hub.protocol.tokens.claims import decoded
from mercure_hub.protocol.tokens.issuer import check_extensions, fits
from mercure_hub.protocol.tokens.keys import ALGORITHMS, Key

SECRET = b"a secret of the tests, that is long enough for each of the algorithms"
CURVES: Mapping[str, Callable[[], ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
    "ES256K": ec.SECP256K1,
}


@cache
def pair(algorithm: str) -> tuple[Any, Key]:
    """What signs, and what verifies."""
    if algorithm.startswith("HS"):
        return SECRET, Key(SECRET, (algorithm,))
    private: Any
    if algorithm in CURVES:
        private = ec.generate_private_key(CURVES[algorithm]())
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = rsa.generate_private_key(65537, 2048)
    return private, Key(private.public_key(), (algorithm,))


def sign(algorithm: str, claims: Mapping[str, object] | None = None) -> str:
    return jwt.encode(dict(claims or {"sub": "Ada"}), pair(algorithm)[0], algorithm)


def pyjwt_says(token: str, algorithm: str) -> bool:
    try:
        jwt.PyJWS().decode(token, pair(algorithm)[1].material, [algorithm])  # type: ignore[arg-type]
    except jwt.PyJWTError:
        return False
    return True


def we_say(token: str, algorithm: str) -> bool:
    try:
        return fits(token, algorithm, pair(algorithm)[1])
    except TokenInvalid:
        return False


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm(algorithm: str) -> None:
    token = sign(algorithm)
    assert we_say(token, algorithm) and pyjwt_says(token, algorithm)
    signed, signature = token.rsplit(".", 1)
    octets = bytearray(base64.urlsafe_b64decode(signature + "=="))
    octets[len(octets) // 2] ^= 1
    changed = base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
    for other in (
        f"{signed}.{changed}",
        f"{signed}.",
        f"{signed}.{signature[:-4]}",
        f"{signed}.{signature}AAAA",
        f"{sign(algorithm, {'sub': 'Eve'}).rsplit('.', 1)[0]}.{signature}",
        f"{signed}A.{signature}",
        f"A{signed}.{signature}",
    ):
        assert we_say(other, algorithm) is pyjwt_says(other, algorithm) is False, other


def test_ed448() -> None:
    private = ed448.Ed448PrivateKey.generate()
    key = Key(private.public_key(), ("EdDSA",))
    assert fits(jwt.encode({}, private, "EdDSA"), "EdDSA", key)
    assert not fits(sign("EdDSA"), "EdDSA", key)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_each_last_character_of_a_signature(algorithm: str) -> None:
    """Its lowest bits may stand for nothing; then there is one right way to write it."""
    token = sign(algorithm)
    taken = []
    for last in string.ascii_letters + string.digits + "-_":
        other = token[:-1] + last
        assert not we_say(other, algorithm) or pyjwt_says(other, algorithm)  # before 2.14 it takes them all
        taken += [last] if we_say(other, algorithm) else []
    assert taken == [token[-1]]


@pytest.mark.parametrize("one", ALGORITHMS)
def test_a_key_of_another_kind(one: str) -> None:
    """No token, however signed, fits a key that another kind of algorithm made."""
    for other in ("HS256", "RS256", "ES256", "EdDSA"):
        if pair(one)[1].material != pair(other)[1].material:
            try:
                assert not fits(sign(one), one, Key(pair(other)[1].material, (one,)))
            except TokenInvalid as error:
                assert "cannot be verified" in str(error)


@pytest.mark.parametrize(
    "secret",
    [
        b'{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}',
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
    ids=["JWK", "PEM"],
)
def test_a_public_key_is_no_secret(secret: bytes) -> None:
    for _ in range(2):
        with pytest.raises(TokenInvalid, match="cannot be verified"):
            fits(sign("HS256"), "HS256", Key(secret, ("HS256",)))


@pytest.mark.parametrize(
    ("text", "octets"),
    [("", b""), ("AA", b"\0"), ("AAA", b"\0\0"), ("AAAA", b"\0\0\0"), ("-_-_", b"\xfb\xff\xbf")],
)
def test_base64url(text: str, octets: bytes) -> None:
    assert decoded(text) == octets


@pytest.mark.parametrize("text", ["A", "AB", "AAB", "AA==", "A+/A", "AA A", "AAAAA", "é"])
def test_what_is_not_base64url(text: str) -> None:
    with pytest.raises(ValueError):
        decoded(text)


@pytest.mark.parametrize(
    ("header", "is_fine"),
    [
        ({}, True),
        ({"b64": True}, True),
        ({"b64": False}, False),
        ({"crit": []}, False),
        ({"crit": ["b64"], "b64": True}, False),
        ({"crit": None}, False),
    ],
)
def test_extensions(header: Mapping[str, object], is_fine: bool) -> None:
    if is_fine:
        check_extensions(header)
    else:
        with pytest.raises(TokenInvalid):
            check_extensions(header)
