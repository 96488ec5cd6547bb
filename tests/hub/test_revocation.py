"""Access that is ended at once: streams, WebSockets, replays and new requests, in all processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gevent
import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from mercure_hub.broker.broker import Broker
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.revocation import MAX_REVOCATIONS, Revocation, digest_of
from mercure_hub.protocol.websocket import REVOKED
from tests.engines import EngineServer
from tests.http2.client import Connection
from tests.hub.running import HUB_PATH, SECRET, Form, Reply, RunningHub, Stream, running_hub
from tests.hub.test_issuers import FOREIGN, LOGIN, PUBLIC_URL, signed
from tests.hub.test_process import process
from tests.hub.test_replay_slowly import fill, subscribe
from tests.hub.websocket import client
from tests.server.test_feeder import fed, feeder_of
from tests.server.test_workers import ENOUGH, workers
from tests.storage.log import until

pytestmark = pytest.mark.minutes

PATH = f"{HUB_PATH}/revocations"
METADATA = "/.well-known/oauth-protected-resource/.well-known/mercure"
RIGHT = {"type": "urn:flask-mercure:revocation", "actions": ["revoke"]}
PROMPT = 1.0  # seconds: what is promised
BUSY = 8.0  # seconds more, on a busy machine


def revoker(hub: RunningHub, **claims: Any) -> str:
    """A token that allows nothing else."""
    return hub.token(authorization_details=[RIGHT], **claims)


def revoke(hub: RunningHub, fields: Form, token: str | None = "", **headers: str) -> Reply:
    given = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    if token is not None:
        given["Authorization"] = f"Bearer {token or revoker(hub)}"
    return hub.request("POST", PATH, given, urlencode(fields, doseq=True).encode())


def revoked(hub: RunningHub, **fields: object) -> None:
    reply = revoke(hub, fields)
    assert (reply.status, reply.body) == (204, b""), reply.text


def of(hub: RunningHub, user: str, **claims: Any) -> str:
    """A token of a user, issued a moment ago."""
    return hub.token(**{"sub": user, "iat": time.time() - 1, **claims})


def status(hub: RunningHub, token: str) -> int:
    """Of a subscription whose head is asked for."""
    return hub.request("HEAD", f"{HUB_PATH}?match=t", {"Authorization": f"Bearer {token}"}).status


def problem(hub: RunningHub, token: str) -> str:
    reply = hub.get({"match": "t"}, token)
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]
    return str(reply.json()["type"])


def all_end(streams: Sequence[Stream]) -> float:
    """Wait for the end of streams.

    :returns: seconds until the last one.
    """
    began = time.monotonic()
    for stream in streams:
        assert stream.ended()
    return time.monotonic() - began


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """Tests that share it use users of their own."""
    logging.getLogger("mercure_hub").propagate = True
    with running_hub(tmp_path_factory.mktemp("hub"), revocations=1, anonymous=1, subscriptions=1) as hub:
        yield hub


def test_the_streams_of_a_user_end_and_those_of_others_go_on(site: RunningHub) -> None:
    token = of(site, "ann")
    ann = [site.subscribe({"match": "t"}, token) for _ in range(3)]
    others = [site.subscribe({"match": "t"}, of(site, "bob")), site.subscribe({"match": "t"})]
    revoked(site, sub="ann")
    assert all_end(ann) < PROMPT + BUSY
    site.send("t", "still here")
    for stream in others:
        assert stream.take(1) == ["still here"]
    assert problem(site, token) == "urn:flask-mercure:problem:token-revoked"
    assert site.publish({"topic": "t"}, token).status == 401
    assert site.get(path=f"{HUB_PATH}/subscriptions", token=token).status == 401


def test_a_login_in_the_same_second_works(site: RunningHub) -> None:
    before = of(site, "eve")
    revoked(site, sub="eve")
    after = of(site, "eve", iat=time.time())
    old = jwt.encode({"mercure": {"subscribe": ["*"]}, "sub": "eve", "iat": time.time()}, SECRET)
    assert [status(site, token) for token in (before, after, old)] == [401, 200, 200]


def test_the_clock_of_the_application_counts_if_it_says_when(site: RunningHub) -> None:
    """Here it is two minutes behind."""
    now = time.time() - 120
    before, after = of(site, "slow", iat=now - 1), of(site, "slow", iat=now + 1)
    revoked(site, sub="slow", before=now)
    assert [status(site, token) for token in (before, after)] == [401, 200]


@pytest.mark.parametrize("ahead", [86_400 * 2, 10**12, 1e300])
def test_a_token_from_the_far_future_counts_as_old(site: RunningHub, ahead: float) -> None:
    """Some libraries write milliseconds into iat: no revocation would ever be after that."""
    user = f"future {ahead}"
    token = of(site, user, iat=time.time() + ahead)
    stream = site.subscribe({"match": "t"}, token)
    revoked(site, sub=user)
    assert stream.ended()
    assert status(site, token) == 401


@pytest.mark.parametrize("claim", ["sub", "sid", "jti"])
def test_a_number_names_a_token_as_its_digits_do(site: RunningHub, claim: str) -> None:
    """Not every library insists on text in these claims."""
    token = of(site, "number", **{claim: 7101})
    other = of(site, "number", **{claim: True})
    stream = site.subscribe({"match": "t"}, token)
    revoked(site, **{claim: 7101})
    assert stream.ended()
    assert [status(site, one) for one in (token, other)] == [401, 200]


def test_a_session_ends_without_the_other_ones_of_the_user(site: RunningHub) -> None:
    phone, desktop = of(site, "sue", sid="phone"), of(site, "sue", sid="desktop")
    streams = [site.subscribe({"match": "t"}, token) for token in (phone, desktop)]
    revoked(site, sid="phone")
    assert streams[0].ended()
    assert status(site, of(site, "sue", sid="phone", iat=time.time() + 5)) == 401
    site.send("t", "desktop")
    assert streams[1].take(1) == ["desktop"]


def test_a_token_is_revoked_by_its_jti(site: RunningHub) -> None:
    """Also one of 0.x, which may have neither a user nor an end."""
    one = jwt.encode({"mercure": {"subscribe": ["*"]}, "jti": "one"}, SECRET)
    other = jwt.encode({"mercure": {"subscribe": ["*"]}, "jti": "other"}, SECRET)
    stream = site.subscribe({"topic": "t"}, one)
    revoked(site, jti="one")
    assert stream.ended()
    assert [status(site, token) for token in (one, other)] == [401, 200]


def test_a_topic_of_a_user_ends_with_the_tokens_that_grant_it(site: RunningHub) -> None:
    room, news = (
        of(site, "joe", publish=(), subscribe=["rooms/1"]),
        of(site, "joe", publish=(), subscribe=["news"]),
    )
    streams = [site.subscribe({"match": "t"}, token) for token in (room, news)]
    revoked(site, sub="joe", topic="rooms/1")
    assert streams[0].ended()
    assert [status(site, token) for token in (room, news)] == [401, 200]


def test_a_websocket_is_told_why(site: RunningHub) -> None:
    token = of(site, "web")
    with client(site, {"match": "t"}, token) as connection:
        revoked(site, sub="web")
        with pytest.raises(ConnectionClosed):
            connection.recv(PROMPT + BUSY)
        assert (connection.close_code, connection.close_reason) == (REVOKED, "its token was revoked")


def test_a_stream_of_http2_ends_and_the_connection_goes_on(site: RunningHub) -> None:
    token = of(site, "two")
    with Connection.to(site) as connection:
        ends, stays = connection.subscribe({"match": "t"}, token), connection.subscribe({"match": "t"})
        revoked(site, sub="two")
        with pytest.raises(EOFError):
            ends.next()
        site.send("t", "still here")
        assert stays.next().data == "still here"
        fields = [("authorization", f"Bearer {token}")]
        again = connection.answer(connection.request("GET", f"{HUB_PATH}?match=t", fields))
        assert again.status == 401


def test_a_replay_that_waits_for_its_client_ends(folder: Path) -> None:
    with running_hub(folder, revocations=1, dispatch_timeout=0) as hub:
        fill(hub)
        stream = subscribe(hub, Authorization=f"Bearer {of(hub, 'ann')}")
        revoked(hub, sub="ann")
        assert all_end([stream]) < PROMPT + BUSY


def test_a_request_that_was_authorised_just_before_ends_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revocation comes between the last look at the token and the subscriber."""
    name = digest_of("sub", "urn:flask-mercure", "ann")
    enter = Broker.enter

    def late(self: Broker, subscriber: Subscriber) -> None:
        assert self.revocations is not None
        self.revocations._list.add([Revocation(name, "", 2.0**40, 2.0**40)])
        enter(self, subscriber)

    with running_hub(folder, revocations=1) as hub:
        monkeypatch.setattr(Broker, "enter", late)
        stream = hub.subscribe({"match": "t"}, of(hub, "ann"))
        assert stream.ended()
        monkeypatch.undo()
        assert status(hub, of(hub, "ann")) == 401


def test_a_token_that_waited_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revocation comes while the position is looked up."""
    locate = Broker.locate
    waits, goes_on = threading.Event(), threading.Event()

    def slow(self: Broker, *arguments: Any, **more: Any) -> Any:
        waits.set()
        while not goes_on.is_set():
            gevent.sleep(0.01)
        return locate(self, *arguments, **more)

    replies: list[int] = []
    with running_hub(folder, revocations=1) as hub:
        monkeypatch.setattr(Broker, "locate", slow)
        asking = threading.Thread(target=lambda: replies.append(status(hub, of(hub, "ann"))))
        asking.start()
        assert waits.wait(BUSY)
        revoked(hub, sub="ann")
        goes_on.set()
        asking.join()
        assert replies == [401]


@pytest.mark.every_engine
def test_it_reaches_all_workers_within_a_second(folder: Path) -> None:
    with workers(folder, MERCURE_REVOCATIONS="1") as hub:
        token = of(hub, "ann")
        streams = [hub.subscribe({"match": "t"}, token) for _ in range(ENOUGH)]
        stays = [hub.subscribe({"match": "t"}, of(hub, "bob")) for _ in range(ENOUGH)]
        revoked(hub, sub="ann")
        assert all_end(streams) < PROMPT + BUSY
        until(lambda: all(status(hub, token) == 401 for _ in range(ENOUGH)))
        hub.send("t", "still here")
        for stream in stays:
            assert stream.take(1) == ["still here"]


@pytest.mark.every_engine
def test_it_outlives_the_hub(folder: Path) -> None:
    with process(folder, MERCURE_REVOCATIONS="1") as (child, hub):
        token = of(hub, "ann", aud=[PUBLIC_URL, hub.url])
        revoked(hub, sub="ann")
        child.kill()
        child.wait(BUSY)
    with process(folder, MERCURE_REVOCATIONS="1", MERCURE_PUBLIC_URL=PUBLIC_URL) as (_, hub):
        assert status(hub, token) == 401
        fresh = of(hub, "ann", aud=PUBLIC_URL, iat=time.time())
        assert status(hub, fresh) == 200


@pytest.mark.parametrize("engine", ["postgresql", "valkey"])
def test_it_reaches_other_machines(request: pytest.FixtureRequest, folder: Path, engine: str) -> None:
    server: EngineServer = request.getfixturevalue(f"{engine}_engine")
    url = server.url()
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(running_hub(folder, transport_url=url, public_url=PUBLIC_URL, revocations=1))
            for _ in range(2)
        )
        token = of(one, "ann")
        stream = other.subscribe({"match": "t"}, token)
        revoked(one, sub="ann")
        assert all_end([stream]) < PROMPT + BUSY
        until(lambda: status(other, token) == 401)


@pytest.mark.linux("a process has a name of its own in /proc")
@pytest.mark.parametrize("engine", ["postgresql", "valkey"])
def test_a_reader_that_stands_still_does_not_delay_it(
    request: pytest.FixtureRequest, folder: Path, engine: str
) -> None:
    server: EngineServer = request.getfixturevalue(f"{engine}_engine")
    with fed(server, folder, 2, MERCURE_REVOCATIONS="1") as hub:
        token = of(hub, "ann")
        streams = [hub.subscribe({"match": "t"}, token) for _ in range(ENOUGH)]
        feeder = feeder_of(hub)
        os.kill(feeder, signal.SIGSTOP)
        try:
            revoked(hub, sub="ann")
            assert all_end(streams) < PROMPT + BUSY
            until(lambda: all(status(hub, token) == 401 for _ in range(ENOUGH)))
        finally:
            os.kill(feeder, signal.SIGCONT)


def test_the_hub_tells_that_it_takes_them(site: RunningHub) -> None:
    document = site.get(path=METADATA).json()
    assert document["flask_mercure_revocations"] == {
        "endpoint": f"{site.url}/revocations",
        "lifetime": 2592000,
    }


def test_they_are_off_unless_switched_on(hub: RunningHub) -> None:
    assert revoke(hub, {"sub": "ann"}).status == 404
    assert "flask_mercure_revocations" not in hub.get(path=METADATA).json()


def test_who_may(site: RunningHub) -> None:
    """The right to publish everything, and topics of the hub's namespace, do not help."""
    token = of(site, "victim")
    reserved = [f"{site.url}/revocations", PATH, "*"]
    for given, expected in (
        (None, 401),
        (site.token(), 403),
        (site.token(publish=reserved, subscribe=reserved), 403),
        (site.old_token(publish=["*"], subscribe=["*"]), 403),
        (revoker(site, exp=time.time() - 1), 401),
        (revoker(site, iss="urn:other"), 401),
        ("no token", 400),
    ):
        reply = revoke(site, {"sub": "victim"}, given)
        assert reply.status == expected, reply.text
    assert "urn:flask-mercure:revocation" in revoke(site, {"sub": "victim"}, site.token()).json()["detail"]
    assert status(site, token) == 200
    assert revoke(site, {"sub": "victim"}, site.old_token(revoke=True)).status == 204
    assert status(site, token) == 401


def test_a_page_of_another_origin_cannot_revoke_with_a_cookie(site: RunningHub) -> None:
    cookie = f"__Secure-mercure_access_token={revoker(site)}"
    reply = revoke(site, {"sub": "cross"}, None, Cookie=cookie, Origin="https://evil.example")
    assert reply.status == 403
    assert status(site, of(site, "cross")) == 200


def test_an_issuer_revokes_its_own_tokens_only(folder: Path) -> None:
    key = FOREIGN.public_key().public_bytes_raw()
    (folder / "jwks.json").write_text(
        json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": _base64(key), "kid": "theirs"}]})
    )
    (folder / "hub.toml").write_text(
        f'public_url = "{PUBLIC_URL}"\n[[issuer]]\nidentifier = "{LOGIN}"\njwks_file = "{folder}/jwks.json"\n'
    )
    with running_hub(folder, config=str(folder / "hub.toml"), revocations=1) as hub:
        claims: dict[str, Any] = {"sub": "7", "iat": time.time() - 1, "jti": "one", "sid": "one"}
        ours, theirs = hub.token(**claims), signed(hub, FOREIGN, "theirs", **claims)
        assert [status(hub, one) for one in (ours, theirs)] == [200, 200]
        right = signed(hub, FOREIGN, "theirs", authorization_details=[RIGHT])
        assert revoke(hub, [("sub", "7"), ("jti", "one"), ("sid", "one")], right).status == 204
        assert [status(hub, one) for one in (ours, theirs)] == [200, 401]


def _base64(value: bytes) -> str:
    return jwt.utils.base64url_encode(value).decode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", 400),
        (b"sub=", 400),
        (b"user=ann", 400),
        (b"sub=ann&before=99999999999999", 400),
        (b"sub=ann&lifetime=1e400", 400),
        (b"sub=%ff", 400),
        (b"sub=ann&topic=%00", 400),
        (b"&".join(b"jti=%d" % number for number in range(101)), 413),
        (b"&".join(b"jti=%d" % number for number in range(5000)), 413),
        (b"sub=" + b"x" * 2_000_000, 413),
    ],
)
def test_bad_requests_are_refused(site: RunningHub, body: bytes, expected: int) -> None:
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": f"Bearer {revoker(site)}",
    }
    assert site.request("POST", PATH, headers, body).status == expected


def test_other_methods_and_media_are_refused(site: RunningHub) -> None:
    assert site.get(path=PATH, token=revoker(site)).status == 405
    assert site.request("OPTIONS", PATH).status == 204
    for path in (f"{PATH}x", f"{PATH}/", f"{PATH}/ann"):
        assert site.get(path=path, token=revoker(site)).status == 404
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {revoker(site)}"}
    assert site.request("POST", PATH, headers, b'{"sub": "ann"}').status == 415


def test_a_line_of_the_log_says_who_asked_for_what(
    site: RunningHub, caplog: pytest.LogCaptureFixture
) -> None:
    token = revoker(site, sub="the app")
    with caplog.at_level(logging.INFO, "mercure_hub.revocation"):
        revoke(site, {"sub": "ann\n2026 forged", "topic": "rooms/1"}, token)
    (line,) = [one.getMessage() for one in caplog.records if one.name == "mercure_hub.revocation"]
    assert "the app" in line
    assert "sub 'ann\\n2026 forged', topic 'rooms/1'" in line
    assert "\n" not in line
    assert not any(part in line for part in token.split("."))


def test_the_list_has_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mercure_hub.broker.broker.Revocations.__init__.__kwdefaults__", {"interval": 0.4, "limit": 50}
    )
    with running_hub(folder, revocations=1) as hub:
        for number in range(50):
            revoked(hub, jti=f"token {number}")
        reply = revoke(hub, {"jti": "one more"})
        assert (reply.status, reply.headers["retry-after"]) == (429, "3600")
        assert reply.json()["type"] == "urn:flask-mercure:problem:too-many-revocations"
        assert status(hub, of(hub, "ann", jti="token 7")) == 401
        assert status(hub, of(hub, "ann", jti="one more")) == 200
    assert MAX_REVOCATIONS == 100_000


def test_a_flood_delays_nobody_for_long(folder: Path) -> None:
    with running_hub(folder, revocations=1) as hub:
        stream = hub.subscribe({"match": "t"}, of(hub, "bob"))
        right = revoker(hub)
        slowest = 0.0
        for number in range(20):
            fields = [("jti", f"{number}/{one}") for one in range(100)]
            assert revoke(hub, fields, right).status == 204
            began = time.monotonic()
            hub.send("t", str(number))
            assert stream.take(1) == [str(number)]
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < BUSY
        assert status(hub, of(hub, "ann", jti="19/99")) == 401


def test_it_outlives_the_updates_that_retention_discards(folder: Path) -> None:
    settings: dict[str, Any] = {"revocations": 1, "history_size": 5, "public_url": PUBLIC_URL}
    with running_hub(folder, **settings) as hub:
        token = of(hub, "ann")
        first = hub.send("t", "first")
        revoked(hub, sub="ann")
        for number in range(1200):
            hub.send("t", str(number))
        stream = hub.subscribe({"match": "t", "last_event_id": first}, hub.token())
        assert stream.reply.headers["mercure-last-event-id"] != first
    with running_hub(folder, **settings) as hub:
        assert status(hub, token) == 401
