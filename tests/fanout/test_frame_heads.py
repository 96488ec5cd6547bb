"""The heads of WebSocket frames, which a library that is no longer maintained encodes."""

from __future__ import annotations

import struct

import pytest

from mercure_hub.fanout.encoding import HEARTBEATS, Form, close_frame, encode, pong
from mercure_hub.protocol.update import Update


def message(update: Update) -> bytes:
    return encode(Form.WEBSOCKET, [update], [], b"")


def head(opcode: int, length: int) -> bytes:
    """The head of an unmasked frame that is not continued (RFC 6455 section 5.2)."""
    first = bytes([0x80 | opcode])
    if length < 126:
        return first + bytes([length])
    return first + (
        b"\x7e" + struct.pack("!H", length) if length < 1 << 16 else b"\x7f" + struct.pack("!Q", length)
    )


@pytest.mark.parametrize("size", [1, 70, 125, 126, 127, 5_000, 65_535, 65_536, 65_537, 1 << 20])
def test_the_head_of_a_text_message(size: int) -> None:
    update = Update(id="1", topics=("a",), data="x" * size)
    sent = message(update)
    content = sent[sent.index(b"{") :]
    assert sent == head(1, len(content)) + content


@pytest.mark.parametrize("edge", [125, 126, 65_535, 65_536])
def test_the_head_of_a_text_message_whose_length_is_at_an_edge(edge: int) -> None:
    empty = message(Update(id="1", topics=("a",), data=""))
    size = edge - len(empty[empty.index(b"{") :])
    assert message(Update(id="1", topics=("a",), data="x" * size)).startswith(head(1, edge) + b"{")


@pytest.mark.parametrize("size", [0, 1, 125])
def test_the_head_of_a_pong(size: int) -> None:
    content = b"x" * size
    assert pong(content) == head(10, size) + content


@pytest.mark.parametrize("text", ["", "the hub stops"])
def test_the_head_of_a_close_frame(text: str) -> None:
    assert close_frame(1001, text) == head(8, 2 + len(text)) + b"\x03\xe9" + text.encode()


def test_a_heartbeat_is_an_empty_ping() -> None:
    assert HEARTBEATS[Form.WEBSOCKET] == head(9, 0)
