"""``mercure-hub history``: the words of the command line, and what is printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from mercure_hub.config.loading import load_some, masked
from mercure_hub.config.settings import CONFIG, ROWS, SettingError
from mercure_hub.protocol.errors import InvalidRequest, MercureError
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.matching.matcher import make
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.storage.address import EngineKind, address_of
from mercure_hub.tools.history import copying, sqlite, transfer
from mercure_hub.tools.history.engines import opened
from mercure_hub.tools.history.history import HistoryError, Progress, Selection, prune

_AGE = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SETTINGS = ("transport_url", "public_url")
_QUIET = 2.0  # seconds after which progress is reported
_OFTEN, _SELDOM = 0.2, 10.0  # seconds between two lines of progress, on a terminal and in a log


def main(words: Sequence[str], environment: Mapping[str, str], parser: argparse.ArgumentParser) -> int:
    """Run ``mercure-hub history``.

    :param words: what follows on the command line.
    :param environment: with the settings of the hub.
    :param parser: to be filled.
    :returns: 0, 1 when it could not be done, 2 when it was asked for in a wrong way.
    """
    _declare(parser)
    given = parser.parse_args(words)
    flags = {
        name: value for name in (CONFIG.name, *_SETTINGS) if (value := getattr(given, name, None)) is not None
    }
    try:
        settings = load_some(environment, flags, *_SETTINGS)
        selection = _selection(given, settings)
    except SettingError as error:
        return _say(str(error), 2)
    except InvalidRequest as error:
        return _say(f"--pattern: {error.detail}", 2)
    given.url = settings["transport_url"]
    try:
        run: Any = given.run
        run(given, selection)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except MercureError as error:
        return _say(str(error), 1)
    return 0


def _stats(given: argparse.Namespace, _: Selection) -> None:
    with opened(given.url) as history:
        found = history.statistics(given.top)
    if given.json:
        _print(json.dumps(found, ensure_ascii=False))
        return
    at_work = {0: "none", 1: "1 process"}.get(found["hubs"], f"{found['hubs']} processes")
    _print(f"database      {found['database']} (version {found['version']})")
    _print(f"hub at work   {at_work}")
    _print(f"updates       {found['updates']:,} ({found['private']:,} private), {_size(found['bytes'])}")
    _print(f"ever          {found['ever_published']:,} published")
    if found["subscription_events"]:
        size = _size(found["subscription_event_bytes"])
        _print(f"beside them   {found['subscription_events']:,} events of subscriptions, {size}")
    for name in ("oldest", "newest"):
        end = found[name]
        _print(f"{name}        {_moment(end['published_at'])}  {end['id']}" if end else f"{name}        none")
    for name, size in found["sizes"].items():
        _print(f"{name:<13} {_size(size)}")
    if found["topics"]:
        _print(f"\n{'updates':>12}  {'data':>10}  topic")
    for topic in found["topics"]:
        _print(f"{topic['updates']:>12,}  {_size(topic['bytes']):>10}  {topic['topic']}")


def _export(given: argparse.Namespace, selection: Selection) -> None:
    with opened(given.url) as history, _output(given.to) as out, _progress("exported") as progress:
        count = transfer.export(history, selection, out, progress)
    _say(f"{count:,} updates were exported")


def _import(given: argparse.Namespace, _: Selection) -> None:
    with (
        opened(given.url, is_made=True) as history,
        _input(given.source) as lines,
        _progress("read") as progress,
    ):
        count, skipped = transfer.load(history, lines, progress, skip_known=given.skip_known)
    known = f", {skipped:,} were there already" if skipped else ""
    _say(f"{count:,} updates were imported{known}")


def _copy(given: argparse.Namespace, _: Selection) -> None:
    urls = _read_url(given.source), _read_url(given.target)
    if urls[0] == urls[1]:
        raise HistoryError("both URLs are the same; name the history to copy from, then the one to copy to")
    with (
        opened(urls[0]) as source,
        opened(urls[1], is_made=True) as target,
        _progress("copied") as progress,
    ):
        done = copying.copy(source, target, progress)
        revoked = source.revocations()
    if revoked:
        copying.copy_revocations(revoked, urls[1])
        _say(f"{len(revoked):,} revocations were copied")
    more = " more" if done.is_continued else ""
    events = f", and {done.events:,} events of subscriptions" if done.events else ""
    _say(f"{done.updates:,}{more} updates were copied{events}")
    if done.is_behind:
        _say("a hub is at work on the source: stop it, and run this again to copy what it has stored since")


def _prune(given: argparse.Namespace, selection: Selection) -> None:
    if selection.until is None and given.keep is None and not selection.names_topics:
        raise HistoryError("say which updates: --before, --keep, --topic or --pattern")
    with opened(given.url) as history, _progress("discarded") as progress:
        gone = prune(history, selection, given.keep or 0, progress, only_count=given.dry_run)
    _say(f"{gone:,} updates {'would be' if given.dry_run else 'were'} discarded")


def _vacuum(given: argparse.Namespace, _: Selection) -> None:
    with _opened_file(given, "vacuum") as history:
        if history.hubs():
            _say("a hub is at work: publications wait until this is done, or get 503 after three seconds")
        before, after = sqlite.vacuum(history)
    _say(f"{_size(before)} before, {_size(after)} now")


def _backup(given: argparse.Namespace, _: Selection) -> None:
    with _opened_file(given, "backup") as history, _progress("per cent copied") as progress:
        size = sqlite.backup(history, given.path, progress)
    _say(f"{str(given.path)!r} is a whole copy, {_size(size)}")


def _opened_file(given: argparse.Namespace, command: str) -> AbstractContextManager[sqlite.SqliteHistory]:
    """Open a history for what only a file needs.

    :raises HistoryError: it is in another engine; the message names the tool for that.
    """
    address = address_of(given.url)
    tool = _TOOLS.get((command, address.kind))
    if tool is not None:
        raise HistoryError(f"{command} is for files of SQLite, and the history is in {address.shown}; {tool}")
    return sqlite.opened(given.url)


_TOOLS: Mapping[tuple[str, EngineKind], str] = {
    ("vacuum", EngineKind.POSTGRESQL): "autovacuum does it there, and VACUUM FULL shrinks the files",
    ("vacuum", EngineKind.REDIS): "Redis frees memory at once, and BGREWRITEAOF shrinks its file",
    ("backup", EngineKind.POSTGRESQL): "use pg_dump, or history copy into a file of SQLite",
    ("backup", EngineKind.REDIS): (
        "copy its append-only files as its documentation says, or use history copy into a file of SQLite"
    ),
}
"""What to use instead in other engines."""


_COPY = "copy the history into another database or engine; run again, it copies what is new"


def _declare(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        for setting in (CONFIG, ROWS["transport_url"]):
            command.add_argument(
                setting.flag,
                dest=setting.name,
                metavar=setting.form,
                help=f"{setting.text} [{setting.variable}]",
            )
        return command

    stats = add("stats", _stats, "how many updates, from when, of which topics, and what they take")
    stats.add_argument(
        "--top", type=_number, default=10, metavar="N", help="topics to show, the largest; default: 10"
    )
    stats.add_argument("--json", action="store_true", help="print one JSON object")
    export = add("export", _export, "write the updates as lines of JSON")
    _add_selection(export)
    export.add_argument("--since", type=_time, metavar="TIME", help="published at this time or later")
    export.add_argument("--until", type=_time, metavar="TIME", help="published before this time")
    export.add_argument("--to", type=Path, metavar="PATH", help="a new file; default: standard output")
    load = add("import", _import, "append the updates of an export, with their ids; all or none")
    load.add_argument("source", nargs="?", type=Path, metavar="PATH", help="default: standard input")
    load.add_argument(
        "--skip-known", action="store_true", help="pass over ids that are in the history already"
    )
    copy = commands.add_parser("copy", help=_COPY, description=_COPY[0].upper() + _COPY[1:] + ".")
    copy.set_defaults(run=_copy)
    for name, dest, text in (("FROM", "source", "hubs may be at work there"), ("TO", "target", "no hub may")):
        copy.add_argument(
            dest, type=_url, metavar=name, help=f"URL of the history, or @PATH of a file with it; {text}"
        )
    prune = add("prune", _prune, "discard updates; the hub may be at work")
    _add_selection(prune)
    prune.add_argument(
        "--before", dest="until", type=_time, metavar="TIME", help="published before this time"
    )
    prune.add_argument("--keep", type=_number, metavar="N", help="keep the newest N of those that are meant")
    prune.add_argument("--dry-run", action="store_true", help="only count them")
    add("vacuum", _vacuum, "rewrite the file without free pages; publications wait or fail meanwhile")
    backup = add("backup", _backup, "copy the database while the hub is at work, and check the copy")
    backup.add_argument("path", type=Path, metavar="PATH", help="of the copy; nothing is overwritten")


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.epilog = "TIME is 2026-11-24T13:00 in local time, 2026-11-24T13:00Z, or an age such as 12h, 30d."
    command.add_argument(
        "--topic", action="append", metavar="TOPIC", help="with exactly this topic; repeatable"
    )
    command.add_argument(
        "--pattern",
        action="append",
        metavar="PATTERN",
        help="with a topic that this URL Pattern matches; repeatable",
    )
    command.add_argument(
        "--public-url", dest="public_url", metavar="URL", help="base of patterns that are relative"
    )


def _selection(given: argparse.Namespace, settings: Mapping[str, Any]) -> Selection:
    public = settings["public_url"]
    base = f"http://localhost{WELL_KNOWN}" if public is None else public.url
    patterns = getattr(given, "pattern", None) or ()
    return Selection(
        frozenset(getattr(given, "topic", None) or ()),
        tuple(make(MatcherType.URLPATTERN, one, base, "pattern") for one in patterns),
        getattr(given, "since", None),
        getattr(given, "until", None),
    )


def _url(text: str) -> str:
    """A URL, or ``@PATH`` of a file with one: the list of processes shows the words of a command."""
    if not text.startswith("@"):
        try:
            address_of(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{masked(text)!r} {error}") from None
    return text


def _read_url(given: str) -> str:
    """:raises HistoryError: the file that is named has no URL."""
    if not given.startswith("@"):
        return given
    path = given[1:]
    try:
        url = Path(path).read_text(encoding="utf-8").strip()
        address_of(url)
    except OSError as error:
        raise HistoryError(f"{path!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise HistoryError(f"the content of {path!r} {error}") from None
    return url


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _time(text: str) -> float:
    age = _AGE.fullmatch(text)
    if age:
        return time.time() - int(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time such as 2026-11-24T13:00 nor an age such as 30d"
        ) from None


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        try:
            yield sys.stdout.buffer
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HistoryError(f"standard output cannot be written: {error.strerror}") from None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # private updates are in it
    except OSError as error:
        raise HistoryError(f"{str(path)!r} cannot be written: {error.strerror}; name a new file") from None
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
    except OSError as error:
        raise HistoryError(f"{str(path)!r} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _input(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        opened_file = path.open("rb")
    except OSError as error:
        raise HistoryError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    with opened_file:
        yield opened_file


@contextlib.contextmanager
def _progress(participle: str) -> Iterator[Progress]:
    """Report progress on standard error, if it takes long."""
    is_terminal = sys.stderr.isatty()
    started = told = time.monotonic()
    shown = False

    def tell(count: int) -> None:
        nonlocal told, shown
        now = time.monotonic()
        if now - started < _QUIET or now - told < (_OFTEN if is_terminal else _SELDOM):
            return
        told, shown = now, True
        print(  # noqa: T201
            f"{count:,} {participle}", end="\r" if is_terminal else "\n", file=sys.stderr, flush=True
        )

    try:
        yield tell
    finally:
        if shown and is_terminal:
            print(file=sys.stderr)  # noqa: T201


def _say(message: str, status: int = 0) -> int:
    print(f"mercure-hub: {message}", file=sys.stderr)  # noqa: T201
    return status


def _print(line: str) -> None:
    print(line)  # noqa: T201


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
