"""Who the client is and which URL it used, through proxies that are trusted and others that are not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mercure_hub.protocol.errors import InvalidRequest, Misdirected
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.server.http import Addressing

PLAIN = Addressing()
PROXIED = Addressing(trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("::1"), ip_network("127.0.0.1")))


def url(addressing: Addressing, peer: str = "203.0.113.9", **headers: str) -> str:
    return addressing.identity(peer, {k.replace("_", "-"): v for k, v in headers.items()}).url


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("6.6.6.6,203.0.113.9 ,\t10.9.9.9,::1", "203.0.113.9"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("", "10.0.0.1"),
        (" , ,", "10.0.0.1"),
        ("unknown", "unknown"),
        ("10.0.0.1:1234", "10.0.0.1:1234"),
        ("10.0.0.256", "10.0.0.256"),
    ],
)
def test_the_client_is_the_last_hop_that_is_not_a_trusted_proxy(forwarded: str, client: str) -> None:
    assert PROXIED.client("10.0.0.1", {"x-forwarded-for": forwarded}) == client


def test_the_client_of_a_proxy_that_says_nothing() -> None:
    assert PROXIED.client("10.0.0.1", {}) == "10.0.0.1"


def test_what_a_stranger_says_of_itself_does_not_count() -> None:
    said = {"x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    for addressing in (PLAIN, PROXIED):
        assert addressing.client("203.0.113.9", said) == "203.0.113.9"
        identity = addressing.identity("203.0.113.9", {"host": "hub.example.com", **said})
        assert identity.url == "http://hub.example.com/.well-known/mercure"


@pytest.mark.parametrize("peer", ["::ffff:10.1.2.3", "::ffff:127.0.0.1", "::1", "127.0.0.1"])
def test_a_trusted_proxy_in_its_other_spelling(peer: str) -> None:
    """A hub that listens on [::] sees IPv4 clients as IPv6 ones."""
    assert PROXIED.client(peer, {"x-forwarded-for": "203.0.113.9"}) == "203.0.113.9"
    assert url(PROXIED, peer, host="h", x_forwarded_proto="https") == "https://h/.well-known/mercure"


@pytest.mark.parametrize("peer", ["::ffff:203.0.113.9", "11.0.0.1", "", "nonsense", "::10.0.0.1"])
def test_a_peer_that_is_not_in_a_trusted_network(peer: str) -> None:
    assert PROXIED.client(peer, {"x-forwarded-for": "6.6.6.6"}) == peer


def test_an_endless_hop_is_cut() -> None:
    assert len(PROXIED.client("10.0.0.1", {"x-forwarded-for": "1" * 5000})) == 64


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x_forwarded_proto": "https"}, "https://inner:3000"),
        ({"x_forwarded_proto": "http, HTTPS"}, "https://inner:3000"),
        ({"x_forwarded_proto": "gopher"}, "http://inner:3000"),
        ({"x_forwarded_proto": ""}, "http://inner:3000"),
        ({"x_forwarded_host": "hub.example.com"}, "http://hub.example.com"),
        ({"x_forwarded_host": "forged.example, hub.example.com"}, "http://hub.example.com"),
        (
            {"x_forwarded_host": "hub.example.com:443", "x_forwarded_proto": "https"},
            "https://hub.example.com",
        ),
        (
            {"x_forwarded_host": "hub.example.com:80", "x_forwarded_proto": "https"},
            "https://hub.example.com:80",
        ),
        (
            {"x_forwarded_host": "[2001:db8::1]:8443", "x_forwarded_proto": "https"},
            "https://[2001:db8::1]:8443",
        ),
    ],
)
def test_a_trusted_proxy_tells_scheme_and_host(headers: dict[str, str], expected: str) -> None:
    found = url(PROXIED, "10.0.0.1", host="inner:3000", **headers)
    assert found == f"{expected}/.well-known/mercure"


@pytest.mark.parametrize(
    ("scheme", "host", "expected"),
    [
        ("http", "hub.example.com", "http://hub.example.com"),
        ("http", "hub.example.com:80", "http://hub.example.com"),
        ("http", "hub.example.com:443", "http://hub.example.com:443"),
        ("https", "hub.example.com:443", "https://hub.example.com"),
        ("https", "hub.example.com:80", "https://hub.example.com:80"),
        ("http", "HUB.example.COM:3000", "http://hub.example.com:3000"),
        ("http", "127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http", "[::1]", "http://[::1]"),
        ("http", "[::1]:80", "http://[::1]"),
        ("http", "[2001:DB8::80]", "http://[2001:db8::80]"),
        ("https", "[::1]:443", "https://[::1]"),
    ],
)
def test_default_ports_are_dropped(scheme: str, host: str, expected: str) -> None:
    assert url(Addressing(scheme), host=host) == f"{expected}/.well-known/mercure"


def test_a_request_without_a_host_is_for_this_machine() -> None:
    assert url(PLAIN) == "http://localhost/.well-known/mercure"


JUNK = [
    "",
    " ",
    "a b",
    "a/b",
    "a?b",
    "a#b",
    "user@host",
    "a:b",
    "a:",
    "a:123456",
    "a:99999",
    "a:80:80",
    "a, b",
    "[::1",
    "::1",
    "[::1]x",
    "[zz]",
    "a\\b",
    "<script>",
    '"',
    "caf\xc3\xa9",
    "a%2fb",
    "a\nb",
    "evil.example\x00.hub.example.com",
]


@pytest.mark.parametrize("host", JUNK)
def test_an_invalid_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        url(PLAIN, host=host)
    assert caught.value.status == 400
    if host:
        with pytest.raises(InvalidRequest):
            url(PROXIED, "10.0.0.1", host="fine", x_forwarded_host=host.replace(",", " "))


class TestAllowed:
    ALLOWED = ("https://hub.example.com/.well-known/mercure", "http://localhost:3000/.well-known/mercure")

    def test_an_allowed_url_is_served(self) -> None:
        addressing = Addressing(allowed=self.ALLOWED, trusted_proxies=PROXIED.trusted_proxies)
        assert url(addressing, host="localhost:3000") == self.ALLOWED[1]
        assert (
            url(addressing, "10.0.0.1", host="hub.example.com", x_forwarded_proto="https") == self.ALLOWED[0]
        )

    @pytest.mark.parametrize("host", ["hub.example.com", "localhost", "localhost:3001", "evil.example"])
    def test_a_url_that_is_not_allowed_is_misdirected(self, host: str) -> None:
        with pytest.raises(Misdirected, match="is not served here") as caught:
            url(Addressing(allowed=self.ALLOWED), host=host)
        assert caught.value.status == 421

    def test_the_public_url_changes_the_identity_and_not_what_is_served(self) -> None:
        public = Identity("https://example.com/hub/.well-known/mercure")
        assert url(Addressing(public=public), host="anything:1") == public.url
        with pytest.raises(InvalidRequest):
            url(Addressing(public=public), host="a/b")
        addressing = Addressing(public=public, allowed=self.ALLOWED)
        assert url(addressing, host="localhost:3000") == public.url
        with pytest.raises(Misdirected):
            url(addressing, host="anything:1")
