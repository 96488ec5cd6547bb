"""Environment variables that look like settings and are none: a misspelt one would pass unnoticed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from mercure_hub.config.table import CONFIG, PREFIX, TABLE

OF_THE_EXTENSION = frozenset(
    {
        *("MERCURE_BACKGROUND_QUEUE", "MERCURE_CONNECT_TIMEOUT", "MERCURE_COOKIE_DOMAIN"),
        *("MERCURE_COOKIE_PARTITIONED", "MERCURE_COOKIE_PATH", "MERCURE_COOKIE_SAMESITE"),
        *("MERCURE_COOKIE_SECURE", "MERCURE_DEFAULT_HUB", "MERCURE_HUBS", "MERCURE_JWT"),
        *("MERCURE_JWT_ALGORITHM", "MERCURE_JWT_KEY_ID", "MERCURE_JWT_PASSPHRASE", "MERCURE_JWT_SECRET"),
        *("MERCURE_ON_FAILURE", "MERCURE_OUTBOX", "MERCURE_OUTBOX_KEEP", "MERCURE_OUTBOX_PUBLISH"),
        *("MERCURE_PUBLISH_TOPICS", "MERCURE_RELAY_INTERVAL", "MERCURE_RELAY_THREAD"),
        *("MERCURE_STATIC_PATH", "MERCURE_TIMEOUT", "MERCURE_TOKEN_FACTORY", "MERCURE_TOKEN_LIFETIME"),
        *("MERCURE_TOKEN_PROVIDER", "MERCURE_URL", "MERCURE_VERIFY_TLS"),
    }
)
"""What a Flask application reads, and often has in the same environment."""

_OF_HANDOVER = frozenset({"MERCURE_HUB_SOCKETS", "MERCURE_HUB_READY"})
_SETTINGS = (CONFIG.variable, *(setting.variable for setting in TABLE))


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A warning for each variable that begins like a setting and is none.

    :param names: of the variables in the environment; their values may be secrets.
    """
    known = {*_SETTINGS, *OF_THE_EXTENSION, *_OF_HANDOVER}
    return [_warning(name) for name in sorted(names) if name.startswith(PREFIX) and name not in known]


def _warning(name: str) -> str:
    near = get_close_matches(name, _SETTINGS, 1, 0.8)
    hint = f"; did you mean {near[0]}?" if near else ", see mercure-hub --help"
    return f"{name} in the environment is no setting of the hub{hint}"
