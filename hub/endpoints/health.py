"""``GET /healthz``: is the hub able to work?"""

from __future__ import annotations

from hub.endpoints.hub import Hub
from hub.protocol import answer
from hub.protocol.answer import Answer

PATH = "/healthz"


def health(hub: Hub) -> Answer:
    """200 when the storage works.

    :raises StorageError: it does not; the answer is 503.
    """
    hub.broker.check()
    return answer.text(200, "ok\n")
