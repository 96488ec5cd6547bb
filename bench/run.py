"""Measures the hub beside the floor and other hubs; docs/performance.md says how.

    make bench                          all rows but two groups, three runs of each
    make bench BENCH='--only engines'   PostgreSQL and Valkey
    make bench BENCH='--only millions'  a history of ten million updates
    make bench-quick                    one small run of each, some three minutes
    make bench BENCH=--smoke            smaller still, for correctness only
    make bench BENCH='--only fanout,connect --runs 3'
    make bench BENCH='--hub-tree /path/to/an/older/checkout'
    make bench BENCH='--hub http://127.0.0.1:8080/.well-known/mercure --hub-pid 123 ...'

Everything goes over the loopback. The floor is `sseload floor`: a C loop of send() without protocol,
tokens or storage.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from bench import machine, report
from bench.context import Bench, Size
from bench.engines import Engines
from bench.generator import SSELOAD, Fault
from bench.hubs import Contestant, GivenHub, Hubs, Nchan, OurHub, Refused, nchan_is_missing
from bench.model import Row, Skipped, measure
from bench.rows import GROUPS, SUBJECTS, Subject, chosen
from bench.tokens import EVERYTHING, Mint, write_header

_OUT = Path("build/bench")
_MOST_WORDS = 160


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :returns: exit status: 0, 1 if a run found a fault, 2 if it could not be made.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        subjects = chosen(options.only, is_smoke=options.size == "smoke")
    except ValueError as error:
        return _refuse(f"--only: {error}")
    if not SSELOAD.exists():
        return _refuse("sseload is not built: make -C bench")
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine_before = machine.describe()
    size: Size = options.size
    runs = options.runs or (3 if size == "full" else 1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mercure-bench-", dir=options.temporary) as name:
        folder = Path(name)
        try:
            hubs = _hubs(options, folder)
        except ValueError as error:
            return _refuse(str(error))
        with closing(Engines(folder)) as engines:
            bench = Bench(hubs, size, folder, engines)
            for subject in subjects:
                begun = time.monotonic()
                rows.append(_row(bench, subject, runs))
                _tell(f"{subject.name} took {time.monotonic() - begun:.0f} s", end=True)
    command = shlex.join(["python", "-m", "bench.run", *_without_secrets(words)])
    variants = [one.name for one in hubs.variants]
    outcome = report.Outcome(command, started, size, runs, machine_before, rows, hubs.absent, variants)
    report.write(outcome, options.out)
    table = report.markdown(outcome)
    (options.out / "table.md").write_text(table)
    sys.stdout.write(table)
    _tell(f"written to {options.out}/: results.json, table.md and a picture for each row", end=True)
    return 1 if any(row.failed for row in rows) else 0


def _row(bench: Bench, subject: Subject, runs: int) -> Row:
    try:
        _tell(f"{subject.name}: getting ready")
        cases = subject.build(bench)
    except Skipped as error:
        return Row(subject.name, subject.title, skipped=str(error))
    try:
        lines, records = measure(cases, runs, lambda words: _tell(f"{subject.name}, {words}"))
    except (Fault, Refused) as error:
        sys.stderr.write(f"\n{subject.name}: {error}\n")  # the other rows can still be measured
        return Row(subject.name, subject.title, skipped=_shown(error), failed=True)
    return Row(subject.name, subject.title, lines, subject.notes, runs=records)


def _shown(error: Exception) -> str:
    """The first line, as much of it as a table can hold."""
    line = str(error).splitlines()[0].replace("|", "/")
    return line if len(line) <= _MOST_WORDS else f"{line[:_MOST_WORDS]} ..."


def _hubs(options: argparse.Namespace, folder: Path) -> Hubs:
    """Who takes part.

    :raises ValueError: the options for another hub do not fit together.
    """
    others: list[Contestant] = []
    absent = []
    missing = nchan_is_missing()
    if missing:
        absent.append(missing)
    elif size_has_peers(options.size):
        others.append(Nchan(folder))
    if options.hub:
        others.append(_given(options, folder))
    settings = dict(options.setting)
    variants = [
        *(OurHub(folder, name, settings, tree=Path(path).resolve()) for name, path in options.hub_tree),
        *(
            OurHub(folder, name, settings, python=str(Path(path).absolute()))
            for name, path in options.hub_python
        ),
    ]
    return Hubs(OurHub(folder, settings=settings), others, absent, variants)


def _named(default: str, words: str) -> tuple[str, str]:
    """``NAME=PATH`` or a path, for argparse.

    :raises ValueError: nothing is there.
    """
    name, equals, path = words.rpartition("=")
    if not Path(path).exists():
        raise ValueError(path)
    return name if equals else default, path


def _setting(words: str) -> tuple[str, str]:
    """A setting of our hub, for argparse.

    :raises ValueError: it is not one.
    """
    name, equals, value = words.partition("=")
    if not (name.startswith("MERCURE_") and equals) or "KEY" in name:  # the keys are ours, and shown nowhere
        raise ValueError(name)
    return name, value


def size_has_peers(size: str) -> bool:
    """Whether nchan takes part: the short run looks at our own correctness."""
    return size != "smoke"


def _given(options: argparse.Namespace, folder: Path) -> GivenHub:
    publisher = folder / "other-publisher"
    mint = None
    if options.hub_secret:
        mint = Mint(_secret(options.hub_secret), options.hub, options.hub_protocol)
    if options.publisher_token:
        write_header(publisher, _secret(options.publisher_token))
    elif mint is not None:
        write_header(publisher, mint.token("publish", [EVERYTHING]))
    else:
        raise ValueError("--hub needs --publisher-token or --hub-secret")
    subscriber = None
    if options.subscriber_token:
        subscriber = write_header(folder / "other-subscriber", _secret(options.subscriber_token))
    return GivenHub(
        options.hub_name,
        options.hub,
        publisher,
        options.hub_protocol,
        subscriber,
        options.hub_pid,
        mint,
    )


def _python(path: str) -> tuple[str, str]:
    """An interpreter and the name of its column, for argparse.

    :raises ValueError: it does not run.
    """
    code = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(path) from error
    return f"{machine.PYTHON} {done.stdout.strip()}", path


def _secret(given: str) -> str:
    """A value, or with ``@`` the content of a file, which keeps it out of the process list."""
    return Path(given[1:]).read_text().strip() if given.startswith("@") else given


_SECRETS = ("--publisher-token", "--subscriber-token", "--hub-secret")


def _without_secrets(words: Sequence[str]) -> list[str]:
    """The command as it may be shown: without tokens and secrets."""
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide:
            shown.append("...")
        elif name in _SECRETS and equals:
            shown.append(f"{name}=...")
        else:
            shown.append(word)
        hide = word in _SECRETS
    return shown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    names = ", ".join([*(subject.name for subject in SUBJECTS), *GROUPS])
    parser.set_defaults(size="full")
    parser.add_argument(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        help="smaller loads, one run of each case",
    )
    parser.add_argument(
        "--smoke",
        dest="size",
        action="store_const",
        const="smoke",
        help="tiny loads; checks correctness only",
    )
    parser.add_argument(
        "--only", default="", metavar="ROWS", help=f"comma-separated rows or groups:\n{names}"
    )
    parser.add_argument("--runs", type=int, help="runs of each case (3; 1 with --quick and --smoke)")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"folder for the results ({_OUT})")
    parser.add_argument("--temporary", help="folder for the databases; chooses the disk to measure")
    parser.add_argument(
        "--setting",
        type=_setting,
        action="append",
        default=[],
        metavar="MERCURE_NAME=VALUE",
        help="setting of our hub in all rows; repeatable",
    )
    variants = parser.add_argument_group("our hub in another form, in all rows")
    variants.add_argument(
        "--hub-tree", type=partial(_named, "before"), action="append", default=[], metavar="[NAME=]PATH",
        help="checkout of another revision, whose hub gets a column (before)",
    )  # fmt: skip
    variants.add_argument(
        "--hub-python", type=_python, action="append", default=[], metavar="PYTHON",
        help="another interpreter, with the packages that the hub needs, for a column",
    )  # fmt: skip
    other = parser.add_argument_group("another Mercure hub that runs on this machine")
    other.add_argument("--hub", metavar="URL", help="http://127.0.0.1:PORT/.well-known/mercure")
    other.add_argument("--hub-name", default="other", help="name of its column (other)")
    other.add_argument(
        "--hub-protocol", choices=["1.0", "0.x"], default="0.x", help="protocol that it speaks (0.x)"
    )
    other.add_argument("--hub-pid", type=int, help="its process, to measure CPU and memory")
    other.add_argument("--hub-secret", metavar="SECRET|@FILE", help="its HMAC key, to sign tokens")
    other.add_argument("--publisher-token", metavar="TOKEN|@FILE", help="token that may publish everything")
    other.add_argument(
        "--subscriber-token", metavar="TOKEN|@FILE", help="needed if it refuses anonymous subscribers"
    )
    return parser


def _tell(words: str, *, end: bool = False) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{words}" + ("\n" if end else ""))
    elif end:
        sys.stderr.write(words + "\n")
    sys.stderr.flush()


def _refuse(words: str) -> int:
    sys.stderr.write(f"bench: {words}\n")
    return 2


def _end(number: int, _frame: object) -> None:
    """Leave through the ``with`` blocks, which end the hubs and remove their files."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
