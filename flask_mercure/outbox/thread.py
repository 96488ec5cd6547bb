"""A relay in each process of the app, for those who want no other process to look after."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable

from flask import Flask

from flask_mercure.outbox.relay import Relay
from flask_mercure.publishing.background import AtExit, PerProcess

_ENDING = 5.0
_PAUSE = 5.0

_log = logging.getLogger("flask_mercure.relay")


class RelayThread:
    """A daemon thread that begins when it is first needed, in each process that is forked anew.

    :param app: whose outbox it relays.
    :param relay_for: makes the relay, in the context of the app.
    """

    def __init__(self, app: Flask, relay_for: Callable[[Flask], Relay]) -> None:
        self._runs = PerProcess(lambda: _Run(app, relay_for))
        _threads.add(self)

    def ensure(self) -> None:
        """Have the thread running."""
        _at_exit.register()
        self._runs.get().ensure()

    def wake(self) -> None:
        """Have the thread look at the outbox now."""
        self.ensure()
        self._runs.get().wake()

    def stop(self, timeout: float = _ENDING) -> None:
        """End the thread after the update that is under way; what waits stays in the outbox.

        :param timeout: seconds to wait for it.
        """
        run = self._runs.existing()
        if run is not None:
            run.stop(timeout)


class _Run:
    """The thread of one process."""

    def __init__(self, app: Flask, relay_for: Callable[[Flask], Relay]) -> None:
        self._app = app
        self._relay_for = relay_for
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._relay: Relay | None = None
        self._ending = threading.Event()

    def ensure(self) -> None:
        if self._thread is None and not self._ending.is_set():
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="mercure relay", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:  # at the limit of the system, or the interpreter ends
                        _log.warning("the relay has no thread, and updates wait in the outbox: %s", error)
                        return
                    self._thread = thread

    def wake(self) -> None:
        relay = self._relay
        if relay is not None:
            relay.wake()

    def stop(self, timeout: float) -> None:
        self._ending.set()
        relay, thread = self._relay, self._thread
        if relay is not None:
            relay.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with self._app.app_context(), contextlib.closing(self._relay_for(self._app)) as relay:
                    self._relay = relay
                    if not self._ending.is_set():
                        relay.run()
            except Exception:
                _log.exception("the relay ended; it begins again in %.0f s", _PAUSE)
                self._ending.wait(_PAUSE)


_threads: weakref.WeakSet[RelayThread] = weakref.WeakSet()


def _end() -> None:
    until = time.monotonic() + _ENDING
    for thread in list(_threads):
        thread.stop(max(0.0, until - time.monotonic()))


_at_exit = AtExit(_end)
