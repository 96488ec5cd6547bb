"""How long updates are kept by topic, as people configure it: ``[[retention]]`` tables of the TOML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mercure_hub.protocol.errors import InvalidRequest, shown
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.storage.interface import Rule

MOST = 100
"""Tables in one file: an update is tried with one after the other."""


class RuleError(Exception):
    """A table cannot be used; the message names the key and says what to do."""


@dataclass(frozen=True, slots=True)
class RuleKey:
    """A key of a ``[[retention]]`` table.

    :param form: what the value looks like.
    :param text: what it does.
    """

    name: str
    form: str
    text: str


_TYPES = {"match": MatcherType.EXACT, "match_urlpattern": MatcherType.URLPATTERN}

RULE_KEYS: tuple[RuleKey, ...] = (
    RuleKey("match", "topic", "Exactly this topic; `*` for all."),
    RuleKey(
        "match_urlpattern",
        "URL Pattern",
        "Or the topics that this pattern selects. A relative one selects topics that are paths, and with "
        "MERCURE_PUBLIC_URL those of its origin.",
    ),
    RuleKey("size", "number", "Updates to keep of all these topics together. Unset: all."),
    RuleKey("size_per_topic", "number", "Updates to keep of each topic; 1 for the last value. Unset: all."),
    RuleKey("max_age", "seconds", "How long to keep an update. Unset: for ever."),
)


def from_table(table: Mapping[str, object]) -> Rule:
    """Read a ``[[retention]]`` table.

    :raises RuleError: it cannot be used.
    """
    known = [one.name for one in RULE_KEYS]
    for name in table:
        if name not in known:
            raise RuleError(f"{name}: there is no such key; known are {', '.join(known)}")
    named = [name for name in _TYPES if name in table]
    if len(named) != 1:
        problem = "both are given; keep one" if named else "neither is given; add one"
        raise RuleError(f"match, match_urlpattern: {problem}")
    value = table[named[0]]
    if not isinstance(value, str) or not value:
        raise RuleError(f"{named[0]}: is {shown(value)}; give a string that is not empty")
    return Rule(
        _TYPES[named[0]].value,
        value,
        _count(table, "size"),
        _count(table, "size_per_topic"),
        _seconds(table, "max_age"),
    )


def check_patterns(rules: Sequence[Rule], base: str) -> None:
    """Check that the patterns of rules are well-formed.

    :param base: URL against which they are resolved.
    :raises RuleError: one is not.
    """
    from mercure_hub.protocol.matching.matcher import make  # noqa: PLC0415 - compiled, and mostly not needed

    for rule in rules:
        try:
            make(MatcherType(rule.type), rule.value, base)
        except InvalidRequest as error:
            raise RuleError(f"{shown(rule.value)}: {error.detail}") from None


def _count(table: Mapping[str, object], name: str) -> int:
    value = table.get(name, 0)
    if type(value) is not int or value < 0 or (name in table and not value):
        raise RuleError(f"{name}: is {shown(value)}; give a whole number of 1 or more, or leave it out")
    return value


def _seconds(table: Mapping[str, object], name: str) -> float:
    value = table.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        value = -1.0
    if value < 0 or (name in table and not value):
        raise RuleError(f"{name}: is {shown(table[name])}; give a number of seconds above 0, or leave it out")
    return float(value)


def described(rule: Rule) -> str:
    """What a rule does, in a line."""
    kept = []
    if rule.size_per_topic == 1:
        kept.append("the last update of each topic")
    elif rule.size_per_topic:
        kept.append(f"the last {rule.size_per_topic} updates of each topic")
    if rule.size:
        kept.append(f"the last {rule.size} updates{' in all' if kept else ''}")
    if rule.max_age:
        kept.append(
            f"none older than {rule.max_age:.15g} s" if kept else f"updates of the last {rule.max_age:.15g} s"
        )
    return f"{rule.type} {shown(rule.value)}: {', '.join(kept) or 'all updates'}"


def reference() -> list[str]:
    """The part of the settings' reference on ``[[retention]]`` tables, as lines of Markdown."""
    lines = [
        "",
        "## Retention by topic",
        "",
        "The TOML file may hold `[[retention]]` tables. An update belongs to the first one that matches one",
        "of its topics, and is kept as that one says. `MERCURE_HISTORY_SIZE` and `MERCURE_HISTORY_MAX_AGE`",
        "count only for updates that none matches. A change needs a restart. More on this is in",
        "[The history](history.md#retention-by-topic).",
        "",
        "```toml",
        "[[retention]]",
        'match_urlpattern = "/answers/:id"',
        "max_age = 3600",
        "",
        "[[retention]]",
        'match_urlpattern = "/orders/*"',
        "max_age = 2592000",
        "",
        "[[retention]]",
        'match_urlpattern = "/gauges/:name"',
        "size_per_topic = 1",
        "```",
        "",
        "| key | |",
        "|---|---|",
    ]
    return [*lines, *(f"| `{one.name}` | {one.text} *{one.form}* |" for one in RULE_KEYS)]
