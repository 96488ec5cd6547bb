"""The file of the log: a copy of it while a hub is at work, and its free space."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import sqlalchemy as sa

from mercure_hub.storage.sqlite.database import reason
from mercure_hub.storage.sqlite.locks import BOUND
from mercure_hub.tools.history.log import HistoryError, Log, Progress

_PAGES = 2000  # of a step of the copy
_RETURNED = 1000  # free pages in one transaction


def backup(log: Log, target: Path, progress: Progress) -> int:
    """Copy the log as it is at one moment, and check the copy.

    The copy reads in one transaction, so that no publication makes it begin anew, and gets its name only
    when it is whole.

    :param target: path of the copy; nothing may be there.
    :param progress: takes how many of a hundred parts are done.
    :returns: its size in octets.
    :raises HistoryError: there is something, no space, or the copy is damaged.
    """
    part = target.with_name(target.name + ".part")
    for path in (target, part):
        if os.path.lexists(path):
            raise HistoryError(f"{str(path)!r} is there already; name another path, or remove it")
    try:
        mode = log.path.stat().st_mode & 0o660 | 0o600  # who is in a group that may read the log
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    except OSError as error:
        raise HistoryError(f"{str(target)!r} cannot be written: {error.strerror}") from None
    try:
        _copy(log, part, progress)
        _give_name(part, target)
    except sqlite3.Error as error:
        raise HistoryError(
            f"{str(log.path)!r} cannot be copied to {str(target)!r}: {reason(error)}"
        ) from None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
    return target.stat().st_size


def _copy(log: Log, part: Path, progress: Progress) -> None:
    def tell(_status: int, remaining: int, total: int) -> None:
        progress(100 * (total - remaining) // max(total, 1))

    with (
        closing(sqlite3.connect(log.path, timeout=5, isolation_level=None)) as source,
        closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(copy, pages=_PAGES, progress=tell)
        source.execute("COMMIT")
        # One file to carry away, without -wal beside it; the hub turns it back when it opens it.
        copy.execute("PRAGMA journal_mode = DELETE")
        found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise HistoryError(
                f"the copy is damaged, and with it probably {str(log.path)!r}: {found}; nothing was kept"
            )


def _give_name(part: Path, target: Path) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())
    try:
        os.link(part, target)  # unlike a renaming, it never replaces what came there meanwhile
    except FileExistsError:
        raise HistoryError(f"{str(target)!r} is there already; name another path") from None
    except OSError:  # a file system without links
        part.rename(target)
    folder = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def vacuum(log: Log) -> tuple[int, int]:
    """Write the file anew without its free pages. Publications wait meanwhile.

    :returns: octets before and after.
    :raises HistoryError: there is not enough space on the disk.
    """
    before = log.path.stat().st_size
    free = shutil.disk_usage(log.path.absolute().parent).free
    if free < 2 * before:
        raise HistoryError(
            f"this needs up to {2 * before} octets beside the database, and {free} are free; history prune "
            "gives back space without"
        )
    with log.seats.turn_within(BOUND), log.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("VACUUM").close()
        _checkpoint(driver)
    return before, log.path.stat().st_size


def return_space(log: Log) -> None:
    """Give free pages back to the file system, some at a time."""
    with log.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        free = _free_pages(driver)
        while free:
            with log.seats.turn_within(BOUND):
                driver.executescript(f"PRAGMA incremental_vacuum({_RETURNED})").close()
            left = _free_pages(driver)
            if left >= free:  # a file that was made without that possibility
                break
            free = left
        _checkpoint(driver)


def _free_pages(driver: sqlite3.Connection) -> int:
    return int(driver.execute("PRAGMA freelist_count").fetchone()[0])


def _checkpoint(driver: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file; where readers are in the way, the hub does it later."""
    with suppress(sqlite3.OperationalError):
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def sizes(connection: sa.Connection, path: Path) -> dict[str, int]:
    """Octets of the file and of its write-ahead log, and of the free pages in the file."""
    page: int = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    free: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    wal = Path(f"{path}-wal")
    return {
        "file": path.stat().st_size,
        "wal": wal.stat().st_size if wal.exists() else 0,
        "free": page * free,
    }
