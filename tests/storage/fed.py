"""A machine with a feeder, all of it in this process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mercure_hub.storage.doorbell import Doorbell, bells
from mercure_hub.storage.feed.database import Bounds
from mercure_hub.storage.feed.feeder import Feeder
from mercure_hub.storage.feed.link import FedLink
from mercure_hub.storage.feed.state import FeedState
from mercure_hub.storage.interface import Batch, Link, SharedLink
from tests.storage.log import until

WORKERS = 3


class Machine:
    """A feeder, and what its workers have in common with it.

    :param folder: for the copy.
    :param engine: the feeder's link to it.
    :param bounds: of the copy.
    """

    def __init__(self, folder: Path, engine: Link, bounds: Bounds | None = None) -> None:
        self.state = FeedState(WORKERS)
        self.bells = bells(WORKERS)
        self.path = folder / "copy.db"
        self._bounds = bounds
        self._links = 0
        self.feeder: Feeder | None = None
        self.start(engine)

    def start(self, engine: Link) -> None:
        """Start a feeder."""
        self.feeder = Feeder(engine, self.path, self.state, self.bells, self._bounds)
        self.feeder.look_interval = 0.01
        self.feeder.open()
        self.work()

    def work(self) -> None:
        """Let the feeder work in a thread."""
        assert self.feeder is not None
        self._life, self._end = os.pipe()
        self._thread = threading.Thread(target=self.feeder.run, args=[self._life], name="feeder")
        self._thread.start()

    def stop(self) -> None:
        """End the feeder."""
        if self.feeder is not None:
            self.stop_working()
            self.feeder.close()
            self.feeder = None

    def stop_working(self) -> None:
        """Let the feeder do nothing."""
        os.close(self._end)
        self._thread.join()
        os.close(self._life)

    def link_to(self, engine: SharedLink, number: int | None = None) -> SettledLink:
        """The link of one more worker, not yet open.

        :param engine: its own link to it.
        :param number: by default one of its own.
        """
        number = self._links if number is None else number
        self._links += 1
        return SettledLink(engine, number, self, Doorbell(self.bells[number], ()))

    def close(self) -> None:
        self.stop()
        for bell in self.bells:
            bell.close()


class SettledLink(FedLink):
    """Waits for the copy after all that it changes, and may discard."""

    def __init__(self, engine: SharedLink, number: int, machine: Machine, doorbell: Doorbell) -> None:
        super().__init__(engine, number, machine.path, machine.state, doorbell)
        self._machine = machine
        self.settles = True

    def append(self, batch: Batch) -> int:
        first = super().append(batch)
        if self.settles:
            until(lambda: self._machine.state.last >= first + len(batch.updates) - 1)
        return first

    def is_discard_due(self) -> bool:
        return self._engine.is_discard_due()

    def discard(self) -> None:
        self._engine.discard()
        last = self._engine.position().last
        until(lambda: self.beginning(last) == self._engine.beginning(last))
