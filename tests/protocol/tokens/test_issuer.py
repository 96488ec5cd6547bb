"""Which key of an issuer a token can have: only its own, by name, and what happens when they change."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from mercure_hub.protocol.errors import KeyUnknown, TokenInvalid
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.claims import Role, decoded
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.tokens.issuer import Issuer, RemoteKeys, check_extensions, fits
from mercure_hub.protocol.tokens.keys import ALGORITHMS, ASYMMETRIC, Key
from tests.protocol.tokens.test_access_token import EC, ED, HUB, NOW, RSA, SUBSCRIBER, claims, old, sign

ISSUER = "https://login.example.com"
REMOTE = RemoteKeys("https://login.example.com/jwks.json", ASYMMETRIC)
A = Key(EC.public_key(), ("ES256",), "a")
B = Key(ED.public_key(), ("EdDSA",), "b")
NAMELESS = Key(RSA.public_key(), ("RS256",))
SIGNING: dict[str, Any] = {"ES256": EC, "EdDSA": ED, "RS256": RSA, "HS256": SUBSCRIBER.material}


def issuer(*keys: Key, remote: RemoteKeys | None = None, identifier: str = ISSUER) -> Issuer:
    return Issuer(identifier, keys, keys, remote)


def token(algorithm: str, typ: str = "at+jwt", *, iss: str = ISSUER, **header: Any) -> str:
    content = claims(iss=iss) if typ == "at+jwt" else old(subscribe=["*"])
    return sign({"alg": algorithm, "typ": typ, **header}, content, SIGNING[algorithm], algorithm)


def verify(given: str, *issuers: Issuer, role: Role = "subscribe") -> Grant:
    return TokenVerifier(issuers).verify(given, role, HUB, NOW)


def refusal(given: str, *issuers: Issuer, role: Role = "subscribe") -> TokenInvalid:
    with pytest.raises(TokenInvalid) as caught:
        verify(given, *issuers, role=role)
    assert len(caught.value.cause.splitlines()) == 1
    assert len(caught.value.cause) < 800
    return caught.value


# --- kid ---


@pytest.mark.parametrize(
    ("algorithm", "header"),
    [
        ("ES256", {"kid": "a"}), ("ES256", {}), ("EdDSA", {"kid": "b"}), ("EdDSA", {}),
        ("RS256", {}), ("RS256", {"kid": "a name that only the signer knows"}),
    ],
)  # fmt: skip
def test_the_key_is_found(algorithm: str, header: dict[str, Any]) -> None:
    assert verify(token(algorithm, **header), issuer(A, B, NAMELESS)).fingerprint


@pytest.mark.parametrize(
    ("algorithm", "header", "said"),
    [
        ("ES256", {"kid": "b"}, "does not match the key 'b' of 'https://login.example.com' with alg 'ES256'"),
        ("RS256", {"kid": "a"}, "does not match the key 'a'"),
        ("EdDSA", {"kid": "c"}, "kid is 'c'; the subscriber keys of 'https://login.example.com' are ['a',"),
        ("ES256", {"kid": "A"}, "kid is 'A'"), ("ES256", {"kid": ""}, "kid is ''"),
        ("ES256", {"kid": "a "}, "kid is 'a '"),
        ("ES256", {"kid": None}, "kid is None, not a string"), ("ES256", {"kid": 1}, "not a string"),
        ("ES256", {"kid": ["a"]}, "not a string"), ("ES256", {"kid": "x\r\ny" * 1000}, "kid is 'x\\r\\nyx"),
        ("HS256", {"kid": "a"}, "alg is 'HS256'; the subscriber key is used with ES256, EdDSA, RS256"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_the_key_is_not_found(algorithm: str, header: dict[str, Any], said: str) -> None:
    error = refusal(token(algorithm, **header), issuer(A, B, NAMELESS))
    assert said in error.cause
    assert not isinstance(error, KeyUnknown)  # there is nobody to ask


def test_only_the_key_of_the_kid_is_tried() -> None:
    same = Key(EC.public_key(), ("ES256",), "other")
    wrong = Key(ec.generate_private_key(ec.SECP256R1()).public_key(), ("ES256",), "a")
    assert verify(token("ES256", kid="other"), issuer(replace(A, kid="x"), same)).fingerprint
    refusal(token("ES256", kid="a"), issuer(wrong, same))
    both = issuer(Key(ED.public_key(), ("EdDSA",), "same"), replace(A, kid="same"))
    assert verify(token("ES256", kid="same"), both).fingerprint
    assert verify(token("EdDSA", kid="same"), both).fingerprint


@pytest.mark.parametrize("count", [15, 16])
def test_a_token_is_not_tried_with_any_number_of_keys(count: int) -> None:
    """Without ``kid`` each key is tried, and many keys would make junk dear for us."""
    many = [
        Key(ed25519.Ed25519PrivateKey.generate().public_key(), ("EdDSA",), str(number))
        for number in range(count)
    ]
    subject = issuer(*many, B, A, NAMELESS)
    assert verify(token("EdDSA", kid="b"), subject).fingerprint
    assert verify(token("ES256"), subject).fingerprint
    if count < 16:
        assert verify(token("EdDSA"), subject).fingerprint
    else:
        assert "17 keys of 'https://login.example.com' could" in refusal(token("EdDSA"), subject).cause


def test_keys_in_the_header_are_not_used() -> None:
    own = issuer(B)
    for header in ({"jwk": {"kty": "EC"}}, {"jku": REMOTE.url}, {"x5u": REMOTE.url}, {"x5c": ["AA"]}):
        assert verify(token("EdDSA", kid="b", **header), own).fingerprint
        refusal(token("ES256", **header), own)


def test_the_algorithm_must_be_one_of_the_key() -> None:
    rsa_pss = Key(RSA.public_key(), ("PS256",), "r")
    assert (
        "alg is 'RS256'; the subscriber key is used with PS256"
        in refusal(token("RS256"), issuer(rsa_pss)).cause
    )
    refusal(token("RS256", kid="r"), issuer(rsa_pss, NAMELESS))


# --- several issuers ---


def test_each_issuer_has_its_keys() -> None:
    one, other = issuer(A, B), issuer(NAMELESS, SUBSCRIBER, identifier="urn:other")
    assert verify(token("ES256", kid="a"), one, other).fingerprint
    assert verify(token("RS256", iss="urn:other"), one, other).fingerprint
    for given in (
        token("ES256", iss="urn:other"), token("ES256", iss="urn:other", kid="a"), token("RS256"),
        token("RS256", kid="a"), token("HS256"), token("HS256", kid="b"),
    ):  # fmt: skip
        refusal(given, one, other)
        refusal(given, other, one)
    assert (
        "trusted is 'https://login.example.com', 'urn:other'"
        in refusal(token("ES256", iss="x"), one, other).cause
    )


def test_a_kid_of_two_issuers_is_that_of_the_one_that_is_named() -> None:
    one, other = issuer(A), issuer(replace(B, kid="a"), identifier="urn:other")
    assert verify(token("ES256", kid="a"), one, other).fingerprint
    assert verify(token("EdDSA", kid="a", iss="urn:other"), one, other).fingerprint
    refusal(token("EdDSA", kid="a"), one, other)
    refusal(token("ES256", kid="a", iss="urn:other"), one, other)


def test_the_role_decides_too() -> None:
    only = Issuer(ISSUER, (), (A,), None)
    assert verify(token("ES256"), only).fingerprint
    assert "no publisher key is configured for" in refusal(token("ES256"), only, role="publish").cause
    split = Issuer(ISSUER, (B,), (A,))
    assert "are ['b']" in refusal(token("EdDSA", kid="a"), split, role="publish").cause


def test_0x_tokens_go_to_the_first_issuer_or_to_the_only_one_with_their_kid() -> None:
    first, second = issuer(NAMELESS, B, identifier="urn:first"), issuer(A, replace(NAMELESS, kid="b"))
    assert verify(token("RS256", "JWT"), first, second).is_old
    assert verify(token("ES256", "JWT", kid="a"), first, second).is_old
    assert verify(token("EdDSA", "JWT", kid="b"), first, second).is_old  # two have it: the first
    assert verify(token("RS256", "JWT", kid="unknown"), first, second).is_old
    for given in (token("ES256", "JWT"), token("ES256", "JWT", kid="b"), token("ES256", "JWT", kid="c")):
        refusal(given, first, second)
    assert "not a string" in refusal(token("RS256", "JWT", kid=[]), first, second).cause


# --- keys that may change ---


@pytest.mark.parametrize(
    ("keys", "given", "said"),
    [
        ((), token("ES256", kid="a"), "the subscriber keys of 'https://login.example.com' are not"),
        ((), token("ES256"), "not fetched yet"),
        ((B,), token("ES256", kid="a"), "kid is 'a'; the subscriber keys"),
        ((B,), token("ES256"), "the signature does not match"),
        ((B, NAMELESS), token("ES256", kid="c"), "kid is 'c'"),
        ((), token("ES256", "JWT"), "not fetched yet"),
    ],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
def test_a_key_that_may_be_new(keys: tuple[Key, ...], given: str, said: str) -> None:
    error = refusal(given, issuer(remote=REMOTE).with_keys(keys))
    assert isinstance(error, KeyUnknown)
    assert error.issuer == ISSUER
    assert said in error.cause


@pytest.mark.parametrize(
    "given",
    [
        token("HS256"), token("HS256", kid="x"), token("ES256", kid=1), token("RS256", kid="a"),
        token("EdDSA", kid="a"),
        token("ES256", iss="urn:other", kid="x"), token("ES256", kid="a")[:-8] + "AAAAAAAA",
        sign({"alg": "none", "typ": "at+jwt", "kid": "x"}, claims(iss=ISSUER)),
    ],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
def test_a_token_that_no_new_key_can_save(given: str) -> None:
    assert not isinstance(refusal(given, issuer(A, remote=REMOTE)), KeyUnknown)


def test_an_algorithm_that_is_not_allowed_asks_nobody() -> None:
    remote = replace(REMOTE, algorithms=("RS256",))
    assert not isinstance(refusal(token("ES256", kid="x"), issuer(remote=remote)), KeyUnknown)
    assert isinstance(refusal(token("RS256", kid="x"), issuer(remote=remote)), KeyUnknown)


def test_fetched_keys_are_for_the_roles_of_the_set() -> None:
    remote = replace(REMOTE, roles=("subscribe",))
    found = Issuer(ISSUER, (B,), (B,), remote).with_keys((A,))
    assert found.publish == (B,)
    assert found.subscribe == (B, A)
    assert not isinstance(refusal(token("ES256", kid="x"), found, role="publish"), KeyUnknown)
    assert isinstance(refusal(token("ES256", kid="x"), found), KeyUnknown)
    assert Issuer(ISSUER, (B,), ()).with_keys((A,)) == Issuer(ISSUER, (B,), ())


class TestRotation:
    base = issuer(remote=REMOTE)

    def subject(self, *keys: Key) -> TokenVerifier:
        subject = TokenVerifier([issuer(NAMELESS, identifier="urn:first"), self.base])
        subject.trust(self.base.with_keys(keys))
        return subject

    def test_a_new_key_is_used(self) -> None:
        subject, given = self.subject(B), token("ES256", kid="a")
        with pytest.raises(KeyUnknown):
            subject.verify(given, "subscribe", HUB, NOW)
        subject.trust(self.base.with_keys((B, A)))
        assert subject.verify(given, "subscribe", HUB, NOW).fingerprint

    def test_tokens_of_a_key_that_is_gone_are_forgotten(self) -> None:
        subject = self.subject(A, B)
        gone, stays, others = token("ES256"), token("EdDSA", kid="b"), token("RS256", iss="urn:first")
        grants = [subject.verify(given, "subscribe", HUB, NOW) for given in (gone, stays, others)]
        subject.verify(gone, "publish", HUB, NOW)
        subject.trust(self.base.with_keys((replace(B, material=ED.public_key()),)))
        for role in ("publish", "subscribe"):
            with pytest.raises(KeyUnknown):
                subject.verify(gone, role, HUB, NOW)
        assert subject.verify(stays, "subscribe", HUB, NOW) is grants[1]
        assert subject.verify(others, "subscribe", HUB, NOW) is grants[2]

    def test_another_key_under_the_same_kid(self) -> None:
        subject, given = self.subject(A), token("ES256", kid="a")
        subject.verify(given, "subscribe", HUB, NOW)
        subject.trust(self.base.with_keys((replace(B, kid="a"),)))
        with pytest.raises(TokenInvalid, match="does not match the key 'a'"):
            subject.verify(given, "subscribe", HUB, NOW)

    def test_the_first_issuer_stays_the_first(self) -> None:
        subject = TokenVerifier([self.base, issuer(NAMELESS, identifier="urn:other")])
        subject.trust(self.base.with_keys((A,)))
        assert subject.verify(token("ES256", "JWT"), "subscribe", HUB, NOW).is_old


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


def signed_token(algorithm: str, claims: Mapping[str, object] | None = None) -> str:
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
def test_each_algorithm_verifies(algorithm: str) -> None:
    token = signed_token(algorithm)
    assert we_say(token, algorithm) and pyjwt_says(token, algorithm)
    signed, signature = token.rsplit(".", 1)
    data = bytearray(base64.urlsafe_b64decode(signature + "=="))
    data[len(data) // 2] ^= 1
    changed = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for other in (
        f"{signed}.{changed}",
        f"{signed}.",
        f"{signed}.{signature[:-4]}",
        f"{signed}.{signature}AAAA",
        f"{signed_token(algorithm, {'sub': 'Eve'}).rsplit('.', 1)[0]}.{signature}",
        f"{signed}A.{signature}",
        f"A{signed}.{signature}",
    ):
        assert we_say(other, algorithm) is pyjwt_says(other, algorithm) is False, other


def test_a_key_of_ed448() -> None:
    private = ed448.Ed448PrivateKey.generate()
    key = Key(private.public_key(), ("EdDSA",))
    assert fits(jwt.encode({}, private, "EdDSA"), "EdDSA", key)
    assert not fits(signed_token("EdDSA"), "EdDSA", key)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_each_last_character_of_a_signature(algorithm: str) -> None:
    """Its lowest bits may stand for nothing; then there is one right way to write it."""
    token = signed_token(algorithm)
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
                assert not fits(signed_token(one), one, Key(pair(other)[1].material, (one,)))
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
            fits(signed_token("HS256"), "HS256", Key(secret, ("HS256",)))


@pytest.mark.parametrize(
    ("text", "data"),
    [("", b""), ("AA", b"\0"), ("AAA", b"\0\0"), ("AAAA", b"\0\0\0"), ("-_-_", b"\xfb\xff\xbf")],
)
def test_base64url_of_tokens(text: str, data: bytes) -> None:
    assert decoded(text) == data


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
def test_extensions_are_refused(header: Mapping[str, object], is_fine: bool) -> None:
    if is_fine:
        check_extensions(header)
    else:
        with pytest.raises(TokenInvalid):
            check_extensions(header)
