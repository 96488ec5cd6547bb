"""For developers: private updates on topics that streams listen to, of which none may read them."""

from __future__ import annotations

import logging

from mercure_hub.protocol.errors import Section, reference, shown
from mercure_hub.protocol.update import Update

_MOST = 1000  # topics

_log = logging.getLogger("mercure_hub.authorization")


class Unread:
    """Says it in the log, once for each topic."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, update: Update, listening: int) -> None:
        """Tell of one.

        :param listening: how many streams there are on its topics.
        """
        topic = update.topics[0]
        if topic in self._told or len(self._told) >= _MOST:
            return
        self._told.add(topic)
        _log.warning(
            "nobody got the private update on %s: %d %s to it, and no token allows it. Give the token of "
            "its readers this topic, or publish it without private. See %s",
            shown(topic),
            listening,
            "stream listens" if listening == 1 else "streams listen",
            reference(Section.SCOPE),
        )
