"""Many matchers: in a token, and of a subscriber."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.context import Bench, bind, field, on, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import Case, Figure, Target
from bench.rows.matching import CPU_PER_DELIVERY
from bench.tokens import Matcher

_SITE = "https://example.com"
_ALL = f"{_SITE}/extra/all"
_NAMES = {"exact": "topic", "urlpattern": "pattern"}
_BYTES = {"exact": 512, "urlpattern": 1024}


def tokens(bench: Bench) -> list[Case]:
    """Tokens that allow many topics, each another; private updates that the last of them allows."""

    def load(running: Running, *, kind: str, count: int, n: int) -> Result:
        last: Matcher = ("exact", _ALL) if kind == "exact" else (kind, f"{_SITE}/extra/a:rest")
        path = bench.tokens(running, n, lambda index: [*_others(kind, count - 1, str(index)), last])
        who = [*running.where(), *running.subscribe(("exact", _ALL), tokens=path)]
        updates = bench.pick(30, 20, 10)
        return _connect_and_deliver(who, running.publish(_ALL, private=True), n=n, m=updates)

    return [
        _case(kind, count, counts, "a token", on(bench.hubs.minted, bind(load, kind=kind, count=count, n=n)))
        for kind, n in _subscribers(bench)
        for counts in [_counts(bench)]
        for count in counts
    ]


def subscribers(bench: Bench) -> list[Case]:
    """Subscribers that listen to many topics of their own; updates on one of them, its name always new."""

    def load(running: Running, *, kind: str, count: int, n: int) -> Result:
        own: Matcher = ("exact", "t%d") if kind == "exact" else (kind, f"{_SITE}/t%d/:id")
        who = [*running.where(), *running.subscribe(own, *_others(kind, count - 1, "%d"))]
        topic = "t%d" if kind == "exact" else f"{_SITE}/t%d/%u"
        updates = bench.pick(300, 200, 50)
        return _connect_and_deliver(who, [*running.publish(topic), "-p", "4"], n=n, m=updates)

    return [
        _case(
            kind,
            count,
            counts,
            "a subscriber",
            on(bench.hubs.mercure, bind(load, kind=kind, count=count, n=n)),
        )
        for kind, n in _subscribers(bench)
        for counts in [_counts(bench)]
        for count in counts
    ]


def _subscribers(bench: Bench) -> Sequence[tuple[str, int]]:
    """How many for each kind of matcher: patterns are dear."""
    return bench.pick(
        [("exact", 1000), ("urlpattern", 100)],
        [("exact", 300), ("urlpattern", 50)],
        [("exact", 50), ("urlpattern", 10)],
    )


def _counts(bench: Bench) -> Sequence[int]:
    return bench.pick([1, 10, 100], [1, 100], [20])


def _others(kind: str, count: int, whose: str) -> list[Matcher]:
    """Matchers that no update matches."""
    if kind == "exact":
        return [("exact", f"x{number}-{whose}") for number in range(count)]
    return [(kind, f"{_SITE}/x{number}/{whose}/:id") for number in range(count)]


def _connect_and_deliver(who: Sequence[str], publish: Sequence[str], *, n: int, m: int) -> Result:
    """Connect on the fresh hub for the cost of it, and again for updates."""
    connected = sseload("connect", *who, *size_options(n=n, settle=0.3))
    delivered = sseload("fanout", *who, *publish, *size_options(n=n, m=m, s=200))
    return {**delivered, "connect": connected}


def _name(kind: str, count: int, whose: str) -> str:
    return f"{count} {_NAMES[kind]}{'s' if count > 1 else ''} {whose}"


def _case(
    kind: str, count: int, counts: Sequence[int], whose: str, contestants: Mapping[str, Callable[[], Result]]
) -> Case:
    """The costs of a size; the smallest is what the others are compared with.

    Connecting has to read each matcher, but some of it is not for the matchers: four tenths of
    proportional growth are allowed. So is half a KiB of memory for each topic, and one for each pattern.
    """
    flat = grows = None
    if count > counts[0]:
        first = _name(kind, counts[0], whose)
        flat = Target(1.5, case=first)
        grows = Target(max(2.0, 0.4 * count), case=first)
    return Case(
        _name(kind, count, whose),
        contestants,
        [
            Figure("µs of CPU per delivery", CPU_PER_DELIVERY, flat),
            Figure("µs of CPU per connect", field("connect", "hub_cpu_us_per_connect"), grows),
            Figure(
                "bytes per subscriber (PSS)",
                field("connect", "pss_per_conn"),
                Target(2048 + _BYTES[kind] * count),
            ),
        ],
    )
