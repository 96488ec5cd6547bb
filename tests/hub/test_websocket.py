"""WebSockets: the same updates, tokens, cursors and limits as event streams, and nothing to read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from mercure_hub.protocol.websocket import BUDGET
from tests.certificates import self_signed
from tests.hub.running import HUB_PATH, TIMEOUT, RunningHub, running_hub
from tests.hub.test_process import process
from tests.hub.websocket import (
    ACCEPT,
    BINARY,
    CLOSE,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    ask,
    client,
    end,
    frame,
    messages,
    raw,
)

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

API = HUB_PATH + "/subscriptions"


def refused(hub: RunningHub, query: dict[str, str], status: int, **options: str) -> str:
    """What the hub says to a handshake that it refuses."""
    with pytest.raises(InvalidStatus) as caught, client(hub, query, **options):
        pass
    response = caught.value.response
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    detail: str = json.loads(response.body)["detail"]
    return detail


def test_too_many_matchers_are_refused_as_those_of_a_stream_are(hub: RunningHub) -> None:
    reply, raw = ask(hub, [("match", str(number)) for number in range(101)])
    raw.sock.close()
    assert reply.status == 400


class TestUse:
    def test_an_update_is_a_message(self, hub: RunningHub) -> None:
        with client(hub, {"match": "ws/a"}) as connection:
            plain = hub.send("ws/a", "one\r\ntwo \U0001f600")
            full = hub.send("ws/a", '{"a": "\x00"}', type="order", retry="2500")
            assert messages(connection, 2) == [
                {"id": plain, "type": "message", "data": "one\r\ntwo \U0001f600"},
                {"id": full, "type": "order", "data": '{"a": "\x00"}', "retry": 2500},
            ]

    @pytest.mark.parametrize("size", [0, 60, 200, 70_000])
    def test_messages_of_any_length(self, hub: RunningHub, size: int) -> None:
        with client(hub, {"match": f"ws/size/{size}"}) as connection:
            hub.send(f"ws/size/{size}", "x" * size)
            assert messages(connection)[0]["data"] == "x" * size

    def test_websockets_beside_event_streams(self, hub: RunningHub) -> None:
        stream = hub.subscribe({"match": "ws/both"})
        with client(hub, {"match": "ws/both"}) as connection:
            for number in range(20):
                hub.send("ws/both", str(number))
            expected = [str(number) for number in range(20)]
            assert stream.take(20) == [one["data"] for one in messages(connection, 20)] == expected

    def test_matchers_of_all_kinds(self, hub: RunningHub) -> None:
        with (
            client(hub, {"match_urlpattern": "https://ws.example/:id"}) as new,
            client(hub, {"topic": "https://ws.example/{id}"}) as old,
        ):
            hub.send("https://ws.example/1", "yes")
            assert messages(new)[0]["data"] == messages(old)[0]["data"] == "yes"

    def test_history_comes_before_live_messages(self, hub: RunningHub) -> None:
        first = hub.send("ws/history", "0")
        large = "x" * 300_000  # several pages, which are bounded in bytes
        for number in range(1, 12):
            hub.send("ws/history", f"{number} {large}")
        with client(hub, {"match": "ws/history", "last_event_id": first}) as connection:
            assert connection.response is not None
            assert connection.response.headers["Mercure-Last-Event-ID"] == first
            hub.send("ws/history", "12 and live")
            found = [one["data"].split()[0] for one in messages(connection, 12)]
            assert found == [str(number) for number in range(1, 13)]

    def test_websockets_over_tls(self, folder: Path) -> None:
        self_signed(folder)
        with running_hub(folder, anonymous=1, tls_cert=folder / "self-signed.pem") as hub:
            first = hub.send("a", "x" * 100_000)
            with client(hub, {"match": "a", "last_event_id": "earliest"}) as connection:
                last = hub.send("a", "y" * 100_000)
                assert [one["id"] for one in messages(connection, 2)] == [first, last]
                assert connection.ping().wait(TIMEOUT)
                connection.send("no")
                assert end(connection)[0] == 1003

    def test_presence_comes_and_goes(self, hub: RunningHub) -> None:
        watcher = hub.subscribe({"match_urlpattern": f"{API}/:type/ws-presence/:id"}, hub.token())
        with client(hub, {"match": "ws-presence"}):
            assert json.loads(watcher.next().data)["active"] is True
        assert json.loads(watcher.next().data)["active"] is False

    def test_the_answer_to_the_handshake(self, hub: RunningHub) -> None:
        reply, connection = ask(hub, {"match": "ws/head"})
        connection.sock.close()
        assert reply.status == 101
        assert reply.headers["sec-websocket-accept"] == ACCEPT
        assert (reply.headers["upgrade"], reply.headers["connection"]) == ("websocket", "Upgrade")
        assert "content-type" not in reply.headers


class TestTokens:
    def test_a_token_in_a_header(self, hub: RunningHub) -> None:
        with client(hub, {"match": "ws/private"}, hub.token()) as connection:
            hub.send("ws/private", "secret", private="on")
            assert messages(connection)[0]["data"] == "secret"

    def test_the_query_of_0x(self, hub: RunningHub) -> None:
        token = hub.old_token(subscribe=["*"])
        with client(hub, {"topic": "ws/query", "authorization": token}) as connection:
            hub.send("ws/query", "secret", private="on")
            assert messages(connection)[0]["data"] == "secret"

    def test_a_handshake_without_a_token(self, hub: RunningHub) -> None:
        with client(hub, {"match": "ws/mixed"}) as connection:
            hub.send("ws/mixed", "secret", private="on")
            hub.send("ws/mixed", "public")
            assert messages(connection)[0]["data"] == "public"

    def test_private_history_needs_a_token_that_allows_it(self, hub: RunningHub) -> None:
        first = hub.send("ws/private-history", "0")
        hub.send("ws/private-history", "secret", private="on")
        hub.send("ws/private-history", "open")
        for cursor in (first, "earliest"):
            query = {"match": "ws/private-history", "last_event_id": cursor}
            public = ["0", "open"] if cursor == "earliest" else ["open"]
            everything = [*public[:-1], "secret", "open"]
            for token, expected in (
                (None, public),
                (hub.token(subscribe=["ws/other"]), public),
                (hub.token(subscribe=["ws/private-history"]), everything),
            ):
                with client(hub, query, token) as connection:
                    assert [one["data"] for one in messages(connection, len(expected))] == expected

    def test_a_wrong_token_is_refused(self, hub: RunningHub) -> None:
        assert "log" in refused(hub, {"match": "a"}, 401, token="wrong")

    def test_the_connection_ends_with_it(self, folder: Path) -> None:
        with (
            running_hub(folder, write_timeout=3600) as hub,
            client(hub, {"match": "a"}, hub.token(lifetime=2.5)) as connection,
        ):
            assert end(connection) == (1008, "its time is over")

    def test_the_connection_ends_with_its_time(self, folder: Path) -> None:
        with (
            running_hub(folder, write_timeout=2) as hub,
            client(hub, {"match": "a"}, hub.token(lifetime=600)) as connection,
        ):
            assert end(connection) == (1001, "its time is over")


class TestOrigins:
    """Browsers ask nobody before they open a WebSocket, and send their cookies along."""

    @staticmethod
    def sees(hub: RunningHub, origin: str | None) -> list[str]:
        """What a page of an origin gets of a private and a public update."""
        cookie = f"__Secure-mercure_access_token={hub.token()}"
        with client(hub, {"match": "a"}, origin=origin, Cookie=cookie) as connection:
            hub.send("a", "private", private="on")
            hub.send("a", "public")
            found = [messages(connection)[0]["data"]]
            while found[-1] != "public":
                found.append(messages(connection)[0]["data"])
            return found

    def test_origins_that_may_connect(self, folder: Path) -> None:
        both, public = ["private", "public"], ["public"]
        with running_hub(folder, anonymous=1, cors_origins="https://friend.example") as hub:
            assert self.sees(hub, None) == both
            assert self.sees(hub, f"http://127.0.0.1:{hub.port}") == both
            assert self.sees(hub, "https://friend.example") == both
            for stranger in ("https://evil.example", "null", "https://friend.example.evil.example"):
                detail = refused(hub, {"match": "a"}, 403, origin=stranger)
                assert "MERCURE_CORS_ORIGINS" in detail
        with running_hub(folder, anonymous=1, cors_origins="http://localhost:*") as hub:
            assert self.sees(hub, "http://localhost:5173") == both
            refused(hub, {"match": "a"}, 403, origin="http://localhost.evil.example:5173")
        with running_hub(folder, anonymous=1, cors_origins="* https://friend.example") as hub:
            assert self.sees(hub, "https://friend.example") == both
            assert self.sees(hub, "https://evil.example") == self.sees(hub, "null") == public


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "status", "field"),
        [
            ({"Sec-WebSocket-Version": "8"}, 426, "Sec-WebSocket-Version"),
            ({"Sec-WebSocket-Version": ""}, 426, "Sec-WebSocket-Version"),
            ({"Upgrade": "h2c"}, 426, "Upgrade"),
            ({"Connection": "keep-alive"}, 400, "Connection"),
            ({"Sec-WebSocket-Key": "short"}, 400, "Sec-WebSocket-Key"),
            ({"Sec-WebSocket-Key": "x" * 24}, 400, "Sec-WebSocket-Key"),
            ({"Content-Length": "1"}, 400, None),
        ],
    )
    def test_handshakes_that_are_refused(
        self, hub: RunningHub, changed: dict[str, str], status: int, field: str | None
    ) -> None:
        reply = hub.request(
            "GET",
            HUB_PATH + "?match=a",
            {**HANDSHAKE, **changed},
            b"x" * len(changed.get("Content-Length", "")),
        )
        assert reply.status == status
        assert reply.json().get("field") == field
        if status == 426:
            assert reply.headers["sec-websocket-version"] == "13"
            assert reply.headers["upgrade"] == "websocket"

    def test_who_does_not_wait_for_the_answer(self, hub: RunningHub) -> None:
        reply, connection = ask(hub, {"match": "a"}, then=frame(PING))
        connection.sock.close()
        assert reply.status == 400

    def test_what_any_subscriber_is_told(self, hub: RunningHub) -> None:
        assert "match" in refused(hub, {"Match": "a"}, 400)

    def test_too_many_websockets(self, folder: Path) -> None:
        with running_hub(folder, anonymous=1, max_connections=1) as hub, client(hub, {"match": "a"}):
            assert "MERCURE_MAX_CONNECTIONS" in refused(hub, {"match": "a"}, 429)
            assert hub.get({"match": "a"}).status == 429

    def test_websockets_can_be_switched_off(self, folder: Path) -> None:
        with running_hub(folder, anonymous=1, websocket=0) as hub:
            assert "MERCURE_WEBSOCKET" in refused(hub, {"match": "a"}, 400)
            assert hub.subscribe({"match": "a"}).reply.status == 200

    def test_another_protocol_is_passed_over(self, hub: RunningHub) -> None:
        stream = hub.subscribe({"match": "a"}, Connection="Upgrade", Upgrade="h2c")
        assert stream.reply.headers["content-type"] == "text/event-stream"


class TestWhatClientsSend:
    def test_a_ping_is_answered(self, hub: RunningHub) -> None:
        with raw(hub, {"match": "ws/ping"}) as connection:
            connection.send(frame(PING, b"one") + frame(PONG) + frame(TEXT) + frame(BINARY))
            assert connection.frame() == (PONG, b"one")
            for byte in frame(PING, b"two"):  # one by one
                connection.send(bytes([byte]))
            assert connection.frame() == (PONG, b"two")
            masked = bytes([0x89, 0x82, 1, 2, 3, 4, ord("o") ^ 1, ord("k") ^ 2])
            connection.send(masked)
            assert connection.frame() == (PONG, b"ok")

    def test_the_hub_pings(self, folder: Path) -> None:
        with running_hub(folder, anonymous=1, heartbeat=1) as hub, raw(hub, {"match": "a"}) as connection:
            for _ in range(2):
                assert connection.frame() == (PING, b"")
                connection.send(frame(PONG))

    @pytest.mark.parametrize("content", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
    def test_a_close_is_answered(self, hub: RunningHub, content: bytes) -> None:
        with raw(hub, {"match": "a"}) as connection:
            connection.send(frame(CLOSE, content))
            opcode, answer = connection.frame()
            assert (opcode, answer[:2]) == (CLOSE, content[:2])
            assert connection.sock.recv(1) == b""

    @pytest.mark.parametrize(
        ("piece", "code"),
        [
            (frame(TEXT, b"hello"), 1003),
            (frame(BINARY, b"x" * 200), 1003),
            (frame(TEXT, b"x" * 600), 1009),
            (frame(TEXT, b"x" * 3000), 1009),
            (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),  # announces 2 ** 63 - 1 bytes
            (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
            (frame(TEXT, fin=False), 1003),
            (frame(0), 1002),
            (frame(TEXT, masked=False), 1002),
            (frame(PING, masked=False), 1002),
            (frame(PING, b"x" * 126), 1002),
            (frame(PING, fin=False), 1002),
            (frame(3), 1002),
            (frame(11), 1002),
            (b"\xc1\x80\0\0\0\0", 1002),  # compressed, which nobody has agreed on
            (frame(CLOSE, b"x"), 1002),
            (frame(CLOSE, b"\x03\xee"), 1002),  # 1006 is never sent
            (frame(CLOSE, b"\x03\xe8\xff"), 1007),
            (frame(PING, b"x" * 119) * (BUDGET // 125 + 2), 1008),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
            (b"\0" * 100, 1002),
        ],
    )
    def test_what_ends_the_connection(self, hub: RunningHub, piece: bytes, code: int) -> None:
        with raw(hub, {"match": "a"}) as connection:
            connection.send(piece)
            assert connection.close_code() == code

    def test_a_flood_costs_no_more_than_its_first_bytes(self, hub: RunningHub) -> None:
        with raw(hub, {"match": "ws/flood"}) as connection:
            connection.sock.settimeout(TIMEOUT)
            with pytest.raises(OSError):
                for _ in range(1000):
                    connection.send(frame(TEXT, b"x" * 65535))
        stream = hub.subscribe({"match": "ws/flood"})
        hub.send("ws/flood", "still there")
        assert stream.take(1) == ["still there"]

    def test_garbage_of_many_clients(self, hub: RunningHub) -> None:
        for _ in range(200):
            with raw(hub, {"match": "ws/garbage"}) as connection:
                connection.send(os.urandom(50))
        with client(hub, {"match": "ws/garbage"}) as connection:
            hub.send("ws/garbage", "fine")
            assert messages(connection)[0]["data"] == "fine"

    def test_a_client_that_vanishes(self, hub: RunningHub) -> None:
        watcher = hub.subscribe({"match_urlpattern": f"{API}/:type/ws-vanish/:id"}, hub.token())
        with raw(hub, {"match": "ws-vanish"}) as connection:
            assert json.loads(watcher.next().data)["active"] is True
            connection.sock.shutdown(socket.SHUT_RDWR)
            assert json.loads(watcher.next().data)["active"] is False


def test_one_that_does_not_read_is_dropped_and_the_others_go_on(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1, dispatch_timeout=1) as hub:
        watcher = hub.subscribe({"match_urlpattern": f"{API}/:type/slow/:id"}, hub.token())
        with client(hub, {"match": "slow"}) as quick, raw(hub, {"match": "slow"}) as slow:
            assert [json.loads(watcher.next().data)["active"] for _ in range(2)] == [True, True]
            slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            got: list[str] = []
            reader = threading.Thread(target=lambda: got.extend(one["data"] for one in messages(quick, 30)))
            reader.start()
            for number in range(30):
                hub.send("slow", f"{number} " + "x" * 500_000)
                with contextlib.suppress(OSError):
                    slow.send(frame(PING))  # to be alive is not enough
            reader.join(TIMEOUT)
            assert [one.split()[0] for one in got] == [str(number) for number in range(30)]
            assert json.loads(watcher.next().data)["active"] is False


def test_the_end_of_the_hub(folder: Path) -> None:
    with process(folder) as (child, hub):
        with client(hub, {"match": "a"}) as connection:
            hub.send("a", "first")
            assert (
                messages(connection)[0]["data"] == "first"
            )  # from here on it reads no history, which ends at once
            hub.send("a", "last")
            child.send_signal(signal.SIGTERM)
            assert messages(connection)[0]["data"] == "last"
            assert end(connection) == (1001, "the hub stops")
        assert child.wait(TIMEOUT) == 0


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def taken_by(folder: Path, headers: dict[str, str], count: int = 1000) -> float:
    """Memory of the hub for each idle subscriber."""
    folder.mkdir()
    with process(folder, MERCURE_ACCESS_LOG=os.devnull, MERCURE_HEARTBEAT="0") as (child, hub):
        some = [ask(hub, {"match": "a"}, headers)[1] for _ in range(200)]  # what is only taken once
        before = resident(child.pid)
        more = [ask(hub, {"match": "a"}, headers)[1] for _ in range(count)]
        after = resident(child.pid)
        hub.send("a", "to all")
        for one in (*some, *more):
            while b"to all" not in one.sock.recv(4096):
                pass
            one.sock.close()
        return (after - before) / count


def test_a_thousand_idle_ones_take_no_more_than_twice_what_streams_take(folder: Path) -> None:
    assert taken_by(folder / "websocket", HANDSHAKE) < 2 * max(taken_by(folder / "stream", {}), 1500)
