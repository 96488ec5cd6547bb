"""What the scripts are given, and how they tell what they received."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlencode

HUB, *ARGUMENTS = sys.argv[1:]
LIMIT = float(os.environ["LIMIT"])
HEADERS = {"Authorization": f"Bearer {os.environ.get('TOKEN', '')}", "Accept": "text/event-stream"}

children: list[subprocess.Popen[bytes]] = []


def url() -> str:
    """Where to subscribe."""
    return f"{HUB}?{urlencode([('match', topic) for topic in ARGUMENTS])}"


def tell(**values: object) -> None:
    """Print a line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def receive(events: Iterable[tuple[str | None, str]]) -> None:
    """Tell what is received by a client that connects again itself.

    :param events: their ids and data.
    """
    threading.Thread(target=_end, daemon=True).start()
    for event_id, data in events:
        tell(id=event_id, data=data)


def follow(
    connect: Callable[[dict[str, str]], Iterable[tuple[str | None, str]]], *errors: type[Exception]
) -> None:
    """Tell what is received, and when the stream ends, connect again with the last id.

    :param connect: makes a connection with headers, and yields the ids and data of its events.
    :param errors: what it raises when the connection breaks or cannot be made.
    """

    def events() -> Iterator[tuple[str | None, str]]:
        headers = dict(HEADERS)
        while True:
            try:
                for event_id, data in connect(dict(headers)):
                    yield event_id, data
                    if event_id:
                        headers["Last-Event-ID"] = event_id
            except errors:
                pass
            time.sleep(0.2)

    receive(events())


def _end() -> None:
    ended = select.select([sys.stdin], [], [], LIMIT)[0]
    for child in children:
        child.kill()
    os._exit(0 if ended else 3)
