"""The environment of the hub that ``flask mercure hub`` starts, made from the app's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_pem

from flask_mercure import ConfigurationError, development
from flask_mercure.config.settings import read_hub
from mercure_hub.config.loading import load_settings
from mercure_hub.protocol.origins import is_listed
from mercure_hub.protocol.tokens import asymmetric
from tests.flask_mercure.fake_hub import SECRET

BASE = {"MERCURE_JWT_SECRET": SECRET}


def environment(inherited: dict[str, str] | None = None, **config: object) -> dict[str, str]:
    made = read_hub({**BASE, **{f"MERCURE_{key}": value for key, value in config.items()}})
    return development.environment(made, inherited or {})


def test_the_hub_gets_the_configuration_of_the_app() -> None:
    made = environment(
        {"PATH": "/bin", "MERCURE_TRANSPORT_URL": "sqlite:///x.db"},
        URL="http://localhost:3100/.well-known/mercure",
        PUBLIC_URL="http://site.localhost/hub/.well-known/mercure",
        PROTOCOL="0.x",
        ISSUER="urn:me",
    )
    made.pop("PYTHONPATH", None)
    assert made == {
        "PATH": "/bin",
        "MERCURE_TRANSPORT_URL": "sqlite:///x.db",
        "MERCURE_LISTEN": "127.0.0.1:3100",
        "MERCURE_PUBLIC_URL": "http://site.localhost/hub/.well-known/mercure",
        "MERCURE_PUBLISHER_JWT_KEY": SECRET,
        "MERCURE_PUBLISHER_JWT_ALG": "HS256",
        "MERCURE_SUBSCRIBER_JWT_KEY": SECRET,
        "MERCURE_SUBSCRIBER_JWT_ALG": "HS256",
        "MERCURE_ISSUER": "urn:me",
        "MERCURE_PROTOCOL": "0.x",
        "MERCURE_COOKIE_NAME": "mercureAuthorization",
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_REVOCATIONS": "1",
        "MERCURE_DEBUGGER": "1",
        "MERCURE_CORS_ORIGINS": "http://127.0.0.1:* http://localhost:*",
    }


@pytest.mark.parametrize(
    ("inherited", "name", "value"),
    [
        ({"MERCURE_ANONYMOUS": "0"}, "MERCURE_ANONYMOUS", "0"),
        ({"MERCURE_SUBSCRIPTIONS": "0"}, "MERCURE_SUBSCRIPTIONS", "0"),
        ({"MERCURE_DEBUGGER": "0"}, "MERCURE_DEBUGGER", "0"),
        ({"MERCURE_CORS_ORIGINS": "http://x"}, "MERCURE_CORS_ORIGINS", "http://x"),
        ({"FLASK_RUN_PORT": "8000"}, "MERCURE_CORS_ORIGINS", "http://127.0.0.1:* http://localhost:*"),
        (
            {"FLASK_RUN_HOST": "::1"},
            "MERCURE_CORS_ORIGINS",
            "http://127.0.0.1:* http://localhost:* http://[::1]:*",
        ),
        (
            {"FLASK_RUN_HOST": "0.0.0.0"},
            "MERCURE_CORS_ORIGINS",
            "http://127.0.0.1:* http://localhost:*",
        ),
        (
            {"FLASK_RUN_HOST": "192.0.2.1"},
            "MERCURE_CORS_ORIGINS",
            "http://127.0.0.1:* http://localhost:* http://192.0.2.1:*",
        ),
        ({"MERCURE_ISSUER": "urn:other"}, "MERCURE_ISSUER", "urn:flask-mercure"),
    ],
)
def test_variables_of_the_environment_for_the_hub(inherited: dict[str, str], name: str, value: str) -> None:
    assert environment(inherited)[name] == value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_pages_of_flask_run_are_admitted_on_every_port(host: str) -> None:
    """As after ``flask run --host ::1 -p 5001``, in another terminal."""
    settings = load_settings(environment({"FLASK_RUN_HOST": host.strip("[]")}), {})
    assert is_listed(f"http://{host}:5001", settings.cors_origins)
    assert not is_listed("http://elsewhere.example:5001", settings.cors_origins)


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:3000/m", "127.0.0.1:3000"),
        ("http://localhost/m", "127.0.0.1:80"),
        ("http://[::1]:3000/m", "[::1]:3000"),
        ("http://hub.internal:8080/m", "hub.internal:8080"),
    ],
)
def test_the_hub_listens_where_the_url_points(url: str, listen: str) -> None:
    assert environment(URL=url)["MERCURE_LISTEN"] == listen


def test_a_hub_with_https_needs_a_certificate() -> None:
    with pytest.raises(ConfigurationError, match="MERCURE_TLS_CERT"):
        environment(URL="https://127.0.0.1:3443/m")
    made = environment({"MERCURE_TLS_CERT": "/x.pem"}, URL="https://127.0.0.1/m")
    assert made["MERCURE_LISTEN"] == "127.0.0.1:443"


def test_the_private_key_stays_in_the_app() -> None:
    private, public = asymmetric.generate_pair("ec")
    encrypted = (
        load_pem(private.encode(), None)
        .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
        .decode()
    )
    made = environment(JWT_SECRET=encrypted, JWT_PASSPHRASE="word", SUBSCRIBER_JWT_KEY=SECRET * 2)
    assert made["MERCURE_PUBLISHER_JWT_KEY"] == public
    assert made["MERCURE_PUBLISHER_JWT_ALG"] == "ES256"
    assert (made["MERCURE_SUBSCRIBER_JWT_KEY"], made["MERCURE_SUBSCRIBER_JWT_ALG"]) == (SECRET * 2, "HS256")
    assert "PRIVATE" not in "".join(made.values())


def factory(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
    return "a.b.c"


def test_with_a_factory_of_the_app_the_key_is_the_one_that_verifies() -> None:
    _, public = asymmetric.generate_pair("ec")
    made = environment(TOKEN_FACTORY=factory, JWT_SECRET=public)
    assert made["MERCURE_SUBSCRIBER_JWT_KEY"] == public
    inherited = {"MERCURE_PUBLISHER_JWT_KEY": "p", "MERCURE_SUBSCRIBER_JWT_KEY": "s"}
    made = environment(inherited, TOKEN_FACTORY=factory, JWT_SECRET=None)
    assert made["MERCURE_PUBLISHER_JWT_KEY"] == "p"
    with pytest.raises(ConfigurationError, match="MERCURE_PUBLISHER_JWT_KEY is not set"):
        environment(TOKEN_FACTORY=factory, JWT_SECRET=None)
