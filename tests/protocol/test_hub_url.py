"""What follows from the hub's public URL, and the namespace that only the hub publishes in."""

from __future__ import annotations

import itertools

import pytest

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.hub_url import Identity, derived, is_reserved

HUB = Identity("https://hub.example.com/.well-known/mercure")
PREFIXED = Identity("https://example.com/hub/.well-known/mercure")


@pytest.mark.parametrize(
    ("url", "path", "origin", "metadata", "subscriptions"),
    [
        (
            "https://hub.example.com/.well-known/mercure",
            "/.well-known/mercure",
            "https://hub.example.com",
            "/.well-known/oauth-protected-resource/.well-known/mercure",
            "/.well-known/mercure/subscriptions",
        ),
        (
            "https://example.com/hub/.well-known/mercure",
            "/hub/.well-known/mercure",
            "https://example.com",
            "/.well-known/oauth-protected-resource/hub/.well-known/mercure",
            "/hub/.well-known/mercure/subscriptions",
        ),
        (
            "http://127.0.0.1:3000/hub",
            "/hub",
            "http://127.0.0.1:3000",
            "/.well-known/oauth-protected-resource/hub",
            "/hub/subscriptions",
        ),
        (
            "https://[::1]:8443/hub/",
            "/hub/",
            "https://[::1]:8443",
            "/.well-known/oauth-protected-resource/hub/",
            "/hub/subscriptions",
        ),
        (
            "https://hub.example.com/",
            "/",
            "https://hub.example.com",
            "/.well-known/oauth-protected-resource",
            "/subscriptions",
        ),
        (
            "https://hub.example.com",
            "",
            "https://hub.example.com",
            "/.well-known/oauth-protected-resource",
            "/subscriptions",
        ),
    ],
)
def test_what_follows_from_the_url(
    url: str, path: str, origin: str, metadata: str, subscriptions: str
) -> None:
    identity = Identity(url)
    assert identity.path == path
    assert identity.origin == origin
    assert identity.metadata_path == metadata
    assert identity.metadata_url == origin + metadata
    assert identity.subscriptions_path == subscriptions


@pytest.mark.parametrize(
    ("scheme", "host", "url"),
    [
        ("https", "hub.example.com", "https://hub.example.com/.well-known/mercure"),
        ("http", "localhost:3000", "http://localhost:3000/.well-known/mercure"),
        ("https", "HUB.Example.COM", "https://hub.example.com/.well-known/mercure"),
        ("http", "[::1]:3000", "http://[::1]:3000/.well-known/mercure"),
        ("http", "my_host", "http://my_host/.well-known/mercure"),
    ],
)
def test_derived_from_a_request(scheme: str, host: str, url: str) -> None:
    assert derived(scheme, host) == Identity(url)
    assert derived(scheme, host) is derived(scheme, host)


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "a b", "a/b", "a?b", "a#b", "a@b", "a\\b", "a,b", "[", "]", "[::1", "[zz]", "::1", "a:b",
            "a:",
        "h:99999", "h:-1", "1.2.3.4.5", "999.999.999.999", "a%zz", "a%2Fb", 'a"b', "a'b", "a<b>", "é.com",
        "ⓔ.com",
        "a\tb", "a\r\nX: y", "a\0b", "a\n", "xn--a",
    ],
)  # fmt: skip
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        derived("https", host)
    assert refusal.value.field == "Host"


RESERVED = [
    "/.well-known/mercure",
    "/.well-known/mercure/",
    "/.well-known/mercure//",
    "/.well-known/mercure/x",
    "/.well-known/mercure?x",
    "/.well-known/mercure#f",
    "/.well-known/mercure/subscriptions/exact/a/b",
    "https://hub.example.com/.well-known/mercure/subscriptions/exact/a/b",
    "https://other.example/.well-known/mercure/x",
    "http://hub.example.com:8080/.well-known/mercure",
    "ftp://x/.well-known/mercure",
    "foo://x/.well-known/mercure",
    "foo:/.well-known/mercure/x",
    "javascript:/.well-known/mercure/x",
    "//other.example/.well-known/mercure/x",
    "\\\\other.example\\.well-known\\mercure\\x",
    "\\.well-known\\mercure\\x",
    "/.well-known\\mercure",
    "/.well-known/%6Dercure/x",
    "/.well-known/%6d%65rcure/x",
    "/.well-known/me%72cure",
    "/.well-known/me%72cure/subscriptions/exact/a/b",
    "https://other.example/.well-known/me%72cure/x",
    "/.well-known/mercur%65",
    "/.well-known/%6D%65%72%63%75%72%65/x",
    "/%2Ewell-known/mercure",
    "/%2ewell%2Dknown/mercure/x",
    "/.well-known/./mercure",
    "/.well-known/x/../mercure",
    "/.well-known/mercure/../mercure/x",
    "/.well-known/%2e/mercure",
    "/.well-known/x/%2E%2e/mercure",
    "/.well-known/x/.%2e/mercure",
    "/../../.well-known/mercure",
    "/.well-known/x/y/../../mercure/z",
    "foo:/x/../.well-known/mercure",
    "https:\\\\x\\.well-known\\mercure",
    "https:/.well-known/mercure",
    "https:mercure",  # relative, since the scheme is the hub's
    "HTTPS://HUB.EXAMPLE.COM/.well-known/mercure",
    " /.well-known/mercure ",
    # Relative to the hub's own URL:
    "",
    "mercure",
    "mercure/x",
    "./mercure",
    "../.well-known/mercure",
    "?x",
    "#f",
    "%6Dercure",
    "me%72cure",
    "me%72cure/x",
    "mercure?x=/y",
]

FREE = [
    "*",
    "x",
    "/",
    "/x",
    "/.well-known",
    "/.well-known/",
    "/.well-known/mercury",
    "/.well-known/mercurex",
    "/.well-known/mercure.",
    "/.well-known/Mercure",
    "/.WELL-KNOWN/mercure",
    "//.well-known/mercure",  # the host is ".well-known"
    "/x/.well-known/mercure",
    "/.well-known//mercure",
    "/.well-known/mercure/..",
    "/.well-known/mercure/../x",
    "/.well-known%2Fmercure",  # an encoded slash is no separator
    "/.well-known/%256Dercure",  # decoded once, not twice
    "/.well-known/mercur%C3%A9",
    "/.well-known/me%2572cure",
    "/.well-known/me%52cure",  # an R
    "/.well-known/mercure%00",
    "/.well-known/mercure%20",
    "mercure2",
    "https://example.com/books/1",
    "https://example.com/?/.well-known/mercure",
    "https://example.com/#/.well-known/mercure",
    "https://hub.example.com",
    "urn:uuid:e1ee88e2-532a-4d6f-ba70-f0f8bd584022",
    "data:.well-known/mercure",
    "mailto:x@example.com",
    "foo:mercure",
    "foo://.well-known/mercure",
    "did:example:123/.well-known/mercure",
    # Not URLs, so they name no path of the hub:
    "https://",
    "https://[/.well-known/mercure",
    "https://a b/.well-known/mercure",
    "https://x:99999/.well-known/mercure",
    "https://%zz/.well-known/mercure",
    "//[x/.well-known/mercure",
]


@pytest.mark.parametrize("topic", RESERVED)
def test_reserved_in_every_disguise(topic: str) -> None:
    assert is_reserved(topic, HUB)


@pytest.mark.parametrize("topic", FREE)
def test_topics_that_are_not_reserved(topic: str) -> None:
    assert not is_reserved(topic, HUB)


@pytest.mark.parametrize(
    ("url", "reserved", "free"),
    [
        (
            PREFIXED.url,
            [
                "/hub/.well-known/mercure",
                "/hub/.well-known/mercure/x",
                "/hub/.well-known/%6Dercure/x",
                "",
                "mercure",
            ],
            ["/.well-known/mercure", "/.well-known/mercure/x", "/hub/x", "/hub/", "/hub"],
        ),
        ("https://example.com/hub", ["/hub", "/hub/", "/hub/x", "hub", ""], ["/hubx", "/", "/x/hub"]),
        ("https://example.com/hub/", ["/hub", "/hub/", "/hub/x", "", "x"], ["/hubx", "/", "../x"]),
        (
            "http://example.com/hub",
            ["http:hub/x", "http:hub", "https:hub/x", "https://o/hub/x", "http:///hub/hub/x"],
            ["ftp:hub/x", "http://hub/x"],
        ),
        # At the root of a host the hub's own resources are reserved, and not all there is.
        (
            "https://example.com/",
            [
                "",
                "/",
                "/subscriptions",
                "/subscriptions/exact/a/b",
                "https://o/subscriptions/x",
                "https://o//x",
                "?x",
            ],
            ["/x", "/books/1", "https://o/books/1", "/subscriptionsx", "urn:x"],
        ),
        ("https://example.com", ["", "/", "/subscriptions/x"], ["/x", "urn:x"]),
        # The hub's path is compared in the same form as the topic's.
        ("https://example.com/hüb", ["/hüb", "/h%C3%BCb/x", ""], ["/hub"]),
        ("https://example.com/%6Dercure", ["/mercure", "/%6dercure/x", ""], ["/x"]),
        ("https://example.com/a/../hub", ["/hub/x", "/a/../hub", ""], ["/a/hub"]),
    ],
)
def test_the_namespace_follows_the_public_url(url: str, reserved: list[str], free: list[str]) -> None:
    identity = Identity(url)
    assert [topic for topic in reserved if not is_reserved(topic, identity)] == []
    assert [topic for topic in free if is_reserved(topic, identity)] == []


@pytest.mark.parametrize("topic", RESERVED)
def test_the_scheme_by_which_a_publisher_comes_does_not_count(topic: str) -> None:
    """Subscribers by https resolve https:mercure/x to the hub's own path, whoever published it."""
    by_http = Identity(HUB.url.replace("https:", "http:"))
    for disguise in (topic, topic.replace("https:", "http:")):
        assert is_reserved(disguise, by_http)
        assert is_reserved(disguise, HUB)


@pytest.mark.parametrize("host", ["x:99999", "a b", "a%zz", "999.999.999.999", "h:1x"])
def test_a_host_that_is_no_base_opens_no_door(host: str) -> None:
    """A publisher who chooses the Host header must not choose what is reserved."""
    identity = Identity(f"https://{host}/.well-known/mercure")
    assert [topic for topic in RESERVED if not is_reserved(topic, identity)] == []


_STARTS = (
    "",
    "/",
    "//",
    "///",
    "https:",
    "http:",
    "https:/",
    "https://",
    "https://h",
    "urn:",
    "x://",
    "\\\\",
    "./",
    "?",
    "#",
)
_MIDDLES = ("", "/", "a", "a/", "../", "/..", ".", "/.well-known/", ".well-known\\", "hub/", "//b/")
_ENDS = ("", "mercure", "mercure/", "/mercure/x", "Mercure", "hub", "?mercure", "#", "subscriptions", "..")


@pytest.mark.parametrize(
    "url", [HUB.url, PREFIXED.url, "https://h/hub", "https://h/hub/", "https://h/", "https://h/a/.."]
)
def test_topics_that_need_no_resolution_are_judged_like_the_others(url: str) -> None:
    identity = Identity(url)
    for topic in map("".join, itertools.product(_STARTS, _MIDDLES, _ENDS)):
        resolved = f"{topic}%41" if "#" in topic else f"{topic}#%41"  # another fragment, which does not count
        assert is_reserved(topic, identity) is is_reserved(resolved, identity), topic


def test_a_long_topic_is_quick_to_judge() -> None:
    assert not is_reserved("/" + "a/../" * 400 + "x", HUB)
    assert not is_reserved("%" * 100_000, HUB)
