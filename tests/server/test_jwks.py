"""When keys are fetched: a clock that the test moves, and an issuer that it controls."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from mercure_hub.protocol.tokens.issuer import Issuer, RemoteKeys
from mercure_hub.protocol.tokens.keys import ASYMMETRIC
from mercure_hub.server.jwks import Fetched, FetchError, KeySource, KeySources, KeyTimes
from tests.hub.key_server import jwk, key_set, new_key

DAY = 86400.0
REMOTE = RemoteKeys("https://login.example.com/keys?token=hunter2", ASYMMETRIC)
ISSUER = Issuer("https://login.example.com", (), (), REMOTE)
OLD, NEW = jwk(new_key().public_key(), "old"), jwk(new_key().public_key(), "new")


class World:
    """A source with a clock and an issuer: ``answer`` is the set, the bytes, or the error of a fetch."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: Any = [OLD]
        self.lifetime = 1000.0
        self.fetches = 0
        self.trusted: list[list[str | None]] = []
        self.gate = Event()
        self.gate.set()
        self.source = KeySource(
            ISSUER, REMOTE, self.fetch, self.trust, lambda: self.now, times=KeyTimes(patience=0.1)
        )

    def fetch(self, remote: RemoteKeys) -> Fetched:
        assert remote is REMOTE
        self.fetches += 1
        self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        body = self.answer if isinstance(self.answer, bytes) else key_set(*self.answer)
        return Fetched(body, self.lifetime)

    def trust(self, issuer: Issuer) -> None:
        assert issuer.publish == issuer.subscribe
        self.trusted.append([key.kid for key in issuer.publish])

    def tick(self, at: float | None = None) -> int:
        """Move the clock, tick, and say how many fetches there have been."""
        if at is not None:
            self.now = at
        self.source.tick()
        gevent.sleep(0)
        return self.fetches


@pytest.fixture
def world() -> Iterator[World]:
    logging.getLogger("mercure_hub").propagate = True
    subject = World()
    yield subject
    subject.source.close()


def test_keys_are_fetched_at_the_start(world: World) -> None:
    assert world.tick() == 1
    assert world.trusted == [["old"]]
    assert world.tick() == 1


def test_keys_are_renewed_before_they_expire(world: World) -> None:
    assert world.tick(1000) == 1
    assert world.tick(1799) == 1
    world.answer = [OLD, NEW]
    assert world.tick(1800) == 2
    assert world.trusted == [["old"], ["old", "new"]]
    world.answer = [NEW]
    assert world.tick(2600) == 3
    assert world.trusted[-1] == ["new"]


def test_unchanged_keys_are_not_announced(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mercure_hub.keys"):
        for number in range(5):
            assert world.tick(1000 + 800 * number) == number + 1
    assert world.trusted == [["old"]]
    assert len(caplog.records) == 1


def test_fetching_is_retried_while_an_issuer_is_down(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.tick(1000)
    world.answer = FetchError("Connection refused")
    attempts = []
    with caplog.at_level(logging.INFO, "mercure_hub.keys"):
        for second in range(1800, 3600):
            before = world.fetches
            if world.tick(second) > before:
                attempts.append(second - 1800)
    assert attempts == [0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510]
    assert world.trusted == [["old"]]
    assert "Connection refused; the ones from before go on, next attempt in 10 s" in caplog.text
    world.answer = [NEW]
    world.tick(3610)
    assert world.trusted[-1] == ["new"]
    world.answer = FetchError("down again")
    before = world.tick(4410)
    assert world.tick(4420) == before + 1  # the pauses begin anew


def test_stale_keys_go_on_for_a_day(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.tick(1000)
    world.answer = FetchError("down")
    for second in range(1800, int(2000 + DAY), 100):
        world.tick(second)
    assert world.trusted == [["old"]]
    with caplog.at_level(logging.ERROR, "mercure_hub.keys"):
        world.tick(2000 + DAY)
    assert world.trusted == [["old"], []]
    assert "could not be renewed for too long" in caplog.text
    world.tick(2400 + DAY)
    assert world.trusted == [["old"], []]
    world.answer = [OLD]
    world.tick(3000 + DAY)
    assert world.trusted[-1] == ["old"]


def test_after_a_reload_the_keys_go_on_while_the_issuer_is_down(world: World) -> None:
    world.tick(1000)
    world.source.close()
    world.answer = FetchError("Connection refused")
    before = world.source
    world.source = KeySource(ISSUER, REMOTE, world.fetch, world.trust, lambda: world.now, times=KeyTimes())
    world.source.adopt(before)
    assert world.trusted == [["old"], ["old"]]
    assert world.tick() == 2  # it is asked at once
    assert world.trusted[-1] == ["old"]
    world.tick(1000 + 1000 + DAY - 1)
    assert world.trusted[-1] == ["old"]
    world.tick(1000 + 1000 + DAY)  # as if there had been no reload
    assert world.trusted[-1] == []


def test_after_a_reload_with_another_url_the_keys_of_the_old_one_are_gone(world: World) -> None:
    world.tick()
    other = RemoteKeys("https://other.example.com/keys", ASYMMETRIC)
    source = KeySource(ISSUER, other, world.fetch, world.trust, lambda: world.now, times=KeyTimes())
    source.adopt(world.source)
    assert world.trusted == [["old"]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (FetchError("no route"), "no route"), (b"<html>hunter2", "this is not JSON"),
        (b"{}", "not a JWK set"),
        (ValueError("hunter2"), "a defect of the hub"),
    ],
)  # fmt: skip
def test_a_useless_answer_is_logged_and_retried(
    world: World, caplog: pytest.LogCaptureFixture, answer: Any, said: str
) -> None:
    world.answer = answer
    with caplog.at_level(logging.INFO, "mercure_hub.keys"):
        assert world.tick(1000) == 1
        assert world.tick(1010) == 2
    assert world.trusted == []
    messages = "\n".join(record.getMessage() for record in caplog.records)
    assert said in messages
    assert "what they sign is refused" in messages
    assert "'https://login.example.com' at https://login.example.com/keys " in messages
    assert "hunter2" not in messages
    world.answer = [NEW]
    world.tick(2000)
    assert world.trusted == [["new"]]


def test_an_issuer_may_withdraw_its_keys(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.tick(1000)
    world.answer = []
    with caplog.at_level(logging.INFO, "mercure_hub.keys"):
        world.tick(1800)
    assert world.trusted == [["old"], []]
    assert "none of them can be used" in caplog.text


def test_keys_that_are_refused_are_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    private = jwk(new_key(), "leaked\nline")
    world.answer = [private, OLD, {"kty": "oct", "k": "AA"}]
    with caplog.at_level(logging.WARNING, "mercure_hub.keys"):
        world.tick()
    assert world.trusted == [["old"]]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "keys[0] (kid 'leaked\\nline')" in caplog.text
    assert private["d"] not in caplog.text


class TestUnknownKey:
    def test_many_tokens_with_an_unknown_key_cause_one_fetch(self, world: World) -> None:
        world.tick(1000)
        world.answer = [OLD, NEW]
        world.gate.clear()
        waiting = [gevent.spawn(world.source.renew) for _ in range(50)]
        gevent.sleep(0)
        gevent.sleep(0)
        assert world.fetches == 2
        world.gate.set()
        gevent.joinall(waiting)
        assert [greenlet.value for greenlet in waiting] == [True] * 50
        assert world.fetches == 2
        assert world.trusted[-1] == ["old", "new"]

    def test_an_unknown_key_causes_the_first_fetch(self, world: World) -> None:
        assert world.source.renew()
        assert world.trusted == [["old"]]
        assert world.tick() == 1

    def test_tokens_with_junk_keys_cause_few_fetches(self, world: World) -> None:
        world.tick(1000)
        changed = 0
        for step in range(10_000):  # ten seconds of a thousand tokens each, ten minutes long
            world.now = 1000 + step * 0.06
            changed += world.source.renew()
        assert changed == 0
        assert world.fetches == 1 + 20
        assert world.trusted == [["old"]]

    def test_junk_causes_few_fetches_while_the_issuer_is_down(self, world: World) -> None:
        world.answer = FetchError("down")
        for second in range(600):
            world.tick(1000 + second)
            assert not world.source.renew()
        assert world.fetches <= 10 + 20

    def test_a_token_waits_for_a_fetch_only_for_a_while(self, world: World) -> None:
        world.gate.clear()
        world.tick()
        assert not world.source.renew()
        assert world.fetches == 1
        world.gate.set()
        assert world.source.renew()  # what is under way is for everybody

    def test_no_key_is_fetched_after_the_source_is_closed(self, world: World) -> None:
        world.gate.clear()
        world.tick()
        waiting = gevent.spawn(world.source.renew)
        gevent.sleep(0)
        world.source.close()
        gevent.sleep(0)
        assert waiting.value is False
        assert not world.source.renew()
        assert world.tick(10**9) == 1


def test_key_sets_of_all_issuers_are_fetched() -> None:
    asked: list[str] = []
    trusted: list[str] = []

    def fetch(remote: RemoteKeys) -> Fetched:
        asked.append(remote.url)
        return Fetched(key_set(NEW), 600)

    def issuer(name: str, *, remote: bool = True) -> Issuer:
        return Issuer(name, (), (), RemoteKeys(f"https://{name}/", ASYMMETRIC) if remote else None)

    issuers = [issuer("a"), issuer("b", remote=False), issuer("c")]
    subject = KeySources(issuers, fetch, lambda changed: trusted.append(changed.identifier), lambda: 0.0)
    subject.start()
    gevent.sleep(0.01)
    assert asked == ["https://a/", "https://c/"]
    assert trusted == ["a", "c"]
    assert not subject.renew("b")
    assert not subject.renew("unknown")
    assert not subject.renew("a")
    assert asked[2:] == ["https://a/"]
    subject.close()
    assert not subject.renew("c")


def test_after_a_reload_key_sets_are_fetched_in_the_new_way() -> None:
    """A new fetcher reads the certificates that the system trusts now."""
    asked: list[str] = []

    def fetch(remote: RemoteKeys) -> Fetched:
        asked.append("before")
        return Fetched(key_set(NEW), 600)

    def fetch_anew(remote: RemoteKeys) -> Fetched:
        asked.append("after")
        return Fetched(key_set(NEW), 600)

    issuers = [Issuer("a", (), (), RemoteKeys("https://a/", ASYMMETRIC))]
    subject = KeySources(issuers, fetch, lambda _: None, lambda: 0.0)
    subject.start()
    gevent.sleep(0.01)
    subject.close()
    subject.replace(issuers, fetch_anew)
    gevent.sleep(0.01)
    subject.close()
    assert asked == ["before", "after"]


def test_nothing_runs_without_key_sets() -> None:
    def fetch(remote: RemoteKeys) -> Fetched:
        raise AssertionError

    subject = KeySources([Issuer("a", (), ())], fetch, lambda _: None, lambda: 0.0)
    subject.start()
    assert subject._greenlet is None
    subject.close()
