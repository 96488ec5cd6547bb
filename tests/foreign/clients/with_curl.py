"""curl prints the stream as it comes; the hub's own parser reads it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from mercure_hub.protocol.event_stream import Parser
from tests.foreign.clients.given import LIMIT, children, follow, url


def connect(headers: dict[str, str]) -> Iterator[tuple[str | None, str]]:
    fields = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-N", "--silent", "--fail", "--max-time", str(LIMIT), *fields, url()]
    parser = Parser()
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as curl:
        children.append(curl)
        assert curl.stdout is not None
        while raw := curl.stdout.read(65536):
            for event in parser.feed(raw):
                yield event.id, event.data


follow(connect)
