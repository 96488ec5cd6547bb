"""Access tokens, where they are found, and the sets of keys that verify them.

Invariant: any text is a token that is valid or ``TokenInvalid``, nothing else. A token whose header or claims
are changed after it was signed is refused. What is accepted was signed by us, has not expired, is for
this hub, and allows no topic that its details do not name. Any bytes are a set of keys or
``KeyMaterialError``.
"""

from __future__ import annotations

import base64
import json
import math
import os
from typing import Any

import jwt
from hypothesis import example, given
from hypothesis import strategies as st

from mercure_hub.protocol.errors import KeyMaterialError, TokenInvalid, TokenMalformed
from mercure_hub.protocol.tokens import credentials, jwk_set
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import ALGORITHMS, load

NOW = 1_800_000_000.0
HUB = "https://hub.example.com/.well-known/mercure"
SECRET = "a secret that is long enough for HMAC-SHA-256"
KEY = load(SECRET, exists=os.path.exists)
TOPICS = ("a", "b", "https://example.com/1", "é", "")

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
MATCH = st.one_of(
    st.fixed_dictionaries(
        {"match": st.one_of(st.sampled_from([*TOPICS, "*", ":x", "("]), JSON)},
        optional={"match_type": st.one_of(st.sampled_from(["exact", "urlpattern", "x"]), JSON)},
    ),
    JSON,
)
DETAIL = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.one_of(st.just(DETAIL_TYPE), JSON),
            "actions": st.one_of(st.lists(st.sampled_from(["publish", "subscribe", "x"]), max_size=3), JSON),
            "topics": st.one_of(st.lists(MATCH, max_size=3), JSON),
        },
        optional={"payload": JSON},
    ),
    JSON,
)
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.one_of(st.just("urn:us"), JSON),
        "aud": st.one_of(st.just(HUB), st.lists(st.one_of(st.just(HUB), JSON), max_size=2), JSON),
        "exp": st.one_of(st.integers(int(NOW) - 5, int(NOW) + 5), JSON),
        "nbf": st.one_of(st.integers(int(NOW) - 5, int(NOW) + 5), JSON),
        "authorization_details": st.one_of(st.lists(DETAIL, max_size=3), JSON),
        "mercure": st.one_of(
            st.dictionaries(st.sampled_from(["publish", "subscribe", "payload"]), JSON), JSON
        ),
    },
)
GOOD: dict[str, Any] = {
    "iss": "urn:us",
    "aud": HUB,
    "exp": int(NOW) + 60,
    "authorization_details": [
        {
            "type": DETAIL_TYPE,
            "actions": ["publish", "subscribe"],
            "topics": [{"match": "a"}],
            "payload": {"n": 1},
        }
    ],
}
HEADER = {"typ": "at+jwt"}


def verify(token: str) -> Grant | None:
    issuer = Issuer("urn:us", (KEY,), (KEY,))
    try:
        return TokenVerifier([issuer]).verify(token, "subscribe", HUB, NOW)
    except TokenInvalid:
        return None


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: dict[str, Any], claims: object) -> str:
    text = (
        f"{segment(json.dumps({'alg': 'HS256', **header}).encode())}.{segment(json.dumps(claims).encode())}"
    )
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{text}.{segment(algorithm.sign(text.encode(), SECRET.encode()))}"


@given(
    st.one_of(
        st.text(max_size=40), st.lists(st.text("eyJ01-_=", max_size=8), min_size=3, max_size=3).map(".".join)
    )
)
@example("..")
@example("e30.e30.")
@example("\ud800.a.b")
def test_any_text_is_refused(text: str) -> None:
    assert verify(text) is None


@given(st.integers(0, 400), st.characters(), st.sampled_from(["replace", "insert", "delete"]))
@example(0, "\0", "insert")
@example(400, "=", "insert")
def test_a_token_that_was_changed_is_refused(place: int, char: str, how: str) -> None:
    token = sign(HEADER, GOOD)
    place %= len(token)
    changed = token[:place] + ("" if how == "delete" else char) + token[place + (how != "insert") :]
    if verify(changed) is not None:  # spare bits at the end of a signature's base64 mean nothing
        assert changed.split(".")[:2] == token.split(".")[:2]
        first, second = (base64.urlsafe_b64decode(one.split(".")[2] + "==") for one in (changed, token))
        assert first == second


@given(st.sampled_from(["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None]), CLAIMS)
@example("at+jwt", GOOD)
@example("at+jwt", {**GOOD, "exp": 10**400})
@example("at+jwt", {**GOOD, "exp": True})
@example("JWT", GOOD)
@example("JWT", {"mercure": {"subscribe": ["{a}"]}})
@example("at+jwt", {**GOOD, "authorization_details": GOOD["authorization_details"] + [{"type": DETAIL_TYPE}]})
def test_what_is_accepted(typ: str | None, claims: dict[str, Any]) -> None:
    grant = verify(sign({} if typ is None else {"typ": typ}, claims))
    if grant is None:
        return
    exp = claims.get("exp")
    assert exp is None or exp > NOW
    assert claims.get("nbf", 0) <= NOW
    if grant.is_old:
        assert "authorization_details" not in claims
        assert isinstance(claims.get("mercure"), dict)
        return
    assert claims["iss"] == "urn:us"
    assert claims["aud"] == HUB or HUB in claims["aud"]
    assert exp is not None
    assert math.isfinite(float(min(exp, 2**60)))
    named: dict[str, set[str]] = {"publish": set(), "subscribe": set()}
    patterns = False
    for detail in claims.get("authorization_details", []):
        if detail.get("type") != DETAIL_TYPE:
            continue
        for action in set(detail["actions"]) & set(named):
            named[action] |= {one["match"] for one in detail["topics"]}
        patterns = patterns or any("match_type" in one for one in detail["topics"])
    if not patterns:
        for topic in TOPICS:
            assert grant.publish.covers(topic) is bool({topic, "*"} & named["publish"])
            assert grant.subscribe.covers(topic) is bool({topic, "*"} & named["subscribe"])


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "crit", "jwk", "jku", "x5u", "b64", "zip", "cty"]), JSON, max_size=3
    )
)
@example({"crit": ["exp"]})
@example({"kid": None})
@example({"b64": False, "crit": ["b64"]})
def test_any_header_of_a_token(header: dict[str, Any]) -> None:
    grant = verify(sign({**HEADER, **header}, GOOD))
    if grant is not None:
        assert header.get("alg", "HS256") == "HS256"
        assert "crit" not in header


@given(st.lists(st.text(max_size=20), max_size=2), st.text(max_size=40))
@example(["Bearer"], "")
@example(["bearer a", "Bearer b"], "")
@example([], ';; =;a="";a=b; a')
def test_any_header_fields_hold_a_token_or_not(authorization: list[str], cookie: str) -> None:
    cookies = credentials.parse_cookies(cookie)
    try:
        found = credentials.find(authorization, cookies, [], cookie_names=("a",), from_query=True)
    except TokenMalformed:
        assert any(value.lower().startswith("bearer") for value in authorization)
        return
    if found is not None and found.source == "cookie":
        assert found.token == cookies["a"]


MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e", "k", "d"]),
    st.one_of(
        JSON,
        st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "AQAB", "A" * 43, "A" * 342]),
    ),
)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.one_of(MEMBERS, JSON), max_size=3).map(lambda keys: json.dumps({"keys": keys}).encode()),
    ),
    st.booleans(),
)
@example(b"[" * 10000, True)
@example(b'{"keys": null}', True)
@example(b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AA"}]}', True)
@example(
    b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "' + b"A" * 43 + b'", "y": "' + b"A" * 43 + b'"}]}', True
)
def test_any_bytes_are_a_set_of_keys_or_not(data: bytes, is_public: bool) -> None:
    try:
        found = jwk_set.parse(data, ALGORITHMS, is_public=is_public)
    except KeyMaterialError:
        return
    assert all(set(key.algorithms) <= set(ALGORITHMS) for key in found.keys)
    if is_public:
        assert not any(isinstance(key.material, bytes) for key in found.keys)
