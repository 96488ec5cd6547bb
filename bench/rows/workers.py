"""Two processes against one."""

from __future__ import annotations

from bench.context import Bench, field, on, size_options
from bench.generator import Result, sseload
from bench.hubs import Refused, Running
from bench.model import Case, Figure, Skipped, Target
from bench.rows.fanout import EFFICIENCY
from bench.rows.fanout import load as deliver


def workers(bench: Bench) -> list[Case]:
    """The same load on one and on two processes.

    :raises Skipped: the hub refuses to run in two.
    """
    try:
        with bench.hubs.ours.start(MERCURE_WORKERS="2"):
            pass
    except Refused as error:
        raise Skipped(f"the hub says: {error}") from None
    n, m = bench.pick((2000, 200), (1000, 40), (100, 20))
    publishes = bench.pick(15_000, 3000, 200)

    def load(running: Running) -> Result:
        delivered = deliver(running, n=n, m=m, s=200)
        published = sseload(
            "publish", *running.where(), *running.publish("t"), *size_options(p=64, m=publishes, s=200)
        )
        return {**delivered, "publish": published}

    def case(count: int) -> Case:
        one = "1 process"
        name = one if count == 1 else f"{count} processes"
        against = None if count == 1 else Target(0.9, at_least=True, case=one)
        figures = [
            Figure("deliveries per CPU-second", EFFICIENCY, against),
            Figure("deliveries per second", field("deliveries_per_s"), uses_generator=True),
            Figure("publishes per second", field("publish", "publishes_per_s"), uses_generator=True),
        ]
        if count > 1:
            figures.append(
                Figure("smallest share of the subscribers", lambda result: smallest_share(result, count))
            )
        return Case(name, on(bench.hubs.own, load, MERCURE_WORKERS=str(count)), figures)

    return [case(1), case(2)]


def smallest_share(result: Result, count: int) -> float:
    """The share of the worker with the fewest connections; a parent that serves nobody is no worker."""
    sockets: list[int] = sorted(result["sockets_connected"], reverse=True)[:count]
    return min(sockets) / sum(sockets)
