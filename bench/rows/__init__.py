"""The rows of the table: a subject each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.context import Bench
from bench.model import Case
from bench.rows import (
    engines,
    fanout,
    http2,
    idle,
    logs,
    matchers,
    matching,
    publishing,
    replay,
    tls,
    workers,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A row before it is measured.

    :param build: makes its cases; may raise ``Skipped``.
    :param notes: what a reader has to know.
    :param is_apart: a run of all rows leaves it out: it takes long.
    """

    name: str
    title: str
    build: Callable[[Bench], Sequence[Case]]
    notes: Sequence[str] = ()
    is_apart: bool = False


_STORAGE = (
    "the hub's store without HTTP; PostgreSQL and Valkey are as durable as SQLite with `synchronous=FULL`"
)

SUBJECTS = (
    Subject("fanout", "Fan-out", fanout.fanout),
    Subject(
        "burst", "Burst", fanout.burst,
        ["the floor writes each update separately; the hubs join waiting updates into one write"],
    ),
    Subject("private", "A private topic and a token for each subscriber", matching.private),
    Subject("patterns", "Patterns", matching.patterns),
    Subject("connect", "Connecting and idling", idle.connect, ["nchan neither checks nor stores tokens"]),
    Subject(
        "publish", "Publishing", publishing.publish,
        [
            "our hub answers after a commit with `synchronous=FULL`; the floor appends to a file, syncs it "
            "once for all that wait, and answers; nchan is not durable"
        ],
    ),
    Subject("replay", "Reconnecting", replay.replay),
    Subject("latency", "Latency", fanout.latency),
    Subject("idle", "Idle", idle.idle),
    Subject("many", "Many idle subscribers", idle.many),
    Subject("stalled", "Subscribers that read nothing", fanout.stalled),
    Subject("bodies", "Large updates", publishing.bodies),
    Subject("topics", "Many topics", publishing.topics),
    Subject("tokens", "Tokens with many matchers", matchers.tokens),
    Subject("matchers", "Subscribers with many matchers", matchers.subscribers),
    Subject("storm", "Reconnecting all at once", replay.storm),
    Subject("scan", "Replay from earliest by pattern", replay.scan),
    Subject("workers", "Two processes", workers.workers),
    Subject("logs", "A line in the log for each request", logs.logs),
    Subject("tls", "TLS in the hub", tls.tls, ["each connection makes a full handshake"]),
    Subject(
        "http2", "HTTP/2", http2.http2,
        ["each stream counts as a connect; the load generator sends all fields anew, browsers do not"],
    ),
    Subject("disk", "Disk", replay.disk, ["without the write-ahead log, some MB more"]),
    Subject("millions", "Reconnecting with a long history", replay.millions, is_apart=True),
    Subject("appends", "Storage alone: one node", engines.appends, [_STORAGE], True),
    Subject("arrivals", "Storage alone: another node reads", engines.arrivals, [_STORAGE], True),
    Subject("nodes", "Storage alone: several nodes", engines.nodes, [_STORAGE], True),
    Subject("resumes", "Storage alone: reconnecting", engines.resumes, (), True),
    Subject("readers", "A hub that follows an engine", engines.readers, (), True),
    Subject("hubs", "Publishing, by engine", engines.hubs, (), True),
)  # fmt: skip

GROUPS = {
    "cliffs": ("bodies", "topics", "tokens", "matchers", "storm", "scan"),
    "engines": ("appends", "arrivals", "nodes", "resumes", "readers", "hubs"),
}


def chosen(words: str, *, is_smoke: bool = False) -> list[Subject]:
    """The subjects that a list with commas names; without one, those of a whole run.

    :param is_smoke: the engines are among them, which take long in other sizes.
    :raises ValueError: there is no such subject.
    """
    if not words:
        also = GROUPS["engines"] if is_smoke else ()
        return [subject for subject in SUBJECTS if not subject.is_apart or subject.name in also]
    names = [name for word in words.split(",") for name in GROUPS.get(word, (word,))]
    known = {subject.name for subject in SUBJECTS}
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no row; there are {', '.join([*sorted(known), *GROUPS])}")
    return [subject for subject in SUBJECTS if subject.name in names]
