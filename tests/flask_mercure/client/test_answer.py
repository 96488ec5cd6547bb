"""What the hub's answer to a publication means: tables, mostly without a hub."""

from __future__ import annotations

import pytest
import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError

from flask_mercure.client.answer import is_of_a_hub, retry_after, unreachable
from flask_mercure.config.settings import read_hubs
from flask_mercure.errors import PublishError
from flask_mercure.publishing.retry import Verdict, verdict
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


HTML = b"<html><head><title>403 Forbidden</title></head><body>nginx</body></html>"
BEARER = {"WWW-Authenticate": 'Bearer realm="mercure", error="insufficient_scope"'}


@pytest.mark.parametrize(
    ("media_type", "body", "headers", "is_hub"),
    [
        ("text/plain; charset=utf-8", b"Forbidden\n", {}, True),  # the reference hub
        ("TEXT/PLAIN", b"no", {}, True),
        ("application/problem+json", b'{"title": "Forbidden"}', {}, True),
        ("application/problem+json", b'{"title": "cut of', {}, True),
        (None, b"", BEARER, True),
        ("application/json", b"{}", {"WWW-Authenticate": "bearer"}, True),
        (None, b"", {"WWW-Authenticate": 'Basic realm="a", Bearer realm="b"'}, True),
        ("text/html", HTML, {}, False),  # nginx, Apache, HAProxy
        ("text/html; charset=iso-8859-1", b"", {}, False),
        ("text/html", HTML, BEARER, False),
        ("text/plain", HTML, {}, False),
        ("text/plain", b"\xef\xbb\xbf \r\n<!DOCTYPE html>", {}, False),
        (None, HTML, {}, False),
        ("text/xml", b"<Error><Code>AccessDenied</Code></Error>", {}, False),
        (None, b"", {}, False),  # Caddy
        ("text/plain", b" \n", {}, False),
        ("application/json", b'{"message": "Forbidden"}', {}, False),  # gateways of APIs
        (None, b"", {"WWW-Authenticate": 'Basic realm="forbearer"'}, False),
    ],
)
def test_whose_answer_a_refusal_is(
    media_type: str | None, body: bytes, headers: dict[str, str], is_hub: bool
) -> None:
    given = CaseInsensitiveDict(headers if media_type is None else {"content-type": media_type, **headers})
    assert is_of_a_hub(given, body) is is_hub


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (Answer(HTML, 403, "text/html"), Verdict.UNCLEAR, "Or a proxy before the hub"),
        (Answer(HTML, 400, "text/html"), Verdict.UNCLEAR, "A proxy before the hub"),
        (Answer(HTML, 413, "text/html"), Verdict.UNCLEAR, "or the limit of the proxy before it"),
        (Answer(HTML, 200, "text/html"), Verdict.UNCLEAR, "something else than a Mercure hub"),
        (Answer(b"", 403, None), Verdict.UNCLEAR, "answered 403"),
        (Answer(HTML, 404, "text/html"), Verdict.MISCONFIGURED, "Is the path"),
        (Answer(HTML, 401, "text/html"), Verdict.MISCONFIGURED, "answered 401"),
        (Answer(HTML, 302, "text/html"), Verdict.MISCONFIGURED, "a redirect"),
        (Answer(HTML, 502, "text/html"), Verdict.LATER, "cannot serve now"),
        (Answer(b"Forbidden", 403), Verdict.REFUSED, "hub's log has the cause"),
        (Answer(b"no topic", 400), Verdict.REFUSED, "no topic"),
        (Answer(b"too large", 413), Verdict.REFUSED, "MERCURE_MAX_REQUEST_BODY_SIZE"),
    ],
)
def test_what_a_proxy_refuses_may_be_sent_again(answer: Answer, expected: Verdict, words: str) -> None:
    with running() as hub, publishing(hub) as publish:
        hub.answers = [answer]
        with pytest.raises(PublishError, match=words) as caught:
            publish("a")
    assert verdict(caught.value) is expected


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


def raised_while_handling(cause: Exception, error: Exception) -> Exception:
    """As urllib3 1 raises its errors: without ``from``."""
    try:
        try:
            raise cause
        except Exception:
            raise error  # noqa: B904
    except Exception as raised:
        return raised


def test_errors_of_urllib3_1_are_told_like_those_of_2() -> None:
    configuration = read_hubs({"MERCURE_JWT_SECRET": "!ChangeThisMercureHubJWTSecretKey!"})[0]["default"]
    late = raised_while_handling(TimeoutError("timed out"), ReadTimeoutError(None, "/", "Read timed out."))  # type: ignore[arg-type]
    told = unreachable(requests.ReadTimeout(late), configuration)
    assert str(told).startswith(f"no answer from {configuration.url}")
    assert told.possibly_published
    refused = raised_while_handling(
        ConnectionRefusedError(111, "Connection refused"),
        NewConnectionError(None, "<HTTPConnection>: Failed to establish: [Errno 111] Connection refused"),  # type: ignore[arg-type]
    )
    told = unreachable(requests.ConnectionError(MaxRetryError(None, "/", refused)), configuration)  # type: ignore[arg-type]
    assert ": Connection refused. Does the hub run?" in str(told)
    assert not told.possibly_published
