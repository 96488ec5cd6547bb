"""``init_app``: what it reads, what it refuses, and what it leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, render_template_string

import flask_mercure
from docs.website import settings as documented
from flask_mercure import ConfigurationError, Mercure
from flask_mercure.config.settings import OF_A_HUB, read_hub
from flask_mercure.extension import state_of
from mercure_hub.protocol.tokens import asymmetric
from tests.flask_mercure.fake_hub import SECRET, make_app

KEYS = {"MERCURE_JWT_SECRET": SECRET}
PRIVATE, PUBLIC = asymmetric.generate_pair("ec")
PARENT = Path(__file__).parents[3]


def test_nothing_but_a_key_is_needed() -> None:
    found = read_hub(KEYS)
    assert found.url == found.public_url == "http://127.0.0.1:3000/.well-known/mercure"
    assert (found.protocol, found.issuer, found.lifetime) == ("1.0", "urn:flask-mercure", 3600)
    assert (found.connect_timeout, found.read_timeout, found.verify_tls) == (2, 5, True)
    assert found.cookie.name == "__Secure-mercure_access_token"
    assert (found.cookie.path, found.cookie.same_site, found.cookie.secure) == (
        "/.well-known/mercure",
        "Strict",
        True,
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("URL", "127.0.0.1:3000", "http or https"),
        ("URL", "ftp://hub/x", "http or https"),
        ("URL", "http://hub.example", "with its path"),
        ("URL", "http://hub.example/m?x=1", "without query"),
        ("URL", "http://hub.example/m#", "without query"),
        ("URL", "http://hub.example:99999/m", "Port out of range"),
        ("URL", "http://hub.example:0/m", "http or https"),
        ("URL", "http://[::1/m", "Invalid IPv6"),
        ("URL", "http://hub example/m", "in ASCII"),
        ("URL", "http://hub.example/m\r\nX: y", "in ASCII"),
        ("URL", "http://hüb.example/m", "in ASCII"),
        ("PUBLIC_URL", "/.well-known/mercure", "absolute"),
        ("PUBLIC_URL", 5, "type int"),
        ("PROTOCOL", "2.0", "use '1.0', or '0.x'"),
        ("PROTOCOL", "both", "the hub speaks both"),
        ("PROTOCOL", True, "use '1.0', or '0.x'"),
        ("PROTOCOL", [], "use '1.0', or '0.x'"),
        ("ISSUER", "urn:x\n", ""),
        ("ISSUER", "urn:\x00x", "control or format"),
        ("TOKEN_LIFETIME", 0, "above 0"),
        ("TOKEN_LIFETIME", -1, "above 0"),
        ("TOKEN_LIFETIME", float("inf"), "above 0"),
        ("TOKEN_LIFETIME", "an hour", "above 0"),
        ("TOKEN_LIFETIME", True, "above 0"),
        ("TOKEN_LIFETIME", 10**400, "above 0"),
        ("TOKEN_LIFETIME", timedelta(0), "above 0"),
        ("TIMEOUT", 0, "above 0"),
        ("TIMEOUT", (1, 2), "above 0"),
        ("CONNECT_TIMEOUT", "0", "above 0"),
        ("VERIFY_TLS", "/no/such/ca.pem", "no such file"),
        ("VERIFY_TLS", 3.5, "True, False or the path"),
        ("COOKIE_SECURE", "maybe", "use True or False"),
        ("COOKIE_SAMESITE", "strictly", "'Strict', 'Lax' or 'None'"),
        ("COOKIE_SAMESITE", True, "'Strict', 'Lax' or 'None'"),
        ("COOKIE_NAME", "a b", "cannot be the name"),
        ("COOKIE_NAME", "x;y", "cannot be the name"),
        ("COOKIE_PATH", "x", "start with /"),
        ("COOKIE_PATH", "/x; Secure", "start with /"),
        ("COOKIE_PATH", "/elsewhere", "would not send the cookie"),
        ("COOKIE_PATH", "/.well-known/merc", "would not send the cookie"),
        ("COOKIE_DOMAIN", "127.0.0.1", "must be a domain name"),
        ("COOKIE_DOMAIN", "com", "one label"),
        ("COOKIE_DOMAIN", "other.example", "nor a parent"),
        ("COOKIE_DOMAIN", "x.example; Path=/", "must be a domain name"),
        ("COOKIE_SECURE", False, "refuse a cookie named __Secure-"),
        ("JWT_SECRET", "short", "needs at least 32"),
        ("JWT_SECRET", 12345678901234567890123456789012, "type int"),
        ("JWT_SECRET", b"x" * 40, "type bytes"),
        ("JWT_SECRET", "@/no/such/file", "cannot be read"),
        ("JWT_SECRET", PUBLIC, "signing needs the private one"),
        ("JWT_ALGORITHM", "HS1", "is not known"),
        ("JWT_ALGORITHM", "RS256", "needs a PEM key"),
        ("PUBLISHER_JWT_KEY", "short", "needs at least 32"),
        ("SUBSCRIBER_JWT_ALG", "none", "is not known"),
        ("TOKEN_FACTORY", 5, "neither an object with a create method nor callable"),
        ("TOKEN_FACTORY", lambda: "x", "does not take the arguments"),
        ("TOKEN_FACTORY", dict, "neither an object"),
        ("TOKEN_FACTORY", "nowhere", "form 'package.module:name'"),
        ("TOKEN_FACTORY", "no_such_module:x", "cannot be imported"),
        ("TOKEN_FACTORY", "os:no_such_name", "cannot be imported"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, value: object, words: str) -> None:
    if not words:
        read_hub({**KEYS, f"MERCURE_{key}": value})
        return
    with pytest.raises(ConfigurationError) as caught:
        make_app(None, **{key: value})
    assert f"MERCURE_{key}" in str(caught.value)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"COOKIE_SAMESITE": "None", "COOKIE_SECURE": "false", "COOKIE_NAME": "m"},
            "MERCURE_COOKIE_SAMESITE",
        ),
        ({"COOKIE_NAME": "__Host-m"}, "MERCURE_COOKIE_PATH='/'"),
        ({"COOKIE_NAME": "__HOST-m", "COOKIE_PATH": "/", "COOKIE_SECURE": False}, "without Secure"),
        (
            {
                "COOKIE_NAME": "__Host-m",
                "COOKIE_PATH": "/",
                "PUBLIC_URL": "https://hub.site.example/m",
                "COOKIE_DOMAIN": "site.example",
            },
            "no MERCURE_COOKIE_DOMAIN",
        ),
        ({"JWT_SECRET": ""}, "MERCURE_JWT_SECRET is not set"),
        ({"JWT_SECRET": None}, "MERCURE_TOKEN_FACTORY"),
        ({"JWT_SECRET": PRIVATE, "JWT_PASSPHRASE": "x"}, "MERCURE_JWT_PASSPHRASE"),
        ({"JWT_SECRET": PRIVATE, "JWT_ALGORITHM": "RS256"}, "it fits ES256"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        make_app(**config)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app(URL="x", TIMEOUT="y", JWT_SECRET="z", COOKIE_NAME=" ;")
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "MERCURE_URL",
        "MERCURE_JWT_SECRET",
        "MERCURE_COOKIE_NAME",
        "MERCURE_TIMEOUT",
    ]


def test_no_secret_is_told() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app(URL="http://user:hunter2@hub/m", JWT_SECRET="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("URL", " http://HUB.example:80/M ", "url", "http://hub.example/M"),
        ("URL", "https://hub.example:443/m", "url", "https://hub.example/m"),
        ("URL", "https://[::1]:3000/m", "url", "https://[::1]:3000/m"),
        ("URL", "", "url", "http://127.0.0.1:3000/.well-known/mercure"),
        ("PROTOCOL", 1.0, "protocol", "1.0"),
        ("TOKEN_LIFETIME", timedelta(minutes=5), "lifetime", 300),
        ("TOKEN_LIFETIME", "90", "lifetime", 90),
        ("TIMEOUT", 1, "read_timeout", 1),
        ("VERIFY_TLS", "false", "verify_tls", False),
        ("VERIFY_TLS", "1", "verify_tls", True),
        ("VERIFY_TLS", Path(__file__), "verify_tls", __file__),
    ],
)
def test_a_setting_may_be_given_in_several_forms(
    key: str, value: object, attribute: str, expected: object
) -> None:
    assert getattr(read_hub({**KEYS, f"MERCURE_{key}": value}), attribute) == expected


def test_same_site_none_of_python_leaves_the_attribute_out() -> None:
    assert read_hub({**KEYS, "MERCURE_COOKIE_SAMESITE": None}).cookie.same_site is None
    assert read_hub({**KEYS, "MERCURE_COOKIE_SAMESITE": "none"}).cookie.same_site == "None"
    assert read_hub({**KEYS, "MERCURE_COOKIE_SAMESITE": "LAX"}).cookie.same_site == "Lax"


def test_one_key_for_both_roles_is_one_object() -> None:
    shared = read_hub(KEYS)
    assert shared.publisher_key is shared.subscriber_key
    apart = read_hub({**KEYS, "MERCURE_SUBSCRIBER_JWT_KEY": SECRET + "2"})
    assert apart.publisher_key is not apart.subscriber_key
    assert read_hub({"MERCURE_PUBLISHER_JWT_KEY": SECRET}).subscriber_key is None


@pytest.mark.parametrize("name", ["JWT_SECRET", "PUBLISHER_JWT_KEY", "SUBSCRIBER_JWT_KEY"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("".join(PUBLIC.splitlines()[1:-1]), "a key without its BEGIN and END lines, not a secret"),
        ("".join(PRIVATE.splitlines()[1:-1]), "a key without its BEGIN and END lines, not a secret"),
        (__file__, "write @ before it"),
        ("/etc/mercure/keys/of/the/application/private.pem", "write @ before it"),
        ("file:///etc/mercure/keys/of/the/application", "for a file write @ and its path"),
    ],
)
def test_a_key_or_path_is_no_secret(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read_hub({f"MERCURE_{name}": value})
    assert f"MERCURE_{name} cannot be used: " in str(refusal.value)
    assert words in str(refusal.value)
    assert value not in str(refusal.value)


def test_a_shared_key_that_is_wrong_is_one_problem() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_hub({"MERCURE_JWT_SECRET": "short"})
    assert len(caught.value.problems) == 1


class Recording(Mapping[str, Any]):
    """A configuration that knows what was asked of it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_ = values
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def test_every_key_of_the_table_is_read() -> None:
    config = Recording({**KEYS, "MERCURE_COOKIE_SAMESITE": "Lax"})
    read_hub(config)
    assert config.asked == {row.key for row in OF_A_HUB.values()}


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    page = documented.PAGE.read_text(encoding="utf-8")
    assert documented.page(page) == page, "run: make docs"


def test_the_object_keeps_nothing_of_an_app() -> None:
    mercure = Mercure()
    first = make_app(mercure, PUBLIC_URL="https://one.example/m")
    second = make_app(mercure, PUBLIC_URL="https://two.example/m", PROTOCOL="0.x")
    assert vars(mercure) == vars(Mercure())
    with first.app_context():
        assert mercure.url("a") == "https://one.example/m?match=a"
        assert render_template_string("{{ mercure_url('a') }}") == "https://one.example/m?match=a"
    with second.app_context():
        assert mercure.url("a") == "https://two.example/m?topic=a"
        assert render_template_string("{{ mercure_url('a') }}") == "https://two.example/m?topic=a"


def test_an_app_is_registered_once() -> None:
    mercure = Mercure()
    app = make_app(mercure)
    state = state_of(app)
    with pytest.raises(ConfigurationError, match="has Mercure already"):
        mercure.init_app(app)
    assert state_of(app) is state


def test_an_app_whose_configuration_is_refused_can_be_registered_later() -> None:
    app = Flask("sample")
    with pytest.raises(ConfigurationError):
        Mercure(app)
    app.config.update(KEYS)
    Mercure(app)
    assert "mercure_url" in app.jinja_env.globals


def test_an_app_without_the_extension_is_told() -> None:
    with Flask("bare").app_context(), pytest.raises(ConfigurationError, match=r"mercure\.init_app"):
        Mercure().publish("a")
    with pytest.raises(RuntimeError, match="application context"):
        Mercure().publish("a")


@pytest.mark.minutes
def test_importing_needs_nothing_of_the_hub() -> None:
    names = {"gevent", "sqlalchemy", "urlpattern", "re2", "httptools"}
    code = f"import sys, flask_mercure.cli; print({names!r} & {{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PARENT, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_the_public_names() -> None:
    assert len(set(flask_mercure.__all__)) == len(flask_mercure.__all__)  # ruff sorts it
    assert all(hasattr(flask_mercure, name) for name in flask_mercure.__all__)
