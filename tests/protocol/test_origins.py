"""Cross-origin reads and writes: no origin is reflected that is not listed."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from mercure_hub.protocol.errors import CrossSite
from mercure_hub.protocol.origins import check_publication, cors_headers, may_bring_cookie, preflight_headers

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
def test_origins_that_may_read(
    origin: str | None, allowed: Collection[str], value: str | None, credentials: bool
) -> None:
    headers = dict(cors_headers(origin, allowed))
    assert headers.get(ALLOW) == value
    assert (headers.get(CREDENTIALS) == "true") is credentials
    assert not (credentials and value == "*")
    assert ("Vary" in headers) is bool(allowed), "a cache must not give one origin's answer to another"
    if value is not None:
        assert {"Link", "Mercure-Last-Event-ID"} <= set(headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize(
    ("origin", "listed", "is_trusted"),
    [
        ("https://a.example.com", "https://*.example.com", True),
        ("https://a-b_1.example.com", "https://*.example.com", True),
        ("https://xn--bcher-kva.example.com", "https://*.example.com", True),
        ("https://example.com", "https://*.example.com", False),
        ("https://.example.com", "https://*.example.com", False),
        ("https://*.example.com", "https://*.example.com", False),
        ("https://a.b.example.com", "https://*.example.com", False),
        ("https://a.b.example.com", "https://*.b.example.com", True),
        ("https://evilexample.com", "https://*.example.com", False),
        ("https://example.com.evil.com", "https://*.example.com", False),
        ("https://a.example.com.evil.com", "https://*.example.com", False),
        ("https://evil.com/.example.com", "https://*.example.com", False),
        ("https://evil.com#.example.com", "https://*.example.com", False),
        ("https://evil.com?.example.com", "https://*.example.com", False),
        ("https://evil.com\\.example.com", "https://*.example.com", False),
        ("https://evil.com%2f.example.com", "https://*.example.com", False),
        ("https://evil.com:1.example.com", "https://*.example.com", False),
        ("https://evil.com@a.example.com", "https://*.example.com", False),
        ("https://user:x@a.example.com", "https://*.example.com", False),
        ("https://a.example.com@evil.com", "https://*.example.com", False),
        ("https://[::1].example.com", "https://*.example.com", False),
        ("https://a .example.com", "https://*.example.com", False),
        ("https://a\r\nX: y.example.com", "https://*.example.com", False),
        ("https://a.example.com\n", "https://*.example.com", False),
        ("https://a.example.com.", "https://*.example.com", False),
        ("https://ä.example.com", "https://*.example.com", False),
        ("https://A.example.com", "https://*.example.com", False),
        ("http://a.example.com", "https://*.example.com", False),
        ("null", "https://*.example.com", False),
        ("", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com:8443", True),
        ("https://a.example.com:8444", "https://*.example.com:8443", False),
        ("https://a.example.com", "https://*.example.com:8443", False),
        ("https://a.example.com:8443", "https://*.example.com:*", True),
        ("https://a.example.com", "https://*.example.com:*", True),
        ("https://a.example.com:x", "https://*.example.com:*", False),
        ("https://a.example.com:", "https://*.example.com:*", False),
        ("https://example.com:8443", "https://*.example.com:*", False),
    ],
)
def test_subdomains_of_an_allowed_origin(origin: str, listed: str, is_trusted: bool) -> None:
    headers = dict(cors_headers(origin, [listed]))
    assert headers.get(ALLOW) == (origin if is_trusted else None)
    assert (CREDENTIALS in headers) is is_trusted
    if is_trusted:
        check_publication(origin, None, SITE, [listed])
        check_publication(None, f"{origin}/page", SITE, [listed])
        assert may_bring_cookie(origin, SITE, [listed])
    else:
        with pytest.raises(CrossSite):
            check_publication(origin, None, SITE, [listed])
        with pytest.raises(CrossSite):
            may_bring_cookie(origin, SITE, [listed])


@pytest.mark.parametrize("private_network", [True, False])
def test_headers_of_a_preflight(private_network: bool) -> None:
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
def test_origins_that_may_not_read(origin: str | None, referer: str | None, allowed: list[str]) -> None:
    with pytest.raises(CrossSite) as refusal:
        check_publication(origin, referer, SITE, allowed)
    assert refusal.value.status == 403
