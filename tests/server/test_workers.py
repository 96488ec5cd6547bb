"""Several processes on one port, as their users start and lose them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercure_hub.config.loading import load_settings
from mercure_hub.protocol.errors import StorageError
from mercure_hub.server import workers as parent
from mercure_hub.server.signals import Signals
from tests.chosen_engine import IS_SQLITE, transport_url
from tests.hub.running import HUB_PATH, TIMEOUT, RunningHub, Stream, process_environment
from tests.storage.log import until as until_true
from tests.storage.log import waiting_for_locks

pytestmark = pytest.mark.minutes

API = HUB_PATH + "/subscriptions"
PRESENCE = {"match_urlpattern": "/.well-known/mercure/subscriptions/:type/:match/:subscriber"}
ENOUGH = 24  # connections, of which each of two workers gets some, but for one case in 8 million


class Workers(RunningHub):
    """A hub of several processes.

    :param child: the parent of the workers.
    """

    def __init__(self, port: int, child: subprocess.Popen[str], log: Path) -> None:
        super().__init__(port)
        self.child = child
        self.log = log

    @property
    def pids(self) -> list[int]:
        """The workers, without the feeder that other engines need."""
        return self.children if IS_SQLITE else [pid for pid in self.children if listens(pid, self.port)]

    @property
    def children(self) -> list[int]:
        """All processes that the parent has started."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def count(self, pid: int) -> int:
        """The connections that a worker has: its sockets but the one that listens."""
        sockets = 0
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets += str(descriptor.readlink()).startswith("socket:")
        return sockets - 1

    def wait_for_log(self, words: str) -> None:
        """Wait until the log has a line with some words."""
        with subprocess.Popen(
            ["tail", "-n", "+1", "-F", str(self.log)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as tail:
            timer = threading.Timer(TIMEOUT * 2, tail.kill)
            timer.start()
            try:
                assert tail.stdout is not None
                assert any(words in line for line in tail.stdout), f"the log never said {words!r}"
            finally:
                timer.cancel()
                timer.join()
                tail.kill()


def listens(pid: int, port: int) -> bool:
    """Whether a process has a socket that listens on a port."""
    needle = f":{port:04X} 00000000:0000 0A"
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()
    sockets = {f"socket:[{line.split()[9]}]" for line in lines if needle in line}
    with contextlib.suppress(OSError):  # the process has ended
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # this descriptor was closed meanwhile
                if str(one.readlink()) in sockets:
                    return True
    return False


@contextmanager
def workers(folder: Path, count: int = 2, port: int = 0, **variables: str) -> Iterator[Workers]:
    """Start ``python -m mercure_hub`` with some workers."""
    log = folder / "hub.log"
    log.write_text("", encoding="utf-8")  # a second hub here begins anew
    environment = process_environment(
        folder,
        **{
            "MERCURE_LISTEN": f"127.0.0.1:{port}",
            "MERCURE_ANONYMOUS": "1",
            "MERCURE_WORKERS": str(count),
            "MERCURE_LOG_FILE": str(log),
            **variables,
        },
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "mercure_hub"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        hub = Workers(0, child, log)
        try:
            hub.wait_for_log("listens on http://")
            found = re.search(r"listens on http://[\d.]+:(\d+)", log.read_text(encoding="utf-8"))
            assert found
            hub.port = int(found[1])
            yield hub
        finally:
            hub.close()
            child.terminate()
            try:
                assert child.wait(TIMEOUT * 2) == 0
            finally:
                child.kill()
            assert child.stderr is not None
            assert child.stderr.read() == ""


def many(hub: RunningHub, topic: str = "t", count: int = ENOUGH) -> list[Stream]:
    return [hub.subscribe({"match": topic}) for _ in range(count)]


def all_get_one_order(hub: RunningHub, streams: list[Stream]) -> None:
    """Three publish at once, and each stream gets everything in the same order."""
    publishers = [
        threading.Thread(target=lambda name=name: [hub.send("t", f"{name}{i}") for i in range(40)])
        for name in "abc"
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    received = [stream.take(120) for stream in streams]
    assert all(one == received[0] for one in received)
    assert sorted(received[0]) == sorted(f"{name}{i}" for name in "abc" for i in range(40))


@pytest.mark.every_engine
def test_each_update_reaches_the_subscribers_of_all_workers_in_one_order(folder: Path) -> None:
    with workers(folder, 3) as hub:
        all_get_one_order(hub, many(hub))


def test_subscribers_are_spread_over_the_workers(folder: Path) -> None:
    with workers(folder) as hub:
        many(hub, count=200)
        shares = [hub.count(pid) for pid in hub.pids]
    assert len(shares) == 2
    assert all(share >= 60 for share in shares)


@pytest.mark.every_engine
def test_history_comes_from_any_worker(folder: Path) -> None:
    with workers(folder) as hub:
        ids = [hub.send("t", str(number)) for number in range(10)]
        for _ in range(ENOUGH):
            assert hub.subscribe({"match": "t", "last_event_id": ids[4]}).take(5) == list("56789")
            assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(10) == list("0123456789")


@pytest.mark.every_engine
@pytest.mark.linux("the kernel spreads connections over the workers")
def test_a_worker_that_is_killed_is_replaced_and_its_subscribers_lose_nothing(folder: Path) -> None:
    with workers(folder) as hub:
        last = hub.send("t", "before")
        streams = many(hub)
        stop = threading.Event()
        sent: list[str] = []

        def publish() -> None:
            number = 0
            while not stop.is_set():
                # Only a publication that was answered is promised.
                with contextlib.suppress(OSError, AssertionError):
                    hub.send("t", str(number))
                    sent.append(str(number))
                number += 1

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            victim = hub.pids[0]
            os.kill(victim, signal.SIGKILL)
            hub.wait_for_log("was ended by SIGKILL; it is replaced")
            many(hub, "other")  # both listen again
            assert victim not in hub.pids
            assert len(hub.pids) == 2
        finally:
            stop.set()
            publisher.join()
        hub.send("t", "the end")
        cut = 0
        for stream in streams:
            received = list(until(stream, "the end"))
            if received[-1:] != ["the end"]:  # one of the victim's: it comes back as a browser does
                cut += 1
                again = hub.subscribe({"match": "t", "last_event_id": stream_id(stream, last)})
                received += until(again, "the end")
            assert [one for one in received if one in sent] == sent
            assert len(set(received)) == len(received)
        assert 0 < cut < len(streams)


def until(stream: Stream, data: str) -> Iterator[str]:
    """The data of events up to one, or to the end of the stream."""
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            event = stream.next()
            stream.reply.headers["last seen"] = event.id
            yield event.data
            if event.data == data:
                return


def stream_id(stream: Stream, default: str) -> str:
    return stream.reply.headers.get("last seen", default)


def test_connections_that_come_while_a_worker_is_replaced_wait(folder: Path) -> None:
    with workers(folder) as hub:
        os.kill(hub.pids[0], signal.SIGSTOP)
        stopped = hub.pids[0]
        waiting = []
        for _ in range(ENOUGH):
            sock = hub.connect()
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            waiting.append(sock)
        os.kill(stopped, signal.SIGKILL)
        for sock in waiting:
            with sock:
                assert sock.recv(12) == b"HTTP/1.1 200"


@pytest.mark.every_engine
def test_the_api_lists_the_subscriptions_of_all_workers(folder: Path) -> None:
    with workers(folder, MERCURE_SUBSCRIPTIONS="1") as hub:
        watcher = hub.subscribe(PRESENCE, hub.token())
        watcher.next()
        many(hub)
        came = {json.loads(watcher.next().data)["subscriber"] for _ in range(ENOUGH)}
        for _ in range(6):  # whichever answers
            listed = hub.get(path=API + "/exact/t", token=hub.token()).json()["subscriptions"]
            assert {one["subscriber"] for one in listed} == came
            one = sorted(came)[0]
            assert hub.get(path=f"{API}/exact/t/{one}", token=hub.token()).json()["subscriber"] == one


@pytest.mark.every_engine
def test_the_end_of_subscriptions_is_announced_when_their_worker_was_killed(folder: Path) -> None:
    with workers(folder, MERCURE_SUBSCRIPTIONS="1") as hub:
        start = hub.send("start")
        witness = hub.subscribe({**PRESENCE, "last_event_id": start}, hub.token())
        many(hub)
        for _ in range(ENOUGH + 1):  # it is known to the log now, whoever dies
            witness.next()
        os.kill(hub.pids[0], signal.SIGKILL)
        hub.wait_for_log("it is replaced")
        active: set[str] = set()
        ended = 0
        watcher = hub.subscribe({**PRESENCE, "last_event_id": start}, hub.token())
        while not ended or len(active) + ended < ENOUGH:
            document = json.loads(watcher.next().data)
            if document["match"] != "t":
                continue
            if document["active"]:
                active.add(document["subscriber"])
            else:
                active.remove(document["subscriber"])
                ended += 1
        hub.send("other")
        listed = hub.get(path=API + "/exact/t", token=hub.token()).json()["subscriptions"]
        while len(active) > len(listed):
            document = json.loads(watcher.next().data)
            if document["match"] == "t":  # not the witness, which may have lost its worker too
                assert not document["active"]
                active.remove(document["subscriber"])
        assert {one["subscriber"] for one in listed} == active


def test_the_end_of_subscriptions_is_announced_when_the_whole_hub_was_killed(folder: Path) -> None:
    with workers(folder, 1, MERCURE_SUBSCRIPTIONS="1") as hub:
        start = hub.send("start")
        witness = hub.subscribe({**PRESENCE, "last_event_id": start}, hub.token())
        many(hub, count=3)
        witness.take(4)
        group = [hub.child.pid]
        os.kill(group[0], signal.SIGKILL)
        hub.child.wait(TIMEOUT)
        hub.close()
        with workers(folder, 2, MERCURE_SUBSCRIPTIONS="1") as again:
            watcher = again.subscribe({**PRESENCE, "last_event_id": start}, again.token())
            # Where another machine might have them, they end with the lease of the dead hub.
            documents = [json.loads(watcher.next().data) for _ in range(9)]
            came = {one["subscriber"] for one in documents[:4]}
            assert [one["active"] for one in documents].count(True) == 5
            assert {one["subscriber"] for one in documents if not one["active"]} == came
            assert again.get(path=API + "/exact/t", token=again.token()).json()["subscriptions"] == []
        hub.child.returncode = 0  # killed on purpose


@pytest.mark.parametrize("setting", ["MERCURE_MAX_CONNECTIONS", "MERCURE_MAX_CONNECTIONS_PER_ADDRESS"])
def test_connection_limits_count_all_workers(folder: Path, setting: str) -> None:
    with workers(folder, 2, 0, **{setting: "10"}) as hub:
        many(hub, count=10)
        for _ in range(8):
            assert hub.get({"match": "t"}).status == 429


@pytest.mark.every_engine
def test_workers_end_with_their_parent(folder: Path) -> None:
    with workers(folder) as hub:
        streams = many(hub)
        pids = hub.pids
        hub.child.kill()
        hub.child.wait(TIMEOUT)
        for stream in streams:
            assert stream.ended()
        for pid in pids:
            wait_for_end(pid)
        with pytest.raises(ConnectionRefusedError):
            hub.connect()
        hub.child.returncode = 0  # killed on purpose


def wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            import select

            assert select.select([descriptor], [], [], TIMEOUT)[0], f"process {pid} goes on"
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_and_processes(folder: Path, number: signal.Signals) -> None:
    with workers(folder) as hub:
        streams = many(hub)
        hub.send("t", "before the end")
        pids = hub.pids
        hub.child.send_signal(number)
        for stream in streams:
            assert stream.take(1) == ["before the end"]
            assert stream.ended()
        assert hub.child.wait(TIMEOUT) == 0
        for pid in pids:
            wait_for_end(pid)


def refusal(folder: Path, **variables: str) -> str:
    """What a hub says that cannot start, in words."""
    run = subprocess.run(
        [sys.executable, "-m", "mercure_hub"],
        env=process_environment(folder, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    return run.stderr


def test_a_port_in_use_is_reported(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    with workers(folder) as hub:
        said = refusal(
            folder,
            MERCURE_LISTEN=f"127.0.0.1:{hub.port}",
            MERCURE_TRANSPORT_URL=transport_url(other),
            MERCURE_WORKERS="2",
        )
    assert "MERCURE_LISTEN: cannot listen on 127.0.0.1" in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MERCURE_TRANSPORT_URL": "sqlite:////nowhere/hub.db"}, "MERCURE_TRANSPORT_URL: the database"),
        ({"MERCURE_TLS_CERT": "/nowhere/cert.pem"}, "MERCURE_TLS_CERT: '/nowhere/cert.pem' cannot be read"),
    ],
)
def test_workers_that_cannot_start_say_why(folder: Path, variables: dict[str, str], words: str) -> None:
    assert words in refusal(folder, **{"MERCURE_WORKERS": "3", **variables})


def test_log_lines_name_their_worker(folder: Path) -> None:
    with workers(folder, MERCURE_LOG_FORMAT="json") as hub:
        for _ in range(ENOUGH):
            assert hub.get(path="/healthz").status == 200
    lines = [json.loads(line) for line in (folder / "hub.log").read_text(encoding="utf-8").splitlines()]
    assert {line["worker"] for line in lines if "healthz" in line["message"]} == {0, 1}


def test_a_keep_alive_connection_stays_with_its_worker(folder: Path) -> None:
    with workers(folder) as hub, socket.create_connection(("127.0.0.1", hub.port), TIMEOUT) as sock:
        for _ in range(5):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("others", [0, 1])
def test_a_worker_that_cannot_start_ends_the_hub_only_if_no_other_one_serves(
    others: int,
) -> None:
    def fail(_: object) -> None:
        raise StorageError("the disk is full")

    hub = object.__new__(parent.Workers)
    dead = parent._Worker(0)
    hub._feeder = hub._feed = None
    hub._workers = [dead, *(parent._Worker(1 + number, pid=1) for number in range(others))]
    tries = 20
    if others:
        for _ in range(tries):
            hub._attempt(fail, dead)
        assert dead.failures == tries
    else:
        with pytest.raises(StorageError, match="the disk is full"):
            for _ in range(tries):
                hub._attempt(fail, dead)
        assert dead.failures < tries


def test_a_hub_goes_on_while_the_system_has_no_room_for_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    hub = object.__new__(parent.Workers)
    dead = parent._Worker(0)
    hub._feeder = hub._feed = None
    hub._workers = [dead, parent._Worker(1, pid=1)]
    monkeypatch.setattr(os, "fork", fail)
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(10):
        hub._attempt(hub._start, dead)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert (dead.failures, dead.pid, dead.is_starting) == (10, 0, False)


def test_a_worker_that_starts_and_gives_way_during_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """To kill it although it has ended would kill all of its group, the hub that takes over among them."""

    class Successor:
        @classmethod
        def start(cls, _: list[int]) -> Successor:
            return cls()

        def takes_over(self, *_: object) -> bool:
            return True

    killed: list[int] = []
    hub = object.__new__(parent.Workers)
    hub._settings = load_settings({"MERCURE_PUBLISHER_JWT_KEY": "x" * 32}, {})
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    hub._signals = Signals(())
    hub._listening, hub._metrics, hub._bells, hub._life = [], None, [], os.pipe()
    child = subprocess.Popen([sys.executable, "-c", ""])
    reports, tells = os.pipe()
    os.close(tells)
    hub._feeder = hub._feed = None
    hub._workers = [parent._Worker(0, pid=child.pid, reports=reports)]
    monkeypatch.setattr(parent, "Successor", Successor)
    monkeypatch.setattr(parent, "_signal", lambda pids, _: killed.extend(pids))
    assert hub._is_succeeded()
    hub._stop()
    hub._signals.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # which each wait has blocked
    child.returncode = 0
    assert killed == [child.pid]  # told to give way


@pytest.mark.sqlite("it has a lock file")
@pytest.mark.linux("it locks a byte of the lock file")
def test_a_worker_that_is_starting_does_not_delay_signals_to_the_others(folder: Path) -> None:
    """Nor does its end, or a signal that comes before it can act on it."""
    with workers(folder) as hub, (folder / "hub.db-lock").open("ab+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_SH, 1, 0)
        victim, other = hub.pids
        os.kill(victim, signal.SIGKILL)
        until_true(
            lambda: len(hub.pids) == 2 and victim not in hub.pids and waiting_for_locks(Path(lock.name))
        )
        hub.child.send_signal(signal.SIGHUP)
        hub.wait_for_log("were reloaded")  # by the one that serves
        [starting] = set(hub.pids) - {other}
        os.kill(starting, signal.SIGHUP)
        os.kill(other, signal.SIGKILL)
        until_true(lambda: other not in hub.pids and len(hub.pids) == 2)
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, 0)
        many(hub)
        assert starting in hub.pids


def test_a_signal_to_a_worker_that_has_no_handlers_yet_is_kept(folder: Path) -> None:
    """Without the mask of its parent, it would be ended by it."""
    with workers(folder) as hub:
        for _ in range(5):
            young = replaced(hub)
            os.kill(young, signal.SIGHUP)
            many(hub, count=4)
            assert young in hub.pids


def replaced(hub: Workers) -> int:
    """Kill one of two workers.

    :returns: the process that takes its place, which has just begun.
    """
    before = set(hub.pids)
    os.kill(min(before), signal.SIGKILL)
    until_true(lambda: set(hub.pids) - before)
    (young,) = set(hub.pids) - before
    return young


@pytest.mark.every_engine
def test_counts_are_of_all_workers_also_after_one_died(folder: Path) -> None:
    path = HUB_PATH + "/counts/room"
    with workers(folder, MERCURE_SUBSCRIPTIONS="1") as hub:
        token = hub.token(subscribe=["room", path])
        numbers = hub.subscribe({"match": path}, token)
        visitors = [hub.subscribe({"match": "room"}, token) for _ in range(ENOUGH)]

        def told() -> int:
            number: int = json.loads(numbers.next().data)["count"]
            return number

        while told() != ENOUGH:
            pass
        until_true(lambda: numbers_of(hub, path, token) == {ENOUGH})
        victim = hub.pids[0]
        os.kill(victim, signal.SIGKILL)
        until_true(lambda: victim not in hub.pids and len(hub.pids) == 2)
        alive = sum(not is_ended(one) for one in visitors)
        assert 0 < alive < ENOUGH
        late = hub.subscribe({"match": path}, token)
        while json.loads(late.next().data)["count"] != alive:
            pass
        until_true(lambda: numbers_of(hub, path, token) == {alive})


def numbers_of(hub: Workers, path: str, token: str) -> set[int]:
    """What the workers answer when a count is asked for: those that get one of ten connections."""
    return {hub.get(path=path, token=token).json()["count"] for _ in range(10)}


def is_ended(stream: Stream) -> bool:
    """Whether the hub has closed a stream; of one that lives, what has come is left."""
    stream.sock.settimeout(0.2)
    try:
        return stream.sock.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
