"""Other hosts on this machine: network namespaces, and cables to them that can be pulled out.

Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

_NETWORK = ipaddress.IPv4Network("198.18.0.0/16")  # for tests between networks: nobody routes it
_SWITCHED = ipaddress.IPv4Network("198.19.0.0/16")
_OUR_NAME = re.compile(r"chaos-(\d+)-\d+")
_OUR_LINK = re.compile(r"ch(\d+)n\d+[hbs]")
_LOCK = Path("/run/chaos-hosts.lock")
_CLONE_NEWNET = 0x40000000
_TIMEOUT = 10.0

_numbers = itertools.count()

T = TypeVar("T")


class HostError(Exception):
    """There can be no other host; the message says why."""


class Host:
    """A host that shares nothing with this one but a cable; as a context manager it is taken down again.

    ``hub_address`` and ``client_address`` are the ends of the cable, here and there.

    :raises HostError: on entering, when there can be none.
    """

    def __init__(self) -> None:
        pid, number = os.getpid(), next(_numbers)
        self.name = f"chaos-{pid}-{number}"
        # Names of links have 15 characters at most, and the number of the process, too: a link stays when
        # its namespace has lost its name, as long as there are sockets in it.
        self._here, self._there = f"ch{pid}n{number}h", f"ch{pid}n{number}c"
        self.port_here, self._port_there = f"ch{pid}n{number}b", f"ch{pid}n{number}p"
        self.hub_address = ""
        self.client_address = ""
        self._inside: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        _check()
        try:
            with _alone():
                _remove_leftovers()
                self._make()
            self._inside = ThreadPoolExecutor(1, f"inside {self.name}")
            self._inside.submit(_enter, self.name).result()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def make_socket(self) -> socket.socket:
        """A TCP socket of that host, not connected yet, that any thread here may use."""
        return self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    def inside(self, do: Callable[[], T]) -> T:
        """Call a function in a thread of that host; a process that it starts is on that host, too.

        :returns: what the function returns.
        """
        if self._inside is None:
            raise HostError(f"the host {self.name} is not up")
        return self._inside.submit(do).result()

    def plug(self, here: str, there: ipaddress.IPv4Interface) -> None:
        """Connect it to a switch by a second cable.

        :param here: name of the switch.
        :param there: address of the host at that cable.
        """
        _ip(
            *("link", "add", self.port_here, "type", "veth"),
            *("peer", "name", self._port_there, "netns", self.name),
        )
        _ip("link", "set", self.port_here, "master", here)
        _ip("link", "set", self.port_here, "up")
        _ip("-n", self.name, "address", "add", str(there), "dev", self._port_there)
        _ip("-n", self.name, "link", "set", self._port_there, "up")

    def connect(self, port: int, timeout: float | None = _TIMEOUT) -> socket.socket:
        """A TCP connection from that host to this one.

        :param port: at ``hub_address``.
        :param timeout: seconds, for this and for what is done with the socket later; ``None`` for ever.
        :raises OSError: it cannot be made.
        """
        made = self.make_socket()
        try:
            made.settimeout(timeout)
            made.connect((self.hub_address, port))
        except BaseException:
            made.close()
            raise
        return made

    def cut(self) -> None:
        """Pull the cable out: whatever is sent is lost, and neither side is told."""
        # Over there. Without the link here its route would go, too, and packets would leave by another one.
        _ip("-n", self.name, "link", "set", self._there, "down")

    def mend(self) -> None:
        """Put the cable in again."""
        _ip("-n", self.name, "link", "set", self._there, "up")

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The cable is out during a block."""
        self.cut()
        try:
            yield
        finally:
            self.mend()

    def _make(self) -> None:
        here, there = _free_pair()
        _ip("netns", "add", self.name)
        _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self.name)
        _ip("address", "add", f"{here}/30", "dev", self._here)
        _ip("link", "set", self._here, "up")
        _ip("-n", self.name, "address", "add", f"{there}/30", "dev", self._there)
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "link", "set", self._there, "up")
        self.hub_address, self.client_address = str(here), str(there)

    def _remove(self) -> None:
        if self._inside is not None:
            self._inside.shutdown()  # its thread keeps the namespace
            self._inside = None
        # The link first: with sockets in it, the namespace would keep it beyond its own name.
        for command in (
            ("link", "delete", self._here),
            ("link", "delete", self.port_here),
            ("netns", "delete", self.name),
        ):
            with contextlib.suppress(HostError):
                _ip(*command)


class Switch:
    """A network that several hosts share with this one; as a context manager it is taken down again.

    A cable is pulled out at the switch. So the host keeps its route: what it sends is lost without an error,
    and all others go on.

    :raises HostError: on entering, when there can be none.
    """

    def __init__(self) -> None:
        self.name = f"ch{os.getpid()}n{next(_numbers)}s"
        self.address = ""
        self._free: Iterator[ipaddress.IPv4Interface] = iter(())

    def __enter__(self) -> Self:
        _check()
        with _alone():
            _remove_leftovers()
            network = _free_network()
            self._free = (ipaddress.IPv4Interface(f"{one}/24") for one in network.hosts())
            here = next(self._free)
            _ip("link", "add", self.name, "type", "bridge")
            _ip("address", "add", str(here), "dev", self.name)
            _ip("link", "set", self.name, "up")
        self.address = str(here.ip)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(HostError):
            _ip("link", "delete", self.name)

    def plug(self, host: Host) -> None:
        """Connect a host."""
        host.plug(self.name, next(self._free))

    def cut(self, host: Host) -> None:
        """Pull a host's cable out: whatever is sent is lost, and neither side is told."""
        _ip("link", "set", host.port_here, "down")

    def mend(self, host: Host) -> None:
        """Put the cable in again."""
        _ip("link", "set", host.port_here, "up")


def is_available() -> bool:
    """Whether there can be other hosts here."""
    return not obstacle()


@lru_cache(maxsize=1)
def obstacle() -> str:
    """Why there can be no other host here, found out by trying; empty when there can."""
    try:
        with Host() as host, socket.create_server((host.hub_address, 0)) as listening:
            host.connect(listening.getsockname()[1]).close()
    except (HostError, OSError) as error:
        return str(error)
    return ""


def _check() -> None:
    if not sys.platform.startswith("linux"):
        raise HostError("network namespaces need Linux")
    if os.geteuid() != 0:
        raise HostError("network namespaces need root")
    if shutil.which("ip") is None:
        raise HostError("there is no command ip; on Debian: apt install iproute2")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other runs from choosing the same addresses."""
    with _LOCK.open("a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_pair() -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """Two addresses of a network that no link here has."""
    taken = {
        ipaddress.IPv4Network((address["local"], 30), strict=False)
        for link in json.loads(_ip("-json", "-4", "address", "show"))
        for address in link.get("addr_info", ())
    }
    for network in _NETWORK.subnets(new_prefix=30):
        if network not in taken:
            return network[1], network[2]
    raise HostError(f"all addresses of {_NETWORK} are taken")


def _free_network() -> ipaddress.IPv4Network:
    """A network for a switch, that no link here has."""
    taken = {
        ipaddress.IPv4Network((address["local"], 24), strict=False)
        for link in json.loads(_ip("-json", "-4", "address", "show"))
        for address in link.get("addr_info", ())
    }
    for network in _SWITCHED.subnets(new_prefix=24):
        if network not in taken:
            return network
    raise HostError(f"all addresses of {_SWITCHED} are taken")


def _remove_leftovers() -> None:
    """Remove what runs left that were killed."""
    links = [
        link
        for kind in ("veth", "bridge")
        for link in json.loads(_ip("-json", "link", "show", "type", kind).strip() or "[]")
    ]
    names = json.loads(_ip("-json", "netns", "list").strip() or "[]")
    dead = [
        *(("link", name) for name in _of_the_dead(_OUR_LINK, [link.get("ifname", "") for link in links])),
        *(("netns", name) for name in _of_the_dead(_OUR_NAME, [one["name"] for one in names])),
    ]
    for kind, name in dead:
        with contextlib.suppress(HostError):
            _ip(kind, "delete", name)


def _of_the_dead(pattern: re.Pattern[str], names: list[str]) -> list[str]:
    found = [pattern.fullmatch(name) for name in names]
    return [one[0] for one in found if one and not Path(f"/proc/{one[1]}").exists()]


def _enter(name: str) -> None:
    """Move this thread into a namespace."""
    if threading.get_native_id() == os.getpid():
        raise HostError("threads are replaced by greenlets here, and the whole process would move")
    with Path(f"/run/netns/{name}").open("rb") as namespace:
        if sys.version_info >= (3, 12):
            os.setns(namespace.fileno(), _CLONE_NEWNET)
        else:
            libc: Any = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))


def _ip(*arguments: str) -> str:
    run = subprocess.run(  # noqa: S603 - our own names and numbers
        ["ip", *arguments],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    if run.returncode:
        raise HostError(f"ip {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout
