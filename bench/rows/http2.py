"""HTTP/2: few connections with many streams, beside as many connections of HTTP/1.1."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from bench.certificate import certificate
from bench.context import Bench, Value, field, on, size_options
from bench.generator import Result, has_tls, sseload
from bench.hubs import Mercure, Running
from bench.model import Case, Figure, Skipped, Target
from bench.rows.fanout import EFFICIENCY, TOPIC

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_CONNECTIONS = 10


def http2(bench: Bench) -> list[Case]:
    """Deliveries, memory and connecting, plain and over TLS.

    :raises Skipped: the hub does not speak HTTP/2.
    """
    with bench.hubs.ours.start() as running:
        if not _speaks(running):
            raise Skipped("the hub does not speak HTTP/2")
    n, m = bench.pick((1000, 200), (1000, 60), (100, 10))
    settle = bench.pick(1.0, 0.5, 0.1)
    secure = {"MERCURE_TLS_CERT": str(certificate(bench.folder))}
    cases = []
    for end, settings in ("", dict[str, str]()), (" over TLS", secure):
        if settings and not has_tls():
            continue
        first = f"{n:,} connections of HTTP/1.1{end}"
        names = {first: 0, f"{_CONNECTIONS} connections of {n // _CONNECTIONS} streams{end}": _CONNECTIONS}
        for name, connections in names.items():

            def load(running: Running, connections: int = connections) -> Result:
                streams = ["-h2", str(connections)] if connections else []
                who = [*running.where(), *running.subscribe(TOPIC), *streams]
                # The first connection loads what speaks its version: memory of the process, not of a stream.
                sseload("connect", *who, *size_options(n=1, settle=0), *(["-h2", "1"] if connections else []))
                connected = sseload("connect", *who, *size_options(n=n, settle=settle))
                delivered = sseload(
                    "fanout", *who, *running.publish("t"), "-order", *size_options(n=n, m=m, s=200)
                )
                return {**delivered, "connect": connected}

            streams = connections > 0
            figures = [
                Figure(
                    "deliveries per CPU-second",
                    EFFICIENCY,
                    Target(1.5, at_least=True, case=first) if streams else None,
                ),
                Figure(
                    "bytes per subscriber (PSS)", _connect("pss_per_conn"), Target(1024) if streams else None
                ),
                Figure(
                    "µs of CPU per connect",
                    _connect("hub_cpu_us_per_connect"),
                    Target(1.5, case=first) if streams else None,
                ),
            ]
            cases.append(Case(name, on(bench.hubs.current, load, **settings), figures))
    return [*cases, *_publishing(bench)]


def _publishing(bench: Bench) -> list[Case]:
    first = "16 publishers over HTTP/1.1"
    cases = []
    for name, words in {first: [], "16 publishers over HTTP/2": ["-ph2"]}.items():

        def load(running: Running, words: Sequence[str] = words) -> Result:
            options = size_options(p=16, m=bench.pick(10_000, 2000, 200), s=200)
            return sseload("publish", *running.where(), *running.publish("t"), *options, *words)

        target = Target(1.5, case=first) if words else None
        figure = Figure("µs of CPU per publish", field("hub_cpu_us_per_publish"), target)
        cases.append(Case(name, on(bench.hubs.current, load), [figure]))
    return cases


def _connect(name: str) -> Value:
    return field("connect", name)


def _speaks(running: Mercure) -> bool:
    """Whether it answers the preface of HTTP/2 with SETTINGS."""
    host, _, port = running.address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as sock:
        sock.sendall(_PREFACE)
        try:
            return sock.recv(9)[3:4] == b"\x04"
        except TimeoutError:
            return False
