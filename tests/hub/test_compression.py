"""Compressed streams of a real hub: the same events as the others get, each as it is sent."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import requests

from mercure_hub.protocol.event_stream import Parser
from tests.certificates import self_signed
from tests.hub.running import HUB_PATH, Frames, RunningHub, Stream, running_hub

pytestmark = pytest.mark.minutes

BROWSER = "gzip, deflate, br, zstd"
ORDER = json.dumps({"order": 42, "lines": [{"article": number, "state": "shipped"} for number in range(50)]})


def everybody(hub: RunningHub, query: dict[str, str]) -> list[Stream]:
    """One subscriber of each form."""
    return [
        hub.subscribe(query, version=version, **headers)
        for version in ("1.1", "1.0")
        for headers in ({"Accept_Encoding": BROWSER}, {})
    ]


def test_events_come_as_they_are_sent_and_once(folder: Path) -> None:
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        streams = everybody(hub, {"match": "t"})
        assert [stream.reply.headers.get("content-encoding") for stream in streams] == ["zstd", None] * 2
        assert {stream.reply.headers["vary"] for stream in streams} == {"Accept-Encoding"}
        before = [stream.wire for stream in streams]
        for data in ("short", ORDER, "x" * 700_000, ORDER + "\n\n", ""):
            hub.send("t", data)
            assert {stream.next().data for stream in streams} == {data}
        sent = [stream.wire - start for stream, start in zip(streams, before, strict=True)]
        assert sent[0] < sent[1] / 50
        contents = {stream.raw for stream in streams}
    assert len(contents) == 1
    assert contents.pop().startswith(b":\n")


def test_history_and_live_updates_are_compressed(folder: Path) -> None:
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        first = hub.send("t", "0")
        for number in range(1, 700):  # more than a page
            hub.send("t", str(number) if number % 2 else f"{number} {ORDER}")
        streams = everybody(hub, {"match": "t", "last_event_id": first})
        hub.send("t", "700")
        for stream in streams:
            assert [data.split()[0] for data in stream.take(700)] == [str(n) for n in range(1, 701)]
        assert streams[0].wire < streams[1].wire / 2


def test_heartbeats_are_compressed(folder: Path) -> None:
    with running_hub(folder, anonymous=1, compression="zstd", heartbeat=1) as hub:
        for stream in everybody(hub, {"match": "t"}):
            stream.read_until(b":\n:\n")
            assert stream.raw.strip(b":\n") == b""


def test_compressed_streams_over_tls(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, anonymous=1, compression="zstd", tls_cert=certificate) as hub:
        streams = everybody(hub, {"match": "t"})
        first = hub.send("t", ORDER)
        for number in range(20):
            hub.send("t", f"{number}{ORDER}")
        for stream in streams:
            assert stream.take(21) == [ORDER, *(f"{number}{ORDER}" for number in range(20))]
        again = hub.subscribe({"match": "t", "last_event_id": first}, Accept_Encoding="zstd")
        assert again.take(1) == [f"0{ORDER}"]


def test_private_updates_stay_private(folder: Path) -> None:
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        anonymous = everybody(hub, {"match": "t"})
        allowed = hub.subscribe({"match": "t"}, hub.token(), Accept_Encoding="zstd")
        hub.send("t", ORDER, private="on")
        hub.send("t", "public")
        assert allowed.take(2) == [ORDER, "public"]
        assert [stream.next().data for stream in anonymous] == ["public"] * 4


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_head_agrees_with_get(folder: Path, method: str) -> None:
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        for accepted, coding in ((BROWSER, "zstd"), ("gzip", None), ("zstd;q=0, *", None), ("", None)):
            if method == "HEAD":
                target = f"{HUB_PATH}?match=t"
                headers = hub.request("HEAD", target, {"Accept-Encoding": accepted}).headers
            else:
                headers = hub.subscribe({"match": "t"}, Accept_Encoding=accepted).reply.headers
            assert headers.get("content-encoding") == coding
            assert headers["vary"] == "Accept-Encoding"


def test_other_answers_are_not_compressed(folder: Path) -> None:
    with running_hub(folder, compression="zstd") as hub:
        for reply in (hub.get({"match": "t"}, Accept_Encoding="zstd"), hub.get(path="/healthz")):
            assert "content-encoding" not in reply.headers


def test_streams_are_not_compressed_by_default(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({"match": "t"}, Accept_Encoding="zstd")
        assert "content-encoding" not in stream.reply.headers
        assert "vary" not in stream.reply.headers
        hub.send("t", ORDER)
        assert stream.next().data == ORDER


def test_without_the_library_the_log_says_so_and_streams_are_plain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mercure_hub.fanout.encoding.is_available", lambda: False)
    with caplog.at_level(logging.WARNING), running_hub(folder, anonymous=1, compression="zstd") as hub:
        stream = hub.subscribe({"match": "t"}, Accept_Encoding="zstd")
        assert "content-encoding" not in stream.reply.headers
        hub.send("t", ORDER)
        assert stream.next().data == ORDER
    (message,) = [one.getMessage() for one in caplog.records if "COMPRESSION" in one.getMessage()]
    assert message == (
        "MERCURE_COMPRESSION=zstd has no effect: backports.zstd is missing; pip install backports.zstd"
    )


def test_a_client_of_requests_gets_each_event_at_once(folder: Path) -> None:
    """Its pool offers zstd when a library is there, and decodes frame after frame."""
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        headers = {"Accept-Encoding": "zstd"}
        answer = requests.get(hub.url, params={"match": "t"}, headers=headers, stream=True, timeout=10)
        with answer:
            assert answer.headers["Content-Encoding"] == "zstd"
            parser, pieces = Parser(), answer.iter_content(None)
            for data in ("1", ORDER, "3"):
                hub.send("t", data)
                found = ""
                while not found:
                    found = "".join(event.data for event in parser.feed(next(pieces)))
                assert found == data


def test_every_byte_is_in_a_frame(folder: Path) -> None:
    with running_hub(folder, anonymous=1, compression="zstd") as hub:
        sock = hub.connect()
        with sock:
            sock.sendall(f"GET {HUB_PATH}?match=t HTTP/1.0\r\nAccept-Encoding: zstd\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += sock.recv(65536)
            hub.send("t", "the end")
            frames, content = Frames(), b""
            rest = received.partition(b"\r\n\r\n")[2]
            while b"the end" not in content:
                content += frames.decode(rest)
                rest = b"" if b"the end" in content else sock.recv(65536)
            assert frames.count == 2
