"""Answers to bytes: complete, and nothing that others chose can add a line to the head."""

from __future__ import annotations

from http.client import parse_headers
from io import BytesIO

import pytest

from mercure_hub.protocol.http import Answer, text_answer
from mercure_hub.server.http import encode_answer, encode_stream_head

NOW = 784111777.9


def lines(data: bytes) -> list[bytes]:
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_an_answer_is_one_piece_with_its_header_fields() -> None:
    data = encode_answer(
        text_answer(200, "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        [("Vary", "Origin")],
        NOW,
        keep_alive=True,
        head_only=False,
    )
    assert data == (
        b"HTTP/1.1 200 OK\r\n"
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Vary: Origin\r\n"
        b"Content-Length: 5\r\n"
        b"\r\n"
        b"caf\xc3\xa9"
    )


def test_the_last_answer_says_that_the_connection_closes() -> None:
    data = encode_answer(Answer(404), [], NOW, keep_alive=False, head_only=False)
    assert lines(data)[-2:] == [b"Content-Length: 0", b"Connection: close"]


def test_head_tells_the_length_and_sends_nothing() -> None:
    data = encode_answer(text_answer(200, "ok"), [], NOW, keep_alive=True, head_only=True)
    assert data.endswith(b"Content-Length: 2\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_no_content_has_no_length(status: int) -> None:
    data = encode_answer(Answer(status, b"x"), [], NOW, keep_alive=True, head_only=False)
    assert data.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in data


@pytest.mark.parametrize(("is_framed", "framing"), [(True, b"Transfer-Encoding: chunked\r\n"), (False, b"")])
def test_a_stream_ends_with_the_connection(is_framed: bool, framing: bytes) -> None:
    data = encode_stream_head(
        [("Content-Type", "text/event-stream")], [("Vary", "Origin")], NOW, is_framed=is_framed
    )
    assert data == (
        b"HTTP/1.1 200 OK\r\n"
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"Content-Type: text/event-stream\r\n"
        b"Vary: Origin\r\n" + framing + b"Connection: close\r\n\r\n"
    )


HOSTILE = [
    "x\r\nSet-Cookie: a=b",
    "x\nSet-Cookie: a=b",
    "x\rSet-Cookie: a=b",
    "x\r\n\r\n<html>",
    "x\0y",
    "x\x1b[2Jy",
    "x\x0b\x0c\x85y",
    "x\u2028\u2029\uff0a\u010d\u010ay",  # characters whose low byte is a line end
    "\N{GRINNING FACE}\ud800",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_adds_a_line(value: str) -> None:
    answer = Answer(200, b"body", [("X-Own", value)])
    for data in (
        encode_answer(answer, [("X-Extra", value)], NOW, keep_alive=True, head_only=False),
        encode_stream_head([("X-Own", value)], [("X-Extra", value)], NOW, is_framed=False),
    ):
        head, _, rest = data.partition(b"\r\n\r\n")
        assert rest in (b"body", b"")
        assert len(head.split(b"\r\n")) == 5
        assert not set(head.replace(b"\r\n", b"")) & {0, 9, 10, 11, 12, 13, 27, 127}
        fields = parse_headers(BytesIO(data.partition(b"\r\n")[2]))
        assert "set-cookie" not in fields


def test_bytes_of_utf_8_pass_into_the_head() -> None:
    """Whoever sets a value outside of ASCII gives its bytes, one character each."""
    value = "\N{SNOWMAN} caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    data = encode_stream_head(
        [("Mercure-Last-Event-ID", value.encode().decode("latin-1"))], [], NOW, is_framed=True
    )
    sent = next(line for line in lines(data) if line.startswith(b"Mercure")).partition(b": ")[2]
    assert sent.decode() == value


def test_text_beyond_latin_1_is_replaced_in_the_head() -> None:
    data = encode_stream_head([("X", "\N{SNOWMAN}")], [], NOW, is_framed=True)
    assert b"X: ?\r\n" in data
