"""One seed: starts hubs and their clients, carries the faults out, waits for calm, reads the truth."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path

from chaos import actors
from chaos.actors import Publisher, Scene, Subscriber
from chaos.client import Closed
from chaos.engines import Ruined, Shared, Sqlite, shared
from chaos.faults import Stage, carry_out
from chaos.hosts import Host, Switch, is_available
from chaos.injection.control import Injection
from chaos.keys import PUBLIC_URL, Keys
from chaos.network import Network
from chaos.node import Node
from chaos.plan import Kind, Plan
from chaos.record import End, Load, Outcome, Record
from chaos.topics import TOPICS
from chaos.wire import Wire

RECOVERY = 30.0
"""Seconds for which a run waits until all works again; the bound that is judged is shorter."""

_SETTLE = 12.0
_DRAINED = 10.0
_WARM = 1.0
_LOOK = 0.1
_IDLE = 0.5
_READ_ALL = 60.0
_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place.

    :param root: checkout whose hub is run.
    :param folder: for what it leaves.
    :param library: for the faults of the system.
    """

    root: Path
    folder: Path
    library: Path


async def run(plan: Plan, place: Place) -> Record:
    """Carry a plan out.

    :raises RuntimeError: a hub does not even start.
    """
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    record = Record(
        has_presence=plan.hub.presence,
        history_size=plan.hub.history_size,
        history_age=plan.hub.history_age,
        heartbeat=plan.hub.heartbeat,
        is_shared=plan.is_shared,
    )
    async with contextlib.AsyncExitStack() as stack:
        scene = Scene(record, Network(), Keys(place.folder / "key"), nodes=plan.nodes)
        if plan.is_shared:
            stage = await _several_nodes(plan, place, scene, stack)
        else:
            stage = _one_node(plan, place, scene, stack)
        scene.network.addresses = [node.address for node in stage.nodes]
        started = await asyncio.gather(*(node.start() for node in stage.nodes))
        for node, is_started in zip(stage.nodes, started, strict=True):
            if not is_started:
                raise RuntimeError(f"the hub does not start; its log is {node.folder / 'hub.log'}")
        await asyncio.to_thread(stage.engine.shadow)
        await scene.network.proxy.start()
        stack.push_async_callback(scene.network.proxy.close)
        await _play(plan, stage)
    record.finished = scene.now()
    return record


def _one_node(plan: Plan, place: Place, scene: Scene, stack: contextlib.AsyncExitStack) -> Stage:
    store = place.folder / "store"
    store.mkdir()
    injection = stack.enter_context(Injection(place.library, place.folder / "control", store, plan.seed))
    if any(fault.kind is Kind.HALF_OPEN for fault in plan.faults) and is_available():
        scene.network.host = stack.enter_context(Host())
    engine = Sqlite(store)
    environment = _environment(plan, place, engine.url, injection)
    if scene.network.host is not None:
        environment["MERCURE_LISTEN"] = "0.0.0.0"  # noqa: S104 - for the namespace of this run
    node = Node(str(plan.seed), place.root, place.folder, environment, scene.now)
    stack.push_async_callback(node.close)
    return Stage(scene, [node], engine, [injection], host=scene.network.host)


async def _several_nodes(plan: Plan, place: Place, scene: Scene, stack: contextlib.AsyncExitStack) -> Stage:
    """Nodes, each on a host of its own if there can be such, and each with its own wire to the engine."""
    engine = shared(plan.engine)
    stack.push_async_callback(asyncio.to_thread, engine.close)
    await asyncio.to_thread(engine.open)
    switch = stack.enter_context(Switch()) if is_available() else None
    stage = Stage(scene, [], engine, [], switch=switch)
    for number in range(plan.nodes):
        folder = place.folder / f"node-{number}"
        store = folder / "store"
        store.mkdir(parents=True)
        host = None
        if switch is not None:
            host = stack.enter_context(Host())
            switch.plug(host)
        wire = stack.enter_context(Wire(engine.address, "127.0.0.1" if switch is None else switch.address))
        injection = stack.enter_context(Injection(place.library, folder / "control", store, plan.seed))
        environment = _environment(plan, place, engine.url_by(wire.host, wire.port), injection)
        if host is not None:
            environment["MERCURE_LISTEN"] = host.client_address
        command = ("-m", "mercure_hub")
        if plan.grace is not None:
            environment["PYTHONPATH"] = str(place.root / "hub")
            command = (str(_LAUNCHER), str(plan.grace))
        name = f"{plan.seed}-{number}"
        node = Node(
            name, place.root, folder, environment, scene.now, number=number, host=host, command=command
        )
        stack.push_async_callback(node.close)
        stage.nodes.append(node)
        stage.wires.append(wire)
        stage.injections.append(injection)
    return stage


async def _play(plan: Plan, stage: Stage) -> None:
    scene, record = stage.scene, stage.scene.record
    scene.begin()
    for node in stage.nodes:
        node.deaths[:] = [replace(death, at=0.0) for death in node.deaths]
    begun = [*_publishers(plan, scene), *_subscribers(plan, scene), actors.watch_machine(scene)]
    for number in range(scene.nodes):
        begun += [actors.try_keys(scene, number), actors.watch_health(scene, number)]
    if isinstance(stage.engine, Shared):
        begun.append(actors.watch_engine(scene, stage.engine.probe))
    begun.append(actors.pester(scene, random.Random(f"{plan.seed} pester")))  # noqa: S311
    if plan.hub.presence:
        begun.append(actors.watch_presence(scene))
    tasks = [asyncio.create_task(one) for one in begun]
    faults = [asyncio.create_task(carry_out(stage, fault)) for fault in plan.faults]
    try:
        scene.publishing.set()
        await scene.pause(_WARM)
        record.before = _load(stage)
        await scene.pause(plan.seconds - scene.now())
        await _finish(faults)
        record.calm = scene.now()
        if await _until(lambda: _are_working(scene), RECOVERY):
            record.recovered = scene.now()
            await _settle(stage)
        for node in stage.nodes:
            record.deaths += node.deaths
        scene.over.set()
        await asyncio.wait(tasks, timeout=5)
        await _read_truth(stage)
    finally:
        scene.over.set()
        for task in (*tasks, *faults):
            task.cancel()
        for result in await asyncio.gather(*tasks, *faults, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _finish(faults: list[asyncio.Task[None]]) -> None:
    """Wait for all faults to be over; one that could not be carried out is a defect of the checker's."""
    for fault in faults:
        await fault


async def _settle(stage: Stage) -> None:
    """Stop publishing, publish a last update on each topic, and wait until every stream has it."""
    scene, record = stage.scene, stage.scene.record
    scene.publishing.clear()
    await scene.pause(_LOOK)
    last = await actors.publish_last(scene, TOPICS)
    deadline = scene.now() + _SETTLE

    async def is_complete() -> bool:
        numbers = {
            one.updates[0].number: one.updates[0].topics[0] for one in last if one.outcome is Outcome.STORED
        }
        for name in {session.subscriber for session in record.sessions if session.is_prompt}:
            session = [one for one in record.sessions if one.subscriber == name][-1]
            wanted = {
                number
                for number, topic in numbers.items()
                if any(matcher.matches(topic) for matcher in session.matchers)
            }
            if session.end is not End.OPEN or not wanted <= {number for _, number in session.received[-200:]}:
                return False
        return True

    await _until(is_complete, deadline - scene.now())
    record.settled = scene.now()
    most = record.before.processes if record.before else 0

    async def is_alone() -> bool:
        return sum(len(node.processes()) for node in stage.nodes) <= most

    await _until(is_alone, _DRAINED)  # one that was followed by another may still send what it has
    before = sum(node.cpu() for node in stage.nodes)
    await scene.pause(_IDLE)
    record.idle = (sum(node.cpu() for node in stage.nodes) - before) / _IDLE / scene.nodes
    record.after = _load(stage)
    if record.has_presence:
        for number in range(scene.nodes):
            await actors.list_presence(scene, number)


async def _are_working(scene: Scene) -> bool:
    return all(await asyncio.gather(*(actors.is_working(scene, node) for node in range(scene.nodes))))


def _load(stage: Stage) -> Load:
    """What all hubs take together."""
    loads = [node.load(0) for node in stage.nodes]
    return Load(
        loads[0].at,
        sum(one.processes for one in loads),
        sum(one.memory for one in loads),
        sum(one.descriptors for one in loads),
        sum(one.threads for one in loads),
        tuple(name for one in loads for name in one.files),
        _open_streams(stage.scene.record),
    )


def _open_streams(record: Record) -> int:
    return sum(session.status == 200 and session.end is End.OPEN for session in record.sessions)


async def _read_truth(stage: Stage) -> None:
    """Kill the hubs and start them again: what they acknowledged has to be there; read it both ways."""
    scene, record = stage.scene, stage.scene.record
    await asyncio.gather(*(node.kill() for node in stage.nodes))
    try:
        record.log, record.oldest = await asyncio.to_thread(stage.engine.log)
    except Ruined as ruined:
        record.ruin = str(ruined)
        return
    if not all(await asyncio.gather(*(node.start() for node in stage.nodes))):
        return
    with contextlib.suppress(Closed, TimeoutError, OSError):
        [last] = (await actors.publish_last(scene, TOPICS[:1]))[0].ids
        record.replayed, *record.elsewhere = [
            await actors.read_everything(scene, last, _READ_ALL, node) for node in range(scene.nodes)
        ]
        record.log, record.oldest = await asyncio.to_thread(stage.engine.log)


async def _until(is_so: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if await is_so():
            return True
        await asyncio.sleep(_LOOK)
    return False


def _publishers(plan: Plan, scene: Scene) -> list[Coroutine[None, None, None]]:
    return [
        Publisher(scene, one, random.Random(f"{plan.seed} {one.name}")).run()  # noqa: S311
        for one in plan.publishers
    ]


def _subscribers(plan: Plan, scene: Scene) -> list[Coroutine[None, None, None]]:
    return [
        Subscriber(scene, one, random.Random(f"{plan.seed} {one.name}")).run()  # noqa: S311
        for one in plan.subscribers
    ]


def _environment(plan: Plan, place: Place, url: str, injection: Injection) -> dict[str, str]:
    hub = plan.hub
    return {
        **injection.environment(),
        "MERCURE_TRANSPORT_URL": url,
        "MERCURE_PUBLISHER_JWT_KEY": f"@{place.folder / 'key'}",
        "MERCURE_PUBLIC_URL": PUBLIC_URL,
        "MERCURE_WORKERS": str(hub.workers),
        "MERCURE_SUBSCRIPTIONS": str(int(hub.presence)),
        "MERCURE_HISTORY_SIZE": str(hub.history_size),
        "MERCURE_HISTORY_MAX_AGE": str(hub.history_age),
        "MERCURE_HEARTBEAT": str(hub.heartbeat),
        "MERCURE_WRITE_TIMEOUT": str(hub.write_timeout),
        "MERCURE_DRAIN": str(hub.drain),
        "MERCURE_METRICS": "1",
    }
