"""sseclient-py reads a response of requests."""

from __future__ import annotations

from collections.abc import Iterator

import requests
from sseclient import SSEClient

from tests.foreign.clients.given import follow, url


def connect(headers: dict[str, str]) -> Iterator[tuple[str | None, str]]:
    with requests.get(url(), headers=headers, stream=True, timeout=60) as response:
        response.raise_for_status()
        for event in SSEClient(response.iter_content(None)).events():
            yield event.id, event.data


follow(connect, requests.RequestException)
