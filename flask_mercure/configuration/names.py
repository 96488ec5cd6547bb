"""Names that begin like a setting and are none: a misspelt one would pass unnoticed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from flask_mercure.configuration.settings import KEYS
from mercure_hub.config.settings import VARIABLES

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

_OF_OTHERS = ("MERCURE_EXTRA_DIRECTIVES", "MERCURE_LICENSE", "MERCURE_JWT_TOKEN", "MERCURE_PUBLISH_URL")
OF_HUBS = frozenset((*VARIABLES, *_OF_OTHERS))
"""Of our hub, of the reference hub and of Symfony's bundle; an app often shares their environment."""

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
            yield f"{name} in {where} is not a setting of flask-mercure{hint}"
