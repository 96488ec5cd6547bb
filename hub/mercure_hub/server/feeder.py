"""The process that reads an engine for all workers of a hub, and the folder that it shares with them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mercure_hub.config.settings import SettingError, Settings
from mercure_hub.metrics.tally import ProcessMetrics, Tally
from mercure_hub.server import logs
from mercure_hub.storage.address import address_of
from mercure_hub.storage.doorbell import Bell
from mercure_hub.storage.engines import link_to
from mercure_hub.storage.feed.database import Bounds
from mercure_hub.storage.feed.feeder import Feeder
from mercure_hub.storage.feed.state import FeedState

PROCESS_NAME = "mercure-feeder"
"""As ``ps`` and ``top`` show it."""

_OWN_NAME = Path("/proc/self/comm")
_PREFIX = "mercure-feed-"
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

_FOLLOWED = 5000  # updates that a copy holds from which no history is read

_log = logging.getLogger("mercure_hub.server")


@dataclass(frozen=True, slots=True)
class Feed:
    """What feeder and workers share; made before they are forked.

    :param folder: for the copy of the newest history.
    :param lock: descriptor that keeps a lock on the folder, as long as one of the processes lives.
    :param state: of the copy.
    :param bells: what wakes the workers.
    :param life: a pipe whose writing end the parent keeps open until the workers have ended.
    """

    folder: Path
    lock: int
    state: FeedState
    bells: Sequence[Bell]
    life: tuple[int, int]

    @classmethod
    def make(cls, bells: Sequence[Bell], environment: Mapping[str, str]) -> Feed:
        """Make a folder that only this user can read, and remove those that others have left.

        :param bells: what wakes the workers, one for each.
        :param environment: names the folder for it: RUNTIME_DIRECTORY, XDG_RUNTIME_DIR, or as for temporary
            files.
        :raises SettingError: it cannot be made.
        """
        parent = _runtime_folder(environment)
        try:
            _remove_left_behind(parent)
            # Under another name until it is locked, or another hub would remove it as left behind.
            folder = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))
        except OSError as error:
            raise SettingError(
                "MERCURE_WORKERS: the workers need a folder for their copy of the history, and "
                f"{str(parent)!r} cannot be used: {error.strerror}; set RUNTIME_DIRECTORY, XDG_RUNTIME_DIR "
                "or TMPDIR"
            ) from None
        return cls(folder, lock, FeedState(len(bells)), bells, os.pipe())

    @property
    def path(self) -> Path:
        """Of the copy."""
        return self.folder / "copy.db"

    def remove(self) -> None:
        """Remove the folder, when no process works any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)
        os.close(self.life[0])


def _runtime_folder(environment: Mapping[str, str]) -> Path:
    of_systemd = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    for name in (of_systemd, environment.get("XDG_RUNTIME_DIR", "")):
        if name and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path(tempfile.gettempdir())


def _remove_left_behind(parent: Path) -> None:
    """Remove folders of hubs that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # others' folders cannot be opened
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def feed_workers(settings: Settings, feed: Feed, tally: Tally, ready: Callable[[], None]) -> None:
    """Follow the engine until the parent is gone, or says that the workers are.

    Signals to stop are for the parent: the workers need this process until they have ended.

    :param tally: counts what happens in this process.
    :param ready: called when the workers can begin.
    :raises StorageError: the engine cannot be opened, or the copy not be written.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError):
        _OWN_NAME.write_text(PROCESS_NAME, encoding="ascii")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_IGNORED, signal.SIGCHLD))
    link = link_to(address_of(settings.transport_url), settings.kept)
    bounds = Bounds(updates=_FOLLOWED) if settings.retention else None
    feeder = Feeder(link, feed.path, feed.state, feed.bells, bounds)
    metrics = ProcessMetrics(tally)
    feeder.each_second = lambda: _sample(metrics)
    feeder.open()
    try:
        with _reloading(feeder):
            ready()
            feeder.run(feed.life[0])
    finally:
        feeder.close()
        if os.getppid() != parent:  # nobody else removes it
            feed.remove()


@contextlib.contextmanager
def _reloading(feeder: Feeder) -> Iterator[None]:
    """Act on SIGHUP."""

    def reload(*_: object) -> None:
        logs.reopen()
        feeder.forget()

    signal.signal(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))


def _sample(metrics: ProcessMetrics) -> None:
    with contextlib.suppress(OSError):  # no descriptor is left
        metrics.write(time.time())
