"""Carries the faults of a plan out, on hubs that run, and notes what was done and when it was over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.actors import Scene
from chaos.engines import Shared, Sqlite
from chaos.hosts import Host, Switch
from chaos.injection.control import Active, Injection
from chaos.injection.faults import Call, File
from chaos.node import Node
from chaos.plan import FaultPlan, Kind, Route
from chaos.record import ANY, Deed, Effect, Rotation
from chaos.wire import Way, Wire

_AFTER_RELOAD = 0.3  # seconds
_SUCCESSION = 10.0
_MIB = 1 << 20
_SUDDEN = 0.5  # share of the restarts after another damage that are a crash
_LOG = File.DATABASE | File.WAL

CLOCKS = (-3600.0, 90.0, 3600.0, 86400.0)
"""Seconds by which a clock may jump."""


@dataclass
class Stage:
    """What faults act on.

    :param injections: for each node, what injects faults into it.
    :param host: another host for clients, if namespaces can be had.
    :param wires: for each node, its wire to an engine that nodes share.
    :param switch: where the cables of their hosts are plugged in, if they have hosts of their own.
    """

    scene: Scene
    nodes: list[Node]
    engine: Sqlite | Shared
    injections: list[Injection]
    host: Host | None = None
    wires: list[Wire] = field(default_factory=list)
    switch: Switch | None = None
    operator: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever stops and starts a hub: one at a time."""
    lost: Counter[tuple[int, Way | None]] = field(default_factory=Counter)
    """How many faults that are at work have cut a node's cable, or a way of its wire."""

    @property
    def shared(self) -> Shared:
        """The engine that nodes share."""
        assert isinstance(self.engine, Shared)
        return self.engine

    @property
    def sqlite(self) -> Sqlite:
        """The database file."""
        assert isinstance(self.engine, Sqlite)
        return self.engine

    def deed(self, fault: FaultPlan, effect: Effect, words: str = "", node: int | None = None) -> Deed:
        """Note a fault that begins now.

        :param node: that it befalls, by default that of the plan; ``ANY`` for all.
        """
        now = self.scene.now()
        if node is None:
            node = fault.node
        words = words or fault.kind.value
        if self.wires and node != ANY:
            words += f" (node {node})"
        deed = Deed(fault.kind.name, now, float("inf"), effect, words, node=node)
        self.scene.record.deeds.append(deed)
        return deed


async def carry_out(stage: Stage, fault: FaultPlan) -> None:
    """Wait for a fault's time, carry it out, wait until it is over."""
    await stage.scene.pause(fault.at - stage.scene.now())
    if stage.scene.over.is_set():
        return
    perform = _WAYS.get(fault.kind)
    deed = await (_signals(stage, fault) if perform is None else perform(stage, fault))
    deed.end = stage.scene.now()


# -- signals ----------------------------------------------------------------------------------------


async def _signals(stage: Stage, fault: FaultPlan) -> Deed:
    node = stage.nodes[fault.node]
    while (
        not node.is_serving and not stage.scene.over.is_set()
    ):  # systemd, too, keeps a signal back until then
        await stage.scene.pause(_AFTER_RELOAD)
    workers = node.workers()
    worker = workers[int(fault.draw * len(workers))] if workers else 0
    match fault.kind:
        case Kind.KILL_HUB:
            deed = stage.deed(fault, Effect.KILLS)
            node.tell(signal.SIGKILL, node.processes())
        case Kind.KILL_PARENT:
            deed = stage.deed(fault, Effect.KILLS | Effect.STOPS)
            node.tell(signal.SIGKILL, [node.main])
        case Kind.KILL_WORKER:
            deed = stage.deed(fault, Effect.KILLS, f"kill -9 of worker {worker}")
            node.tell(signal.SIGKILL, [worker])
        case Kind.HAND_OVER_AND_KILL:
            deed = stage.deed(fault, Effect.KILLS | Effect.STOPS)
            node.tell(signal.SIGUSR2, [node.main])
            node.tell(signal.SIGKILL, [worker])
        case Kind.KILL_AND_RELOAD:
            deed = stage.deed(fault, Effect.KILLS)
            node.tell(signal.SIGKILL, [worker])
            node.tell(signal.SIGHUP, [node.main])
        case Kind.RELOAD:
            deed = stage.deed(fault, Effect.NONE)
            node.tell(signal.SIGHUP, [node.main])
        case Kind.RELOAD_ALL:
            deed = stage.deed(fault, Effect.NONE)
            node.tell(signal.SIGHUP, node.processes())
        case Kind.HAND_OVER | Kind.HAND_OVER_TWICE:
            deed = stage.deed(fault, Effect.STOPS)
            for _ in range(2 if fault.kind is Kind.HAND_OVER_TWICE else 1):
                node.tell(signal.SIGUSR2, [node.main])
        case _:
            raise ValueError(fault.kind)
    await stage.scene.pause(_AFTER_RELOAD)
    return deed


async def _terminate(stage: Stage, fault: FaultPlan) -> Deed:
    async with stage.operator:
        deed = stage.deed(fault, Effect.STOPS)
        await stage.nodes[fault.node].terminate()
        await stage.nodes[fault.node].start()
    return deed


async def _rotate(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.NONE, node=ANY)
    key = stage.scene.keys.rotate()
    deed.words = f"key {key} takes the place of key {key - 1}, SIGHUP"
    stage.scene.record.rotations.append(Rotation(stage.scene.now(), key))
    for node in stage.nodes:
        node.tell(signal.SIGHUP, [node.main])
    await stage.scene.pause(_AFTER_RELOAD)
    return deed


async def _stop(stage: Stage, fault: FaultPlan) -> Deed:
    node = stage.nodes[fault.node]
    workers = node.workers()
    pids = {
        Kind.STOP_MAIN: [node.main],
        Kind.STOP_WORKER: workers[int(fault.draw * len(workers)) :][:1],
        Kind.STOP_LONG: node.processes(),
        Kind.TRIM_PAST: node.processes(),
    }[fault.kind]
    deed = stage.deed(fault, Effect.STALLS, f"{fault.kind.value} after {fault.length:.1f} s")
    node.tell(signal.SIGSTOP, pids)
    try:
        await stage.scene.pause(fault.length)
    finally:
        node.tell(signal.SIGCONT, pids)
    return deed


# -- the store --------------------------------------------------------------------------------------


def _injected(effect: Effect, start: Callable[[Stage, FaultPlan], Active]) -> Callable[..., Awaitable[Deed]]:
    """A fault of the library for the length of the plan."""

    async def perform(stage: Stage, fault: FaultPlan) -> Deed:
        deed = stage.deed(fault, effect)
        active = start(stage, fault)
        try:
            await stage.scene.pause(fault.length)
        finally:
            active.end()
        deed.happened = active.hits > 0
        deed.words += f" ({active.hits} times in {fault.length:.1f} s)"
        return deed

    return perform


async def _clock(stage: Stage, fault: FaultPlan) -> Deed:
    seconds = CLOCKS[int(fault.draw * len(CLOCKS))]
    deed = stage.deed(fault, Effect.CLOCK, f"the hub's clock jumps by {seconds:+.0f} s, and back")
    with stage.injections[fault.node].clock_jump(seconds):
        stage.scene.skews[fault.node] = seconds
        try:
            await stage.scene.pause(fault.length)
        finally:
            del stage.scene.skews[fault.node]
    return deed


async def _damage(stage: Stage, fault: FaultPlan) -> Deed:
    """Damage a file; some seconds later the hub crashes, or an operator stops it, and it starts anew."""
    engine, node = stage.sqlite, stage.nodes[0]
    # SQLite that ends in order copies what it can: only a crash shows what was lost with a write-ahead log.
    is_crash = fault.kind in (Kind.REMOVE_WAL, Kind.TRUNCATE_WAL, Kind.REPLACE_WAL) or fault.draw < _SUDDEN
    how = "kill -9" if is_crash else "SIGTERM"
    deed = stage.deed(
        fault,
        Effect.REPLACES | Effect.STOPS | Effect.KILLS,
        f"{fault.kind.value}; later {how} and a new start",
    )
    match fault.kind:
        case Kind.REMOVE_DATABASE:
            engine.database.unlink()
        case Kind.REPLACE_DATABASE:
            _replace_by_a_copy(engine.database)
        case Kind.REMOVE_WAL:
            engine.wal.unlink(missing_ok=True)
        case Kind.TRUNCATE_WAL:
            os.truncate(engine.wal, 0)
        case Kind.REPLACE_WAL:
            _replace_by_a_copy(engine.wal)
        case Kind.REPLACE_LOCK:
            _replace_by_a_copy(engine.lock)
        case Kind.REMOVE_LOCK:
            engine.lock.unlink()
    damaged = stage.scene.now()
    await stage.scene.pause(fault.length)
    deed.words = f"{deed.words} at {stage.scene.now():.2f} s"
    async with stage.operator:
        await (node.kill() if how == "kill -9" else node.terminate())
        if fault.kind is Kind.REMOVE_DATABASE:
            engine.wal.unlink(missing_ok=True)  # of a database that is gone: SQLite must not find it
            Path(f"{engine.database}-shm").unlink(missing_ok=True)
        await node.start()
    stage.scene.record.damaged = damaged
    return deed


def _replace_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


# -- resources --------------------------------------------------------------------------------------


async def _descriptors(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.STARVES)
    before = {}
    for pid in stage.nodes[0].processes():
        with contextlib.suppress(OSError):
            used = max(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()) + 1
            before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[pid][1]))
    await stage.scene.pause(fault.length)
    _restore(before, resource.RLIMIT_NOFILE)
    return deed


async def _memory(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.STARVES | Effect.KILLS)
    before = {}
    more = int(1 + 24 * fault.draw) * _MIB
    deed.words = f"only {more // _MIB} MiB more of memory for each process"
    for pid in stage.nodes[0].processes():
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
            before[pid] = resource.prlimit(pid, resource.RLIMIT_AS)
            size = pages * resource.getpagesize() + more
            resource.prlimit(pid, resource.RLIMIT_AS, (size, before[pid][1]))
    await stage.scene.pause(fault.length)
    _restore(before, resource.RLIMIT_AS)
    return deed


def _restore(before: dict[int, tuple[int, int]], limit: int) -> None:
    for pid, limits in before.items():
        with contextlib.suppress(OSError):
            resource.prlimit(pid, limit, limits)


# -- the network ------------------------------------------------------------------------------------


async def _storm(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.CUTS)
    stage.scene.network.note_cut(Route.PROXY)
    stage.scene.network.proxy.cut()
    return deed


async def _proxy_stalls(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.CUTS)
    network = stage.scene.network
    network.proxy.stall()
    await stage.scene.pause(fault.length)
    network.note_cut(Route.PROXY)
    network.proxy.cut()
    network.proxy.flow()
    return deed


async def _half_open(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.CUTS)
    if stage.host is None:
        deed.happened = False
        return deed
    # Clients let go before the link breaks no more than after it: what they say does not arrive.
    await asyncio.to_thread(stage.host.cut)
    stage.scene.network.note_cut(Route.HOST)
    await stage.scene.pause(fault.length)
    await asyncio.to_thread(stage.host.mend)
    return deed


# -- the engine that nodes share --------------------------------------------------------------------


async def _cut(stage: Stage, fault: FaultPlan) -> Deed:
    """Lose the network between nodes and the engine, at the switch, or else in the wires."""
    is_all = fault.kind is Kind.CUT_ALL
    nodes = stage.nodes if is_all else [stage.nodes[fault.node]]
    deed = stage.deed(fault, Effect.AWAY, node=ANY if is_all else fault.node)
    ways = tuple(Way) if stage.switch is None else (None,)
    await asyncio.to_thread(_lose, stage, nodes, ways, 1)
    try:
        await stage.scene.pause(fault.length)
    finally:
        await asyncio.to_thread(_lose, stage, nodes, ways, -1)
    return deed


async def _one_way(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.AWAY)
    ways = (Way.UP if fault.kind is Kind.MUTE else Way.DOWN,)
    _lose(stage, [stage.nodes[fault.node]], ways, 1)
    try:
        await stage.scene.pause(fault.length)
    finally:
        _lose(stage, [stage.nodes[fault.node]], ways, -1)
    return deed


def _lose(stage: Stage, nodes: Sequence[Node], ways: Sequence[Way | None], count: int) -> None:
    """Begin or end to lose what goes some ways, ``None`` being the cable; what two faults lose, both mend."""
    for node in nodes:
        for way in ways:
            stage.lost[node.number, way] += count
        if None not in ways:
            stage.wires[node.number].hold([way for way in Way if stage.lost[node.number, way]])
        elif stage.switch is not None and node.host is not None:
            (stage.switch.cut if stage.lost[node.number, None] else stage.switch.mend)(node.host)


async def _delay(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.FAR)
    wire = stage.wires[fault.node]
    wire.delay({Kind.DELAY_1: 0.001, Kind.DELAY_50: 0.05, Kind.DELAY_500: 0.5}[fault.kind])
    try:
        await stage.scene.pause(fault.length)
    finally:
        wire.delay(0.0)
    return deed


async def _wire_reset(stage: Stage, fault: FaultPlan) -> Deed:
    deed = stage.deed(fault, Effect.AWAY)
    stage.wires[fault.node].reset()
    return deed


async def _disconnect(stage: Stage, fault: FaultPlan) -> Deed:
    async with stage.operator:  # when it runs
        deed = stage.deed(fault, Effect.AWAY, node=ANY)
        await asyncio.to_thread(stage.shared.disconnect)
    return deed


async def _engine_stop(stage: Stage, fault: FaultPlan) -> Deed:
    async with stage.operator:
        deed = stage.deed(fault, Effect.AWAY, node=ANY)
        stage.shared.freeze()
        try:
            await stage.scene.pause(fault.length)
        finally:
            stage.shared.thaw()
    return deed


async def _engine_restart(stage: Stage, fault: FaultPlan) -> Deed:
    """The engine ends, and starts again after a while."""
    async with stage.operator:
        deed = stage.deed(fault, Effect.AWAY, node=ANY)
        if fault.kind is Kind.ENGINE_RESTART:
            await asyncio.to_thread(stage.shared.halt)
        else:
            await asyncio.to_thread(stage.shared.kill)
        if fault.kind is Kind.KILL_BOTH:
            killed = stage.deed(fault, Effect.KILLS)
            stage.nodes[fault.node].tell(signal.SIGKILL, stage.nodes[fault.node].processes())
            killed.end = stage.scene.now()
        await stage.scene.pause(fault.length)
        await asyncio.to_thread(stage.shared.start)
    return deed


async def _fail_over(stage: Stage, fault: FaultPlan) -> Deed:
    """A replica takes over, and the address of the engine with it."""
    async with stage.operator:
        await asyncio.to_thread(stage.shared.make_replica)
        is_behind = fault.kind is Kind.FAIL_BEHIND
        deed = stage.deed(fault, Effect.AWAY | (Effect.REPLACES if is_behind else Effect.NONE), node=ANY)
        if is_behind:
            await asyncio.to_thread(stage.shared.leave_behind)
            await stage.scene.pause(fault.length)
        await asyncio.to_thread(stage.shared.fail_over)
        for wire in stage.wires:
            wire.lead_to(stage.shared.address)
        if is_behind:
            stage.scene.record.damaged = stage.scene.now()
    return deed


async def _roll(stage: Stage, fault: FaultPlan) -> Deed:
    """Stop and start one node after the other, or have each followed by another one."""
    async with stage.operator:
        for node in stage.nodes:
            deed = stage.deed(fault, Effect.STOPS, node=node.number)
            if fault.kind is Kind.ROLL:
                await node.terminate()
                await node.start()
            else:
                before = node.main
                node.tell(signal.SIGUSR2, [before])
                await _followed(stage, node, before)
            deed.end = stage.scene.now()
    return deed


async def _followed(stage: Stage, node: Node, main: int) -> None:
    """Wait until another process is the main one."""
    deadline = stage.scene.now() + _SUCCESSION
    while node.main == main and stage.scene.now() < deadline:
        await stage.scene.pause(_AFTER_RELOAD)


_WAYS: dict[Kind, Callable[[Stage, FaultPlan], Awaitable[Deed]]] = {
    Kind.TERMINATE: _terminate,
    Kind.ROTATE: _rotate,
    Kind.STOP_MAIN: _stop,
    Kind.STOP_WORKER: _stop,
    Kind.STOP_LONG: _stop,
    Kind.SYNC_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.SYNC, errno.EIO, files=_LOG)
    ),
    Kind.SYNC_SLOW: _injected(
        Effect.STALLS, lambda stage, _: stage.injections[0].slow(Call.SYNC, 2.0, files=_LOG)
    ),
    Kind.WRITE_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.WRITE, errno.EIO, files=_LOG)
    ),
    Kind.WRITE_SHORT: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].short(Call.WRITE, files=_LOG, probability=0.1)
    ),
    Kind.READ_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.READ, errno.EIO, files=_LOG)
    ),
    Kind.OPEN_FAILS: _injected(
        Effect.REFUSES | Effect.STARVES, lambda stage, _: stage.injections[0].fail(Call.OPEN, errno.EMFILE)
    ),
    Kind.LOCK_SLOW: _injected(Effect.STALLS, lambda stage, _: stage.injections[0].slow(Call.LOCK, 0.1)),
    Kind.LOCK_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.LOCK, errno.ENOLCK, files=File.LOCK)
    ),
    Kind.DISK_FULL: _injected(Effect.REFUSES, lambda stage, _: stage.injections[0].disk_full()),
    Kind.THREADS: _injected(Effect.STARVES, lambda stage, _: stage.injections[0].no_threads()),
    Kind.REMOVE_DATABASE: _damage,
    Kind.REPLACE_DATABASE: _damage,
    Kind.REMOVE_WAL: _damage,
    Kind.TRUNCATE_WAL: _damage,
    Kind.REMOVE_LOCK: _damage,
    Kind.REPLACE_WAL: _damage,
    Kind.REPLACE_LOCK: _damage,
    Kind.READ_SLOW: _injected(
        Effect.STALLS, lambda stage, _: stage.injections[0].slow(Call.READ, 0.05, files=_LOG)
    ),
    Kind.TRUNCATE_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.TRUNCATE, errno.EIO, files=_LOG)
    ),
    Kind.MAP_FAILS: _injected(
        Effect.REFUSES, lambda stage, _: stage.injections[0].fail(Call.MAP, errno.ENOMEM)
    ),
    Kind.DESCRIPTORS: _descriptors,
    Kind.MEMORY: _memory,
    Kind.CLOCK: _clock,
    Kind.STORM: _storm,
    Kind.PROXY_STALLS: _proxy_stalls,
    Kind.HALF_OPEN: _half_open,
    Kind.CUT_NODE: _cut,
    Kind.CUT_ALL: _cut,
    Kind.MUTE: _one_way,
    Kind.DEAF: _one_way,
    Kind.DELAY_1: _delay,
    Kind.DELAY_50: _delay,
    Kind.DELAY_500: _delay,
    Kind.WIRE_RESET: _wire_reset,
    Kind.DISCONNECT: _disconnect,
    Kind.ENGINE_STOP: _engine_stop,
    Kind.ENGINE_KILL: _engine_restart,
    Kind.ENGINE_RESTART: _engine_restart,
    Kind.KILL_BOTH: _engine_restart,
    Kind.TRIM_PAST: _stop,
    Kind.FAIL_OVER: _fail_over,
    Kind.FAIL_BEHIND: _fail_over,
    Kind.ROLL: _roll,
    Kind.ROLL_OVER: _roll,
}
