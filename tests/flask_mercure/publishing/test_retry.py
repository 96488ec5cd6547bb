"""Which failures may be tried again, and when; whether a hub fails, or an update alone."""

from __future__ import annotations

import pytest

from flask_mercure.errors import (
    HubUnreachable,
    InvalidArgument,
    MercureError,
    PublishError,
    TokenError,
    TokenUnavailable,
)
from flask_mercure.publishing.retry import LONGEST_DELAY, Health, Verdict, delay, verdict


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HubUnreachable("no connection"), Verdict.UNREACHABLE),
        (HubUnreachable("no answer", possibly_published=True), Verdict.UNCLEAR),
        (PublishError("no database", status=503, is_storage_away=True), Verdict.UNREACHABLE),
        (InvalidArgument("a lone surrogate"), Verdict.REFUSED),
        (TokenError("no key"), Verdict.MISCONFIGURED),
        (TokenUnavailable("the provider raised OSError"), Verdict.UNREACHABLE),
        *[(PublishError("", status=status), Verdict.REFUSED) for status in (400, 403, 413, 422)],
        *[(PublishError("", status=status), Verdict.LATER) for status in (429, 500, 502, 503, 504)],
        *[(PublishError("", status=status), Verdict.MISCONFIGURED) for status in (200, 302, 401, 404, 405)],
        *[
            (PublishError("", status=status, from_hub=False), Verdict.UNCLEAR)
            for status in (200, 201, 400, 403, 406, 413, 422)
        ],
        *[
            (PublishError("", status=status, from_hub=False), Verdict.MISCONFIGURED)
            for status in (302, 401, 404, 405)
        ],
        *[(PublishError("", status=status, from_hub=False), Verdict.LATER) for status in (429, 500, 502)],
    ],
)
def test_verdict_of_an_error(error: MercureError, expected: Verdict) -> None:
    assert verdict(error) is expected


def test_delay_doubles_up_to_a_limit_and_spreads() -> None:
    assert [delay(attempts, 1.0) for attempts in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert [delay(attempts, 0.0) for attempts in (1, 2, 3)] == [0.125, 0.25, 0.5]
    assert delay(10_000, 1.0) == LONGEST_DELAY


def test_delay_is_at_least_what_the_hub_asks_for_up_to_an_hour() -> None:
    for retry_after, expected in ((7, 7), (0, 0.25), (1e9, 3600)):
        assert delay(1, 1.0, PublishError("busy", status=429, retry_after=retry_after)) == expected


CUT = HubUnreachable("cut", possibly_published=True)
BUSY = PublishError("busy", status=503)


def fail(health: Health, *keys: int, error: MercureError = CUT) -> list[float | None]:
    return [health.failed(key, error, 100.0, 1.0) for key in keys]


@pytest.mark.parametrize(
    ("error", "most"),
    [(CUT, 1), (BUSY, 9), (HubUnreachable("no connection"), 0), (TokenError("no key"), 0)],
)
def test_health_blames_the_hub_after_a_number_of_updates(error: MercureError, most: int) -> None:
    assert fail(Health(), *range(most), error=error) == [None] * most
    assert fail(Health(), *range(most + 1), error=error)[-1] == 0.25


def test_health_counts_an_update_that_fails_repeatedly_once() -> None:
    assert fail(Health(), *[7] * 50) == [None] * 50
    assert fail(Health(), *[7] * 50, error=BUSY) == [None] * 50


def test_health_rests_longer_until_the_hub_takes_something() -> None:
    health = Health()
    assert fail(health, 1, 2, 3, 4) == [None, 0.25, 0.5, 1.0]
    assert health.until == 101.0
    assert health.took([5], 200.0)
    assert not health.is_in_doubt
    assert health.until < 200
    assert fail(health, 1) == [None]
    assert not health.took([5], 300.0)  # no outage


@pytest.mark.parametrize("error", [CUT, BUSY, HubUnreachable("no connection")])
def test_health_is_in_doubt_after_a_failure(error: MercureError) -> None:
    health = Health()
    fail(health, 1, error=error)
    assert health.is_in_doubt


def test_health_proves_an_update_bad_when_the_hub_takes_another() -> None:
    health = Health()
    fail(health, 1)
    assert health.proved == set()
    health.took([2], 0.0)
    assert health.proved == {1}
    fail(health, 1)
    health.took([1], 0.0)
    assert health.proved == set()


@pytest.mark.parametrize(("seconds", "is_long"), [(59, False), (60, True)])
def test_health_proves_nothing_by_failures_of_a_long_outage(seconds: float, is_long: bool) -> None:
    """In a short one, some bad updates may have failed together, and count as bad."""
    health = Health()
    fail(health, 1, 2)
    health.took([3], 100.0 + seconds)
    assert (health.proved == set()) is is_long
    assert (health.recovered_at == 100.0 + seconds) is is_long


def test_health_keeps_a_limited_number_of_proved_updates() -> None:
    health = Health()
    for key in range(30_000):
        fail(health, key)
        health.took([-1], 0.0)
    assert len(health.proved) <= 10_001
