"""Handshakes and frames of WebSockets, without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercure_hub.protocol.errors import InvalidRequest, UpgradeRequired
from mercure_hub.protocol.update import Update
from mercure_hub.protocol.websocket import BUDGET, Close, Violation, WebSocket, accept_key, message

# The example of RFC 6455, section 1.3.
HEADERS = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def take(raw: bytes) -> tuple[bytes | None, Close | Violation | None]:
    return WebSocket(ends_with_token=False).take(raw)


def test_the_example_of_the_rfc() -> None:
    assert accept_key(HEADERS) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "changed",
    [{"upgrade": "WebSocket"}, {"connection": "keep-alive, upgrade"}, {"upgrade": "h2c, websocket"}],
)
def test_tokens_are_lists_in_any_case(changed: dict[str, str]) -> None:
    assert accept_key({**HEADERS, **changed}) is not None


def test_requests_that_are_not_handshakes() -> None:
    assert accept_key({}) is None
    assert accept_key({"upgrade": "h2c", "connection": "upgrade"}) is None


def test_what_a_proxy_cut() -> None:
    with pytest.raises(UpgradeRequired, match="proxy"):
        accept_key({"sec-websocket-key": HEADERS["sec-websocket-key"], "sec-websocket-version": "13"})


@pytest.mark.parametrize(
    "key", ["", "x", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ==\n", "AAAAAAAAAAAAAAAAAAAAAB=="]
)
def test_keys_of_handshakes(key: str) -> None:
    with pytest.raises(InvalidRequest):
        accept_key({**HEADERS, "sec-websocket-key": key})


def test_messages_of_updates() -> None:
    assert (
        message(Update(("t",), "é\n\u2028", "1"))
        == '{"id":"1","type":"message","data":"é\\n\u2028"}'.encode()
    )
    assert json.loads(message(Update(("t",), "", "1", type="x", retry=0))) == {
        "id": "1", "type": "x", "data": "", "retry": 0,
    }  # fmt: skip


def test_the_frames_of_the_rfc() -> None:
    """Section 5.7: "Hello", and a masked pong to it."""
    assert take(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == (None, Violation.MESSAGE)
    assert (Violation.MESSAGE.code, Violation.MESSAGE.text) == (
        1003, "a message; subscribers have nothing to send",
    )  # fmt: skip
    assert take(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == (None, None)
    assert take(b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == (b"Hello", None)
    unmasked = take(b"\x89\x05Hello")[1]
    assert unmasked is not None
    assert unmasked.code == 1002


def test_only_the_newest_ping_is_answered() -> None:
    assert take(b"\x89\x81\0\0\0\0a\x89\x81\0\0\0\0b") == (b"b", None)


@given(st.binary(max_size=2 * BUDGET), st.integers(1, 200))
def test_whatever_comes_in_whatever_pieces(raw: bytes, size: int) -> None:
    """The outcome is a close or nothing, and little is kept."""
    websocket = WebSocket(ends_with_token=False)
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    taken = 0
    for piece in pieces:
        taken += len(piece)
        pong, close = websocket.take(piece)
        assert pong is None or len(pong) <= 125
        assert len(websocket._rest) <= 131
        if close is not None:
            assert 1000 <= close.code <= 4999
            break
    else:
        assert taken <= BUDGET
