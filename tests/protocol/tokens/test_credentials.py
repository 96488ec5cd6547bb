"""Where the token is found, and which one counts when there are several."""

from __future__ import annotations

import pytest

from mercure_hub.protocol.errors import TokenMalformed
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.tokens.credentials import OLD_COOKIE, Credential, find, parse_cookies

COOKIE = "__Secure-mercure_access_token"
NAMES = (COOKIE, OLD_COOKIE)


def look(
    authorization: list[str] | None = None,
    cookies: dict[str, str] | None = None,
    query: Pairs | None = None,
    *,
    from_query: bool = True,
) -> Credential | None:
    return find(authorization or [], cookies or {}, query or [], cookie_names=NAMES, from_query=from_query)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER abc", "abc"),
        ("BeArEr abc", "abc"),
        ("Bearer  abc", "abc"),
        ("Bearer abc ", "abc"),
        ("Bearer abc\t", "abc"),
        ("Bearer a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"),
    ],
)
def test_a_token_in_the_header(header: str, token: str) -> None:
    assert look([header]) == Credential(token, "header")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer", "Bearer ", "Bearer   ", "bearer \t", "Bearer a b", "Bearer a,b", "Bearer a, Bearer b",
        "Bearer =", "Bearer ==a", "Bearer a=b", "Bearer é",
        'Bearer "a"', "Bearer a\n", "Bearer a\nb", "Bearer a\r\nX: y", "Bearer a;b", "Bearer a\0",
        "Bearer {}", "Bearer a\tb", "Bearer a\x85",
    ],
)  # fmt: skip
def test_a_bearer_token_that_cannot_be_read(header: str) -> None:
    with pytest.raises(TokenMalformed) as refusal:
        look([header], {COOKIE: "cookie"}, [("authorization", "query")])
    assert refusal.value.status == 400
    assert refusal.value.code == "invalid_request"
    assert refusal.value.cause == "the Authorization header has no readable token after Bearer"


@pytest.mark.parametrize(
    "header",
    [
        "Basic dXNlcjpwYXNz",
        "Digest x",
        "",
        "Bearerx abc",
        "Bearer2 abc",
        "Bearer\tabc",
        " Bearer abc",
        "Token Bearer abc",
        "abc",
        "DPoP abc",
    ],
)
def test_other_schemes_belong_to_others(header: str) -> None:
    assert look([header]) is None
    assert look([header], {COOKIE: "cookie"}) == Credential("cookie", "cookie")
    assert look([header, "Bearer abc"]) == Credential("abc", "header")
    assert look(["Bearer abc", header]) == Credential("abc", "header")


@pytest.mark.parametrize(
    "headers",
    [
        ["Bearer a", "Bearer b"],
        ["Bearer a", "bearer a"],
        ["Bearer a", "Basic x", "Bearer b"],
        ["Bearer a", "Bearer"],
    ],
)
def test_several_bearer_tokens(headers: list[str]) -> None:
    with pytest.raises(TokenMalformed, match="several"):
        look(headers)


@pytest.mark.parametrize(
    ("cookies", "found"),
    [
        ({}, None),
        ({"other": "x"}, None),
        ({COOKIE: "new"}, "new"),
        ({OLD_COOKIE: "old"}, "old"),
        ({OLD_COOKIE: "old", COOKIE: "new"}, "new"),
        ({OLD_COOKIE: "old", COOKIE: ""}, "old"),
        ({COOKIE: ""}, None),
        ({COOKIE.lower(): "x"}, None),
        ({"mercureauthorization": "x"}, None),
    ],
)
def test_a_token_in_the_cookie(cookies: dict[str, str], found: str | None) -> None:
    assert look(cookies=cookies) == (None if found is None else Credential(found, "cookie"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ([], None),
        ([("authorization", "q")], "q"),
        ([("authorization", "")], None),
        ([("authorization", ""), ("authorization", "q")], "q"),
        ([("authorization", "q"), ("authorization", "r")], "q"),
        ([("Authorization", "q")], None),
        ([("access_token", "q")], None),
        ([("topic", "x")], None),
    ],
)
def test_a_token_in_the_query(query: Pairs, found: str | None) -> None:
    assert look(query=query) == (None if found is None else Credential(found, "query"))
    assert look(query=query, from_query=False) is None


def test_header_before_query_before_cookie() -> None:
    cookies, query = {COOKIE: "cookie"}, [("authorization", "query")]
    assert look(["Bearer header"], cookies, query) == Credential("header", "header")
    assert look([], cookies, query) == Credential("query", "query")
    assert look([], cookies, query, from_query=False) == Credential("cookie", "cookie")
    assert look([], {}, []) is None


def test_a_credential_does_not_show_its_token() -> None:
    assert repr(Credential("the-token", "cookie")) == "Credential(source='cookie')"


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("", {}),
        (";", {}),
        ("a", {}),
        ("a=1", {"a": "1"}),
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2;", {"a": "1", "b": "2"}),
        (" a = 1 ; b = 2 ", {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ("a=; a=2", {"a": ""}),
        ("a=b=c==", {"a": "b=c=="}),
        ('a="x y"', {"a": "x y"}),
        ("a; b=2", {"b": "2"}),
        ("A=1; a=2", {"A": "1", "a": "2"}),
        ("=x", {"": "x"}),
        ("a=%41", {"a": "%41"}),
        ("a=1, b=2", {"a": "1, b=2"}),
        ("$Version=1; a=1", {"$Version": "1", "a": "1"}),
    ],
)
def test_cookies_of_a_header(header: str, cookies: dict[str, str]) -> None:
    assert parse_cookies(header) == cookies


def test_a_first_cookie_with_a_name_cannot_be_replaced() -> None:
    """User agents send the one with the longest path first."""
    assert look(cookies=parse_cookies(f"{COOKIE}=first; {COOKIE}=second")) == Credential("first", "cookie")
