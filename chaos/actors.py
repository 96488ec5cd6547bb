"""Publishers, subscribers, and those who try keys and watch the health: each a task that keeps a record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from chaos.client import HUB_PATH, Answer, Closed, Connection, Events, WebSocket, reset_at_close
from chaos.keys import PUBLIC_URL, Keys
from chaos.network import Network
from chaos.plan import Manner, PublisherPlan, Route, SubscriberPlan
from chaos.record import (
    ANY,
    Deed,
    Effect,
    End,
    Listing,
    Look,
    Outcome,
    Publication,
    Record,
    Session,
    Trial,
    Update,
)
from chaos.topics import ALL, CANARY

PATIENCE = 60.0
"""Seconds after which a publisher gives up; the bound that is judged is shorter."""

_AGAIN = (0.2, 0.6)  # seconds before a client connects again
_TRIAL = 0.25
_FLAWS = (("is expired", -30.0, PUBLIC_URL), ("is for another hub", 60.0, "http://other.example/"))
_INCOMPLETE = re.compile(rb'^mercure_subscribers_ended_total{reason="incomplete"} (\d+)', re.MULTILINE)
_LOOK = 0.5
_LISTING = 1.0
_TURN = 0.1
_PROBE = 0.25
_BUSY = 1.0
_SLOW_READ = 8192
_SLOW_PAUSES = (0.004, 0.01, 0.025)  # seconds between two reads
_SLOW_BUFFER = 4096
_LIFETIME = 3600.0
_LAST = 2000  # more events than one read from a socket can bring
_PATIENT = 3.0
"""Seconds for an answer of which the time counts."""
_FORGETS = 0.1  # how often a publisher that repeats takes no notice of the answer
_UNKNOWN = (Outcome.CUT, Outcome.SILENT, Outcome.UNANSWERED, Outcome.IN_DOUBT)
_IN_DOUBT = "in-doubt"
"""Part of the problem type that says that an update may be stored."""


@dataclass
class Scene:
    """What all actors share.

    :param origin: monotonic time of the start.
    :param skews: seconds that the wall clock of each hub is ahead.
    :param nodes: how many hubs there are.
    """

    record: Record
    network: Network
    keys: Keys
    origin: float = field(default_factory=time.monotonic)
    skews: dict[int, float] = field(default_factory=dict)
    nodes: int = 1
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    publishing: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Count from now on, when all hubs have started."""
        self.origin = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.origin

    def hub_time(self, node: int = 0) -> float:
        """What a hub's wall clock shows."""
        return time.time() + self.skews.get(node, 0.0)

    def update(self, topics: tuple[str, ...], *, private: bool) -> Update:
        """A new update."""
        return Update(next(self.numbers), topics, private)

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than the run."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)


class Publisher:
    """Publishes, one request after another.

    :param plan: what and how often.
    :param chance: draws the rest.
    """

    def __init__(self, scene: Scene, plan: PublisherPlan, chance: random.Random) -> None:
        self._scene = scene
        self._plan = plan
        self._chance = chance
        self._kept: Connection | None = None
        self._socket: socket.socket | None = None
        self._left = 0
        self._cuts = 0
        self._padding = "x" * plan.padding
        self._node = plan.node if plan.route is not Route.PROXY or scene.nodes == 1 else ANY

    async def run(self) -> None:
        """Publish while the scene wants it."""
        try:
            while not self._scene.over.is_set():
                if self._scene.publishing.is_set():
                    await self.publish(self._updates())
                await self._scene.pause(self._plan.pause)
        finally:
            self.close()

    def _updates(self) -> tuple[Update, ...]:
        count = self._chance.randint(1, self._plan.batch)
        updates = []
        for _ in range(count):
            topics = tuple(
                self._chance.sample(
                    self._plan.topics, min(len(self._plan.topics), self._chance.choice((1, 1, 2)))
                )
            )
            updates.append(self._scene.update(topics, private=self._chance.random() < self._plan.private))
        return tuple(updates)

    async def publish(self, updates: tuple[Update, ...]) -> Publication:
        """Publish; what becomes of it goes into the record.

        A publisher that repeats goes on until the hub has what it may have had before.
        """
        scene = self._scene
        publication = Publication(
            self._plan.name, updates, scene.now(), True, scene.keys.current, node=self._node
        )
        scene.record.publications.append(publication)
        ids = None
        if self._plan.repeats:
            ids = [uuid.UUID(int=self._chance.getrandbits(128), version=4).urn for _ in updates]
        await self._attempt(publication, ids)
        if ids is None:
            return publication
        forgets = self._chance.random() < _FORGETS
        while (forgets or publication.outcome in _UNKNOWN) and not scene.over.is_set():
            known = publication.outcome, publication.status, publication.ids
            if known[0] in (Outcome.UNSENT, Outcome.REFUSED):
                break
            publication.attempts += 1
            await scene.pause(self._chance.uniform(*_AGAIN))
            await self._attempt(publication, ids)
            if publication.outcome is Outcome.STORED:
                forgets = False
            else:
                publication.outcome, publication.status, publication.ids = known
        return publication

    async def _attempt(self, publication: Publication, ids: Sequence[str] | None) -> Publication:
        """Publish in one request."""
        scene = self._scene
        key = publication.key = scene.keys.current
        publication.outcome = Outcome.UNSENT
        try:
            connection = await self._connection(publication)
        except OSError as error:
            publication.done = scene.now()
            publication.detail = str(error)
            await scene.pause(self._chance.uniform(*_AGAIN))
            return publication
        if publication.attempts == 1:
            publication.sent = scene.now()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await connection.request(
                    "POST", HUB_PATH, *self._request(publication.updates, ids, key)
                )
        except (Closed, TimeoutError, asyncio.CancelledError) as error:
            publication.node = self._served_by()
            publication.outcome = self._failure(error)
            publication.detail = str(error)
            publication.done = scene.now()
            self.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            return publication
        publication.done = scene.now()
        publication.node = self._served_by()
        _judge(publication, answer)
        self._left -= 1
        if self._left <= 0 or not connection.is_reusable:
            self.close()
        return publication

    def _failure(self, error: BaseException) -> Outcome:
        if (
            isinstance(error, asyncio.CancelledError)
            or self._scene.network.cuts(self._plan.route) != self._cuts
        ):
            return Outcome.CUT
        return Outcome.SILENT if isinstance(error, TimeoutError) else Outcome.UNANSWERED

    def _served_by(self) -> int:
        if self._socket is None:
            return self._node
        return self._scene.network.node_of(self._socket, self._plan.route, self._plan.node)

    async def _connection(self, publication: Publication) -> Connection:
        if self._kept is None:
            network, plan = self._scene.network, self._plan
            self._cuts = network.cuts(plan.route)
            self._socket = await network.connect(plan.route, node=plan.node)
            self._kept = Connection(self._socket)
            self._left = plan.keeps
        else:
            publication.is_fresh = False
        return self._kept

    def close(self) -> None:
        """Let go of the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _request(
        self, updates: tuple[Update, ...], ids: Sequence[str] | None, key: int
    ) -> tuple[dict[str, str], bytes]:
        token = self._scene.keys.token(
            key, self._scene.hub_time(self._node), _LIFETIME, publish=True, old=self._plan.old
        )
        headers = {"Authorization": f"Bearer {token}"}
        if len(updates) == 1:
            [update] = updates
            fields = [("topic", topic) for topic in update.topics]
            fields += [("data", self._data(update))] + [("private", "on")] * update.private
            if ids is not None:
                fields += [("id", ids[0]), ("once", "on")]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return headers, urlencode(fields).encode()
        headers["Content-Type"] = "application/json"
        documents: list[dict[str, object]] = [
            {"topic": list(one.topics), "data": self._data(one), "private": one.private} for one in updates
        ]
        for document, id_ in zip(documents, ids or (), strict=False):
            document.update(id=id_, once=True)
        return headers, json.dumps(documents).encode()

    def _data(self, update: Update) -> str:
        return f'{{"n": {update.number}, "pad": "{self._padding}"}}'


def _judge(publication: Publication, answer: Answer) -> None:
    """Note what an answer says became of a publication."""
    publication.status = answer.status
    if answer.status == 200:
        publication.outcome = Outcome.STORED
        is_list = answer.headers.get("content-type", "").startswith("application/json")
        publication.ids = tuple(json.loads(answer.body)["ids"]) if is_list else (answer.body.decode(),)
        return
    publication.detail = answer.body.decode(errors="replace")[:300]
    is_known = _IN_DOUBT not in publication.detail
    publication.outcome = Outcome.REFUSED if is_known else Outcome.IN_DOUBT


class Subscriber:
    """Subscribes, and comes back with its cursor whenever its stream ends.

    :param plan: to what, and how it behaves.
    :param chance: draws the rest.
    """

    def __init__(self, scene: Scene, plan: SubscriberPlan, chance: random.Random) -> None:
        self._scene = scene
        self._plan = plan
        self._chance = chance
        self._cursor: str | None = None
        self._count = 0
        self._node = plan.node if plan.route is not Route.PROXY or scene.nodes == 1 else ANY

    async def run(self) -> None:
        """Read until the run is over."""
        while not self._scene.over.is_set():
            session = await self._session()
            self._cursor = session.last_id
            is_away = self._plan.manner is Manner.AWAY and session.end is End.CLIENT
            await self._scene.pause(
                self._chance.uniform(2.0, 5.0) if is_away else self._chance.uniform(*_AGAIN)
            )

    async def _session(self) -> Session:
        scene, plan = self._scene, self._plan
        self._count += 1
        lifetime = self._chance.uniform(2.5, 6.0) if plan.manner is Manner.EXPIRES else _LIFETIME
        session = Session(
            plan.name,
            f"{plan.name}.{self._count}",
            plan.matchers,
            plan.grants,
            self._cursor,
            scene.now(),
            scene.keys.current,
            expires=scene.now() + lifetime,
            is_prompt=plan.manner not in (Manner.SLOW, Manner.STALLS),
            is_websocket=plan.websocket,
            is_silent_when_cut=plan.route is Route.HOST,
            node=self._node,
        )
        scene.record.sessions.append(session)
        cuts = scene.network.cuts(plan.route)
        try:
            buffer = _SLOW_BUFFER if plan.manner is Manner.SLOW else 0
            sock = await scene.network.connect(plan.route, buffer, plan.node)
        except OSError:
            self._end(session, End.NETWORK)
            return session
        reading = asyncio.create_task(self._read(session, sock, lifetime))
        try:
            await self._watch(session, reading, cuts)
        finally:
            is_open = not reading.done() and sock.fileno() >= 0
            if plan.manner is Manner.RESETS and session.end is End.CLIENT and is_open:
                reset_at_close(sock)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            sock.close()
        return session

    async def _watch(self, session: Session, reading: asyncio.Task[None], cuts: int) -> None:
        """Wait for the end of a stream, whoever brings it about, and note who."""
        scene, plan = self._scene, self._plan
        leaves = plan.manner in (Manner.RETURNS, Manner.AWAY, Manner.RESETS, Manner.SLOW)
        stay = (3.0, 8.0) if plan.manner is Manner.SLOW else (1.5, 4.0)
        until = scene.now() + (self._chance.uniform(*stay) if leaves else float("inf"))
        over = asyncio.create_task(scene.over.wait())
        try:
            while True:
                await asyncio.wait((reading, over), timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                is_cut = scene.network.cuts(plan.route) != cuts
                if over.done():
                    return
                if is_cut or reading.done():
                    self._end(session, End.NETWORK if is_cut else End.HUB)
                    return
                # Towards the end all stay, so that their last updates can be compared.
                if scene.now() >= until and scene.publishing.is_set():
                    self._end(session, End.CLIENT)
                    return
        finally:
            over.cancel()

    def _end(self, session: Session, end: End) -> None:
        session.ended = self._scene.now()
        session.end = end

    async def _read(self, session: Session, sock: socket.socket, lifetime: float) -> None:
        """Read a stream until its end."""
        scene, plan = self._scene, self._plan
        query = [one.parameter(old=plan.old) for one in plan.matchers]
        headers = {
            "Authorization": "Bearer "
            + scene.keys.token(
                session.key,
                scene.hub_time(self._node),
                lifetime,
                subscribe=plan.grants,
                session=session.name,
                old=plan.old,
            )
        }
        if self._cursor is not None and (plan.websocket or self._chance.random() < 0.5):
            query.append(("last_event_id", self._cursor))
        elif self._cursor is not None:
            headers["Last-Event-ID"] = self._cursor
        target = f"{HUB_PATH}?{urlencode(query, quote_via=quote)}"
        if plan.websocket:
            await self._read_websocket(session, sock, target, headers)
        else:
            await self._read_stream(session, sock, target, headers)

    def _note_node(self, session: Session, sock: socket.socket) -> None:
        session.node = self._scene.network.node_of(sock, self._plan.route, self._plan.node)

    async def _read_stream(
        self, session: Session, sock: socket.socket, target: str, headers: dict[str, str]
    ) -> None:
        connection = Connection(sock)
        is_slow = self._plan.manner is Manner.SLOW
        pause = self._chance.choice(_SLOW_PAUSES)
        try:
            answer = await connection.open(target, headers)
            self._note_node(session, sock)
            self._note_head(session, answer.status, answer.headers.get("mercure-last-event-id"))
            events = Events()
            while answer.status == 200:
                part = await connection.data(_SLOW_READ if is_slow else 65536)
                if not part:
                    return
                self._note_events(session, events.feed(part))
                if is_slow:
                    await asyncio.sleep(pause)
                await self._perhaps_stall(session)
        except Closed:
            return

    async def _read_websocket(
        self, session: Session, sock: socket.socket, target: str, headers: dict[str, str]
    ) -> None:
        try:
            opened = await WebSocket.open(sock, target, headers)
            self._note_node(session, sock)
            if isinstance(opened, int):
                self._note_head(session, opened, None)
                return
            self._note_head(session, 200, opened.headers.get("mercure-last-event-id"))
            try:
                while True:
                    self._note_events(session, [await opened.event()])
                    await self._perhaps_stall(session)
            finally:
                opened.close()
        except Closed:
            return

    async def _perhaps_stall(self, session: Session) -> None:
        if self._plan.manner is Manner.STALLS and self._chance.random() < 0.02:
            begin = self._scene.now()
            await self._scene.pause(self._chance.uniform(0.5, 8.0))
            session.stalls.append((begin, self._scene.now()))

    def _note_head(self, session: Session, status: int, answered: str | None) -> None:
        session.status = status
        session.head = self._scene.now()
        session.answered = answered

    def _note_events(self, session: Session, events: list[tuple[str, int]]) -> None:
        now = self._scene.now()
        session.received += events
        session.arrivals += [now] * len(events)


async def try_keys(scene: Scene, node: int = 0) -> None:
    """Try each key that there was, to publish and to subscribe, on connections of their own.

    To publish, one token of each key is presented again and again, which the hub remembers. Beside them come
    tokens that no hub may accept, whatever their key is.
    """
    remembered: dict[int, str] = {}
    for role in itertools.cycle(("publish", "subscribe")):
        await scene.pause(_TRIAL * scene.nodes)
        if scene.over.is_set():
            return
        if not scene.publishing.is_set():
            continue
        now, current = scene.hub_time(node), scene.keys.current
        for key in range(max(current - 1, 0), current + 1):
            if key not in remembered:
                remembered[key] = scene.keys.token(key, now, _LIFETIME, publish=True)
            fresh = scene.keys.token(key, now, 60.0, subscribe=(ALL,))
            at = scene.now()
            status = await _try(scene, role, remembered[key] if role == "publish" else fresh, node)
            scene.record.trials.append(Trial(at, key, role, status, node=node))
        for flaw, lifetime, audience in _FLAWS:
            token = scene.keys.token(
                current, now, lifetime, publish=True, subscribe=(ALL,), audience=audience
            )
            at = scene.now()
            status = await _try(scene, role, token, node)
            scene.record.trials.append(Trial(at, current, role, status, flaw, node))


async def _try(scene: Scene, role: str, token: str, node: int) -> int:
    """Publish or subscribe with a token.

    :returns: the status of the answer.
    """
    headers = {"Authorization": f"Bearer {token}"}
    if role == "publish":
        # Without data, so that a trial leaves no doubt about what it brought into the log.
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode({"topic": CANARY}).encode()
        return await _status(scene, "POST", HUB_PATH, headers, body, node=node)
    target = f"{HUB_PATH}?{urlencode({'match': CANARY})}"
    return await _status(scene, "GET", target, headers, only_head=True, node=node)


async def pester(scene: Scene, chance: random.Random) -> None:
    """Do what no client should: half a request, a head that drips, nonsense, a reset in the middle."""
    whole = (
        f"POST {HUB_PATH} HTTP/1.1\r\nHost: hub.example\r\nContent-Length: 1000\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\ntopic=https%3A%2F%2Fexample.com%2Fa%2F1"
    ).encode()
    loop = asyncio.get_running_loop()
    while not scene.over.is_set():
        await scene.pause(chance.uniform(0.1, 0.5))
        with contextlib.suppress(OSError):
            sock = await scene.network.connect(Route.DIRECT, node=chance.randrange(scene.nodes))
            with contextlib.closing(sock):
                match chance.randrange(4):
                    case 0:
                        await loop.sock_sendall(sock, whole[: chance.randrange(1, len(whole))])
                        reset_at_close(sock)
                    case 1:
                        for byte in whole[: chance.randrange(1, 40)]:
                            await loop.sock_sendall(sock, bytes([byte]))
                            await asyncio.sleep(0.02)
                    case 2:
                        await loop.sock_sendall(sock, chance.randbytes(chance.randrange(1, 4096)))
                    case _:
                        await loop.sock_sendall(sock, whole)
                        await scene.pause(chance.uniform(0.1, 2.0))


async def watch_machine(scene: Scene) -> None:
    """Note when the machine is too busy for a judgement over seconds: it excuses what is late then."""
    while not scene.over.is_set():
        begin = scene.now()
        await asyncio.sleep(_TURN)
        late = scene.now() - begin - _TURN
        if late > _BUSY / 4:
            effect = Effect.STALLS if late > _BUSY else Effect.BUSY
            words = f"the machine is busy: the checker itself got no time for {late:.1f} s"
            scene.record.deeds.append(Deed("BUSY", begin, scene.now(), effect | Effect.BUSY, words))


async def watch_engine(scene: Scene, probe: Callable[[], None]) -> None:
    """Note when an engine that nodes share is slow by itself, as when other programs use the disk.

    :param probe: writes something; blocks.
    """
    while not scene.over.is_set():
        await scene.pause(_PROBE)
        begin = scene.now()
        with contextlib.suppress(Exception):  # what is done to it is told elsewhere
            await asyncio.to_thread(probe)
        took = scene.now() - begin
        if took > _BUSY / 4:
            words = f"the engine took {took:.1f} s for a write of the checker's"
            scene.record.deeds.append(Deed("SLOW", begin, scene.now(), Effect.BUSY, words))


async def watch_health(scene: Scene, node: int = 0) -> None:
    """Look at what a hub says of itself."""
    scene.network.are_ready += [True] * (node + 1 - len(scene.network.are_ready))
    for path in itertools.cycle(("/healthz", "/readyz", "/metrics")):
        await scene.pause(_LOOK / 3)
        if scene.over.is_set():
            return
        answer = await _ask(
            scene, "GET", path, {}, patience=_PATIENT if scene.nodes > 1 else PATIENCE, node=node
        )
        works, incomplete = None, 0
        if answer is not None and path == "/metrics" and answer.status == 200:
            works = b"\nmercure_storage_works 1" in answer.body
            counted = _INCOMPLETE.search(answer.body)
            incomplete = int(counted[1]) if counted else 0
        status = 0 if answer is None else answer.status
        if path == "/readyz":
            scene.network.are_ready[node] = status == 200
        scene.record.looks.append(Look(scene.now(), path, status, works, incomplete, node))


async def watch_presence(scene: Scene) -> None:
    """Ask one hub after the other who is connected."""
    for node in itertools.cycle(range(scene.nodes)):
        await scene.pause(_LISTING)
        if scene.over.is_set():
            return
        await list_presence(scene, node)


async def list_presence(scene: Scene, node: int = 0) -> None:
    """Ask once who is connected: in both generations, since each sees the subscriptions of its own."""
    at = scene.now()
    status = 200
    sessions: set[str] = set()
    now = scene.hub_time(node)
    for old in (False, True):
        token = scene.keys.token(scene.keys.current, now, 60.0, subscribe=(ALL,), old=old)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await _ask(scene, "GET", f"{HUB_PATH}/subscriptions", headers, node=node)
        if answer is None or answer.status != 200:
            status = 0 if answer is None else answer.status
            continue
        found = json.loads(answer.body)["subscriptions"]
        sessions |= {(one.get("payload") or {}).get("session", "") for one in found}
    if scene.over.is_set():
        return  # those who were there have left meanwhile
    scene.record.listings.append(Listing(at, status, tuple(sorted(sessions)), node))


async def read_everything(scene: Scene, upto: str, seconds: float, node: int = 0) -> list[tuple[str, int]]:
    """Read the whole history as one who may see all.

    A hub that discards may overtake the reader. It ends the stream then, and the reader begins again.

    :param upto: event id after which nothing more is expected.
    :raises Closed: the stream ended before, though the hub keeps everything.
    :raises TimeoutError: it took longer than the given seconds.
    """
    discards = scene.record.history_size or scene.record.history_age
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await _read_to(scene, upto, node)
            except Closed:
                if not discards:
                    raise


async def _read_to(scene: Scene, upto: str, node: int) -> list[tuple[str, int]]:
    token = scene.keys.token(scene.keys.current, scene.hub_time(), 600.0, subscribe=(ALL,))
    connection = Connection(await scene.network.connect(Route.DIRECT, node=node))
    found: list[tuple[str, int]] = []
    try:
        target = f"{HUB_PATH}?match=*&last_event_id=earliest"
        answer = await connection.open(target, {"Authorization": f"Bearer {token}"})
        if answer.status != 200:
            raise Closed(f"status {answer.status}")
        events = Events()
        while not any(id_ == upto for id_, _ in found[-_LAST:]):
            part = await connection.data()
            if not part:
                raise Closed("the stream ended")
            found += events.feed(part)
    finally:
        connection.close()
    # What dead nodes left is ended meanwhile, and comes after it.
    return found[: next(index for index, (id_, _) in enumerate(found) if id_ == upto) + 1]


async def is_working(scene: Scene, node: int = 0) -> bool:
    """Whether a hub accepts an update and is ready, each on a connection of its own."""
    token = scene.keys.token(scene.keys.current, scene.hub_time(node), 60.0, publish=True)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({"topic": CANARY}).encode()
    if await _status(scene, "POST", HUB_PATH, headers, body, patience=_PATIENT, node=node) != 200:
        return False
    return await _status(scene, "GET", "/readyz", {}, patience=_PATIENT, node=node) == 200


async def publish_last(scene: Scene, topics: Sequence[str], node: int = 0) -> list[Publication]:
    """Publish one more update on each of some topics."""
    plan = PublisherPlan("last", tuple(topics), 0.0, 1, 0.0, 0, 100, Route.DIRECT, old=False, node=node)
    publisher = Publisher(scene, plan, random.Random(0))  # noqa: S311 - nothing is drawn
    sent = []
    for topic in topics:
        sent.append(await publisher.publish((scene.update((topic,), private=False),)))
    publisher.close()
    return sent


async def _status(
    scene: Scene,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes = b"",
    *,
    only_head: bool = False,
    patience: float = PATIENCE,
    node: int = 0,
) -> int:
    answer = await _ask(
        scene, method, target, headers, body, only_head=only_head, patience=patience, node=node
    )
    return 0 if answer is None else answer.status


async def _ask(
    scene: Scene,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes = b"",
    *,
    only_head: bool = False,
    patience: float = PATIENCE,
    node: int = 0,
) -> Answer | None:
    """One request on a connection of its own; ``None`` when there is no answer."""
    try:
        async with asyncio.timeout(patience):
            connection = Connection(await scene.network.connect(Route.DIRECT, node=node))
            try:
                if only_head:
                    return await connection.open(target, headers)
                return await connection.request(method, target, headers, body)
            finally:
                connection.close()
    except (OSError, Closed, TimeoutError):
        return None
