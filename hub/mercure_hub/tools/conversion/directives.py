"""The ``mercure`` block of a Caddyfile, directive by directive."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from mercure_hub.protocol.identity import WELL_KNOWN
from mercure_hub.tools.conversion import values
from mercure_hub.tools.conversion.caddyfile import Directive, Variable
from mercure_hub.tools.conversion.conversion import Conversion, Issuer

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
        self._verifiers: dict[str, tuple[str, str, str]] = {}  # name -> value, algorithm, place

    def take(self, block: Sequence[Directive]) -> None:
        """Go through the block."""
        for directive in block:
            try:
                self._take(directive)
            except ValueError as error:
                self._conversion.left(directive.place, directive.name, str(error))
        self._take_verifiers()
        self._take_issuers([one for one in block if one.name == "issuer"])

    def _take(self, directive: Directive) -> None:  # noqa: PLR0912  one branch for each directive
        name, place, put = directive.name, directive.place, self._conversion.put
        if name in _SWITCHES:
            if directive.arguments:
                raise ValueError("has a value, and takes none")
            put(name, "1", place, name)
        elif name in _LISTS:
            origins = self._values(directive)
            put(name, " ".join(origins), place, name)
            if any("*." in one for one in origins):
                self._conversion.note(place, name, "the star in an origin stands for one label here")
        elif name in _TIMES:
            put(name, values.seconds(self._value(directive)), place, name)
        elif name == "cookie_name":
            put(name, self._value(directive), place, name)
        elif name == "max_request_body_size":
            put(name, values.octets(self._value(directive)), place, name)
        elif name == "resource_identifier":
            put("public_url", self._value(directive), place, name)
        elif name == "public_urls":
            urls = [_with_path(one) for one in self._values(directive)]
            put("allowed_urls", " ".join(urls), place, name)
        elif name in ("debugger", "ui"):
            put("debugger", "1", place, name)
        elif name in ("playground", "demo"):
            self._conversion.left(
                place,
                name,
                "mints a token for everything; for development see MERCURE_PLAYGROUND, or flask mercure hub",
            )
        elif name == "protocol_version_compatibility":
            self._conversion.note(
                place,
                name,
                "not needed: this hub speaks 1.0 and 0.x, and checks a token of 1.0 in full either way",
            )
        elif name == "transport":
            self._take_transport(directive)
        elif name == "transport_url":
            transport_url(self._conversion, self._value(directive), place, name)
        elif name in _VERIFIERS:
            self._take_verifier(directive)
        elif name in _NOT_NEEDED:
            self._conversion.note(place, name, _NOT_NEEDED[name])
        elif name != "issuer":
            self._conversion.left(place, name, "is no directive that this command knows")

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
        options = {one.name: (self._value(one), one.place) for one in directive.block}
        _transport(self._conversion, kind, options, directive.place, "transport")

    # -- keys ------------------------------------------------------------------------------------

    def _take_verifier(self, directive: Directive) -> None:
        key, algorithm = self._key(directive)
        self._verifiers[directive.name] = (key, algorithm, directive.place)

    def _take_verifiers(self) -> None:
        """Directives from before issuers: one issuer, whose name nobody wrote down."""
        for role in ("publisher", "subscriber"):
            if f"{role}_jwt" in self._verifiers:
                key, algorithm, place = self._verifiers[f"{role}_jwt"]
                self._conversion.put(f"{role}_jwt_key", key, place, f"{role}_jwt")
                self._put_algorithm(role, algorithm, place)
        if "publisher_jwt" in self._verifiers and not any(name.startswith("sub") for name in self._verifiers):
            place = self._verifiers["publisher_jwt"][2]
            self._conversion.note(place, "publisher_jwt", "its key verifies subscribers' tokens, too")
        sets = {name: one for name, one in self._verifiers.items() if name.endswith("_jwks_url")}
        if sets and len({value for value, _, _ in sets.values()}) > 1:
            for name, (_, _, place) in sets.items():
                self._conversion.left(place, name, _TWO_SETS)
        elif sets:
            name, (value, _, place) = next(iter(sets.items()))
            self._put_key_set(value, place, name)

    def _put_algorithm(self, role: str, algorithm: str, place: str) -> None:
        if algorithm:
            self._conversion.put(f"{role}_jwt_alg", algorithm, place, f"{role}_jwt")

    def _put_key_set(self, value: str, place: str, source: str) -> None:
        if value.startswith("file://"):
            self._conversion.put("jwks_file", value.removeprefix("file://"), place, source)
        elif "@" in value or "?" in value:
            self._conversion.left(place, source, "may hold a secret; write MERCURE_JWKS_URI yourself")
        else:
            self._conversion.put("jwks_uri", value, place, source)

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
            left(directive.place, "issuer", str(error))
            return None
        for one in directive.block:
            if one.name == "authorization_server":
                keys["authorization_server"] = True
            elif one.name in ("publisher", "subscriber"):
                for verifier in one.block:
                    try:
                        self._put_in_table(keys, one.name, verifier)
                    except ValueError as error:
                        left(verifier.place, f"{one.name} {verifier.name}", str(error))
            else:
                left(one.place, f"issuer {one.name}", "is no directive that this command knows")
        # Without roles, the key of one would be taken for the other, too.
        roles = {one.name for one in directive.block if one.name in ("publisher", "subscriber")}
        if len(roles) == 1:
            keys["roles"] = ["publish" if "publisher" in roles else "subscribe"]
        secrets = frozenset({"publisher_key", "subscriber_key"})
        return Issuer(directive.place, keys, secrets)

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
            self._conversion.put(names.get(key, key), text, table.place, f"issuer {key}")


def _with_path(url: str) -> str:
    """An origin, with the path that the hub has."""
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + WELL_KNOWN


def transport_url(conversion: Conversion, value: str, place: str, source: str) -> None:
    """``bolt://mercure.db?size=100&cleanup_frequency=0.4``, the form before ``transport``.

    :raises ValueError: a value in it cannot be used.
    """
    parts = urlsplit(value)
    options = {name: (text, place) for name, text in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.scheme == "bolt":
        options["path"] = (values.bolt_path(value), place)
    _transport(conversion, parts.scheme, options, place, source)


def _transport(
    conversion: Conversion, kind: str, options: Mapping[str, tuple[str, str]], place: str, source: str
) -> None:
    if kind in ("local", "null"):
        conversion.put("history_size", "1", place, source)
        conversion.note(place, source, "this hub always keeps a history; here of one update")
        return
    if kind != "bolt":
        word = kind if kind.isalnum() else "that"
        conversion.left(place, source, f"{word} is another store; see MERCURE_TRANSPORT_URL")
        return
    takers: Mapping[str, Callable[[str], tuple[str, str] | None]] = {
        "path": lambda text: ("transport_url", values.database_beside(text)),
        "size": lambda text: ("history_size", text),
        "write_timeout": lambda text: ("write_timeout", values.seconds(text)),
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
    conversion.note(place, source, "a Bolt file cannot be read here: the hub starts with an empty history")
