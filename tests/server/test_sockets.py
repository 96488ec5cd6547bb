"""Where listening sockets come from, and what is told to a service manager."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mercure_hub.config.loading import load_settings
from mercure_hub.config.settings import HANDED_OVER, SettingError, Settings
from mercure_hub.server import sockets as server_sockets
from mercure_hub.server.sockets import listening_sockets, notify, url_of
from tests.hub.running import SECRET, TIMEOUT, RunningHub, process_environment

pytestmark = pytest.mark.minutes


def settings(**more: str) -> Settings:
    return load_settings({"MERCURE_PUBLISHER_JWT_KEY": SECRET, "MERCURE_LISTEN": "127.0.0.1:0", **more}, {})


@pytest.fixture
def given() -> Iterator[socket.socket]:
    """A listening socket that somebody else has opened."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening


def close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


@pytest.mark.linux("TCP_NOTSENT_LOWAT")
def test_the_kernel_keeps_little_for_a_client_that_reads_nothing() -> None:
    (listening,) = listening_sockets(settings(), 1, {})
    with listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.connect(listening.getsockname())
        client.sendall(b"x")  # it is not accepted before
        listening.setblocking(True)
        with listening.accept()[0] as accepted:
            accepted.setblocking(False)
            taken = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken += accepted.send(bytes(1 << 18))
            assert 1 << 18 <= taken < 1 << 20


@pytest.mark.linux("the kernel spreads connections over several sockets")
def test_several_sockets_are_bound_to_one_port() -> None:
    sockets = listening_sockets(settings(), 3, {})
    try:
        assert len({one.getsockname() for one in sockets}) == 1
        assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for one in sockets)
    finally:
        close(sockets)


class TestWithoutLinux:
    """A kernel that spreads no connections and lacks options of TCP."""

    @pytest.fixture(autouse=True)
    def _other_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_sockets, "_SPREADS", False)
        for name in ("TCP_DEFER_ACCEPT", "TCP_NOTSENT_LOWAT", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE"):
            monkeypatch.delattr(socket, name, raising=False)

    @pytest.mark.parametrize("heartbeat", ["0", "40"])
    def test_all_processes_accept_from_one_socket(self, heartbeat: str) -> None:
        sockets = listening_sockets(settings(MERCURE_HEARTBEAT=heartbeat), 3, {})
        try:
            assert len({one.getsockname() for one in sockets}) == 1
            with socket.create_connection(sockets[0].getsockname()):
                for one in reversed(sockets):
                    assert select.select([one], [], [], 10)[0]
                sockets[2].accept()[0].close()
                with pytest.raises(BlockingIOError):
                    sockets[0].accept()
        finally:
            close(sockets)

    def test_a_successor_takes_them_over(self) -> None:
        before = listening_sockets(settings(), 2, {})
        descriptors = ",".join(str(os.dup(one.fileno())) for one in before)
        after = listening_sockets(settings(), 3, {HANDED_OVER: descriptors})
        try:
            assert len({one.getsockname() for one in (*before, *after)}) == 1
        finally:
            close([*before, *after])


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_in_use_is_refused(given: socket.socket, count: int) -> None:
    address = f"127.0.0.1:{given.getsockname()[1]}"
    with pytest.raises(SettingError, match="stop what uses it"):
        listening_sockets(settings(MERCURE_LISTEN=address), count, {})


def test_a_port_shared_by_another_hub_is_refused() -> None:
    others = listening_sockets(settings(), 2, {})
    try:
        address = f"127.0.0.1:{others[0].getsockname()[1]}"
        for count in (1, 2):
            with pytest.raises(SettingError, match="stop what uses it"):
                listening_sockets(settings(MERCURE_LISTEN=address), count, {})
    finally:
        close(others)


def test_sockets_that_are_handed_over_are_used(given: socket.socket) -> None:
    environment = {HANDED_OVER: str(os.dup(given.fileno())), "OTHER": "stays"}
    sockets = listening_sockets(settings(), 1, environment)
    try:
        assert [one.getsockname() for one in sockets] == [given.getsockname()]
        assert not sockets[0].getblocking()
        assert environment == {"OTHER": "stays"}
    finally:
        close(sockets)


def test_more_processes_than_before_share_a_socket_that_is_alone_on_its_port(given: socket.socket) -> None:
    sockets = listening_sockets(settings(), 3, {HANDED_OVER: str(os.dup(given.fileno()))})
    try:
        assert [one.getsockname() for one in sockets] == [given.getsockname()] * 3
    finally:
        close(sockets)


def test_more_processes_than_before_bind_more_sockets() -> None:
    before = listening_sockets(settings(), 2, {})
    descriptors = ",".join(str(os.dup(one.fileno())) for one in before)
    after = listening_sockets(settings(), 3, {HANDED_OVER: descriptors})
    try:
        assert len({one.getsockname() for one in (*before, *after)}) == 1
    finally:
        close([*before, *after])


def test_fewer_processes_than_before_leave_no_socket_open() -> None:
    before = listening_sockets(settings(), 3, {})
    numbers = [os.dup(one.fileno()) for one in before]
    after = listening_sockets(settings(), 1, {HANDED_OVER: ",".join(map(str, numbers))})
    try:
        for number in numbers[1:]:
            with pytest.raises(OSError):
                os.fstat(number)
    finally:
        close([*before, *after])


def test_a_descriptor_that_is_not_a_socket_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises((SettingError, OSError)):
        listening_sockets(settings(), 1, {HANDED_OVER: str(descriptor)})
    os.close(descriptor)


def test_descriptors_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    sockets = listening_sockets(settings(), 1, environment)
    try:
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        assert sockets[0].fileno() > 3 or sockets[0].fileno() != 3
        assert environment == {}
    finally:
        close(sockets)


ACTIVATES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(sys.executable, [sys.executable, "-m", "mercure_hub"])
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sockets_of_systemd_are_used(folder: Path, given: socket.socket, workers: str) -> None:
    """As systemd does it; the port that is configured is not touched."""
    port = given.getsockname()[1]
    environment = process_environment(
        folder, MERCURE_LISTEN="127.0.0.1:1", MERCURE_ANONYMOUS="1", MERCURE_WORKERS=workers
    )
    with subprocess.Popen(
        [sys.executable, "-c", ACTIVATES, str(given.fileno())],
        env=environment,
        pass_fds=[given.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stderr is not None
            line = child.stderr.readline()
            assert re.search(rf"listens on http://127\.0\.0\.1:{port}$", line.strip()), line
            hub = RunningHub(port)
            stream = hub.subscribe({"match": "t"})
            hub.send("t", "hello")
            assert stream.take(1) == ["hello"]
            hub.close()
        finally:
            child.terminate()
            assert child.wait(TIMEOUT * 2) == 0


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_notified(tmp_path: Path, is_abstract: bool) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        name = str(tmp_path / "notify")
        manager.bind("\0" + name if is_abstract else name)
        manager.settimeout(TIMEOUT)
        notify({"NOTIFY_SOCKET": "@" + name if is_abstract else name}, "READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    notify({}, "READY=1")
    notify({"NOTIFY_SOCKET": str(tmp_path / "gone")}, "READY=1")


def test_the_url_of_a_socket() -> None:
    with closing(socket.socket(socket.AF_INET6)) as listening:
        listening.bind(("::1", 0))
        assert url_of(listening, is_tls=True) == f"https://[::1]:{listening.getsockname()[1]}"
