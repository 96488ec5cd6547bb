"""Several issuers over HTTP, and key sets that change, come late, or do not come at all."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from mercure_hub.server import jwks
from mercure_hub.server.assembly import Limits
from mercure_hub.server.jwks import KeyTimes
from tests.hub.key_server import KeyServer, jwk, key_server, new_key
from tests.hub.running import HUB_PATH, RunningHub, read_reply, running_hub

pytestmark = pytest.mark.minutes

LOGIN = "https://login.example.com/"
PUBLIC_URL = "https://hub.example.com/.well-known/mercure"
METADATA = "/.well-known/oauth-protected-resource/.well-known/mercure"
OLD, NEW, FOREIGN = new_key(), new_key(), new_key()


def signed(hub: RunningHub, key: Any, kid: str | None = None, *, iss: str = LOGIN, **claims: Any) -> str:
    """A token of an issuer."""
    content = jwt.decode(hub.token(iss=iss, **claims), options={"verify_signature": False})
    headers = {"typ": "at+jwt"} | ({} if kid is None else {"kid": kid})
    return jwt.encode(content, key, "EdDSA", headers=headers)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    logging.getLogger("mercure_hub").propagate = True
    with key_server(jwk(OLD.public_key(), "old")) as running:
        yield running


def toml(folder: Path, server: KeyServer, more: str = "") -> str:
    """A file with an issuer that has its keys at the server."""
    path = folder / "hub.toml"
    path.write_text(
        f'public_url = "{PUBLIC_URL}"\n[[issuer]]\nidentifier = "{LOGIN}"\njwks_uri = "{server.url}"\n'
        f"allow_private = true\nauthorization_server = true\n{more}"
    )
    return str(path)


def status(hub: RunningHub, token: str) -> int:
    return hub.publish({"topic": "a"}, token).status


def test_each_of_two_issuers_has_its_keys(folder: Path, server: KeyServer) -> None:
    with running_hub(folder, config=toml(folder, server)) as hub:
        stream = hub.subscribe({"match": "a"}, signed(hub, OLD, "old"))
        assert status(hub, signed(hub, OLD, "old")) == 200
        assert status(hub, signed(hub, OLD)) == 200
        assert hub.publish({"topic": "a", "data": "x"}).status == 200  # with the secret of the first issuer
        assert stream.take(3) == ["", "", "x"]
        for wrong in (
            signed(hub, OLD, "old", iss="urn:flask-mercure"),
            signed(hub, OLD, "old", iss="https://login.example.com"),
            signed(hub, FOREIGN, "old"),
            signed(hub, FOREIGN),
            hub.token(iss=LOGIN),
        ):
            assert status(hub, wrong) == 401
        assert len(server.requests) <= 2
        assert hub.get(path=METADATA).json()["authorization_servers"] == [LOGIN]


def test_the_metadata_names_authorization_servers(hub: RunningHub) -> None:
    document = hub.get(path=METADATA).json()
    assert document["mercure_matcher_types_supported"] == ["exact", "urlpattern"]
    assert "authorization_servers" not in document


def test_one_issuer_by_variables(folder: Path, server: KeyServer) -> None:
    with running_hub(
        folder,
        publisher_jwt_key="",
        jwks_uri=server.url,
        public_url=PUBLIC_URL,
        jwks_allow_private=1,
        issuer=LOGIN,
        authorization_server=1,
    ) as hub:
        assert status(hub, signed(hub, OLD, "old")) == 200
        assert status(hub, hub.token(iss=LOGIN)) == 401
        assert hub.get(path=METADATA).json()["authorization_servers"] == [LOGIN]


def test_a_set_in_a_file(folder: Path) -> None:
    (folder / "keys.json").write_text(json.dumps({"keys": [jwk(OLD, "old")]}))
    with running_hub(folder, publisher_jwt_key="", jwks_file=folder / "keys.json", issuer=LOGIN) as hub:
        assert status(hub, signed(hub, OLD, "old")) == 200
        assert status(hub, signed(hub, OLD, "new")) == 401


def test_keys_of_an_issuer_have_roles(folder: Path, server: KeyServer) -> None:
    with running_hub(folder, config=toml(folder, server, 'roles = ["subscribe"]')) as hub:
        token = signed(hub, OLD, "old")
        hub.subscribe({"match": "a"}, token)
        assert status(hub, token) == 401


def test_rotated_keys_of_an_issuer_are_fetched(
    folder: Path, server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "mercure_hub"),
        running_hub(folder, config=toml(folder, server)) as hub,
    ):
        before = signed(hub, OLD, "old")
        assert status(hub, before) == 200
        server.serve(jwk(NEW.public_key(), "new"))
        assert status(hub, before) == 200  # known still, and remembered
        assert status(hub, signed(hub, NEW, "new")) == 200
        assert len(server.requests) == 2
        assert status(hub, before) == 401  # the key that signed it is gone
        assert len(server.requests) == 2
    assert "kid is 'old'; the publisher keys of 'https://login.example.com/' are ['new']" in caplog.text
    assert "hunter2" not in caplog.text
    for token in (before, before.split(".")[2]):
        assert token not in caplog.text


def test_junk_causes_one_fetch(folder: Path, server: KeyServer) -> None:
    with running_hub(folder, config=toml(folder, server)) as hub:
        assert status(hub, signed(hub, OLD, "old")) == 200
        for number in range(100):
            assert status(hub, signed(hub, FOREIGN, f"junk {number}")) == 401
            assert hub.get({"match": "a"}, signed(hub, FOREIGN)).status == 401
        assert len(server.requests) == 2
        assert status(hub, signed(hub, OLD, "old")) == 200


def test_a_hub_starts_without_its_keys(
    folder: Path, server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(keys=KeyTimes(tick=0.02, first_retry=0.05))
    server.status = 503
    with (
        caplog.at_level(logging.INFO, "mercure_hub"),
        running_hub(folder, limits=limits, config=toml(folder, server)) as hub,
    ):
        assert hub.publish({"topic": "a"}).status == 200
        token = signed(hub, OLD, "old")
        assert status(hub, token) == 401
        server.status = 200
        while status(hub, token) != 200:
            pass
    assert "cannot be fetched: the answer has the status 503; what they sign is refused" in caplog.text
    assert "are not fetched yet" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_server_that_hangs_holds_nobody_up(folder: Path, server: KeyServer) -> None:
    server.answer = server.hang
    with running_hub(folder, config=toml(folder, server), anonymous=1) as hub:
        assert server.arrived.wait(10)
        stream = hub.subscribe({"match": "a"})
        answers: list[int] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(status(hub, signed(hub, OLD, "old"))))
            for _ in range(5)
        ]
        for thread in waiting:
            thread.start()
        for number in range(20):
            assert hub.publish({"topic": "a", "data": str(number)}).status == 200
            assert hub.get(path="/healthz").status == 200
        assert stream.take(20) == [str(number) for number in range(20)]
        assert answers == []
        server.released.set()
        for thread in waiting:
            thread.join(10)
        assert answers == [200] * 5
        assert len(server.requests) == 1


def test_a_token_does_not_wait_for_its_key_forever(folder: Path, server: KeyServer) -> None:
    server.answer = server.hang
    limits = Limits(keys=KeyTimes(patience=0.1))
    with running_hub(folder, limits=limits, config=toml(folder, server)) as hub:
        assert status(hub, signed(hub, OLD, "old")) == 401
        assert len(server.requests) == 1


def test_a_hub_that_waits_for_keys_can_stop(folder: Path, server: KeyServer) -> None:
    server.answer = server.hang
    with running_hub(folder, config=toml(folder, server)) as hub:
        request = (
            f"POST {HUB_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nContent-Length: 7\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Authorization: Bearer {signed(hub, OLD, 'old')}\r\n\r\ntopic=a"
        )
        waiting = hub.connect()
        waiting.sendall(request.encode())
        assert server.arrived.wait(10)
        assert hub.get(path="/healthz").status == 200
    with waiting:
        assert read_reply(waiting)[2].status == 401


def test_private_addresses_need_permission(
    folder: Path, server: KeyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_resolve", lambda *_: [(socket.AF_INET, ("127.0.0.1", server.port))])
    path = folder / "hub.toml"
    path.write_text(f'[[issuer]]\nidentifier = "{LOGIN}"\njwks_uri = "https://keys.example:{server.port}/"\n')
    with (
        caplog.at_level(logging.INFO, "mercure_hub"),
        running_hub(folder, config=path, public_url=PUBLIC_URL) as hub,
    ):
        assert status(hub, signed(hub, OLD, "old")) == 401
    assert server.requests == []
    assert "cannot be fetched: its host has only private addresses" in caplog.text
