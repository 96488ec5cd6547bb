"""Opens the history that a URL names; each engine's driver is imported only where it is used."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mercure_hub.storage.address import EngineKind, address_of
from mercure_hub.storage.engines import driver
from mercure_hub.tools.history import sqlite
from mercure_hub.tools.history.history import History


def opened(url: str, *, is_made: bool = False) -> AbstractContextManager[History]:
    """Open a history for one command.

    :param url: as in MERCURE_TRANSPORT_URL, and known to be one.
    :param is_made: make what is missing, and bring it up to date.
    :raises HistoryError: there is none, or it is something else.
    :raises StorageError: it cannot be read or written.
    """
    address = address_of(url)
    match address.kind:
        case EngineKind.SQLITE:
            return sqlite.opened(url, is_made=is_made)
        case EngineKind.POSTGRESQL:
            with driver(address):
                from mercure_hub.tools.history import postgresql  # noqa: PLC0415 - needs psycopg
            return postgresql.opened(address, is_made=is_made)
        case EngineKind.REDIS:
            with driver(address):
                from mercure_hub.tools.history import redis  # noqa: PLC0415 - needs redis
            return redis.opened(address, is_made=is_made)
