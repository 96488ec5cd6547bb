"""Durable publishing: nobody listens, each update is committed before its answer."""

from __future__ import annotations

from collections.abc import Sequence

from bench.context import Bench, bind, field, floor, on, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import FLOOR, Case, Figure, Target
from bench.rows.fanout import EFFICIENCY
from bench.rows.fanout import load as deliver

_RATE = Figure("publishes per second", field("publishes_per_s"), against=FLOOR, uses_generator=True)
_ANSWER = Figure("ms to the answer (p50)", field("publish_ms", "p50"), against=FLOOR, uses_generator=True)
_CPU = "µs of CPU per publish"


def _publish(running: Running, topic: str = "t", **options: object) -> Result:
    return sseload("publish", *running.where(), *running.publish(topic), *size_options(**options))


def publish(bench: Bench) -> list[Case]:
    """By the number of publishers: those who wait together share a commit."""
    sizes = bench.pick(
        [(1, 3000), (16, 15_000), (64, 15_000)], [(1, 500), (16, 3000), (64, 3000)], [(16, 500)]
    )
    cases = []
    for p, m in sizes:

        def load(running: Running, p: int = p, m: int = m) -> Result:
            return _publish(running, p=p, m=m, s=200)

        def least(p: int = p, m: int = m) -> Result:
            file = bench.folder / "durable"  # on the disk that the hub has its database on
            return sseload("publish", "-a", "durable", "-file", str(file), *size_options(p=p, m=m, s=200))

        figures = [_RATE, _ANSWER, Figure(_CPU, field("hub_cpu_us_per_publish"), against=FLOOR)]
        contestants = {FLOOR: least, **on(bench.hubs.all, load)}
        cases.append(Case(f"{p} publisher{'s' if p > 1 else ''}", contestants, figures))
    return cases


def topics(bench: Bench) -> list[Case]:
    """By the number of topics that updates are spread over."""
    counts: Sequence[int] = bench.pick([1, 100, 10_000], [1, 1000], [100])
    m = bench.pick(10_000, 2000, 200)
    cases = []
    for count in counts:

        def load(running: Running, count: int = count) -> Result:
            return _publish(running, "t%d", k=count, p=16, m=m, s=200)

        flat = None if count == counts[0] else Target(1.5, case=_topics(counts[0]))
        figures = [Figure(_CPU, field("hub_cpu_us_per_publish"), flat)]
        cases.append(Case(_topics(count), on(bench.hubs.mercure, load), figures))
    return cases


def _topics(count: int) -> str:
    return f"{count:,} topic{'s' if count > 1 else ''}"


def bodies(bench: Bench) -> list[Case]:
    """By the size of an update."""
    full = [(1, 100), (16, 50), (64, 20), (256, 10), (1024, 5)]
    sizes = bench.pick(full, [(1, 50), (64, 10), (1024, 3)], [(1024, 2)])
    n = bench.pick(500, 200, 20)
    cases = []
    for kib, m in sizes:
        options = {"n": n, "m": m, "s": kib * 1024}
        contestants = {FLOOR: floor(*size_options(**options))}
        contestants |= on(
            bench.hubs.own,
            bind(deliver, **options),
            MERCURE_MAX_REQUEST_BODY_SIZE=str(4 << 20),
        )
        figures = [Figure("deliveries per CPU-second", EFFICIENCY, Target(0.5, at_least=True, of=FLOOR))]
        cases.append(Case(f"{kib:,} KiB, {n} subscribers", contestants, figures))
    return cases
