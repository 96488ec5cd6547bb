"""A hub beside the application, for development and tests.

``flask mercure hub`` and ``flask mercure run`` start one with the configuration of the app, the fixtures for
pytest one of their own.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
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
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask

import mercure_hub
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import ConfigurationError
from flask_mercure.reading.subscriber import Subscription
from flask_mercure.tokens import TokenFactory
from flask_mercure.topics import EVERYTHING, Topics, matchers, subscription_url
from mercure_hub.config.settings import HANDED_OVER, STARTER
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.tokens.asymmetric import PrivateKey
from mercure_hub.protocol.tokens.credentials import COOKIE
from mercure_hub.protocol.tokens.keys import Key

_STARTS_WITHIN = 20.0  # seconds
_ENDS_WITHIN = 10.0
_AGAIN = 1.0
_FIRST_PORT = 3000
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
    here suit development: active subscriptions, revocations, anonymous subscribers and the debugger are on,
    and pages of ``flask run`` are admitted.

    :param configuration: of the app.
    :param inherited: environment of this process.
    :raises ConfigurationError: the app's configuration lacks something that the hub needs.
    """
    variables = {
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_REVOCATIONS": "1",
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

    The ``MERCURE_`` variables of the environment do not reach it. Subscribers without a token, active
    subscriptions and revocations are on.

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
        "MERCURE_REVOCATIONS": "1",
        **(settings or {}),
    }
    variables |= import_path(variables)
    with _service_manager() as manager:
        hub = _Hub(variables, manager, keeps_log=True)
        try:
            address = hub.wait()
            if not address:
                hub.end()
                raise ConfigurationError(f"the hub did not start. It said:\n{hub.log()}")
            yield LocalHub(address + WELL_KNOWN, secret, hub.log)
        finally:
            hub.end()


def settings_of_a_run(host: str, certificate: tuple[str, str] | None) -> tuple[dict[str, str], socket.socket]:
    """Variables for an app and a hub that are started together, for whatever nobody has set.

    The app reads them with ``app.config.from_prefixed_env()``: secrets for this run, and a hub under the
    host name of the pages, on port 3000 or the next free one. Without TLS the cookie is not ``Secure``:
    Safari, and other browsers at an address that is not loopback, would refuse it.

    :param host: of the pages.
    :param certificate: paths of the certificate and of its key, for pages and hub on HTTPS.
    :returns: the variables, and the socket that the hub is to have: nobody else can choose its port.
    :raises ConfigurationError: no server can listen there.
    """
    listening = _listen(host)
    scheme = "http" if certificate is None else "https"
    name = f"[{host}]" if ":" in host else host
    settings = {
        "FLASK_SECRET_KEY": secrets.token_urlsafe(48),  # of the app's own sessions
        "FLASK_MERCURE_JWT_SECRET": secrets.token_urlsafe(48),
        "FLASK_MERCURE_URL": f"{scheme}://{name}:{listening.getsockname()[1]}{WELL_KNOWN}",
    }
    if certificate is None:
        settings["FLASK_MERCURE_COOKIE_NAME"] = COOKIE.removeprefix("__Secure-")
        settings["FLASK_MERCURE_COOKIE_SECURE"] = "false"
    else:
        settings["FLASK_MERCURE_VERIFY_TLS"] = settings["MERCURE_TLS_CERT"] = certificate[0]
        settings["MERCURE_TLS_KEY"] = certificate[1]
    return settings, listening


@contextmanager
def hub_beside(
    app: Flask,
    configuration: Configuration,
    inherited: Mapping[str, str],
    listening: socket.socket | None = None,
) -> Iterator[None]:
    """Run the hub of an app for the length of a ``with`` block, which SIGTERM ends if the hub dies first.

    Its history is in the instance folder, in a file for each port.

    :param app: the application.
    :param configuration: of the app.
    :param inherited: environment of this process.
    :param listening: listens on the hub's address; from now on, the hub alone has it.
    :raises ConfigurationError: the hub does not start, or has died.
    """
    variables = environment(configuration, inherited)
    if not inherited.get("MERCURE_TRANSPORT_URL"):
        folder = Path(app.instance_path)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"mercure-{variables['MERCURE_LISTEN'].rpartition(':')[2]}.db"
        variables["MERCURE_TRANSPORT_URL"] = f"sqlite:///{quote(str(folder / name))}"
    variables.setdefault("MERCURE_LOG_LEVEL", "warning")  # the terminal is the app's
    with _service_manager() as manager:
        hub = _Hub(variables, manager, listening, keeps_log=False)
        try:
            if not hub.wait():
                raise ConfigurationError("the hub did not start")
            hub.on_death(lambda: os.kill(os.getpid(), signal.SIGTERM))
            yield
        finally:
            status = hub.end()
            if status is not None:
                raise ConfigurationError(f"the hub has ended with status {status}; it has said why above")


def end_with_parent() -> None:
    """End this process, with SIGTERM, once its parent is gone: under the reloader, that one has the hub."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_AGAIN)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="mercure-parent", daemon=True).start()


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


class _Hub:
    """A process of the hub.

    :param variables: its environment.
    :param manager: the socket that it notifies when it is ready.
    :param listening: the socket that it listens on; ``None``: it opens one.
    :param keeps_log: read what it logs, instead of leaving it on the terminal.
    """

    def __init__(
        self,
        variables: dict[str, str],
        manager: socket.socket,
        listening: socket.socket | None = None,
        *,
        keeps_log: bool,
    ) -> None:
        self._manager = manager
        self._lines: list[str] = []
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        # The hub ends with this process, even if that is killed: the system closes the other end then.
        watched, self._life = os.pipe()
        given = {"NOTIFY_SOCKET": manager.getsockname(), STARTER: str(watched)}
        sockets = () if listening is None else (listening.fileno(),)
        if sockets:
            given[HANDED_OVER] = str(sockets[0])
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            command(()),
            env=variables | given,
            pass_fds=(watched, *sockets),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if keeps_log else None,
            stderr=subprocess.PIPE if keeps_log else None,
            text=True,
            errors="replace",
            # Ctrl-C at a terminal is for this process, which then ends the hub.
            start_new_session=not keeps_log,
        )
        os.close(watched)
        if listening is not None:
            listening.close()
        if keeps_log:
            self._begin(self._read)  # or its pipe would fill up

    def wait(self) -> str:
        """Wait until it is ready.

        :returns: scheme, host and port; empty when it has ended, or was not ready in time.
        """
        self._manager.settimeout(0.1)
        deadline = time.monotonic() + _STARTS_WITHIN
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(TimeoutError):
                assignments = self._manager.recv(4096).decode().splitlines()
                values = dict(one.split("=", 1) for one in assignments)
                return values.get("X_ADDRESS", "")
        return ""

    def log(self) -> str:
        """What it has logged so far."""
        return "".join(self._lines)

    def on_death(self, call: Callable[[], object]) -> None:
        """Have a function called in a thread, should the hub end by itself, until this object is ended.

        A single signal is not enough: code may swallow the exception that its handler raises.
        """

        def watch() -> None:
            self._process.wait()
            pause = 0.0
            while not self._ending.wait(pause):
                call()
                pause = _AGAIN

        self._begin(watch)

    def end(self) -> int | None:
        """Stop it, if need be by force.

        :returns: its status, if it had ended before.
        """
        if self._ending.is_set():
            return None
        self._ending.set()
        status = self._process.poll()
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_ENDS_WITHIN)
        if self._process.stderr is not None:
            self._process.stderr.close()
        os.close(self._life)
        return status

    def _begin(self, work: Callable[[], object]) -> None:
        self._threads.append(threading.Thread(target=work, name="mercure-hub", daemon=True))
        self._threads[-1].start()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self._lines.append(line)


def _listen(host: str) -> socket.socket:
    """Listen on port 3000, or the next one that is free."""
    for port in range(_FIRST_PORT, _FIRST_PORT + 50):
        # Browsers try ::1 first for localhost, and would find another server there.
        if host == "localhost" and _is_taken("::1", port):
            continue
        try:
            return _listening("127.0.0.1" if host == "localhost" else host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(
                    f"nothing can listen on {host!r}: {error.strerror}; give --host an address of "
                    "this machine"
                ) from None
    raise ConfigurationError(
        f"no port from {_FIRST_PORT} to {_FIRST_PORT + 49} is free for the hub; choose one with "
        "FLASK_MERCURE_URL"
    )


def _is_taken(address: str, port: int) -> bool:
    try:
        _listening(address, port).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _listening(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening
