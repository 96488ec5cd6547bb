"""Who gets what: a private topic for each subscriber, and patterns."""

from __future__ import annotations

from bench.context import Bench, bind, field, on, per, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import Case, Figure, Target
from bench.tokens import Matcher

CPU_PER_DELIVERY = per("hub_cpu_s", "deliveries", 1e6)


def private(bench: Bench) -> list[Case]:
    """A private topic and a token of its own for each subscriber; updates for all of them, or for a few."""
    counts = bench.pick([100, 5000, 10_000], [100, 2000], [100])
    few, updates = counts[0], bench.pick(10_000, 2000, 200)

    def load(running: Running, *, count: int, reached: int) -> Result:
        tokens = bench.tokens(running, count, lambda index: [("exact", f"t{index}")])
        return sseload(
            "fanout", *running.where(), *running.subscribe(("exact", "t%d"), tokens=tokens),
            *running.publish("t%d", private=True), *size_options(n=count, m=updates, p=4, s=200, pk=reached),
        )  # fmt: skip

    def case(count: int, reached: int) -> Case:
        first, name = _connected(few, few), _connected(count, reached)
        flat = Target(1.25, case=first) if count > few == reached else None
        figures = [
            Figure("µs of CPU per update", CPU_PER_DELIVERY, flat),
            Figure("deliveries per second", field("deliveries_per_s"), uses_generator=True),
        ]
        return Case(name, on(bench.hubs.minted, bind(load, count=count, reached=reached)), figures)

    sizes = dict.fromkeys(
        [
            (few, few),
            *((count, few) for count in counts),
            (counts[len(counts) // 2], counts[len(counts) // 2]),
        ]
    )
    return [case(count, reached) for count, reached in sizes]


def _connected(count: int, reached: int) -> str:
    return f"{count:,} connected, updates for {'each' if count == reached else f'{reached:,}'}"


def patterns(bench: Bench) -> list[Case]:
    """Many different patterns, of which an update matches one."""
    n, k, m = bench.pick((5000, 500, 3000), (1000, 100, 1000), (100, 10, 100))
    exact = f"{k} exact topics"

    def load(matcher: Matcher, topic: str, running: Running) -> Result:
        return sseload(
            "fanout", *running.where(), *running.subscribe(matcher), *running.publish(topic),
            *size_options(n=n, m=m, k=k, p=4, s=200),
        )  # fmt: skip

    def case(name: str, matcher: Matcher, topic: str, target: Target | None) -> Case:
        figures = [
            Figure("µs of CPU per delivery", CPU_PER_DELIVERY, target),
            Figure("deliveries per second", field("deliveries_per_s"), uses_generator=True),
        ]
        return Case(name, on(bench.hubs.mercure, lambda running: load(matcher, topic, running)), figures)

    pattern = ("urlpattern", "https://example.com/p%d/:id")
    within = Target(2.0, case=exact)
    return [
        case(exact, ("exact", "https://example.com/p%d/1"), "https://example.com/p%d/1", None),
        case(f"{k} patterns, topics seen before", pattern, "https://example.com/p%d/1", within),
        case(f"{k} patterns, each topic new", pattern, "https://example.com/p%d/%u", within),
    ]
