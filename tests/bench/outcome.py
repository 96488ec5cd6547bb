"""An outcome as a run would have it."""

from __future__ import annotations

from bench.model import FLOOR, HUB, Line, Row, Target
from bench.report import Outcome

MACHINE = {
    "processor": "Example 9000",
    "cores": "2",
    "memory": "8 GiB",
    "kernel": "Linux 6.1",
    "load": "0.10 0.20 0.30",
    "python": "3.13.1",
    "revision": "abc1234",
    "gevent": "25.1",
}
FANOUT = Row(
    "fanout",
    "Fan-out",
    [
        Line(
            "1,000 subscribers",
            "deliveries per CPU-second",
            {FLOOR: [100.0, 50.0, 200.0], HUB: [95.0, 40.0, 190.0], "nchan": [50.0, 25.0, 100.0]},
            Target(0.9, at_least=True, of=FLOOR),
            generator=0.97,
        ),
        Line("1,000 subscribers", "bytes per idle subscriber (PSS)", {HUB: [2000.0]}, Target(1024)),
    ],
    ["a note"],
    runs=[
        {"run": 1, "case": "1,000 subscribers", "contestant": HUB, "result": {"command": "sseload fanout"}}
    ],
)
SKIPPED = Row("workers", "Two processes", [], [], skipped="the hub says: no", runs=[])
OUTCOME = Outcome(
    "python -m bench.run",
    "2026-01-02 03:04 UTC",
    "full",
    3,
    MACHINE,
    [FANOUT, SKIPPED],
    ["nchan is not here"],
    [],
)
