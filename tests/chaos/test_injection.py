"""The faults, one after the other, in processes that meet them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.injection import library as builder
from chaos.injection.control import Injection
from chaos.injection.faults import Action, Call, Fault, File
from tests.hub.running import TIMEOUT
from tests.hub.test_process import process
from tests.needs import need
from tests.server.test_workers import workers

pytestmark = pytest.mark.minutes

if not sys.platform.startswith("linux"):
    pytest.skip("the faults need Linux", allow_module_level=True)

CHILD = """
import errno, fcntl, json, mmap, os, sqlite3, struct, sys, threading, time
from pathlib import Path

def lock(fd, kind, command=fcntl.F_OFD_SETLK):
    fcntl.fcntl(fd, command, struct.pack("hhqqixxxx", kind, os.SEEK_SET, 0, 1, 0))

def forked(code):
    listens, tells = os.pipe()
    if os.fork() == 0:
        os.write(tells, json.dumps(answer("eval", code)).encode())
        os._exit(0)
    os.close(tells)
    os.wait()
    return json.loads(os.read(listens, 65536))

def answer(mode, code):
    try:
        return eval(compile(code, "<test>", mode), globals())
    except OSError as error:
        return errno.errorcode[error.errno]
    except sqlite3.Error as error:
        return error.sqlite_errorname
    except RuntimeError as error:
        return str(error)

for line in sys.stdin:
    print(json.dumps(answer(*json.loads(line))), flush=True)
"""


class Child:
    """A process that does what it is told.

    :param environment: of it.
    :param folder: its working directory.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **environment},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, expression: str) -> object:
        """The value of an expression, or the name of its error."""
        return self._tell("eval", expression)

    def do(self, *statements: str) -> None:
        """Run statements, none of which may fail."""
        for one in statements:
            assert self._tell("exec", one) is None

    def _tell(self, mode: str, code: str) -> object:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([mode, code]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(TIMEOUT) == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc", "libc6-dev")
    return builder.build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def injection(library: Path, tmp_path: Path, store: Path) -> Iterator[Injection]:
    with Injection(library, tmp_path / "control", store) as made:
        yield made


@pytest.fixture
def start(injection: Injection, store: Path) -> Iterator[Callable[[], Child]]:
    with ExitStack() as stack:

        def started() -> Child:
            child = Child(injection.environment(), store)
            stack.callback(child.end)
            return child

        yield started


@pytest.fixture
def child(start: Callable[[], Child]) -> Child:
    """With ``fd``, a database file of ten bytes."""
    made = start()
    made.do("fd = os.open('hub.db', os.O_RDWR | os.O_CREAT)", "os.write(fd, b'0123456789')")
    return made


ON_DESCRIPTOR = [
    (Call.READ, "len(os.read(fd, 4))"),
    (Call.READ, "len(os.pread(fd, 4, 0))"),
    (Call.WRITE, "os.write(fd, b'x')"),
    (Call.WRITE, "os.pwrite(fd, b'x', 0)"),
    (Call.WRITE, "os.writev(fd, [b'x', b'y'])"),
    (Call.SYNC, "os.fsync(fd)"),
    (Call.SYNC, "os.fdatasync(fd)"),
    (Call.TRUNCATE, "os.ftruncate(fd, 3)"),
    (Call.LOCK, "lock(fd, fcntl.F_WRLCK)"),
    (Call.LOCK, "lock(fd, fcntl.F_WRLCK, fcntl.F_OFD_SETLKW)"),
    (Call.LOCK, "lock(fd, fcntl.F_WRLCK, fcntl.F_SETLK)"),
    (Call.LOCK, "lock(fd, fcntl.F_WRLCK, fcntl.F_SETLKW)"),
    (Call.LOCK, "lock(fd, fcntl.F_WRLCK, fcntl.F_OFD_GETLK)"),
    (Call.UNLOCK, "lock(fd, fcntl.F_UNLCK)"),
]
MAPS = "mmap.mmap(fd, 10).close()"  # of a copy of the descriptor, which is found out anew
ON_NAME = [
    (Call.OPEN, "os.close(os.open('hub.db', os.O_RDWR))"),
    (Call.OPEN, "os.close(os.open('hub.db', os.O_RDWR, dir_fd=os.open('.', os.O_RDONLY)))"),
    (Call.OPEN, "open('hub.db').close()"),
    (Call.UNLINK, "os.unlink('hub.db')"),
    (Call.UNLINK, "os.unlink('hub.db', dir_fd=os.open('.', os.O_RDONLY))"),
]


@pytest.mark.parametrize(("call", "code"), [*ON_DESCRIPTOR, (Call.MAP, MAPS), *ON_NAME])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_call_fails_while_the_fault_is_on(
    injection: Injection, child: Child, call: Call, code: str, error: int
) -> None:
    name = str(call.name).lower()
    with injection.fail(call, error, files=File.DATABASE) as fault:
        assert child.ask(code) == errno.errorcode[error]
        assert fault.hits == injection.hits()[name] == 1
    assert not isinstance(child.ask(code), str)
    assert sum(injection.hits().values()) == 1


@pytest.mark.parametrize(("call", "code"), [*ON_DESCRIPTOR, (Call.MAP, MAPS), *ON_NAME])
def test_other_calls_do_not_fail(injection: Injection, child: Child, call: Call, code: str) -> None:
    others = Call((1 << len(Call)) - 1) & ~(call | Call.CLOCK)
    if "dir_fd" in code:
        others &= ~Call.OPEN  # which it needs first
    with injection.fail(others, errno.EIO, files=File.DATABASE):
        assert not isinstance(child.ask(code), str)
    assert sum(injection.hits().values()) == 0


def test_a_call_is_late(injection: Injection, child: Child) -> None:
    with injection.slow(Call.SYNC, 0.2, count=1) as fault:
        assert 0.2 <= took(lambda: child.ask("os.fsync(fd)")) < 5
        assert took(lambda: child.ask("os.fsync(fd)")) < 0.2
        assert fault.hits == 1


def test_a_call_that_hangs_goes_on_when_the_fault_ends(injection: Injection, child: Child) -> None:
    fault = injection.slow(Call.SYNC, 3600)
    assert child.process.stdin is not None and child.process.stdout is not None
    child.process.stdin.write(json.dumps(["eval", "os.fsync(fd)"]) + "\n")
    child.process.stdin.flush()
    until(lambda: fault.hits == 1)
    fault.end()
    assert json.loads(child.process.stdout.readline()) is None


def test_late_and_failing_go_together(injection: Injection, child: Child) -> None:
    with injection.fail(Call.SYNC, errno.EIO), injection.slow(Call.SYNC, 0.2):
        started = time.monotonic()
        assert child.ask("os.fsync(fd)") == "EIO"
        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("os.read(os.open('hub.db', os.O_RDONLY), 8).decode()", "0123"),
        ("os.pread(fd, 8, 1).decode()", "1234"),
        ("os.pread(fd, 1, 1).decode()", "1"),
        ("os.write(fd, b'12345678')", 4),
        ("os.pwrite(fd, b'12345678', 5)", 4),
        ("os.write(fd, b'1')", 1),
        ("os.writev(fd, [b'12', b'34', b'56'])", 3),
    ],
)
def test_half_is_done(injection: Injection, child: Child, code: str, count: object) -> None:
    with injection.short(Call.READ | Call.WRITE):
        assert child.ask(code) == count


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hub.db", File.DATABASE),
        ("hub.sqlite3", File.DATABASE),
        ("hub.db-wal", File.WAL),
        ("hub.db-shm", File.SHM),
        ("hub.db-lock", File.LOCK),
        ("hub.log", File.OTHER),
    ],
)
def test_the_file_counts(injection: Injection, start: Callable[[], Child], name: str, kind: File) -> None:
    child = start()
    child.do(f"fd = os.open({name!r}, os.O_RDWR | os.O_CREAT)")
    with injection.fail(Call.SYNC, errno.EIO, files=kind):
        assert child.ask("os.fsync(fd)") == "EIO"
        child.do(f"os.unlink({name!r})")
        assert child.ask("os.fsync(fd)") == "EIO", "it is the same file without its name"
    with injection.fail(Call.SYNC, errno.EIO, files=File.ANY & ~kind):
        assert child.ask("os.fsync(fd)") is None


def test_other_folders_sockets_and_pipes_are_not_touched(
    injection: Injection, child: Child, tmp_path: Path
) -> None:
    (tmp_path / "store of others").mkdir()
    calls = (
        Call.OPEN | Call.READ | Call.WRITE | Call.SYNC | Call.TRUNCATE | Call.UNLINK | Call.MAP | Call.LOCK
    )
    with injection.fail(calls, errno.EIO), injection.disk_full(), injection.slow(calls, 1000):
        for folder in (tmp_path, tmp_path / "store of others"):
            child.do(
                f"path = {str(folder / 'hub.db')!r}",
                "other = os.open(path, os.O_RDWR | os.O_CREAT)",
                "os.write(other, b'12345'); os.fsync(other); os.ftruncate(other, 100)",
                "lock(other, fcntl.F_WRLCK); mmap.mmap(other, 100).close(); mmap.mmap(-1, 100).close()",
                "os.unlink(path); os.close(other)",
            )
        child.do("import socket; one, two = socket.socketpair()")
        assert child.ask("os.write(one.fileno(), b'x')") == 1
        assert child.ask("os.read(two.fileno(), 5).decode()") == "x"
    assert sum(injection.hits().values()) == 0


def test_a_number_that_is_used_again_is_another_file(
    injection: Injection, child: Child, tmp_path: Path
) -> None:
    child.do("other = os.open('/dev/null', os.O_WRONLY); copy = os.dup(fd); number = fd")
    with injection.fail(Call.WRITE, errno.EIO):
        assert child.ask("os.write(fd, b'x')") == "EIO"
        assert child.ask("os.write(copy, b'x')") == "EIO"
        child.do("os.dup2(other, fd)")
        assert child.ask("os.write(fd, b'x')") == 1
        child.do("os.dup2(copy, other)")
        assert child.ask("os.write(other, b'x')") == "EIO"


def test_ways_to_a_file_are_one(
    injection: Injection, start: Callable[[], Child], tmp_path: Path, store: Path
) -> None:
    (tmp_path / "way").symlink_to(store)
    (tmp_path / "link").symlink_to(store / "hub.db")
    (store / "hub.db").touch()
    child = start()
    with injection.fail(Call.OPEN, errno.EMFILE, files=File.DATABASE):
        ways = ("hub.db", "./hub.db", "../store/hub.db", "../way/hub.db", "../link", str(store / "hub.db"))
        for way in ways:
            assert child.ask(f"os.open({way!r}, os.O_RDWR)") == "EMFILE"
        assert child.ask("os.open('new.db', os.O_RDWR | os.O_CREAT)") == "EMFILE"
        assert not (store / "new.db").exists()
    with injection.fail(Call.UNLINK, errno.EIO, files=File.DATABASE):
        assert child.ask("os.unlink('../link')") is None, "the link is outside"


def test_locks_of_the_process_outlive_the_look_at_names(
    injection: Injection, child: Child, start: Callable[[], Child]
) -> None:
    child.do("lock(fd, fcntl.F_WRLCK, fcntl.F_SETLK)")
    other = start()
    with injection.fail(Call.OPEN, errno.EIO, files=File.WAL):
        other.do("fd = os.open('hub.db', os.O_RDWR)")
        assert child.ask("os.open('hub.db-wal', os.O_RDWR | os.O_CREAT)") == "EIO"
        with injection.fail(Call.OPEN, errno.EIO, pid=child.pid):
            assert child.ask("os.open('hub.db', os.O_RDWR)") == "EIO"
    assert other.ask("lock(fd, fcntl.F_WRLCK, fcntl.F_SETLK)") == "EAGAIN"


def test_one_process_is_meant(injection: Injection, start: Callable[[], Child]) -> None:
    one, two = start(), start()
    for child in (one, two):
        child.do("fd = os.open('hub.db', os.O_RDWR | os.O_CREAT)")
    with injection.fail(Call.SYNC, errno.EIO, pid=two.pid):
        assert one.ask("os.fsync(fd)") is None
        assert two.ask("os.fsync(fd)") == "EIO"
        assert two.ask("forked('os.fsync(fd)')") is None


def test_the_next_calls_are_meant(injection: Injection, start: Callable[[], Child]) -> None:
    one, two = start(), start()
    for child in (one, two):
        child.do("fd = os.open('hub.db', os.O_RDWR | os.O_CREAT)")
    with injection.fail(Call.SYNC, errno.EIO, count=3) as fault:
        answers = [child.ask("os.fsync(fd)") for child in (one, two, one, two, one)]
        assert answers == ["EIO"] * 3 + [None] * 2
        assert fault.hits == 3
    assert fault.hits == 3


def test_the_seed_decides_what_happens_with_a_probability(library: Path, tmp_path: Path, store: Path) -> None:
    def run(number: int, seed: int) -> list[object]:
        with Injection(library, tmp_path / f"control {number}", store, seed) as injection:
            child = Child(injection.environment(), store)
            child.do("fd = os.open('hub.db', os.O_RDWR | os.O_CREAT)")
            answers = []
            for _ in range(2):
                with injection.fail(Call.SYNC, errno.EIO, probability=0.25) as fault:
                    some = [child.ask("os.fsync(fd)") for _ in range(400)]
                    assert fault.hits == some.count("EIO")
                answers.append(some)
            child.end()
        assert answers[0] == answers[1], "each fault begins anew"
        return answers[0]

    first = run(1, 7)
    assert 60 < first.count("EIO") < 140
    assert run(2, 7) == first
    assert run(3, 8) != first


def test_a_forked_process_and_a_successor_see_the_switch(injection: Injection, child: Child) -> None:
    successor = "subprocess.run([sys.executable, '-c', SUCCESSOR], stderr=subprocess.DEVNULL).returncode"
    child.do("import subprocess", "SUCCESSOR = 'import os; os.fsync(os.open(\"hub.db\", os.O_RDWR))'")
    assert child.ask("forked('os.fsync(fd)')") is None
    assert child.ask(successor) == 0
    with injection.fail(Call.SYNC, errno.EIO):
        assert child.ask("forked('os.fsync(fd)')") == "EIO"
        assert child.ask(successor) == 1
    assert child.ask("forked('os.fsync(fd)')") is None


def test_a_full_disk_keeps_what_it_has(injection: Injection, child: Child, store: Path) -> None:
    with injection.disk_full():
        assert child.ask("os.pwrite(fd, b'abcd', 0)") == 4
        assert child.ask("os.pwrite(fd, b'efgh', 8)") == 2
        assert child.ask("os.pwrite(fd, b'ij', 10)") == "ENOSPC"
        assert child.ask("os.lseek(fd, 0, os.SEEK_END)") == 10
        assert child.ask("os.write(fd, b'k')") == "ENOSPC"
        assert child.ask("os.write(os.open('hub.db', os.O_WRONLY | os.O_APPEND), b'k')") == "ENOSPC"
        assert child.ask("os.writev(fd, [b'k', b'l'])") == "ENOSPC"
        assert child.ask("os.lseek(fd, 7, os.SEEK_SET)") == 7
        assert child.ask("os.writev(fd, [b'k', b'lm', b'no'])") == 3
        assert child.ask("os.ftruncate(fd, 11)") == "ENOSPC"
        assert child.ask("os.open('hub.db-wal', os.O_RDWR | os.O_CREAT)") == "ENOSPC"
        child.do("os.close(os.open('hub.db', os.O_RDWR | os.O_CREAT))")
        assert child.ask("os.ftruncate(fd, 10)") is None
        assert child.ask("os.fsync(fd)") is None
    assert (store / "hub.db").read_bytes() == b"abcd456klm"
    assert child.ask("os.pwrite(fd, b'ij', 10)") == 2
    assert {"open", "write", "truncate"} <= {name for name, count in injection.hits().items() if count}


@pytest.mark.parametrize("seconds", [3600.0, -86400.25, 0.5, -0.5])
def test_the_time_of_day_jumps(injection: Injection, child: Child, seconds: float) -> None:
    assert abs(told(child, "time.time()") - time.time()) < 0.2
    with injection.clock_jump(seconds):
        for code in ("time.time()", "time.clock_gettime(time.CLOCK_REALTIME)"):
            assert abs(told(child, code) - time.time() - seconds) < 0.2
        child.do("db = sqlite3.connect(':memory:')")  # by gettimeofday
        asked = "db.execute(\"SELECT (julianday('now') - 2440587.5) * 86400\").fetchone()[0]"
        assert abs(told(child, asked) - time.time() - seconds) < 0.2
        assert abs(told(child, "time.monotonic()") - time.monotonic()) < 0.2
    assert abs(told(child, "time.time()") - time.time()) < 0.2
    assert injection.hits()["clock"] >= 3


def test_no_thread_starts(injection: Injection, child: Child) -> None:
    code = "[one.start() or one.join() for one in [threading.Thread(target=int)]]"
    with injection.no_threads():
        assert child.ask(code) == "can't start new thread"
    assert child.ask(code) == [None]
    assert injection.hits()["thread"] == 1


SQL = [
    (Call.SYNC, errno.EIO, File.WAL, "SQLITE_IOERR_FSYNC"),
    (Call.WRITE, errno.EIO, File.WAL, "SQLITE_IOERR_WRITE"),
    (Call.WRITE, errno.ENOSPC, File.WAL, "SQLITE_FULL"),
]


@pytest.mark.parametrize(("call", "error", "files", "name"), SQL)
def test_sqlite_meets_the_faults(
    injection: Injection,
    start: Callable[[], Child],
    call: Call,
    error: int,
    files: File,
    name: str,
) -> None:
    child = start()
    child.do(
        "db = sqlite3.connect('hub.db', isolation_level=None)",
        "db.execute('PRAGMA journal_mode = WAL'); db.execute('PRAGMA synchronous = FULL')",
        "db.execute('CREATE TABLE t (a)')",
    )
    with injection.fail(call, error, files=files):
        assert child.ask("db.execute('INSERT INTO t VALUES (1)').rowcount") == name
    assert child.ask("db.execute('INSERT INTO t VALUES (2)').rowcount") == 1
    assert child.ask("db.execute('SELECT a FROM t').fetchall()") == [[2]]


def test_sqlite_goes_on_after_half_a_write(injection: Injection, start: Callable[[], Child]) -> None:
    child = start()
    child.do(
        "db = sqlite3.connect('hub.db', isolation_level=None)", "db.execute('PRAGMA journal_mode = WAL')"
    )
    with injection.short(Call.READ | Call.WRITE) as fault:
        child.do("db.execute('CREATE TABLE t (a)'); db.execute('INSERT INTO t VALUES (1)')")
        assert fault.hits > 2
    assert child.ask("db.execute('PRAGMA integrity_check').fetchall()") == [["ok"]]


def test_sqlite_has_no_wal_index_without_maps(injection: Injection, start: Callable[[], Child]) -> None:
    child = start()
    child.do(
        "db = sqlite3.connect('hub.db', isolation_level=None)", "db.execute('PRAGMA journal_mode = WAL')"
    )
    with injection.fail(Call.MAP, errno.ENOMEM, files=File.SHM) as fault:
        assert child.ask("db.execute('CREATE TABLE t (a)').rowcount") == "SQLITE_IOERR_SHMMAP"
        assert fault.hits
    assert child.ask("db.execute('CREATE TABLE t (a)').rowcount") == -1


def test_faults_that_cannot_be(injection: Injection) -> None:
    cases: tuple[Callable[[], Fault], ...] = (
        lambda: Fault(Action.FAIL, Call.SYNC),
        lambda: Fault(Action.SHORT, Call.SYNC),
        lambda: Fault(Action.SLOW, Call.SYNC),
        lambda: Fault(Action.JUMP, Call.SYNC, seconds=1),
        lambda: Fault(Action.JUMP, Call.CLOCK, seconds=1, count=1),
        lambda: Fault(Action.FAIL, Call(0), error=errno.EIO),
        lambda: Fault(Action.FAIL, Call.SYNC, error=errno.EIO, probability=1.1),
        lambda: Fault(Action.FAIL, Call.SYNC, error=errno.EIO, count=-1),
        lambda: Fault(Action.NONE, Call.SYNC),
    )
    for wrong in cases:
        with pytest.raises(ValueError):
            wrong()


def test_so_many_faults_at_once(injection: Injection, child: Child) -> None:
    some = [injection.fail(Call.READ, errno.EIO) for _ in range(15)]
    last = injection.fail(Call.SYNC, errno.EIO)
    assert len(injection.active()) == 16
    with pytest.raises(RuntimeError, match="16 faults are on"):
        injection.fail(Call.READ, errno.EIO)
    assert child.ask("os.fsync(fd)") == "EIO"
    last.end()
    assert not last.is_on
    assert child.ask("os.fsync(fd)") is None
    injection.fail(Call.SYNC, errno.ENOSPC)
    assert child.ask("os.fsync(fd)") == "ENOSPC"
    injection.clear()
    assert not any(one.is_on for one in some)
    assert injection.active() == []


def test_a_process_without_its_file_ends(library: Path, tmp_path: Path, store: Path) -> None:
    with Injection(library, tmp_path / "control", store) as injection:
        environment = injection.environment()
    run = subprocess.run([sys.executable, "-c", ""], env=environment, capture_output=True, check=False)
    assert run.returncode == 127
    assert b"CHAOS_CONTROL cannot be opened" in run.stderr
    (tmp_path / "control").write_bytes(bytes(65536))
    run = subprocess.run([sys.executable, "-c", ""], env=environment, capture_output=True, check=False)
    assert run.returncode == 127
    assert b"is of another version" in run.stderr


def test_a_missing_compiler_is_told(tmp_path: Path) -> None:
    with pytest.raises(builder.BuildError, match="apt install gcc libc6-dev"):
        builder.build(tmp_path, "no-such-compiler")
    with pytest.raises(builder.BuildError, match="false cannot build"):
        builder.build(tmp_path, "false")
    assert list(tmp_path.iterdir()) == []


def test_a_hub_without_faults(injection: Injection, store: Path) -> None:
    with process(store, **injection.environment()) as (_, hub):
        stream = hub.subscribe({"match": "t"})
        hub.send("t", "one")
        assert stream.take(1) == ["one"]
        hub.close()
    assert sum(injection.hits().values()) == 0


def test_a_hub_refuses_while_nothing_can_be_made_durable(injection: Injection, store: Path) -> None:
    with process(store, **injection.environment()) as (_, hub):
        first = hub.send("t", "before")
        stream = hub.subscribe({"match": "t"})
        with injection.fail(Call.SYNC, errno.EIO) as fault:
            for _ in range(3):
                assert hub.publish({"topic": "t", "data": "lost"}).status == 503
            assert fault.hits >= 3
        hub.send("t", "after")
        assert stream.take(1) == ["after"]
        assert hub.subscribe({"match": "t", "last_event_id": first}).take(1) == ["after"]
        hub.close()


def test_one_worker_of_two_meets_a_fault(injection: Injection, store: Path, tmp_path: Path) -> None:
    with workers(store, 2, 0, **injection.environment()) as hub:
        with injection.fail(Call.SYNC, errno.EIO, pid=hub.pids[0]):
            statuses = {hub.publish({"topic": "t"}).status for _ in range(24)}
            assert statuses == {200, 503}
        assert {hub.publish({"topic": "t"}).status for _ in range(24)} == {200}


def told(child: Child, code: str) -> float:
    """What a process says of a time."""
    value = child.ask(code)
    assert isinstance(value, float)
    return value


def took(run: Callable[[], object]) -> float:
    started = time.monotonic()
    run()
    return time.monotonic() - started


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)
