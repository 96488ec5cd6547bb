"""Hosts, as browsers judge them: what is trusted without TLS, what is one site, what a cookie can reach."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# Names below which a registry of a country sells domains: co.uk, com.au, or.jp … Browsers know the whole
# public suffix list and refuse a cookie for any of it. This is no copy: it catches the usual ones.
_SECOND_LEVEL = re.compile("ac|com?|edu|gob?|govt?|gv|mil|net?|nom|org?|sch")
LOOPBACK = ("127.0.0.1", "localhost")
_SHARED_HOSTING = (
    *("appspot.com", "azurewebsites.net", "cloudfront.net", "fly.dev", "github.io", "gitlab.io"),
    *("herokuapp.com", "netlify.app", "ngrok.io", "onrender.com", "pages.dev", "run.app"),
    *("vercel.app", "web.app", "workers.dev"),
)


def is_loopback(host: str) -> bool:
    """Tell whether browsers treat the host as trustworthy without TLS (W3C, Secure Contexts, 3.1)."""
    name = normal(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback


def is_one_machine(one: str, other: str) -> bool:
    """Tell whether both are names of this machine's IPv4 loopback: two hosts to a cookie, and one server.

    :param one: a host, without port.
    :param other: another one.
    """
    return {normal(one), normal(other)} <= set(LOOPBACK)


def is_same_site(one: str, other: str) -> bool:
    """Tell whether two hosts belong to one site, as far as that is known without the public suffix list.

    :param one: a host, without port.
    :param other: another one.
    """
    left, right = normal(one), normal(other)
    if left == right:
        return True
    return not (is_address(left) or is_address(right) or is_public_suffix(common_parent(left, right)))


def host_of(authority: str) -> str:
    """The host of a ``Host`` header, without its port."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def normal(host: str) -> str:
    return host.lower().removesuffix(".")


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def domain_matches(host: str, domain: str) -> bool:
    """RFC 6265 section 5.1.3."""
    return host == domain or (host.endswith(f".{domain}") and not is_address(host))


def common_parent(one: str, other: str) -> str:
    shared: list[str] = []
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        shared.append(left)
    return ".".join(reversed(shared))


def is_public_suffix(domain: str) -> bool:
    labels = domain.split(".")
    if len(labels) == 1 or domain in _SHARED_HOSTING:
        return True
    return len(labels) == 2 and len(labels[1]) == 2 and _SECOND_LEVEL.fullmatch(labels[0]) is not None
