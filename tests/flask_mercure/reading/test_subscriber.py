"""Reading from a hub: a real one, and one that misbehaves."""

from __future__ import annotations

import gc
import logging
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import jwt
import pytest

from flask_mercure import (
    Gap,
    HubUnreachable,
    InvalidArgument,
    Mercure,
    Refused,
    Subscription,
    URITemplate,
    URLPattern,
)
from tests.flask_mercure.client.test_publisher import (
    certificate,  # noqa: F401 - a fixture
    seen_by_an_error_tracker,
)
from tests.flask_mercure.fake_hub import Answer, Dropped, FakeHub, make_app, running
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes

PATIENCE = 10.0
mercure = Mercure()


def stream(body: bytes, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, 200, "text/event-stream", named)


def on(hub: FakeHub, last_event_id: str | None = None, **options: Any) -> Subscription:
    """A subscription that does not pause between two connections."""
    options = {"pause": lambda _: None, "jitter": lambda: 0.0, **options}
    return Subscription(hub.url, lambda: "a.b.c", last_event_id=last_event_id, **options)


# -- on a real hub --------------------------------------------------------------------------------


def test_subscription_gets_its_topics_and_no_others(app: Any) -> None:
    with mercure.subscribe(["s-1", URLPattern("/s-rooms/:id")]) as events:
        mercure.publish("s-other", "no", private=False)
        first = mercure.publish("s-1", {"é": 1}, private=True, type="t")
        mercure.publish("/s-rooms/7", "two\nlines", private=False)
        one, two = events.wait(PATIENCE), next(events)
    assert (one.id, one.type, one.json()) == (first, "t", {"é": 1})
    assert (two.type, two.data) == ("message", "two\nlines")
    with pytest.raises(ValueError, match="Expecting value"):
        two.json()


def test_events_name_the_topics_that_were_subscribed_to(app: Any) -> None:
    with mercure.subscribe(["s-named", URLPattern("/s-named/:id")]) as events:
        mercure.publish(["s-named", "/s-named/7", "s-unknown"], "x", private=False)
        assert events.wait(PATIENCE).topics == ("s-named", "/s-named/7")


def test_subscription_replays_from_a_cursor_and_from_the_earliest(app: Any) -> None:
    ids = [mercure.publish("s-history", str(n), id=f"urn:é:{n}", private=False) for n in range(4)]
    with mercure.subscribe("s-history", ids[1]) as events:
        assert [events.wait(PATIENCE).data for _ in range(2)] == ["2", "3"]
        assert events.last_event_id == ids[3]
        assert events.gap is None
    with mercure.subscribe("s-history", "earliest", timeout=0.2) as events:
        assert [event.data for event in events] == ["0", "1", "2", "3"]
        assert events.gap is None


def test_subscription_begins_with_the_last_value_of_each_topic(app: Any) -> None:
    for number in range(4):
        last = mercure.publish(f"s-value/{number % 2}", str(number), private=False)
    with mercure.subscribe([f"s-value/{number}" for number in range(2)], last_value=True) as events:
        mercure.publish("s-value/0", "live", private=False)
        assert [events.wait(PATIENCE).data for _ in range(2)] == ["2", "3"]
        assert (events.last_event_id, events.gap) == (last, None)
        assert events.wait(PATIENCE).data == "live"


def test_subscription_iteration_ends_after_its_timeout_and_closes(app: Any) -> None:
    events = mercure.subscribe("s-time", timeout=0.1)
    mercure.publish("s-time", "1", private=False)
    assert [event.data for event in events] == ["1"]
    assert events.is_closed
    assert list(events) == []
    with pytest.raises(RuntimeError, match="closed"):
        events.wait(1)
    assert not [one for one in mercure.subscriptions() if one.topic == "s-time"]


def test_subscription_stays_open_after_a_wait_without_event(app: Any) -> None:
    with mercure.subscribe("s-wait") as events:
        for seconds in (0, 0.05):
            with pytest.raises(TimeoutError):
                events.wait(seconds)
        mercure.publish("s-wait", "1", private=False)
        assert events.wait(PATIENCE).data == "1"


def test_subscription_closed_by_another_thread(app: Any) -> None:
    events = mercure.subscribe("s-close")
    found: list[list[object]] = []
    thread = threading.Thread(target=lambda: found.append(list(events)))
    thread.start()
    time.sleep(0.05)  # until it waits; before that it is the same
    events.close()
    thread.join(PATIENCE)
    assert found == [[]]
    events.close()


def test_subscription_closes_its_socket_when_garbage_collected(app: Any) -> None:
    events: Subscription | None = mercure.subscribe("s-forgotten")
    assert events is not None
    mercure.publish("s-forgotten", "1", private=False)
    for _ in events:
        break
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = None
        gc.collect()


def test_subscription_reconnects_with_a_fresh_token(folder: Path) -> None:
    """The hub ends streams after a second here, as it does when a token ends."""
    with running_hub(folder, write_timeout=1) as hub, app_on(hub, mercure):
        tokens: list[str] = []
        made = mercure.create_token("s")

        def token() -> str:
            tokens.append(made)
            return made

        with Subscription(hub.url + "?match=s", token, pause=lambda _: None) as events:
            mercure.publish("s", "1", private=False)
            assert events.wait(PATIENCE).data == "1"
            deadline = time.monotonic() + PATIENCE
            while len(tokens) < 2 and time.monotonic() < deadline:
                with pytest.raises(TimeoutError):
                    events.wait(0.2)
            mercure.publish("s", "2", private=False)
            assert events.wait(PATIENCE).data == "2"
        assert len(tokens) > 1


def test_subscription_loses_nothing_when_the_hub_restarts(folder: Path) -> None:
    with running_hub(folder) as hub, app_on(hub, mercure):
        events = mercure.subscribe("r", timeout=0.2)
        events._pause = lambda _: time.sleep(0.01)
        port = hub.port
    with running_hub(folder, port=port) as hub, app_on(hub, mercure), events:
        mercure.publish("r", "while it was away", private=False)
        assert events.wait(PATIENCE).data == "while it was away"
        assert events.gap is None


def test_subscription_reports_a_lost_cursor(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_hub(folder) as hub, app_on(hub, mercure):
        mercure.publish("g", "1", private=False)
        gaps: list[Gap] = []
        with mercure.subscribe("g", "urn:lost:é", on_gap=gaps.append) as events:
            assert gaps == [Gap("urn:lost:é", "earliest", "start")]
            assert events.gap == gaps[0]
            assert events.wait(PATIENCE).data == "1"
        assert caplog.messages == []
        mercure.subscribe("g", "urn:lost").close()
        assert "'urn:lost' any more and resumed after 'earliest'" in caplog.text


def test_subscribe_tells_why_the_hub_refused(folder: Path) -> None:
    with (
        running_hub(folder) as hub,
        app_on(hub, mercure, ISSUER="urn:stranger"),
        pytest.raises(Refused, match="401") as refusal,
    ):
        mercure.subscribe("a")
    assert refusal.value.status == 401


def test_subscribe_refuses_no_topics_and_bad_cursors(app: Any) -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        mercure.subscribe([])
    with pytest.raises(InvalidArgument):
        mercure.subscribe("a", "line\nend")


def test_subscription_in_protocol_0x(hub: RunningHub) -> None:
    old = Mercure()
    with app_on(hub, old, PROTOCOL="0.x"), old.subscribe(URITemplate("s-old/{id}")) as events:
        old.publish("s-old/1", "x", private=True)
        assert events.wait(PATIENCE).data == "x"


def test_subscription_verifies_the_certificate(certificate: Path) -> None:  # noqa: F811
    with running(certificate) as hub:
        hub.answers = [stream(b"data: 1\n\n")]
        for verify in (str(certificate), False):
            with on(hub, verify=verify) as events:
                assert events.wait(PATIENCE).data == "1"
        with pytest.raises(HubUnreachable, match="certificate"):
            on(hub)


# -- on one that misbehaves -----------------------------------------------------------------------


def test_subscription_sends_a_fresh_token_and_the_cursor_with_each_connection(other: FakeHub) -> None:
    other.answers = [stream(b"id: 1\ndata: one\n\nid: 2\ndata: cut"), stream(b"id: 2\ndata: two\n\n")]
    tokens = iter(["a.a.a", "b.b.b", "c.c.c"])
    with Subscription(other.url, lambda: next(tokens), pause=lambda _: None) as events:
        assert [events.wait(PATIENCE).data for _ in range(2)] == ["one", "two"]
    first, second = other.received[:2]
    assert (first.headers["Authorization"], first.headers["Last-Event-ID"]) == ("Bearer a.a.a", "")
    assert (second.headers["Authorization"], second.headers["Last-Event-ID"]) == ("Bearer b.b.b", "1")


def test_subscribe_makes_a_token_for_its_topics(other: FakeHub) -> None:
    other.answers = [stream(b"data: 1\n\n")]
    app = make_app(URL=other.url)
    with app.app_context():
        events = Mercure().subscribe(["a", "b"], payload={"name": "worker"})
    with events:  # outside of the app's context
        assert events.wait(PATIENCE).data == "1"
    token = other.received[0].headers["Authorization"].removeprefix("Bearer ")
    (detail,) = jwt.decode(token, options={"verify_signature": False})["authorization_details"]
    assert detail["topics"] == [{"match": "a"}, {"match": "b"}]
    assert (detail["actions"], detail["payload"]) == (["subscribe"], {"name": "worker"})


def test_subscription_pauses_grow_while_the_hub_is_away(other: FakeHub) -> None:
    busy = Answer(b"", 503)
    other.answers = [
        stream(b"data: 1\n\n"),
        *[busy] * 3,
        Answer(b"", 429),
        Dropped(),
        stream(b"retry: 250\ndata: 2\n\n"),
        stream(b"data: 3\n\n"),
    ]
    now = [0.0]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    with on(other, clock=lambda: now[0], pause=pause) as events:
        assert [events.wait().data for _ in range(3)] == ["1", "2", "3"]
    assert pauses == [2, 2, 4, 8, 16, 32, 0.25]


def test_subscription_pauses_are_limited_and_spread(other: FakeHub) -> None:
    other.answers = [stream(b"retry: 0\ndata: 1\n\n"), *[Answer(b"", 503)] * 20, stream(b"data: 2\n\n")]
    now = [0.0]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    with on(other, clock=lambda: now[0], pause=pause, jitter=lambda: 1.0) as events:
        assert [events.wait().data for _ in range(2)] == ["1", "2"]
    assert pauses[0] == pytest.approx(0.2 * 1.5)  # the first two come at once
    assert max(pauses) == pytest.approx(60 * 1.5)


def test_subscription_close_ends_a_pause(other: FakeHub) -> None:
    other.answers = [stream(b"retry: 3600000\n\n")]
    events = Subscription(other.url, lambda: "a.b.c")
    found: list[list[object]] = []
    thread = threading.Thread(target=lambda: found.append(list(events)))
    thread.start()
    time.sleep(0.1)
    events.close()
    thread.join(PATIENCE)
    assert found == [[]]


def test_subscription_wait_times_out_during_a_pause(other: FakeHub) -> None:
    other.answers = [stream(b"retry: 3600000\n\n")]
    with Subscription(other.url, lambda: "a.b.c") as events:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            events.wait(0.2)
        assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("answer", [Answer(b"no", 403), Dropped()])
def test_subscription_errors_do_not_show_the_token(other: FakeHub, answer: Answer | Dropped) -> None:
    other.answers = [answer]
    with pytest.raises((Refused, HubUnreachable)) as refusal:
        Subscription(other.url, lambda: "mine.of-the.app")
    token = other.received[0].headers["Authorization"].removeprefix("Bearer ")
    refusal.value.__traceback__ = refusal.tb.tb_next  # without the variables of this function
    assert token == "mine.of-the.app"
    assert token not in seen_by_an_error_tracker(refusal.value)


def test_subscription_ends_with_a_later_refusal(other: FakeHub) -> None:
    other.answers = [stream(b"data: 1\n\n"), Answer(b"", 403)]
    events = on(other)
    assert next(events).data == "1"
    with pytest.raises(Refused, match="403"):
        next(events)
    assert events.is_closed


@pytest.mark.parametrize(
    "answer", [Answer(b"", 503), Answer(b"<html>", 200, "text/html"), Answer(b"", 302), Answer(b"", 204)]
)
def test_subscription_refuses_a_first_answer_that_is_not_a_stream(other: FakeHub, answer: Answer) -> None:
    other.answers = [answer]
    with pytest.raises(Refused):
        on(other)
    assert len(other.received) == 1


def test_subscription_raises_when_the_first_connection_fails(other: FakeHub) -> None:
    other.answers = [Dropped()]
    with pytest.raises(HubUnreachable, match="without an answer"):
        on(other)


@pytest.mark.parametrize(
    ("requested", "header", "is_gap"),
    [
        ("1", {"Mercure_Last_Event_ID": "1"}, False),
        ("1", {"Mercure_Last_Event_ID": "earliest"}, True),
        ("1", {"Last_Event_ID": "0"}, True),
        ("1", {}, False),
        ("earliest", {"Mercure_Last_Event_ID": "5"}, False),
        (None, {"Mercure_Last_Event_ID": "5"}, False),
        ("é", {"Mercure_Last_Event_ID": "é".encode().decode("latin-1")}, False),
    ],
)
def test_subscription_gap_by_requested_id_and_answer(
    other: FakeHub, requested: str | None, header: dict[str, str], is_gap: bool
) -> None:
    other.answers = [stream(b"data: 1\n\n", **header)]
    gaps: list[Gap] = []
    with on(other, requested, on_gap=gaps.append) as events:
        assert (events.gap is not None) is is_gap
        assert len(gaps) == is_gap


def test_subscription_gap_after_a_lost_connection(other: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    other.answers = [
        stream(b"id: 1\ndata: 1\n\n", Mercure_Last_Event_ID="0"),
        stream(b"id: 5\ndata: 5\n\n", Mercure_Last_Event_ID="earliest"),
    ]
    gaps: list[Gap] = []
    with on(other, on_gap=gaps.append) as events:
        assert [next(events).data, next(events).data] == ["1", "5"]
    assert gaps == [Gap("1", "earliest", "history")]


@pytest.mark.parametrize("header", [{}, {"Last_Event_ID": "9"}])
def test_subscription_gap_when_the_position_is_unknown(
    other: FakeHub, header: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off before the first update: nobody can know what was missed."""
    other.answers = [stream(b":\n"), stream(b"id: 1\ndata: 1\n\n", **header)]
    with on(other) as events:
        assert next(events).data == "1"
        assert events.gap == Gap(None, header.get("Last_Event_ID"), "position")
    assert "before the first update" in caplog.text


def test_subscription_without_a_gap_when_the_last_values_come_again(other: FakeHub) -> None:
    other.answers = [stream(b":\n"), stream(b"id: 1\ndata: 1\n\n")]
    with on(other, begins_with_values=True) as events:
        assert next(events).data == "1"
        assert events.gap is None


def test_subscription_logs_do_not_show_the_token(other: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    other.answers = [stream(b"data: 1\n\n"), Dropped(), Answer(b"", 401)]
    events = on(other)
    next(events)
    with pytest.raises(Refused) as refusal:
        next(events)
    assert "a.b.c" not in caplog.text + str(refusal.value) + repr(events)
