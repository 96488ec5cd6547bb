"""Another host, and what both sides notice when the cable between them is out."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import hosts
from chaos.hosts import Host, HostError, Switch
from tests.hub.running import HUB_PATH, TIMEOUT, read_reply, running_hub

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("other_hosts")]

NAMESPACES = Path("/run/netns")
LINKS = Path("/sys/class/net")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


@pytest.fixture
def listening(host: Host) -> Iterator[socket.socket]:
    with socket.create_server((host.hub_address, 0)) as made:
        made.settimeout(TIMEOUT)
        yield made


def pair(host: Host, listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection: there and here."""
    there = host.connect(listening.getsockname()[1], TIMEOUT)
    here, address = listening.accept()
    assert address[0] == host.client_address != host.hub_address
    here.settimeout(TIMEOUT)
    return there, here


def left() -> list[str]:
    """The links and namespaces of this process; others have theirs."""
    pid = os.getpid()
    found = [*LINKS.glob(f"ch{pid}n*"), *NAMESPACES.glob(f"chaos-{pid}-*")]
    return [path.name for path in found]


def test_a_client_comes_from_another_address(host: Host, listening: socket.socket) -> None:
    there, here = pair(host, listening)
    with there, here:
        there.sendall(b"there")
        assert here.recv(10) == b"there"
        here.sendall(b"here")
        assert there.recv(10) == b"here"


def test_only_this_thread_s_sockets_are_of_this_host(host: Host, listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname(), TIMEOUT) as own:
        assert own.getsockname()[0] == host.hub_address
    with socket.create_server(("127.0.0.1", 0)) as local, host.make_socket() as other:
        other.settimeout(TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            other.connect(local.getsockname())


def test_nobody_is_told_of_a_cut(host: Host, listening: socket.socket) -> None:
    there, here = pair(host, listening)
    with there, here:
        with host.outage():
            here.sendall(b"lost for now")
            there.sendall(b"too")
            for end in (there, here):
                end.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    end.recv(10)
            with pytest.raises(OSError):
                host.connect(listening.getsockname()[1], 0.3)
        for end in (there, here):
            end.settimeout(TIMEOUT)
        assert there.recv(20) == b"lost for now"
        assert here.recv(20) == b"too"


def test_who_is_gone_when_the_cable_comes_back_is_noticed(host: Host, listening: socket.socket) -> None:
    there, here = pair(host, listening)
    with here:
        host.cut()
        there.close()
        here.sendall(b"x")
        here.settimeout(0.3)
        with pytest.raises(TimeoutError):
            here.recv(10)
        host.mend()
        here.settimeout(TIMEOUT)
        # Its end arrives first, or the reset that answers the byte.
        with contextlib.suppress(ConnectionResetError):
            assert here.recv(10) == b""


def test_hosts_side_by_side(host: Host, listening: socket.socket) -> None:
    with Host() as other, socket.create_server((other.hub_address, 0)) as listening_too:
        assert len({host.hub_address, host.client_address, other.hub_address, other.client_address}) == 4
        listening_too.settimeout(TIMEOUT)
        host.cut()
        there, here = pair(other, listening_too)
        there.close()
        here.close()
        host.mend()
    there, here = pair(host, listening)
    there.close()
    here.close()


def test_nothing_is_left() -> None:
    host = Host()
    with pytest.raises(ZeroDivisionError), host:
        there = host.make_socket()
        assert len(left()) == 2
        raise ZeroDivisionError
    assert left() == [], "although there is still a socket"
    there.close()
    with pytest.raises(HostError):
        host.make_socket()


def test_nothing_is_left_of_one_that_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(name: str) -> None:
        raise HostError(name)

    monkeypatch.setattr(hosts, "_enter", enter)
    with pytest.raises(HostError), Host():
        pass
    assert left() == []


KILLED = """
import os, signal
from chaos.hosts import Host
with Host() as host:
    print(host.name, host._here, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_runs_left_is_removed() -> None:
    run = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    name, link = run.stdout.split()
    assert (NAMESPACES / name).exists()
    assert (LINKS / link).exists()
    with Host():
        assert not (NAMESPACES / name).exists()
        assert not (LINKS / link).exists()


def test_many_at_once() -> None:
    made: list[tuple[str, str]] = []
    all_there = threading.Barrier(4)

    def make() -> None:
        with Host() as host:
            made.append((host.name, host.hub_address))
            all_there.wait(TIMEOUT)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for name, _ in made}) == len({address for _, address in made}) == 4


def test_what_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="need root"), Host():
        pass
    hosts.obstacle.cache_clear()
    assert not hosts.is_available()
    assert hosts.obstacle() == "network namespaces need root"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    hosts.obstacle.cache_clear()
    assert "apt install iproute2" in hosts.obstacle()
    monkeypatch.undo()
    hosts.obstacle.cache_clear()
    assert hosts.is_available()


def test_a_subscriber_on_another_host(host: Host, folder: Path) -> None:
    with (
        running_hub(folder, listen="0.0.0.0:0", anonymous=1) as hub,
        host.connect(hub.port, TIMEOUT) as sock,
    ):
        sock.sendall(f"GET {HUB_PATH}?match=t HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert read_reply(sock, only_head=True)[2].status == 200
        with host.outage():
            hub.send("t", "into the dark")
        received = b""
        started = time.monotonic()
        while b"into the dark" not in received:
            received += sock.recv(4096)
            assert time.monotonic() - started < TIMEOUT


def test_a_cable_at_a_switch_is_lost_without_a_word_and_the_others_go_on() -> None:
    with Switch() as switch, Host() as first, Host() as second:
        for host in (first, second):
            switch.plug(host)
        with socket.create_server((switch.address, 0)) as listening:
            listening.settimeout(TIMEOUT)
            ends = []
            for host in (first, second):
                there = host.make_socket()
                there.settimeout(TIMEOUT)
                there.connect(listening.getsockname())
                ends.append((there, listening.accept()[0]))
            switch.cut(first)
            late = first.make_socket()
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):  # not refused: nothing tells that the network is gone
                late.connect(listening.getsockname())
            late.close()
            ends[0][0].sendall(b"lost")
            ends[0][1].settimeout(0.3)
            with pytest.raises(TimeoutError):
                ends[0][1].recv(10)
            ends[1][0].sendall(b"there")
            ends[1][1].settimeout(TIMEOUT)
            assert ends[1][1].recv(10) == b"there"
            switch.mend(first)
            ends[0][1].settimeout(TIMEOUT)
            assert ends[0][1].recv(10) == b"lost"
            for pair_ in ends:
                for end in pair_:
                    end.close()
    assert left() == []


def test_a_process_can_be_started_on_a_host(host: Host) -> None:
    child = host.inside(
        lambda: subprocess.run(["ip", "-4", "-o", "address"], check=True, capture_output=True, text=True)
    )
    assert host.client_address in child.stdout
    assert host.hub_address not in child.stdout
