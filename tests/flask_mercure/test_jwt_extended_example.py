"""``examples/jwt_extended``: tokens signed by Flask-JWT-Extended, which the hub accepts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask

from flask_mercure.extension import state_of
from mercure_hub.protocol.errors import TokenInvalid
from mercure_hub.protocol.tokens import asymmetric, keys
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.tokens.issuer import Issuer
from tests.flask_mercure.fake_hub import SECRET, FakeHub, running

pytestmark = pytest.mark.minutes

PAGE = "http://127.0.0.1:5000"
EXAMPLE = Path(__file__).parents[2] / "examples/jwt_extended/app.py"


def load_example() -> Any:
    """The example is no package: it is loaded as ``flask --app`` does it."""
    spec = spec_from_file_location("jwt_extended_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def app(hub: FakeHub) -> Iterator[Flask]:
    app: Flask = example.create_app({"JWT_SECRET_KEY": SECRET, "MERCURE_URL": hub.url})
    yield app
    state_of(app).publisher.close()


def verify(token: str, role: Any, resource: str, key: str = SECRET) -> Grant:
    trusted = (keys.load(key, exists=os.path.exists),)
    return TokenVerifier([Issuer("urn:flask-mercure", trusted, trusted)], "1.0").verify(
        token, role, resource, time.time() + 1
    )


def sign_in(app: Flask) -> tuple[str, str]:
    """The token of the API and the token of the hub."""
    answer = app.test_client().post("/login", json={"name": "ada"}, base_url=PAGE)
    cookie = SimpleCookie(answer.headers["Set-Cookie"])["__Secure-mercure_access_token"]
    token: str = answer.get_json()["access_token"]
    return token, cookie.value


def test_the_hub_accepts_the_cookie(app: Flask, hub: FakeHub) -> None:
    _, cookie = sign_in(app)
    assert jwt.get_unverified_header(cookie)["typ"] == "at+jwt"
    assert jwt.decode(cookie, options={"verify_signature": False})["sub"] == "/users/ada"
    grant = verify(cookie, "subscribe", hub.url)
    assert grant.subscribe.covers("/users/ada/orders")
    assert not grant.subscribe.covers("/users/bob/orders")


def test_the_hub_accepts_what_the_app_publishes(app: Flask, hub: FakeHub) -> None:
    api, _ = sign_in(app)
    answer = app.test_client().post("/orders/7/ship", headers={"Authorization": f"Bearer {api}"})
    assert answer.get_json() == {"update": "urn:uuid:1"}
    (request,) = hub.received
    assert ("private", "on") in request.pairs
    token = request.headers["Authorization"].removeprefix("Bearer ")
    assert verify(token, "publish", hub.url).publish.covers("/users/ada/orders")


def test_neither_token_does_for_the_other(app: Flask, hub: FakeHub) -> None:
    api, cookie = sign_in(app)
    with pytest.raises(TokenInvalid, match="typ"):
        verify(api, "subscribe", hub.url)
    answer = app.test_client().post("/orders/7/ship", headers={"Authorization": f"Bearer {cookie}"})
    assert answer.status_code == 422
    assert hub.received == []


def test_a_key_pair(hub: FakeHub) -> None:
    private, public = asymmetric.generate_pair("ec")
    app: Flask = example.create_app(
        {
            "JWT_ALGORITHM": "ES256",
            "JWT_PRIVATE_KEY": private,
            "JWT_PUBLIC_KEY": public,
            "MERCURE_JWT_SECRET": public,
            "MERCURE_URL": hub.url,
        }
    )
    with app.app_context():
        token = example.mercure.create_token(["a"])
    assert verify(token, "subscribe", hub.url, key=public).subscribe.covers("a")
