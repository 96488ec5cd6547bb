"""The settings, in one table: name, type, default and text stand once, here.

Each setting is an environment variable (``MERCURE_LISTEN``), a flag (``--listen``) and a key of the
TOML file (``listen``). ``--help`` and docs/settings.md are made from the table;
``mercure_hub.config.settings`` reads the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mercure_hub.config import issuers
from mercure_hub.config.values import (
    address,
    algorithms,
    boolean,
    cookie_name,
    count,
    database,
    min_size,
    networks,
    one_of,
    optional_address,
    optional_url,
    origins,
    plain,
    rotation,
    seconds,
    urls,
    workers,
)

PREFIX = "MERCURE_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    :param name: as in the TOML file.
    :param read: turns text into the value; raises ``ValueError`` with the reason.
    :param default: as text.
    :param form: what the text looks like.
    :param text: what it does.
    :param group: heading in the reference.
    :param is_secret: the value is never shown.
    """

    name: str
    read: Callable[[str], Any]
    default: str
    form: str
    text: str
    group: str
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line flag."""
        return "--" + self.name.replace("_", "-")


_URL, _KEYS, _WHO, _STORE, _STREAM, _WATCH, _LOG = (
    "Address",
    "Keys",
    "Who may do what",
    "Storage",
    "Streams and limits",
    "Health and figures",
    "Log",
)
_KEY_FORM = "secret, PEM text or @/path"

TABLE: tuple[Setting, ...] = (
    Setting("listen", address, "127.0.0.1:3000", "ADDRESS:PORT", "Where the hub accepts connections.", _URL),
    Setting(
        "public_url",
        optional_url,
        "",
        "URL",
        "The hub's URL as clients know it: what tokens name in aud, base of relative patterns; its path is "
        "that of subscription topics and of the reserved namespace. Unset: derived from each request. "
        "Required with several issuers and with keys at a URL.",
        _URL,
    ),
    Setting(
        "allowed_urls", urls, "", "URL ...", "Public URLs that are served; others get 421. Unset: all.", _URL
    ),
    Setting(
        "trusted_proxies",
        networks,
        "",
        "ADDRESS ...",
        "Proxies whose X-Forwarded-For, -Proto and -Host count: addresses or networks.",
        _URL,
    ),
    Setting("tls_cert", plain, "", "PATH", "Certificate chain in PEM; with it the hub speaks HTTPS.", _URL),
    Setting("tls_key", plain, "", "PATH", "Private key of the certificate, if it is in another file.", _URL),
    Setting(
        "workers",
        workers,
        "1",
        "NUMBER",
        "Processes that share the port and the log. As many as there are cores for them is enough.",
        _URL,
    ),
    Setting(
        "publisher_jwt_key",
        plain,
        "",
        _KEY_FORM,
        "Key that verifies publishers' tokens. Required, unless there is a JWK set or an [[issuer]] table. "
        "PEM text may have \\n for its line ends.",
        _KEYS,
        is_secret=True,
    ),
    Setting(
        "publisher_jwt_alg",
        algorithms,
        "",
        "NAME ...",
        "Algorithms of that key. Unset: HS256 for a secret, else what fits the key.",
        _KEYS,
    ),
    Setting(
        "publisher_jwt_key_fallback",
        plain,
        "",
        _KEY_FORM,
        "A second key that verifies publishers' tokens, while keys are changed: the one before.",
        _KEYS,
        is_secret=True,
    ),
    Setting(
        "subscriber_jwt_key",
        plain,
        "",
        _KEY_FORM,
        "Key that verifies subscribers' tokens. Unset: the publisher's key.",
        _KEYS,
        is_secret=True,
    ),
    Setting("subscriber_jwt_alg", algorithms, "", "NAME ...", "Algorithms of that key.", _KEYS),
    Setting(
        "subscriber_jwt_key_fallback",
        plain,
        "",
        _KEY_FORM,
        "The same for subscribers' tokens. Unset: that of publishers, if they share the key.",
        _KEYS,
        is_secret=True,
    ),
    Setting(
        "issuer", plain, "urn:flask-mercure", "NAME", "The iss of the tokens that these keys sign.", _KEYS
    ),
    Setting("jwks_file", plain, "", "PATH", "File with a JWK set: more keys of that issuer.", _KEYS),
    Setting(
        "jwks_uri",
        plain,
        "",
        "URL",
        "URL of a JWK set, fetched and renewed in the background: more keys of that issuer. Must be https.",
        _KEYS,
    ),
    Setting(
        "jwks_allow_private",
        boolean,
        "0",
        "0|1",
        "That URL may lead into a private network, or to this host, to which plain http is allowed then.",
        _KEYS,
    ),
    Setting(
        "authorization_server",
        boolean,
        "0",
        "0|1",
        "Tell clients, in the hub's metadata, that they can get tokens from that issuer.",
        _KEYS,
    ),
    Setting(
        "protocol",
        one_of("both", "1.0", "0.x"),
        "both",
        "both|1.0|0.x",
        "Generations of the protocol that are spoken.",
        _WHO,
    ),
    Setting("anonymous", boolean, "0", "0|1", "Admit subscribers without a token, to public updates.", _WHO),
    Setting(
        "subscriptions",
        boolean,
        "0",
        "0|1",
        "Active subscriptions: their events and their API. A matcher may have 512 characters then.",
        _WHO,
    ),
    Setting(
        "cors_origins",
        origins,
        "",
        "ORIGIN ...",
        "Origins whose pages may subscribe, with their cookies; http://localhost:* for all its ports, "
        "https://*.example.com for its subdomains of one label. * admits the others without cookies.",
        _WHO,
    ),
    Setting(
        "publish_origins",
        origins,
        "",
        "ORIGIN ...",
        "Further origins whose pages may publish with a cookie, in the same forms; * for all.",
        _WHO,
    ),
    Setting(
        "cookie_name",
        cookie_name,
        "__Secure-mercure_access_token",
        "NAME",
        "Cookie that holds the token.",
        _WHO,
    ),
    Setting(
        "debugger",
        boolean,
        "0",
        "0|1",
        "A page below the hub's URL, /debugger/, to subscribe, to publish and to see why a token is refused. "
        "It holds no token.",
        _WHO,
    ),
    Setting(
        "playground",
        boolean,
        "0",
        "0|1",
        "For development, on a loopback address only: the debugger with a token that allows everything, "
        "anonymous subscribers, active subscriptions, pages of localhost, and no key needed.",
        _WHO,
    ),
    Setting(
        "transport_url", database, "sqlite:///mercure.db", "URL", "Database that holds the updates.", _STORE
    ),
    Setting(
        "history_size",
        count,
        "0",
        "NUMBER",
        "Updates to keep, 0 = all. Events of subscriptions do not count.",
        _STORE,
    ),
    Setting("history_max_age", seconds, "0", "SECONDS", "How long to keep an update, 0 = for ever.", _STORE),
    Setting(
        "heartbeat",
        seconds,
        "40",
        "SECONDS",
        "Time between two comments, which keep a quiet stream alive, 0 = none.",
        _STREAM,
    ),
    Setting(
        "write_timeout",
        seconds,
        "600",
        "SECONDS",
        "How long a stream lives before the client has to reconnect, 0 = no end.",
        _STREAM,
    ),
    Setting(
        "drain",
        seconds,
        "10",
        "SECONDS",
        "Time over which the streams end when another hub takes over (SIGUSR2): the clients shall not come "
        "back all at once.",
        _STREAM,
    ),
    Setting(
        "dispatch_timeout",
        seconds,
        "5",
        "SECONDS",
        "How long a subscriber may take nothing before it is dropped, 0 = no end.",
        _STREAM,
    ),
    Setting(
        "compression",
        one_of("off", "zstd"),
        "off",
        "off|zstd",
        "Compress streams for clients that ask for it, each update once for all of them.",
        _STREAM,
    ),
    Setting(
        "compression_min_size",
        min_size,
        "256",
        "OCTETS",
        "Smallest event that is compressed, at most 65536.",
        _STREAM,
    ),
    Setting(
        "io_uring",
        boolean,
        "1",
        "0|1",
        "Write to many subscribers in one system call, where the kernel allows it (Linux 5.6, io_uring).",
        _STREAM,
    ),
    Setting(
        "websocket",
        boolean,
        "1",
        "0|1",
        "Serve subscribers over WebSockets too.",
        _STREAM,
    ),
    Setting(
        "max_connections",
        count,
        "0",
        "NUMBER",
        "Subscribers at the same time; one more gets 429. 0 = as many as the process may have descriptors.",
        _STREAM,
    ),
    Setting(
        "max_connections_per_address",
        count,
        "0",
        "NUMBER",
        "The same for one client address. Behind a proxy set MERCURE_TRUSTED_PROXIES too.",
        _STREAM,
    ),
    Setting("max_connections_per_token", count, "0", "NUMBER", "The same for one access token.", _STREAM),
    Setting(
        "max_heavy_patterns",
        count,
        "500",
        "NUMBER",
        "Different URL Patterns in use with regular expressions or rare syntax, which take 100 KiB each, "
        "some 700, and URI Templates with operators, which take 25; a subscriber with one more gets 429. "
        "Of the second half, one subject or address may bring a tenth of all. The usual ones take 1 KiB "
        "and do not count. 0 = no limit.",
        _STREAM,
    ),
    Setting(
        "max_request_body_size", count, "1048576", "OCTETS", "Largest publication; over it: 413.", _STREAM
    ),
    Setting(
        "metrics",
        boolean,
        "0",
        "0|1",
        "Serve /metrics for Prometheus on the address of the hub, to those who come without a proxy.",
        _WATCH,
    ),
    Setting(
        "metrics_listen",
        optional_address,
        "",
        "ADDRESS:PORT",
        "An address of its own for /metrics, /healthz, /livez and /readyz, without TLS. Keep it private.",
        _WATCH,
    ),
    Setting(
        "log_level",
        one_of("debug", "info", "warning", "error"),
        "info",
        "debug|info|warning|error",
        "What is logged. info has a line for each request.",
        _LOG,
    ),
    Setting(
        "log_format", one_of("text", "json"), "text", "text|json", "A line is text or a JSON object.", _LOG
    ),
    Setting("log_file", plain, "", "PATH", "Where the log goes. Unset: standard error.", _LOG),
    Setting(
        "access_log",
        plain,
        "",
        "PATH",
        "File for the lines of requests, whatever the level. Unset: they stand in the log, at level info.",
        _LOG,
    ),
    Setting(
        "log_rotate",
        rotation,
        "",
        "SIZE|hourly|daily",
        "When these files are renamed to NAME.1 and so on: at a size such as 10M, or by time. Unset: never.",
        _LOG,
    ),
    Setting("log_keep", count, "7", "NUMBER", "How many renamed files stay.", _LOG),
)

CONFIG = Setting(
    "config", plain, "", "PATH", "TOML file with settings; its keys are the names in lower case.", _LOG
)

ROWS: Mapping[str, Setting] = {setting.name: setting for setting in TABLE}
"""The table by name."""


def reference() -> str:
    """The settings as a page of Markdown."""
    lines = [
        "# Settings of the hub",
        "",
        "<!-- Made from hub/mercure_hub/config/table.py by `mercure-hub settings`; edit the table there. -->",
        "",
        "Each setting is an environment variable, a flag and a key in the TOML file that `--config` or",
        "`MERCURE_CONFIG` names. A flag wins over the environment, the environment over the file.",
        "A number of seconds or of items that is 0 means: off, no limit.",
    ]
    for group in dict.fromkeys(setting.group for setting in TABLE):
        lines += ["", f"## {group}", "", "| variable | flag | default | |", "|---|---|---|---|"]
        lines += [_reference_row(setting) for setting in TABLE if setting.group == group]
    return "\n".join([*lines, *issuers.reference(), ""])


def _reference_row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    form = setting.form.replace("|", r"\|")
    return f"| `{setting.variable}` | `{setting.flag}` | {default} | {setting.text} *{form}* |"
