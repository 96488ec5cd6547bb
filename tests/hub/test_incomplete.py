"""A stream that would go on without an update is ended: its client comes back with its cursor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from mercure_hub.fanout.engine import Engine, Logged
from tests.hub.running import TIMEOUT, RunningHub, running_hub
from tests.hub.websocket import client, messages
from tests.storage.log import beside, broken

pytestmark = pytest.mark.minutes


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the engine raises instead of sending the next updates."""
    failures: list[BaseException] = []
    dispatch = Engine.dispatch

    def fail(engine: Engine, entries: Sequence[Logged]) -> Iterator[None]:
        if failures:
            raise failures.pop()
        yield from dispatch(engine, entries)

    monkeypatch.setattr(Engine, "dispatch", fail)
    return failures


def test_updates_that_could_not_be_sent_end_all_streams(folder: Path, failures: list[BaseException]) -> None:
    with running_hub(folder, anonymous=1) as hub:
        streams = [hub.subscribe({"match": "t"}), hub.subscribe({"match": "other"})]
        with client(hub, {"match": "t"}) as socket:
            first = hub.send("t", "first")
            assert streams[0].take(1) == ["first"]
            assert messages(socket)[0]["data"] == "first"
            failures.append(MemoryError())
            hub.send("t", "not sent")
            for stream in streams:
                assert stream.ended()
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=TIMEOUT)
        assert resumed(hub, first) == ["not sent"]
        hub.send("t", "later")
        assert hub.subscribe({"match": "t", "last_event_id": first}).take(2) == ["not sent", "later"]


def resumed(hub: RunningHub, cursor: str) -> list[str]:
    """What a client gets that comes back."""
    stream = hub.subscribe({"match": "t", "last_event_id": cursor})
    assert stream.reply.headers["mercure-last-event-id"] == cursor
    return stream.take(1)


@pytest.mark.sqlite("changes its file")
def test_updates_of_another_process_that_were_discarded_before_they_were_sent_end_all_streams(
    folder: Path,
) -> None:
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({"match": "t"})
        first = hub.send("t", "first")
        assert stream.take(1) == ["first"]
        with beside(folder / "hub.db") as database:  # nine updates, of which eight are gone already
            database.executescript(
                f"""
                BEGIN IMMEDIATE;
                UPDATE mercure_position SET last_sequence = last_sequence + 9;
                INSERT INTO mercure_update (sequence, id, topics, data, private, published_at)
                    SELECT last_sequence, 'ninth', '["t"]', CAST('ninth' AS BLOB), 0, 0 FROM mercure_position;
                DELETE FROM mercure_update WHERE id = '{first}';
                COMMIT;
                """
            )
        assert stream.ended()
        again = hub.subscribe({"match": "*", "last_event_id": first})
        assert again.reply.headers["mercure-last-event-id"] == "earliest"
        assert again.take(1) == ["ninth"]


@pytest.mark.sqlite("changes its file")
def test_a_history_that_lost_its_newest_updates_ends_all_streams_once(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({"match": "t"})
        first = hub.send("t", "first")
        hub.send("t", "lost")
        assert stream.take(2) == ["first", "lost"]
        with beside(folder / "hub.db") as database:
            database.executescript(
                """
                BEGIN IMMEDIATE;
                UPDATE mercure_position SET last_sequence = last_sequence - 1;
                DELETE FROM mercure_update WHERE sequence > (SELECT last_sequence FROM mercure_position);
                DELETE FROM mercure_topic WHERE sequence > (SELECT last_sequence FROM mercure_position);
                COMMIT;
                """
            )
        with broken(folder / "hub.db"):  # after a failure the hub looks for that
            assert hub.publish({"topic": "t"}).status == 503
        assert stream.ended()
        again = hub.subscribe({"match": "t", "last_event_id": first})
        hub.send("t", "new")
        hub.send("t", "newer")
        assert again.take(2) == ["new", "newer"]
