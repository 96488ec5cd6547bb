"""Several hubs: what the configuration may say, and which hub a call reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jwt
import pytest
from flask import Flask, Response, render_template_string

from flask_mercure import ConfigurationError, Hub, InvalidArgument, Mercure, SomeHubsFailed
from flask_mercure.errors import HubUnreachable, PublishError
from flask_mercure.extension import state_of
from tests.flask_mercure.fake_hub import SECRET, Answer, FakeHub, Silent, make_app, running

OTHER = "another secret of more than thirty-two bytes"
EU = "https://eu.example/.well-known/mercure"
US = "https://us.example/.well-known/mercure"


def hubs_of(**config: Any) -> Flask:
    return make_app(None, **config)


def problems(**config: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        make_app(None, **config)
    assert SECRET not in str(caught.value)
    assert OTHER not in str(caught.value)
    return caught.value.problems


def test_each_hub_has_its_own_settings_and_shares_the_others() -> None:
    app = hubs_of(
        HUBS={
            "default": {"URL": US, "COOKIE_NAME": "__Secure-us"},
            "eu": {
                "URL": "http://10.0.0.5:3000/m",
                "PUBLIC_URL": EU,
                "JWT_SECRET": OTHER,
                "PROTOCOL": "0.x",
                "VERIFY_TLS": False,
                "TIMEOUT": 9,
                "TOKEN_LIFETIME": 60,
            },
        },
        TIMEOUT=7,
        ISSUER="urn:all",
    )
    state = state_of(app)
    one, eu = state.hub().configuration, state.hub("eu").configuration
    assert (one.url, one.public_url, one.protocol, one.read_timeout, one.issuer) == (
        US,
        US,
        "1.0",
        7,
        "urn:all",
    )
    assert (eu.public_url, eu.protocol, eu.read_timeout, eu.issuer) == (EU, "0.x", 9, "urn:all")
    assert (one.verify_tls, eu.verify_tls, eu.lifetime) == (True, False, 60)
    assert (one.cookie.name, eu.cookie.name) == ("__Secure-us", "mercureAuthorization")
    mercure = Mercure()
    with app.app_context():
        jwt.decode(mercure.hub("eu").create_token("a"), OTHER, algorithms=["HS256"])
        jwt.decode(mercure.create_token("a"), SECRET, algorithms=["HS256"], audience=US)
        assert mercure.hub("eu").url("a") == f"{EU}?topic=a"
        assert render_template_string("{{ mercure_url('a', hub='eu') }}") == f"{EU}?topic=a"
        assert mercure.url("a") == f"{US}?match=a"
        assert list(mercure.hubs) == ["default", "eu"]
        assert all(isinstance(one, Hub) for one in mercure.hubs.values())


def test_a_hub_with_a_url_or_keys_of_its_own_takes_none_of_another_hub() -> None:
    """Half of an identity from elsewhere would be an address or a key that nobody meant."""
    app = hubs_of(
        PUBLIC_URL="https://site.example/m",
        PUBLISHER_JWT_KEY=SECRET,
        JWT_ALGORITHM="HS256",
        SUBSCRIBER_JWT_ALG="HS384",
        HUBS={
            "default": {"SUBSCRIBER_JWT_ALG": "HS256", "JWT_SECRET": SECRET},
            "eu": {"URL": EU, "JWT_SECRET": OTHER},
        },
    )
    eu = state_of(app).hub("eu").configuration
    assert eu.public_url == EU
    assert eu.publisher_key is eu.subscriber_key
    assert eu.publisher_key is not None
    assert eu.publisher_key.material == OTHER.encode()
    assert eu.publisher_key.algorithms == ("HS256",)


@pytest.mark.parametrize(
    ("hubs", "words"),
    [
        ({}, "MERCURE_HUBS is empty"),
        ("eu", "MERCURE_HUBS is a str"),
        ({"*": {}}, "a hub named '*'"),
        ({"": {}}, "a hub named ''"),
        ({3: {}}, "a hub named 3"),
        ({"a b": {}}, "a hub named 'a b'"),
        ({"eu": EU}, "MERCURE_HUBS['eu'] is a str; give a mapping"),
        ({"eu": {"url": EU}}, "has 'url', which is not known; do you mean 'URL'?"),
        ({"eu": {"MERCURE_URL": EU}}, "do you mean 'URL'?"),
        ({"eu": {"COOKIE_NAM": "x"}}, "do you mean 'COOKIE_NAME'?"),
        ({"eu": {"zzz": 1}}, "which is not known: it can have CONNECT_TIMEOUT, "),
        ({"eu": {"URL": "nowhere"}}, "MERCURE_HUBS['eu']['URL'] is 'nowhere'"),
        ({"eu": {"JWT_SECRET": "short"}}, "MERCURE_HUBS['eu']['JWT_SECRET'] cannot be used"),
        ({"eu": {"COOKIE_PATH": "/x"}}, "MERCURE_HUBS['eu']['COOKIE_PATH'] is '/x'"),
        ({"eu": {}, "us": {"URL": US}}, "set MERCURE_DEFAULT_HUB"),
    ],
)
def test_a_wrong_setting_of_a_hub_is_refused_by_its_name(hubs: object, words: str) -> None:
    assert words in "\n".join(problems(HUBS=hubs))


def test_all_problems_come_at_once_and_a_shared_one_comes_once() -> None:
    found = problems(
        TIMEOUT=-1,
        DEFAULT_HUB="uk",
        HUBS={"eu": {"URL": "x"}, "us": {"PROTOCOL": "7"}, "asia": {"urll": EU}, "b c": {}},
    )
    assert sorted(one.split(" is ")[0].split(" has ")[0] for one in found) == sorted(
        [
            *("MERCURE_HUBS['eu']['URL']", "MERCURE_HUBS['us']['PROTOCOL']", "MERCURE_HUBS['asia']"),
            *("MERCURE_HUBS", "MERCURE_TIMEOUT", "MERCURE_DEFAULT_HUB"),
        ]
    )


def test_the_default_hub_is_configured_or_the_only_one() -> None:
    named = {"eu": {"URL": EU}, "us": {"URL": US}}
    assert state_of(hubs_of(HUBS=named, DEFAULT_HUB="us")).default == "us"
    assert state_of(hubs_of(HUBS={"eu": {}})).default == "eu"
    assert state_of(hubs_of(HUBS={"eu": {"URL": EU}, "default": {}})).default == "default"
    assert "is 'uk', which MERCURE_HUBS does not have" in problems(HUBS=named, DEFAULT_HUB="uk")[0]
    assert "MERCURE_HUBS is not set" in problems(DEFAULT_HUB="eu")[0]


def test_a_hub_without_a_key_is_refused() -> None:
    app = Flask("sample")
    app.config["MERCURE_HUBS"] = {"default": {"JWT_SECRET": SECRET}, "eu": {"URL": EU}}
    with pytest.raises(ConfigurationError, match=r"MERCURE_HUBS\['eu'\] as JWT_SECRET"):
        Mercure(app)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"URL": "http://127.0.0.1:3001/.well-known/mercure"}),  # ports make no difference
        ({"URL": "https://h.example/m"}, {"URL": "https://h.example/m", "PROTOCOL": "1.0"}),
        ({"URL": "https://a.site.example/m"}, {"URL": "https://b.site.example/m"}),  # site.example for both
        (
            {"URL": "https://a.site.example/m", "COOKIE_DOMAIN": "site.example"},
            {"URL": "https://site.example/m", "COOKIE_DOMAIN": "site.example"},
        ),
    ],
)
def test_cookies_that_a_browser_keeps_as_one_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    (problem,) = problems(HUBS={"default": one, "two": other})
    assert "'default' and 'two' have the same cookie" in problem
    hubs_of(HUBS={"default": one, "two": {**other, "COOKIE_NAME": "__Secure-two"}})
    hubs_of(HUBS={"default": one, "two": {**other, "PUBLISHER_JWT_KEY": SECRET}})  # it sets no cookie


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"URL": EU}, {"URL": US}),  # no cookie reaches both hosts
        ({"URL": "https://h.example/eu"}, {"URL": "https://h.example/us"}),
        ({"URL": "https://h.example/m"}, {"URL": "https://h.example/m", "PROTOCOL": "0.x"}),
    ],
)
def test_cookies_that_a_browser_keeps_apart_are_accepted(one: dict[str, Any], other: dict[str, Any]) -> None:
    hubs_of(HUBS={"default": one, "two": other})


def cookies_of_hubs(response: Response) -> list[str]:
    """Without the marks beside them, which scripts can read."""
    return [line for line in response.headers.getlist("Set-Cookie") if "HttpOnly" in line]


def test_cookies_of_two_hubs_are_set_in_one_response() -> None:
    mercure = Mercure()
    hubs = {"default": {"URL": "https://h.example/eu"}, "us": {"URL": "https://h.example/us"}}
    app = make_app(mercure, HUBS=hubs)
    response = Response()
    with app.test_request_context(base_url="https://h.example"):
        for hub in (mercure, mercure.hub("us"), mercure.hub("us")):
            hub.set_cookie(response, ["a"])
        lines = cookies_of_hubs(response)
        assert [line.partition("Path=")[2].partition(";")[0] for line in lines] == ["/eu", "/us"]
        assert len({line.partition("=")[0] for line in lines}) == 1
        mercure.clear_cookie(response)
        assert [line.partition("=")[2].startswith(";") for line in cookies_of_hubs(response)] == [
            False,
            True,
        ]


def test_a_hub_can_be_asked_for_before_there_is_an_app() -> None:
    mercure = Mercure()
    hub = mercure.hub("eu")
    assert mercure.hub("eu") is hub
    assert mercure.hub() is mercure
    assert repr(hub) == "Hub('eu')"
    with make_app(mercure).app_context():
        with pytest.raises(
            ConfigurationError, match=r"no hub named 'eu'; MERCURE_HUBS of this app has 'default'"
        ):
            hub.url("a")
        assert mercure.hub("default").url("a") == mercure.url("a")


class Pair:
    """An app with two hubs."""

    def __init__(self, eu: FakeHub, us: FakeHub) -> None:
        self.eu, self.us = eu, us
        self.mercure = Mercure()
        us_settings = {"URL": us.url, "COOKIE_NAME": "us", "COOKIE_SECURE": False}
        self.app = make_app(
            self.mercure, HUBS={"eu": {"URL": eu.url}, "us": us_settings}, DEFAULT_HUB="eu", TIMEOUT=0.3
        )

    def publish_to_all(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        with self.app.app_context():
            return self.mercure.publish_to_all(*args, **kwargs)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        made = Pair(stack.enter_context(running()), stack.enter_context(running()))
        yield made
        for hub in state_of(made.app).hubs.values():
            hub.publisher.close()


@pytest.mark.minutes
def test_an_update_reaches_the_hub_that_is_named(pair: Pair) -> None:
    with pair.app.app_context():
        pair.mercure.hub("us").publish("a", "us", private=False)
        pair.mercure.publish("a", "eu", private=False)
    assert [dict(one.pairs)["data"] for one in pair.us.received] == ["us"]
    assert [dict(one.pairs)["data"] for one in pair.eu.received] == ["eu"]


@pytest.mark.minutes
def test_an_update_for_all_hubs_has_one_id(pair: Pair) -> None:
    ids = pair.publish_to_all(["a", "b"], {"x": 1}, private=True, type="t", retry=5)
    assert ids == {"eu": "urn:uuid:1", "us": "urn:uuid:1"}
    (eu,), (us,) = pair.eu.received, pair.us.received
    assert eu.pairs == us.pairs
    sent = dict(eu.pairs)
    assert sent["id"].startswith("urn:uuid:")
    assert (sent["private"], sent["type"], sent["retry"], sent["data"]) == ("on", "t", "5", '{"x": 1}')
    pair.publish_to_all("a", id="urn:mine", hubs=["us"])
    assert dict(pair.us.received[-1].pairs)["id"] == "urn:mine"
    assert len(pair.eu.received) == 1


@pytest.mark.minutes
def test_a_hub_that_fails_does_not_keep_the_others_from_it(pair: Pair) -> None:
    pair.eu.answers = [Answer(b"", 403)]
    with pytest.raises(SomeHubsFailed) as caught:
        pair.publish_to_all("a")
    error = caught.value
    assert error.published_ids == {"us": "urn:uuid:1"}
    assert list(error.errors) == ["eu"]
    assert isinstance(error, PublishError)
    assert isinstance(error.__cause__, PublishError)
    assert not error.possibly_published
    assert str(error).startswith("the update was published on 'us', and not on 1 of 2 hubs: 'eu': ")
    assert "answered 403" in str(error)
    assert len(pair.us.received) == 1


@pytest.mark.minutes
def test_an_update_that_no_hub_takes_raises(pair: Pair) -> None:
    pair.eu.answers = [Silent()]
    pair.us.answers = [Answer(b"", 500)]
    with pytest.raises(SomeHubsFailed, match=r"published on none, and not on 2 of 2 hubs") as caught:
        pair.publish_to_all("a")
    assert isinstance(caught.value.errors["eu"], HubUnreachable)
    assert caught.value.possibly_published
    assert caught.value.published_ids == {}


@pytest.mark.minutes
def test_the_error_of_a_provider_of_the_apps_own_is_named_and_not_quoted(pair: Pair) -> None:
    def provider() -> str:
        raise LookupError("the vault said hunter2")

    mercure = Mercure()
    hubs = {"eu": {"URL": pair.eu.url, "TOKEN_PROVIDER": provider}, "default": {"URL": pair.us.url}}
    app = make_app(mercure, HUBS=hubs)
    with app.app_context(), pytest.raises(SomeHubsFailed) as caught:
        mercure.publish_to_all("a")
    state_of(app).publisher.close()
    assert "TOKEN_PROVIDER'] raised LookupError in " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.published_ids == {"default": "urn:uuid:1"}


@pytest.mark.minutes
def test_what_is_wrong_with_the_update_is_said_before_anything_is_sent(pair: Pair) -> None:
    with pytest.raises(ConfigurationError, match="no hub named 'uk'"):
        pair.publish_to_all("a", hubs=["us", "uk"])
    with pytest.raises(InvalidArgument, match="hubs is empty"):
        pair.publish_to_all("a", hubs=[])
    with pytest.raises(TypeError, match="give a list of names"):
        pair.publish_to_all("a", hubs="us")
    with pytest.raises(InvalidArgument, match="wildcard"):
        pair.publish_to_all("*")
    assert pair.eu.received == pair.us.received == []
