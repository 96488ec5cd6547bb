"""Notices that a file was removed or replaced while it is open: what is written to it would be lost."""

from __future__ import annotations

import os
from pathlib import Path

from hub.protocol.errors import StorageError


class StillThere:
    """A file, as it was when it was opened.

    :param path: of the file. What is no file, such as a database in memory, is never missed.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path or ""
        self._before = _identity(self._path)

    def check(self) -> None:
        """Look for it, which takes some microseconds.

        :raises StorageError: another one has its name, or none.
        """
        if self._before is not None and _identity(self._path) != self._before:
            raise StorageError(
                f"{str(Path(self._path).absolute())!r} was removed or replaced while the hub was running; "
                "restart the hub"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once for each transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino
