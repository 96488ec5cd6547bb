"""One seed: starts a hub and its clients, carries the faults out, waits for calm, reads the truth."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from chaos import actors
from chaos.actors import Publisher, Scene, Subscriber
from chaos.client import Closed
from chaos.engines import Ruined, Sqlite
from chaos.faults import Stage, carry_out
from chaos.hosts import Host, is_available
from chaos.injection.control import Injection
from chaos.keys import PUBLIC_URL, Keys
from chaos.network import Network
from chaos.node import Node
from chaos.plan import Kind, Plan
from chaos.record import End, Outcome, Record
from chaos.topics import TOPICS

RECOVERY = 30.0
"""Seconds for which a run waits until all works again; the bound that is judged is shorter."""

_SETTLE = 12.0
_DRAINED = 10.0
_WARM = 1.0
_LOOK = 0.1
_IDLE = 0.5
_READ_ALL = 60.0


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

    :raises RuntimeError: the hub does not even start.
    """
    shutil.rmtree(place.folder, ignore_errors=True)
    store = place.folder / "store"
    store.mkdir(parents=True)
    record = Record(
        has_presence=plan.hub.presence,
        history_size=plan.hub.history_size,
        history_age=plan.hub.history_age,
        heartbeat=plan.hub.heartbeat,
    )
    async with contextlib.AsyncExitStack() as stack:
        injection = stack.enter_context(Injection(place.library, place.folder / "control", store, plan.seed))
        host = None
        if any(fault.kind is Kind.HALF_OPEN for fault in plan.faults) and is_available():
            host = stack.enter_context(Host())
        keys = Keys(place.folder / "key")
        engine = Sqlite(store)
        scene = Scene(record, Network(("127.0.0.1", 0)), keys)
        environment = _environment(plan, place, engine, injection)
        if host is not None:
            environment["MERCURE_LISTEN"] = "0.0.0.0"  # noqa: S104 - for the namespace of this run
        node = Node(str(plan.seed), place.root, place.folder, environment, scene.now)
        stack.push_async_callback(node.close)
        scene.network.address = node.address
        if host is not None:
            scene.network.host = host
        if not await node.start():
            raise RuntimeError(f"the hub does not start; its log is {place.folder / 'hub.log'}")
        engine.shadow()
        await scene.network.proxy.start()
        stack.push_async_callback(scene.network.proxy.close)
        await _play(plan, Stage(scene, node, engine, injection, host))
    record.finished = scene.now()
    return record


async def _play(plan: Plan, stage: Stage) -> None:
    scene, record = stage.scene, stage.scene.record
    begun = [*_publishers(plan, scene), *_subscribers(plan, scene)]
    begun += [actors.try_keys(scene), actors.watch_health(scene), actors.watch_machine(scene)]
    begun.append(actors.pester(scene, random.Random(f"{plan.seed} pester")))  # noqa: S311
    if plan.hub.presence:
        begun.append(actors.watch_presence(scene))
    tasks = [asyncio.create_task(one) for one in begun]
    faults = [asyncio.create_task(carry_out(stage, fault)) for fault in plan.faults]
    try:
        scene.publishing.set()
        await scene.pause(_WARM)
        record.before = stage.node.load(_open_streams(record))
        await scene.pause(plan.seconds - scene.now())
        await _finish(faults)
        record.calm = scene.now()
        if await _until(lambda: actors.is_working(scene), RECOVERY):
            record.recovered = scene.now()
            await _settle(stage)
        record.deaths += stage.node.deaths
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
        return len(stage.node.processes()) <= most

    await _until(is_alone, _DRAINED)  # one that was followed by another may still send what it has
    before = stage.node.cpu()
    await scene.pause(_IDLE)
    record.idle = (stage.node.cpu() - before) / _IDLE
    record.after = stage.node.load(_open_streams(record))
    if record.has_presence:
        await actors.list_presence(scene)


def _open_streams(record: Record) -> int:
    return sum(session.status == 200 and session.end is End.OPEN for session in record.sessions)


async def _read_truth(stage: Stage) -> None:
    """Kill the hub and start it again: what it acknowledged has to be there; read it both ways."""
    scene, record = stage.scene, stage.scene.record
    await stage.node.kill()
    try:
        record.log, record.oldest = stage.engine.log()
    except Ruined as ruined:
        record.ruin = str(ruined)
        return
    if not await stage.node.start():
        return
    with contextlib.suppress(Closed, TimeoutError, OSError):
        [last] = (await actors.publish_last(scene, TOPICS[:1]))[0].ids
        record.replayed = await actors.read_everything(scene, last, _READ_ALL)
        record.log, record.oldest = stage.engine.log()


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


def _environment(plan: Plan, place: Place, engine: Sqlite, injection: Injection) -> dict[str, str]:
    hub = plan.hub
    return {
        **injection.environment(),
        "MERCURE_TRANSPORT_URL": engine.url,
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
