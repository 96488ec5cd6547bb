"""What the hub's answer to a publication means: tables, mostly without a hub."""

from __future__ import annotations

import pytest
import requests

from flask_mercure.errors import PublishError
from flask_mercure.http.answer import retry_after
from tests.flask_mercure.fake_hub import Answer, publishing, running

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


def response(**fields: str) -> requests.Response:
    made = requests.Response()
    made.headers.update({name.replace("_", "-"): value for name, value in fields.items()})
    return made


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("007", 7.0),
        ("9" * 400, 999999999.0),
        ("Wed, 21 Oct 2026 07:29:00 GMT", 60.0),
        ("Wednesday, 21-Oct-26 07:29:00 GMT", 60.0),  # RFC 850
        ("Wed, 21 Oct 2026 09:29:00 +0200", 60.0),
        (DATE, 0.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),  # it is over
        ("Thu, 22 Oct 2026 07:28:00 GMT", 86400.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("5 seconds", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("Wed, 21 Oct 2026", None),
        ("Wed, 99 Oct 2026 07:29:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(response(Retry_After=value, Date=DATE)) == seconds


def test_an_answer_without_retry_after() -> None:
    assert retry_after(response(Date=DATE)) is None
    assert retry_after(response()) is None


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Wed, 21 Oct 2026 07:28:50 GMT", 10.0),
        ("Tue, 20 Oct 2026 07:29:00 GMT", 86400.0),
        ("", None),
        ("today", None),
        ("Wed, 21 Oct 2026 07:28:00 -0000", None),  # no time zone
    ],
)
def test_a_date_to_retry_at_counts_from_the_date_of_the_answer(date: str, seconds: float | None) -> None:
    found = retry_after(response(Retry_After="Wed, 21 Oct 2026 07:29:00 GMT", Date=date))
    assert found == seconds
    assert retry_after(response(Retry_After="30", Date=date)) == 30.0


@pytest.mark.minutes
@pytest.mark.parametrize("status", [429, 503, 302])
def test_the_error_of_a_refusal_tells_when_to_come_back(status: int) -> None:
    with running() as hub, publishing(hub) as publish:
        hub.answers = [Answer(b"slow down", status, headers={"Retry-After": "3"}), Answer(b"", status)]
        with pytest.raises(PublishError) as caught:
            publish("a")
        assert caught.value.retry_after == 3
        with pytest.raises(PublishError) as without:
            publish("a")
        assert without.value.retry_after is None
