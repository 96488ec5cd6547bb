"""The hubs of one app, in ``app.extensions["mercure"]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from flask import Flask

from flask_mercure.client.publisher import Publisher
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import ConfigurationError

KEY = "mercure"
"""Of the state in ``app.extensions``."""

_Kept = TypeVar("_Kept")


@dataclass(slots=True)
class Readers:
    """Whether somebody can read the private updates that this process publishes on a hub.

    :param are_private: a private update was published.
    :param are_let_in: a client got a token.
    :param is_told: the developer was warned that nobody can read there.
    """

    are_private: bool = False
    are_let_in: bool = False
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class HubState:
    """One hub of one app, or of a client without an app.

    :param name: of the hub, in the app's configuration.
    :param configuration: how to reach it and what it accepts.
    :param publisher: sends updates to it.
    :param readers: of private updates.
    """

    name: str
    configuration: Configuration
    publisher: Publisher
    readers: Readers = field(default_factory=Readers)


@dataclass(frozen=True, slots=True)
class MercureState:
    """The hubs of an app.

    :param hubs: by name, in the order of the configuration.
    :param default: name of the default hub.
    :param has_grants: whether ``subscribe_grants`` is used for the hub of a name.
    """

    hubs: Mapping[str, HubState]
    default: str
    has_grants: Callable[[str], bool]

    def hub(self, name: str | None = None) -> HubState:
        """The hub of a name.

        :param name: of the hub; ``None`` for the default one.
        :raises ConfigurationError: the app has no hub of that name.
        """
        try:
            return self.hubs[self.default if name is None else name]
        except KeyError:
            known = ", ".join(map(repr, self.hubs))
            raise ConfigurationError(
                f"there is no hub named {name!r}; MERCURE_HUBS of this app has {known}"
            ) from None

    @property
    def configuration(self) -> Configuration:
        """The one of the default hub."""
        return self.hub().configuration

    @property
    def publisher(self) -> Publisher:
        """The one of the default hub."""
        return self.hub().publisher


def state_of(app: Flask) -> MercureState:
    """The state of an app.

    :raises ConfigurationError: ``init_app`` was not called for it.
    """
    return kept(app, KEY, MercureState)


def kept(app: Flask, key: str, kind: type[_Kept]) -> _Kept:
    """An object that ``init_app`` has put into ``app.extensions``.

    :param key: of the object.
    :param kind: class of the object.
    :raises ConfigurationError: ``init_app`` was not called for the app.
    """
    value = app.extensions.get(key)
    if not isinstance(value, kind):
        raise ConfigurationError(
            f"the app {app.name!r} has no Mercure: call Mercure(app) or mercure.init_app(app)"
        )
    return value
