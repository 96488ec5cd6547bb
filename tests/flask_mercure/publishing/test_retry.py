"""Which failures may be tried again, and when."""

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
from flask_mercure.publishing.retry import LONGEST_DELAY, Verdict, delay, verdict


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HubUnreachable("no connection"), Verdict.UNREACHABLE),
        (HubUnreachable("no answer", possibly_published=True), Verdict.UNCLEAR),
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
def test_verdicts(error: MercureError, expected: Verdict) -> None:
    assert verdict(error) is expected


def test_delays_double_up_to_a_limit_and_spread() -> None:
    assert [delay(attempts, 1.0) for attempts in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert [delay(attempts, 0.0) for attempts in (1, 2, 3)] == [0.125, 0.25, 0.5]
    assert delay(10_000, 1.0) == LONGEST_DELAY


def test_the_hub_has_the_last_word_within_reason() -> None:
    assert delay(1, 1.0, retry_after=7) == 7
    assert delay(1, 1.0, retry_after=0) == 0.25
    assert delay(1, 1.0, retry_after=1e9) == 3600
