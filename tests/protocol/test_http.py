"""Form parsing against the URL standard, section 5.1."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from mercure_hub.protocol import errors
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.http import (
    Answer,
    Pairs,
    error_answer,
    json_answer,
    parse_form,
    prefers,
    text_answer,
)


@pytest.mark.parametrize(
    ("encoded", "pairs"),
    [
        (b"", []),
        (b"&", []),
        (b"&&&", []),
        (b"a=1", [("a", "1")]),
        (b"a=1&b=2", [("a", "1"), ("b", "2")]),
        (b"a=1&a=2", [("a", "1"), ("a", "2")]),
        (b"&a=1&&b=2&", [("a", "1"), ("b", "2")]),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"a&b", [("a", ""), ("b", "")]),
        (b"=", [("", "")]),
        (b"=x", [("", "x")]),
        (b"a==", [("a", "=")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"a;b=2", [("a;b", "2")]),
        (b"a+b=c+d", [("a b", "c d")]),
        (b"a=%2B%20+", [("a", "+  ")]),
        (b"a=%", [("a", "%")]),
        (b"a=%%", [("a", "%%")]),
        (b"a=%4", [("a", "%4")]),
        (b"a=%zz", [("a", "%zz")]),
        (b"a=%4z%41", [("a", "%4zA")]),
        (b"a=100%&b=1", [("a", "100%"), ("b", "1")]),
        (b"%61%3D=%26%3D", [("a=", "&=")]),
        (b"a=%C3%A9", [("a", "é")]),
        ("é=ü".encode(), [("é", "ü")]),
        (b"a=%c3%a9%C3%A9", [("a", "éé")]),
        (b"a=%2541", [("a", "%41")]),
        (b"a=%00", [("a", "\0")]),
        (b"a=\r\n", [("a", "\r\n")]),
        (b"a=%EF%BB%BFx", [("a", "\ufeffx")]),
        (b"?a=1", [("?a", "1")]),
        (b"a=1#b", [("a", "1#b")]),
        (b"MATCH=1", [("MATCH", "1")]),
        (b"a[]=1", [("a[]", "1")]),
        ("a=😀".encode(), [("a", "😀")]),
        (b"a=%F0%9F%98%80", [("a", "😀")]),
        (rb"a=\x41\u0042%5C%5Cn\N{DEGREE SIGN}", [("a", r"\x41\u0042\\n\N{DEGREE SIGN}")]),
        (b"a=\\%41\\", [("a", "\\A\\")]),
        (rb"a=%\41%x41%", [("a", r"%\41%x41%")]),
    ],
)
def test_parses_as_the_url_standard_says(encoded: bytes, pairs: Pairs) -> None:
    assert parse_form(encoded) == pairs


@pytest.mark.parametrize(
    ("encoded", "field"),
    [
        (b"a=%FF", "a"),
        (b"a=\xff", "a"),
        (b"topic=%C3", "topic"),
        (b"topic=%C3%28", "topic"),
        (b"topic=%ED%A0%80", "topic"),  # a surrogate
        (b"topic=%C0%AF", "topic"),  # overlong
        (b"topic=%F4%90%80%80", "topic"),  # beyond Unicode
        (b"ok=1&data=%E9t%E9", "data"),
        (b"%FF=1", None),
        (b"\xff", None),
        (b"%FF=%FF", None),
    ],
)
def test_refuses_what_is_not_utf8(encoded: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_form(encoded)
    assert refusal.value.status == 400
    assert refusal.value.field == field


def test_a_million_separators_are_skipped() -> None:
    assert parse_form(b"&" * 1_000_000) == []


ASKED = [
    "zstd",
    "gzip, deflate, br, zstd",  # Chromium and Firefox
    "ZSTD",
    "zstd;q=1",
    "zstd;q=1.000",
    "zstd;q=0.001",
    "zstd ; Q=0.5",
    "gzip;q=1.0,\tzstd;q=0.2\t",
    ",, zstd ,",
    "zstd;q=0.5, identity;q=0.5",
    "zstd, identity",
    "zstd, *;q=0",
    "identity;q=0, zstd",
]
NOT_ASKED: list[str | None] = [
    None,
    "",
    "gzip, deflate, br",
    "*",
    "*;q=1, gzip",
    "identity",
    "zstd;q=0",
    "zstd;q=0.0",
    "zstd;q=0.000",
    "zstd, zstd;q=0",
    "zstd;q=0, zstd",
    "zstd;q=0.4, identity;q=0.5",
    "identity, zstd;q=0.999",
    "x-zstd",
    "zstd-x",
    "zstandard",
    "z std",
    ";q=1",
]
MALFORMED: list[str | None] = [
    "zstd;q=",
    "zstd;q=2",
    "zstd;q=1.001",
    "zstd;q=0.1234",
    "zstd;q=-1",
    "zstd;q=nan",
    "zstd;q=1e-3",
    "zstd;level=3",
    "zstd;q=1;q=1",
    "zstd q=1",
    'zstd;q="1"',
    "zstd;",
]


@pytest.mark.parametrize("field", ASKED)
def test_codings_that_a_client_asks_for(field: str) -> None:
    assert prefers("zstd", field)


@pytest.mark.parametrize("field", NOT_ASKED + MALFORMED)
def test_codings_that_a_client_does_not_ask_for(field: str | None) -> None:
    assert not prefers("zstd", field)


def test_a_long_field_takes_no_long_time() -> None:
    started = time.process_time()
    for field in ("zstd;q=0" + " " * 60_000 + "x", "," * 60_000, "a;q=1," * 10_000):
        assert not prefers("zstd", field)
    assert time.process_time() - started < 1


METADATA = "https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"

ANSWERS: list[tuple[errors.MercureError, int, str | None]] = [
    (errors.InvalidRequest("x"), 400, None),
    (errors.NotFound("x"), 404, None),
    (errors.MethodNotAllowed("x", "GET"), 405, None),
    (errors.RequestTimeout("x"), 408, None),
    (errors.ContentTooLarge("x"), 413, None),
    (errors.UnsupportedMedia("x"), 415, None),
    (errors.Misdirected("x"), 421, None),
    (errors.UpgradeRequired("x"), 426, None),
    (errors.TooManyRequests("x", 7), 429, None),
    (errors.TooManyRevocations("x", 7), 429, None),
    (errors.TooManyPatterns("x", 7), 429, None),
    (errors.HeaderTooLarge("x"), 431, None),
    (errors.TokenMissing("x"), 401, ""),
    (errors.TokenInvalid("x"), 401, "invalid_token"),
    (errors.KeyUnknown("x", "urn:issuer"), 401, "invalid_token"),
    (errors.TokenRevoked("x"), 401, "invalid_token"),
    (errors.TokenMalformed("x"), 400, "invalid_request"),
    (errors.InsufficientScope("x"), 403, "insufficient_scope"),
    (errors.CrossSite("x"), 403, "insufficient_scope"),
    (errors.StorageError("x"), 503, None),
    (errors.StorageUnusable("x"), 503, None),
    (errors.StorageAway("x"), 503, None),
    (errors.StorageInDoubt("x"), 503, None),
    (errors.KeyMaterialError("x"), 500, None),
    (errors.PassphraseError("x"), 500, None),
    (errors.MercureError("x"), 500, None),
    (errors.AuthorizationError("x"), 401, ""),
]


def challenge_of(result: Answer) -> str | None:
    return dict(result.headers).get("WWW-Authenticate")


@pytest.mark.parametrize(("error", "status", "code"), ANSWERS, ids=lambda value: type(value).__name__)
def test_status_and_challenge(error: errors.MercureError, status: int, code: str | None) -> None:
    result = error_answer(error, METADATA)
    document = json.loads(result.body)
    assert result.status == status
    assert document["status"] == status
    assert document["title"]
    assert dict(result.headers)["Content-Type"] == "application/problem+json"
    challenge = challenge_of(result)
    if code is None:
        assert challenge is None
        assert status not in (401, 403)
    else:
        error_parameter = f', error="{code}"' if code else ""
        assert challenge == f'Bearer realm="mercure"{error_parameter}, resource_metadata="{METADATA}"'
        assert "error" not in document, "the code is not repeated in the body"
    assert len(dict(result.headers)) == len(result.headers)


def test_every_error_has_its_answer() -> None:
    kinds = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.MercureError)
    }
    assert kinds == {type(error) for error, _, _ in ANSWERS}


def test_the_challenge_without_metadata() -> None:
    assert challenge_of(error_answer(errors.TokenMissing("x"))) == 'Bearer realm="mercure"'


@pytest.mark.parametrize("kind", [errors.TokenMissing, errors.TokenInvalid])
def test_the_cause_of_a_401_is_for_the_log(kind: type[errors.AuthorizationError]) -> None:
    result = error_answer(kind("the precise cause"), METADATA)
    assert b"precise cause" not in result.body
    assert "precise cause" not in str(result.headers)


def test_where_the_database_is_is_for_the_log() -> None:
    result = error_answer(errors.StorageError("the database sqlite:////srv/hub.db cannot be written"))
    assert b"srv" not in result.body
    assert b"log says why" in result.body


@pytest.mark.parametrize("kind", [errors.InsufficientScope, errors.CrossSite, errors.TokenMalformed])
def test_other_causes_are_shown(kind: type[errors.AuthorizationError]) -> None:
    assert json.loads(error_answer(kind("the precise cause")).body)["detail"] == "the precise cause"


NASTY = [
    'a"b',
    "a\\b",
    "a\r\nSet-Cookie: x=y",
    "\0",
    "é\u2028",
    "\ud800",
    "</script>",
    "x" * 10_000,
    '", error="none',
]


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("make", [
    lambda nasty: errors.InvalidRequest(nasty, nasty),
    lambda nasty: errors.ContentTooLarge(nasty, nasty),
    errors.InsufficientScope,
    errors.TokenInvalid,
    errors.TokenMalformed,
    errors.StorageError,
])  # fmt: skip
def test_no_detail_reaches_a_header(make: Any, nasty: str) -> None:
    result = error_answer(make(nasty), METADATA)
    for name, value in result.headers:
        assert nasty not in value
        assert re.fullmatch(r"[\x20-\x7e]*", name + value)
    assert isinstance(json.loads(result.body), dict)
    assert b"\n" not in result.body


def test_quotes_in_the_metadata_url_stay_quoted() -> None:
    challenge = challenge_of(error_answer(errors.TokenMissing("x"), 'https://h/"x\\y'))
    assert challenge == 'Bearer realm="mercure", resource_metadata="https://h/%22x%5Cy"'


def test_extra_headers_of_answers_to_errors() -> None:
    assert dict(error_answer(errors.MethodNotAllowed("x", "GET, POST")).headers)["Allow"] == "GET, POST"
    assert dict(error_answer(errors.TooManyRequests("x", 30)).headers)["Retry-After"] == "30"
    assert "Retry-After" in dict(error_answer(errors.StorageError("x")).headers)


def test_the_wrong_field_is_named() -> None:
    assert json.loads(error_answer(errors.InvalidRequest("x", "topic")).body)["field"] == "topic"
    assert "field" not in json.loads(error_answer(errors.InvalidRequest("x")).body)


def test_an_unknown_failure_tells_nothing() -> None:
    assert b"secret" not in error_answer(errors.KeyMaterialError("secret")).body


def test_a_text_answer() -> None:
    assert text_answer(200, "urn:é") == Answer(
        200, "urn:é".encode(), [("Content-Type", "text/plain; charset=utf-8")]
    )


@pytest.mark.parametrize(
    "document", [{}, {"a": 'é\u2028"\\\r\n\0'}, [1, None, True, 1.5], "\ud800", {"\udfff": "😀"}]
)
def test_a_json_answer(document: Any) -> None:
    result = json_answer(document)
    assert json.loads(result.body) == document
    assert result.status == 200
    assert result.headers == [("Content-Type", "application/json")]
    assert json_answer(document, "application/ld+json").headers == [("Content-Type", "application/ld+json")]


def test_headers_are_not_shared() -> None:
    first, second = Answer(200), Answer(200)
    first.headers.append(("a", "b"))
    assert second.headers == []
