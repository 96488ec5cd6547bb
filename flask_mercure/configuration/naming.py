"""How a setting of a hub is called in messages: where the person who reads them can change it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of the settings of one hub.

    :param hub: its name in ``MERCURE_HUBS``; ``None`` for an app without that key.
    :param own: settings that its entry there has; the others are those of all hubs.
    """

    hub: str | None = None
    own: frozenset[str] = frozenset()

    def __call__(self, key: str) -> str:
        """The name of a setting: ``MERCURE_URL``, or ``MERCURE_HUBS['eu']['URL']``.

        :param key: without the prefix ``MERCURE_``.
        """
        return f"MERCURE_HUBS[{self.hub!r}][{key!r}]" if key in self.own else f"MERCURE_{key}"
