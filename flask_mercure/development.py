"""A hub beside the application, for development and tests.

``flask mercure hub`` starts one with the configuration of the app, the fixtures for pytest one of their own.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import mercure_hub
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import ConfigurationError
from flask_mercure.reading.subscriber import Subscription
from flask_mercure.tokens import TokenFactory
from flask_mercure.topics import EVERYTHING, Topics, matchers, subscription_url
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.tokens.asymmetric import PrivateKey
from mercure_hub.protocol.tokens.keys import Key

_STARTS_WITHIN = 20.0  # seconds
_ENDS_WITHIN = 10.0
_LOCAL_NAMES = ("127.0.0.1", "localhost")


def check_packages() -> None:
    """Check that the packages of the hub are installed.

    :raises ConfigurationError: the extra ``[hub]`` is not installed, or this is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(mercure_hub.NOT_ON_WINDOWS)
    missing = [name for name in mercure_hub.PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the hub needs packages that are not installed ({', '.join(missing)}); "
            f"{mercure_hub.INSTALL.format('hub')}"
        )


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of the hub.

    :param arguments: flags of ``mercure-hub``, passed on.
    """
    # -P: a module of that name in the current directory must not be started instead.
    return [sys.executable, "-P", "-m", "mercure_hub", *arguments]


def environment(configuration: Configuration, inherited: Mapping[str, str]) -> dict[str, str]:
    """The hub's environment, made from the configuration of an app.

    The configuration of the app wins. Settings of the hub alone come from the environment; their defaults
    here suit development: active subscriptions, anonymous subscribers and the debugger are on, and pages of
    ``flask run`` are admitted.

    :param configuration: of the app.
    :param inherited: environment of this process.
    :raises ConfigurationError: the app's configuration lacks something that the hub needs.
    """
    variables = {
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_DEBUGGER": "1",
        "MERCURE_CORS_ORIGINS": _page_origins(inherited),
        **inherited,
        "MERCURE_LISTEN": _address(configuration.url, inherited),
        "MERCURE_PUBLIC_URL": configuration.public_url,
        "MERCURE_ISSUER": configuration.issuer,
        "MERCURE_PROTOCOL": configuration.protocol,
        "MERCURE_COOKIE_NAME": configuration.cookie.name,
    }
    for role, key in (
        ("PUBLISHER", configuration.publisher_key),
        ("SUBSCRIBER", configuration.subscriber_key),
    ):
        if key is not None:
            variables[f"MERCURE_{role}_JWT_KEY"] = _verifying(key)
            variables[f"MERCURE_{role}_JWT_ALG"] = " ".join(key.algorithms)
        elif not inherited.get(f"MERCURE_{role}_JWT_KEY"):
            raise ConfigurationError(
                f"MERCURE_{role}_JWT_KEY is not set: the hub needs the key that verifies the tokens of a "
                f"{role.lower()}; set it, or MERCURE_JWT_SECRET for both roles"
            )
    return variables | import_path(inherited)


def import_path(inherited: Mapping[str, str]) -> dict[str, str]:
    """The variable with which the hub's interpreter finds the package; empty when it is installed.

    :param inherited: environment of this process.
    """
    folder = Path(mercure_hub.__file__).parent.parent
    if folder == Path(sysconfig.get_path("purelib")):
        return {}
    # A work tree that is not installed.
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), inherited.get("PYTHONPATH"))))}


def _address(url: str, inherited: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    if parts.scheme == "https" and not inherited.get("MERCURE_TLS_CERT"):
        raise ConfigurationError(
            f"MERCURE_URL is {url!r}, on https: give the hub a certificate with MERCURE_TLS_CERT and "
            "MERCURE_TLS_KEY in the environment, or set MERCURE_URL to http for development"
        )
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _page_origins(inherited: Mapping[str, str]) -> str:
    """Origins of the pages that ``flask run`` serves: their scripts open streams of another origin.

    The port is an argument of that other process, so every port is admitted.
    """
    names = dict.fromkeys((*_LOCAL_NAMES, inherited.get("FLASK_RUN_HOST", "127.0.0.1")))
    hosts = (f"[{name}]" if ":" in name else name for name in names if name not in ("0.0.0.0", "::"))  # noqa: S104
    return " ".join(f"http://{host}:*" for host in hosts)


def _verifying(key: Key) -> str:
    """The key that the hub verifies with: of a pair the public half, so that the private one stays here."""
    if isinstance(key.material, bytes):
        if b"\0" in key.material:  # a JWK may hold any bytes
            raise ConfigurationError(
                "MERCURE_JWT_SECRET holds a zero byte, which no environment variable can: start the hub with "
                "a JWK set instead ([[issuer]] in its TOML file)"
            )
        return key.material.decode("utf-8", "surrogateescape")
    public = key.material.public_key() if isinstance(key.material, PrivateKey) else key.material
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass(frozen=True, slots=True)
class LocalHub:
    """A running hub.

    :param url: of the hub.
    :param secret: for the tokens of publishers and subscribers.
    :param log: returns what the hub has logged so far.
    """

    url: str
    secret: str
    log: Callable[[], str]

    @property
    def config(self) -> dict[str, Any]:
        """The keys for ``app.config.update``, before ``init_app``."""
        return {"MERCURE_URL": self.url, "MERCURE_PUBLIC_URL": self.url, "MERCURE_JWT_SECRET": self.secret}

    def subscribe(
        self, topics: Topics, last_event_id: str | None = None, timeout: float | None = 5.0
    ) -> Subscription:
        """Read what the app publishes, private updates too; close it, or use it in a ``with`` block.

        :param topics: to subscribe to.
        :param last_event_id: to start after; ``earliest`` for all.
        :param timeout: seconds without an event after which iteration ends.
        """
        key = Key(self.secret.encode(), ("HS256",))
        factory = TokenFactory(issuer="urn:flask-mercure", audience=[self.url], subscriber_key=key)
        return Subscription(
            subscription_url(self.url, "1.0", matchers(topics, "1.0", "topics")),
            lambda: factory.create(subscribe=EVERYTHING),
            last_event_id=last_event_id,
            timeout=timeout,
        )


@contextmanager
def local_hub(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[LocalHub]:
    """Run a hub on a free port of the loopback for the length of a ``with`` block.

    The ``MERCURE_`` variables of the environment do not reach it. Subscribers without a token and active
    subscriptions are on.

    :param folder: for its database.
    :param settings: more environment variables of the hub; they override the ones set here.
    :raises ConfigurationError: the extra ``[hub]`` is not installed, or the hub does not start.
    """
    check_packages()
    secret = secrets.token_urlsafe(48)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
    variables |= {
        "MERCURE_LISTEN": "127.0.0.1:0",
        "MERCURE_TRANSPORT_URL": f"sqlite:///{folder}/mercure.db",
        "MERCURE_PUBLISHER_JWT_KEY": secret,
        "MERCURE_SUBSCRIBER_JWT_KEY": secret,
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        **(settings or {}),
    }
    variables |= import_path(variables)
    with _service_manager() as manager:
        variables["NOTIFY_SOCKET"] = manager.getsockname()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            command(()),
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        log = _Log(process)
        try:
            address = _announced_address(manager, process)
            if not address:
                log.end()
                raise ConfigurationError(f"the hub did not start. It said:\n{log.text()}")
            yield LocalHub(address + WELL_KNOWN, secret, log.text)
        finally:
            log.end()


@contextmanager
def _service_manager() -> Iterator[socket.socket]:
    """A socket that a hub can notify."""
    # The path of a socket has about a hundred bytes, and that of a folder for temporary files may be longer.
    short = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None  # noqa: S108 - a folder of its own in it
    with (
        tempfile.TemporaryDirectory(prefix="mercure-", dir=short) as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        yield manager


def _announced_address(manager: socket.socket, process: subprocess.Popen[str]) -> str:
    """Wait for the address that the hub tells its service manager when it is ready (sd_notify).

    :returns: scheme, host and port; empty when the hub has ended, or was not ready in time.
    """
    manager.settimeout(0.1)
    deadline = time.monotonic() + _STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(TimeoutError):
            assignments = manager.recv(4096).decode().splitlines()
            values = dict(one.split("=", 1) for one in assignments)
            return values.get("X_ADDRESS", "")
    return ""


class _Log:
    """Reads what a hub logs, so that its pipe never fills up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, name="mercure-hub log", daemon=True)
        self._thread.start()

    def text(self) -> str:
        return "".join(self._lines)

    def end(self) -> None:
        """Stop the hub, if need be by force."""
        process = self._process
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join(_ENDS_WITHIN)
        if process.stderr is not None:
            process.stderr.close()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self._lines.append(line)
