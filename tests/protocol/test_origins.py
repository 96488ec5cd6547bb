"""Cross-origin reads and writes: no origin is reflected that is not listed."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from hub.protocol.errors import CrossSite
from hub.protocol.origins import check_publication, cors_headers, preflight_headers

SITE, OTHER = "https://site.example", "https://other.example"
ALLOW, CREDENTIALS = "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"


@pytest.mark.parametrize(
    ("origin", "allowed", "value", "credentials"),
    [
        (SITE, [], None, False),
        (None, [], None, False),
        (None, [SITE], None, False),
        (None, ["*"], None, False),
        (SITE, [SITE], SITE, True),
        (SITE, [OTHER, SITE], SITE, True),
        (OTHER, [SITE], None, False),
        (OTHER, ["*"], "*", False),
        (SITE, ["*", SITE], SITE, True),
        (OTHER, ["*", SITE], "*", False),
        ("*", ["*"], "*", False),
        ("*", [SITE], None, False),
        ("null", ["*"], "*", False),
        ("null", [SITE], None, False),
        ("", [SITE], None, False),
        (f"{SITE}/", [SITE], None, False),
        (f"{SITE}:443", [SITE], None, False),
        (f"{SITE}.evil.example", [SITE], None, False),
        ("https://evil.example?https://site.example", [SITE], None, False),
        ("http://site.example", [SITE], None, False),
        (SITE.upper(), [SITE], None, False),
        (f"{SITE}\r\nX: y", [SITE], None, False),
    ],
)
def test_who_may_read(
    origin: str | None, allowed: Collection[str], value: str | None, credentials: bool
) -> None:
    headers = dict(cors_headers(origin, allowed))
    assert headers.get(ALLOW) == value
    assert (headers.get(CREDENTIALS) == "true") is credentials
    assert not (credentials and value == "*")
    assert ("Vary" in headers) is bool(allowed), "a cache must not give one origin's answer to another"
    if value is not None:
        assert {"Link", "Mercure-Last-Event-ID"} <= set(headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize("private_network", [True, False])
def test_preflight(private_network: bool) -> None:
    headers = dict(preflight_headers(SITE, [SITE], private_network=private_network))
    assert headers[ALLOW] == SITE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert {"Authorization", "Last-Event-ID", "Content-Type"} <= set(
        headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert ("Access-Control-Allow-Private-Network" in headers) is private_network


@pytest.mark.parametrize(("origin", "allowed"), [(OTHER, [SITE]), (None, [SITE]), (SITE, []), (None, ["*"])])
def test_preflight_of_an_origin_that_is_not_allowed(origin: str | None, allowed: list[str]) -> None:
    headers = preflight_headers(origin, allowed, private_network=True)
    assert [name for name, _ in headers if name.startswith("Access-Control")] == []


@pytest.mark.parametrize(
    ("origin", "referer", "allowed"),
    [
        (SITE, None, []),
        (SITE, "https://evil.example/", []),  # Origin counts
        (OTHER, None, [OTHER]),
        (OTHER, None, ["*"]),
        ("null", None, ["*"]),
        (None, f"{SITE}/", []),
        (None, f"{SITE}/a/b?c#d", []),
        (None, SITE, []),
        (None, f"{OTHER}/x", [OTHER]),
        (None, f"{OTHER}/x", ["*"]),
    ],
)
def test_who_may_publish_with_a_cookie(origin: str | None, referer: str | None, allowed: list[str]) -> None:
    check_publication(origin, referer, SITE, allowed)


@pytest.mark.parametrize(
    ("origin", "referer", "allowed"),
    [
        (None, None, []),
        (None, None, ["*"]),
        (None, "", []),
        (None, "x", []),
        (None, "/relative", []),
        (None, "https://[", []),
        (None, "about:blank", ["*"]),
        (OTHER, None, []),
        (OTHER, f"{SITE}/", []),
        ("null", f"{SITE}/", []),
        ("", f"{SITE}/", []),
        ("*", None, []),
        (None, f"{OTHER}/{SITE}", []),
        (None, f"{SITE}.evil.example/", []),
        (None, "https://site.example@evil.example/", []),
        (None, "https://evil.example\\@site.example/", []),
        (None, "http://site.example/", []),
        (None, f"{SITE}:8443/", []),
        (f"{SITE}:8443", None, []),
        (f"{SITE}, {OTHER}", None, []),
    ],
)
def test_who_may_not(origin: str | None, referer: str | None, allowed: list[str]) -> None:
    with pytest.raises(CrossSite) as refusal:
        check_publication(origin, referer, SITE, allowed)
    assert refusal.value.status == 403
