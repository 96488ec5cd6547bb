"""A subscriber that follows topics from the shell, through every loss of its connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

import requests
from urllib3.exceptions import HTTPError

from flask_mercure.answer import reason
from flask_mercure.errors import HubUnreachable, MercureError
from flask_mercure.publisher import open_session
from hub.protocol.event_stream import Event, Parser

_DEFAULT_RETRY = 2000
"""Milliseconds between two connections, until the hub says otherwise."""

_SILENCE = 120.0
"""Seconds without an octet after which the connection counts as lost: three heartbeats of the hub."""

_PIECE = 65536
_REASON = 4096


class Refused(MercureError):
    """The hub does not admit the subscriber.

    :param message: what it answered.
    """


def follow(
    url: str,
    token: Callable[[], str],
    *,
    verify: bool | str = True,
    connect_timeout: float = 2.0,
    last_event_id: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Event, None, None]:
    """Yield the events of a subscription, for ever.

    A lost connection is taken up again after the last event (spec, Reconciliation); only the first one
    must succeed.

    :param url: of the subscription, with its matchers.
    :param token: makes an access token, for each connection a fresh one.
    :param verify: the ``verify`` argument of requests.
    :param connect_timeout: seconds for each connection.
    :param last_event_id: to start after.
    :param sleep: waits for a number of seconds.
    :raises Refused: the hub answers that it will not stream.
    :raises HubUnreachable: the first connection fails.
    """
    parser = Parser(last_event_id or "")
    retry = _DEFAULT_RETRY
    was_connected = False
    with open_session() as session:
        while True:
            headers = {"Authorization": f"Bearer {token()}", "Accept": "text/event-stream"}
            if parser.last_event_id:
                headers["Last-Event-ID"] = parser.last_event_id
            try:
                with session.get(
                    url,
                    headers=headers,
                    allow_redirects=False,
                    stream=True,
                    timeout=(connect_timeout, _SILENCE),
                    verify=verify,
                ) as response:
                    _check(response, was_connected)
                    was_connected = True
                    for octets in _pieces(response):
                        yield from parser.feed(octets)
            except (requests.RequestException, HTTPError, OSError) as error:
                if not was_connected:
                    raise HubUnreachable(f"no connection to {url.partition('?')[0]} (MERCURE_URL)") from error
            retry = retry if parser.retry is None else parser.retry
            sleep(retry / 1000)
            parser = Parser(parser.last_event_id)


def _check(response: requests.Response, was_connected: bool) -> None:
    """Refuse an answer that is no event stream; a hub that is starting again may come back from a 5xx."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if response.status_code == requests.codes.ok and media_type == "text/event-stream":
        return
    said = reason(response, response.raw.read(_REASON, decode_content=True))
    message = f"the hub answered {response.status_code}" + (f" ({said})" if said else "")
    if was_connected and response.status_code >= requests.codes.internal_server_error:
        raise requests.ConnectionError(message)
    raise Refused(f"{message}, not an event stream; its log has the cause")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """What has arrived, as it arrives; ``iter_content`` would wait for the end of a stream without length."""
    read1 = getattr(response.raw, "read1", None)  # urllib3 has it since 2.1
    while octets := response.raw.read(1) if read1 is None else read1(_PIECE):
        yield octets
