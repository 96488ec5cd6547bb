"""``mercure-hub history`` on real files, with and without a hub at work."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mercure_hub import cli
from mercure_hub.storage.sqlite.locks import Seats
from tests.hub.running import running_hub
from tests.storage.log import Log, beside, update
from tests.storage.test_migration import make_old

ROOT = Path(__file__).parents[3]


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mercure.db"


@pytest.fixture
def run(path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in list(os.environ):
        if name.startswith("MERCURE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{path}")

    def command(*words: object, stdin: bytes | None = None) -> Outcome:
        capfd.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = cli.main(["history", *map(str, words)])
        except SystemExit as end:
            assert isinstance(end.code, int)
            status = end.code
        sys.stdout.flush()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Outcome(status, printed.out, printed.err)

    return command


@pytest.fixture
def filled(path: Path) -> Iterator[Path]:
    """Ten updates, a second apart: a0 b1 a2 b3 ..."""
    log = Log(path)
    log.open()
    for number in range(10):
        log.now = 1_000_000.0 + number
        log.append(update(f"https://x.example/{'ab'[number % 2]}", data=f"{number}é", id=f"id{number}"))
    log.close()
    yield path


def ids(path: Path) -> list[str]:
    with beside(path) as database:
        return [row[0] for row in database.execute("SELECT id FROM mercure_update ORDER BY sequence")]


def line(**changes: object) -> bytes:
    return (
        json.dumps({"id": "x", "topics": ["t"], "data": "d", "published_at": 5, **changes}).encode() + b"\n"
    )


class TestStats:
    def test_stats_are_printed_in_words(self, run: Run, filled: Path) -> None:
        done = run("stats", "--top", 1)
        assert done.status == 0
        words = " ".join(done.out.split())
        assert "updates 10 (0 private), 30 B" in words
        assert "hub at work none" in words
        assert words.endswith(("5 15 B https://x.example/a", "5 15 B https://x.example/b"))

    def test_stats_are_printed_as_json(self, run: Run, filled: Path) -> None:
        (found,) = run("stats", "--json").lines
        assert (found["updates"], found["bytes"], found["version"], found["hubs"]) == (10, 30, 4, 0)
        assert found["oldest"] == {"id": "id0", "published_at": 1_000_000.0}
        assert found["newest"] == {"id": "id9", "published_at": 1_000_009.0}
        assert {(one["topic"], one["updates"]) for one in found["topics"]} == {
            ("https://x.example/a", 5),
            ("https://x.example/b", 5),
        }
        assert found["sizes"]["file"] == filled.stat().st_size

    def test_stats_of_an_empty_history(self, run: Run, path: Path) -> None:
        run("import", stdin=b"")
        (found,) = run("stats", "--json").lines
        assert (found["updates"], found["oldest"], found["topics"]) == (0, None, [])
        assert "none" in run("stats").out

    @pytest.mark.minutes
    def test_stats_beside_a_running_hub(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_hub(tmp_path) as hub:
            hub.send("a", "1", private="on")
            monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{tmp_path}/hub.db")
            (found,) = run("stats", "--json").lines
            assert (found["updates"], found["private"], found["hubs"]) == (1, 1, 1)


class TestExport:
    def test_all_updates_are_exported_in_order(self, run: Run, filled: Path) -> None:
        done = run("export")
        assert [one["id"] for one in done.lines] == [f"id{number}" for number in range(10)]
        assert done.lines[3] == {
            "sequence": 4,
            "id": "id3",
            "topics": ["https://x.example/b"],
            "data": "3é",
            "private": False,
            "type": None,
            "retry": None,
            "published_at": 1_000_003.0,
        }
        assert "10 updates were exported" in done.err

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--topic", "https://x.example/a"], "02468"),
            (["--pattern", "https://x.example/:b(b)"], "13579"),
            (["--pattern", "/b", "--public-url", "https://x.example/hub"], "13579"),
            (["--topic", "https://x.example/a", "--pattern", "https://x.example/b"], "0123456789"),
            (["--topic", "nothing"], ""),
            (["--since", "1970-01-12T13:46:48Z"], "89"),
            (["--until", "1970-01-12T13:46:42+00:00", "--topic", "https://x.example/a"], "0"),
            (["--since", "30d"], ""),
        ],
    )
    def test_a_selection_is_exported(self, words: list[str], expected: str, run: Run, filled: Path) -> None:
        assert "".join(one["id"][2:] for one in run("export", *words).lines) == expected

    def test_export_overwrites_no_file(self, run: Run, filled: Path, tmp_path: Path) -> None:
        target = tmp_path / "out.jsonl"
        assert run("export", "--to", target).status == 0
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert len(target.read_bytes().splitlines()) == 10
        again = run("export", "--to", target)
        assert again.status == 1
        assert "File exists; name a new file" in again.err
        assert len(target.read_bytes().splitlines()) == 10

    @pytest.mark.minutes
    def test_a_reader_of_the_export_may_stop(self, filled: Path) -> None:
        with beside(filled) as database:
            database.execute("UPDATE mercure_update SET data = zeroblob(1000000)")
        child = subprocess.Popen(
            [sys.executable, "-m", "mercure_hub", "history", "export"],
            env={**os.environ, "MERCURE_TRANSPORT_URL": f"sqlite:///{filled}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        child.stderr.close()
        assert child.wait(30) == 0

    def test_more_than_a_page_is_exported(self, run: Run, path: Path) -> None:
        run("import", stdin=b"".join(line(id=f"n{number}") for number in range(2500)))
        assert [one["id"] for one in run("export").lines] == [f"n{number}" for number in range(2500)]


class TestImport:
    def test_an_import_of_an_export_gives_the_same_updates(
        self, run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exported = run("export").out
        other = filled.with_name("other.db")
        monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{other}")
        done = run("import", stdin=exported.encode())
        assert (done.status, done.err) == (0, "mercure-hub: 10 updates were imported\n")
        assert run("export").out == exported
        log = Log(other)
        log.open()
        try:
            assert log.find("id4") == 5
            found = log.store.read(0, 100, ["https://x.example/b"], 10).entries
            assert [entry.sequence for entry in found] == [2, 4, 6, 8, 10]
            assert log.append(update("new"))[0].sequence == 11
        finally:
            log.close()

    def test_imported_updates_follow_those_present(self, run: Run, filled: Path) -> None:
        assert run("import", stdin=line(id="y") + b"\n" + line(id="z", private=True, retry=0)).status == 0
        assert ids(filled)[-3:] == ["id9", "y", "z"]
        assert run("export").lines[-1]["sequence"] == 12

    def test_ids_already_present_are_refused_or_skipped(self, run: Run, filled: Path) -> None:
        lines = line(id="y") + line(id="id3")
        done = run("import", stdin=lines)
        assert done.status == 1
        assert "line 2 has the id 'id3', which is in the history already; nothing was imported" in done.err
        assert len(ids(filled)) == 10
        done = run("import", "--skip-known", stdin=lines)
        assert "1 updates were imported, 1 were there already" in done.err
        assert ids(filled)[-1] == "y"

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (b"{", "is not JSON"),
            (b"\xff\n", "is not JSON"),
            (b"[" * 100_000 + b"\n", "is not JSON"),
            (b"[]\n", "is not a JSON object"),
            (line(topics=[]), "has no topics"),
            (line(topics="t"), "has no topics"),
            (line(topics=[1]), "has topics of another kind than strings"),
            (line(topics=["a\nb"]), "control or format character"),
            (line(id=""), "which is none"),
            (line(id="earliest"), "which is none"),
            (line(id="a\ndata: injected"), "control or format character"),
            (line(type="a\rb"), "control or format character"),
            (line(type=3), "has type of another kind"),
            (line(data=None), "has data that is not a string"),
            (line(data="\ud800"), "has data that is not a string"),
            (line(private=1), "neither true nor false"),
            (line(retry=-1), "has the retry -1"),
            (line(retry=True), "has the retry True"),
            (line(published_at=None), "has the published_at None"),
            (line(published_at=float("nan")), "has the published_at nan"),
            (line(published_at=1e300), "has the published_at 1e+300"),
            (line(topic="t"), "has the key 'topic'; known are data, id,"),
        ],
    )
    def test_nothing_is_imported_from_a_file_with_a_wrong_line(
        self, wrong: bytes, message: str, run: Run, path: Path
    ) -> None:
        many = b"".join(line(id=f"n{number}") for number in range(1200))
        done = run("import", stdin=many + wrong)
        assert done.status == 1
        assert "line 1201 " in done.err
        assert message in done.err
        assert len(done.err.splitlines()) == 1
        assert len(done.err) < 600
        assert ids(path) == []
        assert run("import", stdin=many).status == 0
        assert run("export").lines[0]["sequence"] == 1

    @pytest.mark.minutes
    def test_import_beside_a_running_hub_is_refused(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_hub(tmp_path, anonymous=1) as hub:
            stream = hub.subscribe({"match": "*"})
            monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{tmp_path}/hub.db")
            done = run("import", stdin=line())
            assert done.status == 1
            assert "a hub is at work on" in done.err
            hub.send("a", "after")
            assert stream.next().data == "after"

    def test_import_of_a_missing_file_is_refused(self, run: Run, tmp_path: Path) -> None:
        done = run("import", tmp_path / "nowhere")
        assert (done.status, "cannot be read: No such file" in done.err) == (1, True)


class TestPrune:
    @pytest.mark.parametrize(
        ("words", "left"),
        [
            (["--keep", "3"], "789"),
            (["--keep", "0"], ""),
            (["--keep", "99"], "0123456789"),
            (["--before", "1970-01-12T13:46:44Z"], "456789"),
            (["--topic", "https://x.example/a"], "13579"),
            (["--topic", "https://x.example/a", "--keep", "2"], "1356789"),
            (["--pattern", "https://x.example/b", "--before", "1970-01-12T13:46:44Z"], "02456789"),
            (["--before", "1d", "--keep", "1"], "9"),
        ],
    )
    def test_a_selection_is_pruned(self, words: list[str], left: str, run: Run, filled: Path) -> None:
        counted = run("prune", "--dry-run", *words)
        assert len(ids(filled)) == 10
        done = run("prune", *words)
        assert done.err == counted.err.replace("would be", "were")
        assert done.err == f"mercure-hub: {10 - len(left)} updates were discarded\n"
        assert "".join(one[2:] for one in ids(filled)) == left
        with beside(filled) as database:
            assert database.execute("SELECT count(*) FROM mercure_topic").fetchone()[0] == len(left)

    def test_prune_needs_a_selection(self, run: Run, filled: Path) -> None:
        done = run("prune")
        assert done.status == 1
        assert "say which updates" in done.err
        assert len(ids(filled)) == 10

    @pytest.mark.minutes
    def test_prune_beside_a_running_hub_spares_fresh_updates(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_hub(tmp_path, anonymous=1) as hub:
            for number in range(5):
                hub.send("a", str(number))
            with beside(tmp_path / "hub.db") as database:
                database.execute(
                    "UPDATE mercure_update SET published_at = published_at - 60 WHERE sequence < 4"
                )
            monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{tmp_path}/hub.db")
            assert "3 updates were discarded" in run("prune", "--keep", "0").err
            stream = hub.subscribe({"match": "a", "last_event_id": "earliest"})
            hub.send("a", "5")
            assert stream.take(3) == ["3", "4", "5"]

    def test_prune_gives_space_back(self, run: Run, path: Path) -> None:
        run("import", stdin=b"".join(line(id=f"n{number}", data="x" * 9000) for number in range(500)))
        before = path.stat().st_size
        run("prune", "--keep", "10")
        assert path.stat().st_size < before / 5


class TestWithEventsOfSubscriptions:
    """A log with an event before, between and behind updates."""

    @pytest.fixture
    def mixed(self, path: Path) -> Path:
        log = Log(path)
        log.open()
        for number in range(3):
            log.announce(f"event {number}")
            log.append(update("t", data=str(number), id=f"id{number}"))
        log.announce("event 3")
        log.close()
        return path

    def test_events_are_counted_apart_from_updates(self, run: Run, mixed: Path) -> None:
        (found,) = run("stats", "--json").lines
        assert (found["updates"], found["bytes"], found["ever_published"]) == (3, 3, 3)
        assert (found["subscription_events"], found["subscription_event_bytes"]) == (4, 28)
        assert (found["oldest"]["id"], found["newest"]["id"]) == ("id0", "id2")
        assert "4 events of subscriptions, 28 B" in run("stats").out

    def test_events_are_exported_on_request(self, run: Run, mixed: Path) -> None:
        assert [one["id"] for one in run("export").lines] == ["id0", "id1", "id2"]
        assert len(run("export", "--pattern", "/subscriptions/*").lines) == 4

    def test_events_stay_when_updates_are_pruned(self, run: Run, mixed: Path) -> None:
        assert "2 updates were discarded" in run("prune", "--keep", "1").err
        assert [one for one in ids(mixed) if one.startswith("id")] == ["id2"]
        assert len(ids(mixed)) == 5
        log = Log(mixed)
        log.open()
        beginning = log.store.beginning(7)
        log.close()
        assert (beginning.updates, beginning.events) == (6, 1)

    def test_imported_updates_continue_the_count_of_events(self, run: Run, mixed: Path) -> None:
        run("import", stdin=line(id="id3"))
        (found,) = run("stats", "--json").lines
        assert (found["updates"], found["ever_published"]) == (4, 4)
        log = Log(mixed)
        log.open()
        assert log.store.size().updates == 4
        log.close()


def test_a_history_older_than_the_events_is_read_unchanged(run: Run, path: Path) -> None:
    make_old(path)
    (found,) = run("stats", "--json").lines
    assert (found["updates"], found["version"], found["subscription_events"]) == (1, 0, 0)
    assert [one["id"] for one in run("export").lines] == ["old"]
    assert "1 updates were discarded" in run("prune", "--keep", "0").err


class TestVacuum:
    def test_vacuum_removes_free_pages(self, run: Run, path: Path) -> None:
        run("import", stdin=b"".join(line(id=f"n{number}", data="x" * 9000) for number in range(500)))
        with beside(path) as database:
            database.execute("DELETE FROM mercure_update WHERE sequence > 10")
        before = path.stat().st_size
        assert run("vacuum").status == 0
        assert path.stat().st_size < before / 5
        assert len(run("export").lines) == 10

    @pytest.mark.minutes
    def test_vacuum_beside_a_running_hub(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_hub(tmp_path, anonymous=1) as hub:
            stream = hub.subscribe({"match": "*"})
            monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{tmp_path}/hub.db")
            done = run("vacuum")
            assert done.status == 0
            assert "publications wait" in done.err
            hub.send("a", "1")
            assert stream.next().data == "1"

    def test_vacuum_on_a_full_disk_is_refused(
        self, run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
        done = run("vacuum")
        assert done.status == 1
        assert "and 10 are free" in done.err


class TestBackup:
    def test_backup_makes_a_whole_copy(
        self, run: Run, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled.chmod(0o640)
        target = tmp_path / "copy.db"
        assert run("backup", target).status == 0
        assert stat.S_IMODE(target.stat().st_mode) & 0o077 in (0o040, 0)
        assert sorted(one.name for one in tmp_path.glob("copy.db*")) == ["copy.db"]
        assert ids(target) == ids(filled)
        monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{target}")
        assert run("import", stdin=line(id="more")).status == 0

    @pytest.mark.parametrize("name", ["copy.db", "copy.db.part"])
    def test_backup_overwrites_nothing(self, name: str, run: Run, filled: Path, tmp_path: Path) -> None:
        (tmp_path / name).write_text("precious")
        done = run("backup", tmp_path / "copy.db")
        assert done.status == 1
        assert "is there already" in done.err
        assert (tmp_path / name).read_text() == "precious"

    def test_backup_over_itself_or_a_dead_link_is_refused(
        self, run: Run, filled: Path, tmp_path: Path
    ) -> None:
        assert run("backup", filled).status == 1
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        assert run("backup", tmp_path / "link").status == 1
        assert len(ids(filled)) == 10

    def test_backup_to_a_missing_folder_is_refused(self, run: Run, filled: Path, tmp_path: Path) -> None:
        done = run("backup", tmp_path / "nowhere" / "copy.db")
        assert (done.status, "cannot be written: No such file" in done.err) == (1, True)

    @pytest.mark.minutes
    def test_backup_copies_one_moment_while_others_publish(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A copy in steps would begin anew with each publication, and never end."""
        with running_hub(tmp_path) as hub:
            for _ in range(20):
                hub.send("a", "x" * 500_000)
            stop = threading.Event()
            sent: list[str] = []

            def publish() -> None:
                while not stop.is_set():
                    sent.append(hub.send("a", "more"))

            publisher = threading.Thread(target=publish)
            publisher.start()
            try:
                deadline = time.monotonic() + 10
                while len(sent) < 3 and time.monotonic() < deadline:
                    time.sleep(0.01)
                monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"sqlite:///{tmp_path}/hub.db")
                done = run("backup", tmp_path / "copy.db")
            finally:
                stop.set()
                publisher.join()
            assert done.status == 0, done.err
            copied = ids(tmp_path / "copy.db")
            assert copied[20:23] == sent[:3]
            assert copied == ids(tmp_path / "hub.db")[: len(copied)]

    def test_a_damaged_database_gives_no_copy(self, run: Run, path: Path, tmp_path: Path) -> None:
        run("import", stdin=b"".join(line(id=f"n{number}") for number in range(3000)))
        data = bytearray(path.read_bytes())
        data[5 * 4096 : 40 * 4096] = b"\x5a" * (35 * 4096)
        path.write_bytes(data)
        done = run("backup", tmp_path / "copy.db")
        assert done.status == 1, done.err
        assert not list(tmp_path.glob("copy.db*"))


class TestRefusals:
    def test_a_missing_database_is_refused(self, run: Run, path: Path) -> None:
        for words in (["stats"], ["export"], ["prune", "--keep", "1"], ["vacuum"], ["backup", "x.db"]):
            done = run(*words)
            assert done.status == 1
            assert f"there is no database {str(path)!r}" in done.err
        assert not path.exists()

    def test_a_file_of_another_kind_is_refused(self, run: Run, path: Path) -> None:
        path.write_text("a letter to my aunt" * 100)
        done = run("stats")
        assert (done.status, "file is not a database" in done.err) == (1, True)
        path.unlink()
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE letters (aunt TEXT)")
        done = run("stats")
        assert (done.status, "not one of mercure-hub" in done.err) == (1, True)

    def test_a_database_of_a_newer_version_is_refused(self, run: Run, filled: Path) -> None:
        with beside(filled) as database:
            database.execute("UPDATE mercure_schema SET version = 99")
        for words in (["stats"], ["import"], ["backup", "x.db"]):
            done = run(*words, stdin=b"")
            assert (done.status, "made by a newer mercure-hub" in done.err) == (1, True)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "required: COMMAND"),
            (["stat"], "invalid choice: 'stat'"),
            (["stats", "--top", "x"], "'x' is not a whole number"),
            (["prune", "--before", "yesterday"], "neither a time such as"),
            (["prune", "--before", "9999-99-99"], "neither a time such as"),
            (["export", "--pattern", "(("], "--pattern: "),
            (["backup"], "required: PATH"),
            (["stats", "--transport-url", "mysql://x/y"], "updates are stored in sqlite"),
        ],
    )
    def test_arguments_that_cannot_be_used_are_refused(
        self, words: list[str], message: str, run: Run
    ) -> None:
        done = run(*words)
        assert done.status == 2
        assert message in done.err

    def test_each_command_has_help(self, run: Run) -> None:
        for name in ("stats", "export", "import", "copy", "prune", "vacuum", "backup"):
            done = run(name, "--help")
            assert done.status == 0
            assert done.out.startswith(f"usage: mercure-hub history {name}")
            assert name in run("--help").out

    def test_a_locked_database_is_told_in_words(self, run: Run, filled: Path) -> None:
        with closing(Seats(f"{filled}-lock")) as seats:
            seats.take()
            done = run("import", stdin=line())
        assert (done.status, "a hub is at work" in done.err) == (1, True)

    @pytest.mark.parametrize("words", [["import"], ["prune", "--keep", "0"], ["vacuum"]])
    def test_a_write_lock_that_is_never_free_is_told(
        self, words: list[str], run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mercure_hub.tools.history.sqlite.BOUND", 0.05)
        with closing(Seats(f"{filled}-lock")) as seats, seats.turn():
            done = run(*words, stdin=line(id="new"))
        assert (done.status, "another process has held the lock on" in done.err) == (1, True)
        assert len(done.err.splitlines()) == 1
        assert "new" not in ids(filled)

    def test_files_are_made_for_their_owner_only(self, run: Run, path: Path) -> None:
        before = os.umask(0o022)
        try:
            assert run("import", stdin=line()).status == 0
        finally:
            os.umask(before)
        assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.glob(f"{path.name}*")} == {0o600}

    def test_a_copy_of_what_everyone_may_read_is_not_for_everyone(
        self, run: Run, filled: Path, tmp_path: Path
    ) -> None:
        filled.chmod(0o666)
        assert run("backup", tmp_path / "copy.db").status == 0
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) & 0o007 == 0


class TestCopy:
    def test_a_history_is_copied(self, run: Run, filled: Path, tmp_path: Path) -> None:
        target = tmp_path / "copy.db"
        (tmp_path / "url").write_text(f"sqlite:///{target}\n")
        done = run("copy", f"sqlite:///{filled}", f"@{tmp_path}/url")
        assert (done.status, done.err) == (0, "mercure-hub: 10 updates were copied\n")
        assert ids(target) == ids(filled)
        assert "0 more updates were copied" in run("copy", f"sqlite:///{filled}", f"sqlite:///{target}").err

    def test_a_copy_beside_a_running_hub_asks_for_another(
        self, run: Run, filled: Path, tmp_path: Path
    ) -> None:
        with closing(Seats(f"{filled}-lock")) as seats:
            seats.take()
            done = run("copy", f"sqlite:///{filled}", f"sqlite:///{tmp_path}/copy.db")
            back = run("copy", f"sqlite:///{tmp_path}/copy.db", f"sqlite:///{filled}")
        assert (done.status, "stop it, and run this again" in done.err) == (0, True)
        assert (back.status, "a hub is at work on" in back.err) == (1, True)

    @pytest.mark.parametrize(
        ("words", "status", "message"),
        [
            (["sqlite:///a.db", "sqlite:///a.db"], 1, "both URLs are the same"),
            (["sqlite:///nowhere.db", "sqlite:///b.db"], 1, "there is no database 'nowhere.db'"),
            (["sqlite:///a.db"], 2, "required: TO"),
            (["mysql://me:secret@x/y", "sqlite:///b.db"], 2, "'mysql://***@x/y' names 'mysql'"),
            (["@nowhere", "sqlite:///b.db"], 1, "'nowhere' cannot be read: No such file"),
        ],
    )
    def test_what_cannot_be_copied_is_told(
        self,
        words: list[str],
        status: int,
        message: str,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = run("copy", *words)
        assert (done.status, message in done.err) == (status, True), done.err
        assert "secret" not in done.err
        assert list(tmp_path.glob("*.db")) == []


class TestOtherEngines:
    @pytest.mark.parametrize(
        ("words", "url", "message"),
        [
            (["vacuum"], "postgresql://me:secret@db/x", "VACUUM FULL"),
            (["vacuum"], "redis://:secret@db/0", "BGREWRITEAOF"),
            (["backup", "x"], "postgresql://me:secret@db/x", "pg_dump"),
            (["backup", "x"], "redis://:secret@db/0", "append-only files"),
        ],
    )
    def test_what_only_a_file_needs_is_refused_with_the_right_tool(
        self, words: list[str], url: str, message: str, run: Run
    ) -> None:
        done = run(*words, "--transport-url", url)
        assert (done.status, message in done.err) == (1, True), done.err
        assert "secret" not in done.err
