"""Connections to a Redis or Valkey server that keeps what it acknowledges."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageUnusable
from mercure_hub.storage.address import Address
from mercure_hub.storage.redis.scripts import FORBIDDEN, SCRIPTS, Command

_TIMEOUT = 3.0  # seconds without an answer after which the server counts as away
_OLDEST = {"redis": (7, 0), "valkey": (8, 0)}
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
_SETTINGS = {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
_AWAY_CODES = frozenset({"BUSY", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"})
_AWAY = (BusyLoadingError, ClusterDownError, ConnectionError, MasterDownError, ReadOnlyError, TimeoutError)
_SENTINEL_PORT = 26379

Broken = (ConnectionError, TimeoutError, OSError)
"""What a connection raises when it is not known whether the server has the commands."""


class Server:
    """Where the server is, and what it has to guarantee.

    :param address: of the engine.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._is_known = False  # a connection was made
        self.is_relaxed = address.is_relaxed
        """Whether it may lose what it has acknowledged, because the URL allows it."""
        self.prefix = f"{{{address.name}}}:".encode()
        """The beginning of all keys."""
        self.generation = 0
        """Grows when something has failed: older connections may lead to a server that is gone, or that is no
        longer the primary."""
        self._sentinel: Sentinel | None = None
        self._master = ""
        url = address.url
        if "+sentinel://" in url:
            url = self._watch(url)
        try:
            options: dict[str, Any] = parse_url(url)
        except ValueError as error:
            raise StorageUnusable(f"{self.name} cannot be used: {error}") from None
        self._class: type[Connection] = options.pop("connection_class", Connection)
        given: dict[str, Any] = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        if issubclass(self._class, SSLConnection):  # older drivers do not by default
            given["ssl_check_hostname"] = options.get("ssl_cert_reqs") != "none"
        self._options = given | options | _fixed()
        try:
            self._class(**self._options)
        except (TypeError, ValueError) as error:
            raise StorageUnusable(
                f"{self.name} cannot be used: the driver does not know a parameter of the URL: {error}"
            ) from None

    @property
    def name(self) -> str:
        """The engine in words, without credentials."""
        return self._address.shown

    def _watch(self, url: str) -> str:
        """Ask Sentinels for the primary from now on.

        :returns: the URL of a primary, of which host and port are not known yet.
        """
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        self._master, _, number = unquote(parts.path).strip("/").partition("/")
        if not self._master:
            raise StorageUnusable(
                f"{self.name} cannot be used: the URL names no primary; write "
                "redis+sentinel://HOST:26379,HOST:26379/PRIMARY"
            )
        options = dict(parse_qsl(parts.query))
        of_sentinels = {
            key: options.pop(f"sentinel_{key}")
            for key in ("username", "password")
            if f"sentinel_{key}" in options
        }
        is_encrypted = parts.scheme.startswith("rediss")
        try:
            sentinels = [host_and_port(one) for one in hosts.split(",")]
        except ValueError as error:
            raise StorageUnusable(f"{self.name} cannot be used: {error}") from None
        self._sentinel = Sentinel(
            sentinels,
            sentinel_kwargs={
                "socket_timeout": _TIMEOUT / 3,  # there are several
                "socket_connect_timeout": _TIMEOUT / 3,
                "retry": Retry(NoBackoff(), 0),
                **({"ssl": True} if is_encrypted else {}),
                **of_sentinels,
            },
        )
        query = "&".join(part for part in parts.query.split("&") if not part.startswith("sentinel_"))
        scheme = "rediss" if is_encrypted else "redis"
        return f"{scheme}://{user + '@' if user else ''}primary/{number}?{query}"

    def connect(self) -> Connection:
        """Connect, and check that the server keeps what it acknowledges.

        :raises StorageAway: it cannot be reached, or serves nobody now.
        :raises StorageUnusable: it is too old, or may lose what it has acknowledged. Only for the first
            connection: later ones, as after a failover, raise ``StorageAway``.
        """
        connection: Connection | None = None
        try:
            options = self._options
            if self._sentinel is not None:
                host, port = self._sentinel.discover_master(self._master)
                options = {**options, "host": host, "port": port}
            connection = self._class(**options)
            connection.connect()
            self._admit(connection)
        except BaseException as error:
            if connection is not None:
                connection.disconnect()
            if not isinstance(error, RedisError | OSError):
                raise
            if isinstance(error, AuthenticationError | NoPermissionError) and not self._is_known:
                raise StorageUnusable(f"{self.name} refuses this hub: {error}") from None
            raise StorageAway(f"{self.name} cannot be reached: {error}") from None
        self._is_known = True
        return connection

    def _admit(self, connection: Connection) -> None:
        """Look at the server, and give it the scripts."""
        commands: list[Command] = [
            ("INFO", one) for one in ("server", "memory", "persistence", "replication")
        ]
        commands += [("CONFIG", "GET", *_SETTINGS), *_loads(), FORBIDDEN.call(self.prefix)]
        replies = exchange(connection, commands)
        *infos, configured = replies[:5]
        forbidden = replies[-1]
        for reply in (*infos, forbidden):
            if isinstance(reply, RedisError):
                raise reply
        information = _information(infos)
        if information.get("role") != "master":
            raise StorageAway(f"{self.name} cannot be used: this server is a replica now")
        reason = obstacle(information, _settings(configured), self.is_relaxed)
        if forbidden:
            names = " ".join(f"+{name.decode().lower()}" for name in forbidden)
            reason = f"its ACL forbids this hub some commands on its keys; allow {names}"
        if reason is None:
            return
        kind = StorageAway if self._is_known else StorageUnusable
        raise kind(f"{self.name} cannot be used: {reason}")

    def doubt(self) -> None:
        """Have all connections made again, each before it is used next."""
        self.generation += 1

    def failure(self, participle: str, error: Exception) -> StorageError:
        """What to raise for an error of the driver, when nothing was stored."""
        if isinstance(error, StorageError):
            return error
        text = str(error) or type(error).__name__
        if isinstance(error, OutOfMemoryError):
            return StorageError(
                f"{self.name} cannot be {participle}: the server has reached its maxmemory; raise it, or "
                "keep a shorter history (MERCURE_HISTORY_SIZE, MERCURE_HISTORY_MAX_AGE)"
            )
        if isinstance(error, MovedError):
            return StorageError(
                f"{self.name} cannot be {participle}: this server belongs to a Cluster, and the history is "
                f"on {error.host}:{error.port}; name that server in MERCURE_TRANSPORT_URL"
            )
        is_away = isinstance(error, (*_AWAY, OSError)) or _code(error) in _AWAY_CODES
        kind = StorageAway if is_away else StorageError
        return kind(f"{self.name} cannot be {participle}: {text}")


class Line:
    """A connection that is made when it is needed; used by one thread at a time.

    :param server: to connect to.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._generation = 0

    @property
    def is_open(self) -> bool:
        """Whether it was connected by the last call."""
        return self._connection is not None

    def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip.

        :returns: the replies.
        :raises StorageAway: the server cannot be reached; it has none of the commands.
        :raises RedisError: of the driver, or of the first command that failed; the others may have worked.
        """
        replies = self.replies(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def replies(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip.

        :returns: the replies, which are instances of ``RedisError`` for those that failed.
        :raises StorageAway: the server cannot be reached; it has none of the commands.
        :raises RedisError: of the driver.
        """
        if not commands:
            return []
        connection = self._connected()
        try:
            replies = exchange(connection, commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):  # the scripts were flushed
                exchange(connection, _loads())
                replies = exchange(connection, commands)
        except BaseException:
            self.close()
            self._server.doubt()
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            self._server.doubt()  # it is a replica now; the primary is elsewhere
        return replies

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or self._generation != self._server.generation or _is_stale(connection):
            self.close()
            self._generation = self._server.generation
            connection = self._connection = self._server.connect()
        return connection

    def close(self) -> None:
        """Disconnect, until the next call."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                connection.disconnect()


class Lines:
    """Connections for calls from any thread.

    :param server: to connect to.
    :param most: how many.
    """

    def __init__(self, server: Server, most: int) -> None:
        self._server = server
        self._idle: deque[Line] = deque()
        self._free = threading.Semaphore(most)

    @contextlib.contextmanager
    def line(self) -> Iterator[Line]:
        """A connection that is not in use.

        :raises StorageAway: all are in use for some seconds, because the server does not answer.
        """
        if not self._free.acquire(timeout=_TIMEOUT):
            raise StorageAway(f"{self._server.name} did not answer for {_TIMEOUT:.0f} s")
        try:
            line = self._idle.pop()
        except IndexError:
            line = Line(self._server)
        try:
            yield line
        finally:
            self._idle.append(line)
            self._free.release()

    def ask(self, *commands: Command) -> list[Any]:
        """See ``Line.ask``."""
        with self.line() as line:
            return line.ask(*commands)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()


def exchange(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send commands, and read a reply for each: an instance of ``RedisError`` for one that failed.

    :raises RedisError: of the driver: the connection cannot be used any more.
    """
    connection.send_packed_command([packed(commands)])  # in one piece, which the driver would not do
    return [_reply(connection) for _ in commands]


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent; the driver takes three times as long."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for one in command:
            argument = one if isinstance(one, bytes) else str(one).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
    return b"".join(parts)


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _is_stale(connection: Connection) -> bool:
    """Whether something came unasked, as when the server has disconnected."""
    try:
        return bool(connection.can_read(0))
    except (RedisError, OSError):
        return True


def _loads() -> list[Command]:
    return [("SCRIPT", "LOAD", script.text) for script in SCRIPTS]


def _fixed() -> dict[str, Any]:
    return {
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
        # An append that the driver sends again would still be stored once, because of its number. But the
        # store must know that it took so long.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
        },
    }


def host_and_port(text: str) -> tuple[str, int]:
    """Take an address such as ``host:26379``, ``host`` or ``[::1]:26379`` apart."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or _SENTINEL_PORT


def _information(replies: Sequence[bytes]) -> dict[str, str]:
    lines = b"\r\n".join(replies).decode(errors="replace").splitlines()
    return dict(line.partition(":")[::2] for line in lines if not line.startswith("#"))


def _settings(reply: Any) -> dict[str, str]:
    """The answer to CONFIG GET; empty if the server refuses."""
    if not isinstance(reply, list):
        return {}
    words = [one.decode(errors="replace") for one in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def obstacle(information: Mapping[str, str], settings: Mapping[str, str], is_relaxed: bool) -> str | None:
    """Why a server cannot be trusted with a history, if so.

    :param information: what INFO says.
    :param settings: what CONFIG GET says; empty if the server refuses.
    :param is_relaxed: it may lose what it has acknowledged.
    """
    program = "valkey" if "valkey_version" in information else "redis"
    version = information.get(f"{program}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = _OLDEST[program]
    if numbers < oldest:
        return f"it is {program.title()} {version}; the hub needs {program.title()} {oldest[0]} or newer"
    policy = information.get("maxmemory_policy", "noeviction")
    # Those that begin with volatile- delete keys with an expiry, of which the hub has none.
    if policy.startswith("allkeys-"):
        return f"its maxmemory-policy is {policy}, so it may delete the history; set it to noeviction"
    return None if is_relaxed else _leak(information, settings)


def _leak(information: Mapping[str, str], settings: Mapping[str, str]) -> str | None:
    """Why a server may lose what it has acknowledged."""
    relaxed = "or, if updates may be lost, add durability=relaxed to MERCURE_TRANSPORT_URL"
    if information.get("aof_enabled") != "1":
        return f"it has appendonly no; set appendonly yes and appendfsync always, {relaxed}"
    for name, value in _SETTINGS.items():
        found = settings.get(name)
        if found is None:
            return f"it does not say whether it has {name} {value}; allow CONFIG GET, {relaxed}"
        if found != value:
            return f"it has {name} {found}; set it to {value}, {relaxed}"
    return None


def _code(error: Exception) -> str:
    """The code with which a reply of the protocol begins, unless the driver has a class for it."""
    return str(error).partition(" ")[0] if type(error) is ResponseError else ""
