"""The storage alone on each engine, and hubs on it: what several machines on one history cost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import requests

from bench.context import Bench, field, size_options
from bench.engines import POSTGRESQL, SHARED, SQLITE, VALKEY
from bench.generator import Fault, Result, sseload
from bench.history import NEWEST
from bench.hubs import HERE, Mercure
from bench.model import HUB, Case, Figure, Target
from mercure_hub.storage.doorbell import bells

_LEAST = {POSTGRESQL: 0.6, VALKEY: 1.0}  # of the appends of SQLite, at 64 publishers
_MANY = 64
_NODES = 4
_AT_ONCE = 16  # clients that share a look into the history, as in the hub
_PATIENCE = 90.0
_WORKERS = 8
_END = "the end"


@dataclass(frozen=True, slots=True)
class _Load:
    """What each node does.

    :param publishers: of each node that publishes.
    :param publishing: nodes that publish, and follow the others.
    :param following: nodes that only follow.
    """

    publishers: int
    publishing: int = 1
    following: int = 0


def appends(bench: Bench) -> list[Case]:
    """One node stores updates; nobody else reads them."""
    cases = []
    for engine in _here(bench):
        for count in bench.pick((1, 16, _MANY), (1, _MANY), (16,)):
            least = Target(_LEAST[engine], at_least=True, of=SQLITE) if count == _MANY else None
            figures = [
                Figure("updates per second", field("updates_per_s"), least, SQLITE),
                Figure("ms to the answer (p50)", field("answer_ms", "p50"), against=SQLITE),
                Figure("ms to the answer (p99)", field("answer_ms", "p99"), against=SQLITE),
                Figure("µs of the engine's CPU per update", field("engine_us_per_update")),
            ]
            cases.append(_case(bench, engine, f"{_publishers(count)}", _Load(count), figures))
    return cases


def arrivals(bench: Bench) -> list[Case]:
    """Another node sees what one stores."""
    cases = []
    for engine in _here(bench):
        for count in bench.pick((1, _MANY), (1, _MANY), (1,)):
            limits = (Target(5.0), Target(25.0)) if count == 1 else (None, None)
            figures = [
                Figure("ms to another node (p50)", field("arrival_ms", "p50"), limits[0], SQLITE),
                Figure("ms to another node (p99)", field("arrival_ms", "p99"), limits[1], SQLITE),
                Figure("updates per second", field("updates_per_s"), against=SQLITE),
            ]
            load = _Load(count, following=1)
            cases.append(_case(bench, engine, f"{_publishers(count)}, another node reads", load, figures))
    return cases


def nodes(bench: Bench) -> list[Case]:
    """Several nodes store updates, and see those of the others."""
    figures = [
        Figure("updates per second", field("updates_per_s"), against=SQLITE),
        Figure("ms to the answer (p50)", field("answer_ms", "p50"), against=SQLITE),
        Figure("ms to the answer (p99)", field("answer_ms", "p99"), against=SQLITE),
        Figure("ms to another node (p50)", field("arrival_ms", "p50"), against=SQLITE),
        Figure("ms to another node (p99)", field("arrival_ms", "p99"), against=SQLITE),
    ]
    load = _Load(16, publishing=_NODES)
    return [
        _case(bench, engine, f"{_NODES} nodes, 16 publishers each", load, figures) for engine in _here(bench)
    ]


def resumes(bench: Bench) -> list[Case]:
    """Clients come back, ten updates behind, by one and by several nodes."""
    size = bench.pick(1_000_000, 100_000, 1000)
    seconds = bench.pick(3.0, 1.0, 0.2)
    cases = []
    for engine in _here(bench):
        for count in (1, _NODES):

            def load(name: str, count: int = count) -> Result:
                history = bench.engines.history(name, size)
                words = ["--resume", history.behind, "--topic", NEWEST, "--at-once", str(_AT_ONCE)]
                with _started(history.url, [[*words, "--seconds", str(seconds)]] * count) as running:
                    results = running.results()
                took = list(chain.from_iterable(one["trips_ms"] for one in results))
                return {
                    "resumes_per_s": sum(one["resumes_per_s"] for one in results),
                    "trip_ms": _spread(took),
                }

            figures = [
                Figure("clients per second", field("resumes_per_s"), against=SQLITE),
                Figure(f"ms for {_AT_ONCE} at once (p50)", field("trip_ms", "p50"), against=SQLITE),
                Figure(f"ms for {_AT_ONCE} at once (p99)", field("trip_ms", "p99"), against=SQLITE),
            ]
            who = "1 node" if count == 1 else f"{count} nodes"
            cases.append(Case(f"{engine}: {who}, history of {size:,}", _both(engine, load), figures))
    return cases


def readers(bench: Bench) -> list[Case]:
    """What a hub that follows costs the engine, by its number of processes."""
    seconds = bench.pick(4.0, 1.5, 0.3)
    cases = []
    for engine in _here(bench):
        one = f"{engine}: a hub of 1 process follows"
        for count in (1, _WORKERS):

            def load(engine: str = engine, count: int = count) -> Result:
                url = bench.engines.fresh(engine)
                settings = {"MERCURE_TRANSPORT_URL": url, "MERCURE_WORKERS": str(count)}
                with bench.hubs.ours.start(**settings) as hub, _watched(hub) as wait:
                    return _measure(bench, engine, url, _Load(16), seconds, wait=wait)

            flat = None if count == 1 else Target(1.25, case=one)
            name = one if count == 1 else f"{engine}: a hub of {count} processes follows"
            figures = [
                Figure("µs of the engine's CPU per update", field("engine_us_per_update"), flat),
                Figure("updates per second", field("updates_per_s")),
            ]
            cases.append(Case(name, {HUB: load}, figures))
    return cases


def hubs(bench: Bench) -> list[Case]:
    """The same over HTTP: the hub answers when the engine has stored an update."""
    cases = []
    for engine in _here(bench):
        sizes = bench.pick([(1, 2000), (_MANY, 15_000)], [(1, 300), (_MANY, 3000)], [(16, 300)])
        for count, updates in sizes:

            def load(name: str, count: int = count, updates: int = updates) -> Result:
                with bench.hubs.ours.start(MERCURE_TRANSPORT_URL=bench.engines.fresh(name)) as hub:
                    options = size_options(p=count, m=updates, s=200)
                    return sseload("publish", *hub.where(), *hub.publish("t"), *options)

            figures = [
                Figure("publishes per second", field("publishes_per_s"), against=SQLITE, uses_generator=True),
                Figure("µs of the hub's CPU per publish", field("hub_cpu_us_per_publish"), against=SQLITE),
            ]
            cases.append(Case(f"{engine}: {_publishers(count)}", _both(engine, load), figures))
    return cases


def _here(bench: Bench) -> Sequence[str]:
    """The engines that can be measured.

    :raises Skipped: one of them cannot, so that no row is silently shorter.
    """
    for engine in SHARED:
        bench.engines.require(engine)
    return SHARED


def _publishers(count: int) -> str:
    return f"{count} publisher{'s' if count > 1 else ''}"


def _both(engine: str, load: Callable[[str], Result]) -> dict[str, Callable[[], Result]]:
    """The engine, and SQLite right after it, so that both meet the same neighbours."""
    return {HUB: lambda: load(engine), SQLITE: lambda: load(SQLITE)}


def _case(bench: Bench, engine: str, name: str, what: _Load, figures: Sequence[Figure]) -> Case:
    seconds = bench.pick(3.0, 1.0, 0.3)

    def load(contestant: str) -> Result:
        return _measure(bench, contestant, bench.engines.fresh(contestant), what, seconds)

    return Case(f"{engine}: {name}", _both(engine, load), figures)


def _measure(
    bench: Bench,
    engine: str,
    url: str,
    load: _Load,
    seconds: float,
    *,
    wait: Callable[[], None] = lambda: None,
) -> Result:
    """Run some nodes.

    :param wait: returns when others have read what they have stored; that counts for the engine.
    :raises Fault: an update went missing, or came in another order.
    """
    times = ["--warm-up", str(min(1.0, seconds / 3)), "--seconds", str(seconds)]
    words = [
        *([["--publishers", str(load.publishers), *times]] * load.publishing),
        *([times] * load.following),
    ]
    with (
        _started(url, words, shares_bells=engine == SQLITE) as running,
        bench.engines.cpu_of(engine) as took,
    ):
        results = running.results()
        wait()
    answers = list(chain.from_iterable(one["answers_ms"] for one in results))
    arrived = list(chain.from_iterable(one["arrivals_ms"] for one in results))
    if not answers or (load.following and not arrived):
        raise Fault(f"{engine}: nothing was measured in {seconds} s")
    return {
        "updates_per_s": len(answers) / seconds,
        "answer_ms": _spread(answers),
        "arrival_ms": _spread(arrived),
        "engine_us_per_update": took[0] * 1e6 / running.stored if took else None,
        "load": os.getloadavg()[0],
    }


class _Nodes:
    """Processes of ``bench.node``, all of them connected.

    :ivar stored: updates that they have stored, when there are results.
    """

    def __init__(self, children: Sequence[subprocess.Popen[str]]) -> None:
        self._children = children
        self.stored = 0

    def results(self) -> list[dict[str, Any]]:
        """Have them do their work.

        :raises Fault: one of them failed.
        """
        self._tell("go")
        self.stored = max(int(self._line(child).removeprefix("done ")) for child in self._children)
        self._tell(f"stop {self.stored}")
        return [json.loads(self._line(child)) for child in self._children]

    def wait_until_ready(self) -> None:
        """Wait until all of them are connected.

        :raises Fault: one of them is not.
        """
        for child in self._children:
            self._line(child)

    def kill(self) -> None:
        """End them all: one of them hangs."""
        for child in self._children:
            child.kill()

    def _tell(self, words: str) -> None:
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{words}\n")
            child.stdin.flush()

    def _line(self, child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None and child.stderr is not None
        line = child.stdout.readline()
        if not line:
            said = child.stderr.read().strip().splitlines() or ["nothing"]
            raise Fault(f"a node ended and said: {said[-1]}")
        return line


@contextmanager
def _started(url: str, words: Sequence[Sequence[str]], *, shares_bells: bool = False) -> Iterator[_Nodes]:
    """A process of ``bench.node`` for each list of arguments.

    :param shares_bells: they ring each other, as the workers of one hub do.
    """
    shared = bells(len(words)) if shares_bells else []
    descriptors = [bell.fileno() for bell in shared]
    with ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        children: list[subprocess.Popen[str]] = []
        for number, some in enumerate(words):
            own = [*descriptors[number : number + 1], *descriptors[:number], *descriptors[number + 1 :]]
            child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bench.node", "--url", url, *some),
                    *(["--bells", ",".join(map(str, own))] if own else []),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=HERE.parent,
                pass_fds=own,
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            children.append(child)
        running = _Nodes(children)
        running.wait_until_ready()
        timer = threading.Timer(_PATIENCE, running.kill)
        timer.start()
        try:
            yield running
            for child in children:
                child.wait(_PATIENCE)
        finally:
            timer.cancel()
            timer.join()


@contextmanager
def _watched(hub: Mercure) -> Iterator[Callable[[], None]]:
    """Gives what waits until a hub has sent everything that is stored by then.

    :raises Fault: (the function) it does not.
    """
    url = f"http://{hub.address}{hub.path}"
    answer = requests.get(url, {"match": _END}, stream=True, timeout=_PATIENCE)
    seen = threading.Event()

    def read() -> None:
        with answer, suppress(requests.RequestException):
            if any(line == f"data: {_END}".encode() for line in answer.iter_lines()):
                seen.set()

    def wait() -> None:
        name, _, value = hub.publisher.read_text().strip().partition(": ")
        fields = {"topic": _END, "data": _END}
        requests.post(url, fields, headers={name: value}, timeout=_PATIENCE).raise_for_status()
        if not seen.wait(_PATIENCE):
            raise Fault(f"the hub did not send the last update within {_PATIENCE:.0f} s")

    threading.Thread(target=read, daemon=True).start()
    yield wait


def _spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "max": max(values)}
