"""The few figures of a measurement that users ask for, in plain words, and what they mean for a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.machine import PYTHON
from bench.model import HUB, Line, Row, number

_GIB, _MICRO = 2**30, 1e6


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure is read: the names of a row, of a case, and of the figure."""

    row: str
    case: str
    title: str

    def line(self, rows: Sequence[Row]) -> tuple[Row, Line] | None:
        """The line of the table, with its row; ``None`` if it was not measured."""
        for row in rows:
            for line in row.lines:
                if (row.name, line.case, line.title) == (self.row, self.case, self.title):
                    return row, line
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the short table.

    :param words: what the hub does.
    :param figure: with ``{}`` for the value.
    :param change: makes the value of what was measured.
    :param beside: with ``{}`` for the ratio of the long table; empty without one.
    """

    words: str
    source: Source
    figure: str
    change: Callable[[float], float] = float
    beside: str = ""


def _per_second(micro: float) -> float:
    return _MICRO / micro


_FAN = "1,000 subscribers x 200 updates"
_STORM = "5,000, 128 at a time, 10 behind, history of 1,000,000"
_CPU_RATE = "deliveries per CPU-second"
_CONNECT, _PUBLISH = "µs of CPU per connect", "µs of CPU per publish"
_BYTES = "bytes per idle subscriber (PSS)"
_ANONYMOUS, _WITH_TOKEN = "5,000 on one topic", "5,000 with a topic and a token each"
_TLS, _TLS_MANY = "TLS: 500 subscribers x 200 updates", "TLS: 2,000 connections"
_STREAMS = "10 connections of 100 streams"
_CPU = {
    "connecting": Source("connect", _ANONYMOUS, _CONNECT),
    "publishing": Source("publish", "64 publishers", _PUBLISH),
    "fan-out": Source("fanout", _FAN, _CPU_RATE),
}
_DISK = Source("disk", "history of 1,000,000, 200 bytes each", "bytes on disk per update")

ENTRIES = (
    Entry("An update for 1,000 subscribers of a topic", Source("fanout", _FAN, _CPU_RATE),
          "{} deliveries a second and core", beside="{} of a C loop of `send()`"),
    Entry("64 publishers at once, 1,000 subscribers",
          Source("burst", "1,000 subscribers, 64 publishers x 2,000 updates", _CPU_RATE),
          "{} deliveries a second and core", beside="{} x nchan"),
    Entry("50,000 deliveries a second: from sending an update to reading it",
          Source("latency", "50,000 deliveries a second", "p50, ms"), "{} ms (median)", beside="{} x nchan"),
    Entry("The same, the slowest hundredth",
          Source("latency", "50,000 deliveries a second", "p99, ms"), "{} ms", beside="{} x nchan"),
    Entry("A lone publisher waits for its answer, the update on disk",
          Source("publish", "1 publisher", "ms to the answer (p50)"), "{} ms",
          beside="{} x the durable floor"),
    Entry("64 publishers, each update on disk before its answer",
          Source("publish", "64 publishers", _PUBLISH), "{} updates a second and core",
          _per_second, "{} x the CPU of the durable floor"),
    Entry("Connecting", Source("connect", _ANONYMOUS, _CONNECT), "{} a second and core", _per_second,
          "{} x the CPU of nchan"),
    Entry("Connecting, each with a token of its own", Source("connect", _WITH_TOKEN, _CONNECT),
          "{} a second and core", _per_second),
    Entry("Coming back after a restart of the proxy, ten updates behind",
          Source("storm", _STORM, "µs of CPU per subscriber"), "{} a second and core", _per_second),
    Entry("A private update for one of 10,000 subscribers",
          Source("private", "10,000 connected, updates for 100", "µs of CPU per update"),
          "{} updates a second and core", _per_second, "{} x the CPU with 100 subscribers"),
    Entry("Memory of an idle subscriber", Source("connect", _ANONYMOUS, _BYTES), "{} bytes",
          beside="{} x nchan"),
    Entry("Memory of a process with 19,000 of them",
          Source("many", "19,000 subscribers", "MiB of the process (PSS)"), "{} MiB"),
    Entry("TLS in the hub: an update for 500 subscribers", Source("tls", _TLS, _CPU_RATE),
          "{} deliveries a second and core", beside="{} of plain connections"),
    Entry("HTTP/2: an update for 1,000 streams on 10 connections", Source("http2", _STREAMS, _CPU_RATE),
          "{} deliveries a second and core", beside="{} x 1,000 connections"),
    Entry("A line in the log for each request, while 64 publish",
          Source("logs", "64 publishers, with a line for each", _PUBLISH), "{} µs of CPU per publish",
          beside="{} of publishing without lines"),
    Entry("Disk for a million updates of 200 bytes", _DISK, "{} MB"),
)  # fmt: skip


_HALF = 0.5

SIZES = (
    Entry("a core: deliveries a second", Source("fanout", _FAN, _CPU_RATE), "{}", lambda rate: _HALF * rate),
    Entry("a core: deliveries a second with TLS in the hub", Source("tls", _TLS, _CPU_RATE),
          "{}", lambda rate: _HALF * rate),
    Entry("a core: updates stored a second, 64 publishers", Source("publish", "64 publishers", _PUBLISH),
          "{}", lambda micro: _HALF * _MICRO / micro),
    Entry("a core: clients that connect in a second, each with a token",
          Source("connect", _WITH_TOKEN, _CONNECT), "{}", lambda micro: _HALF * _MICRO / micro),
    Entry("a process before its first subscriber",
          Source("many", "19,000 subscribers", "MiB before the first of them (PSS)"), "{} MiB"),
    Entry("a GiB: idle subscribers with a topic and a token each", Source("connect", _WITH_TOKEN, _BYTES),
          "{}", lambda size: _GIB / size),
    Entry("a GiB: idle subscribers with TLS in the hub",
          Source("tls", _TLS_MANY, "bytes per subscriber (PSS)"), "{}", lambda size: _GIB / size),
    Entry("a million updates of 200 bytes in the history", _DISK, "{} MB of disk"),
)  # fmt: skip


def markdown(rows: Sequence[Row], python: str, variants: Sequence[str] = ()) -> str:
    """The short table, of what was measured.

    :param python: version that ran the hub.
    :param variants: other forms of the hub; those of another Python have a line.
    """
    lines = ["| one process | on this machine | beside |", "|---|---:|---|"]
    for entry in ENTRIES:
        found = entry.source.line(rows)
        value = None if found is None else found[1].median(HUB)
        if found is None or value is None:
            continue
        row, line = found
        ratio = row.ratio(line) if entry.beside else None
        beside = "" if ratio is None else entry.beside.format(number(ratio))
        lines.append(f"| {entry.words} | {entry.figure.format(number(entry.change(value)))} | {beside} |")
    return "\n".join([*lines, *_pythons(rows, python, variants)]) + "\n"


def sizes(rows: Sequence[Row]) -> str:
    """What to plan with: half of what a core did, and memory and disk as they were."""
    lines = ["| to plan with | |", "|---|---:|"]
    for size in SIZES:
        found = size.source.line(rows)
        value = None if found is None else found[1].median(HUB)
        if value is not None:
            lines.append(f"| {size.words} | {size.figure.format(_rounded(size.change(value)))} |")
    return "\n".join(lines) + "\n"


def _pythons(rows: Sequence[Row], python: str, variants: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in variants:
        ratios = {words: _cpu(source, rows, name) for words, source in _CPU.items()}
        told = [f"{number(ratio)} for {words}" for words, ratio in ratios.items() if ratio is not None]
        if name.startswith(PYTHON) and told:
            found.append(f"| CPU with Python {python}, of that with {name} | {', '.join(told)} | |")
    return found


def _cpu(source: Source, rows: Sequence[Row], other: str) -> float | None:
    """The CPU of the hub for the same work, of that of another form of it."""
    found = source.line(rows)
    ratio = None if found is None else found[1].ratio_to(other)
    return 1 / ratio if ratio and source.title == _CPU_RATE else ratio


def _rounded(value: float) -> str:
    """Two digits: more would promise too much."""
    return f"{float(f'{value:.2g}'):,.0f}"
