"""The settings that follow from a site, its ``mercure`` block, and environment variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from mercure_hub import DOCUMENTATION
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.tools.conversion.conversion import Conversion, Issuer
from mercure_hub.tools.conversion.engines import POSTGRESQL, REDIS, take_engine
from mercure_hub.tools.conversion.syntax import CaddyfileError, Directive, Line, Variable, parse

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_BYTES = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "ki": 2**10, "kib": 2**10, "mi": 2**20, "mib": 2**20, "gi": 2**30, "gib": 2**30,
}  # fmt: skip


def seconds(text: str) -> str:
    """``1m30s`` as ``90``.

    :raises ValueError: it is no duration.
    """
    if text == "0":
        return "0"
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 40s or 10m")
    return f"{sum(float(number) * _SECONDS[unit] for number, unit in parts):.9g}"


def size(text: str) -> str:
    """``1MiB`` as ``1048576``.

    :raises ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is not a size such as 512KB or 1MiB")
    return str(int(float(match[1]) * _BYTES[match[2].lower()]))


def bolt_path(url: str) -> str:
    """The path in ``bolt:///data/mercure.db`` or ``bolt://mercure.db``."""
    parts = urlsplit(url)
    return unquote(parts.netloc + parts.path)


def database_beside(path: str) -> str:
    """The URL of a new database in the same folder as one of another format.

    :raises ValueError: the path cannot stand in a URL.
    """
    if re.search(r"[?#%\s]", path) or not path:
        raise ValueError(f"{path!r} cannot stand in a URL; choose a path for MERCURE_TRANSPORT_URL")
    folder, slash, _ = path.rpartition("/")
    return f"sqlite:///{folder}{slash}mercure-hub.db"


OF_CADDY = "is of Caddy, and belongs to the proxy in front"

_LEVELS: Mapping[str, str] = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}
_FORMATS: Mapping[str, str] = {"json": "json", "console": "text"}
_PORTS: Mapping[str, str] = {"http": "80", "https": "443"}


def take_option(conversion: Conversion, option: Directive) -> None:
    """One of the global options."""
    if option.name == "order" and "mercure" in option.arguments:
        conversion.note(option.location, "order", "not needed without Caddy")
    elif option.name in ("http_port", "https_port") and len(option.arguments) == 1:
        conversion.ports[option.name.removesuffix("_port")] = option.arguments[0]
        conversion.note(option.location, option.name, "counts for the address of the site")
    elif option.name == "debug" and not option.arguments:
        conversion.put("log_level", "debug", option.location, "debug")
    elif option.name == "log":
        _take_log(conversion, option, "log_file")
    else:
        conversion.left(option.location, option.name, OF_CADDY)


def take_beside(conversion: Conversion, directive: Directive) -> None:
    """A directive beside ``mercure``."""
    if directive.name == "log":
        _take_log(conversion, directive, "access_log")
    elif directive.name == "tls" and len(directive.arguments) == 2:
        for name, value in zip(("tls_cert", "tls_key"), directive.arguments, strict=True):
            conversion.put(name, value, directive.location, "tls")
        conversion.note(directive.location, "tls", "leave it out where a proxy in front has the certificate")
    else:
        conversion.left(directive.location, directive.name, OF_CADDY)


def _take_log(conversion: Conversion, directive: Directive, name: str) -> None:
    """:param name: of the setting that is the file."""
    if not directive.block:
        conversion.note(directive.location, "log", "not needed: the hub logs to standard error")
    for one in directive.block:
        try:
            _take_of_log(conversion, one, name)
        except ValueError as error:
            conversion.left(one.location, f"log {one.name}", str(error))


def _take_of_log(conversion: Conversion, one: Directive, name: str) -> None:
    source, location, words = f"log {one.name}", one.location, one.arguments
    if one.name == "output" and words[:1] == ("file",) and len(words) == 2:
        conversion.put(name, words[1], location, source)
        for roll in one.block:
            _take_roll(conversion, roll)
    elif one.name == "output" and words in (("stderr",), ("stdout",)):
        conversion.note(location, source, "not needed: the hub logs to standard error")
    elif one.name == "output" and words == ("discard",):
        conversion.left(location, source, "see MERCURE_LOG_LEVEL, where warning leaves requests out")
    elif one.name == "level" and len(words) == 1 and words[0].lower() in _LEVELS:
        conversion.put("log_level", _LEVELS[words[0].lower()], location, source)
    elif one.name == "format" and words[:1] == ("filter",):
        for inner in one.block:
            if inner.name == "wrap" and inner.arguments[:1] and inner.arguments[0] in _FORMATS:
                conversion.put("log_format", _FORMATS[inner.arguments[0]], inner.location, source)
            else:
                conversion.note(inner.location, source, "not needed: this hub writes no token into its log")
    elif one.name == "format" and words[:1] and words[0] in _FORMATS:
        conversion.put("log_format", _FORMATS[words[0]], location, source)
    else:
        conversion.left(location, source, "has no counterpart; see the settings of the log")


def _take_roll(conversion: Conversion, roll: Directive) -> None:
    value = roll.arguments[0] if len(roll.arguments) == 1 else ""
    if roll.name == "roll_size":
        # Caddy counts in MiB where no unit is given.
        conversion.put(
            "log_rotate", size(f"{value}MiB" if value.isdigit() else value), roll.location, roll.name
        )
    elif roll.name == "roll_keep":
        conversion.put("log_keep", value, roll.location, roll.name)
    else:
        conversion.left(
            roll.location, roll.name, "has no counterpart; see MERCURE_LOG_ROTATE and MERCURE_LOG_KEEP"
        )


def take_address(conversion: Conversion, address: str, location: str, source: str) -> None:
    """The address of a site: the public URL follows from it, unless something says that, and the port.

    The hub takes the port over where it can serve the site by itself: without TLS, or with the certificate of
    the site. Else that is a proxy's.

    :param address: ``example.com``, ``http://example.com:8080`` or ``:80``.
    """
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.partition("/")[0].partition(":")
    http_port, https_port = (conversion.ports.get(name, usual) for name, usual in _PORTS.items())
    is_plain = scheme == "http" or (
        not scheme and (port == http_port or (not host and port not in ("", https_port)))
    )
    scheme = "http" if is_plain else "https"
    port = port or conversion.ports.get(scheme, _PORTS[scheme])
    if "public_url" in conversion.settings:
        pass
    elif not host or "*" in host:
        conversion.left(
            location, source, f"{address!r} names no host; set MERCURE_PUBLIC_URL, or leave it unset"
        )
    else:
        shown = "" if port == _PORTS[scheme] else f":{port}"
        conversion.put("public_url", f"{scheme}://{host}{shown}{WELL_KNOWN}", location, source)
    if is_plain or "tls_cert" in conversion.settings:
        if "listen" not in conversion.settings:
            conversion.put("listen", f":{port}", location, source)
            conversion.note(
                location, source, "the hub listens there itself; behind a proxy set MERCURE_LISTEN"
            )
    else:
        conversion.note(
            location,
            source,
            f"the port and the certificate are the proxy's in front; see {DOCUMENTATION}/deployment.md",
        )


_PLACEHOLDER = re.compile(r"\{(?:env|\$)[.]?([^{}:]+)\}")
_TWO_SETS = "differs from the other role's; write two [[issuer]] tables, with roles"

_PASSING = ("/run/", "/var/run/", "/tmp/", "/dev/shm/")  # noqa: S108 - not opened
_SWITCHES = ("anonymous", "subscriptions")
_LISTS = ("cors_origins", "publish_origins")
_TIMES = ("heartbeat", "write_timeout", "dispatch_timeout")
_VERIFIERS = ("publisher_jwt", "subscriber_jwt", "publisher_jwks_url", "subscriber_jwks_url")
_NOT_NEEDED = {
    "topic_matcher_cache": "not needed: this hub keeps an index of its subscribers",
    "subscriber_list_cache_size": "not needed: this hub keeps an index of its subscribers",
    "cache": "not needed: this hub keeps an index of its subscribers",
    "name": "not needed: a process serves one hub",
}


class Directives:
    """Turns directives into settings.

    :param conversion: takes what is found.
    :param variables: for ``{env.NAME}``.
    """

    def __init__(self, conversion: Conversion, variables: Mapping[str, Variable]) -> None:
        self._conversion = conversion
        self._variables = variables
        self._verifiers: dict[str, tuple[str, str, str]] = {}  # name -> value, algorithm, location

    def take(self, block: Sequence[Directive]) -> None:
        """Go through the block."""
        for directive in block:
            try:
                self._take(directive)
            except ValueError as error:
                self._conversion.left(directive.location, directive.name, str(error))
        self._take_verifiers()
        self._take_issuers([one for one in block if one.name == "issuer"])

    def _take(self, directive: Directive) -> None:  # noqa: PLR0912  one branch for each directive
        name, location, put = directive.name, directive.location, self._conversion.put
        if name in _SWITCHES:
            if directive.arguments:
                raise ValueError("has a value, and takes none")
            put(name, "1", location, name)
        elif name in _LISTS:
            origins = self._values(directive)
            put(name, " ".join(origins), location, name)
            if any("*." in one for one in origins):
                self._conversion.note(location, name, "the star in an origin stands for one label here")
        elif name in _TIMES:
            put(name, seconds(self._value(directive)), location, name)
        elif name == "cookie_name":
            put(name, self._value(directive), location, name)
        elif name == "max_request_body_size":
            put(name, size(self._value(directive)), location, name)
        elif name == "resource_identifier":
            put("public_url", self._value(directive), location, name)
        elif name == "public_urls":
            urls = [_with_path(one) for one in self._values(directive)]
            put("allowed_urls", " ".join(urls), location, name)
        elif name in ("debugger", "ui"):
            put("debugger", "1", location, name)
        elif name in ("playground", "demo"):
            self._conversion.left(
                location,
                name,
                "mints a token for everything; for development see MERCURE_PLAYGROUND, or flask mercure hub",
            )
        elif name == "protocol_version_compatibility":
            self._conversion.note(
                location,
                name,
                "not needed: this hub speaks 1.0 and 0.x, and checks a token of 1.0 in full either way",
            )
        elif name == "transport":
            self._take_transport(directive)
        elif name == "transport_url":
            transport_url(self._conversion, self._value(directive), location, name)
        elif name in _VERIFIERS:
            self._take_verifier(directive)
        elif name in _NOT_NEEDED:
            self._conversion.note(location, name, _NOT_NEEDED[name])
        elif name != "issuer":
            self._conversion.left(location, name, "is no directive that this command knows")

    # -- values ----------------------------------------------------------------------------------

    def _values(self, directive: Directive) -> list[str]:
        """The arguments, with the values of placeholders; those without one are empty and left out.

        :raises ValueError: there are none.
        """
        found: list[str] = []
        for argument in directive.arguments:
            match = _PLACEHOLDER.fullmatch(argument)
            if match is None:
                if _PLACEHOLDER.search(argument):
                    raise ValueError("has a placeholder in the middle of a value; write it out")
                found.append(argument)
            elif match[1] in self._variables:
                found += [self._variables[match[1]].value] if self._variables[match[1]].value else []
            elif not match[1].endswith("_ALG"):  # follows from the key here
                raise ValueError(f"its value is in the environment variable {match[1]}; give that file, too")
        if not found:
            raise ValueError("has no value")
        return found

    def _value(self, directive: Directive) -> str:
        """:raises ValueError: there is none, or more than one."""
        found = self._values(directive)
        if len(found) > 1:
            raise ValueError("has more than one value")
        return found[0]

    def _key(self, directive: Directive) -> tuple[str, str]:
        """A key and its algorithm, which may be empty.

        :raises ValueError: there is no key, or more than both.
        """
        found = self._values(directive)
        if len(found) > 2:
            raise ValueError("has more than a key and an algorithm; quote a key with spaces")
        return found[0], found[1] if len(found) > 1 else ""

    # -- storage ---------------------------------------------------------------------------------

    def _take_transport(self, directive: Directive) -> None:
        kind = self._value(directive)
        options = {
            one.name: (" ".join(self._values(one)) if one.arguments else "", one.location)
            for one in directive.block
        }
        _transport(self._conversion, kind, options, directive.location, "transport")

    # -- keys ------------------------------------------------------------------------------------

    def _take_verifier(self, directive: Directive) -> None:
        key, algorithm = self._key(directive)
        self._verifiers[directive.name] = (key, algorithm, directive.location)

    def _take_verifiers(self) -> None:
        """Directives from before issuers: one issuer, whose name nobody wrote down."""
        for role in ("publisher", "subscriber"):
            if f"{role}_jwt" in self._verifiers:
                key, algorithm, location = self._verifiers[f"{role}_jwt"]
                self._conversion.put(f"{role}_jwt_key", key, location, f"{role}_jwt")
                self._put_algorithm(role, algorithm, location)
        if "publisher_jwt" in self._verifiers and not any(name.startswith("sub") for name in self._verifiers):
            location = self._verifiers["publisher_jwt"][2]
            self._conversion.note(location, "publisher_jwt", "its key verifies subscribers' tokens, too")
        sets = {name: one for name, one in self._verifiers.items() if name.endswith("_jwks_url")}
        if sets and len({value for value, _, _ in sets.values()}) > 1:
            for name, (_, _, location) in sets.items():
                self._conversion.left(location, name, _TWO_SETS)
        elif sets:
            name, (value, _, location) = next(iter(sets.items()))
            self._put_key_set(value, location, name)

    def _put_algorithm(self, role: str, algorithm: str, location: str) -> None:
        if algorithm:
            self._conversion.put(f"{role}_jwt_alg", algorithm, location, f"{role}_jwt")

    def _put_key_set(self, value: str, location: str, source: str) -> None:
        if value.startswith("file://"):
            self._conversion.put("jwks_file", value.removeprefix("file://"), location, source)
        elif "@" in value or "?" in value:
            self._conversion.left(location, source, "may hold a secret; write MERCURE_JWKS_URI yourself")
        else:
            self._conversion.put("jwks_uri", value, location, source)

    def _take_issuers(self, directives: Sequence[Directive]) -> None:
        tables = [table for table in map(self._issuer, directives) if table is not None]
        if len(tables) == 1 and self._is_simple(tables[0]):
            self._take_one(tables[0])
        else:
            self._conversion.issuers += tables

    def _issuer(self, directive: Directive) -> Issuer | None:
        """A block as a table of ours."""
        left = self._conversion.left
        try:
            keys: dict[str, str | bool | list[str]] = {"identifier": self._value(directive)}
        except ValueError as error:
            left(directive.location, "issuer", str(error))
            return None
        for one in directive.block:
            if one.name == "authorization_server":
                keys["authorization_server"] = True
            elif one.name in ("publisher", "subscriber"):
                for verifier in one.block:
                    try:
                        self._put_in_table(keys, one.name, verifier)
                    except ValueError as error:
                        left(verifier.location, f"{one.name} {verifier.name}", str(error))
            else:
                left(one.location, f"issuer {one.name}", "is no directive that this command knows")
        # Without roles, the key of one would be taken for the other, too.
        roles = {one.name for one in directive.block if one.name in ("publisher", "subscriber")}
        if len(roles) == 1:
            keys["roles"] = ["publish" if "publisher" in roles else "subscribe"]
        secrets = frozenset({"publisher_key", "subscriber_key"})
        return Issuer(directive.location, keys, secrets)

    def _put_in_table(self, keys: dict[str, str | bool | list[str]], role: str, verifier: Directive) -> None:
        found = self._values(verifier)
        if verifier.name == "jwt":
            keys[f"{role}_key"], algorithm = self._key(verifier)
            if algorithm:
                keys[f"{role}_alg"] = algorithm
        elif verifier.name == "jwks_uri":
            name = "jwks_file" if found[0].startswith("file://") else "jwks_uri"
            value = found[0].removeprefix("file://")
            if keys.get(name, value) != value:
                raise ValueError(_TWO_SETS)
            if "@" in value or "?" in value:
                raise ValueError("may hold a secret; write it into the [[issuer]] table yourself")
            keys[name] = value
            if len(found) > 1:
                raise ValueError(f"write algorithms = {found[1:]!r} into the [[issuer]] table yourself")
        else:
            raise ValueError("is no directive that this command knows")

    @staticmethod
    def _is_simple(table: Issuer) -> bool:
        """Whether the settings without a table describe it."""
        return "roles" not in table.keys

    def _take_one(self, table: Issuer) -> None:
        names = {
            "identifier": "issuer",
            "publisher_key": "publisher_jwt_key",
            "publisher_alg": "publisher_jwt_alg",
            "subscriber_key": "subscriber_jwt_key",
            "subscriber_alg": "subscriber_jwt_alg",
        }
        for key, value in table.keys.items():
            text = "1" if value is True else str(value)
            self._conversion.put(names.get(key, key), text, table.location, f"issuer {key}")


def _with_path(url: str) -> str:
    """An origin, with the path that the hub has."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + WELL_KNOWN


def transport_url(conversion: Conversion, value: str, location: str, source: str) -> None:
    """``bolt://mercure.db?size=100&cleanup_frequency=0.4``, the form before ``transport``.

    :raises ValueError: a value in it cannot be used.
    """
    parts = urlsplit(value)
    options = {name: (text, location) for name, text in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.scheme == "bolt":
        options["path"] = (bolt_path(value), location)
    else:
        options["url"] = (value, location)
    _transport(conversion, parts.scheme, options, location, source)


def _transport(
    conversion: Conversion, kind: str, options: Mapping[str, tuple[str, str]], location: str, source: str
) -> None:
    if kind in ("local", "null"):
        conversion.put("history_size", "1", location, source)
        conversion.note(location, source, "this hub always keeps a history; here of one update")
        return
    if kind in (*REDIS, *POSTGRESQL):
        take_engine(conversion, kind, options, location, source)
        return
    if kind != "bolt":
        word = kind if kind.isalnum() else "that"
        conversion.left(
            location,
            source,
            f"{word} is another store; this hub has PostgreSQL and Redis: MERCURE_TRANSPORT_URL",
        )
        return
    takers: Mapping[str, Callable[[str], tuple[str, str] | None]] = {
        "path": lambda text: ("transport_url", database_beside(text)),
        "size": lambda text: ("history_size", text),
        "write_timeout": lambda text: ("write_timeout", seconds(text)),
        "subscriptions": lambda text: ("subscriptions", text),
        "bucket_name": lambda _: None,
        "cleanup_frequency": lambda _: None,
    }
    for name, (text, where) in options.items():
        if name not in takers:
            conversion.left(where, f"{source} {name}", "is no option that this command knows")
            continue
        if name == "path" and text.startswith(_PASSING):
            conversion.note(
                where,
                f"{source} {name}",
                "is gone when the machine has restarted; choose another folder for MERCURE_TRANSPORT_URL",
            )
        setting = takers[name](text)
        if setting is not None:
            conversion.put(*setting, where, f"{source} {name}")
        elif name == "cleanup_frequency":
            conversion.note(where, f"{source} {name}", "not needed: the history is trimmed in the background")
        else:
            conversion.note(where, f"{source} {name}", "not needed: the database has one table")
    conversion.note(location, source, "a Bolt file cannot be read here: the hub starts with an empty history")


_SAME = ("publisher_jwt_key", "publisher_jwt_alg", "subscriber_jwt_key", "subscriber_jwt_alg")


def _same(text: str) -> str:
    return text


def _switch(text: str) -> str:
    return "1" if text.lower() in ("1", "true", "t") else "0"


# Names of the hub before Caddy, without MERCURE_: ours, and how the value is read.
_OLD: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "ADDR": ("listen", lambda text: text if not text.startswith(":") else f"127.0.0.1{text}"),
    "ALLOW_ANONYMOUS": ("anonymous", _switch),
    "CERT_FILE": ("tls_cert", _same),
    "KEY_FILE": ("tls_key", _same),
    "CORS_ALLOWED_ORIGINS": ("cors_origins", lambda text: text.replace(",", " ")),
    "PUBLISH_ALLOWED_ORIGINS": ("publish_origins", lambda text: text.replace(",", " ")),
    "SUBSCRIPTIONS": ("subscriptions", _switch),
    "DISPATCH_TIMEOUT": ("dispatch_timeout", seconds),
    "HEARTBEAT_INTERVAL": ("heartbeat", seconds),
    "WRITE_TIMEOUT": ("write_timeout", seconds),
    "JWT_KEY": ("publisher_jwt_key", _same),
    "JWT_ALGORITHM": ("publisher_jwt_alg", _same),
    "PUBLISHER_JWT_KEY": ("publisher_jwt_key", _same),
    "PUBLISHER_JWT_ALGORITHM": ("publisher_jwt_alg", _same),
    "SUBSCRIBER_JWT_KEY": ("subscriber_jwt_key", _same),
    "SUBSCRIBER_JWT_ALGORITHM": ("subscriber_jwt_alg", _same),
}
_UNNEEDED = {
    "MERCURE_LICENSE": "not needed: this hub has no license key",
    "COMPRESS": "not needed: the proxy compresses pages, and leaves event streams alone",
    "READ_TIMEOUT": "not needed: the hub has its own limits for slow requests",
    "READ_HEADER_TIMEOUT": "not needed: the hub has its own limits for slow requests",
}
_LEFT = {
    "GLOBAL_OPTIONS": "options of Caddy, which is not a part of this hub; they belong to the proxy in front",
    "CADDY_EXTRA_CONFIG": "configuration of Caddy, which is not a part of this hub",
    "CADDY_SERVER_EXTRA_DIRECTIVES": "directives of Caddy, which is not a part of this hub",
    "EXTRA_DIRECTIVES": "directives of Caddy, which is not a part of this hub",
    "USE_FORWARDED_HEADERS": "write the proxy's address into MERCURE_TRUSTED_PROXIES",
    "DEBUG": "see MERCURE_LOG_LEVEL",
    "DEMO": "mints a token for everything; for development see MERCURE_PLAYGROUND, or flask mercure hub",
    "LOG_FORMAT": "see MERCURE_LOG_FORMAT, which is text or json",
    "METRICS_ENABLED": f"see {DOCUMENTATION}/settings.md for metrics",
    "METRICS_ADDR": f"see {DOCUMENTATION}/settings.md for metrics",
    "ACME_HOSTS": "the proxy in front gets certificates",
    "ACME_CERT_DIR": "the proxy in front gets certificates",
    "ACME_HTTP01_ADDR": "the proxy in front gets certificates",
    "JWT_SECRET": "the application's key: in Flask it is MERCURE_JWT_SECRET, too; give the hub the same as "
    "MERCURE_PUBLISHER_JWT_KEY",
    "URL": "the application's: in Flask it is MERCURE_URL, too",
}


def take_variables(
    conversion: Conversion, variables: Mapping[str, Variable], used: frozenset[str] = frozenset()
) -> None:
    """Go through variables.

    :param used: names that stood in a Caddyfile, and became a part of it.
    """
    for name, variable in variables.items():
        if name in used:
            continue
        try:
            _take_variable(conversion, variables, name, variable)
        except (ValueError, CaddyfileError) as error:
            conversion.left(variable.location, name, str(error))


def _take_variable(
    conversion: Conversion, variables: Mapping[str, Variable], name: str, variable: Variable
) -> None:
    value, location = variable.value, variable.location
    short = name.removeprefix("MERCURE_")
    if not value:
        conversion.note(location, name, "is empty")
    elif name == "SERVER_NAME":
        conversion.addresses.append((value.split()[0].rstrip(","), location, name))
    elif name == "MERCURE_EXTRA_DIRECTIVES":
        lines = [Line(location, text) for text in value.splitlines()]
        Directives(conversion, variables).take(parse(lines))
    elif name in ("MERCURE_TRANSPORT_URL", "TRANSPORT_URL"):
        transport_url(conversion, value, location, name)
    elif name == "MERCURE_TRUSTED_ISSUERS":
        conversion.put("issuer", value, location, name)
    elif name == "MERCURE_PUBLIC_URL":
        conversion.put("public_url", value, location, name)
    elif name.startswith("MERCURE_") and short.lower() in _SAME:
        conversion.put(short.lower(), value, location, name)
    elif short in _OLD:
        ours, read = _OLD[short]
        conversion.put(ours, read(value), location, name)
    elif name in _UNNEEDED or short in _UNNEEDED:
        conversion.note(location, name, _UNNEEDED.get(name) or _UNNEEDED[short])
    elif name in _LEFT or (name.startswith("MERCURE_") and short in _LEFT):
        conversion.left(location, name, _LEFT.get(name) or _LEFT[short])
    else:
        conversion.left(location, name, "is no variable that this command knows")
