"""The listening sockets: bound here, given by systemd, or taken over from the previous hub."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, MutableMapping

from mercure_hub.config.settings import HANDED_OVER, SUCCESSION, SettingError, Settings
from mercure_hub.protocol.hosts import is_loopback

_FIRST_OF_SYSTEMD = 3
_BACKLOG = 4096
_LEAST_PATIENCE = 10.0  # seconds for which a client may be unreachable
_HEARTBEATS = 2  # that it may miss
_UNSENT = 512 << 10  # bytes that the kernel keeps for a client, besides what is in flight
_IDLE, _PROBE, _PROBES = 60, 20, 3  # seconds, seconds, number: if there is no heartbeat
_SPREADS = hasattr(socket, "TCP_DEFER_ACCEPT")
"""Whether the kernel spreads connections over the sockets that share a port. Only Linux does, and only Linux
has this option; elsewhere one of the sockets gets all connections."""


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A listening socket.

    :param host: address or host name; empty for all IPv4 addresses.
    :param port: 0 for any that is free.
    :param is_shared: other sockets of this user may be bound to the same port.
    :raises OSError: the address does not exist or is in use.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host or None,
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted sockets inherit both. An answer is one send, so waiting for more gains nothing; and a
        # connection matters only once its request arrives.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _set_tcp(listening, "TCP_DEFER_ACCEPT", 5)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def listening_sockets(
    settings: Settings, count: int, environment: MutableMapping[str, str] | None = None
) -> list[socket.socket]:
    """One listening socket for each process.

    :param count: how many are needed.
    :param environment: may name sockets that are open already; these names are removed.
    :raises SettingError: the address cannot be used.
    """
    sockets = _sockets(settings, count, os.environ if environment is None else environment)
    public = [one.getsockname()[0] for one in sockets if not is_loopback(one.getsockname()[0])]
    if settings.playground and public:
        for one in sockets:
            one.close()
        raise SettingError(
            f"MERCURE_PLAYGROUND: is for this machine only, and {public[0]} can be reached from others; "
            "listen on 127.0.0.1 (MERCURE_LISTEN), or use MERCURE_DEBUGGER=1, which opens nothing to anybody"
        )
    for one in sockets:
        _detect_vanished_clients(one, settings)
        # Accepted connections inherit this. Otherwise the kernel takes some MiB for each slow client; what
        # waits in the hub is shared by its receivers, or can be dropped and read again.
        _set_tcp(one, "TCP_NOTSENT_LOWAT", _UNSENT)
    return sockets


def _set_tcp(listening: socket.socket, option: str, value: int) -> bool:
    """Set an option that not every system has.

    :returns: this one has it.
    """
    number: int | None = getattr(socket, option, None)
    if number is not None:
        listening.setsockopt(socket.IPPROTO_TCP, number, value)
    return number is not None


def _detect_vanished_clients(listening: socket.socket, settings: Settings) -> None:
    """Let the kernel end connections whose peer has become unreachable without a word.

    Accepted connections inherit these options. By default the kernel waits a quarter of an hour for an
    acknowledgement, and the client would be listed as present for so long.
    """
    if not settings.heartbeat:  # nothing is sent whose acknowledgement could be missed
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # macOS has another name for the first.
        _set_tcp(listening, "TCP_KEEPIDLE", _IDLE) or _set_tcp(listening, "TCP_KEEPALIVE", _IDLE)
        _set_tcp(listening, "TCP_KEEPINTVL", _PROBE)
        _set_tcp(listening, "TCP_KEEPCNT", _PROBES)
    elif settings.dispatch_timeout:  # without a timeout, a client may stop reading for as long as it likes
        patience = max(_HEARTBEATS * settings.heartbeat, _LEAST_PATIENCE, settings.dispatch_timeout)
        _set_tcp(listening, "TCP_USER_TIMEOUT", round(patience * 1000))


def _sockets(settings: Settings, count: int, environment: MutableMapping[str, str]) -> list[socket.socket]:
    given = _given(environment)
    if not given:
        return _bound(settings, count)
    try:
        for one in given:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as in bind
        if _SPREADS and len(given) < count and given[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            host, port = given[0].getsockname()[:2]
            given += [bind(host, port, is_shared=True) for _ in range(count - len(given))]
    except OSError as error:
        raise SettingError(
            f"MERCURE_LISTEN: the socket that was handed over cannot be used: {error.strerror}; it has to be "
            "a listening TCP socket"
        ) from None
    for surplus in given[count:]:
        surplus.close()
    return _shared(given[:count], count)


def _shared(sockets: list[socket.socket], count: int) -> list[socket.socket]:
    """Let all processes accept from one socket, if there are fewer sockets than processes."""
    return sockets + [sockets[0].dup() for _ in range(count - len(sockets))]


def _given(environment: MutableMapping[str, str]) -> list[socket.socket]:
    numbers = [int(one) for one in environment.pop(HANDED_OVER, "").split(",") if one]
    if not numbers:
        numbers = _of_systemd(environment)
    return [socket.socket(fileno=number) for number in numbers]


def _of_systemd(environment: MutableMapping[str, str]) -> list[int]:
    """Descriptors of socket activation (sd_listen_fds)."""
    taken = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if taken["LISTEN_PID"] != str(os.getpid()) or not taken["LISTEN_FDS"].isdigit():
        return []
    return list(range(_FIRST_OF_SYSTEMD, _FIRST_OF_SYSTEMD + int(taken["LISTEN_FDS"])))


def _bound(settings: Settings, count: int) -> list[socket.socket]:
    host, port = settings.listen
    try:
        if count == 1 or not _SPREADS:
            return _shared([bind(host, port)], count)
        return _bind_shared(host, port, count)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        remedy = "stop what uses it, or choose another port" if is_taken else "choose another address"
        raise SettingError(
            f"MERCURE_LISTEN: cannot listen on {host}:{port}: {error.strerror}; {remedy}"
        ) from None


def _bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets on one port, after checking that it is free: sharing would hide another hub on it."""
    with bind(host, port) as first:
        port = first.getsockname()[1]
    return [bind(host, port, is_shared=True) for _ in range(count)]


def metrics_socket(settings: Settings, environment: Mapping[str, str] | None = None) -> socket.socket | None:
    """The socket for monitoring (MERCURE_METRICS_LISTEN); all processes accept from it.

    A predecessor still has its own: both are bound for a while.

    :param environment: tells whether there is a predecessor.
    :returns: ``None`` without an address for it.
    :raises SettingError: the address cannot be used.
    """
    if settings.metrics_listen is None:
        return None
    host, port = settings.metrics_listen
    try:
        if SUCCESSION in (os.environ if environment is None else environment):
            return bind(host, port, is_shared=True)
        return _bind_shared(host, port, 1)[0]
    except OSError as error:
        raise SettingError(
            f"MERCURE_METRICS_LISTEN: cannot listen on {host}:{port}: {error.strerror}; "
            "choose another address or port"
        ) from None


def url_of(listening: socket.socket, *, is_tls: bool) -> str:
    """Scheme, address and port of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def notify(environment: Mapping[str, str], *words: str) -> None:
    """Tell the service manager the state of the hub, if it wants to know (sd_notify).

    :param words: assignments such as ``READY=1``.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall("\n".join(words).encode())
        except OSError:
            return  # the service manager is gone
