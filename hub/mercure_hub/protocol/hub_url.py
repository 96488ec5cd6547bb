"""The hub as clients know it: its public URL and everything that follows from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from urllib.parse import urlsplit

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.hosts import AUTHORITY

WELL_KNOWN = "/.well-known/mercure"
METADATA = "/.well-known/oauth-protected-resource"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
# How a topic begins that has a path of its own: an absolute one, one with an origin, a relative one.
_PATH = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z0-9._~-]+(?:/|$)")


@dataclass(frozen=True, slots=True)
class Identity:
    """The hub's public URL.

    :param url: absolute URL; the resource identifier that tokens name in ``aud``, and the base of
        relative patterns and topics (spec, Token Validation and URL Pattern).

    Topics are resolved against ``reserved_bases`` to find out whether they are reserved. ``name`` is the last
    segment of the path if nothing in it can be written in another way, else empty.
    """

    url: str
    path: str = field(init=False)
    origin: str = field(init=False)
    reserved_bases: tuple[str, str] = field(init=False, repr=False, compare=False)
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        object.__setattr__(self, "path", parts.path)
        object.__setattr__(self, "origin", f"{parts.scheme}://{parts.netloc}")
        # The authority does not matter for what is reserved, and the Host of a request can be invalid: with
        # x:99999 nothing would resolve. So use a stand-in. The scheme does not matter either: https:x is a
        # relative path only where the base has the scheme https.
        bases = tuple(f"{scheme}://mercure.invalid{parts.path}" for scheme in ("http", "https"))
        object.__setattr__(self, "reserved_bases", bases)
        name = parts.path.rpartition("/")[2]
        object.__setattr__(self, "name", name if _PLAIN_NAME.fullmatch(name) else "")

    @property
    def metadata_path(self) -> str:
        """Path of the protected resource metadata (RFC 9728 section 3.1)."""
        return METADATA + ("" if self.path == "/" else self.path)

    @property
    def metadata_url(self) -> str:
        """URL of the protected resource metadata."""
        return self.origin + self.metadata_path

    @property
    def subscriptions_path(self) -> str:
        """Path of the subscription API and prefix of subscription event topics."""
        return self.path.rstrip("/") + "/subscriptions"

    @property
    def counts_path(self) -> str:
        """Prefix of the paths of counts: an extension of this hub (docs/protocol.md)."""
        return self.path.rstrip("/") + "/counts"


@lru_cache(maxsize=1024)
def derived(scheme: str, host: str, path: str = WELL_KNOWN) -> Identity:
    """The identity that follows from a request when no public URL is configured.

    :param scheme: ``http`` or ``https``, as the client used it.
    :param host: the request's ``Host``, with its port when it is not the default one.
    :raises InvalidRequest: the host is invalid, so nothing could be resolved against the URL.
    """
    url = f"{scheme}://{host.lower()}{path}"
    if not AUTHORITY.fullmatch(host) or _resolved_path(url) is None:
        raise InvalidRequest("The Host header is not a host and port.", "Host")
    return Identity(url)


def is_reserved(topic: str, identity: Identity) -> bool:
    """Tell whether a topic addresses the namespace that only the hub publishes in.

    The topic is resolved against the hub's URL as a browser would; scheme and authority do not
    count (spec, Publication, ``topic``).

    :param topic: a topic whose characters are valid.
    :param identity: the hub's public URL.
    """
    if identity.name and identity.name not in topic and _brings_its_path(topic):
        return False  # to resolve it would take longer than all else that is checked of an update
    return any(_is_reserved(topic, base) for base in identity.reserved_bases)


def _brings_its_path(topic: str) -> bool:
    """Whether a topic certainly does not end up at the path of its base, and has its segments as they are."""
    return topic.isascii() and topic.isprintable() and "%" not in topic and _PATH.match(topic) is not None


@lru_cache(maxsize=2048)
def _is_reserved(topic: str, base: str) -> bool:
    path = _resolved_path(topic, base)
    if path is None:
        return False
    return any(path == own or path.startswith(f"{own}/") for own in _own_paths(base))


@lru_cache(maxsize=64)
def _own_paths(base: str) -> tuple[str, ...]:
    """The reserved paths, in the form in which topics are compared. A hub at ``/`` does not reserve all."""
    path = (_resolved_path("", base) or "").rstrip("/")
    return (path,) if path else ("/", "/subscriptions", "/counts")


def _resolved_path(topic: str, base: str | None = None) -> str | None:
    path = _pathname()(topic, base)
    return None if path is None else _unescape_unreserved(path)


@cache
def _pathname() -> Callable[[str, str | None], str | None]:
    # Imported late: the extension uses this module without the compiled library.
    from mercure_hub.protocol.matching.resolution import pathname  # noqa: PLC0415

    return pathname


# Letters, digits, - . _ ~ (RFC 3986 section 2.3)
_UNRESERVED = re.compile("%(2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])")


def _unescape_unreserved(path: str) -> str:
    """Decode the percent-encoded bytes that need no encoding (RFC 3986 section 6.2.2.2)."""
    return _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), path)
