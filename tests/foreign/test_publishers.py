"""Each publisher publishes, and the cookie of Symfony's library opens a private stream."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.foreign.kinds import CURL, MERCURE_PUBLISHER, SYMFONY, Kind
from tests.foreign.processes import run
from tests.hub.running import SECRET, RunningHub

pytestmark = pytest.mark.foreign

DATA = "première\n\n  zweite Zeile & mehr = {}"


def _token(hub: RunningHub, signed: str) -> dict[str, str]:
    """What a publisher gets: a token of a generation, or the secret to sign one itself."""
    if signed == "1.0":
        return {"TOKEN": hub.token()}
    return {"TOKEN": hub.old_token(publish=["*"])} if signed == "0.x" else {"SECRET": SECRET}


def _skip_without(kind: Kind) -> None:
    if kind.missing:
        pytest.skip(f"{kind.name}: {kind.missing}")


@pytest.mark.parametrize(
    ("kind", "signed"),
    [
        pytest.param(kind, signed, id=f"{kind.name}, {signed}")
        for kind, ways in (
            (CURL, ("1.0", "0.x")),
            (MERCURE_PUBLISHER, ("its own token",)),
            *((one, ("1.0", "0.x", "its own token")) for one in SYMFONY),
        )
        for signed in ways
    ],
)
def test_publishes_public_and_private_updates(
    kind: Kind, signed: str, scripts: Path, hub: RunningHub
) -> None:
    _skip_without(kind)
    topics = [f"books/{uuid.uuid4()}", f"https://example.com/books/{uuid.uuid4()}"]
    anybody = hub.subscribe({"match": topics[1]})
    somebody = hub.subscribe({"match": topics[0]}, hub.token(subscribe=topics[:1]))
    given = _token(hub, signed)
    public = run(kind, scripts, [*_publish(kind), hub.url, DATA, *topics], **given)["id"]
    private = run(kind, scripts, [*_publish(kind), hub.url, "secret", *topics], PRIVATE="1", **given)["id"]
    last = hub.send(topics[1], "the last one")
    received = [somebody.next(), somebody.next()]
    assert [(event.id, event.data) for event in received] == [(public, DATA), (private, "secret")]
    received = [anybody.next(), anybody.next()]
    assert [(event.id, event.data) for event in received] == [(public, DATA), (last, "the last one")]


def _publish(kind: Kind) -> list[str]:
    return ["publish"] if kind in SYMFONY else []


@pytest.mark.parametrize("kind", SYMFONY, ids=lambda kind: kind.name)
def test_the_cookie_of_symfony_opens_a_private_stream(kind: Kind, scripts: Path, hub: RunningHub) -> None:
    _skip_without(kind)
    mine, other = f"books/{uuid.uuid4()}", f"books/{uuid.uuid4()}"
    cookie = run(kind, scripts, ["cookie", hub.url, mine], SECRET=SECRET)
    assert cookie["path"] == "/.well-known/mercure"
    stream = hub.subscribe([("topic", mine), ("topic", other)], Cookie=f"{cookie['name']}={cookie['value']}")
    hub.send(other, "for others", private="on")
    hub.send(mine, "for me", private="on")
    assert stream.next().data == "for me"
