"""Names that begin like a setting and are none: a misspelt one would pass unnoticed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from flask_mercure.configuration.settings import KEYS

PREFIX = "MERCURE_"

OF_THE_APP = frozenset(
    {
        *(PREFIX + key for key in KEYS),
        *("MERCURE_HUBS", "MERCURE_DEFAULT_HUB", "MERCURE_ON_FAILURE", "MERCURE_BACKGROUND_QUEUE"),
        *("MERCURE_OUTBOX", "MERCURE_OUTBOX_PUBLISH", "MERCURE_OUTBOX_KEEP"),
        *("MERCURE_RELAY_THREAD", "MERCURE_RELAY_INTERVAL", "MERCURE_STATIC_PATH"),
    }
)
"""What an app can be configured with."""

OF_HUBS = frozenset(
    {
        *("MERCURE_ACCESS_LOG", "MERCURE_ALLOWED_URLS", "MERCURE_ANONYMOUS", "MERCURE_AUTHORIZATION_SERVER"),
        *("MERCURE_COMPRESSION", "MERCURE_COMPRESSION_MIN_SIZE", "MERCURE_CONFIG", "MERCURE_CORS_ORIGINS"),
        *("MERCURE_DEBUGGER", "MERCURE_DISPATCH_TIMEOUT", "MERCURE_DRAIN", "MERCURE_HEARTBEAT"),
        *("MERCURE_HISTORY_MAX_AGE", "MERCURE_HISTORY_SIZE", "MERCURE_IO_URING"),
        *("MERCURE_JWKS_ALLOW_PRIVATE", "MERCURE_JWKS_FILE", "MERCURE_JWKS_URI", "MERCURE_LISTEN"),
        *("MERCURE_LOG_FILE", "MERCURE_LOG_FORMAT", "MERCURE_LOG_KEEP", "MERCURE_LOG_LEVEL"),
        *("MERCURE_LOG_ROTATE", "MERCURE_MAX_CONNECTIONS", "MERCURE_MAX_CONNECTIONS_PER_ADDRESS"),
        *("MERCURE_MAX_CONNECTIONS_PER_TOKEN", "MERCURE_MAX_HEAVY_PATTERNS"),
        *("MERCURE_MAX_REQUEST_BODY_SIZE", "MERCURE_METRICS", "MERCURE_METRICS_LISTEN"),
        *("MERCURE_PLAYGROUND", "MERCURE_PUBLISHER_JWT_KEY_FALLBACK", "MERCURE_PUBLISH_ORIGINS"),
        *("MERCURE_SUBSCRIBER_JWT_KEY_FALLBACK", "MERCURE_SUBSCRIPTIONS", "MERCURE_TLS_CERT"),
        *("MERCURE_TLS_KEY", "MERCURE_TRANSPORT_URL", "MERCURE_TRUSTED_PROXIES", "MERCURE_WEBSOCKET"),
        *("MERCURE_WORKERS", "MERCURE_WRITE_TIMEOUT"),
        # of the reference hub and of Symfony's bundle
        *("MERCURE_EXTRA_DIRECTIVES", "MERCURE_LICENSE", "MERCURE_JWT_TOKEN", "MERCURE_PUBLISH_URL"),
    }
)
"""What hubs are configured with, and an app often has in the same environment."""

_NAME = re.compile(r"MERCURE_[A-Z0-9_]+")


def unknown_names(config: Iterable[object], environment: Iterable[str]) -> Iterator[str]:
    """A warning for each name that is no setting.

    :param config: names in the app's configuration.
    :param environment: names of the process's variables. Of these only such are named as nearly are settings:
        an orchestrator makes some too, such as ``MERCURE_SERVICE_HOST`` for a service with the name mercure.
    """
    in_config = {name for name in config if isinstance(name, str)}
    for name in sorted(in_config | set(environment)):
        if not _NAME.fullmatch(name) or name in OF_THE_APP or name in OF_HUBS:
            continue
        near = get_close_matches(name, sorted(OF_THE_APP), 1, 0.85)
        if near or name in in_config:
            where = "the app's configuration" if name in in_config else "the environment"
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{name} in {where} is no setting of flask-mercure{hint}"
