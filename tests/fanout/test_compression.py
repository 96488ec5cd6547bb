"""Frames: each can be decoded alone, all streams hold the same events, nobody waits for a large one."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator

import pytest

from mercure_hub.fanout.encoding import (
    HEARTBEATS,
    Compressor,
    Form,
    chunk,
    encode,
    estimate,
    is_available,
    stored,
)
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.protocol.event_stream import HEARTBEAT
from tests.fanout.bench import HUB_STOPS, Bench, Reader, exact, ids
from tests.hub.running import Frames

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, decompress, get_frame_info
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, decompress, get_frame_info

STREAMS = [Form.PLAIN, Form.CHUNKED, Form.ZSTD, Form.CHUNKED_ZSTD]
TEXT = json.dumps([{"id": number, "state": "paid"} for number in range(20_000)]).encode()


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 65_535, 65_536])
def test_a_stored_frame_is_read_by_a_decoder(size: int) -> None:
    data = os.urandom(size)
    frame = stored(data)
    assert decompress(frame) == data
    assert get_frame_info(frame).decompressed_size == size
    assert len(frame) - size in (9, 10)


@pytest.mark.parametrize("smallest", [0, 256, 65_536])
@pytest.mark.parametrize("size", [1, 100, 255, 256, 300, 65_536, 65_537, 262_144, 262_145, len(TEXT)])
@pytest.mark.parametrize("kind", ["text", "noise"])
def test_frames_of_an_event_decode_to_it(smallest: int, size: int, kind: str) -> None:
    event = (TEXT if kind == "text" else random.Random(1).randbytes(len(TEXT)))[:size]
    frames = list(Compressor(smallest).frames(event))
    assert b"".join(decompress(frame) for frame in frames) == event
    assert len(frames) == -(-size // 262_144)
    for frame in frames:
        assert 0 < get_frame_info(frame).decompressed_size <= 262_144
        # A window of 256 KiB is enough; RFC 9659 allows 8 MiB.
        decoder = ZstdDecompressor(options={DecompressionParameter.window_log_max: 18})
        decoder.decompress(frame)
        assert decoder.eof
    total = sum(map(len, frames))
    assert total <= size + 16 * len(frames)
    if kind == "text" and size >= max(smallest, 300):
        assert total < size


def test_a_compressor_shares_nothing_between_two_events() -> None:
    """Else the size of one would tell of the content of another."""
    compressor = Compressor(0)
    secret = b"data: the secret is " + random.Random(2).randbytes(400).hex().encode()
    (alone,) = Compressor(0).frames(secret)
    list(compressor.frames(secret))
    (again,) = compressor.frames(secret)
    assert again == alone


def test_the_zstandard_library_is_installed() -> None:
    assert is_available()


def test_the_estimated_time_is_bounded_by_the_size_of_a_frame() -> None:
    assert estimate(b"") < estimate(b"x" * 10_000) < estimate(b"x" * 262_144) == estimate(b"x" * 10_000_000)


def test_the_forms_of_an_event_stream() -> None:
    frame = stored(HEARTBEAT)
    assert [encode(form, [], [b"pla", b"in"], b"frames") for form in STREAMS] == [
        b"plain", chunk(b"plain"), b"frames", chunk(b"frames"),
    ]  # fmt: skip
    assert [HEARTBEATS[form] for form in STREAMS] == [b":\n", chunk(b":\n"), frame, chunk(frame)]
    for form in STREAMS:
        assert Form.of_stream(is_chunked=form.is_chunked, is_compressed=form.is_compressed) is form


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    bench = Bench(EngineLimits(heartbeat=40, compress_from=256))
    yield bench
    bench.close()


def unchunked(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        yield rest[:length]
        data = rest[length + 2 :]


def content(reader: Reader) -> bytes:
    """What has arrived, without its form; each chunk holds whole frames."""
    reader.read()
    data = bytes(reader.received)
    parts = list(unchunked(data)) if reader.subscriber.form.is_chunked else [data]
    if reader.subscriber.form.is_compressed:
        parts = [Frames().decode(part) for part in parts if part]
    return b"".join(parts)


def everybody(bench: Bench, *, start: bool = True) -> list[Reader]:
    """Several subscribers of each form."""
    return [bench.connect(exact("a"), exact("b"), form=form, start=start) for form in STREAMS * 3]


@pytest.mark.parametrize("topics", ["a", "aa", "abab"], ids=["one", "same receivers", "different receivers"])
@pytest.mark.parametrize("size", [10, 2_000, 600_000])
def test_all_forms_hold_the_same_events(bench: Bench, topics: str, size: int) -> None:
    readers = everybody(bench)
    entries = [bench.update(topic, data=f"{n}{TEXT[:size].decode()}") for n, topic in enumerate(topics)]
    expected = b"".join(entry.update.encode() for entry in entries)
    bench.dispatch(*entries)
    for _ in range(200):
        for reader in readers:
            reader.read()
        bench.poll()
    assert {content(reader) for reader in readers} == {expected}


def test_each_event_is_compressed_once_for_all_and_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    frames = Compressor.frames

    def count(self: Compressor, event: bytes) -> Iterator[bytes]:
        made.append(event)
        return frames(self, event)

    monkeypatch.setattr(Compressor, "frames", count)
    plain = bench.connect(exact("a"), exact("b"))
    bench.publish("a")
    assert made == []  # nobody wants it
    everybody(bench)
    only_plain = bench.connect(exact("c"))
    bench.publish("c")
    assert made == []
    entries = [bench.update("a", data=str(number)) for number in range(5)]
    bench.dispatch(*entries)
    assert made == [entry.update.encode() for entry in entries]
    assert len(plain.ids()) == 6
    assert only_plain.ids() == ["2"]


def test_heartbeats_have_the_form_of_their_stream(bench: Bench) -> None:
    readers = everybody(bench)
    bench.tick(40)
    bench.publish("a")
    assert {content(reader) for reader in readers} == {b":\nid: 1\ndata: \n\n"}


def test_a_chunked_stream_ends_with_a_last_chunk(bench: Bench) -> None:
    readers = everybody(bench)
    for reader in readers:
        bench.engine.end(reader.subscriber, HUB_STOPS)
        last = reader.read()
        assert last == (b"0\r\n\r\n" if reader.subscriber.form.is_chunked else b"")
        assert reader.at_end


def test_updates_held_in_each_form(bench: Bench) -> None:
    readers = everybody(bench, start=False)
    for reader in readers:
        bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a", data=TEXT[:1000].decode()) for _ in range(3)]
    for reader in readers:
        bench.start(reader)
    entries.append(bench.publish("a"))
    assert {content(reader) for reader in readers} == {b"".join(one.update.encode() for one in entries)}


def test_history_in_each_form(bench: Bench) -> None:
    updates = [bench.update("a", data=TEXT[: n * 100_000].decode()).update for n in range(7)]
    events = [update.encode() for update in updates]
    for form in STREAMS:
        pieces = list(bench.engine.history(updates, form))
        data = b"".join(pieces)
        assert all(pieces)
        if form.is_chunked:
            data = b"".join(unchunked(data))
        if form.is_compressed:
            frames = Frames()
            data = frames.decode(data)
            assert frames.count >= len(events)  # none is shared by two events
            assert len(pieces) > 1
        assert data == b"".join(events)
        assert list(bench.engine.history([], form)) == []


def test_others_are_served_while_a_large_update_is_compressed(bench: Bench) -> None:
    reader = bench.connect(exact("a"), form=Form.ZSTD)
    other = bench.connect(exact("b"))
    entry = bench.update("a", data=TEXT.decode() * 12)
    size = len(entry.update.encode())
    slices = bench.dispatch(entry)
    assert slices > size / 262_144 / 4
    late = bench.publish("b")
    for _ in range(200):
        reader.read()
        bench.poll()
    assert content(reader) == entry.update.encode()
    assert other.ids() == ids([late])


def test_a_subscriber_that_joins_while_an_update_is_compressed_reads_it_in_the_history(bench: Bench) -> None:
    bench.connect(exact("a"), form=Form.ZSTD)
    entry = bench.update("a", data=TEXT.decode() * 12)
    seen: list[int] = []
    joined: list[Reader] = []

    def join(count: int) -> None:
        if count == 1:
            seen.append(bench.engine.dispatched)
            joined.append(bench.connect(exact("a"), form=Form.ZSTD))

    bench.dispatch(entry, between=join)
    assert seen == [entry.sequence]
    assert joined[0].read() == b""


def test_a_compressed_event_that_is_cut_goes_on_at_the_exact_byte(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(compress_from=256))
    reader = bench.connect(exact("a"), form=Form.CHUNKED_ZSTD, small=True)
    noise = random.Random(3).randbytes(40_000).hex()
    entries = [bench.publish("a", data=f"{n}{noise}") for n in range(4)]
    assert reader.subscriber.queue
    while reader.read():
        bench.poll()
    assert content(reader) == b"".join(one.update.encode() for one in entries)
    bench.close()
