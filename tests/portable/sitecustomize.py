"""Takes from a Python on Linux what other systems do not have.

With this folder on ``PYTHONPATH`` each interpreter does that before anything else is imported, those of the
hubs that tests start too. See ``make test PORTABLE=yes``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import selectors
import signal
import socket
import sys
import termios
import time
from types import ModuleType

TAKEN: dict[ModuleType, str] = {
    select: r"epoll|POLLRDHUP",
    os: r"eventfd.*|EFD_.*|memfd_create|MFD_.*|pipe2|fdatasync|sched_[gs]et.*|splice|setns"
    r"|O_TMPFILE",
    socket: r"TCP_DEFER_ACCEPT|TCP_USER_TIMEOUT|TCP_KEEPIDLE|TCP_NOTSENT_LOWAT|SOCK_CLOEXEC|SOCK_NONBLOCK"
    r"|SO_PEERCRED|SO_INCOMING_CPU|MSG_NOSIGNAL",
    signal: r"sigtimedwait|sigwaitinfo",
    fcntl: r"F_OFD_.*|F_.*PIPE_SZ|F_NOTIFY",
    time: r"CLOCK_BOOTTIME",
    termios: r"TIOCOUTQ|TIOCINQ",
}
"""Names by the modules that have them on Linux."""

_OURS = ("mercure_hub.", "flask_mercure.")
_NEAR = 8  # frames between a call of ours and the open() in it


def _is_ours() -> bool:
    """Whether a module of the project made the call that is audited."""
    frame = sys._getframe(2)
    for _ in range(_NEAR):
        if str(frame.f_globals.get("__name__", "")).startswith(_OURS):
            return True
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Let our modules find neither /proc nor the C library's system calls."""
    if event in ("open", "os.listdir", "os.scandir"):
        path = arguments[0]
        if isinstance(path, str) and path.startswith("/proc") and _is_ours():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    elif event == "ctypes.dlopen" and arguments[0] is None and _is_ours():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _take() -> None:
    for module, names in TAKEN.items():
        for name in [one for one in vars(module) if re.fullmatch(names, one)]:
            delattr(module, name)
            with contextlib.suppress(AttributeError, ValueError):
                module.__all__.remove(name)
    del vars(selectors)["EpollSelector"]
    vars(selectors)["DefaultSelector"] = selectors.PollSelector
    sys.addaudithook(_refuse)


_take()
