"""The hubs of an app: ``MERCURE_HUBS``, or the one hub of the other keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import combinations
from typing import Any

from flask_mercure.configuration.settings import KEYS, Configuration, read
from flask_mercure.errors import ConfigurationError

DEFAULT_NAME = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_hubs(config: Mapping[str, Any]) -> tuple[dict[str, Configuration], str]:
    """Read the settings of all hubs.

    :param config: the configuration of a Flask app.
    :returns: the settings by the names of the hubs, in their order, and the name of the default hub.
    :raises ConfigurationError: with all problems of all hubs at once.
    """
    entries = config.get("MERCURE_HUBS")
    asked = config.get("MERCURE_DEFAULT_HUB") or None
    if entries is None:
        if asked is not None:
            raise ConfigurationError(
                f"MERCURE_DEFAULT_HUB is {asked!r}, and MERCURE_HUBS is not set: the one hub has no name"
            )
        return {DEFAULT_NAME: read(config)}, DEFAULT_NAME
    if not isinstance(entries, Mapping) or not entries:
        what = f"a {type(entries).__name__}" if not isinstance(entries, Mapping) else "empty"
        raise ConfigurationError(
            f"MERCURE_HUBS is {what}; give a mapping of names to settings, such as "
            "{'default': {'URL': 'http://127.0.0.1:3000/.well-known/mercure'}}"
        )
    problems: list[str] = []
    hubs: dict[str, Configuration] = {}
    for name, own in entries.items():
        wrong = _wrong_entry(name, own)
        problems += wrong
        if not wrong:
            try:
                hubs[name] = read(config, name, own)
            except ConfigurationError as error:
                problems += error.problems
    default = _default(asked, entries, problems)
    if not problems:
        problems += _collisions(hubs)
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))  # that of a shared setting, once
    return hubs, default


def _wrong_entry(name: object, own: object) -> Iterable[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return [
            f"MERCURE_HUBS has a hub named {name!r}; a name has letters, digits, '.', '_' and '-', 64 at most"
        ]
    if not isinstance(own, Mapping):
        return [
            f"MERCURE_HUBS[{name!r}] is a {type(own).__name__}; give a mapping of settings, such as "
            "{'URL': 'http://127.0.0.1:3000/.well-known/mercure'}"
        ]
    return [
        f"MERCURE_HUBS[{name!r}] has {key!r}, which is not known{_hint(key)}"
        for key in own
        if not isinstance(key, str) or key not in KEYS
    ]


def _hint(key: object) -> str:
    close = get_close_matches(str(key).upper().removeprefix("MERCURE_"), sorted(KEYS), 1)
    return f"; do you mean {close[0]!r}?" if close else f": it can have {', '.join(sorted(KEYS))}"


def _default(asked: object, entries: Mapping[str, Any], problems: list[str]) -> str:
    """The hub that is asked for, or that named ``default``, or the only one."""
    names = ", ".join(map(repr, entries))
    if asked is not None:
        if isinstance(asked, str) and asked in entries:
            return asked
        problems.append(f"MERCURE_DEFAULT_HUB is {asked!r}, which MERCURE_HUBS does not have; it has {names}")
    elif DEFAULT_NAME in entries or len(entries) == 1:
        return DEFAULT_NAME if DEFAULT_NAME in entries else next(iter(entries))
    else:
        problems.append(
            f"MERCURE_HUBS has {names}, none named 'default': set MERCURE_DEFAULT_HUB to the one that is "
            "meant when none is named"
        )
    return DEFAULT_NAME


def _collisions(hubs: Mapping[str, Configuration]) -> Iterable[str]:
    """Hubs whose cookies a browser would keep as one, so that the later takes the earlier one's place."""
    for (one, first), (other, second) in combinations(hubs.items(), 2):
        if first.gives_tokens and second.gives_tokens and first.cookie.collides_with(second.cookie):
            yield (
                f"the hubs {one!r} and {other!r} have the same cookie, {first.cookie.name!r} for the path "
                f"{first.cookie.path!r} of {first.cookie.host!r} and {second.cookie.host!r} (ports make no "
                "difference): a browser would keep one of them. Give one hub another COOKIE_NAME, in the hub "
                "too"
            )
