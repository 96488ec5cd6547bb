"""When what may have been published is sent again: rules as tables, and the loop with a clock of its own."""

from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from flask_mercure.client.repeating import Repeating, Timeout, may_pass, pause_before, stores_once
from flask_mercure.client.session import Reply
from flask_mercure.errors import HubUnreachable, PublishError
from flask_mercure.extension import state_of
from tests.flask_mercure.fake_hub import make_app


def reply(value: str | None, status: int = 204) -> Reply:
    return Reply(status, CaseInsensitiveDict({} if value is None else {"mercure-once": value}), b"")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("?1", True),
        (" ?1 ", True),
        ("?1;window=5", True),
        ("?0", False),
        ("1", False),
        ("", False),
        (None, False),
    ],
)
def test_what_a_hub_says(value: str | None, expected: bool) -> None:
    assert stores_once(reply(value)) is expected


@pytest.mark.parametrize(
    ("attempts", "retry_after", "left", "jitter", "expected"),
    [
        (1, None, 5.0, 1.0, 0.1),
        (1, None, 5.0, 0.0, 0.05),
        (3, None, 5.0, 1.0, 0.4),
        (9, None, 5.0, 1.0, 1.0),
        (10**9, None, 5.0, 1.0, 1.0),
        (1, 2.0, 5.0, 1.0, 2.0),
        (1, 5.0, 5.0, 1.0, None),
        (1, None, 0.2, 1.0, 0.1),
        (1, None, 0.15, 1.0, None),
        (1, None, -1.0, 1.0, None),
    ],
)
def test_pauses(
    attempts: int, retry_after: float | None, left: float, jitter: float, expected: float | None
) -> None:
    assert pause_before(attempts, PublishError("x", retry_after=retry_after), left, jitter) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HubUnreachable("x"), True),
        (HubUnreachable("x", possibly_published=True), True),
        (PublishError("x", status=503), True),
        (PublishError("x", status=502, possibly_published=True), True),
        (PublishError("x", status=429), True),
        (PublishError("x", status=200, possibly_published=True), True),
        (PublishError("x", status=401), False),
        (PublishError("x", status=413), False),
        (PublishError("x", status=302), False),
    ],
)
def test_errors_that_may_pass(error: PublishError, expected: bool) -> None:
    assert may_pass(error) is expected


LOST = HubUnreachable("lost", possibly_published=True)
AWAY = HubUnreachable("no connection")
BUSY = PublishError("busy", status=503)
REFUSED = PublishError("refused", status=403)
NO_ANSWER = OSError("no answer")


class Hub:
    """Attempts and questions with outcomes that are given; each takes a second."""

    def __init__(self, attempts: list[PublishError | str], asked: list[Reply | Exception]) -> None:
        self.now = 100.0
        self.attempts, self.asked = attempts, asked
        self.timeouts: list[Timeout] = []
        configuration = state_of(make_app(CONNECT_TIMEOUT=2.0, TIMEOUT=5.0)).configuration
        self.repeating = Repeating(
            configuration, clock=lambda: self.now, sleep=self.sleep, chance=lambda: 1.0
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def attempt(self, timeout: Timeout) -> str:
        self.now += 1
        self.timeouts.append(timeout)
        outcome = self.attempts.pop(0)
        if isinstance(outcome, PublishError):
            raise outcome
        return outcome

    def ask(self, timeout: Timeout) -> Reply | Exception:
        self.now += 1
        assert timeout is not None
        return self.asked.pop(0)

    def publish(self) -> str:
        return self.repeating.publish(self.attempt, self.ask)


KNOWS, KNOWS_NOT = reply("?1"), reply(None)


@pytest.mark.parametrize(
    ("attempts", "asked", "is_known", "expected"),
    [
        (["id"], [], False, "id"),
        ([AWAY], [], True, AWAY),
        ([BUSY], [], True, BUSY),
        ([REFUSED], [], True, REFUSED),
        ([LOST, "id"], [KNOWS], False, "id"),
        ([LOST], [KNOWS_NOT], False, LOST),
        ([LOST], [KNOWS_NOT], True, LOST),
        ([LOST], [NO_ANSWER], False, LOST),
        ([LOST, "id"], [NO_ANSWER, KNOWS], True, "id"),
        ([LOST], [NO_ANSWER, KNOWS_NOT], True, LOST),
        ([LOST, BUSY, "id"], [KNOWS, KNOWS], False, "id"),
        ([LOST, BUSY, LOST], [KNOWS] * 9, False, LOST),  # there is no time for a fourth attempt
        ([LOST, AWAY], [KNOWS, *[NO_ANSWER] * 9], False, LOST),
        ([LOST, REFUSED], [KNOWS], False, REFUSED),
        ([LOST], [NO_ANSWER] * 9, True, LOST),
    ],
)
def test_attempts(
    attempts: list[PublishError | str],
    asked: list[Reply | Exception],
    is_known: bool,
    expected: str | PublishError,
) -> None:
    hub = Hub(list(attempts), list(asked))
    if is_known:
        hub.repeating.note(KNOWS)
    try:
        outcome: object = hub.publish()
    except PublishError as error:
        outcome = error
        assert error.__context__ is None
    assert hub.now < 100 + 5 + 2 + 0.1
    assert outcome is expected
    assert not hub.attempts
