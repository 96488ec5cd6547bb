"""Plays a case of the table against a server, and judges what it did."""

from __future__ import annotations

import socket

from tests.http2.cases import CLOSES, DATA, ENDED, SETTLED, Case, Right, Wait
from tests.http2.client import Answer, Connection
from tests.http2.frames import PREFACE, Code, Flag, Frame, Kind, split


def failure(case: Case, sock: socket.socket, size: int = 1 << 30) -> str:
    """Play a case.

    :param sock: a connection on which nothing was sent; it is closed.
    :param size: bytes that are sent at a time.
    :returns: what the server did, if that is wrong.
    """
    with Connection(sock, case.first[:size]) as connection:
        _send(connection, case.first[size:], size)
        if case.right is CLOSES:  # a server may wait until the client has read what it was told
            connection.sock.shutdown(socket.SHUT_WR)
        connection.until(lambda: connection.settings or connection.frames)
        sent = case.first.removeprefix(PREFACE)
        for step in case.steps:
            if isinstance(step, Wait):
                _await(connection, step, sent)
                continue
            piece = step if isinstance(step, bytes) else step(connection.settings)
            sent += piece
            _send(connection, piece, size)
        right = case.right
        if right.answers or right.refusal or (right.stream and not right.lives):
            connection.until(lambda: connection.of(Kind.GOAWAY) or _answer(connection, case.stream).is_over)
        lives = connection.fence()
        return "" if _is_right(connection, case, lives=lives) else _seen(connection, lives=lives)


def _send(connection: Connection, piece: bytes, size: int) -> None:
    for at in range(0, len(piece), size):
        connection.send(piece[at : at + size])


def _await(connection: Connection, point: Wait, sent: bytes) -> None:
    """Wait for a point, or for the end of the connection."""
    before = len(connection.frames)
    if point == SETTLED:
        asked = sum(one.kind == Kind.SETTINGS for one in split(sent)[0])
        connection.until(lambda: connection.of(Kind.GOAWAY) or len(_acknowledgements(connection)) >= asked)
    elif point == DATA:
        connection.until(
            lambda: any(one.kind in (Kind.DATA, Kind.GOAWAY) for one in connection.frames[before:])
        )
    elif point == ENDED:
        connection.until(lambda: connection.of(Kind.GOAWAY) or _answer(connection, 1).is_over)


def _acknowledgements(connection: Connection) -> list[Frame]:
    return [one for one in connection.of(Kind.SETTINGS) if one.flags & Flag.ACK]


def _answer(connection: Connection, stream: int) -> Answer:
    return connection.answers.get(stream, Answer())


def _is_right(connection: Connection, case: Case, *, lives: bool) -> bool:
    right = case.right
    if connection.frames and (connection.frames[0].kind != Kind.SETTINGS or connection.frames[0].flags):
        return False  # section 3.4
    codes = {one.code for one in connection.of(Kind.GOAWAY)}
    if not lives:
        return (right.closes and not codes) or (bool(codes) and codes <= right.connection)
    if codes - {Code.NO_ERROR}:
        return False
    sizes = tuple(len(one.payload) for one in connection.of(Kind.DATA) if one.stream == 1)
    return (
        _stream_is_right(_answer(connection, case.stream), right) and sizes[: len(right.sizes)] == right.sizes
    )


def _stream_is_right(answer: Answer, right: Right) -> bool:
    if answer.reset is not None:
        return answer.reset in right.stream
    if right.lives:
        return not right.answers or (answer.has_ended and answer.status > 0)
    return right.refusal and answer.has_ended and 400 <= answer.status < 500


def _seen(connection: Connection, *, lives: bool) -> str:
    frames = ", ".join(map(repr, connection.frames))
    statuses = {stream: answer.status for stream, answer in connection.answers.items() if answer.status}
    return f"{frames}; {'goes on' if lives else 'has ended'}; {statuses}"
