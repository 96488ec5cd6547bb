"""What the configuration says of updates that cannot be published now, and of the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flask_mercure.configuration import conversion
from flask_mercure.configuration.settings import Source

OnFailure = Literal["raise", "log", "background"]

_POLICIES: tuple[OnFailure, ...] = get_args(OnFailure)


@dataclass(frozen=True, slots=True)
class ReliabilitySettings:
    """What the configuration says.

    :param on_failure: of ``publish``.
    :param queue_size: updates that may wait in the background.
    :param publish_to_outbox: whether ``publish`` writes to the outbox too.
    :param keep: seconds for which delivered updates stay in the outbox.
    :param interval: seconds between two looks of the relay at the table.
    :param relay_thread: whether the processes of the app relay themselves.
    :param outbox: the database of the outbox, or True for the app's own; ``None`` without an outbox.
    """

    on_failure: OnFailure
    queue_size: int
    publish_to_outbox: bool
    keep: float
    interval: float
    relay_thread: bool
    outbox: object


def read(config: Mapping[str, Any], problems: list[str]) -> ReliabilitySettings:
    """Read the configuration of an app.

    :param config: of the app.
    :param problems: gets what is wrong with it, a sentence for each key.
    """
    source = Source(config)
    settings = ReliabilitySettings(
        on_failure=source.take("ON_FAILURE", _policy, _POLICIES[0]),
        queue_size=source.take("BACKGROUND_QUEUE", _count, 1000),
        publish_to_outbox=source.take("OUTBOX_PUBLISH", conversion.boolean, default=False),
        keep=source.take("OUTBOX_KEEP", _duration, 0.0),
        interval=source.take("RELAY_INTERVAL", conversion.seconds, 1.0),
        relay_thread=source.take("RELAY_THREAD", conversion.boolean, default=False),
        outbox=source.take("OUTBOX", _outbox, None),
    )
    problems += source.problems
    if settings.outbox is None and not problems:
        problems += [
            f"{key} is on, and MERCURE_OUTBOX is not set: name the database, such as your db object"
            for key, is_on in (
                ("MERCURE_OUTBOX_PUBLISH", settings.publish_to_outbox),
                ("MERCURE_RELAY_THREAD", settings.relay_thread),
            )
            if is_on
        ]
    return settings


def check_policy(value: object) -> OnFailure:
    """A failure policy.

    :raises ValueError: there is no such policy.
    """
    for policy in _POLICIES:
        if value == policy:
            return policy
    raise ValueError(f"on_failure is {value!r}; use 'raise', 'log' or 'background'")


def _policy(value: object) -> OnFailure:
    try:
        return check_policy(value)
    except ValueError:
        raise ValueError(f"is {value!r}; use 'raise', 'log' or 'background'") from None


def _count(value: object) -> int:
    try:
        number = int(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"is {value!r}; give a whole number of updates, 1 or more")
    return number


def _duration(value: object) -> float:
    """Seconds, 0 included."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    return conversion.seconds(value)


def _outbox(value: object) -> object:
    """What is named, imported; False and ``None`` stand for no outbox."""
    if isinstance(value, str) and ":" not in value:
        value = conversion.boolean(value)
    if value is False:
        return None
    return conversion.imported(value) if isinstance(value, str) else value
