"""The version of the tables: databases of before, of later, and of two processes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mercure_hub.protocol.errors import StorageError
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import Retention, Rule
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.database import STEPS, Database, Step, migrate, version_of, writing
from mercure_hub.storage.sqlite.locks import Seats
from mercure_hub.tools.history import tables as known
from tests.storage.log import Log, beside, until, update

pytestmark = pytest.mark.minutes

# The tables of the version without presence and without a version, as SQLite has them.
BEFORE = """
CREATE TABLE mercure_position (id INTEGER NOT NULL, last_sequence INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE mercure_update (
    sequence INTEGER NOT NULL, id TEXT NOT NULL, topics TEXT NOT NULL, data BLOB NOT NULL,
    private BOOLEAN NOT NULL, type TEXT, retry BIGINT, published_at FLOAT NOT NULL, PRIMARY KEY (sequence)
);
CREATE INDEX mercure_update_id ON mercure_update (id);
CREATE TABLE mercure_topic (
    topic_hash INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (topic_hash, sequence)
) WITHOUT ROWID;
INSERT INTO mercure_position VALUES (1, 7);
INSERT INTO mercure_update VALUES (7, 'old', '["a"]', x'68656c6c6f', 0, NULL, NULL, 1000.0);
"""
ADD = "ALTER TABLE mercure_update ADD COLUMN colour TEXT"

OPENS = """
import sys
from tests.storage.log import Log
from pathlib import Path
sys.stdin.readline()
log = Log(Path(sys.argv[1]))
log.open()
print("open", flush=True)
sys.stdin.readline()
log.close()
"""


def make_old(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(BEFORE)
        database.execute("INSERT INTO mercure_topic VALUES (?, 7)", (topic_hash("a"),))
        database.commit()


def version(path: Path) -> int | None:
    with beside(path) as database:
        return version_of(database)


def tables(path: Path) -> set[str]:
    with beside(path) as database:
        return {row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mercure.db"


def test_a_new_database_has_the_newest_version(path: Path) -> None:
    log = Log(path)
    log.open()
    log.close()
    assert version(path) == max(STEPS) == 4


def test_a_database_of_before_is_taken_over(path: Path) -> None:
    make_old(path)
    assert version(path) == 0
    log = Log(path)
    log.open()
    try:
        assert [entry.update.id for entry in log.everything()] == ["old"]
        (entry,) = log.append(update("a", data="new"))
        assert entry.sequence == 8
        assert [one.sequence for one in log.store.read(0, 100, ["a"], 10).entries] == [7, 8]
    finally:
        log.close()
    assert version(path) == 4
    assert tables(path) >= {"mercure_presence", "mercure_schema"}


def test_a_database_of_the_version_before_is_taken_over(path: Path) -> None:
    log = Log(path)
    log.open()
    log.append(update("a"))
    log.close()
    with beside(path) as database:
        database.execute("DROP TABLE mercure_revocation")
        database.execute("UPDATE mercure_schema SET version = 3")
    log = Log(path)
    log.open()
    try:
        assert len(log.everything()) == 1
        assert log.store.revocations(0, 10).newest == 0
    finally:
        log.close()
    assert version(path) == 4


def test_a_history_of_before_gets_retention_by_topic(path: Path) -> None:
    log = Log(path)
    log.open()
    log.append(*[update("/gauges/a", data=str(number)) for number in range(3)])
    log.close()
    with beside(path) as database:  # as the version before made it
        for table in (
            "mercure_retention",
            "mercure_rule",
            "mercure_assigned",
            "mercure_past",
            "mercure_gone",
        ):
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE mercure_schema SET version = 3")
    rules = (Rule("urlpattern", "/gauges/:name", size_per_topic=1),)
    log = Log(path, Retention(rules=rules))
    log.now += 3600
    log.open()
    try:
        until(lambda: log.sequences() == [3])
    finally:
        log.close()
    assert version(path) == 4


def test_a_database_of_a_newer_hub_is_refused_and_stays_as_it_is(path: Path) -> None:
    log = Log(path)
    log.open()
    log.close()
    with beside(path) as database:
        database.execute("UPDATE mercure_schema SET version = 9")
    with pytest.raises(
        StorageError, match="version 9, made by a newer mercure-hub; this one knows version 4"
    ):
        Log(path).open()
    assert version(path) == 9
    with closing(Seats(f"{path}-lock")) as seats:
        assert seats.others() == 0


def step(statements: list[str]) -> Step:
    def run(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return run


def test_each_step_is_taken_once_and_in_order(path: Path) -> None:
    make_old(path)
    steps = {
        **STEPS,
        5: step(["CREATE TABLE three (x)"]),
        6: step(["INSERT INTO three VALUES (1)"]),
    }
    with closing(Database(str(path)).connect()) as connection:
        for _ in range(2):
            with writing(connection):
                assert migrate(connection, steps) == 6
        assert connection.execute("SELECT count(*) FROM three").fetchone() == (1,)
    assert version(path) == 6


def test_a_step_that_fails_leaves_nothing_behind(path: Path) -> None:
    make_old(path)
    with (
        closing(Database(str(path)).connect()) as connection,
        pytest.raises(sqlite3.OperationalError),
        writing(connection),
    ):
        migrate(connection, {**STEPS, 3: step([ADD, "CREATE TABLE broken ("])})
    assert version(path) == 0
    assert "mercure_presence" not in tables(path)
    with beside(path) as database:
        assert "colour" not in [row[1] for row in database.execute("PRAGMA table_info(mercure_update)")]


def test_commands_know_the_columns_of_each_table(path: Path) -> None:
    """``tools.history.tables`` describes them again, for SQLAlchemy."""
    log = Log(path)
    log.open()
    log.close()
    with beside(path) as database:
        for table in known.metadata.sorted_tables:
            found = [row[1:3] for row in database.execute(f"PRAGMA table_info({table.name})")]
            assert found == [(column.name, str(column.type)) for column in table.columns]
            if table.name in schema.COLUMNS:
                assert tuple(name for name, _ in found) == schema.COLUMNS[table.name]


def test_two_processes_that_start_at_once(path: Path) -> None:
    """One of them does it, the other one finds it done."""
    make_old(path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
        for child in children:
            assert child.communicate("\n", timeout=30)[0] == ""
            assert child.returncode == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert version(path) == 4


def test_the_second_process_waits_for_the_first_ones_turn(path: Path) -> None:
    make_old(path)
    with closing(Seats(f"{path}-lock")) as seats:
        with seats.turn():
            child = subprocess.Popen(
                [sys.executable, "-c", OPENS, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(1)
            assert version(path) == 0
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        child.communicate("\n", timeout=30)
    assert child.returncode == 0


def test_a_hub_that_has_to_wait_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(path)
    log.link.patience = 0.05
    opens = threading.Thread(target=log.open)
    with closing(Seats(f"{path}-lock")) as seats:
        with seats.turn():
            opens.start()
            deadline = time.monotonic() + 10
            while "the hub waits to open its database: another process has held the lock" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        opens.join(10)
    assert log.store.newest() == (0, None)
    log.close()
