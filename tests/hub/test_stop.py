"""A hub that is told to stop while requests arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.running import RunningHub, running_hub
from tests.hub.test_streams import self_signed

pytestmark = pytest.mark.minutes

SOME = 5


def publication(hub: RunningHub, number: int) -> bytes:
    """A request that publishes."""
    body = f"topic=t&data={number}"
    return (
        f"POST /.well-known/mercure HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n"
        f"Authorization: Bearer {hub.token()}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_a_request_that_has_arrived_in_a_kept_connection_is_answered(folder: Path, is_tls: bool) -> None:
    """Stored without an answer, it would be published twice."""
    with running_hub(folder, tls_cert=self_signed(folder) if is_tls else "") as hub:
        kept = [hub.connect() for _ in range(SOME)]
        for number, sock in enumerate(kept):
            sock.sendall(publication(hub, number))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
        requests = [publication(hub, SOME + number) for number in range(SOME)]

        def send() -> None:
            for sock, request in zip(kept, requests, strict=True):
                sock.sendall(request)

        assert hub.stop_after is not None
        hub.stop_after(send)
        answers = [sock.recv(65536) for sock in kept]
        for sock in kept:
            sock.close()
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * SOME
    with running_hub(folder, anonymous=1) as again:
        stored = again.subscribe({"match": "t", "last_event_id": "earliest"}).take(2 * SOME)
        assert sorted(stored, key=int) == [str(number) for number in range(2 * SOME)]
