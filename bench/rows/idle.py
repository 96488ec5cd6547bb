"""Subscribers that get nothing: what connecting, staying and being many costs."""

from __future__ import annotations

from bench.context import Bench, field, on, per, size_options
from bench.generator import Result, sseload
from bench.hubs import Running
from bench.model import Case, Figure, Target
from bench.rows.fanout import TOPIC, mib


def connect(bench: Bench) -> list[Case]:
    """Memory and CPU of a connection."""
    n = bench.pick(5000, 2000, 200)
    settle = bench.pick(1.0, 1.0, 0.1)

    def anonymous(running: Running) -> Result:
        return sseload(
            "connect", *running.where(), *running.subscribe(TOPIC), *size_options(n=n, settle=settle)
        )

    def with_tokens(running: Running) -> Result:
        path = bench.tokens(running, n, lambda index: [("exact", f"t{index}")])
        who = running.subscribe(("exact", "t%d"), tokens=path)
        return sseload("connect", *running.where(), *who, *size_options(n=n, settle=settle))

    memory, cpu = "bytes per idle subscriber (PSS)", "µs of CPU per connect"
    return [
        Case(
            f"{n:,} on one topic",
            on(bench.hubs.all, anonymous),
            [
                Figure(memory, field("pss_per_conn"), Target(1024), against="nchan"),
                Figure(cpu, field("hub_cpu_us_per_connect"), against="nchan"),
            ],
        ),
        Case(
            f"{n:,} with a topic and a token each",
            on(bench.hubs.minted, with_tokens),
            [
                Figure(memory, field("pss_per_conn"), Target(2048)),
                Figure(cpu, field("hub_cpu_us_per_connect")),
            ],
        ),
    ]


def many(bench: Bench) -> list[Case]:
    """The memory of a process that serves many."""
    n = bench.pick(19_000, 5000, 250)  # 20,000 descriptors are what many machines allow

    def load(running: Running) -> Result:
        return sseload("connect", *running.where(), *running.subscribe(TOPIC), *size_options(n=n, settle=1))

    figures = [
        Figure("MiB of the process (PSS)", mib("pss_connected"), Target(48)),
        Figure("MiB before the first of them (PSS)", mib("pss_before")),
    ]
    return [Case(f"{n:,} subscribers", on(bench.hubs.own, load), figures)]


def idle(bench: Bench) -> list[Case]:
    """A quiet hub, whose heartbeats go on: as many a second in each size."""
    n, heartbeat = bench.pick((10_000, 40), (1000, 4), (250, 1))

    def load(running: Running) -> Result:
        return sseload(
            "connect",
            *running.where(),
            *running.subscribe(TOPIC),
            *size_options(n=n, settle=1, hold=heartbeat),
        )

    return [
        Case(
            f"{n:,} subscribers, heartbeat {heartbeat} s",
            on(bench.hubs.own, load, MERCURE_HEARTBEAT=str(heartbeat)),
            [
                Figure("CPU, % of a core", per("idle_hub_cpu_s", "held_s", 100), Target(1.0)),
                Figure(
                    "bytes received per subscriber",
                    lambda result: result["held_bytes"] / result["connected"],
                ),
            ],
        )
    ]
