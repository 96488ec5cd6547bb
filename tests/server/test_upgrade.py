"""What a running hub takes over without a restart, and a hub that takes over from another one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mercure_hub.config.settings import SettingError
from mercure_hub.server.lifecycle import tell_predecessor
from tests.hub.running import HUB_PATH, RunningHub
from tests.hub.test_metrics import free_port
from tests.hub.test_replay_slowly import subscribe as subscribe_and_wait
from tests.server.test_workers import ENOUGH, Workers, listens, many, until, workers

pytestmark = pytest.mark.minutes


def other_key(hub: RunningHub, secret: str) -> RunningHub:
    """The same hub for somebody with another secret."""
    return RunningHub(hub.port, secret=secret)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.every_engine
def test_keys_are_reloaded(folder: Path, count: int) -> None:
    key = folder / "key"
    key.write_text("the first secret, long enough for HS256", encoding="utf-8")
    with workers(folder, count, MERCURE_PUBLISHER_JWT_KEY=f"@{key}") as hub:
        first = other_key(hub, "the first secret, long enough for HS256")
        second = other_key(hub, "the second secret, long enough for HS256")
        streams = [first.subscribe({"match": "t"}, token) for token in (first.token(), None)]
        assert first.publish({"topic": "t", "data": "one"}).status == 200
        assert second.publish({"topic": "t"}).status == 401
        key.write_text(second.secret, encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "were reloaded", count)
        assert first.publish({"topic": "t"}).status == 401
        assert streams[0].ended()  # its key was taken away
        assert second.publish({"topic": "t", "data": "two"}).status == 200
        assert streams[1].take(2) == ["one", "two"]
        first.close()


def test_a_stream_that_still_reads_history_ends_too_when_its_key_is_taken_away(folder: Path) -> None:
    key = folder / "key"
    key.write_text("the first secret, long enough for HS256", encoding="utf-8")
    variables = {"MERCURE_MAX_REQUEST_BODY_SIZE": str(1 << 24), "MERCURE_DISPATCH_TIMEOUT": "0"}
    with workers(folder, 1, 0, MERCURE_PUBLISHER_JWT_KEY=f"@{key}", **variables) as hub:
        first = other_key(hub, "the first secret, long enough for HS256")
        token, data = first.token(), "x" * 20_000
        updates = json.dumps([{"topic": "t", "data": data}] * 600).encode()  # more than a page
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        assert hub.request("POST", HUB_PATH, headers, updates).status == 200
        stream = subscribe_and_wait(hub, Authorization=f"Bearer {token}")
        key.write_text("the second secret, long enough for HS256", encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        hub.wait_for_log("is no longer trusted")
        received = 0
        with pytest.raises(EOFError):
            while True:
                assert stream.next().data == data
                received += 1
        assert received < 600
        hub.close()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.every_engine
def test_streams_go_on_after_a_reload_that_keeps_their_key(folder: Path, count: int) -> None:
    with workers(folder, count) as hub:
        stream = hub.subscribe({"match": "t"}, hub.token())
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "were reloaded", count)
        hub.send("t", "later")
        assert stream.take(1) == ["later"]
        hub.close()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("is_removed", [False, True], ids=["changed", "removed"])
def test_the_same_token_is_refused_after_a_reload_without_its_key(
    folder: Path, count: int, is_removed: bool
) -> None:
    """It has been accepted by each process, which remembers it."""
    config = folder / "hub.toml"
    issuer = '[[issuer]]\nidentifier = "urn:partner"\npublisher_key = "{}"\n'
    config.write_text(issuer.format("the partner's secret, long enough for HS256"), encoding="utf-8")
    url = "https://hub.example.com/.well-known/mercure"
    with workers(folder, count, MERCURE_CONFIG=str(config), MERCURE_PUBLIC_URL=url) as hub:
        secret = "the partner's secret, long enough for HS256"
        partner = other_key(hub, secret).token(iss="urn:partner", aud=url)
        own = hub.token(aud=url)
        for token in (partner, own):
            assert [hub.publish({"topic": "t"}, token).status for _ in range(ENOUGH)] == [200] * ENOUGH
            stream = hub.subscribe({"match": "t"}, token)
            stream.close()
        left = "" if is_removed else issuer.format("the partner's new secret, long enough for HS256")
        config.write_text(left, encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "were reloaded", count)
        assert [hub.publish({"topic": "t"}, partner).status for _ in range(ENOUGH)] == [401] * ENOUGH
        assert hub.get({"match": "t"}, partner).status == 401
        assert hub.publish({"topic": "t"}, own).status == 200


def test_a_worker_that_is_replaced_after_a_reload_trusts_what_its_siblings_trust(folder: Path) -> None:
    key = folder / "key"
    key.write_text("the first secret, long enough for HS256", encoding="utf-8")
    with workers(folder, MERCURE_PUBLISHER_JWT_KEY=f"@{key}", MERCURE_HEARTBEAT="7") as hub:
        first = other_key(hub, "the first secret, long enough for HS256")
        second = other_key(hub, "the second secret, long enough for HS256")
        key.write_text(second.secret, encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "were reloaded", 2)
        for pid in hub.pids:
            os.kill(pid, signal.SIGKILL)
        wait_for_lines(hub, "it is replaced", 2)
        assert [second.publish({"topic": "t"}).status for _ in range(ENOUGH)] == [200] * ENOUGH
        assert [first.publish({"topic": "t"}).status for _ in range(ENOUGH)] == [401] * ENOUGH


def test_a_worker_that_is_replaced_after_a_reload_that_failed_trusts_what_was_good(folder: Path) -> None:
    key = folder / "key"
    key.write_text("the first secret, long enough for HS256", encoding="utf-8")
    with workers(folder, MERCURE_PUBLISHER_JWT_KEY=f"@{key}") as hub:
        first = other_key(hub, "the first secret, long enough for HS256")
        key.unlink()
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "nothing was reloaded", 3)  # the parent and two workers
        os.kill(hub.pids[0], signal.SIGKILL)
        wait_for_lines(hub, "it is replaced", 1)
        assert [first.publish({"topic": "t"}).status for _ in range(ENOUGH)] == [200] * ENOUGH


def wait_for_lines(hub: Workers, words: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while hub.log.read_text(encoding="utf-8").count(words) < count:
        assert time.monotonic() < deadline, hub.log.read_text(encoding="utf-8")
        time.sleep(0.02)


def test_a_key_that_cannot_be_used_changes_nothing(folder: Path) -> None:
    key = folder / "key"
    key.write_text("a secret that is long enough for HS256", encoding="utf-8")
    with workers(folder, 1, MERCURE_PUBLISHER_JWT_KEY=f"@{key}") as hub:
        own = other_key(hub, key.read_text(encoding="utf-8"))
        key.write_text("short", encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "nothing was reloaded: MERCURE_PUBLISHER_JWT_KEY", 1)
        assert own.publish({"topic": "t"}).status == 200
        assert "short" not in hub.log.read_text(encoding="utf-8").split("reloaded:")[1].split("\n")[0][60:]


def test_retention_by_topic_needs_a_restart(folder: Path) -> None:
    config = folder / "hub.toml"
    config.write_text("heartbeat = 30\n", encoding="utf-8")
    with workers(folder, 1, MERCURE_CONFIG=str(config)) as hub:
        config.write_text('heartbeat = 30\n[[retention]]\nmatch = "a"\nsize = 5\n', encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "[[retention]] changed; restart the hub to apply this", 1)


def test_settings_that_need_a_restart_are_named(folder: Path) -> None:
    config = folder / "hub.toml"
    config.write_text('heartbeat = 30\nlog_level = "info"\n', encoding="utf-8")
    with workers(folder, 1, MERCURE_CONFIG=str(config)) as hub:
        config.write_text('heartbeat = 20\nlog_level = "warning"\n', encoding="utf-8")
        hub.child.send_signal(signal.SIGHUP)
        wait_for_lines(hub, "MERCURE_HEARTBEAT changed; restart the hub to apply this", 1)
        hub.send("t")
        assert '"POST' not in hub.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.every_engine
def test_another_hub_takes_over_and_nobody_notices(folder: Path, count: int) -> None:
    with workers(folder, count, MERCURE_DRAIN="1", MERCURE_SUBSCRIPTIONS="1") as hub:
        old = hub.child.pid
        last = hub.send("t", "before")
        # From there on: one of the workers may not have read that update yet, and would send it.
        streams = [hub.subscribe({"match": "t", "last_event_id": last}) for _ in range(ENOUGH)]
        stop = threading.Event()
        sent: list[str] = []
        statuses: list[int] = []

        def publish() -> None:
            number = 0
            while not stop.is_set():
                statuses.append(hub.publish({"topic": "t", "data": str(number)}).status)
                sent.append(str(number))
                number += 1

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            hub.child.send_signal(signal.SIGUSR2)
            assert hub.child.wait(30) == 0
        finally:
            stop.set()
            publisher.join()
        successor = pid_of_listener(hub.port)
        try:
            assert successor != old
            hub.send("t", "the end")
            assert set(statuses) == {200}
            for stream in streams:
                received = list(until(stream, "the end"))
                cursor = stream.reply.headers.get("last seen", last)
                again = hub.subscribe({"match": "t", "last_event_id": cursor})
                received += until(again, "the end")
                assert [one for one in received if one != "the end"] == sent
            # Who has gone is listed no more, and those who came are, once the log knows of them.
            api = HUB_PATH + "/subscriptions/exact/t"
            listed: list[object] = []
            while len(listed) != len(streams):
                listed = hub.get(path=api, token=hub.token()).json()["subscriptions"]
                assert len(listed) <= len(streams)
        finally:
            os.kill(successor, signal.SIGTERM)
            wait_for_lines(hub, "the hub stops", count + (count if count > 1 else 1))


def pid_of_listener(port: int) -> int:
    """The oldest process that listens on a port."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return min(pid for pid in pids if listens(pid, port))


@pytest.mark.every_engine
def test_a_successor_that_cannot_start_changes_nothing(folder: Path) -> None:
    config = folder / "hub.toml"
    config.write_text("heartbeat = 30\n", encoding="utf-8")
    with workers(folder, 1, MERCURE_CONFIG=str(config)) as hub:
        streams = many(hub, count=3)
        config.write_text("heart = 30\n", encoding="utf-8")
        hub.child.send_signal(signal.SIGUSR2)
        wait_for_lines(hub, "the successor did not start, so this hub goes on", 1)
        hub.send("t", "still here")
        assert [stream.take(1) for stream in streams] == [["still here"]] * 3
        assert hub.child.stderr is not None
        os.set_blocking(hub.child.stderr.fileno(), False)
        assert "there is no such setting" in hub.child.stderr.read()


@pytest.mark.parametrize("count", [1, 2])
def test_readiness_tells_of_both_hubs_while_one_gives_way(folder: Path, count: int) -> None:
    port = free_port()
    with workers(folder, count, MERCURE_DRAIN="600", MERCURE_METRICS_LISTEN=f"127.0.0.1:{port}") as hub:
        watched = RunningHub(port)

        def answers(path: str) -> set[int]:
            return {watched.get(path=path).status for _ in range(200)}  # each by a connection of its own

        streams = many(hub, count=6)  # the first of them ends at once
        assert answers("/readyz") == {200}
        hub.child.send_signal(signal.SIGUSR2)
        wait_for_lines(hub, "another hub accepts connections", count)
        try:
            assert answers("/readyz") == {200, 503}
            assert answers("/livez") == {200}
            hub.child.terminate()
            assert hub.child.wait(30) == 0
            assert all(stream.ended() for stream in streams)
            assert answers("/readyz") == {200}
        finally:
            os.kill(pid_of_listener(hub.port), signal.SIGTERM)
        wait_for_end(hub.port)


@pytest.mark.parametrize("count", [1, 2])
def test_a_hub_that_is_told_twice_starts_one_successor(folder: Path, count: int) -> None:
    with workers(folder, count, MERCURE_DRAIN="1") as hub:
        streams = many(hub, count=6)
        for words in ("starting another hub", "another hub accepts connections"):
            hub.child.send_signal(signal.SIGUSR2)
            wait_for_lines(hub, words, 1)
            hub.child.send_signal(signal.SIGUSR2)
        assert hub.child.wait(30) == 0
        assert all(stream.ended() for stream in streams)
        hub.send("t")
        os.kill(pid_of_listener(hub.port), signal.SIGTERM)
        wait_for_end(hub.port)
        text = hub.log.read_text(encoding="utf-8")
        assert text.count("starting another hub") == 1
        assert text.count("listens on") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_hub_that_stops_while_its_successor_starts_leaves_none(folder: Path, count: int) -> None:
    with workers(folder, count) as hub:
        hub.child.send_signal(signal.SIGUSR2)
        wait_for_lines(hub, "starting another hub", 1)
        hub.child.terminate()
        assert hub.child.wait(30) == 0
        wait_for_end(hub.port)


@pytest.mark.parametrize("count", [1, 2])
def test_a_draining_hub_that_is_told_to_stop_ends_its_streams_at_once(folder: Path, count: int) -> None:
    with workers(folder, count, MERCURE_DRAIN="600") as hub:
        streams = many(hub, count=6)
        hub.child.send_signal(signal.SIGUSR2)
        wait_for_lines(hub, "another hub accepts connections", count)
        hub.child.terminate()
        assert hub.child.wait(30) == 0
        assert all(stream.ended() for stream in streams)
        hub.send("t")
        os.kill(pid_of_listener(hub.port), signal.SIGTERM)
        wait_for_end(hub.port)


def test_a_successor_whose_predecessor_died_says_so() -> None:
    listens, tells = os.pipe()
    os.close(listens)
    with pytest.raises(SettingError, match="has stopped; start it anew"):
        tell_predecessor({"MERCURE_HUB_READY": str(tells)})
    with pytest.raises(OSError):
        os.fstat(tells)


def wait_for_end(port: int) -> None:
    """Wait until no process listens on a port any more."""
    deadline = time.monotonic() + 20
    with pytest.raises(ValueError):
        while pid_of_listener(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)
