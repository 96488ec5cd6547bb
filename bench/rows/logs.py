"""What a line for each request costs: the same loads with and without it."""

from __future__ import annotations

from bench.context import Bench, field, on, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import Case, Figure, Target
from bench.rows.fanout import TOPIC

_DEAREST = 1.05
"""Of the same load without a line."""


def logs(bench: Bench) -> list[Case]:
    """At the default level, and at the one that writes no line for a request."""
    connections = bench.pick(5000, 1000, 100)
    loads = bench.pick([(1, 2000), (64, 15_000)], [(1, 300), (64, 3000)], [(16, 200)])

    def connect(running: Running) -> Result:
        options = size_options(n=connections, settle=0.3)
        return sseload("connect", *running.where(), *running.subscribe(TOPIC), *options)

    kinds: dict[str, dict[str, str]] = {
        "without a line": {"MERCURE_LOG_LEVEL": "warning"},
        "with a line for each": {},
    }
    cases = []
    for kind, settings in kinds.items():

        def target(what: str, has_line: bool = not settings) -> Target | None:
            return Target(_DEAREST, case=f"{what}, without a line") if has_line else None

        what = f"{connections:,} connections"
        figure = Figure("µs of CPU per connect", field("hub_cpu_us_per_connect"), target(what))
        cases.append(Case(f"{what}, {kind}", on(bench.hubs.own, connect, **settings), [figure]))
        for p, m in loads:

            def publish(running: Running, p: int = p, m: int = m) -> Result:
                options = size_options(p=p, m=m, s=200)
                return sseload("publish", *running.where(), *running.publish("t"), *options)

            what = f"{p} publisher{'s' if p > 1 else ''}"
            figure = Figure("µs of CPU per publish", field("hub_cpu_us_per_publish"), target(what))
            cases.append(Case(f"{what}, {kind}", on(bench.hubs.own, publish, **settings), [figure]))
    return sorted(cases, key=lambda case: case.name.partition(", ")[0], reverse=True)
