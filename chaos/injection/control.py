"""Switches faults on and off, for all processes at once that run with the library."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos.injection.faults import Action, Call, Fault, File
from chaos.injection.layout import FOLDER, MAGIC, SLOTS, VARIABLE, Control

_SIZE = ctypes.sizeof(Control)
_CERTAIN = 1 << 32
_FULL = Call.OPEN | Call.WRITE | Call.TRUNCATE


class Active:
    """A fault that is switched on; as a context manager it is switched off at the end of the block."""

    def __init__(self, fault: Fault, slot: Any, end: Callable[[Active], None]) -> None:
        self.fault = fault
        self._slot = slot
        self._end = end
        self._hits = 0

    @property
    def hits(self) -> int:
        """How often it took place."""
        return self._hits if self._slot is None else int(self._slot.hits)

    @property
    def is_on(self) -> bool:
        """Whether it has not been switched off; one that is used up by its count is still on."""
        return self._slot is not None

    def end(self) -> None:
        """Switch it off; a call that it delays goes on at once."""
        if self._slot is not None:
            slot = self._slot
            slot.version += 1
            slot.action = int(Action.NONE)
            slot.version += 1
            self._end(self)
            self._hits = int(slot.hits)
            self._slot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Injection:
    """The faults of the processes that run with one control file.

    It is for one thread. Several faults may be on: a call is late by all of them together, and fails by one.

    :param library: path that ``build`` returns.
    :param control_path: of the file to make; nothing may be there.
    :param folder: of the store, which exists. Files elsewhere are never touched.
    :param seed: decides, with the number of a call in its process, what happens with a probability.
    :raises ValueError: the folder cannot be used.
    :raises OSError: the file cannot be made.
    """

    def __init__(self, library: Path, control_path: Path, folder: Path, seed: int = 1) -> None:
        self._library = library.resolve(strict=True)
        self._path = control_path.absolute()
        place = os.fsencode(folder.resolve(strict=True))
        if place == b"/" or len(place) >= FOLDER:
            raise ValueError(f"{str(folder)!r} cannot be the folder of a store")
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = mmap.PAGESIZE * -(-_SIZE // mmap.PAGESIZE)
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._control: Any = Control.from_buffer(self._memory)
        self._control.size = _SIZE
        self._control.seed = seed % (1 << 64)
        self._control.folder_length = len(place)
        self._control.folder = place
        self._control.magic = MAGIC
        self._on: list[Active] = []
        self._next = 0

    def environment(self) -> dict[str, str]:
        """The variables for a process and its successors, beside those that it needs anyway."""
        return {"LD_PRELOAD": str(self._library), VARIABLE: str(self._path)}

    def start(self, fault: Fault) -> Active:
        """Switch a fault on.

        :raises RuntimeError: too many are on.
        """
        if len(self._on) == SLOTS:
            raise RuntimeError(f"{SLOTS} faults are on, which is all that can be")
        slots = self._control.slots
        # In turn, so that a process that still looks at what ended does not see what came instead.
        while slots[self._next].action != Action.NONE:
            self._next = (self._next + 1) % SLOTS
        slot = slots[self._next]
        self._next = (self._next + 1) % SLOTS
        slot.version += 1
        slot.calls = int(fault.calls)
        slot.files = int(fault.files)
        slot.error = fault.error
        slot.nanoseconds = round(fault.seconds * 1e9)
        slot.threshold = round(fault.probability * _CERTAIN)
        slot.remaining = fault.count or -1
        slot.pid = fault.pid
        slot.hits = 0
        slot.action = int(fault.action)
        slot.version += 1
        active = Active(fault, slot, self._ended)
        self._on.append(active)
        self._arm()
        return active

    def fail(
        self,
        call: Call,
        error: int,
        *,
        files: File = File.ANY,
        probability: float = 1.0,
        count: int = 0,
        pid: int = 0,
    ) -> Active:
        """Have calls fail.

        :param call: one or several.
        :param error: of ``errno``.
        :param files: of which files.
        :param probability: from 0 to 1.
        :param count: calls that fail at most; 0 for no limit.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.FAIL, call, files, error, 0.0, probability, count, pid))

    def slow(
        self,
        call: Call,
        seconds: float,
        *,
        files: File = File.ANY,
        probability: float = 1.0,
        count: int = 0,
        pid: int = 0,
    ) -> Active:
        """Have calls done later.

        :param call: one or several.
        :param seconds: by which they are late; a long time is a device that hangs until ``end``.
        :param files: of which files.
        :param probability: from 0 to 1.
        :param count: calls that are late at most; 0 for no limit.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.SLOW, call, files, 0, seconds, probability, count, pid))

    def short(
        self,
        call: Call,
        *,
        files: File = File.ANY,
        probability: float = 1.0,
        count: int = 0,
        pid: int = 0,
    ) -> Active:
        """Have half of the bytes read or written.

        :param call: ``READ``, ``WRITE`` or both; those of one byte are done whole.
        :param files: of which files.
        :param probability: from 0 to 1.
        :param count: calls that are short at most; 0 for no limit.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.SHORT, call, files, 0, 0.0, probability, count, pid))

    def disk_full(self, *, files: File = File.ANY, pid: int = 0) -> Active:
        """Have no file grow or come into being; what a file has may be written anew.

        :param files: of which files.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.FULL, _FULL, files, pid=pid))

    def clock_jump(self, seconds: float, *, pid: int = 0) -> Active:
        """Have the time of day jump; the monotonic clock and the times of files stay as they are.

        :param seconds: forwards, or backwards when negative.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.JUMP, Call.CLOCK, seconds=seconds, pid=pid))

    def no_threads(self, *, count: int = 0, pid: int = 0) -> Active:
        """Have no thread start.

        :param count: threads that do not start at most; 0 for no limit.
        :param pid: of the only process; 0 for all.
        """
        return self.start(Fault(Action.FAIL, Call.THREAD, error=errno.EAGAIN, count=count, pid=pid))

    def _ended(self, active: Active) -> None:
        self._on.remove(active)
        self._arm()

    def _arm(self) -> None:
        armed = 0
        for active in self._on:
            armed |= active.fault.calls
        self._control.armed = int(armed)

    def clear(self) -> None:
        """Switch all faults off."""
        for active in tuple(self._on):
            active.end()

    def active(self) -> list[Fault]:
        """The faults that are on, in the order in which they were switched on."""
        return [active.fault for active in self._on]

    def hits(self) -> dict[str, int]:
        """How often faults took place since the beginning, by the names of the calls in small letters."""
        counts = self._control.hits
        return {str(call.name).lower(): int(counts[number]) for number, call in enumerate(Call)}

    def close(self) -> None:
        """Switch all faults off and remove the file; processes that start with it later end at once."""
        if self._control is not None:
            self.clear()
            self._control = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
