"""Subscriptions folded into people; what to grant; the user in the payload of tokens."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from flask import Flask, Response

from flask_mercure import (
    EVERYTHING,
    ActiveSubscription,
    Grants,
    InvalidArgument,
    Mercure,
    Person,
    URITemplate,
    URLPattern,
)
from flask_mercure.reading.people import people_of
from tests.flask_mercure.fake_hub import make_app

API = "/.well-known/mercure/subscriptions"
NOWHERE = "http://127.0.0.1:9/.well-known/mercure"
KEY = "a secret of more than thirty-two bytes"


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([], []),
        ([{"sub": "ada"}], [Person("ada", {"sub": "ada"}, 1)]),
        (
            [{"sub": "ada", "name": "Ada"}, {"sub": "bo"}, {"sub": "ada", "name": "Ada L."}],
            [Person("ada", {"sub": "ada", "name": "Ada L."}, 2), Person("bo", {"sub": "bo"}, 1)],
        ),
        ([None, None], []),  # nobody who can be named
        ([{"sub": 7}, {"sub": "7"}], [Person("7", {"sub": "7"}, 2)]),
        # Without a user, who has the same payload is the same person.
        ([{"name": "Ada"}, {"name": "Bo"}, {"name": "Ada"}], [(None, 2), (None, 1)]),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], [(None, 2)]),
        (["Ada", "Ada", ["Ada"], 7, False], [(None, 2), (None, 1), (None, 1), (None, 1)]),
        ([{"sub": ["ada"]}, {"sub": True}, {"sub": None}], [(None, 1), (None, 1), (None, 1)]),
        ([["ada"], {"sub": "ada"}], [(None, 1), ("ada", 1)]),  # a payload cannot pass for a user
    ],
)
def test_one_entry_a_person(payloads: list[Any], expected: list[Any]) -> None:
    found = people_of(
        ActiveSubscription("items/7", "exact", f"urn:{number}", payload)
        for number, payload in enumerate(payloads)
    )
    assert [
        one if isinstance(two, Person) else (one.user, one.connections)
        for one, two in zip(found, expected, strict=True)
    ] == expected


def test_a_subscription_that_is_listed_twice_is_one_connection() -> None:
    one = ActiveSubscription("items/7", "exact", "urn:1", {"sub": "ada"})
    assert people_of([one, one])[0].connections == 1


@pytest.mark.parametrize(
    ("topic", "segment"),
    [
        ("items/7", "items%2F7"),
        ("https://example.com/items/7?a=b#c", "https%3A%2F%2Fexample.com%2Fitems%2F7%3Fa%3Db%23c"),
        ("ü (*)", "%C3%BC%20%28%2A%29"),
        (":id", "%3Aid"),
        ("{id}", "%7Bid%7D"),
        ("a*", "a%2A"),
        ("../7", "..%2F7"),
    ],
)
def test_the_grants_are_those_of_one_topic_and_need_no_hub(topic: str, segment: str) -> None:
    with make_app(URL=NOWHERE).app_context():
        found = Mercure().presence(topic).grants
    assert found == (f"{API}/exact/{segment}", URLPattern(f"{API}/exact/{segment}/:subscriber"))


def test_the_grants_in_0x_and_of_a_hub_with_another_public_url() -> None:
    with make_app(URL=NOWHERE, PROTOCOL="0.x").app_context():
        assert Mercure().presence("a/b").grants == (f"{API}/a%2Fb", f"{API}/a%2Fb/{{subscriber}}")
        assert isinstance(Mercure().presence("a/b").grants[1], URITemplate)
    with make_app(URL=NOWHERE, PUBLIC_URL="https://example.com/hub").app_context():
        assert Mercure().presence("a").grants[0] == "/hub/subscriptions/exact/a"


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        (EVERYTHING, TypeError),
        (URLPattern("/items/:id"), TypeError),
        (URITemplate("/items/{id}"), TypeError),
        (None, TypeError),
        (["items/7"], TypeError),
        ("*", InvalidArgument),
        ("", InvalidArgument),
        (".", InvalidArgument),
        ("..", InvalidArgument),
        ("a\nb", InvalidArgument),
        ("ü" * 200, InvalidArgument),  # the hub would refuse the whole connection of the page
    ],
)
def test_people_are_at_one_exact_topic(topic: Any, error: type[Exception]) -> None:
    with make_app(URL=NOWHERE).app_context():
        with pytest.raises(error):
            Mercure().presence(topic)
        with pytest.raises(error):
            Mercure().presence_count(topic)


def test_the_grant_of_a_count_is_that_of_one_topic_and_needs_no_hub() -> None:
    with make_app(URL=NOWHERE).app_context():
        assert Mercure().presence_count("items/7*").grants == ("/.well-known/mercure/counts/items%2F7%2A",)
    with make_app(URL=NOWHERE, PUBLIC_URL="https://example.com/hub").app_context():
        assert Mercure().presence_count("a").grants == ("/hub/counts/a",)


def payload_of(token: str) -> Any:
    """What others see of whoever has the token."""
    claims = jwt.decode(token, options={"verify_signature": False})
    if "mercure" in claims:
        return claims["mercure"].get("payload")
    return next(
        (one.get("payload") for one in claims["authorization_details"] if "subscribe" in one["actions"]), None
    )


@pytest.mark.parametrize(
    ("payload", "user", "expected"),
    [
        (None, "ada", {"sub": "ada"}),
        (None, 7, {"sub": "7"}),
        ({"name": "Ada"}, "ada", {"sub": "ada", "name": "Ada"}),
        ({"sub": "public name"}, "ada@example.com", {"sub": "public name"}),
        ({"name": "Ada"}, None, {"name": "Ada"}),
        (None, None, None),
    ],
)
def test_the_payload_names_the_user(payload: Any, user: Any, expected: Any) -> None:
    with make_app(URL=NOWHERE).app_context():
        token = Mercure().create_token("items/7", payload=payload, user=user)
        assert payload_of(token) == expected
        assert payload_of(Mercure().create_token(publish="items/7", user=user)) is None
    with make_app(URL=NOWHERE, PROTOCOL="0.x").app_context():
        assert payload_of(Mercure().create_token("items/7", payload=payload, user=user)) == expected


@pytest.mark.parametrize("payload", ["Ada", ["Ada"], 7, False])
def test_a_payload_that_is_no_object_stays_as_it_is(payload: Any) -> None:
    with make_app(URL=NOWHERE, PROTOCOL="0.x").app_context():
        assert payload_of(Mercure().create_token("items/7", payload=payload, user="ada")) == payload


def test_a_payload_in_the_claims_of_the_app_wins() -> None:
    with make_app(URL=NOWHERE, PROTOCOL="0.x").app_context():
        claims = {"mercure": {"payload": "Ada"}, "sub": "ada"}
        assert payload_of(Mercure().create_token("items/7", additional_claims=claims)) == "Ada"


def test_grants_of_a_user_show_the_user() -> None:
    mercure = Mercure()
    app = Flask("sample")
    app.config.update(SECRET_KEY=KEY, MERCURE_URL="http://localhost:9/m", MERCURE_JWT_SECRET=KEY)
    mercure.init_app(app)

    @mercure.subscribe_grants
    def may_read() -> Grants:
        return Grants(["items/7", *mercure.presence("items/7").grants], user="ada")

    app.add_url_rule("/", view_func=lambda: Response("page"))
    cookies = app.test_client().get("/", base_url="http://localhost").headers.getlist("Set-Cookie")
    (token,) = [one.partition("=")[2].partition(";")[0] for one in cookies if "access_token=" in one]
    assert payload_of(token) == {"sub": "ada"}
