"""Coming back: how long until a subscriber has what it missed, by the size of the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.context import Bench, field, on, per, size_options
from bench.generator import Result, sseload
from bench.history import EVENTS, NEWEST, RARE, RARE_PATTERN
from bench.hubs import OurHub, Running
from bench.model import Case, Figure, Target
from bench.tokens import Matcher


@dataclass(frozen=True, slots=True)
class _Return:
    """A way of coming back.

    :param limit: ms that the last event may take.
    :param is_tail: from the update before the last ten, not from the earliest.
    """

    name: str
    matcher: Matcher
    limit: float
    is_tail: bool

    def at(self, size: int) -> str:
        """The name of its case."""
        return f"{self.name}, history of {size:,}"


_AT_ONCE = 128
_WAYS = (
    _Return(f"{EVENTS} behind, one topic", ("exact", NEWEST), 5.0, True),
    _Return(f"{EVENTS} behind, by pattern", ("urlpattern", "*ewest"), 5.0, True),
    _Return(f"earliest, {EVENTS} events of a topic", ("exact", RARE), 20.0, False),
)
_SCAN = _Return(f"earliest by pattern, {EVENTS} events", ("urlpattern", RARE_PATTERN), 100.0, False)


def replay(bench: Bench) -> list[Case]:
    """Ten events behind, and ten events among all of them."""
    sizes = bench.pick((10_000, 1_000_000), (10_000, 100_000), (1000,))
    count = bench.pick(200, 50, 10)
    return [_case(bench, way, size, count, sizes[0]) for way in _WAYS for size in sizes]


def storm(bench: Bench) -> list[Case]:
    """All come back at once, as after a restart of the proxy or the network; each lacks ten events."""
    count, size = bench.pick((5000, 1_000_000), (2000, 100_000), (100, 1000))

    def load(behind: str, running: Running) -> Result:
        return sseload(
            "replay", *running.where(), *running.subscribe(("exact", NEWEST)),
            "-H", f"Last-Event-ID: {behind}", *size_options(n=count, events=EVENTS, c=_AT_ONCE),
        )  # fmt: skip

    figures = [
        Figure("µs of CPU per subscriber", field("hub_cpu_us_per_replay"), Target(250)),
        Figure("per second", per("n", "wall_s"), uses_generator=True),
        Figure(f"ms to event {EVENTS} (p99)", field("last_event_ms", "p99"), uses_generator=True),
    ]
    name = f"{count:,}, {_AT_ONCE} at a time, {EVENTS} behind, history of {size:,}"
    return [Case(name, _on_history(bench, size, load), figures)]


def scan(bench: Bench) -> list[Case]:
    """From the earliest by a pattern: the topics of the history are looked through, and not its updates."""
    sizes = bench.pick((10_000, 100_000, 1_000_000), (10_000, 100_000), (1000,))
    return [_case(bench, _SCAN, size, 10, sizes[0]) for size in sizes]


def millions(bench: Bench) -> list[Case]:
    """The same with ten times as much history as in the other rows."""
    sizes = bench.pick((1_000_000, 10_000_000), (10_000, 100_000), (1000, 2000))
    ways = (*_WAYS, _SCAN)
    return [_case(bench, way, size, 10 if way is _SCAN else 200, sizes[0]) for way in ways for size in sizes]


def disk(bench: Bench) -> list[Case]:
    """The size of a history."""
    size = bench.pick(1_000_000, 100_000, 1000)

    def load(one: OurHub) -> Result:
        path = Path(one.history(size).url.removeprefix("sqlite:///"))
        return {"bytes_per_update": path.stat().st_size / size}

    figure = Figure("bytes on disk per update", field("bytes_per_update"))
    contestants = {one.name: partial(load, one) for one in bench.hubs.own}
    return [Case(f"history of {size:,}, 200 bytes each", contestants, [figure])]


def _case(bench: Bench, way: _Return, size: int, count: int, shortest: int) -> Case:

    def load(behind: str, running: Running) -> Result:
        cursor = behind if way.is_tail else "earliest"
        return sseload(
            "replay", *running.where(), *running.subscribe(way.matcher), "-H", f"Last-Event-ID: {cursor}",
            *size_options(n=count, events=EVENTS),
        )  # fmt: skip

    is_flat = size > shortest > 0
    figures = [
        Figure(
            f"ms to event {EVENTS} (p50)",
            field("last_event_ms", "p50"),
            Target(way.limit),
            uses_generator=True,
        ),
        Figure(
            "µs of CPU",
            field("hub_cpu_us_per_replay"),
            Target(1.5, case=way.at(shortest)) if is_flat else None,
        ),
    ]
    return Case(way.at(size), _on_history(bench, size, load), figures)


def _on_history(
    bench: Bench, size: int, load: Callable[[str, Running], Result]
) -> dict[str, Callable[[], Result]]:
    """A load on hubs that find a history.

    :param load: gets the id of the update before the last ten.
    """
    found: dict[str, Callable[[], Result]] = {}
    for one in bench.hubs.own:
        history = one.history(size)
        found |= on([one], partial(load, history.behind), MERCURE_TRANSPORT_URL=history.url)
    return found
