"""Makes the link to the engine that a URL names; each engine's driver is imported only where it is used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from importlib import import_module

from mercure_hub import INSTALL
from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.address import Address, EngineKind
from mercure_hub.storage.doorbell import Doorbell
from mercure_hub.storage.interface import Link, Retention, SharedLink
from mercure_hub.storage.sqlite.link import SqliteLink


def link_to(
    address: Address,
    kept: Retention,
    doorbell: Doorbell | None = None,
    *,
    offset: float | None = None,
) -> Link:
    """A link to an engine, not yet open.

    :param kept: how much history to keep.
    :param doorbell: of the processes of this machine that share a file of SQLite.
    :param offset: see ``SqliteLink``.
    :raises StorageUnusable: the driver of the engine is not installed.
    """
    if address.is_shared:
        return shared_link_to(address, kept)
    return SqliteLink(address.url, kept, time.time, doorbell, offset=offset)


def shared_link_to(address: Address, kept: Retention, *, follows: bool = True) -> SharedLink:
    """A link to an engine that several machines share, not yet open.

    :param kept: how much history to keep.
    :param follows: whether its ``wait`` will be called.
    :raises StorageUnusable: the driver of the engine is not installed.
    """
    if address.kind is EngineKind.POSTGRESQL:
        with driver(address):
            from mercure_hub.storage.postgresql.link import PostgresqlLink  # noqa: PLC0415 - needs psycopg
        return PostgresqlLink(address, kept, follows=follows)
    with driver(address):
        from mercure_hub.storage.redis.link import RedisLink  # noqa: PLC0415 - needs redis
    return RedisLink(address, kept)


def load_driver(address: Address) -> None:
    """Import what a link needs: before processes are forked, so that they share its memory.

    :raises StorageUnusable: it is not installed.
    """
    if address.is_shared:
        with driver(address):
            import_module(f"mercure_hub.storage.{address.extra}.link")


@contextlib.contextmanager
def driver(address: Address) -> Iterator[None]:
    """Import what needs the driver of an engine.

    :raises StorageUnusable: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        how = INSTALL.format(f"hub,{address.extra}")
        raise StorageUnusable(
            f"{address.shown} cannot be used: {error.name} is not installed; {how}"
        ) from None
