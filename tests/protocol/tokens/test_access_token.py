"""Access tokens: all that RFC 9068, RFC 8725 and the spec refuse, and the two generations side by side."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from mercure_hub.protocol.errors import Section, TokenInvalid
from mercure_hub.protocol.matching.matcher import make
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE, Protocol, Role
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import Key
from mercure_hub.protocol.topics import MatcherType

NOW = 1_800_000_000.0
HUB = "https://hub.example.com/.well-known/mercure"
ISSUER = "urn:flask-mercure"
PUBLISHER = Key(b"publisher-secret-publisher-secret-publisher-secret-publisher-secret", ("HS256",))
SUBSCRIBER = Key(b"subscriber-secret-subscriber-secret-subscriber-secret-subscribers", ("HS256",))
KEYS: dict[Role, Key] = {"publish": PUBLISHER, "subscribe": SUBSCRIBER}
RSA, EC, ED = (
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
)
BOOKS = "https://example.com/books/1"

ALGORITHMS = get_default_algorithms()
Header = dict[str, Any]
Claims = dict[str, Any]


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(
    header: Header | str, payload: object, key: Any = SUBSCRIBER.material, algorithm: str = "HS256"
) -> str:
    """A JWS of whatever is given; a ``str`` is taken as it is."""
    first = header if isinstance(header, str) else json.dumps(header)
    second = payload if isinstance(payload, str) else json.dumps(payload)
    text = f"{segment(first.encode())}.{segment(second.encode())}"
    signer = ALGORITHMS[algorithm]
    return f"{text}.{segment(signer.sign(text.encode(), signer.prepare_key(key)))}"


HEADER: Header = {"alg": "HS256", "typ": "at+jwt"}
OLD_HEADER: Header = {"alg": "HS256", "typ": "JWT"}


def detail(*topics: Any, actions: Any = ("subscribe",), **more: Any) -> dict[str, Any]:
    return {"type": DETAIL_TYPE, "actions": list(actions), "topics": list(topics), **more}


def claims(*details: Any, **changed: Any) -> Claims:
    return {
        "iss": ISSUER,
        "aud": HUB,
        "sub": "somebody",
        "client_id": "client",
        "iat": int(NOW) - 10,
        "exp": int(NOW) + 300,
        "jti": "1",
        "authorization_details": list(details) or [detail({"match": BOOKS})],
        **changed,
    }


def without(name: str, given: Claims | None = None) -> Claims:
    return {key: value for key, value in (given or claims()).items() if key != name}


def old(**claim: Any) -> Claims:
    return {"mercure": claim}


def verifier(protocol: Protocol = "both", remembered: int = 1024, *more: Issuer) -> TokenVerifier:
    return TokenVerifier([Issuer(ISSUER, (PUBLISHER,), (SUBSCRIBER,)), *more], protocol, remembered)


def verify(token: str, role: Role = "subscribe", protocol: Protocol = "both") -> Grant:
    return verifier(protocol).verify(token, role, HUB, NOW)


def refused(token: str, role: Role = "subscribe", protocol: Protocol = "both") -> str:
    with pytest.raises(TokenInvalid) as refusal:
        verify(token, role, protocol)
    cause = refusal.value.cause
    assert "\n" not in cause
    assert "\r" not in cause
    assert len(cause) < 800
    for part in (token, *(part for part in token.split(".") if len(part) > 12)):
        assert part not in cause, "the cause shows the token"
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert refusal.value.code == "invalid_token"
    return cause


# --- what is accepted ---


def test_the_example_of_the_spec() -> None:
    grant = verify(
        sign(HEADER, claims(detail({"match": "https://example.com/books/:id", "match_type": "urlpattern"})))
    )
    assert grant.subscribe.covers("https://example.com/books/1")
    assert not grant.subscribe.covers("https://example.com/films/1")
    assert not grant.publish.covers("https://example.com/books/1")
    assert grant.expires_at == NOW + 300


def test_the_role_chooses_the_key() -> None:
    token = sign(HEADER, claims(detail({"match": "a"}, actions=["publish", "subscribe"])), PUBLISHER.material)
    grant = verify(token, "publish")
    assert grant.publish.covers("a")
    assert grant.subscribe.covers("a")
    assert refused(token, "subscribe") == "the signature does not match the subscriber key"
    assert refused(sign(HEADER, claims()), "publish") == "the signature does not match the publisher key"


@pytest.mark.parametrize(
    "typ", ["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "Application/AT+jwt", "APPLICATION/AT+JWT"]
)
def test_typ_is_compared_without_case_and_prefix(typ: str) -> None:
    assert verify(sign({"alg": "HS256", "typ": typ}, claims())).subscribe.covers(BOOKS)


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "unknown"}, {"kid": ""}, {"cty": "x"}, {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/"}, {"x5c": ["x"]},
        {"jwk": {"kty": "oct", "k": "c2VjcmV0"}}, {"b64": True}, {"extra": {"deep": [1]}},
    ],
)  # fmt: skip
def test_what_a_header_says_of_keys_is_ignored(header: Header) -> None:
    assert verify(sign({**HEADER, **header}, claims())).subscribe.covers(BOOKS)


@pytest.mark.parametrize("aud", [HUB, [HUB], ["other", HUB], [HUB, HUB], [None, 1, {}, HUB]])
def test_audiences_that_are_accepted(aud: object) -> None:
    assert verify(sign(HEADER, claims(aud=aud))).subscribe.covers(BOOKS)


@pytest.mark.parametrize(
    ("changed", "expires_at"),
    [
        ({"exp": NOW + 1}, NOW + 1),
        ({"exp": NOW + 0.5}, NOW + 0.5),
        ({"exp": int(NOW) + 1}, NOW + 1),
        ({"exp": 10**400}, 2**53),
        ({"exp": 1e300}, 2**53),
        ({"nbf": NOW}, NOW + 300),
        ({"nbf": 0}, NOW + 300),
        ({"nbf": -(10**400)}, NOW + 300),
        ({"nbf": NOW - 0.5}, NOW + 300),
        ({"iat": NOW + 1000}, NOW + 300),
        ({"iat": "x", "jti": None, "sub": 1, "client_id": []}, NOW + 300),
    ],
)
def test_times_that_are_accepted(changed: Claims, expires_at: float) -> None:
    grant = verify(sign(HEADER, claims(**changed)))
    assert grant.expires_at == expires_at
    assert isinstance(grant.expires_at, float)
    assert math.isfinite(grant.expires_at)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "PS512"), (EC, "ES256"), (ED, "EdDSA")],
    ids=["RS256", "PS512", "ES256", "EdDSA"],
)
def test_asymmetric_keys(key: Any, algorithm: str) -> None:
    own = Key(key.public_key(), (algorithm,))
    token = sign({"alg": algorithm, "typ": "at+jwt"}, claims(), key, algorithm)
    grant = TokenVerifier([Issuer(ISSUER, (), (own,))]).verify(token, "subscribe", HUB, NOW)
    assert grant.subscribe.covers(BOOKS)
    with pytest.raises(TokenInvalid, match="publisher key"):
        TokenVerifier([Issuer(ISSUER, (), (own,))]).verify(token, "publish", HUB, NOW)


def test_keys_may_be_rotated() -> None:
    issuer = Issuer(
        ISSUER,
        (),
        (Key(RSA.public_key(), ("RS256",)), Key(EC.public_key(), ("ES256",)), PUBLISHER, SUBSCRIBER),
    )
    many = TokenVerifier([issuer])
    for token in (
        sign(HEADER, claims()),
        sign({**HEADER, "alg": "ES256"}, claims(), EC, "ES256"),
        sign({**HEADER, "alg": "RS256"}, claims(), RSA, "RS256"),
    ):
        assert many.verify(token, "subscribe", HUB, NOW).subscribe.covers(BOOKS)
    with pytest.raises(TokenInvalid, match="signature does not match"):
        many.verify(sign(HEADER, claims(), b"another secret, another secret, another"), "subscribe", HUB, NOW)


def test_the_keys_of_another_issuer_are_not_tried() -> None:
    other = Issuer("https://as.example", (), (Key(EC.public_key(), ("ES256",)),))
    both = verifier("both", 10, other)
    own = sign({**HEADER, "alg": "ES256"}, claims(iss="https://as.example"), EC, "ES256")
    assert both.verify(own, "subscribe", HUB, NOW).subscribe.covers(BOOKS)
    for token in (
        sign({**HEADER, "alg": "ES256"}, claims(), EC, "ES256"),  # signed by one, in the name of the other
        sign(HEADER, claims(iss="https://as.example")),
    ):
        with pytest.raises(TokenInvalid):
            both.verify(token, "subscribe", HUB, NOW)


# --- what is refused ---


@pytest.mark.parametrize(
    "typ",
    [
        "JWT",
        "jwt",
        "",
        " at+jwt",
        "at+jwt ",
        "at+jwt;x",
        "at jwt",
        "text/at+jwt",
        "application/application/at+jwt",
        "at+jwt\n",
        "id_token+jwt",
        None,
        1,
        True,
        ["at+jwt"],
        {},
    ],
)
def test_a_token_of_another_typ(typ: object) -> None:
    token = sign({"alg": "HS256", "typ": typ}, claims())
    assert refused(token).startswith("typ is")
    assert refused(token, protocol="1.0").startswith("typ is")


def test_a_token_without_typ() -> None:
    assert refused(sign({"alg": "HS256"}, claims())) == "typ is None, it must be 'at+jwt'"


@pytest.mark.parametrize(
    "algorithm",
    [
        "none",
        "None",
        "NONE",
        "",
        "hs256",
        "HS384",
        "HS512",
        "RS256",
        "ES256",
        None,
        0,
        True,
        ["HS256"],
        {"HS256": 1},
    ],
)
def test_a_token_with_another_alg(algorithm: object) -> None:
    assert refused(sign({**HEADER, "alg": algorithm}, claims())).startswith("alg is")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256"])
def test_a_token_without_signature(algorithm: str) -> None:
    unsigned = sign({**HEADER, "alg": algorithm}, claims()).rpartition(".")[0] + "."
    refused(unsigned)
    refused(unsigned.rstrip("."))


def test_a_token_without_alg() -> None:
    assert refused(sign({"typ": "at+jwt"}, claims())).startswith(
        "alg is None; the subscriber key is used with HS256"
    )


@pytest.mark.parametrize(
    "form", [serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1]
)
@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_the_public_key_is_no_secret(
    form: serialization.PublicFormat, encoding: serialization.Encoding
) -> None:
    public = RSA.public_key().public_bytes(encoding, form)
    text = ".".join(segment(json.dumps(part).encode()) for part in (HEADER, claims()))
    algorithm = ALGORITHMS["HS256"]
    token = f"{text}.{segment(algorithm.sign(text.encode(), public))}"
    own = Key(RSA.public_key(), ("RS256",))
    with pytest.raises(TokenInvalid, match="alg is 'HS256'; the subscriber key is used with RS256"):
        TokenVerifier([Issuer(ISSUER, (), (own,))]).verify(token, "subscribe", HUB, NOW)
    mixed = TokenVerifier([Issuer(ISSUER, (), (own, SUBSCRIBER))])
    with pytest.raises(TokenInvalid, match="signature does not match"):
        mixed.verify(token, "subscribe", HUB, NOW)


def test_a_key_in_the_header_is_not_used() -> None:
    evil = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(evil.public_key()))
    token = sign({"alg": "ES256", "typ": "at+jwt", "jwk": jwk}, claims(), evil, "ES256")
    own = TokenVerifier([Issuer(ISSUER, (), (Key(EC.public_key(), ("ES256",)),))])
    with pytest.raises(TokenInvalid, match="signature does not match"):
        own.verify(token, "subscribe", HUB, NOW)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("part", [0, 1])
def test_json_is_utf8(part: int, encoding: str) -> None:
    parts = [json.dumps(HEADER).encode(), json.dumps(claims()).encode()]
    parts[part] = (
        parts[part].replace(b"}", b', "x": "e"}').decode().replace('"e"', '"\u00e9"').encode(encoding)
    )
    text = ".".join(segment(data) for data in parts)
    signer = ALGORITHMS["HS256"]
    refused(f"{text}.{segment(signer.sign(text.encode(), SUBSCRIBER.material))}")


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("padding", ["=", "=="])
def test_padding_of_a_token_is_refused(part: int, padding: str) -> None:
    parts = sign(HEADER, claims()).split(".")
    parts[part] += padding
    refused(".".join(parts))


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 5, -2])
def test_each_part_is_signed(part: int, place: int) -> None:
    parts = sign(HEADER, claims()).split(".")
    chars = list(parts[part])
    chars[place] = "A" if chars[place] != "A" else "B"
    parts[part] = "".join(chars)
    refused(".".join(parts))


@pytest.mark.parametrize(
    "iss",
    [
        None,
        "",
        "urn:other",
        "URN:FLASK-MERCURE",
        f"{ISSUER} ",
        f"{ISSUER}/",
        1,
        True,
        [ISSUER],
        {"a": ISSUER},
        "x" * 5000,
        "a\nb",
    ],
)
def test_a_token_of_another_issuer(iss: object) -> None:
    cause = refused(sign(HEADER, claims(iss=iss)))
    assert cause.startswith("iss is")
    assert ISSUER in cause


def test_a_token_without_issuer() -> None:
    assert refused(sign(HEADER, without("iss"))).startswith("iss is None; trusted is 'urn:flask-mercure'")


@pytest.mark.parametrize(
    "aud",
    [
        None, "", [], {}, 1, True, "https://other.example/.well-known/mercure", f"{HUB}/", HUB.upper(),
        HUB[:-1], [f"{HUB}/"], [[HUB]], {HUB: 1},
        [{"a": HUB}], f"{HUB} ", [None], "*", ["*"], "x" * 5000,
    ],
)  # fmt: skip
def test_a_token_for_another_audience(aud: object) -> None:
    assert refused(sign(HEADER, claims(aud=aud))).startswith("aud is")


def test_a_token_without_audience() -> None:
    assert refused(sign(HEADER, without("aud"))).startswith("aud is None; this hub is")


def test_an_audience_with_the_other_scheme_gets_a_hint() -> None:
    cause = refused(sign(HEADER, claims(aud=HUB.replace("https", "http"))))
    assert "MERCURE_TRUSTED_PROXIES" in cause
    assert "MERCURE_TRUSTED_PROXIES" not in refused(sign(HEADER, claims(aud="https://other.example/")))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("exp", NOW, "expired 0 s ago"),
        ("exp", NOW - 0.001, "expired"),
        ("exp", 0, "expired"),
        ("exp", -1, "expired"),
        ("exp", -(10**400), "expired"),
        ("exp", None, "exp is None, not a number"),
        ("exp", str(int(NOW) + 300), "not a number"),
        ("exp", "", "not a number"),
        ("exp", True, "exp is True, not a number"),
        ("exp", [NOW + 300], "not a number"),
        ("exp", {}, "not a number"),
        ("nbf", NOW + 0.5, "not valid before"),
        ("nbf", NOW + 60, "not valid before 60 s from now"),
        ("nbf", 10**400, "not valid before"),
        ("nbf", None, "nbf is None, not a number"),
        ("nbf", "0", "not a number"),
        ("nbf", False, "not a number"),
    ],
)
@pytest.mark.parametrize("header", [HEADER, OLD_HEADER], ids=["1.0", "0.x"])
def test_times_that_are_refused(header: Header, name: str, value: object, said: str) -> None:
    payload = claims(**{name: value}) if header is HEADER else {**old(subscribe=["*"]), name: value}
    assert said in refused(sign(header, payload))


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["exp", "nbf", "iat", "x"])
def test_numbers_that_are_none(place: str, literal: str) -> None:
    payload = json.dumps(claims(**{place: "@"})).replace('"@"', literal)
    refused(sign(HEADER, payload))
    refused(sign(OLD_HEADER, f'{{"mercure": {{"subscribe": ["*"]}}, "{place}": {literal}}}'))


def test_a_token_without_expiry() -> None:
    assert refused(sign(HEADER, without("exp"))) == "the exp claim is missing"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["x"], "x": 1}, {"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": "x"}, {"crit": None},
        {"crit": [1]}, {"crit": {}}, {"crit": ["b64"]},
        {"crit": ["a\nforged log line"]}, {"b64": False}, {"b64": False, "crit": ["b64"]}, {"kid": 1},
        {"kid": None}, {"kid": ["x"]},
    ],
)  # fmt: skip
def test_headers_that_are_refused(header: Header) -> None:
    refused(sign({**HEADER, **header}, claims()))


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_what_is_not_known_in_a_header_is_ignored_however_long(size: int) -> None:
    header = {**HEADER, "x": "y" * size}
    for _ in range(2):  # the header may be remembered, and the signature may not
        assert verify(sign(header, claims())).subscribe.covers(BOOKS)
        refused(sign(header, claims(), b"x" * 64))


def test_a_detached_payload_is_refused() -> None:
    header = {"typ": "at+jwt", "b64": False}
    secret = b"subscriber-secret-subscriber-secret-subscriber-secret-subscribers"
    token = jwt.PyJWS().encode(json.dumps(claims()).encode(), secret, "HS256", header)
    refused(token)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "null",
        "[]",
        '"x"',
        "1",
        "true",
        "{",
        "{}{}",
        "nul",
        "{'a': 1}",
        '{"a": 1,}',
        "\ufeff{}",
        "[" * 2000,
        '{"a":' * 1000,
        "x" * 100,
    ],
)
@pytest.mark.parametrize("header", [HEADER, OLD_HEADER], ids=["1.0", "0.x"])
def test_a_payload_that_is_no_object(header: Header, payload: str) -> None:
    refused(sign(header, payload))


@pytest.mark.parametrize(
    "header", ["", "null", "[]", '"x"', "{", "[" * 2000, '{"a":' * 1000, '{"alg":"HS256","typ":"at+jwt"', "1"]
)
def test_a_header_that_is_no_object(header: str) -> None:
    refused(sign(header, claims()))


@pytest.mark.parametrize(
    "token",
    [
        "", " ", ".", "..", "...", "a", "a.b", "a.b.c", "a.b.c.d", "....", "é.é.é", "\ud800.\ud800.\ud800",
        "\0.\0.\0", "e30.e30.", "e30.e30.e30", "Bearer x",
        "e30", "e30.e30", "eyJhbGciOiJub25lIn0.e30.", "%%%.%%%.%%%", "💥" * 5000, "." * 16000, "e30." * 4000,
    ],
)  # fmt: skip
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(TokenInvalid):
        verify(token)


@pytest.mark.parametrize(
    "change",
    [
        " {}",
        "{} ",
        "{}\n",
        "\t{}",
        "{}\r\n",
        "\ufeff{}",
        "{}.",
        ".{}",
        "{}.e30",
        "{}é",
        "{}\0",
        '"{}"',
        "Bearer {}",
        "{}!",
        "{}#x",
    ],
)
def test_nothing_may_stand_around_a_token(change: str) -> None:
    refused(change.format(sign(HEADER, claims())))


@pytest.mark.parametrize("junk", [" ", "\n", "!", "é", "*", "+", "/"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_nothing_may_stand_within_a_token(part: int, junk: str) -> None:
    parts = sign(HEADER, claims()).split(".")
    parts[part] = parts[part][:8] + junk + parts[part][8:]
    refused(".".join(parts))


def test_a_token_that_is_too_long() -> None:
    assert "the limit is 16384" in refused(sign(HEADER, claims(x="x" * 20_000)))
    with pytest.raises(TokenInvalid, match="the limit is 16384"):
        verify("a" * 1_000_000)


def test_of_duplicate_claims_the_last_counts() -> None:
    payload = json.dumps(claims())
    assert verify(sign(HEADER, payload.replace("{", '{"exp": 0, "aud": "x", ', 1))).subscribe.covers(BOOKS)
    refused(sign(HEADER, payload[:-1] + ', "exp": 0}'))


@pytest.mark.parametrize("digits", [4000, 5000, 10_000])
def test_huge_numbers(digits: int) -> None:
    payload = json.dumps(claims(exp="@")).replace('"@"', "9" * digits)
    if digits <= 4300:
        assert verify(sign(HEADER, payload)).expires_at == 2**53
    else:
        refused(sign(HEADER, payload))


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "x", "authorization_details"])
@pytest.mark.parametrize("depth", [100, 500, 900, 990, 3000])
def test_deeply_nested_claims(name: str, depth: int) -> None:
    token = sign(HEADER, json.dumps(claims(**{name: "@"})).replace('"@"', "[" * depth + "]" * depth))
    try:
        grant = verify(token)
    except TokenInvalid as error:
        assert len(error.cause) < 800
    else:
        assert name == "x"
        assert grant.subscribe.covers(BOOKS)


# --- authorization details ---

MINE = detail({"match": "a"}, actions=["publish", "subscribe"])


@pytest.mark.parametrize("details", [None, {}, "x", 1, True, MINE, {"0": MINE}])
def test_details_that_are_no_array(details: object) -> None:
    assert (
        refused(sign(HEADER, claims(authorization_details=details)))
        == "authorization_details is not an array"
    )


@pytest.mark.parametrize("entry", [None, [], "x", 1, True, [MINE], DETAIL_TYPE])
def test_an_entry_that_is_no_object(entry: object) -> None:
    assert refused(sign(HEADER, claims(MINE, entry))) == "authorization_details[1] is not an object"


@pytest.mark.parametrize(
    "type_",
    [
        None,
        "",
        "mercure",
        DETAIL_TYPE.upper(),
        f"{DETAIL_TYPE}/",
        f" {DETAIL_TYPE}",
        "https://mercure.rocks/authorization-details",
        1,
        [DETAIL_TYPE],
        {},
    ],
)
def test_another_type_is_ignored(type_: object) -> None:
    foreign = {"type": type_, "actions": 1, "topics": "x", "payload": []}
    assert verify(sign(HEADER, claims(foreign, MINE))).subscribe.covers("a")
    grant = verify(sign(HEADER, claims({**MINE, "type": type_})))
    assert not grant.subscribe.covers("a")
    assert not grant.publish.covers("a")


def test_an_entry_without_a_type_is_ignored() -> None:
    assert not verify(sign(HEADER, claims(without("type", MINE)))).subscribe.covers("a")


@pytest.mark.parametrize(
    "payload",
    [
        without("authorization_details"),
        claims(authorization_details=[]),
        {**without("authorization_details"), "mercure": {"subscribe": ["*"], "publish": ["*"]}},
    ],
)
def test_a_token_without_details_grants_nothing(payload: Claims) -> None:
    grant = verify(sign(HEADER, payload))
    assert not grant.subscribe.covers("a")
    assert not grant.publish.covers("a")
    assert grant.expires_at == NOW + 300


NO_ACTIONS: list[Any] = [None, [], {}, "subscribe", 1, True, {"subscribe": 1}]
NO_ACTION: list[Any] = [None, 1, True, [], {}, ["publish"]]
NO_TOPICS: list[Any] = [None, [], {}, "a", 1, True, {"match": "a"}]
NO_TOPIC: list[Any] = [
    None, 1, True, "a", "*", [], ["a"], {}, {"Match": "a"}, {"match": None}, {"match": 1}, {"match": ["a"]},
    {"match": {}}, {"match": True},
]  # fmt: skip
NO_TYPE: list[Any] = [
    None, "", "Exact", "EXACT", "URLPattern", "topic", "regex", "match", " exact", "exact ", 1, True, [],
    ["exact"], {}, "x" * 1000, "a\nb",
]  # fmt: skip
NO_TEXT = ["\0", "a\nb", "\x7f", "\u200b", "\ufeff*", "\ud800"]
NO_PATTERN = ["(", "/:", "{", "/(a", "https://["]
NO_PAYLOAD: list[Any] = [None, [], "x", 1, True, [{}]]


def broken(**changed: Any) -> dict[str, Any]:
    return {**MINE, **changed}


def pattern(value: str) -> list[dict[str, str]]:
    return [{"match": value, "match_type": "urlpattern"}]


DEFECTS: list[tuple[dict[str, Any], str]] = [
    *((broken(actions=value), "actions is not an array") for value in NO_ACTIONS),
    (without("actions", MINE), "actions is not an array"),
    *((broken(actions=["subscribe", value]), "actions holds") for value in NO_ACTION),
    *((broken(topics=value), "topics is not an array") for value in NO_TOPICS),
    (without("topics", MINE), "topics is not an array"),
    *((broken(topics=[{"match": "a"}, value]), "topics[1] is not an object with") for value in NO_TOPIC),
    *((broken(topics=[{"match": "a", "match_type": value}]), "topics[0].match_type is") for value in NO_TYPE),
    *((broken(topics=[{"match": value}]), "control or format character") for value in NO_TEXT),
    *((broken(topics=pattern(value)), "not a well-formed URL Pattern") for value in NO_PATTERN),
    (broken(topics=pattern("/(\\w{1,200})")), "too costly"),
    (broken(topics=[{"match": "a" * 2049}]), "the limit is 2048"),
    (broken(topics=pattern("a" * 513)), "the limit for a URL Pattern is 512"),
    *((broken(payload=value), "payload is not an object") for value in NO_PAYLOAD),
    (broken(actions=["publish"], payload=[]), "payload is not an object"),
    (broken(actions=["x"], payload=1), "payload is not an object"),
    (broken(actions=["x"], topics=[1]), "is not an object with a string match"),
]


@pytest.mark.parametrize(("entry", "said"), DEFECTS)
def test_one_defect_invalidates_the_token(entry: dict[str, Any], said: str) -> None:
    """No partial acceptance: whatever stands beside it."""
    fitting = TokenVerifier([Issuer(ISSUER, (PUBLISHER,), (SUBSCRIBER,))])
    for details in ([entry], [entry, MINE], [MINE, entry], [{"type": "other"}, entry]):
        token = sign(HEADER, claims(*details))
        with pytest.raises(TokenInvalid) as refusal:
            fitting.verify(token, "subscribe", HUB, NOW)
        if len(token) <= 16384:
            assert said in refusal.value.cause
            assert (
                f"authorization_details[{details.index(entry)}]" in refusal.value.cause
                or "URL Pattern" in said
            )
        assert "\n" not in refusal.value.cause


def test_the_number_of_details_is_limited() -> None:
    small = {"type": DETAIL_TYPE, "actions": ["x"], "topics": [{"match": "a"}]}
    verify(sign(HEADER, claims(*[small] * 100)))
    assert "101 authorization details; the limit is 100" in refused(sign(HEADER, claims(*[small] * 101)))


@pytest.mark.parametrize(
    ("actions", "publish", "subscribe"),
    [
        (["publish"], True, False),
        (["subscribe"], False, True),
        (["publish", "subscribe"], True, True),
        (["subscribe", "subscribe"], False, True),
        (["x"], False, False),
        (["", "Publish", "SUBSCRIBE", "subscribe "], False, False),
        (["x", "publish", "y"], True, False),
    ],
)
def test_actions_of_a_detail(actions: list[str], publish: bool, subscribe: bool) -> None:
    grant = verify(sign(HEADER, claims(detail({"match": "a"}, actions=actions))))
    assert grant.publish.covers("a") is publish
    assert grant.subscribe.covers("a") is subscribe


@pytest.mark.parametrize(
    ("topic", "covered", "outside"),
    [
        ({"match": "a"}, ["a"], ["A", "", "*"]),
        ({"match": "a", "match_type": "exact"}, ["a"], ["b"]),
        ({"match": ""}, [""], ["a"]),
        ({"match": "*"}, ["a", "", "https://["], []),
        ({"match": "*", "match_type": "urlpattern"}, ["a", "https://["], []),
        ({"match": "/:id"}, ["/:id"], ["/1"]),
        ({"match": "/{id}"}, ["/{id}"], ["/1"]),
        (
            {"match": "/:id", "match_type": "urlpattern"},
            ["/1", "https://hub.example.com/1"],
            ["https://example.com/1", "/1/2"],
        ),
        ({"match": "a", "extra": 1, "payload": 2}, ["a"], ["b"]),
    ],
)
def test_topics_of_a_detail(topic: dict[str, Any], covered: list[str], outside: list[str]) -> None:
    grant = verify(sign(HEADER, claims(detail(topic))))
    assert grant.subscribe.covers_any(covered)
    assert grant.subscribe.first_outside(covered) is None
    assert [one for one in outside if grant.subscribe.covers(one)] == []


def test_payloads_are_those_of_subscribe_details() -> None:
    grant = verify(
        sign(
            HEADER,
            claims(
                detail({"match": "https://example.com/foo"}, payload={"n": 0}, actions=["publish"]),
                detail({"match": "https://example.com/foo"}, payload={"n": 1}),
                detail(
                    {"match": "https://example.com/bar/:id", "match_type": "urlpattern"}, payload={"n": 2}
                ),
                detail({"match": "https://example.com/plain"}),
                detail({"match": "*"}, payload={"n": 3}),
            ),
        )
    )

    def payload(value: str, type_: MatcherType = MatcherType.EXACT) -> object:
        return grant.payload_for(make(type_, value, HUB))

    assert payload("https://example.com/foo") == {"n": 1}
    assert payload("https://example.com/bar/:id", MatcherType.URLPATTERN) == {"n": 2}
    assert payload("https://example.com/bar/1") == {"n": 2}
    assert payload("https://example.com/other") == {"n": 3}
    assert payload("https://example.com/plain") is None, "the first matching detail wins, and has none"


@pytest.mark.parametrize("depth", [31, 32, 500])
def test_a_payload_is_not_nested_too_deeply(depth: int) -> None:
    payload: dict[str, Any] = {}
    for _ in range(depth - 1):
        payload = {"a": payload}
    tokens = [
        sign(HEADER, claims(detail({"match": "a"}, payload=payload))),
        sign(OLD_HEADER, old(subscribe=[], payload=payload)),
    ]
    for token in tokens:
        if depth <= 32:
            verify(token)
        else:
            assert "nested more than 32 levels" in refused(token)


# --- 0.x ---


@pytest.mark.parametrize(
    ("payload", "publish", "subscribe"),
    [
        (old(publish=["a"], subscribe=["b"]), ["a"], ["b"]),
        (old(publish=["*"]), ["a", "https://["], []),
        (old(publish=[], subscribe=[]), [], []),
        (old(publish=None, subscribe=None), [], []),
        (old(), [], []),
        (
            old(subscribe=["https://example.com/books/{id}"]),
            [],
            ["https://example.com/books/1", "https://example.com/books/{id}"],
        ),
        (old(subscribe=["/:id"]), [], ["/:id"]),
        (old(subscribe=["not a {template"]), [], ["not a {template"]),
        (old(unknown=1, subscribe=["a"]), [], ["a"]),
        ({"https://mercure.rocks/": {"subscribe": ["a"]}}, [], ["a"]),
        ({"https://mercure.rocks/": {"subscribe": ["a"]}, "mercure": {"subscribe": ["b"]}}, [], ["a"]),
        ({"https://mercure.rocks/": None, "mercure": {"subscribe": ["b"]}}, [], ["b"]),
    ],
)
@pytest.mark.parametrize("typ", ["JWT", "jwt", None, 1, "", "other"])
def test_tokens_of_0x(typ: object, payload: Claims, publish: list[str], subscribe: list[str]) -> None:
    grant = verify(sign({"alg": "HS256", "typ": typ}, payload))
    assert grant.publish.first_outside(publish) is None
    assert grant.subscribe.first_outside(subscribe) is None
    assert not grant.publish.covers("outside" if "*" not in str(payload) else "\0") or publish
    assert not grant.subscribe.covers("outside")
    assert not grant.subscribe.covers("/1")
    assert grant.expires_at is None


@pytest.mark.parametrize(
    "value", ["*", "a", 1, True, {}, {"0": "*"}, [1], [None], [["*"]], ["a", 1], [{"match": "*"}]]
)
@pytest.mark.parametrize("role", ["publish", "subscribe"])
def test_selectors_that_are_no_array_of_strings(role: str, value: object) -> None:
    assert refused(sign(OLD_HEADER, old(**{role: value}))) == f"mercure.{role} is not an array of strings"


@pytest.mark.parametrize("value", ["a\0", "\u200b", "a" * 2049, "{a}" * 600])
def test_selectors_that_are_not_valid(value: str) -> None:
    assert "mercure.subscribe" in refused(sign(OLD_HEADER, old(subscribe=["a", value])))


def test_the_number_of_selectors_is_limited() -> None:
    verify(sign(OLD_HEADER, old(subscribe=["a"] * 1000)))
    assert "1001 entries; the limit is 1000" in refused(sign(OLD_HEADER, old(subscribe=["a"] * 1001)))


@pytest.mark.parametrize("claim", [None, [], "x", 1, True, ["*"]])
def test_a_mercure_claim_that_is_no_object(claim: Any) -> None:
    assert "mercure claim" in refused(sign(OLD_HEADER, {"mercure": claim}))
    if claim is not None:
        assert "mercure claim" in refused(
            sign(OLD_HEADER, {"https://mercure.rocks/": claim, "mercure": {"subscribe": ["*"]}})
        )


@pytest.mark.parametrize("payload", [{"a": 1}, [], ["x", None], "x", "", 0, 1, 1.5, True, False, {}])
def test_the_payload_of_0x_is_any_json(payload: Any) -> None:
    grant = verify(sign(OLD_HEADER, old(subscribe=["a"], payload=payload)))
    for matcher in (make(MatcherType.TEMPLATE, "a", HUB), make(MatcherType.EXACT, "other", HUB)):
        assert grant.payload_for(matcher) == payload


def test_no_payload_of_0x() -> None:
    given: list[Claims] = [{"subscribe": []}, {"subscribe": [], "payload": None}]
    for claim in given:
        assert (
            verify(sign(OLD_HEADER, old(**claim))).payload_for(make(MatcherType.TEMPLATE, "a", HUB)) is None
        )


def test_expiry_of_0x() -> None:
    assert verify(sign(OLD_HEADER, {**old(), "exp": NOW + 1})).expires_at == NOW + 1
    assert "expired" in refused(sign(OLD_HEADER, {**old(), "exp": NOW}))


def test_0x_without_iss_uses_the_keys_of_the_first_issuer() -> None:
    both = verifier("both", 10, OTHER_ISSUER)
    assert both.verify(sign(OLD_HEADER, old(subscribe=["a"])), "subscribe", HUB, NOW).subscribe.covers("a")
    token = sign({"alg": "ES256"}, old(subscribe=["a"]), EC, "ES256")
    with pytest.raises(TokenInvalid, match="alg is 'ES256'"):
        both.verify(token, "subscribe", HUB, NOW)


OTHER_ISSUER = Issuer("https://as.example", (), (Key(EC.public_key(), ("ES256",)),))


def test_0x_with_iss_uses_the_keys_of_that_issuer_where_there_are_several() -> None:
    both = verifier("both", 10, OTHER_ISSUER)
    token = sign({"alg": "ES256"}, {**old(subscribe=["a"]), "iss": "https://as.example"}, EC, "ES256")
    assert both.verify(token, "subscribe", HUB, NOW).subscribe.covers("a")
    token = sign(OLD_HEADER, {**old(subscribe=["a"]), "iss": ISSUER})
    assert both.verify(token, "subscribe", HUB, NOW).subscribe.covers("a")


@pytest.mark.parametrize("iss", ["https://as.example/", "https://shop.example", "", None, 1, [ISSUER]])
def test_0x_with_an_iss_that_is_not_trusted_is_refused_where_there_are_several(iss: object) -> None:
    token = sign(OLD_HEADER, {**old(subscribe=["a"]), "iss": iss})
    with pytest.raises(TokenInvalid, match=r"^iss is "):
        verifier("both", 10, OTHER_ISSUER).verify(token, "subscribe", HUB, NOW)
    # Applications sign these tokens with a JWT library of their own: a single issuer is not compared.
    assert verify(token).subscribe.covers("a")
    playground = Issuer("urn:mercure-playground", (PUBLISHER,), (PUBLISHER,), is_hub=True)
    assert verifier("both", 10, playground).verify(token, "subscribe", HUB, NOW).subscribe.covers("a")


@pytest.mark.parametrize("protocol", ["both", "0.x"])
@pytest.mark.parametrize(
    ("aud", "fits"),
    [
        (HUB, True),
        ([HUB, "https://api.example"], True),
        ("https://api.example", False),
        (["https://api.example"], False),
        (f"{HUB}/", False),
        ([], False),
        ("", False),
        (None, False),
        (1, False),
    ],
)
def test_0x_with_an_audience(aud: object, fits: bool, protocol: Protocol) -> None:
    """RFC 7519 section 4.1.3."""
    token = sign(OLD_HEADER, {**old(subscribe=["a"]), "aud": aud})
    issuers = [Issuer(ISSUER, (PUBLISHER,), (SUBSCRIBER,))]
    knows = TokenVerifier(issuers, protocol, knows_its_url=True)
    if fits:
        assert knows.verify(token, "subscribe", HUB, NOW).subscribe.covers("a")
    else:
        with pytest.raises(TokenInvalid, match=r"^aud is ") as caught:
            knows.verify(token, "subscribe", HUB, NOW)
        assert caught.value.explained is Section.AUDIENCE
    assert verify(token, protocol=protocol).subscribe.covers("a"), "a URL that the client tells says nothing"
    plain = sign(OLD_HEADER, old(subscribe=["a"]))
    assert knows.verify(plain, "subscribe", HUB, NOW).subscribe.covers("a"), "it has none"


def test_a_key_is_trusted_while_it_verifies_what_it_did() -> None:
    """As the first key or as the second one, and with more algorithms than before."""
    both = Key(SUBSCRIBER.material, ("HS256", "HS384"))
    for keys, is_trusted in (
        ((SUBSCRIBER,), True),
        ((PUBLISHER, SUBSCRIBER), True),
        ((PUBLISHER, both), True),
        ((PUBLISHER,), False),
        ((Key(SUBSCRIBER.material, ("HS384",)),), False),
        ((Key(SUBSCRIBER.material, ("HS256",), "other"),), False),
    ):
        assert TokenVerifier([Issuer(ISSUER, (), keys)]).trusts(SUBSCRIBER, "subscribe") is is_trusted
    assert not TokenVerifier([Issuer(ISSUER, (), (SUBSCRIBER,))]).trusts(both, "subscribe")


# --- both generations ---


@pytest.mark.parametrize(
    "payload",
    [
        {**old(subscribe=["*"]), "authorization_details": []},
        {**old(subscribe=["*"]), "authorization_details": None},
        {**old(subscribe=["*"]), "authorization_details": [detail({"match": "*"})]},
        {**old(subscribe=["*"]), **claims()},
    ],
)
@pytest.mark.parametrize("typ", ["JWT", None])
def test_a_claim_of_1_0_demands_the_whole_validation(typ: object, payload: Claims) -> None:
    refused(sign({"alg": "HS256", "typ": typ}, payload))


@pytest.mark.parametrize("missing", ["iss", "aud", "exp"])
def test_a_type_of_1_0_demands_the_whole_validation(missing: str) -> None:
    refused(sign(HEADER, {**without(missing), "mercure": {"subscribe": ["*"]}}))
    refused(
        sign(HEADER, {**without("authorization_details", without(missing)), "mercure": {"subscribe": ["*"]}})
    )


@pytest.mark.parametrize(
    ("protocol", "new_passes", "old_passes"),
    [("both", True, True), ("1.0", True, False), ("0.x", False, True)],
)
def test_generations_that_are_accepted(protocol: Protocol, new_passes: bool, old_passes: bool) -> None:
    for token, passes in (
        (sign(HEADER, claims()), new_passes),
        (sign(OLD_HEADER, old(subscribe=["a"])), old_passes),
    ):
        if passes:
            verify(token, protocol=protocol)
        else:
            assert "MERCURE_PROTOCOL" in refused(token, protocol=protocol)


# --- the memory of verified tokens ---


class CountingKeys:
    """Counts how often a signature is verified."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        check: Callable[..., Key] = Issuer.signer

        def counting(*arguments: Any) -> Key:
            self.count += 1
            return check(*arguments)

        monkeypatch.setattr(Issuer, "signer", counting)


def test_a_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, subject, token = CountingKeys(monkeypatch), verifier(), sign(HEADER, claims())
    first = subject.verify(token, "subscribe", HUB, NOW)
    assert subject.verify(token, "subscribe", HUB, NOW + 299) is first
    assert counter.count == 1


@pytest.mark.parametrize("header", [HEADER, OLD_HEADER], ids=["1.0", "0.x"])
def test_a_remembered_token_expires(header: Header) -> None:
    subject = verifier()
    token = sign(
        header,
        claims(nbf=NOW) if header is HEADER else {**old(subscribe=["a"]), "exp": NOW + 300, "nbf": NOW},
    )
    subject.verify(token, "subscribe", HUB, NOW)
    subject.verify(token, "subscribe", HUB, NOW + 299.9)
    with pytest.raises(TokenInvalid, match="expired 0 s ago"):
        subject.verify(token, "subscribe", HUB, NOW + 300)
    with pytest.raises(TokenInvalid, match="not valid before"):
        subject.verify(token, "subscribe", HUB, NOW - 1)
    subject.verify(token, "subscribe", HUB, NOW)


def test_role_and_resource_are_part_of_what_is_remembered() -> None:
    subject, token = verifier(), sign(HEADER, claims())
    subject.verify(token, "subscribe", HUB, NOW)
    with pytest.raises(TokenInvalid, match="signature does not match the publisher key"):
        subject.verify(token, "publish", HUB, NOW)
    with pytest.raises(TokenInvalid, match="aud is"):
        subject.verify(token, "subscribe", "https://other.example/hub", NOW)
    subject.verify(token, "subscribe", HUB, NOW)


def test_what_is_refused_is_not_remembered() -> None:
    subject, token = verifier(), sign(HEADER, claims(nbf=NOW + 10))
    with pytest.raises(TokenInvalid):
        subject.verify(token, "subscribe", HUB, NOW)
    assert subject.verify(token, "subscribe", HUB, NOW + 10).subscribe.covers(BOOKS)
    for _ in range(3):
        with pytest.raises(TokenInvalid):
            subject.verify(
                sign(HEADER, claims(), b"another secret, another secret, another"), "subscribe", HUB, NOW
            )


def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, subject = CountingKeys(monkeypatch), verifier("both", 3)
    tokens = [sign(HEADER, claims(jti=str(number))) for number in range(4)]
    for token in tokens[:3]:
        subject.verify(token, "subscribe", HUB, NOW)
    subject.verify(tokens[0], "subscribe", HUB, NOW)  # used again, so the second is the oldest now
    subject.verify(tokens[3], "subscribe", HUB, NOW)
    assert counter.count == 4
    assert len(subject._verified) == 3
    for index, verified in ((0, 4), (2, 4), (3, 4), (1, 5)):
        subject.verify(tokens[index], "subscribe", HUB, NOW)
        assert counter.count == verified


OTHER = Key(b"another-secret-another-secret-another-secret-another-secret-another", ("HS256",))


@pytest.mark.parametrize(
    "issuers",
    [
        [Issuer(ISSUER, (PUBLISHER,), (OTHER,))],
        [Issuer(ISSUER, (PUBLISHER,), ())],
        [Issuer("urn:another", (PUBLISHER,), (SUBSCRIBER,))],
    ],
    ids=["another key", "no key", "another issuer"],
)
def test_a_remembered_token_is_refused_when_it_is_trusted_no_more(issuers: list[Issuer]) -> None:
    subject, token = verifier(), sign(HEADER, claims())
    subject.verify(token, "subscribe", HUB, NOW)
    subject.trust_only(issuers)
    with pytest.raises(TokenInvalid):
        subject.verify(token, "subscribe", HUB, NOW)


def test_a_remembered_token_is_refused_when_its_issuer_withdraws_the_key() -> None:
    subject, token = verifier(), sign(HEADER, claims())
    published = sign(HEADER, claims(detail({"match": BOOKS}, actions=["publish"])), PUBLISHER.material)
    subject.verify(token, "subscribe", HUB, NOW)
    kept = subject.verify(published, "publish", HUB, NOW)
    subject.trust(Issuer(ISSUER, (PUBLISHER,), (OTHER,)))
    with pytest.raises(TokenInvalid):
        subject.verify(token, "subscribe", HUB, NOW)
    assert subject.verify(published, "publish", HUB, NOW) is kept


def test_the_memory_holds_no_token() -> None:
    subject, token = verifier(), sign(HEADER, claims())
    subject.verify(token, "subscribe", HUB, NOW)
    assert token not in repr(subject._verified)


@pytest.mark.parametrize("role", ["publish", "subscribe"])
def test_an_issuer_without_keys_for_a_role(role: Literal["publish", "subscribe"]) -> None:
    with pytest.raises(TokenInvalid):
        TokenVerifier([Issuer(ISSUER, (), ())]).verify(sign(HEADER, claims()), role, HUB, NOW)
