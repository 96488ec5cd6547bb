"""TLS in the hub, beside plain connections in the same run."""

from __future__ import annotations

from bench.certificate import certificate
from bench.context import Bench, bind, field, on, size_options
from bench.generator import Result, has_tls, sseload
from bench.hubs import Running
from bench.model import Case, Figure, Skipped, Target
from bench.rows.fanout import EFFICIENCY, TOPIC
from bench.rows.fanout import load as deliver

_RECORD = 29 * 1024
"""Bytes a subscriber over TLS took when its buffers were kept; half of it is the target."""


def tls(bench: Bench) -> list[Case]:
    """Fan-out, memory, connecting and publishing.

    :raises Skipped: the load generator was built without OpenSSL.
    """
    if not has_tls():
        raise Skipped("sseload was built without OpenSSL (Debian: apt-get install libssl-dev)")
    n, m = bench.pick((500, 200), (500, 60), (50, 10))
    connections = bench.pick(2000, 500, 50)
    publishes = bench.pick(8000, 1500, 200)
    plain: dict[str, str] = {}
    secure = {"MERCURE_TLS_CERT": str(certificate(bench.folder))}

    def connect(running: Running) -> Result:
        options = size_options(n=connections, settle=bench.pick(1.0, 0.5, 0.1))
        return sseload("connect", *running.where(), *running.subscribe(TOPIC), *options)

    def publish(running: Running) -> Result:
        return sseload(
            "publish", *running.where(), *running.publish("t"), *size_options(p=16, m=publishes, s=200)
        )

    cases = []
    for kind, settings in ("plain", plain), ("TLS", secure):

        def target(bound: float, what: str, kind: str = kind, *, at_least: bool = False) -> Target | None:
            return Target(bound, at_least=at_least, case=f"plain: {what}") if kind == "TLS" else None

        what = f"{n:,} subscribers x {m} updates"
        figures = [
            Figure("deliveries per CPU-second", EFFICIENCY, target(0.54, what, at_least=True)),
            Figure("deliveries per second", field("deliveries_per_s"), uses_generator=True),
        ]
        load = bind(deliver, n=n, m=m, s=200)
        cases.append(Case(f"{kind}: {what}", on(bench.hubs.own, load, **settings), figures))

        what = f"{connections:,} connections"
        memory = Target(_RECORD / 2) if kind == "TLS" else None
        figures = [
            Figure("µs of CPU per connect", field("hub_cpu_us_per_connect"), target(12, what)),
            Figure("bytes per subscriber (PSS)", field("pss_per_conn"), memory),
        ]
        cases.append(Case(f"{kind}: {what}", on(bench.hubs.own, connect, **settings), figures))

        what = "16 publishers"
        figures = [Figure("µs of CPU per publish", field("hub_cpu_us_per_publish"), target(1.5, what))]
        cases.append(Case(f"{kind}: {what}", on(bench.hubs.own, publish, **settings), figures))
    return sorted(cases, key=lambda case: case.name.partition(": ")[2], reverse=True)
