"""httpx-sse reads a response of httpx."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from httpx_sse import connect_sse

from tests.foreign.clients.given import follow, url


def connect(headers: dict[str, str]) -> Iterator[tuple[str | None, str]]:
    with (
        httpx.Client(timeout=60) as client,
        connect_sse(client, "GET", url(), headers=headers) as source,
    ):
        source.response.raise_for_status()
        for event in source.iter_sse():
            yield event.id, event.data


follow(connect, httpx.TransportError)
