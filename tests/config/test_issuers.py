"""Issuers in the settings: rows for one, ``[[issuer]]`` tables for several, mistakes with their remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mercure_hub import cli
from mercure_hub.config.issuers import TABLE_KEYS, IssuerError, from_table
from mercure_hub.config.loading import load_settings, reloaded
from mercure_hub.config.settings import SettingError, reference
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from mercure_hub.protocol.tokens.issuer import Issuer, RemoteKeys
from mercure_hub.protocol.tokens.keys import ASYMMETRIC
from tests.hub.key_server import jwk, key_set, new_key

SECRET = "a-secret-that-is-long-enough-for-HS384-and-not-for-HS512"
OTHER_SECRET = SECRET.replace("a-secret", "another-secret")
LOCAL = "http://localhost:3000/.well-known/mercure"
PUBLIC_URL = "https://hub.example.com/.well-known/mercure"
URI = "https://login.example.com/jwks.json"
PUBLIC = generate_pair("ec")[1]
WHO = {"identifier": "urn:x"}


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(new_key(), "one"), jwk(new_key().public_key(), "two"), {"kty": "new"}))
    return str(path)


def configured(path: Path, toml: str, **variables: str) -> tuple[Issuer, ...]:
    """The issuers of a TOML file and variables."""
    (path / "hub.toml").write_text(toml)
    environment = {f"MERCURE_{name.upper()}": value for name, value in variables.items()}
    environment.setdefault("MERCURE_PUBLIC_URL", PUBLIC_URL)
    return load_settings({"MERCURE_CONFIG": str(path / "hub.toml"), **environment}, {}).issuers


def refusal(path: Path, toml: str, **variables: str) -> str:
    with pytest.raises(SettingError) as caught:
        configured(path, toml, **variables)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert SECRET not in message
    assert "hunter2" not in message
    return message


# --- the rows of the table: one issuer ---


def test_an_issuer_has_a_key_set_by_url(tmp_path: Path) -> None:
    (found,) = configured(tmp_path, "", jwks_uri=URI, issuer="https://login.example.com/")
    assert found.identifier == "https://login.example.com/"
    assert found.publish == found.subscribe == ()
    assert found.remote == RemoteKeys(URI, ASYMMETRIC, ("publish", "subscribe"), False)
    assert not found.is_authorization_server
    settings = load_settings({"MERCURE_JWKS_URI": URI, "MERCURE_PUBLIC_URL": PUBLIC_URL}, {})
    assert settings.publisher_jwt_key is None
    assert settings.subscriber_jwt_key is None


def test_an_issuer_has_a_key_set_from_a_file(tmp_path: Path, key_file: str) -> None:
    (found,) = configured(tmp_path, f"jwks_file = {key_file!r}")
    assert [key.kid for key in found.publish] == ["one", "two"]
    assert found.subscribe == found.publish
    assert found.remote is None


def test_an_issuer_has_keys_of_all_sources_together(tmp_path: Path, key_file: str) -> None:
    (found,) = configured(
        tmp_path,
        "",
        publisher_jwt_key=SECRET,
        jwks_file=key_file,
        jwks_uri="http://localhost:8080/keys",
        jwks_allow_private="1",
        issuer="http://localhost:8080/realm",
        authorization_server="1",
    )
    assert [key.kid for key in found.subscribe] == [None, "one", "two"]
    assert found.remote is not None
    assert found.remote.allow_private
    assert found.is_authorization_server


def test_a_key_for_one_role_besides_a_set(tmp_path: Path) -> None:
    (found,) = configured(tmp_path, "", subscriber_jwt_key=SECRET, jwks_uri=URI)
    assert found.publish == ()
    assert [key.algorithms for key in found.subscribe] == [("HS256",)]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "MERCURE_PUBLISHER_JWT_KEY: is not set"),
        ({"subscriber_jwt_key": SECRET}, "MERCURE_PUBLISHER_JWT_KEY: is not set"),
        ({"jwks_uri": "login.example.com/jwks"}, "MERCURE_JWKS_URI: is not a URL with https:// and a host"),
        ({"jwks_uri": "http://login.example.com/jwks"}, "MERCURE_JWKS_URI: is not https://"),
        ({"jwks_uri": "http://10.0.0.1/", "jwks_allow_private": "1"}, "MERCURE_JWKS_URI: is not https://"),
        ({"jwks_uri": "https://127.0.0.1/jwks"}, "permit it with allow_private (MERCURE_JWKS_ALLOW_PRIVATE)"),
        ({"jwks_file": "/nowhere/keys.json"}, "MERCURE_JWKS_FILE: '/nowhere/keys.json' cannot be read"),
        ({"jwks_uri": URI, "authorization_server": "1"}, "MERCURE_AUTHORIZATION_SERVER: 'urn:flask"),
        ({"jwks_uri": URI, "jwks_allow_private": "maybe"}, "MERCURE_JWKS_ALLOW_PRIVATE: 'maybe' is"),
    ],
)  # fmt: skip
def test_a_wrong_row_of_issuers_is_refused(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    assert said in refusal(tmp_path, "", **variables)


def test_the_command_refuses_a_wrong_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERCURE_JWKS_FILE", "keys.json")
    Path("keys.json").write_text("{}")
    assert cli.main([]) == 2
    assert capsys.readouterr().err == (
        "mercure-hub: MERCURE_JWKS_FILE: 'keys.json': this is not a JWK set such as {\"keys\": [...]}\n"
    )


# --- tables: several ---


def test_two_tables_are_two_issuers(tmp_path: Path, key_file: str) -> None:
    first, second = configured(
        tmp_path,
        f"""
        heartbeat = 7
        [[issuer]]
        identifier = "https://login.example.com/"
        jwks_uri = "{URI}"
        algorithms = ["RS256", "EdDSA", "HS256"]
        roles = ["subscribe"]
        authorization_server = true
        [[issuer]]
        identifier = "urn:backend"
        publisher_key = "{SECRET}"
        publisher_alg = "HS256 HS384"
        subscriber_key = "{OTHER_SECRET}"
        jwks_file = "{key_file}"
        """,
    )
    assert first == Issuer(
        "https://login.example.com/", (), (), RemoteKeys(URI, ("RS256", "EdDSA"), ("subscribe",)), True
    )
    assert second.identifier == "urn:backend"
    assert [(key.kid, key.algorithms[0]) for key in second.publish] == [
        (None, "HS256"), ("one", "EdDSA"), ("two", "EdDSA"),
    ]  # fmt: skip
    assert second.publish[0].material == SECRET.encode()
    assert second.publish[0].algorithms == ("HS256", "HS384")
    assert second.subscribe[0].material == OTHER_SECRET.encode()
    assert not second.is_authorization_server


def test_the_issuer_of_the_rows_comes_first(tmp_path: Path) -> None:
    toml = f'[[issuer]]\nidentifier = "urn:other"\npublisher_key = "{SECRET}"'
    assert [one.identifier for one in configured(tmp_path, toml)] == ["urn:other"]
    found = configured(tmp_path, toml, publisher_jwt_key=OTHER_SECRET)
    assert [one.identifier for one in found] == ["urn:flask-mercure", "urn:other"]
    found = configured(tmp_path, toml, subscriber_jwt_key=OTHER_SECRET, issuer="urn:readers")
    assert [one.identifier for one in found] == ["urn:readers", "urn:other"]
    assert found[0].publish == ()


REMOTE = f'[[issuer]]\nidentifier = "urn:other"\njwks_uri = "{URI}"'
OTHER = f'[[issuer]]\nidentifier = "urn:other"\npublisher_key = "{SECRET}"'


@pytest.mark.parametrize(
    ("toml", "variables", "why"),
    [
        (REMOTE, {}, "an issuer has its keys at a URL"),
        ("", {"jwks_uri": URI}, "an issuer has its keys at a URL"),
        (REMOTE, {"publisher_jwt_key": OTHER_SECRET}, "there are several issuers"),
        (OTHER, {"publisher_jwt_key": OTHER_SECRET}, "there are several issuers"),
        (f"{OTHER}\n{OTHER.replace('urn:other', 'urn:third')}", {}, "there are several issuers"),
        (OTHER, {"publisher_jwt_key": OTHER_SECRET, "protocol": "0.x"}, "there are several issuers"),
        (REMOTE, {"playground": "1"}, "an issuer has its keys at a URL"),
    ],
)
def test_tokens_for_other_services_need_a_public_url(
    tmp_path: Path, toml: str, variables: dict[str, str], why: str
) -> None:
    """Without one a client says with its Host what aud has to be."""
    message = refusal(tmp_path, toml, public_url="", **variables)
    assert message.startswith(f"MERCURE_PUBLIC_URL: is not set, and {why}: ")
    assert configured(
        tmp_path, toml, **variables | ({"public_url": LOCAL} if "playground" in variables else {})
    )
    if "playground" not in variables:
        assert configured(tmp_path, toml, public_url="", allowed_urls=PUBLIC_URL, **variables)


@pytest.mark.parametrize(
    "variables",
    [
        {"publisher_jwt_key": OTHER_SECRET},
        {"playground": "1"},
        {"playground": "1", "publisher_jwt_key": OTHER_SECRET},
    ],
)
def test_one_issuer_with_keys_of_its_own_needs_no_public_url(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """The playground's key belongs to the hub itself."""
    assert configured(tmp_path, "", public_url="", **variables)
    if "publisher_jwt_key" not in variables:
        assert configured(tmp_path, OTHER, public_url="", **variables)


def test_a_reload_brings_no_issuer_that_needs_a_public_url() -> None:
    """The URL itself counts after a restart only."""
    before = load_settings({"MERCURE_PUBLISHER_JWT_KEY": SECRET}, {})
    with_url = {"MERCURE_PUBLISHER_JWT_KEY": SECRET, "MERCURE_PUBLIC_URL": PUBLIC_URL}
    after = load_settings({**with_url, "MERCURE_JWKS_URI": URI}, {})
    with pytest.raises(SettingError, match=r"^MERCURE_PUBLIC_URL: .*restart$"):
        reloaded(before, after)
    assert reloaded(load_settings(with_url, {}), after).issuers == after.issuers


def test_the_subscribers_key_is_the_publishers_unless_it_is_given() -> None:
    found = from_table({**WHO, "publisher_key": SECRET, "publisher_alg": "HS384"})
    assert found.subscribe == found.publish
    assert found.publish[0].algorithms == ("HS384",)
    found = from_table({**WHO, "publisher_key": SECRET, "roles": ["publish"]})
    assert found.subscribe == ()
    found = from_table({**WHO, "subscriber_key": PUBLIC.replace("\n", "\\n")})
    assert found.publish == ()
    assert found.subscribe[0].algorithms == ("ES256",)


def test_algorithms_restrict_all_keys(key_file: str) -> None:
    found = from_table(
        {**WHO, "publisher_key": SECRET, "publisher_alg": "HS256 HS384", "jwks_file": key_file,
         "jwks_uri": URI, "algorithms": "HS384 EdDSA"}
    )  # fmt: skip
    assert [key.algorithms for key in found.publish] == [("HS384",), ("EdDSA",), ("EdDSA",)]
    assert found.remote is not None
    assert found.remote.algorithms == ("EdDSA",)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "identifier: is missing; give the iss of the tokens"),
    ({"identifier": ""}, "identifier: is missing"),
    ({"identifier": 5}, "identifier: is of type int; give: name or URL"),
    (WHO, "identifier: has no key; give it a publisher_key, jwks_file or jwks_uri"),
    ({**WHO, "name": "x"}, "name: there is no such key; known are identifier, publisher_key,"),
    ({**WHO, "publisher_jwt_key": SECRET}, "publisher_jwt_key: there is no such key"),
    ({**WHO, "publisher_key": "hunter2"}, "publisher_key: the secret has 7 bytes"),
    ({**WHO, "publisher_key": [SECRET]}, "publisher_key: is of type list; give: secret, PEM text or @/path"),
    ({**WHO, "publisher_key": "@/nowhere/key"}, "publisher_key: the key file '/nowhere/key' cannot be read"),
    ({**WHO, "subscriber_key": SECRET, "subscriber_alg": "RS256"}, "subscriber_key: RS256 needs a PEM key"),
    ({**WHO, "publisher_key": SECRET, "publisher_alg": "none"}, "publisher_key: the algorithm 'none'"),
    ({**WHO, "publisher_key": SECRET, "algorithms": ["none"]}, "algorithms: holds 'none'; known are HS256,"),
    ({**WHO, "publisher_key": SECRET, "algorithms": "RS256"}, "publisher_key: is used with HS256, and"),
    ({**WHO, "publisher_key": SECRET, "algorithms": 1}, "algorithms: is of type int; give: list of names"),
    ({**WHO, "publisher_key": SECRET, "algorithms": ["HS256", 1]}, "algorithms: is of type list"),
    ({**WHO, "jwks_uri": URI, "roles": ["read"]}, "roles: holds 'read'; known are publish, subscribe"),
    ({**WHO, "publisher_key": SECRET, "roles": ["subscribe"]}, "publisher_key: is set, and roles"),
    ({**WHO, "subscriber_key": SECRET, "roles": ["publish"]}, "subscriber_key: is set, and roles"),
    ({**WHO, "jwks_uri": URI, "algorithms": ["HS256"]}, "algorithms: allow no key of jwks_uri"),
    ({**WHO, "jwks_uri": 5}, "jwks_uri: is of type int; give: https URL"),
    ({**WHO, "jwks_uri": URI, "allow_private": "yes"}, "allow_private: is of type str; give: true or false"),
    ({**WHO, "jwks_uri": URI, "allow_private": 1}, "allow_private: is of type int"),
    ({**WHO, "jwks_uri": URI, "authorization_server": True}, "authorization_server: 'urn:x' is not an"),
    ({**WHO, "jwks_file": ""}, "identifier: has no key"),
    ({**WHO, "jwks_file": "/"}, "jwks_file: '/' cannot be read: Is a directory"),
    ({**WHO, "jwks_file": "a\0b"}, "jwks_file: 'a\\x00b' cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "said"), WRONG)
def test_a_wrong_table_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(IssuerError) as caught:
        from_table(table)
    message = str(caught.value)
    assert message.startswith(said)
    assert len(message.splitlines()) == 1
    assert SECRET not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "identifier",
    ["https://login.example.com?x", "https://login.example.com/#x", "https://", "http://login.example.com", "https://[",
     "login.example.com", "https://login.example.com/?", "//login.example.com"],
)  # fmt: skip
def test_a_wrong_authorization_server_is_refused(identifier: str) -> None:
    with pytest.raises(IssuerError, match="authorization_server: "):
        from_table({"identifier": identifier, "jwks_uri": URI, "authorization_server": True})


@pytest.mark.parametrize(
    ("uri", "allow_private", "said"),
    [
        ("https://login.example.com/", False, None), ("https://login.example.com:8443/a?b=c", False, None),
        ("https://93.184.216.34/", False, None), ("https://[2606:4700::1111]/", False, None),
        ("HTTPS://LOGIN.example.com/", False, None), ("https://keys.internal/", False, None),
        ("http://localhost:8080/", True, None), ("http://127.0.0.1/", True, None),
        ("http://[::1]:1/", True, None),
        ("https://10.0.0.1/", True, None),
        ("http://localhost:8080/", False, "leads to a private address"),
        ("https://localhost/", False, "private"),
        ("https://10.0.0.1/", False, "private"), ("https://[fe80::1]/", False, "private"),
        ("https://[::ffff:10.0.0.1]/", False, "private"), ("https://169.254.169.254/", False, "private"),
        ("http://login.example.com/", True, "is not https://"),
        ("http://localhost.example.com/", True, "is not https"),
        ("http://127.0.0.1.example.com/", True, "is not https"),
        ("ftp://login.example.com/", False, "is not a URL with"),
        ("file:///etc/passwd", False, "is not a URL with"), ("login.example.com", False, "is not a URL with"),
        ("https:///keys", False, "is not a URL with"), ("https://[::1/", False, "is not a URL"),
        ("https://login.example.com:99999/", False, "is not a URL"),
        ("https://login.example.com:x/", False, "is not a URL"),
        ("https://me:hunter2@login.example.com/", False, "has a user"),
        ("https://@login.example.com/", False, "has a user"),
        ("https://login.example.com/#x", False, "fragment"),
        ("https://login.example.com/\u00e9", False, "ASCII"),
        ("https://login.example.com/a b", False, "outside of ASCII"),
        ("https://b\u00fccher.example/", False, "is not a URL"),
        ("https://login.example.com/\r\nX: y", False, "outside of ASCII"),
        ("https://a b/", False, "is not a URL"),
    ],
)  # fmt: skip
def test_urls_of_key_sets_are_checked(uri: str, allow_private: bool, said: str | None) -> None:
    table = {**WHO, "jwks_uri": uri, "allow_private": allow_private}
    if said is None:
        remote = from_table(table).remote
        assert remote is not None
        assert remote.url == uri
        return
    with pytest.raises(IssuerError) as caught:
        from_table(table)
    assert caught.value.name == "jwks_uri"
    assert said in caught.value.reason
    assert "hunter2" not in caught.value.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "this is not a JWK set"), (b"\xff", "this is not JSON"),
        (b'{"keys": []}', "holds no key that verifies"),
        (key_set({"kty": "new"}), "holds no key that verifies tokens with HS256, "),
        (key_set(jwk(new_key()), {"kty": "oct", "k": "AA", "kid": "s"}),
         "keys[1] (kid 's'): the secret has 1 bytes and needs at least 32 (RFC 7518); correct or remove"),
    ],
    ids=["no set", "no JSON", "empty", "unknown", "weak"],
)  # fmt: skip
def test_a_wrong_key_set_in_a_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(IssuerError) as caught:
        from_table({**WHO, "jwks_file": str(path)})
    assert caught.value.name == "jwks_file"
    assert caught.value.reason.startswith(repr(str(path)))
    assert said in caught.value.reason


def test_the_table_is_named(tmp_path: Path) -> None:
    good = f'[[issuer]]\nidentifier = "urn:good"\npublisher_key = "{SECRET}"\n'
    path = tmp_path / "hub.toml"
    message = refusal(tmp_path, good + '[[issuer]]\nidentifier = "urn:bad\\n"\njwks_file = "/nowhere"')
    assert message.startswith(
        f"[[issuer]] 'urn:bad\\n' in {path}: jwks_file: '/nowhere' cannot be read: No such"
    )
    message = refusal(tmp_path, good + '[[issuer]]\npublisher_key = "hunter2"')
    assert message.startswith(f"[[issuer]] number 2 in {path}: publisher_key: the secret has 7 bytes")
    assert "there are two issuers 'urn:good'" in refusal(tmp_path, good + good)
    assert "there are two issuers 'urn:good'" in refusal(
        tmp_path, good, publisher_jwt_key=OTHER_SECRET, issuer="urn:good"
    )
    message = refusal(tmp_path, good, authorization_server="1")
    assert message.startswith("MERCURE_AUTHORIZATION_SERVER: ")
    assert "[[issuer]]" in message


@pytest.mark.parametrize("toml", ["[issuer]\na = 1", "issuer = [1]", 'issuer = [{identifier = "a"}, "b"]'])
def test_an_issuer_setting_that_is_neither_a_name_nor_tables_is_refused(tmp_path: Path, toml: str) -> None:
    assert "issuer in" in refusal(tmp_path, toml, publisher_jwt_key=SECRET)


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    (found,) = configured(tmp_path, f'[[issuer]]\nidentifier = "a"\npublisher_key = "{SECRET}"')
    assert SECRET not in repr(found)


def test_the_reference_names_every_key() -> None:
    page = reference()
    for entry in TABLE_KEYS:
        assert f"| `{entry.name}` | {entry.text} *{entry.form}* |" in page.splitlines()


def test_the_example_of_the_reference_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backend.pem").write_text(PUBLIC)
    example = reference().partition("```toml\n")[2].partition("```")[0]
    found = configured(tmp_path, example.replace("/etc/mercure", str(tmp_path)))
    assert [one.is_authorization_server for one in found] == [True, False]
    assert json.dumps([one.identifier for one in found]) == '["https://login.example.com/", "urn:backend"]'
