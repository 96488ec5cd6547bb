"""JWK sets: which entries become keys, for which algorithms, and which are refused in words."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens.asymmetric import PrivateKey
from mercure_hub.protocol.tokens.jwk_set import MAX_KEYS, KeySet, lifetime, parse
from mercure_hub.protocol.tokens.keys import ALGORITHMS
from tests.hub.key_server import jwk, key_set

RSA = rsa.generate_private_key(65537, 2048)
EC = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
}
ED = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()
FITTING: list[tuple[Any, tuple[str, ...]]] = [
    (RSA, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *((key, (name,)) for name, key in EC.items()),
    (ED, ("EdDSA",)),
    (ED448, ("EdDSA",)),
]
PUBLIC = jwk(EC["ES256"].public_key(), "a")


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def secret(length: int = 64, **more: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": encoded(bytes(range(length))), **more}


def read(*entries: Any, allowed: Sequence[str] = ALGORITHMS, is_public: bool = True) -> KeySet:
    return parse(key_set(*entries), allowed, is_public=is_public)


def refusal(*entries: Any, is_public: bool = True) -> str:
    found = read(*entries, is_public=is_public)
    assert found.keys == ()
    (reason,) = found.refused
    assert len(reason.splitlines()) == 1
    assert len(reason) < 400
    for entry in entries:
        for name in ("d", "k", "p", "q", "n", "x"):
            if isinstance(entry, dict) and len(str(entry.get(name, ""))) > 8:
                assert str(entry[name]) not in reason
    return reason


# --- what becomes a key ---


@pytest.mark.parametrize(("key", "algorithms"), FITTING, ids=lambda value: getattr(value, "name", None))
def test_public_keys_of_a_set(key: Any, algorithms: tuple[str, ...]) -> None:
    for is_public in (True, False):
        (found,) = read(jwk(key.public_key(), "the one"), is_public=is_public).keys
        assert found.material == key.public_key()
        assert found.algorithms == algorithms
        assert found.kid == "the one"


@pytest.mark.parametrize(("key", "algorithms"), FITTING)
def test_of_a_private_key_in_a_file_the_public_half_is_taken(key: Any, algorithms: tuple[str, ...]) -> None:
    for more in ({}, {"key_ops": ["sign"]}, {"use": "sig"}):
        (found,) = read(jwk(key, **more), is_public=False).keys
        assert found.material == key.public_key()
        assert not isinstance(found.material, PrivateKey)
        assert found.algorithms == algorithms
        assert found.kid is None


@pytest.mark.parametrize(("key", "algorithms"), FITTING)
def test_a_private_key_that_a_url_serves_is_refused(key: Any, algorithms: tuple[str, ...]) -> None:
    assert "anybody can sign with it" in refusal(jwk(key, "leaked"))
    assert "(kid 'leaked')" in refusal(jwk(key, "leaked"))


def test_parts_of_a_private_key_are_one() -> None:
    for name in ("p", "q", "dp", "dq", "qi", "oth"):
        assert "private key" in refusal(jwk(RSA.public_key()) | {name: "AQAB"})


@pytest.mark.parametrize(
    ("length", "algorithms"),
    [(32, ("HS256",)), (47, ("HS256",)), (48, ("HS256", "HS384")), (64, ("HS256", "HS384", "HS512"))],
)
def test_secrets_in_a_file(length: int, algorithms: tuple[str, ...]) -> None:
    (found,) = read(secret(length, kid="s"), is_public=False).keys
    assert found.material == bytes(range(length))
    assert found.algorithms == algorithms
    (one,) = read(secret(length, alg="HS256"), is_public=False).keys
    assert one.algorithms == ("HS256",)


def test_a_public_key_is_no_secret_of_a_file() -> None:
    """Everybody who has the key could sign with it."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    entry = {"kty": "oct", "k": encoded(der)}
    found = parse(json.dumps({"keys": [entry]}).encode(), ALGORITHMS, is_public=False)
    assert found.keys == ()
    assert "is a key in DER" in found.refused[0]


def test_secrets_are_refused_from_urls() -> None:
    assert "secret" in refusal(secret(kid="s"))


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_alg_restricts_a_key(algorithm: str) -> None:
    (found,) = read(jwk(RSA.public_key(), alg=algorithm)).keys
    assert found.algorithms == (algorithm,)


def test_what_is_allowed_restricts_a_key() -> None:
    (found,) = read(jwk(RSA.public_key()), PUBLIC, allowed=("PS256", "RS256")).keys
    assert found.algorithms == ("RS256", "PS256")
    assert read(jwk(RSA.public_key(), alg="RS512"), allowed=("RS256",)) == KeySet(())


def test_several_keys_keep_their_order() -> None:
    found = read(PUBLIC, jwk(RSA.public_key(), "b"), {"kty": "new"}, jwk(ED.public_key()), PUBLIC)
    assert [key.kid for key in found.keys] == ["a", "b", None, "a"]
    assert found.refused == ()


@pytest.mark.parametrize(
    "more",
    [
        {"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}, {"alg": "ES256"},
        {"use": "sig", "key_ops": ["verify"], "alg": "ES256"}, {"kid": None}, {"kid": ""}, {"alg": None},
        {"kid": "x" * 256}, {"unknown": [1, {}]}, {"x5u": "https://evil.example/"}, {"x5c": ["junk"]},
        {"x5t": "x"}, {"exp": 1}, {"iss": "https://other.example"},
    ],
)  # fmt: skip
def test_members_that_change_nothing(more: dict[str, Any]) -> None:
    (found,) = read(PUBLIC | more).keys
    assert found.material == EC["ES256"].public_key()
    assert found.algorithms == ("ES256",)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert len(parse(b"\xef\xbb\xbf" + key_set(PUBLIC), ALGORITHMS, is_public=False).keys) == 1


# --- what is for others ---


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "unknown"}, {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"}, {}, {"kty": None},
        {"kty": ["RSA"]},
        {"kty": "ec"}, {"kty": {}}, {"kty": "EC"}, {"kty": "EC", "crv": "P-192", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": ["P-256"]}, {"kty": "OKP", "crv": "Ed999", "x": "AA"},
        PUBLIC | {"use": "enc"}, PUBLIC | {"use": "SIG"}, PUBLIC | {"use": ["sig"]}, PUBLIC | {"use": None},
        PUBLIC | {"key_ops": []}, PUBLIC | {"key_ops": ["encrypt"]}, PUBLIC | {"key_ops": ["sign"]},
        PUBLIC | {"key_ops": [None, ["verify"]]}, PUBLIC | {"use": "enc", "key_ops": ["verify"]},
        PUBLIC | {"alg": "ECDH-ES"}, PUBLIC | {"alg": "none"}, PUBLIC | {"alg": ""},
        PUBLIC | {"alg": ["ES256"]},
        PUBLIC | {"alg": "es256"}, PUBLIC | {"alg": 1}, jwk(RSA.public_key(), alg="RSA-OAEP-256"),
        {"kty": "RSA", "alg": "RSA1_5", "n": "AQAB", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": encoded(bytes(range(32)))},
        {"kty": "OKP", "crv": "X448", "x": "AA"},
    ],
)  # fmt: skip
def test_entries_for_other_purposes_are_passed_over(entry: dict[str, Any]) -> None:
    good = jwk(ED.public_key(), "good")
    for is_public in (True, False):
        found = read(entry, good, is_public=is_public)
        assert [key.kid for key in found.keys] == ["good"]
        assert found.refused == ()


# --- what is refused ---


def with_bytes(name: str, value: bytes) -> dict[str, Any]:
    return PUBLIC | {name: encoded(value)}


def of_rsa(modulus: int, exponent: int = 65537) -> dict[str, Any]:
    return {
        "kty": "RSA",
        "n": encoded(modulus.to_bytes((modulus.bit_length() + 7) // 8)),
        "e": encoded(exponent.to_bytes((exponent.bit_length() + 7) // 8 or 1)),
    }


MODULUS = RSA.public_key().public_numbers().n


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (None, "not an object"), (1, "not an object"), ("RSA", "not an object"), ([], "not an object"),
        (PUBLIC | {"kid": 1}, "kid is not a string"), (PUBLIC | {"kid": ["a"]}, "kid is not a string"),
        (PUBLIC | {"kid": "x" * 257}, "at most 256"),
        (PUBLIC | {"key_ops": "verify"}, "key_ops is not an array"),
        (PUBLIC | {"alg": "RS256"}, "alg is 'RS256', and the key fits ES256"),
        (PUBLIC | {"alg": "ES384"}, "the key fits ES256"), (PUBLIC | {"alg": "HS256"}, "the key fits ES256"),
        (jwk(rsa.generate_private_key(65537, 1024).public_key()), "1024 bits and needs at least 2048"),
        (of_rsa(2**9000 + 1), "the limit is 8192"), (of_rsa(MODULUS, 2**40 + 1), "exponent"),
        (of_rsa(MODULUS, 1), "not those of a key"), (of_rsa(MODULUS, 65536), "not those of a key"),
        (of_rsa(MODULUS, 0), "not those of a key"), ({"kty": "RSA"}, "n is missing"),
        (of_rsa(MODULUS) | {"e": None}, "e is missing"), (of_rsa(MODULUS) | {"n": ""}, "n is missing or not"),
        (of_rsa(MODULUS) | {"n": 5}, "n is missing or not base64url"),
        (of_rsa(MODULUS) | {"e": "AQAB="}, "base64url"),
        (of_rsa(MODULUS) | {"e": "A"}, "base64url"), (of_rsa(MODULUS) | {"e": "AQ+/"}, "base64url"),
        (of_rsa(MODULUS) | {"e": "AQAB\n"}, "base64url"), (of_rsa(MODULUS) | {"e": "\u0661QAB"}, "base64url"),
        ({"kty": "EC", "crv": "P-256"}, "x is missing"),
        (PUBLIC | {"y": "AA"}, "y has 1 bytes instead of 32"),
        (with_bytes("x", bytes(33)), "x has 33 bytes instead of 32"),
        (with_bytes("y", bytes(32)), "not those of a key"),
        (PUBLIC | {"crv": "P-384"}, "x has 32 bytes instead of 48"),
        ({"kty": "OKP", "crv": "Ed25519", "x": encoded(bytes(31))}, "x has 31 bytes"),
        ({"kty": "OKP", "crv": "Ed448"}, "x is missing"),
    ],
)  # fmt: skip
def test_an_entry_that_is_broken_or_weak(entry: Any, said: str) -> None:
    assert said in refusal(entry)
    assert said in refusal(entry, is_public=False)
    found = read(entry, PUBLIC)  # and it does not spoil the others
    assert [key.kid for key in found.keys] == ["a"]
    assert found.refused[0].startswith("keys[0]")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (secret(31), "31 bytes and needs at least 32"), (secret(32, alg="HS512"), "the key fits HS256"),
        (secret(alg="RS256"), "the key fits HS256"), (secret() | {"k": None}, "k is missing"),
        (secret() | {"k": "+"}, "base64url"), ({"kty": "oct"}, "k is missing"),
        ({"kty": "OKP", "crv": "Ed25519", "d": encoded(bytes(32))}, "x is missing"),
    ],
)  # fmt: skip
def test_a_secret_or_private_key_that_cannot_be_used(entry: Any, said: str) -> None:
    assert said in refusal(entry, is_public=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"), (b"<html>", "not JSON"), (b"\xff\xfe", "not JSON"), (b"{", "not JSON"),
        (b"-----BEGIN PUBLIC KEY-----", "not JSON"), ('{"keys": []}'.encode("utf-16"), "not JSON"),
        (b"[" * 100_000, "not JSON"), (b'{"keys": ' * 50_000, "not JSON"),
        (b'{"keys": [{"kty": ' + b"1" * 5000 + b"}]}", "not JSON"),
        (b"null", "not a JWK set"), (b"[]", "not a JWK set"), (b"{}", "not a JWK set"),
        (b'"keys"', "not a JWK set"),
        (b'{"keys": {}}', "not a JWK set"), (b'{"keys": null}', "not a JWK set"),
        (b'{"Keys": []}', "not a JWK set"),
        (json.dumps(PUBLIC).encode(), "put the key in a set"),
        (key_set(*[PUBLIC] * (MAX_KEYS + 1)), f"{MAX_KEYS + 1} keys; the limit is {MAX_KEYS}"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_set(text: bytes, said: str) -> None:
    with pytest.raises(KeyMaterialError) as caught:
        parse(text, ALGORITHMS, is_public=True)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_empty_set_is_one() -> None:
    assert read() == KeySet(())
    assert len(read(*[PUBLIC] * MAX_KEYS).keys) == MAX_KEYS


def test_nothing_secret_is_in_a_representation() -> None:
    found = read(secret(kid="s"), jwk(RSA), is_public=False)
    assert repr(found).count("Key(") == 2
    assert str(secret()["k"]) not in repr(found)
    assert "kid='s'" in repr(found)


# --- how long it is good ---


@pytest.mark.parametrize(
    ("cache_control", "age", "seconds"),
    [
        ("", "", 3600), ("public", "", 3600), ("max-age=7200", "", 7200), ("public, max-age=7200", "", 7200),
        ("MAX-AGE = 7200 , public", "", 7200), ('max-age="7200"', "", 7200), ("max-age=0", "", 300),
        ("max-age=299", "", 300), ("max-age=301", "", 301), ("max-age=86401", "", 86400),
        ("max-age=99999999999999999999", "", 86400), ("max-age=" + "9" * 5000, "", 86400),
        ("max-age=7200, max-age=600", "", 600), ("s-maxage=600", "", 3600), ("x-max-age=600", "", 3600),
        ("max-age", "", 3600), ("max-age=", "", 3600), ("max-age=-1", "", 3600), ("max-age=1e3", "", 3600),
        ("max-age=\u0661\u0661\u0661\u0661", "", 3600),
        ("no-store", "", 300), ("no-cache", "", 300), ("no-cache, max-age=7200", "", 300),
        ("max-age=7200,No-Store", "", 300), ('no-cache="set-cookie", max-age=7200', "", 300),
        ("x-no-store, max-age=7200", "", 7200), ("no-transform, max-age=7200", "", 7200),
        ("max-age=7200", "200", 7000), ("max-age=7200", "7199", 300), ("max-age=7200", "9" * 5000, 300),
        ("max-age=7200", "-5", 7200), ("max-age=7200", "x", 7200), ("", "1000", 3600),
    ],
)  # fmt: skip
def test_the_lifetime_of_a_fetched_set(cache_control: str, age: str, seconds: float) -> None:
    assert lifetime(cache_control, age) == seconds
