"""An upgrade without a gap: a new hub takes the sockets over, the old one ends its streams by and by.

The new one is the same command, started anew, so it is whatever has been installed meanwhile. Both are at
work on one log for a moment; no connection is refused, and who is sent away from the old hub comes back to
the new one with its cursor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, MutableMapping, Sequence

from mercure_hub.config.settings import SettingError
from mercure_hub.server.sockets import HANDED_OVER, SUCCESSION

_READY = b"ready"


class Successor:
    """A hub that is to take over.

    :param sockets: descriptors of the listening sockets.
    :raises OSError: it cannot be started.
    """

    def __init__(self, sockets: Sequence[int]) -> None:
        self.listens, tells = os.pipe()
        environment = {
            **os.environ,
            HANDED_OVER: ",".join(map(str, sockets)),
            SUCCESSION: str(tells),
        }
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, *sys.orig_argv[1:]], env=environment, pass_fds=(*sockets, tells)
            )
        except OSError:
            os.close(self.listens)
            raise
        finally:
            os.close(tells)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    def is_ready(self, wait: Callable[[int], bool]) -> bool:
        """Whether it serves; when it does not, it is ended.

        :param wait: waits until a descriptor is readable, false when that takes too long.
        """
        try:
            serves = wait(self.listens) and os.read(self.listens, 16) == _READY
        finally:
            os.close(self.listens)
        if serves:
            self._child.returncode = 0  # it outlives this process, and nobody here waits for it
        else:
            self._child.kill()
            self._child.wait()
        return serves

    def abandon(self) -> None:
        """End it, for the hub that it should follow is told to stop before it serves."""
        self._child.terminate()


def tell_predecessor(environment: MutableMapping[str, str]) -> None:
    """Tell the hub whose sockets were taken over that this one serves now, if there is one.

    :raises SettingError: it was stopped meanwhile, and so this one is not wanted.
    """
    descriptor = int(environment.pop(SUCCESSION, "") or -1)
    if descriptor < 0:
        return
    try:
        os.write(descriptor, _READY)
    except BrokenPipeError:
        raise SettingError("the hub that this one should take over from has stopped; start it anew") from None
    finally:
        os.close(descriptor)
