"""A real hub for the tests of an application: a process of its own, gone with them."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask_mercure.development import launch
from flask_mercure.errors import ConfigurationError
from flask_mercure.reading.subscriber import Subscription
from flask_mercure.tokens.factory import TokenFactory
from flask_mercure.topics.address import subscription_url
from flask_mercure.topics.matchers import EVERYTHING, Topics, matchers
from mercure_hub.protocol.keys import Key

_PATH = "/.well-known/mercure"
_STARTS_WITHIN = 20.0
_ENDS_WITHIN = 10.0
_LISTENS = re.compile(r"listens on (http://[^\s\"]+)")


@dataclass(frozen=True, slots=True)
class LocalHub:
    """A hub that runs.

    :param url: of the hub.
    :param secret: of publishers and subscribers.
    :param log: what the hub has logged so far.
    """

    url: str
    secret: str
    log: Callable[[], str]

    @property
    def config(self) -> dict[str, Any]:
        """For ``app.config.update``, before ``init_app``."""
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
        wanted = matchers(topics, "1.0", "topics")
        return Subscription(
            subscription_url(self.url, "1.0", wanted),
            lambda: factory.create(subscribe=EVERYTHING),
            last_event_id=last_event_id,
            timeout=timeout,
        )


@contextmanager
def local_hub(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[LocalHub]:
    """Run a hub on a free port of the loopback for the length of a ``with`` block.

    Nothing of the environment's ``MERCURE_`` variables reaches it. Subscribers without a token and active
    subscriptions are on.

    :param folder: for its database.
    :param settings: environment variables of the hub, beside and over these.
    :raises ConfigurationError: the extra ``[hub]`` is not installed, or the hub does not start.
    """
    launch.check_packages()
    secret = secrets.token_urlsafe(48)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
    environment |= {
        "MERCURE_LISTEN": "127.0.0.1:0",
        "MERCURE_TRANSPORT_URL": f"sqlite:///{folder}/mercure.db",
        "MERCURE_PUBLISHER_JWT_KEY": secret,
        "MERCURE_SUBSCRIBER_JWT_KEY": secret,
        "MERCURE_ANONYMOUS": "1",
        "MERCURE_SUBSCRIPTIONS": "1",
        **(settings or {}),
    }
    environment |= launch.import_path(environment)
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
        launch.command([]),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    log = _Log(process)
    try:
        yield LocalHub(log.address() + _PATH, secret, log.text)
    finally:
        log.end()


class _Log:
    """Reads what a hub logs, so that its pipe never fills."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._address = ""
        self._known = threading.Event()
        self._thread = threading.Thread(target=self._read, name="mercure-hub log", daemon=True)
        self._thread.start()

    def text(self) -> str:
        return "".join(self._lines)

    def address(self) -> str:
        """Where the hub listens, once it does."""
        if not self._known.wait(_STARTS_WITHIN) or not self._address:
            raise ConfigurationError(f"the hub did not start. It said:\n{self.text()}")
        return self._address

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
            found = _LISTENS.search(line)
            if found is not None and not self._address:
                self._address = found[1]
                self._known.set()
        self._known.set()  # it has ended
