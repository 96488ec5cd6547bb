"""One topic for all: fan-out, a burst, and the time until an update arrives."""

from __future__ import annotations

from bench.context import Bench, Value, bind, field, floor, on, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import FLOOR, Case, Figure, Target

TOPIC = ("exact", "t")


def load(running: Running, **options: object) -> Result:
    """Updates on one topic for all subscribers."""
    return sseload(
        "fanout", *running.where(), *running.subscribe(TOPIC), *running.publish("t"), "-order",
        *size_options(**options),
    )  # fmt: skip


EFFICIENCY = field("deliveries_per_cpu_s")


def fanout(bench: Bench) -> list[Case]:
    """Deliveries for a second of the hub's CPU."""
    sizes = bench.pick([(1000, 200), (5000, 50)], [(1000, 60), (5000, 12)], [(100, 20)])
    figures = [
        Figure("deliveries per CPU-second", EFFICIENCY, Target(0.90, at_least=True, of=FLOOR)),
        Figure("deliveries per second", field("deliveries_per_s"), against=FLOOR, uses_generator=True),
    ]
    cases = []
    for n, m in sizes:
        options = {"n": n, "m": m, "s": 200}
        contestants = {FLOOR: floor(*size_options(**options))}
        contestants |= on(bench.hubs.all, bind(load, **options))
        cases.append(Case(f"{n:,} subscribers x {m} updates", contestants, figures))
    return cases


def burst(bench: Bench) -> list[Case]:
    """Many publishers at once."""
    n, m = bench.pick((1000, 2000), (1000, 400), (100, 200))
    options = {"n": n, "m": m, "s": 200, "p": 64}
    contestants = {FLOOR: floor(*size_options(**options))}
    contestants |= on(bench.hubs.all, bind(load, **options))
    figures = [
        Figure("deliveries per CPU-second", EFFICIENCY, Target(8, at_least=True, of="nchan")),
        Figure("deliveries per second", field("deliveries_per_s"), against=FLOOR, uses_generator=True),
    ]
    return [Case(f"{n:,} subscribers, 64 publishers x {m:,} updates", contestants, figures)]


def latency(bench: Bench) -> list[Case]:
    """The time from sending an update to reading it, at a rate that the hub keeps."""
    n, m, rate = bench.pick((1000, 500, 50), (1000, 100, 50), (100, 20, 50))
    options = {"n": n, "m": m, "s": 200, "r": rate, "p": 4}
    contestants = {FLOOR: floor(*size_options(**options))}
    contestants |= on(bench.hubs.all, bind(load, **options))
    figures = [
        Figure(f"{name}, ms", quantile(name), Target(1.0, of="nchan"), uses_generator=True)
        for name in ("p50", "p99")
    ]
    return [Case(f"{n * rate:,} deliveries a second", contestants, figures)]


def quantile(name: str) -> Value:
    """A quantile of the time to deliver, in ms."""
    return field("delivery_ms", name)


def stalled(bench: Bench) -> list[Case]:
    """Subscribers that read nothing, among others that do."""
    n, stuck, m, rate = bench.pick((5000, 1000, 100, 5), (1000, 200, 40, 10), (100, 20, 30, 20))
    healthy = "all subscribers read"
    options = {"n": n, "m": m, "s": 4000, "r": rate}
    figures = [Figure("p99 of the subscribers that read, ms", quantile("p99"), uses_generator=True)]
    target = [
        Figure(
            "p99 of the subscribers that read, ms",
            quantile("p99"),
            Target(1.2, case=healthy),
            uses_generator=True,
        )
    ]
    memory = [
        Figure("peak memory of the hub, MiB (RSS)", mib("rss_peak")),
        Figure("memory growth of the hub, MiB (RSS)", _growth, Target(32)),
    ]
    dropped = [Figure("stalled subscribers dropped by the end", _dropped)]
    return [
        Case(
            healthy,
            on(bench.hubs.own, bind(load, **options)),
            [*figures, *memory],
        ),
        Case(
            f"{stuck:,} of {n:,} never read",
            on(bench.hubs.own, bind(load, **options, stall=stuck)),
            [*target, *memory, *dropped],
        ),
    ]


def mib(name: str) -> Value:
    """A field in bytes, as MiB."""

    def value(result: Result) -> float | None:
        size = field(name)(result)
        return None if size is None else size / 2**20

    return value


def _growth(result: Result) -> float | None:
    peak, connected = field("rss_peak")(result), field("rss_connected")(result)
    return None if peak is None or connected is None else (peak - connected) / 2**20


def _dropped(result: Result) -> float | None:
    """Sockets that the hub has closed; the publisher's came later."""
    if "sockets_end" not in result:
        return None
    publishers = int(result["p"])
    return float(sum(result["sockets_connected"]) + publishers - sum(result["sockets_end"]))
