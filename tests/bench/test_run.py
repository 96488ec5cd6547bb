"""The command: what can be chosen, what it refuses, what it never shows, and one real run."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from bench import generator, hubs, run, summary
from bench.context import Bench
from bench.engines import Engines
from bench.generator import Fault
from bench.history import EVENTS, NEWEST, RARE, filled
from bench.hubs import OurHub, Refused
from bench.report import read
from bench.rows import GROUPS, SUBJECTS, chosen, engines
from bench.rows.workers import smallest_share
from bench.tokens import Mint, write_header
from mercure_hub.storage.interface import Resume, Retention
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.store import Store
from tests.needs import need

pytestmark = pytest.mark.minutes


def test_rows_can_be_chosen() -> None:
    assert [subject.name for subject in chosen("connect,fanout")] == ["fanout", "connect"]
    assert [subject.name for subject in chosen("cliffs")] == [
        "bodies",
        "topics",
        "tokens",
        "matchers",
        "storm",
        "scan",
    ]
    assert len(SUBJECTS) == len({subject.name for subject in SUBJECTS})
    apart = {subject.name for subject in SUBJECTS} - {subject.name for subject in chosen("")}
    assert apart == {*GROUPS["engines"], "millions"}
    assert {subject.name for subject in chosen("millions", is_smoke=True)} == {"millions"}
    assert [one for one in SUBJECTS if one not in chosen("", is_smoke=True)] == chosen("millions")
    with pytest.raises(ValueError, match="'speed' is no row; there are appends, arrivals, bodies"):
        chosen("fanout,speed")


def test_a_row_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", "speed"]) == 2
    assert "'speed' is no row" in capsys.readouterr().err


def test_another_hub_needs_a_token(
    sseload: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SSELOAD", sseload)
    assert run.main(["--smoke", "--only", "fanout", "--hub", "http://127.0.0.1:1/"]) == 2
    assert "--hub needs --publisher-token or --hub-secret" in capsys.readouterr().err


def test_a_program_that_is_not_built_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "SSELOAD", tmp_path / "sseload")
    assert run.main(["--smoke"]) == 2
    assert "make -C bench" in capsys.readouterr().err


def test_nchan_is_skipped_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hubs, "NCHAN_MODULE", tmp_path / "absent.so")
    assert "apt-get install nginx libnginx-mod-nchan" in hubs.nchan_is_missing()


def test_the_command_is_shown_without_secrets() -> None:
    words = ["--publisher-token", "abc", "--hub-secret=def", "--subscriber-token", "ghi", "--runs", "3"]
    shown = " ".join(run._without_secrets(words))
    assert shown == "--publisher-token ... --hub-secret=... --subscriber-token ... --runs 3"


def test_tokens_lie_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = write_header(tmp_path / "token", "abc", "def")
    assert path.read_text() == "Authorization: Bearer abc\nAuthorization: Bearer def\n"
    assert path.stat().st_mode & 0o077 == 0
    assert Mint("a secret that is long enough for it", "http://x/", "0.x").token("publish", [("exact", "*")])


def test_a_fault_shows_what_the_generator_said(sseload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "SSELOAD", sseload)
    with pytest.raises(Fault, match=r"not clean: sseload publish -a 127\.0\.0\.1:1[\s\S]*refused"):
        generator.sseload("publish", "-a", "127.0.0.1:1")


def test_a_hub_that_refuses_says_why(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="MERCURE_HEARTBEAT"), OurHub(tmp_path).start(MERCURE_HEARTBEAT="soon"):
        pass
    late = OurHub(tmp_path, settings={"MERCURE_HEARTBEAT": "late"})
    with pytest.raises(Refused, match="'late'"), late.start():
        pass


@pytest.mark.parametrize("words", ["HEARTBEAT=1", "MERCURE_HEARTBEAT", "MERCURE_PUBLISHER_JWT_KEY=secret"])
def test_what_is_no_setting(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--setting", words])
    assert "--setting" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["/nowhere", "before=/nowhere"])
def test_a_checkout_that_is_not_there(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--hub-tree", words])
    assert "--hub-tree" in capsys.readouterr().err


def test_another_interpreter_is_named_by_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run._python(sys.executable) == (f"Python {platform.python_version()}", sys.executable)
    with pytest.raises(SystemExit):
        run.main(["--hub-python", "/bin/false"])
    assert "--hub-python" in capsys.readouterr().err


def test_the_hub_and_the_history_of_another_checkout(tmp_path: Path) -> None:
    """Here of a copy of the packages: both come from there, not from what is installed."""
    tree = tmp_path / "tree"
    shutil.copytree(hubs.HERE.parent / "hub", tree / "hub", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(hubs.HERE, tree / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    one = OurHub(tmp_path, "before", tree=tree)
    history = one.history(100)
    assert history.url == f"sqlite:///{tmp_path}/before/history-100.db"
    with one.start(MERCURE_TRANSPORT_URL=history.url):
        pass
    (tree / "hub/mercure_hub/__main__.py").write_text("raise SystemExit('this is the copy')")
    with pytest.raises(Refused, match="this is the copy"), one.start():
        pass


def test_the_hub_logs_requests_as_it_does_by_default(tmp_path: Path) -> None:
    with OurHub(tmp_path).start() as running:
        requests.get(f"http://{running.address}{hubs.PATH}", timeout=5)
    assert hubs.PATH in (tmp_path / "hub.log").read_text()


def test_a_hub_ends_with_its_block(tmp_path: Path) -> None:
    with OurHub(tmp_path).start() as running:
        assert running.pid is not None
        os.kill(running.pid, signal.SIGCONT)
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)


def test_a_history_is_what_the_rows_expect(tmp_path: Path) -> None:
    history = filled(tmp_path, 500)
    log: Store[None] = Store(SqliteLink(history.url, Retention(), time.time))
    log.open(lambda: None)
    try:
        assert log.newest()[0] == 500
        (resumed,) = log.resume([Resume(history.behind, 500, None, 0)])
        assert resumed.after == 500 - EVENTS
        reached = count = 0
        while reached < 500:
            page = log.read(reached, 500, None, 1000)
            reached, count = page.reached, count + len(page.entries)
        assert count == 500
        for topic in (NEWEST, RARE):
            entries = log.read(0, 500, {topic}, 1000).entries
            assert [int(entry.update.data[1:17], 16) for entry in entries] == list(range(1, EVENTS + 1))
        assert [entry.sequence for entry in entries][:3] == [1, 51, 101]
    finally:
        log.close()
    assert filled(tmp_path, 500) == history
    assert [path.name for path in tmp_path.glob("*.partial*")] == []


def test_the_smallest_share_leaves_the_parent_out() -> None:
    assert smallest_share({"sockets_connected": [3, 60, 40]}, 2) == 0.4


@pytest.mark.parametrize("sizes", ["full", "quick", "smoke"])
def test_names_of_cases_are_unique_and_targets_are_there(
    sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case a target compares with is in its row, under the same title."""
    monkeypatch.setattr("bench.hubs.filled", lambda _folder, size: SimpleNamespace(url="", behind=""))
    for module in ("tls", "http2"):
        monkeypatch.setattr(f"bench.rows.{module}.has_tls", lambda: True)
    monkeypatch.setattr("bench.rows.http2._speaks", lambda _running: True)
    found = set()
    for subject in SUBJECTS:
        if subject.name == "workers":
            continue
        if subject.name in GROUPS["engines"]:
            need("postgresql", "valkey-server")
        bench = Bench(hubs.Hubs(OurHub(tmp_path)), sizes, tmp_path, Engines(tmp_path))  # type: ignore[arg-type]
        cases = subject.build(bench)
        titles = [(case.name, figure.title) for case in cases for figure in case.figures]
        assert len(set(titles)) == len(titles), subject.name
        found |= {summary.Source(subject.name, *title) for title in titles}
        for case in cases:
            for figure in case.figures:
                if figure.target is not None and figure.target.case:
                    assert (figure.target.case, figure.title) in titles, (subject.name, case.name)
    if sizes == "full":
        assert {entry.source for entry in (*summary.ENTRIES, *summary.SIZES)} <= found


def test_a_short_run_on_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sseload: Path) -> None:
    """Two nodes on each engine, and on SQLite; an update that one of them lacks fails the run."""
    need("postgresql", "valkey-server")
    monkeypatch.setattr(run, "SSELOAD", sseload)
    assert run.main(["--smoke", "--only", "arrivals,resumes", "--out", str(tmp_path)]) == 0
    rows = read(tmp_path / "results.json").rows
    assert [row.name for row in rows] == ["arrivals", "resumes"]
    assert all(row.lines and not row.failed for row in rows)
    assert {name for row in rows for line in row.lines for name in line.values} == {"hub", "SQLite"}


def test_a_node_that_fails_is_a_fault(tmp_path: Path) -> None:
    nowhere = f"sqlite:///{tmp_path}/nowhere/hub.db"
    with pytest.raises(Fault, match=r"a node ended and said: .*nowhere"), engines._started(nowhere, [[]]):
        pass


def test_a_short_run(
    sseload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command to the table, with a real hub."""
    monkeypatch.setattr(run, "SSELOAD", sseload)
    monkeypatch.setattr(generator, "SSELOAD", sseload)
    assert run.main(["--smoke", "--only", "fanout,publish,workers,tls,disk", "--out", str(tmp_path)]) == 0
    outcome = read(tmp_path / "results.json")
    assert [row.name for row in outcome.rows] == ["fanout", "publish", "workers", "tls", "disk"]
    assert all(one["result"].get("tls", "TLSv1.3").startswith("TLSv1.3") for one in outcome.rows[3].runs)
    assert not any(row.failed for row in outcome.rows)
    assert {name for line in outcome.rows[0].lines for name in line.values} == {"floor", "hub"}
    assert outcome.rows[0].runs[0]["result"]["command"].startswith("sseload floor")
    printed = capsys.readouterr().out
    assert "| 100 subscribers x 20 updates: deliveries per CPU-second |" in printed
    assert "Bearer" not in (tmp_path / "results.json").read_text()
