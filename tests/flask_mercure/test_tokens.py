"""Tokens: what is in them, whose factory makes them, and that the hub's own verifier takes them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from flask_mercure import (
    EVERYTHING,
    ConfigurationError,
    InvalidArgument,
    Mercure,
    TokenError,
    TokenFactory,
    URITemplate,
    URLPattern,
)
from flask_mercure.extension import state_of
from flask_mercure.tokens import PublisherSource, PublisherToken, TokenSource, expiry
from mercure_hub.protocol.errors import TokenInvalid
from mercure_hub.protocol.matching.matcher import make
from mercure_hub.protocol.tokens import asymmetric
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE
from mercure_hub.protocol.tokens.claims import Protocol as HubProtocol
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import load
from mercure_hub.protocol.topics import MatcherType
from tests.flask_mercure.fake_hub import SECRET, make_app

PUBLIC = "https://hub.example/.well-known/mercure"
INTERNAL = "http://127.0.0.1:3000/.well-known/mercure"


@cache
def pair(kind: Any) -> tuple[str, str]:
    return asymmetric.generate_pair(kind)


def create(config: Mapping[str, Any] | None = None, **arguments: Any) -> str:
    mercure = Mercure()
    with make_app(mercure, PUBLIC_URL=PUBLIC, **(config or {})).app_context():
        return mercure.create_token(**arguments)


def content(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def verify(
    token: str,
    role: Any = "subscribe",
    resource: str = PUBLIC,
    key: str = SECRET,
    protocol: HubProtocol = "1.0",
) -> Grant:
    trusted = (load(key, exists=os.path.exists),)
    verifier = TokenVerifier([Issuer("urn:flask-mercure", trusted, trusted)], protocol)
    return verifier.verify(token, role, resource, time.time())


def test_a_token_for_others_is_for_the_public_url() -> None:
    grant = verify(create(subscribe=["a", "b"]), resource=PUBLIC)
    assert grant.subscribe.covers("a")
    assert not grant.subscribe.covers("c")
    assert not grant.publish.covers("a")
    with pytest.raises(TokenInvalid, match="aud is"):
        verify(create(subscribe=["a", "b"]), resource=INTERNAL)


def test_a_token_has_all_claims_of_rfc_9068() -> None:
    before = int(time.time())
    token = create(subscribe="a")
    claims = content(token)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "at+jwt"}
    assert claims["iss"] == claims["client_id"] == "urn:flask-mercure"
    assert INTERNAL not in claims["aud"]
    assert PUBLIC in claims["aud"]
    assert claims["sub"].startswith("urn:uuid:")
    assert claims["jti"].startswith("urn:uuid:")
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == int(claims["iat"]) + 3600
    assert content(create(subscribe="a"))["jti"] != claims["jti"]


def test_one_audience_when_both_urls_are_one() -> None:
    mercure = Mercure()
    with make_app(mercure).app_context():
        other_name = INTERNAL.replace("127.0.0.1", "localhost")  # pages of that name find the hub there
        assert content(mercure.create_token(["a"]))["aud"] == [INTERNAL, other_name]


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ("a", [{"match": "a"}]),
        (["a", "b", "a"], [{"match": "a"}, {"match": "b"}]),
        (EVERYTHING, [{"match": "*"}]),
        ({"match": "a"}, [{"match": "a"}]),
        ({"match": "a", "match_type": "exact"}, [{"match": "a"}]),
        (URLPattern("/:id"), [{"match": "/:id", "match_type": "urlpattern"}]),
        ([{"match": "/:id", "match_type": "urlpattern"}], [{"match": "/:id", "match_type": "urlpattern"}]),
        (iter(["a", URLPattern("/x")]), [{"match": "a"}, {"match": "/x", "match_type": "urlpattern"}]),
        ({"a": 1}.keys(), [{"match": "a"}]),
    ],
)
def test_claims_hold_topics_of_each_form(topics: Any, expected: list[dict[str, str]]) -> None:
    token = create(subscribe=topics)
    (detail,) = content(token)["authorization_details"]
    assert detail == {"type": DETAIL_TYPE, "actions": ["subscribe"], "topics": expected}
    verify(token)


@pytest.mark.parametrize(
    ("topics", "error", "words"),
    [
        ([""], InvalidArgument, "empty"),
        (["a\nb"], InvalidArgument, "U+000A"),
        ([URLPattern("a\u200bb")], InvalidArgument, "U+200B"),
        ([{"match": "a", "match_type": "regexp"}], InvalidArgument, "'regexp'"),
        ([{"match": "a", "matchType": "urlpattern"}], InvalidArgument, "matchType"),
        ([{"topic": "a"}], InvalidArgument, "needs 'match'"),
        ([{"match": 5}], TypeError, "int"),
        ([5], TypeError, "int"),
        ([None], TypeError, "NoneType"),
        ([b"a"], TypeError, "bytes"),
        (b"abc", TypeError, "bytes"),
        (5, TypeError, "int"),
        ([["a"]], TypeError, "list"),
    ],
)
@pytest.mark.parametrize("argument", ["subscribe", "publish"])
def test_tokens_refuse_topics_that_cannot_be_expressed(
    topics: Any, error: type[Exception], words: str, argument: str
) -> None:
    with pytest.raises(error) as caught:
        create(**{argument: topics})
    assert words in str(caught.value)


def test_a_token_without_rights_still_admits() -> None:
    grant = verify(create(subscribe=[]))
    assert not grant.subscribe.covers("a")


def test_publishing_and_subscribing_in_one_token() -> None:
    token = create(subscribe="a", publish=["b"])
    assert verify(token).subscribe.covers("a")
    assert verify(token, "publish").publish.covers("b")
    assert not verify(token, "publish").publish.covers("a")


def test_a_payload_goes_to_the_subscriptions() -> None:
    grant = verify(create(subscribe=["a", "b"], publish="c", payload={"name": "Ada"}))
    assert grant.payload_for(make(MatcherType.EXACT, "b", PUBLIC)) == {"name": "Ada"}
    assert grant.payload_for(make(MatcherType.EXACT, "c", PUBLIC)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subscribe": "a", "payload": ["x"]}, "JSON object"),
        ({"publish": "a", "payload": {}}, "subscribe"),
        ({"subscribe": "a", "additional_claims": {"exp": None}}, "must have an end"),
        ({"subscribe": "a", "additional_claims": {"exp": "soon"}}, "'soon'"),
        ({"subscribe": "a", "additional_claims": {"exp": True}}, "True"),
        ({"subscribe": "a", "additional_claims": {"exp": float("nan")}}, "nan"),
        ({"subscribe": "a", "additional_claims": {"exp": datetime(2040, 1, 1)}}, "time zone"),
        ({"subscribe": "a", "additional_claims": {"exp": 1}, "lifetime": 5}, "not both"),
        ({"subscribe": "a", "additional_claims": {"authorization_details": {}}}, "not a list"),
        ({"subscribe": "a", "lifetime": 0}, "above 0"),
        ({"subscribe": "a", "lifetime": float("inf")}, "above 0"),
    ],
)
def test_create_token_refuses_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        create(**arguments)


@pytest.mark.parametrize("lifetime", [True, "60", None])
def test_a_token_lifetime_has_a_type(lifetime: Any) -> None:
    if lifetime is None:
        create(lifetime=None)
    else:
        with pytest.raises(TypeError, match="lifetime"):
            create(lifetime=lifetime)


@pytest.mark.parametrize("lifetime", [60, 60.0, timedelta(minutes=1)])
def test_forms_of_a_token_lifetime(lifetime: Any) -> None:
    assert content(create(subscribe="a", lifetime=lifetime))["exp"] - time.time() == pytest.approx(60, abs=5)


def test_additional_claims_join_the_standard_ones() -> None:
    end = datetime.now(UTC) + timedelta(hours=2)
    own = {"type": DETAIL_TYPE, "actions": ["subscribe"], "topics": [{"match": "a"}], "payload": {"x": 1}}
    claims = {"sub": "ada", "exp": end, "authorization_details": [own], "scope": "x"}
    token = create(subscribe=EVERYTHING, additional_claims=claims, payload={"x": 2})
    assert content(token)["sub"] == "ada"
    assert content(token)["scope"] == "x"
    assert content(token)["exp"] - end.timestamp() < 1
    grant = verify(token)
    assert grant.payload_for(make(MatcherType.EXACT, "a", PUBLIC)) == {"x": 1}
    assert grant.payload_for(make(MatcherType.EXACT, "b", PUBLIC)) == {"sub": "ada", "x": 2}
    assert list(claims) == ["sub", "exp", "authorization_details", "scope"]


def test_tokens_of_the_old_protocol() -> None:
    token = create(
        {"PROTOCOL": "0.x"},
        subscribe=[URITemplate("https://e.example/{id}"), EVERYTHING],
        publish="b",
        payload=["x"],
        lifetime=9,
    )
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = content(token)
    assert claims["mercure"] == {
        "subscribe": ["https://e.example/{id}", "*"],
        "publish": ["b"],
        "payload": ["x"],
    }
    grant = verify(token, protocol="0.x")
    assert grant.subscribe.covers("https://e.example/5")
    assert grant.expires_at == claims["exp"]
    endless = create({"PROTOCOL": "0.x"}, subscribe="a", additional_claims={"exp": None})
    assert expiry(endless) is None
    assert verify(endless, protocol="0.x").expires_at is None


def test_the_claim_of_the_old_protocol_can_be_joined() -> None:
    claims = {"mercure": {"payload": {"x": 1}, "subscribe": ["*"]}}
    token = create({"PROTOCOL": "0.x"}, subscribe="a", additional_claims=claims)
    assert content(token)["mercure"] == {"payload": {"x": 1}, "subscribe": ["a"]}
    with pytest.raises(InvalidArgument, match="not a dict"):
        create({"PROTOCOL": "0.x"}, subscribe="a", additional_claims={"mercure": "x"})


@pytest.mark.parametrize("topics", [URLPattern("/:id"), {"match": "/:id", "match_type": "urlpattern"}])
def test_url_patterns_are_not_of_the_old_protocol(topics: Any) -> None:
    with pytest.raises(InvalidArgument, match="URITemplate"):
        create({"PROTOCOL": "0.x"}, subscribe=topics)


@pytest.mark.parametrize(
    ("kind", "algorithm", "used"),
    [
        ("rsa", "", "RS256"),
        ("rsa", "PS512", "PS512"),
        ("ec", "", "ES256"),
        ("ed25519", "EdDSA", "EdDSA"),
    ],
)
def test_key_pairs_sign_tokens(kind: Any, algorithm: str, used: str, tmp_path: Path) -> None:
    private, public = pair(kind)
    path = tmp_path / "private.pem"
    path.write_text(private)
    for value in (private, private.replace("\n", "\\n"), f"@{path}"):
        token = create({"JWT_SECRET": value, "JWT_ALGORITHM": algorithm}, subscribe="a")
        assert jwt.get_unverified_header(token)["alg"] == used
        trusted = (load(public, algorithm, exists=os.path.exists),)
        verifier = TokenVerifier([Issuer("urn:flask-mercure", trusted, trusted)])
        assert verifier.verify(token, "subscribe", PUBLIC, time.time()).subscribe.covers("a")


def test_an_encrypted_key_signs_tokens() -> None:
    private, _ = pair("ec")
    key = load_pem_private_key(private.encode(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    ).decode()
    token = create({"JWT_SECRET": encrypted, "JWT_PASSPHRASE": "word"}, subscribe="a")
    assert jwt.get_unverified_header(token)["alg"] == "ES256"
    for passphrase in ("", "wrong"):
        with pytest.raises(ConfigurationError, match="MERCURE_JWT_SECRET"):
            create({"JWT_SECRET": encrypted, "JWT_PASSPHRASE": passphrase})


def test_each_role_has_a_key_for_its_tokens() -> None:
    config = {"PUBLISHER_JWT_KEY": "p" * 40, "SUBSCRIBER_JWT_KEY": "s" * 40, "JWT_SECRET": None}
    verify(create(config, subscribe="a"), key="s" * 40)
    verify(create(config, publish="a"), "publish", key="p" * 40)
    with pytest.raises(TokenError, match="different keys"):
        create(config, subscribe="a", publish="a")


def test_a_role_without_a_key_gets_no_token() -> None:
    config = {"JWT_SECRET": None, "PUBLISHER_JWT_KEY": "p" * 40}
    create(config, publish="a")
    with pytest.raises(TokenError, match="MERCURE_SUBSCRIBER_JWT_KEY"):
        create(config, subscribe="a")
    config = {"JWT_SECRET": None, "SUBSCRIBER_JWT_KEY": "p" * 40}
    with pytest.raises(TokenError, match="MERCURE_PUBLISHER_JWT_KEY"):
        create(config, publish="a")


def test_a_factory_made_by_hand() -> None:
    key = load(SECRET, exists=os.path.exists)
    factory = TokenFactory(
        issuer="urn:me",
        audience=["urn:hub"],
        subscriber_key=key,
        key_id="k1",
        clock=lambda: 1000.0,
        lifetime=5,
    )
    token = factory.create("a")
    assert jwt.get_unverified_header(token)["kid"] == "k1"
    assert content(token)["exp"] == 1005


def accepting(
    subscribe: Sequence[Any] | None = None,
    publish: Sequence[Any] | None = None,
    additional_claims: Mapping[str, Any] | None = None,
) -> str:
    """A factory of the shape that is asked for."""
    return jwt.encode({"s": subscribe, "p": publish, "a": dict(additional_claims or {})}, SECRET)


class Accepting:
    """The same as an object."""

    def create(self, **arguments: Any) -> str:
        return jwt.encode({"payload": arguments.get("payload"), "s": arguments["subscribe"]}, SECRET)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tokens_of_the_app")
    vars(module).update(accepting=accepting, factory=Accepting(), Accepting=Accepting)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("value", [accepting, Accepting(), Accepting().create])
def test_the_app_has_a_token_factory_of_its_own(value: object) -> None:
    config = {"TOKEN_FACTORY": value, "JWT_SECRET": None}
    assert content(create(config, subscribe="a"))["s"] == ["a"]


@pytest.mark.parametrize("path", ["tokens_of_the_app:accepting", "tokens_of_the_app:factory.create"])
def test_a_token_factory_by_import_path(path: str, plugin: ModuleType) -> None:
    assert content(create({"TOKEN_FACTORY": path}, subscribe=iter(["a"])))["s"] == ["a"]


def test_a_class_is_no_factory(plugin: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match="MERCURE_TOKEN_FACTORY"):
        create({"TOKEN_FACTORY": "tokens_of_the_app:Accepting"})


def test_a_factory_gets_what_was_asked_for() -> None:
    made = content(
        create({"TOKEN_FACTORY": accepting}, publish="p", lifetime=60, additional_claims={"sub": "x"})
    )
    assert (made["s"], made["p"], made["a"]["sub"]) == (None, ["p"], "x")
    assert made["a"]["exp"] - time.time() == pytest.approx(60, abs=5)


def test_a_payload_needs_a_factory_that_takes_it() -> None:
    assert content(create({"TOKEN_FACTORY": Accepting()}, subscribe="a", payload={"x": 1}))["payload"] == {
        "x": 1
    }
    with pytest.raises(TokenError, match="payload"):
        create({"TOKEN_FACTORY": accepting}, subscribe="a", payload={"x": 1})


@pytest.mark.parametrize("given", [None, b"a.b.c", "", "abc", "a.b", "a.b.c; Domain=x", "a.b.c\r\nX: y", 5])
def test_a_factory_that_gives_no_token_is_refused(given: Any) -> None:
    def factory(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> Any:
        return given

    with pytest.raises(TokenError) as caught:
        create({"TOKEN_FACTORY": factory}, subscribe="a")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("value", ["never", True, {"a": 1}])
def test_an_end_that_is_no_number(value: object) -> None:
    with pytest.raises(TokenError, match="exp"):
        expiry(jwt.encode({"x": 1, "exp": value}, SECRET))


def test_a_token_that_cannot_be_read() -> None:
    with pytest.raises(TokenError, match="no JWT"):
        expiry("a.b.c")


def test_a_callable_whose_arguments_are_not_known_is_tried() -> None:
    assert TokenSource(type("Silent", (), {"create": getattr})())
    with pytest.raises(TypeError, match="neither"):
        TokenSource(5)


def test_claims_for_a_library_of_ones_own() -> None:
    mercure = Mercure()
    with make_app(mercure, PUBLIC_URL=PUBLIC, TOKEN_FACTORY=accepting, JWT_SECRET=None).app_context():
        claims = mercure.claims(["a"], additional_claims={"sub": "ada"}, payload={"n": 1})
    token = jwt.encode(claims, SECRET, headers={"typ": "at+jwt"})
    assert verify(token).subscribe.covers("a")
    assert claims["sub"] == "ada"


@pytest.mark.parametrize(
    ("protocol", "text"), [("1.0", "*"), ("0.x", "*"), ("0.x", "users/{+any}"), ("1.0", URLPattern("*"))]
)
@pytest.mark.parametrize("argument", ["subscribe", "publish"])
def test_a_factory_of_ones_own_gets_no_users_text_that_means_more(
    protocol: str, text: str | URLPattern, argument: str
) -> None:
    mercure = Mercure()
    given: list[Any] = []

    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        given.append((subscribe, publish))
        return jwt.encode({"mercure": {"subscribe": subscribe, "publish": publish}}, SECRET)

    app = make_app(mercure, PUBLIC_URL=PUBLIC, TOKEN_FACTORY=create, PROTOCOL=protocol)
    with app.app_context():
        with pytest.raises(InvalidArgument, match=argument):
            mercure.create_token(**{argument: iter(["a", text])})  # type: ignore[arg-type]
        assert given == []
        assert mercure.create_token(**{argument: iter([EVERYTHING])})  # type: ignore[arg-type]
    assert [one for one in given[0] if one is not None] == [["*"]]


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def source_of(factory: object) -> PublisherSource:
    tokens = TokenSource(factory)
    return PublisherSource(lambda: tokens.create(publish=EVERYTHING), "the token factory")


def counting(clock: Clock, lifetime: float | None) -> tuple[PublisherToken, list[int]]:
    made: list[int] = []

    def factory(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        made.append(len(made))
        assert publish == ["*"]
        claims: dict[str, Any] = {"n": len(made)}
        if lifetime is not None:
            claims["exp"] = clock() + lifetime
        return jwt.encode(claims, SECRET)

    return PublisherToken(source_of(factory), 100, clock), made


@pytest.mark.parametrize(("lifetime", "kept"), [(3600, 3540), (100, 90), (None, 100)])
def test_the_publishers_token_is_kept_until_shortly_before_its_end(
    lifetime: float | None, kept: float
) -> None:
    clock = Clock()
    tokens, made = counting(clock, lifetime)
    first = tokens.get()
    clock.now += kept - 1
    assert tokens.get() == first
    clock.now += 1
    assert tokens.get() != first
    assert len(made) == 2


def test_a_refused_token_is_forgotten_once() -> None:
    tokens, made = counting(Clock(), 3600)
    first = tokens.get()
    tokens.forget(first)
    second = tokens.get()
    tokens.forget(first)
    assert tokens.get() == second
    assert len(made) == 2


def test_a_publishers_token_that_has_expired() -> None:
    tokens, _ = counting(Clock(), 0)
    with pytest.raises(TokenError, match="the token factory, to publish with, has expired at"):
        tokens.get()


def test_threads_make_one_token_together() -> None:
    tokens, made = counting(Clock(), 3600)
    start = threading.Barrier(8)

    def get(_: int) -> str:
        start.wait()
        return tokens.get()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(get, range(8)))) == 1
    assert len(made) == 1


def test_a_factory_that_fails_is_asked_again() -> None:
    answers: list[Callable[[], str]] = [lambda: "no token", lambda: jwt.encode({}, SECRET)]

    def factory(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        return answers.pop(0)()

    tokens = PublisherToken(source_of(factory), 100)
    with pytest.raises(TokenError):
        tokens.get()
    assert tokens.get().count(".") == 2


def test_the_state_of_an_app_shows_no_key() -> None:
    assert SECRET not in repr(state_of(make_app()))
