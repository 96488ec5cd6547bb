"""Which tokens are refused after a revocation, and what a request may ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.http import parse_form
from mercure_hub.protocol.revocation import (
    LIFETIME,
    MAX_LIFETIME,
    MAX_TOPICS,
    Revocation,
    RevocationList,
    bounded,
    from_form,
)
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import Key

NOW = 1_800_000_000.0
HUB = "https://hub.example/.well-known/mercure"
OURS, THEIRS = "urn:flask-mercure", "https://login.example.com/"
KEYS = {OURS: Key(b"a" * 32, ("HS256",)), THEIRS: Key(b"b" * 32, ("HS256",))}
VERIFIER = TokenVerifier([Issuer(name, (key,), (key,)) for name, key in KEYS.items()])
DETAIL = "https://mercure.rocks/authorization-detail"


def grant(role: Any = "subscribe", issuer: str = OURS, *topics: Any, **claims: Any) -> Grant:
    """What a token of 1.0 allows."""
    matchers = [one if isinstance(one, dict) else {"match": one} for one in topics or ("orders/1",)]
    content = {
        "iss": issuer,
        "aud": HUB,
        "exp": NOW + 3600,
        "authorization_details": [{"type": DETAIL, "actions": [role], "topics": matchers}],
        **claims,
    }
    token = jwt.encode(content, KEYS[issuer].material, headers={"typ": "at+jwt"})  # type: ignore[arg-type]
    return VERIFIER.verify(token, role, HUB, NOW)


def old_grant(**claims: Any) -> Grant:
    """What a token of 0.x allows."""
    content = {"mercure": {"subscribe": ["orders/{id}"]}, **claims}
    return VERIFIER.verify(jwt.encode(content, KEYS[OURS].material), "subscribe", HUB, NOW)  # type: ignore[arg-type]


def asked(fields: Any, issuer: str = OURS) -> tuple[Revocation, ...]:
    return from_form(parse_form(urlencode(fields, doseq=True).encode()), issuer, NOW)


def refuses(fields: Any, grant: Grant, issuer: str = OURS) -> bool:
    revoked = RevocationList()
    revoked.add(asked(fields, issuer))
    return revoked.refuses(grant)


PATTERN = {"match": "/tenants/:id/*", "match_type": "urlpattern"}

TABLE: list[tuple[dict[str, Any], Grant, bool]] = [
    # A user's tokens that were issued before.
    ({"sub": "7"}, grant(sub="7", iat=NOW - 60), True),
    ({"sub": "7"}, grant(sub="8", iat=NOW - 60), False),
    ({"sub": "7"}, grant(iat=NOW - 60), False),
    ({"sub": "7"}, grant("publish", sub="7", iat=NOW - 60), True),
    ({"sub": "7"}, old_grant(sub="7", iat=NOW - 60), True),
    ({"sub": ["6", "7"]}, grant(sub="7", iat=NOW - 60), True),
    ({"sub": "7"}, ANONYMOUS, False),
    # A login in the same second, by the fraction of iat; without one, the token counts as older.
    ({"sub": "7", "before": NOW + 0.25}, grant(sub="7", iat=NOW + 0.250001), False),
    ({"sub": "7", "before": NOW + 0.25}, grant(sub="7", iat=NOW + 0.249999), True),
    ({"sub": "7", "before": NOW + 0.25}, old_grant(sub="7", iat=NOW + 0.250001), False),
    ({"sub": "7", "before": NOW + 0.25}, grant(sub="7", iat=int(NOW)), True),
    ({"sub": "7", "before": NOW + 0.25}, grant(sub="7", iat=int(NOW) + 1), False),
    # Nobody knows when these were issued.
    ({"sub": "7"}, grant(sub="7"), True),
    ({"sub": "7"}, grant(sub="7", iat="yesterday"), True),
    ({"sub": "7"}, grant(sub="7", iat=True), True),
    ({"sub": "7"}, grant(sub="7", iat=-1), True),
    ({"sub": "7"}, grant(sub="7", iat=NOW * 1000), True),
    ({"sub": "7"}, grant(sub="7", iat=10**400), True),
    # A session and a token, whenever they were issued.
    ({"sid": "s"}, grant(sub="7", sid="s", iat=NOW + 60), True),
    ({"sid": "s"}, grant(sub="7", sid="t", iat=NOW - 60), False),
    ({"jti": "j"}, grant(jti="j", iat=NOW + 60), True),
    ({"jti": "j"}, old_grant(jti="j"), True),
    ({"jti": "j"}, grant(jti="k", iat=NOW - 60), False),
    # The claims are told apart.
    ({"sub": "x"}, grant(sid="x", jti="x", iat=NOW - 60), False),
    ({"jti": "x"}, grant(sid="x", sub="x", iat=NOW - 60), False),
    # A user's tokens that grant a topic.
    ({"sub": "7", "topic": "orders/1"}, grant("subscribe", OURS, "orders/1", sub="7", iat=1), True),
    ({"sub": "7", "topic": "orders/2"}, grant("subscribe", OURS, "orders/1", sub="7", iat=1), False),
    ({"sub": "7", "topic": ["x", "orders/1"]}, grant("subscribe", OURS, "orders/1", sub="7", iat=1), True),
    ({"sub": "7", "topic": "orders/1"}, grant("subscribe", OURS, "*", sub="7", iat=1), True),
    ({"sub": "7", "topic": "orders/1"}, grant("publish", OURS, "orders/1", sub="7", iat=1), True),
    ({"sub": "7", "topic": "orders/1"}, old_grant(sub="7", iat=1), True),
    ({"sub": "7", "topic": "orders/{id}"}, old_grant(sub="7", iat=1), True),
    ({"sub": "7", "topic": "/tenants/:id/*"}, grant("subscribe", OURS, PATTERN, sub="7", iat=1), True),
    (
        {"sub": "7", "topic": "https://hub.example/tenants/a/b"},
        grant("subscribe", OURS, PATTERN, sub="7", iat=1),
        True,
    ),
    ({"sub": "7", "topic": "orders/1"}, grant("subscribe", OURS, "orders/1", sub="8", iat=1), False),
    (
        {"sub": "7", "topic": "orders/1"},
        grant("subscribe", OURS, "orders/1", sub="7", iat=NOW + 1),
        False,
    ),
]


@pytest.mark.parametrize(("fields", "token", "refused"), TABLE)
def test_what_is_refused(fields: dict[str, Any], token: Grant, refused: bool) -> None:
    assert refuses(fields, token) is refused


def test_an_issuer_revokes_its_own_subjects_only() -> None:
    """``sub`` is unique for one issuer (RFC 7519 section 4.1.2)."""
    ours, theirs = grant(sub="7", iat=1), grant("subscribe", THEIRS, sub="7", iat=1)
    assert refuses({"sub": "7"}, ours)
    assert not refuses({"sub": "7"}, theirs)
    assert refuses({"sub": "7"}, theirs, THEIRS)
    assert not refuses({"sub": "7"}, ours, THEIRS)


def test_subjects_that_begin_alike_are_told_apart() -> None:
    assert not refuses({"sub": "x" * 300}, grant(sub="x" * 299, iat=1))


def test_a_revocation_is_kept_for_as_long_as_its_tokens_may_live() -> None:
    (one,) = asked({"sub": "7"})
    assert one.until == NOW + LIFETIME
    (one,) = asked({"sub": "7", "lifetime": 3600})
    assert one.until == NOW + 3600


REFUSED: list[tuple[Any, str | None]] = [
    ({}, "sub"),
    ({"topic": "a"}, "sub"),
    ({"sub": ""}, "sub"),
    ({"sub": "7", "topics": "a"}, None),
    ({"user": "7"}, None),
    ({"sub": "7", "topic": ""}, "topic"),
    ({"sub": "7", "topic": "a\0b"}, "topic"),
    ({"sub": "7", "topic": "x" * 3000}, "topic"),
    ({"sid": "s", "topic": "a"}, "topic"),
    ({"jti": "j", "before": NOW}, "before"),
    ({"sub": "7", "before": "now"}, "before"),
    ({"sub": "7", "before": "nan"}, "before"),
    ({"sub": "7", "before": "inf"}, "before"),
    ({"sub": "7", "before": -1}, "before"),
    ({"sub": "7", "before": NOW * 1000}, "before"),
    ({"sub": "7", "before": NOW + 2 * 86400}, "before"),
    ({"sub": "7", "before": [NOW, NOW]}, "before"),
    ({"sub": "7", "before": "\N{ARABIC-INDIC DIGIT ONE}"}, "before"),
    ({"sub": "7", "before": "9" * 5000}, "before"),
    ({"sub": "7", "lifetime": 0}, "lifetime"),
    ({"sub": "7", "lifetime": MAX_LIFETIME + 1}, "lifetime"),
    ({"sub": "7", "lifetime": "1e999"}, "lifetime"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED)
def test_a_request_that_is_refused(fields: Any, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        asked(fields)
    assert raised.value.field == field
    assert len(raised.value.detail) < 300


@pytest.mark.parametrize(
    "fields",
    [{"sub": list(range(101))}, {"sub": list(range(11)), "topic": list(range(10))}],
)
def test_a_request_has_a_limit(fields: Any) -> None:
    with pytest.raises(ContentTooLarge):
        asked(fields)


def test_several_of_one_user_are_one() -> None:
    revoked = RevocationList()
    assert revoked.add(asked({"sub": "7", "before": NOW - 50}))
    assert revoked.add(asked({"sub": "7", "before": NOW - 20, "lifetime": 60}))
    assert not revoked.add(asked({"sub": "7", "before": NOW - 30}))
    (one,) = revoked
    assert (one.before, one.until) == (NOW - 20, NOW + LIFETIME)
    assert len(revoked) == 1


def test_those_whose_tokens_have_ended_are_forgotten() -> None:
    revoked = RevocationList()
    revoked.add(asked({"sub": "7", "lifetime": 60}))
    revoked.add(asked({"sub": "8", "topic": ["a", "b"], "lifetime": 90}))
    list(revoked.prune(NOW + 60))
    assert len(revoked) == 3
    list(revoked.prune(NOW + 61))
    assert len(revoked) == 2
    list(revoked.prune(NOW + 91))
    assert len(revoked) == 0
    assert list(revoked) == []


def test_forgetting_many_pauses_and_takes_what_comes_meanwhile() -> None:
    revoked = RevocationList()
    revoked.add(Revocation(b"%d" % number, "", 1.0, NOW) for number in range(10_000))
    pauses = 0
    for _ in revoked.prune(NOW + 1):
        revoked.add([Revocation(b"%d" % pauses, "", 1.0, NOW + 60)])
        pauses += 1
    assert pauses >= 4
    assert {one.name for one in revoked} == {b"%d" % number for number in range(pauses)}
    assert len(revoked) == pauses


def test_many_topics_of_one_user_become_all() -> None:
    revoked = RevocationList()
    revoked.add(asked({"sub": "7", "topic": [str(number) for number in range(MAX_TOPICS)]}))
    revoked.add(asked({"sub": "8", "topic": "a"}))
    assert [one.topic for one in bounded(asked({"sub": "7", "topic": "one more"}), revoked)] == [""]
    assert [one.topic for one in bounded(asked({"sub": "8", "topic": "one more"}), revoked)] == ["one more"]


def test_what_is_stored_has_each_key_once() -> None:
    some = bounded(asked({"sub": ["7", "7"], "topic": ["a", "a"]}), RevocationList())
    assert len(some) == 1
    wide = RevocationList()
    wide.add(asked({"sub": "7", "topic": [str(number) for number in range(MAX_TOPICS)]}))
    assert len(bounded(asked({"sub": "7", "topic": ["a", "b"]}), wide)) == 1


def test_keys_tell_names_and_topics_apart() -> None:
    (whole,), (topic,), (other,) = asked({"sub": "7"}), asked({"sub": "7", "topic": "a"}), asked({"sub": "8"})
    assert len({whole.key, topic.key, other.key, replace(other, topic="a").key}) == 4


RIGHTS: list[tuple[Grant, bool]] = [
    (grant("publish", OURS, "*"), False),
    (
        grant(
            "publish",
            authorization_details=[{"type": "urn:flask-mercure:revocation", "actions": ["revoke"]}],
        ),
        True,
    ),
    (
        grant(
            "publish", authorization_details=[{"type": "urn:flask-mercure:revocation", "actions": ["other"]}]
        ),
        False,
    ),
    (
        grant(
            "publish",
            authorization_details=[{"type": DETAIL, "actions": ["revoke"], "topics": [{"match": "*"}]}],
        ),
        False,
    ),
    (old_grant(mercure={"publish": ["*"], "revoke": True}), True),
    (old_grant(mercure={"publish": ["*"], "revoke": "yes"}), False),
    (old_grant(mercure={"publish": ["*"]}), False),
    (ANONYMOUS, False),
]


@pytest.mark.parametrize(("token", "may"), RIGHTS)
def test_the_right_to_publish_everything_is_not_the_right_to_revoke(token: Grant, may: bool) -> None:
    assert token.may_revoke is may
