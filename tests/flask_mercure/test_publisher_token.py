"""The token with which the app publishes: a finished one, a callable's, or made with a key in any form."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from flask_mercure import EVERYTHING, ConfigurationError, Mercure, TokenError
from flask_mercure.config.settings import read_hub
from mercure_hub.protocol.tokens import asymmetric
from tests.flask_mercure.fake_hub import SECRET, Answer, make_app, publishing, running
from tests.hub.running import running_hub


def token(**claims: Any) -> str:
    return jwt.encode({"mercure": {"publish": ["*"]}, **claims}, SECRET, "HS256")


def given() -> str:
    """What an import path names."""
    return token()


def sent_tokens(count: int = 1, **config: Any) -> list[str]:
    with running() as hub, publishing(hub, **config) as publish:
        for _ in range(count):
            publish("a")
        return [one.headers["Authorization"].removeprefix("Bearer ") for one in hub.received]


@pytest.mark.minutes
def test_a_finished_token_is_sent_as_it_is() -> None:
    mine = token(exp=time.time() + 100)
    assert sent_tokens(JWT=f" {mine}\n") == [mine]


def test_a_finished_token_needs_no_key_and_gives_browsers_none() -> None:
    mercure = Mercure()
    app = make_app(mercure, JWT_SECRET=None, JWT=token())
    with app.app_context(), pytest.raises(TokenError, match="no key for a subscriber's token"):
        mercure.create_token("a")


@pytest.mark.minutes
def test_a_finished_token_that_has_expired_is_said_so_and_nothing_is_sent() -> None:
    mine = token(exp=time.time() - 3 * 86400 - 5)
    with running() as hub, publishing(hub, JWT=mine) as publish:
        with pytest.raises(TokenError) as caught:
            publish("a")
        assert hub.received == []
    message = str(caught.value)
    assert message.startswith("the token of MERCURE_JWT, to publish with, has expired at 20")
    assert "3 days, 0:00:0" in message
    assert "put a new one there" in message
    assert mine not in message


def test_an_error_names_the_hub_of_a_finished_token() -> None:
    mercure = Mercure()
    app = make_app(mercure, HUBS={"eu": {"JWT": token(exp=5)}})
    with app.app_context(), pytest.raises(TokenError, match=r"MERCURE_HUBS\['eu'\]\['JWT'\]"):
        mercure.publish("a", private=False)


@pytest.mark.minutes
def test_a_token_provider_is_asked_when_a_token_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def provider() -> str:
        made.append(token(exp=time.time() + 3600, jti=str(len(made))))
        return made[-1]

    assert sent_tokens(3, TOKEN_PROVIDER=provider) == made * 3
    assert len(made) == 1
    assert sent_tokens(TOKEN_PROVIDER=f"{__name__}:given") == [given()]


@pytest.mark.minutes
def test_a_token_that_the_hub_refused_is_asked_for_anew() -> None:
    made: list[str] = []

    def provider() -> str:
        made.append(token(jti=str(len(made))))
        return made[-1]

    with running() as hub, publishing(hub, TOKEN_PROVIDER=provider) as publish:
        hub.answers = [Answer(b"", 401), Answer()]
        with pytest.raises(Exception, match="answered 401"):
            publish("a")
        publish("a")
    assert len(made) == 2


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("provider", "words"),
    [
        (lambda: 5, "gave a int that is no JWT"),
        (lambda: "a b", "gave a str that is no JWT"),
        (
            lambda: token(exp=1),
            "the token of the callable of MERCURE_TOKEN_PROVIDER, to publish with, has expired",
        ),
        (lambda: token(exp=10**400), "not a number of seconds"),
    ],
)
def test_the_token_of_a_provider_is_checked(provider: Callable[[], Any], words: str) -> None:
    with running() as hub, publishing(hub, TOKEN_PROVIDER=provider) as publish:
        with pytest.raises(TokenError, match=words):
            publish("a")
        assert hub.received == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"JWT": "x"}, "MERCURE_JWT cannot be used: it gave a str that is no JWT"),
        ({"JWT": "a.b.c"}, "MERCURE_JWT cannot be used"),
        ({"JWT": token(), "TOKEN_PROVIDER": given}, "MERCURE_JWT and MERCURE_TOKEN_PROVIDER are both set"),
        ({"TOKEN_PROVIDER": 5}, "give a callable without arguments"),
        ({"TOKEN_PROVIDER": token}, ""),
        ({"TOKEN_PROVIDER": lambda x: x}, "cannot be called without arguments"),
        ({"TOKEN_PROVIDER": "nowhere:x"}, "cannot be imported"),
        ({"PUBLISH_TOPICS": []}, "MERCURE_PUBLISH_TOPICS is empty"),
        ({"PUBLISH_TOPICS": 5}, "MERCURE_PUBLISH_TOPICS cannot be used"),
        ({"PUBLISH_TOPICS": ["a\x00"]}, "control or format character"),
    ],
)
def test_a_wrong_setting_of_the_publisher_token_is_refused(config: dict[str, Any], words: str) -> None:
    if not words:
        make_app(None, **config)
        return
    with pytest.raises(ConfigurationError) as caught:
        make_app(None, **config)
    assert words in str(caught.value)
    assert token() not in str(caught.value)


@pytest.mark.minutes
@pytest.mark.parametrize("topics", [["books/1", "authors"], "books/1 authors"])
def test_the_token_can_be_for_some_topics_only(topics: object) -> None:
    (sent,) = sent_tokens(PUBLISH_TOPICS=topics)
    (detail,) = jwt.decode(sent, options={"verify_signature": False})["authorization_details"]
    assert detail["topics"] == [{"match": "books/1"}, {"match": "authors"}]


@pytest.mark.minutes
@pytest.mark.parametrize("topics", ["*", ["*"], EVERYTHING, [EVERYTHING]])
@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
def test_in_a_setting_the_wildcard_and_templates_need_no_mark(topics: object, protocol: str) -> None:
    (sent,) = sent_tokens(PUBLISH_TOPICS=topics, PROTOCOL=protocol)
    claims = jwt.decode(sent, options={"verify_signature": False})
    if protocol == "1.0":
        assert claims["authorization_details"][0]["topics"] == [{"match": "*"}]
        return
    assert claims["mercure"]["publish"] == ["*"]
    (sent,) = sent_tokens(PUBLISH_TOPICS="/books/{id} a", PROTOCOL=protocol)
    assert jwt.decode(sent, options={"verify_signature": False})["mercure"]["publish"] == ["/books/{id}", "a"]


EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)


def jwk_of(key: Any, **members: Any) -> dict[str, Any]:
    kind = {ec.EllipticCurvePrivateKey: ECAlgorithm, rsa.RSAPrivateKey: RSAAlgorithm}
    maker = next((kind[one] for one in kind if isinstance(key, one)), OKPAlgorithm)
    document: dict[str, Any] = json.loads(maker.to_jwk(key))  # type: ignore[attr-defined]
    return document | members


def header_and_key(value: object, **config: Any) -> tuple[dict[str, Any], Any]:
    found = read_hub({"MERCURE_JWT_SECRET": value, **{f"MERCURE_{key}": one for key, one in config.items()}})
    header = jwt.get_unverified_header(found.own_factory.create("a"))
    assert found.publisher_key is not None
    return header, found.publisher_key.material


@pytest.mark.parametrize(
    ("key", "algorithm"), [(EC, "ES256"), (ED, "EdDSA"), (RSA, "RS256")], ids=["EC", "Ed25519", "RSA"]
)
def test_a_jwk_signs_and_its_kid_stands_in_the_header(key: Any, algorithm: str, tmp_path: Path) -> None:
    document = jwk_of(key, kid="k1")
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"keys": [document]}))
    for value in (document, json.dumps(document), {"keys": [document]}, f"@{path}"):
        header, material = header_and_key(value)
        assert (header["kid"], header["alg"], header["typ"]) == ("k1", algorithm, "at+jwt")
        assert material.public_key() == key.public_key()


def test_a_secret_jwk() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0" * 8, "alg": "HS384", "kid": "s"}
    header, material = header_and_key(secret)
    assert (header["alg"], header["kid"], material) == ("HS384", "s", b"secret" * 8)


def test_of_a_set_the_key_that_can_sign_and_is_named_is_taken() -> None:
    public = json.loads(ECAlgorithm.to_jwk(EC.public_key()))
    jwks = {
        "keys": [
            public | {"kid": "public"},
            jwk_of(EC, kid="for encryption", use="enc"),
            jwk_of(EC, kid="wraps", key_ops=["wrapKey"]),
            jwk_of(RSA, kid="rsa", alg="PS256"),
            jwk_of(EC, kid="ec"),
        ]
    }
    assert header_and_key(jwks)[0]["kid"] == "rsa"
    assert header_and_key(jwks)[0]["alg"] == "PS256"
    assert header_and_key(jwks, JWT_KEY_ID="ec")[0]["kid"] == "ec"
    assert header_and_key(jwks, JWT_ALGORITHM="ES256")[0]["kid"] == "ec"
    with pytest.raises(ConfigurationError, match="with the kid 'public'; it has 'EC', kid 'public'"):
        header_and_key(jwks, JWT_KEY_ID="public")


def test_the_kid_of_a_pem() -> None:
    private, _ = asymmetric.generate_pair("ec")
    assert header_and_key(private, JWT_KEY_ID="2026-11")[0]["kid"] == "2026-11"
    assert "kid" not in header_and_key(private)[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"keys": []}, "it has nothing"),
        ({"keys": "x"}, "no list of objects"),
        ({"keys": [5]}, "no list of objects"),
        ({"kty": "EC", "d": "topsecretvalue"}, "cannot be read"),
        ({"kty": "oct", "k": "topsecretvalue"}, "needs at least 32"),
        ({"kty": "FOO", "d": "topsecretvalue"}, "cannot be read"),
        (json.loads(ECAlgorithm.to_jwk(EC.public_key())), "has no secret or private key to sign with"),
        (jwk_of(EC, alg="RS256"), "cannot be read|does not fit"),
        (jwk_of(ec.generate_private_key(ec.SECP256R1())) | {"x": 5}, "cannot be read"),
        ({1: object()}, "is a dict that is not JSON"),
    ],
)
def test_a_jwk_that_is_no_good(value: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        header_and_key(value)
    assert "topsecretvalue" not in str(caught.value)
    assert str(caught.value).startswith("MERCURE_JWT_SECRET ")


def test_a_secret_may_begin_with_a_brace() -> None:
    secret = "{not json, and more than thirty-two bytes long"
    assert header_and_key(secret)[1] == secret.encode()


@pytest.mark.minutes
def test_a_real_hub_takes_the_tokens_of_a_jwk(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    mercure = Mercure()
    with running_hub(tmp_path, publisher_jwt_key=public, subscriber_jwt_key=public, anonymous=1) as hub:
        app = make_app(mercure, URL=hub.url, JWT_SECRET=jwk_of(EC, kid="k"))
        stream = hub.subscribe({"match": "a"})
        with app.app_context():
            mercure.publish("a", "hello", private=False)
            mercure.hub("default")._state.publisher.close()
        assert stream.next().data == "hello"
