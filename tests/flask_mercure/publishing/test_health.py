"""Whether a hub fails, or an update alone: values and a clock that is a number."""

from __future__ import annotations

import pytest

from flask_mercure.errors import HubUnreachable, MercureError, PublishError, TokenError
from flask_mercure.publishing.health import Health

CUT = HubUnreachable("cut", possibly_published=True)
BUSY = PublishError("busy", status=503)


def fail(health: Health, *keys: int, error: MercureError = CUT) -> list[float | None]:
    return [health.failed(key, error, 100.0, 1.0) for key in keys]


@pytest.mark.parametrize(
    ("error", "most"),
    [(CUT, 1), (BUSY, 9), (HubUnreachable("no connection"), 0), (TokenError("no key"), 0)],
)
def test_how_many_updates_fail_before_it_is_the_hub(error: MercureError, most: int) -> None:
    assert fail(Health(), *range(most), error=error) == [None] * most
    assert fail(Health(), *range(most + 1), error=error)[-1] == 0.25


def test_one_update_that_fails_again_and_again_is_one() -> None:
    assert fail(Health(), *[7] * 50) == [None] * 50
    assert fail(Health(), *[7] * 50, error=BUSY) == [None] * 50


def test_the_rest_of_a_hub_grows_until_it_takes_something() -> None:
    health = Health()
    assert fail(health, 1, 2, 3, 4) == [None, 0.25, 0.5, 1.0]
    assert health.until == 101.0
    assert health.took([5], 200.0)
    assert not health.is_in_doubt
    assert health.until < 200
    assert fail(health, 1) == [None]
    assert not health.took([5], 300.0)  # no outage


@pytest.mark.parametrize("error", [CUT, BUSY, HubUnreachable("no connection")])
def test_a_failure_puts_the_hub_in_doubt(error: MercureError) -> None:
    health = Health()
    fail(health, 1, error=error)
    assert health.is_in_doubt


def test_an_update_is_proved_bad_by_another_that_is_taken_after_it() -> None:
    health = Health()
    fail(health, 1)
    assert health.proved == set()
    health.took([2], 0.0)
    assert health.proved == {1}
    fail(health, 1)
    health.took([1], 0.0)
    assert health.proved == set()


@pytest.mark.parametrize(("seconds", "is_long"), [(59, False), (60, True)])
def test_failures_of_a_long_outage_prove_nothing(seconds: float, is_long: bool) -> None:
    """In a short one, some bad updates may have failed together, and count as bad."""
    health = Health()
    fail(health, 1, 2)
    health.took([3], 100.0 + seconds)
    assert (health.proved == set()) is is_long
    assert (health.recovered_at == 100.0 + seconds) is is_long


def test_what_was_proved_does_not_grow_without_end() -> None:
    health = Health()
    for key in range(30_000):
        fail(health, key)
        health.took([-1], 0.0)
    assert len(health.proved) <= 10_001
