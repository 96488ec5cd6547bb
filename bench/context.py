"""What a row needs to build its cases: the hubs, the sizes, a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from bench.engines import Engines
from bench.generator import Result, at, sseload
from bench.hubs import Contestant, Hubs, Running
from bench.tokens import Matcher, write_header

T = TypeVar("T")
Size = Literal["full", "quick", "smoke"]
Value = Callable[[Result], float | None]


@dataclass(frozen=True, slots=True)
class Bench:
    """The surroundings of a measurement.

    :param folder: for files of the run.
    :param engines: servers of PostgreSQL and Valkey.
    """

    hubs: Hubs
    size: Size
    folder: Path
    engines: Engines

    def pick(self, full: T, quick: T, smoke: T) -> T:
        """The value for this size."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.size]

    def tokens(self, running: Running, count: int, matchers: Callable[[int], Sequence[Matcher]]) -> Path:
        """A file with a subscriber's token on each line.

        :param running: a hub that we can make tokens for.
        :param matchers: what the token of a subscriber allows.
        """
        mint = running.mint
        assert mint is not None, "only hubs of Hubs.minted take part in this"
        tokens = [mint.token("subscribe", matchers(index), f"user {index}") for index in range(count)]
        return write_header(self.folder / "subscribers", *tokens)


def on(
    contestants: Sequence[Contestant],
    load: Callable[[Running], Result],
    **settings: str,
) -> dict[str, Callable[[], Result]]:
    """The same load for each hub, by its name.

    :param settings: ``MERCURE_...`` variables of our hub.
    """

    def bound(contestant: Contestant) -> Callable[[], Result]:
        def run() -> Result:
            with contestant.start(**settings) as running:
                return load(running)

        return run

    return {contestant.name: bound(contestant) for contestant in contestants}


def floor(*options: str) -> Callable[[], Result]:
    """The floor with a load of ``fanout``."""
    return lambda: sseload("floor", *options)


def field(*path: str) -> Value:
    """Reads a field of a result."""
    return lambda result: at(result, *path)


def per(total: str, count: str, factor: float = 1.0) -> Value:
    """Reads one field divided by another."""

    def value(result: Result) -> float | None:
        above, below = at(result, total), at(result, count)
        return None if above is None or not below else above * factor / below

    return value


def bind(load: Callable[..., Result], **options: object) -> Callable[[Running], Result]:
    """A load with its options."""
    return partial(load, **options)


def size_options(**options: object) -> list[str]:
    """``n=5`` as ``-n 5``."""
    pairs: Mapping[str, object] = options
    return [word for name, value in pairs.items() for word in (f"-{name}", str(value))]
