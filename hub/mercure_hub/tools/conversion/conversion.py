"""What was made of another hub's configuration: our settings, and every line that became none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mercure_hub.config.settings import ROWS
from mercure_hub.key_files import load_key
from mercure_hub.protocol.errors import KeyMaterialError

_NAME = re.compile(r"[A-Za-z{$][A-Za-z0-9_.$}-]{0,40}( [a-z_]{1,40})?")
_KEYS = ("publisher_jwt_key", "subscriber_jwt_key")


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on a line.

    :param location: file and line.
    :param name: directive or variable.
    :param text: what became of it; never a secret.
    :param is_left: nothing was made of it, and somebody has to look.
    """

    location: str
    name: str
    text: str
    is_left: bool

    def __str__(self) -> str:
        return f"{self.location}: {self.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An ``[[issuer]]`` table.

    :param keys: values by the names in the table.
    :param secrets: names of those that are secret.
    """

    location: str
    keys: dict[str, str | bool | list[str]]
    secrets: frozenset[str]


@dataclass
class Conversion:
    """Settings and remarks, as they are found."""

    settings: dict[str, tuple[str, str]] = field(default_factory=dict)
    issuers: list[Issuer] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    """That Caddy listens on, by scheme, where they are not the usual ones."""
    addresses: list[tuple[str, str, str]] = field(default_factory=list)
    """Of sites, each with its location and source; what else says the public URL counts before them."""

    def put(self, name: str, value: str, location: str, source: str) -> None:
        """Take a setting over, if the hub takes its value.

        :param name: ours.
        :param source: name of the directive or variable.
        """
        row = ROWS.get(name)
        if row is None:
            self.left(location, source, "this version of the hub has nothing like it")
            return
        try:
            row.read(value)
        except ValueError as error:
            shown = "its value" if row.is_secret else repr(value)
            self.left(location, source, f"{shown} {error}")
            return
        before = self.settings.get(name)
        if before is not None and before[0] != value:
            self.left(location, source, f"stands at {before[1]} with another value; that one was taken")
            return
        self.settings.setdefault(name, (value, location))

    def note(self, location: str, name: str, text: str) -> None:
        """Something is different here, or not needed."""
        self.notes.append(Note(location, _shown(name), text, is_left=False))

    def left(self, location: str, name: str, text: str) -> None:
        """Nothing was made of it."""
        self.notes.append(Note(location, _shown(name), text, is_left=True))

    def check_keys(self) -> None:
        """Have the hub look at the keys, which it does when it starts."""
        for name in _KEYS:
            if name in self.settings:
                value, location = self.settings[name]
                algorithm = self.settings.get(name.replace("_key", "_alg"), ("", ""))[0]
                try:
                    load_key(value, algorithm)
                except KeyMaterialError as error:
                    self.left(location, ROWS[name].variable, f"the hub will refuse this key: {error}")

    @property
    def is_complete(self) -> bool:
        """Whether every line became a setting or needs none."""
        return not any(note.is_left for note in self.notes)


def _shown(name: str) -> str:
    """A name; other text may be part of a secret."""
    return name if _NAME.fullmatch(name) else "a line"


def environment(conversion: Conversion, *, with_secrets: bool) -> str:
    """The settings as a file that systemd and a shell read.

    :param with_secrets: keys stand in it; else a line says where each is.
    """
    lines = []
    for name, (value, location) in _sorted(conversion):
        variable = ROWS[name].variable
        if ROWS[name].is_secret and not with_secrets:
            lines.append(f"# {variable}: a secret, at {location}; --secrets prints it")
        else:
            lines.append(f"{variable}={_quoted(value)}")
    for issuer in conversion.issuers:
        lines.append(f"# {issuer.keys['identifier']}: an issuer, {issuer.location}; --toml prints it")
    return "".join(line + "\n" for line in lines)


def toml(conversion: Conversion, *, with_secrets: bool) -> str:
    """The settings as the file that ``--config`` names."""
    lines = []
    for name, (value, location) in _sorted(conversion):
        if ROWS[name].is_secret and not with_secrets:
            lines.append(f"# {name}: a secret, at {location}; --secrets prints it")
        else:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    for issuer in conversion.issuers:
        lines += ["", "[[issuer]]"]
        for key, content in issuer.keys.items():
            if key in issuer.secrets and not with_secrets:
                lines.append(f"# {key}: a secret, at {issuer.location}; --secrets prints it")
            else:
                lines.append(f"{key} = {json.dumps(content, ensure_ascii=False)}")
    return "".join(line + "\n" for line in lines)


def _sorted(conversion: Conversion) -> Iterator[tuple[str, tuple[str, str]]]:
    """In the order of the reference."""
    for name in ROWS:
        if name in conversion.settings:
            yield name, conversion.settings[name]


def _quoted(value: str) -> str:
    """On one line; with quotes where a shell would split or change it. The hub reads ``\\n`` in PEM text."""
    line = value.strip("\n").replace("\n", "\\n") if "-----BEGIN" in value else value
    if not line or all(char.isalnum() or char in "-_./:@*,+=" for char in line):
        return line
    if "'" not in line:
        return f"'{line}'"
    return '"' + "".join("\\" + char if char in '"\\$`' else char for char in line) + '"'
