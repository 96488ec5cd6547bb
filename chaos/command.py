"""``python -m chaos``: runs seeds one after another or side by side, each in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from chaos.injection.library import build
from chaos.invariants import Invariant, violations
from chaos.known import KNOWN, tolerated
from chaos.node import ROOT, sweep
from chaos.plan import ENGINE_FAULTS, ENGINES, NODES, SQLITE, Kind, Plan, draw
from chaos.record import Outcome
from chaos.run import Place, run
from chaos.story import story, summary

_BUILD = ROOT / "build" / "chaos"
_LONGEST = 300.0  # seconds of one seed, whatever happens
_VERDICT = "verdict.json"
_COUNTED = (
    ("lost", {Invariant.LOST, Invariant.GAP, Invariant.STUCK}),
    ("doubled", {Invariant.DOUBLED, Invariant.REPEATED}),
    ("out of order", {Invariant.REORDERED, Invariant.TORN, Invariant.DISAGREE, Invariant.GAPPED}),
)
"""What the last line counts, with the rules that it violates."""
_NUMBERS = ("events", "updates", "acknowledged", "deliveries", *(name for name, _ in _COUNTED))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    :returns: exit status: 0 when all is as expected, 1 when a rule was broken or a known defect did not show
        itself, 2 when the checker failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.engine == SQLITE and (needs := ENGINE_FAULTS & set(options.kind or ())):
        names = ", ".join(sorted(map(_name, needs)))
        parser.error(f"{names}: needs an engine that nodes share, --engine {' or '.join(ENGINES[1:])}")
    if options.explain:
        _explain()
        return 0
    _BUILD.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        return _run_one(options)
    build(_BUILD)
    return _run_all(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description="Run real hubs under faults and hold what clients saw against the log.",
    )
    parser.add_argument(
        "--seeds", metavar="A-B", help="seeds, as 7, 3-20 or 1,5,9; default: from a random one on"
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="start no more seeds after this time; default: 10"
    )
    parser.add_argument("--workers", type=int, default=0, help="worker processes of each hub; default: drawn")
    parser.add_argument("--engine", choices=ENGINES, default=SQLITE, help="store of the hubs")
    parser.add_argument(
        "--nodes",
        type=int,
        default=NODES,
        help=f"hubs on an engine that they share; on SQLite there is one; default: {NODES}",
    )
    parser.add_argument(
        "--kind",
        action="append",
        type=_kind,
        metavar="NAME",
        help="a fault to use instead of the drawn ones; repeatable",
    )
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run in parallel; default: 2")
    parser.add_argument("--hub", type=Path, default=ROOT, metavar="PATH", help="checkout whose hub is run")
    parser.add_argument("--shrink", action="store_true", help="find the faults that a failure does not need")
    parser.add_argument("--known", action="store_true", help="also run the seeds of the known defects")
    parser.add_argument("--list", action="store_true", help="print what the seeds draw without running them")
    parser.add_argument("--explain", action="store_true", help="print the faults and the rules")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--without", type=int, action="append", default=[], help=argparse.SUPPRESS)
    return parser


def _explain() -> None:
    _say("Faults:")
    for kind in Kind:
        _say(f"  {_name(kind):20} {kind.value}")
    _say("Rules; a run fails when")
    for rule in Invariant:
        _say(f"  {rule.name:20} {rule.value}")


def _name(kind: Kind) -> str:
    return kind.name.lower().replace("_", "-")


def _kind(name: str) -> Kind:
    try:
        return Kind[name.upper().replace("-", "_")]
    except KeyError:
        names = ", ".join(map(_name, Kind))
        raise argparse.ArgumentTypeError(f"{name!r} is no fault; there are {names}") from None


# -- one seed, in a process of its own -----------------------------------------------------------


def _run_one(options: argparse.Namespace) -> int:
    plan = _plan(options, options.one, options.kind or ())
    for number in sorted(options.without, reverse=True):
        plan = plan.without(plan.faults[number])
    folder = _folder(options.one, options.without)
    record = asyncio.run(run(plan, Place(options.hub.resolve(), folder, _BUILD / "faulty.so")))
    found = violations(record)
    told = story(plan, record, found)
    (folder / "story.txt").write_text(told + "\n")
    (folder / _VERDICT).write_text(
        json.dumps(
            {
                "rules": sorted({violation.invariant.name for violation in found}),
                "summary": summary(found),
                "updates": len(record.log),
                "events": sum(deed.happened and deed.name in Kind.__members__ for deed in record.deeds),
                "acknowledged": sum(
                    len(one.updates) for one in record.publications if one.outcome is Outcome.STORED
                ),
                **{
                    name: sum(violation.invariant in rules for violation in found) for name, rules in _COUNTED
                },
                "deliveries": sum(len(session.received) for session in record.sessions),
            }
        )
    )
    return 1 if found else 0


def _plan(options: argparse.Namespace, seed: int, kinds: Sequence[Kind]) -> Plan:
    return draw(
        seed, workers=options.workers, engine=options.engine, nodes=options.nodes, kinds=kinds or None
    )


def _folder(seed: int, without: Sequence[int]) -> Path:
    return _BUILD / "-".join(["seed", str(seed), *(f"without{number}" for number in without)])


# -- many seeds ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """A seed to run.

    :param expected: rules of which it has to break one; empty: none is known for it.
    """

    seed: int
    kinds: tuple[Kind, ...]
    expected: frozenset[Invariant] = frozenset()
    words: str = ""


@dataclass
class _Tally:
    seeds: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NUMBERS, 0))
    failed: list[str] = field(default_factory=list)
    known: int = 0


def _run_all(options: argparse.Namespace) -> int:
    minutes = options.minutes or (10 if options.seeds is None else float("inf"))
    begun = time.monotonic()
    tasks = _tasks(options)
    if options.list:
        for task in itertools.islice(tasks, 1000 if options.seeds else 40):
            _say("\n".join(_plan(options, task.seed, task.kinds).words()))
        return 0
    tally = _Tally()
    with ThreadPoolExecutor(options.jobs) as pool:
        running: dict[Future[tuple[int, str]], _Task] = {}
        while True:
            while len(running) < options.jobs and (
                time.monotonic() - begun < minutes * 60 or not tally.seeds
            ):
                if (following := next(tasks, None)) is None:
                    break
                running[pool.submit(_in_child, options, following)] = following
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(done)
                _report(options, task, *done.result(), tally)
    return _conclude(tally, time.monotonic() - begun)


def _tasks(options: argparse.Namespace) -> Iterator[_Task]:
    if options.known:
        for known in KNOWN:
            if known.engine == options.engine:
                yield _Task(known.seed, known.kinds, known.rules, known.words)
    kinds = tuple(options.kind or ())
    if options.seeds is None:
        first = random.SystemRandom().randrange(1_000_000)
        _say(f"seeds from {first} on")
        yield from (_Task(seed, kinds) for seed in itertools.count(first))
        return
    for part in options.seeds.split(","):
        first, _, last = part.partition("-")
        yield from (_Task(seed, kinds) for seed in range(int(first), int(last or first) + 1))


def _in_child(options: argparse.Namespace, task: _Task, without: Sequence[int] = ()) -> tuple[int, str]:
    """Run a seed.

    :returns: exit status and what it printed.
    """
    command = [sys.executable, "-m", "chaos", "--one", str(task.seed), "--workers", str(options.workers)]
    command += ["--engine", options.engine, "--nodes", str(options.nodes), "--hub", str(options.hub)]
    for kind in task.kinds:
        command += ["--kind", kind.name]
    for number in without:
        command += ["--without", str(number)]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            printed, _ = child.communicate(timeout=_LONGEST)
        except BaseException as error:
            child.kill()
            sweep(child.pid)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return 2, f"it did not end within {_LONGEST:.0f} s"
        return child.returncode, printed


def _report(options: argparse.Namespace, task: _Task, status: int, printed: str, tally: _Tally) -> None:
    folder = _folder(task.seed, ())
    tally.seeds += 1
    verdict = folder / _VERDICT
    if status not in (0, 1) or not verdict.exists():
        _say(f"seed {task.seed}: the checker failed\n{printed}")
        tally.failed.append(f"{task.seed} (the checker failed)")
        return
    found = json.loads(verdict.read_text())
    for name in _NUMBERS:
        tally.counts[name] += found[name]
    rules = {Invariant[name] for name in found["rules"]}
    unexpected = rules - tolerated(options.engine) - task.expected
    line = (
        f"seed {task.seed}: {found['updates']} updates, {found['deliveries']} deliveries, {found['summary']}"
    )
    if task.expected and not rules & task.expected:
        names = ", ".join(sorted(one.name for one in task.expected))
        _say(f"{line}\n  this seed showed a known defect ({task.words}: {names}) and no longer does:")
        _say("  if the defect is fixed, remove it from the list in chaos/known.py")
        tally.failed.append(f"{task.seed} (passes unexpectedly)")
        return
    if not unexpected:
        tally.known += bool(rules)
        _say(f"{line}{' (known)' if rules else ''}")
        return
    tally.failed.append(f"{task.seed} ({', '.join(sorted(one.name for one in unexpected))})")
    _say(f"{line}\n{(folder / 'story.txt').read_text()}")
    if options.shrink:
        _shrink(options, task, unexpected)


def _shrink(options: argparse.Namespace, task: _Task, rules: set[Invariant]) -> None:
    """Run a seed again without each of its faults, and tell which ones the failure does not need."""
    plan = _plan(options, task.seed, task.kinds)
    without: list[int] = []
    for number in range(len(plan.faults)):
        tried = [*without, number]
        status, _ = _in_child(options, task, tried)
        verdict = _folder(task.seed, tried) / _VERDICT
        if status == 1 and rules & {Invariant[name] for name in json.loads(verdict.read_text())["rules"]}:
            without = tried
    needed = [fault.kind.value for number, fault in enumerate(plan.faults) if number not in without]
    _say(f"seed {task.seed}: the failure needs {', '.join(needed) or 'no fault at all'}")


def _conclude(tally: _Tally, seconds: float) -> int:
    known = f", {tally.known} broke rules as known" if tally.known else ""
    counts = ", ".join(f"{count} {name}" for name, count in tally.counts.items())
    _say(f"{tally.seeds} seeds in {seconds / 60:.1f} minutes, {counts}{known}; {len(tally.failed)} failed")
    for failed in tally.failed:
        _say(f"  seed {failed}")
    if tally.failed:
        _say("  run one again: make chaos SEEDS=N; what it left is in build/chaos/seed-N")
    return 1 if tally.failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
