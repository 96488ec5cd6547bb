"""Each client receives, and loses nothing when the hub goes and comes back."""

from __future__ import annotations

import signal
import uuid
from pathlib import Path

import pytest

from tests.foreign.kinds import SUBSCRIBERS, Kind
from tests.foreign.processes import Received, client, hub_process, stand_in, wait
from tests.hub.running import RunningHub

pytestmark = pytest.mark.foreign

SOON = "200"  # milliseconds after which a client connects again


class Books:
    """Two topics of a test, and what is published on them.

    :param kind: who is to receive it.
    """

    def __init__(self, kind: Kind) -> None:
        number = uuid.uuid4()
        self.topics = (f"books/{number}", f"https://example.com/books/{number}")
        self._indentation = "" if kind.drops_indentation else "  "

    def publish(self, hub: RunningHub, number: int, **fields: str) -> Received:
        """Publish an update.

        :returns: it, as the client should tell it.
        """
        lines = "première\n\n{}zweite Zeile: " + str(number)
        event_id = hub.send(self.topics[number % 2], lines.format("  "), **fields)
        return event_id, lines.format(self._indentation)

    def token(self, hub: RunningHub) -> str:
        return hub.token(publish=(), subscribe=self.topics)


def _skip_without(kind: Kind) -> None:
    if kind.missing:
        pytest.skip(f"{kind.name}: {kind.missing}")


@pytest.mark.parametrize("kind", SUBSCRIBERS, ids=lambda kind: kind.name)
def test_receives_public_and_private_updates(kind: Kind, scripts: Path, hub: RunningHub) -> None:
    _skip_without(kind)
    books = Books(kind)
    with client(kind, scripts, hub, books.token(hub), *books.topics) as subscriber:
        subscriber.wait_until_connected(hub)
        public = books.publish(hub, 0)
        hub.send("books/other", "of another topic")
        private = books.publish(hub, 1, private="on")
        assert subscriber.wait_for(private) == [public, private]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("kind", SUBSCRIBERS, ids=lambda kind: kind.name)
def test_loses_nothing_when_the_hub_goes_and_comes_back(
    kind: Kind, number: signal.Signals, scripts: Path, tmp_path: Path
) -> None:
    """What is published meanwhile comes once and in order, and the client says where it was."""
    _skip_without(kind)
    books = Books(kind)
    with hub_process(tmp_path) as process:
        hub = process.start()
        with client(kind, scripts, hub, books.token(hub), *books.topics) as subscriber:
            subscriber.wait_until_connected(hub)
            before = [books.publish(hub, 0, retry=SOON), books.publish(hub, 1, private="on")]
            assert subscriber.wait_for(before[-1]) == before

            process.end(number)
            with stand_in(hub.port) as standing:
                elsewhere = process.start()
                meanwhile = [
                    books.publish(elsewhere, 2),
                    books.publish(elsewhere, 3, private="on"),
                    books.publish(elsewhere, 4),
                ]
                process.end()
                standing.refuse()
                wait(subscriber.story, lambda: bool(standing.attempts))

            hub = process.start(hub.port)
            subscriber.wait_until_connected(hub)
            after = books.publish(hub, 5)
            received = subscriber.wait_for(after)

    first = standing.attempts[0]
    assert received == [*before, *meanwhile, after]
    assert first.cursor == before[-1][0]
