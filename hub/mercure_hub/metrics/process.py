"""What the system says of this process."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from mercure_hub.metrics.catalogue import CPU, DESCRIPTORS, MEMORY, MOST_DESCRIPTORS, SEEN, STARTS
from mercure_hub.metrics.tally import Tally

_PAGE = resource.getpagesize()
_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")


class ProcessFigures:
    """Writes the figures of this process.

    :param tally: where to.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._cpu = 0.0
        tally.add(STARTS)

    def write(self, now: float) -> None:
        """Note what is so now; to be called each second.

        :param now: seconds since the epoch.
        :raises OSError: the system does not say it now; what needs no file is noted.
        """
        self._tally.put(SEEN, now)
        cpu = time.process_time()
        self._tally.add(CPU, cpu - self._cpu)
        self._cpu = cpu
        self._tally.put(MEMORY, int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE)
        self._tally.put(MOST_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        # From Linux 6.2 on the directory's size is their number; to list thousands each second is dear.
        self._tally.put(DESCRIPTORS, _DESCRIPTORS.stat().st_size or len(list(_DESCRIPTORS.iterdir())))
