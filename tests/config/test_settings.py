"""The settings: each from its three places, each wrong value with its name and the remedy."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.config.loading import load_settings
from mercure_hub.config.settings import CONFIG, TABLE, Setting, SettingError, reference
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from mercure_hub.protocol.tokens.keys import generate_secret

SECRET = "a-secret-that-is-long-enough-for-HS384-and-not-for-HS512"
OTHER_SECRET = SECRET.replace("a-secret", "another-secret")
KEY = {"MERCURE_PUBLISHER_JWT_KEY": SECRET}
PUBLIC_URL = {"MERCURE_PUBLIC_URL": "https://hub.example.com/.well-known/mercure"}

JWKS = str(Path(__file__).parent.parent / "hub" / "jwks.json")

SAMPLES: dict[str, tuple[str, object]] = {
    "listen": ("[::1]:8443", ("::1", 8443)),
    "public_url": (
        "https://hub.example.com/.well-known/mercure",
        Identity("https://hub.example.com/.well-known/mercure"),
    ),
    "allowed_urls": (
        "https://HUB.example.com:443/hub http://[::1]:3000/hub",
        ("https://hub.example.com/hub", "http://[::1]:3000/hub"),
    ),
    "trusted_proxies": ("10.1.2.3/8 ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    "tls_cert": ("/etc/tls/cert.pem", "/etc/tls/cert.pem"),
    "tls_key": ("/etc/tls/key.pem", "/etc/tls/key.pem"),
    "workers": ("4", 4),
    "publisher_jwt_key": (OTHER_SECRET, OTHER_SECRET.encode()),
    "publisher_jwt_alg": ("HS256 HS384", "HS256 HS384"),
    "publisher_jwt_key_fallback": (OTHER_SECRET, OTHER_SECRET.encode()),
    "subscriber_jwt_key": (OTHER_SECRET, OTHER_SECRET.encode()),
    "subscriber_jwt_alg": ("HS256", "HS256"),
    "subscriber_jwt_key_fallback": (OTHER_SECRET, OTHER_SECRET.encode()),
    "issuer": ("https://login.example.com", "https://login.example.com"),
    "jwks_file": (JWKS, JWKS),
    "jwks_uri": ("https://login.example.com/jwks.json", "https://login.example.com/jwks.json"),
    "jwks_allow_private": ("1", True),
    "authorization_server": ("on", True),
    "protocol": ("0.x", "0.x"),
    "anonymous": ("1", True),
    "subscriptions": ("yes", True),
    "revocations": ("1", True),
    "cors_origins": ("https://a.example *", ("https://a.example", "*")),
    "publish_origins": ("https://a.example:8443", ("https://a.example:8443",)),
    "cookie_name": ("mercureAuthorization", "mercureAuthorization"),
    "debugger": ("1", True),
    "playground": ("0", False),
    "transport_url": ("sqlite:////var/lib/mercure.db", "sqlite:////var/lib/mercure.db"),
    "history_size": ("100", 100),
    "history_max_age": ("0.5", 0.5),
    "heartbeat": ("15", 15.0),
    "write_timeout": ("0", 0.0),
    "drain": ("2.5", 2.5),
    "dispatch_timeout": ("2.5", 2.5),
    "compression": ("zstd", "zstd"),
    "websocket": ("0", False),
    "max_connections": ("20000", 20000),
    "max_connections_per_address": ("100", 100),
    "max_connections_per_token": ("10", 10),
    "max_heavy_patterns": ("0", 0),
    "max_request_body_size": ("1024", 1024),
    "metrics": ("1", True),
    "metrics_listen": ("127.0.0.1:9102", ("127.0.0.1", 9102)),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "log_file": ("/var/log/mercure.log", "/var/log/mercure.log"),
    "access_log": ("/var/log/access.log", "/var/log/access.log"),
    "log_rotate": ("10M", "10M"),
    "log_keep": ("3", 3),
}
ANOTHER: dict[str, str] = {
    "listen": ":1",
    "public_url": "http://other/hub",
    "allowed_urls": "",
    "protocol": "1.0",
    "anonymous": "off",
    "compression": "off",
    "subscriptions": "0",
    "revocations": "0",
    "transport_url": "sqlite:///other.db",
    "log_level": "error",
    "log_format": "text",
    "publisher_jwt_alg": "HS256",
    "subscriber_jwt_alg": "",
    "trusted_proxies": "",
    "cors_origins": "",
    "publish_origins": "",
    "publisher_jwt_key": SECRET,
    "subscriber_jwt_key": SECRET,
    "publisher_jwt_key_fallback": SECRET,
    "subscriber_jwt_key_fallback": SECRET,
}
each_setting = pytest.mark.parametrize("setting", TABLE, ids=[setting.name for setting in TABLE])


def load(
    environment: dict[str, str] | None = None, flags: dict[str, str] | None = None, **with_key: str
) -> dict[str, Any]:
    """The settings by name; a key is there unless the test gives one."""
    given = {**KEY, **PUBLIC_URL, "MERCURE_TLS_CERT": "c.pem", "MERCURE_ISSUER": "https://login.example.com"}
    settings = load_settings({**given, **(environment or {})}, flags or {})
    return {setting.name: getattr(settings, setting.name) for setting in TABLE}


def plain(value: Any) -> object:
    return getattr(value, "material", value)


def toml(path: Path, **values: str) -> dict[str, str]:
    path.write_text("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    return {CONFIG.variable: str(path)}


def test_every_setting_has_a_sample_here() -> None:
    assert list(SAMPLES) == [setting.name for setting in TABLE]


@each_setting
def test_a_setting_is_read_from_the_environment(setting: Setting) -> None:
    text, value = SAMPLES[setting.name]
    assert plain(load({setting.variable: text})[setting.name]) == value


@each_setting
def test_a_setting_is_read_from_a_flag(setting: Setting) -> None:
    text, value = SAMPLES[setting.name]
    assert plain(load(flags={setting.name: text})[setting.name]) == value


@each_setting
def test_a_setting_is_read_from_the_file(setting: Setting, tmp_path: Path) -> None:
    text, value = SAMPLES[setting.name]
    environment = toml(tmp_path / "hub.toml", **({"publisher_jwt_key": SECRET} | {setting.name: text}))
    if setting.name == "tls_key":
        environment["MERCURE_TLS_CERT"] = "c.pem"
    if setting.name == "authorization_server":
        environment["MERCURE_ISSUER"] = "https://login.example.com"
    if setting.name == "jwks_uri":
        environment |= PUBLIC_URL
    settings = load_settings(environment, {})
    assert plain(getattr(settings, setting.name)) == value


@each_setting
def test_a_flag_wins_over_the_environment_and_that_over_the_file(setting: Setting, tmp_path: Path) -> None:
    text, value = SAMPLES[setting.name]
    other = ANOTHER.get(setting.name, "1")
    file = toml(tmp_path / "hub.toml", **{setting.name: other})
    assert plain(load({**file, setting.variable: text})[setting.name]) == value
    assert plain(load({setting.variable: other}, {setting.name: text})[setting.name]) == value
    assert plain(load(file, {setting.name: text})[setting.name]) == value


def test_the_file_of_a_flag_wins_over_that_of_the_environment(tmp_path: Path) -> None:
    environment = toml(tmp_path / "one.toml", heartbeat="1")
    toml(tmp_path / "two.toml", heartbeat="2")
    assert load(environment)["heartbeat"] == 1
    assert load(environment, {"config": str(tmp_path / "two.toml")})["heartbeat"] == 2


def test_settings_have_defaults() -> None:
    settings = load_settings({**KEY, "UNRELATED": "x", "MERCURE_UNKNOWN": "x"}, {})
    assert settings.listen == ("127.0.0.1", 3000)
    assert settings.public_url is None
    assert settings.transport_url == "sqlite:///mercure.db"
    assert not settings.anonymous
    assert settings.subscriber_jwt_key == settings.publisher_jwt_key
    assert settings.publisher_jwt_key is not None
    assert settings.publisher_jwt_key.algorithms == ("HS256",)
    (issuer,) = settings.issuers
    assert issuer.identifier == "urn:flask-mercure"


def test_cors_origins_may_have_wildcards() -> None:
    text = "https://*.Example.com:443 http://*.localhost:* https://*.a-b.example:8443"
    assert load({"MERCURE_CORS_ORIGINS": text})["cors_origins"] == (
        "https://*.example.com",
        "http://*.localhost:*",
        "https://*.a-b.example:8443",
    )


def test_the_file_may_hold_values_of_toml_types(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(
        "anonymous = true\nsubscriptions = false\nheartbeat = 12.5\nhistory_size = 7\n"
        'cors_origins = ["https://a.example", "https://b.example"]\n'
    )
    settings = load({CONFIG.variable: str(path)})
    assert settings["anonymous"] is True
    assert settings["subscriptions"] is False
    assert settings["heartbeat"] == 12.5
    assert settings["history_size"] == 7
    assert settings["cors_origins"] == ("https://a.example", "https://b.example")


def test_white_space_around_a_value_is_dropped_except_in_secrets() -> None:
    settings = load({"MERCURE_HEARTBEAT": " 7\n", "MERCURE_PUBLISHER_JWT_KEY": f" {SECRET} "})
    assert settings["heartbeat"] == 7
    assert settings["publisher_jwt_key"].material == f" {SECRET} ".encode()


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_a_pem_is_read_with_escapes_or_from_a_file(kind: Any, tmp_path: Path) -> None:
    private, public = generate_pair(kind)
    (tmp_path / "key.pem").write_text(public)
    found = [
        load({"MERCURE_PUBLISHER_JWT_KEY": text})["publisher_jwt_key"].algorithms
        for text in (public, private, public.replace("\n", "\\n"), f"@{tmp_path}/key.pem")
    ]
    assert found == [({"rsa": "RS256", "ec": "ES256", "ed25519": "EdDSA"}[kind],)] * 4


WRONG: list[tuple[str, str, str]] = [
    ("listen", "3000", "is not an address and port such as 127.0.0.1:3000"),
    ("listen", "", "is not an address and port"),
    ("listen", "localhost:", "is not an address and port"),
    ("listen", "localhost:http", "is not an address and port"),
    ("listen", "localhost:65536", "is not an address and port"),
    ("listen", "localhost:" + "9" * 5000, ""),
    ("listen", "localhost:\N{ARABIC-INDIC DIGIT THREE}", "is not an address and port"),
    ("listen", "::1:3000", "write [::1]:3000"),
    ("listen", "a b:3000", "host"),
    ("listen", "a\0b:3000", "host"),
    ("listen", f"{'a' * 64}:3000", "host"),
    ("listen", "a..b:3000", "host"),
    ("listen", "caf\N{LATIN SMALL LETTER E WITH ACUTE}:3000", "host"),
    ("public_url", "hub.example.com", "is not a URL with http:// or https:// and a host"),
    ("public_url", "ftp://hub.example.com/hub", "is not a URL with http:// or https://"),
    ("public_url", "https://hub.example.com", "has no path; a hub's URL is usually"),
    ("public_url", "https://hub.example.com/", "has no path"),
    ("public_url", "https://[::1/hub", "is not a URL"),
    ("public_url", "https://hub.example.com:99999/hub", "is not a URL"),
    ("public_url", "https://hub.example.com/hub?x", "give only scheme, host, port and path"),
    ("public_url", "https://hub.example.com/hub#x", "give only scheme, host, port and path"),
    ("public_url", "https://user:hunter2@hub.example.com/hub", "give only scheme, host, port and path"),
    ("public_url", "https://:hunter2@hub.example.com/hub", "give only scheme, host, port and path"),
    ("public_url", "https://hub example/hub", "has an invalid host"),
    ("public_url", "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/hub", "xn--"),
    ("allowed_urls", "https://a.example/hub b.example", "is not a URL"),
    ("trusted_proxies", "10.0.0.0/8 proxy.example", "'proxy.example', which is not an IP address"),
    ("trusted_proxies", "10.0.0.1:80", "is not an IP address or network"),
    ("workers", "0", "from 1 to 256"),
    ("workers", "many", "whole number"),
    ("publisher_jwt_alg", "HS256 none", "'none'; known are HS256"),
    ("subscriber_jwt_alg", "hs256", "known are"),
    ("protocol", "2.0", "is not one of both, 1.0, 0.x"),
    ("anonymous", "maybe", "is not 1 or 0"),
    ("cors_origins", "example.com", "is not an origin such as https://example.com (no path)"),
    ("cors_origins", "https://example.com/", "(no path)"),
    ("publish_origins", "https://*example.com", "is not an origin"),
    ("publish_origins", "https://a.*.example.com", "is not an origin"),
    ("publish_origins", "https://*.*.example.com", "is not an origin"),
    ("publish_origins", "https://example.*", "is not an origin"),
    ("publish_origins", "https://*", "is not an origin"),
    ("publish_origins", "*://example.com", "is not an origin"),
    ("publish_origins", "https://*.", "is not an origin"),
    ("publish_origins", "https://user@example.com", "is not an origin"),
    ("publish_origins", "https://*.example.com/", "(no path) or https://*.example.com"),
    ("cookie_name", "a b", "is not a cookie name"),
    ("cookie_name", "", "is not a cookie name"),
    ("transport_url", "mercure.db", "is not a database URL such as sqlite:////var"),
    ("transport_url", "bolt:///var/run/mercure.db?size=100", "updates are stored in sqlite:///PATH"),
    (
        "transport_url",
        "postgresql://user:hunter2@db/mercure?durability=lax",
        "write relaxed, or leave it out",
    ),
    ("transport_url", "postgresql://hub:a/hunter2@db/mercure", "%2F for /"),
    ("transport_url", "postgresql://hub:a@hunter2@db/mercure", "%40 for @"),
    ("transport_url", "redis://:a?hunter2@db/0", "%3F for ?"),
    ("transport_url", "redis://:a#hunter2@db/0", "%23 for #"),
    ("transport_url", "sqlite+aiosqlite:///mercure.db", "updates are stored in sqlite:///PATH"),
    ("transport_url", "sqlite://mercure.db", "three slashes"),
    ("transport_url", "sqlite://user:hunter2@host/mercure.db", "three slashes"),
    ("transport_url", "sqlite:///", "has no path"),
    ("transport_url", "sqlite:///:memory:", "has no path"),
    ("transport_url", "sqlite:///%3Amemory%3A", "has no path"),
    ("transport_url", "sqlite:///mercure.db?size=100&cleanup_frequency=0.4", "MERCURE_HISTORY_SIZE"),
    ("history_size", "-1", "whole number of 0 or more"),
    ("history_size", "1e3", "whole number"),
    ("history_size", "9" * 5000, ""),
    ("history_max_age", "1h", "number of seconds of 0 or more"),
    ("heartbeat", "nan", "number of seconds"),
    ("heartbeat", "inf", "number of seconds"),
    ("write_timeout", "-0.1", "number of seconds"),
    ("dispatch_timeout", "5s", "number of seconds"),
    ("compression", "gzip", "is not one of off, zstd"),
    ("max_request_body_size", "1MB", "whole number"),
    ("log_level", "verbose", "is not one of debug, info, warning, error"),
    ("log_format", "xml", "is not one of text, json"),
]


@pytest.mark.parametrize(("name", "text", "remedy"), WRONG)
def test_a_wrong_value_is_named_with_its_place_and_the_remedy(
    name: str, text: str, remedy: str, tmp_path: Path
) -> None:
    setting = next(setting for setting in TABLE if setting.name == name)
    path = tmp_path / "hub.toml"
    path.write_text(
        f'{name} = "{text}"' if "\0" not in text else f'{name} = "{text}"'.replace("\0", "\\u0000")
    )
    for environment, flags, place in (
        ({setting.variable: text}, {}, setting.variable),
        ({}, {name: text}, setting.flag),
        ({CONFIG.variable: str(path)}, {}, f"{name} in {path}"),
    ):
        if not text and place == setting.variable:
            continue  # an empty variable counts as unset
        with pytest.raises(SettingError) as caught:
            load({"MERCURE_PUBLIC_URL": "", **environment}, flags)
        message = str(caught.value)
        assert message.startswith(f"{place}: ")
        assert remedy in message
        assert len(message.splitlines()) == 1
        assert "hunter2" not in message


PRIVATE, PUBLIC = generate_pair("ec")
SECRETS = {
    *("publisher_jwt_key", "subscriber_jwt_key"),
    *("publisher_jwt_key_fallback", "subscriber_jwt_key_fallback"),
}


@pytest.mark.parametrize("role", ["publisher", "subscriber"])
@pytest.mark.parametrize(
    ("key", "algorithm", "remedy"),
    [
        ("hunter2", "", "make one with: mercure-hub keys"),
        (SECRET, "HS512", "needs at least 64"),
        (SECRET, "RS256", "give the PEM text, or @ and the path of its file"),
        ("@/nowhere/key.pem", "", "'/nowhere/key.pem' cannot be read: No such file or directory"),
        (PUBLIC.splitlines()[0], "", "the PEM is mangled: its END line is missing"),
        (PUBLIC.replace("M", "-", 1), "", "the PEM is mangled"),
        (PUBLIC[:60] + PUBLIC[90:], "", "no key can be read"),
        (PUBLIC, "RS256", "does not fit RS256; it fits ES256"),
        (PRIVATE, "HS256", "does not fit HS256"),
        ("".join(PUBLIC.splitlines()[1:-1]), "", "a key without its BEGIN and END lines, not a secret"),
        (__file__, "", "the path of a file, not a secret; write @ before it"),
        ("file:///etc/mercure/the-publishers.secret", "", "a URL, not a secret; for a file write @"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(role: str, key: str, algorithm: str, remedy: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({f"MERCURE_{role.upper()}_JWT_KEY": key, f"MERCURE_{role.upper()}_JWT_ALG": algorithm})
    message = str(caught.value)
    assert message.startswith(f"MERCURE_{role.upper()}_JWT_KEY: ")
    assert remedy in message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message
    assert SECRET not in message
    assert PRIVATE.splitlines()[1] not in message


def trusted(**keys: str) -> tuple[list[Any], list[Any]]:
    """Material and algorithms of the keys of publishers and subscribers."""
    settings = load_settings({f"MERCURE_{name.upper()}": value for name, value in keys.items()}, {})
    (issuer,) = settings.issuers
    publish, subscribe = (
        [(key.material, *key.algorithms) for key in issuer.keys(role)] for role in ("publish", "subscribe")
    )
    return publish, subscribe


OLD, NEW = (SECRET.encode(), "HS256"), (OTHER_SECRET.encode(), "HS256")


def test_a_fallback_key_is_accepted_besides_the_key() -> None:
    both = {"publisher_jwt_key": OTHER_SECRET, "publisher_jwt_key_fallback": SECRET}
    assert trusted(**both) == ([NEW, OLD], [NEW, OLD])
    assert trusted(**both, subscriber_jwt_key=OTHER_SECRET) == ([NEW, OLD], [NEW])
    own = {"subscriber_jwt_key": OTHER_SECRET, "subscriber_jwt_key_fallback": SECRET}
    assert trusted(**own, publisher_jwt_key=SECRET) == ([OLD], [NEW, OLD])
    third = SECRET[::-1]
    assert trusted(**both, subscriber_jwt_key_fallback=third) == (
        [NEW, OLD],
        [NEW, (third.encode(), "HS256")],
    )
    assert trusted(publisher_jwt_key=SECRET, publisher_jwt_key_fallback=SECRET) == ([OLD], [OLD])


def test_the_fallback_takes_the_algorithms_that_fit_it() -> None:
    """What the new key is used with may be nothing for the one before."""
    keys = {"publisher_jwt_key": OTHER_SECRET, "publisher_jwt_key_fallback": SECRET}
    publish, _ = trusted(**keys, publisher_jwt_alg="HS384 HS256")
    assert [one[1:] for one in publish] == [("HS384", "HS256")] * 2
    publish, _ = trusted(
        publisher_jwt_key=PUBLIC, publisher_jwt_key_fallback=SECRET, publisher_jwt_alg="ES256"
    )
    assert publish[1] == (SECRET.encode(), "HS256", "HS384")
    publish, _ = trusted(publisher_jwt_key=SECRET, publisher_jwt_key_fallback=PUBLIC)
    assert publish[1][1:] == ("ES256",)


@pytest.mark.parametrize("role", ["PUBLISHER", "SUBSCRIBER"])
def test_a_fallback_key_that_cannot_be_used_is_refused(role: str) -> None:
    name = f"MERCURE_{role}_JWT_KEY_FALLBACK"
    with pytest.raises(SettingError, match=rf"^{name}: the secret has 7 bytes"):
        load_settings({"MERCURE_PUBLISHER_JWT_KEY": SECRET, name: "hunter2"}, {})
    with pytest.raises(SettingError, match=rf"^{name}: is set and MERCURE_{role}_JWT_KEY is not"):
        load_settings({"MERCURE_JWKS_FILE": JWKS, name: SECRET}, {})


@pytest.mark.parametrize("environment", [{}, {"MERCURE_PUBLISHER_JWT_KEY": ""}])
def test_the_error_about_a_missing_key_says_how_to_make_one(environment: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=r"^MERCURE_PUBLISHER_JWT_KEY: is not set; .*mercure-hub keys"):
        load_settings(environment, {})


def test_a_tls_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^MERCURE_TLS_KEY: .* set both"):
        load({"MERCURE_TLS_KEY": "key.pem", "MERCURE_TLS_CERT": ""})


class TestFile:
    def refusal(self, path: Path, content: str | bytes | None = None) -> str:
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(SettingError) as caught:
            load({CONFIG.variable: str(path)})
        assert len(str(caught.value).splitlines()) == 1
        assert "hunter2" not in str(caught.value)
        return str(caught.value)

    def test_an_unknown_key_of_the_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "hub.toml"
        message = self.refusal(path, 'publisher_key = "hunter2"')
        assert message.startswith(f"publisher_key in {path}: there is no such setting; known are listen,")
        assert self.refusal(path, 'LISTEN = ":1"').startswith("LISTEN in")
        assert self.refusal(path, 'config = "x"').startswith("config in")

    @pytest.mark.parametrize(
        "content",
        ["listen = {a = 1}", "[listen]\na = 1", "listen = [1, 2]", "[issuer]\nname = 'x'",
         "publisher_jwt_key = ['hunter2', 1]", "listen = 2026-01-01"],
    )  # fmt: skip
    def test_a_value_of_the_wrong_type_is_refused(self, tmp_path: Path, content: str) -> None:
        assert "give a string, a number, or a list of strings" in self.refusal(tmp_path / "hub.toml", content)

    @pytest.mark.parametrize(
        "content", ["listen", 'publisher_jwt_key = "hunter2', b"\xff\xfe", "a = 1\na = 2"]
    )
    def test_a_file_that_is_not_toml_is_refused(self, tmp_path: Path, content: str | bytes) -> None:
        path = tmp_path / "hub.toml"
        assert self.refusal(path, content).startswith(f"MERCURE_CONFIG: {str(path)!r} is not TOML: ")

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "hub.toml"
        assert (
            self.refusal(path) == f"MERCURE_CONFIG: {str(path)!r} cannot be read: No such file or directory"
        )
        assert "Is a directory" in self.refusal(tmp_path)


def test_secrets_are_in_no_representation() -> None:
    settings = load_settings({**KEY, "MERCURE_SUBSCRIBER_JWT_KEY": OTHER_SECRET}, {})
    assert SECRET not in repr(settings)
    assert OTHER_SECRET not in repr(settings)
    assert {setting.name for setting in TABLE if setting.is_secret} == SECRETS


def test_the_reference_names_every_setting() -> None:
    page = reference()
    for setting in TABLE:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{setting.variable}` |")]
        assert f"`{setting.flag}`" in row
        assert setting.text in row
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert [setting.name for setting in TABLE if setting.group == "Storage"] == [
        "transport_url",
        "history_size",
        "history_max_age",
    ]


def test_the_page_in_the_documentation_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "docs/settings.md is not what the table says; run: python -m mercure_hub settings > docs/settings.md"
    )


def test_a_generated_secret_serves_every_hmac_algorithm() -> None:
    settings = load({"MERCURE_PUBLISHER_JWT_KEY": generate_secret(), "MERCURE_PUBLISHER_JWT_ALG": "HS512"})
    assert settings["publisher_jwt_key"].algorithms == ("HS512",)
