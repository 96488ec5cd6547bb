"""The hub as clients know it: its public URL and everything that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes, urlsplit

from urlpattern import URLPattern

WELL_KNOWN = "/.well-known/mercure"
_METADATA = "/.well-known/oauth-protected-resource"
_ANY_URL = URLPattern({})


@dataclass(frozen=True, slots=True)
class Identity:
    """The hub's public URL.

    :param url: absolute URL; the resource identifier that tokens name in ``aud``, and the base of
        relative patterns and topics (spec, Token Validation and URL Pattern).
    """

    url: str
    path: str = field(init=False)
    origin: str = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        object.__setattr__(self, "path", parts.path)
        object.__setattr__(self, "origin", f"{parts.scheme}://{parts.netloc}")

    @property
    def metadata_path(self) -> str:
        """Path of the protected resource metadata (RFC 9728 section 3.1)."""
        return _METADATA + ("" if self.path == "/" else self.path)

    @property
    def metadata_url(self) -> str:
        """URL of the protected resource metadata."""
        return self.origin + self.metadata_path

    @property
    def subscriptions_path(self) -> str:
        """Path of the subscription API and prefix of subscription event topics."""
        return self.path.rstrip("/") + "/subscriptions"


@lru_cache(maxsize=1024)
def derived(scheme: str, host: str, path: str = WELL_KNOWN) -> Identity:
    """The identity that a request implies when no public URL is configured.

    :param scheme: ``http`` or ``https``, as the client used it.
    :param host: the request's ``Host``, with its port when it is not the default one.
    """
    return Identity(f"{scheme}://{host.lower()}{path}")


def is_reserved(topic: str, identity: Identity) -> bool:
    """Tell whether a topic addresses the namespace that only the hub publishes in.

    The topic is resolved against the hub's URL as a browser would; scheme and authority do not
    count (spec, Publication, ``topic``).

    :param topic: a topic whose characters are valid.
    :param identity: the hub's public URL.
    """
    reserved = identity.path.rstrip("/")
    result = _ANY_URL.exec(topic, identity.url)
    if result is None:
        return False
    path = _unescape_unreserved(result["pathname"]["input"])
    return path.rstrip("/") == reserved or path.startswith(reserved + "/")


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _unescape_unreserved(path: str) -> str:
    """Decode the percent-encoded octets that need no encoding (RFC 3986 section 6.2.2.2)."""
    if "%" not in path:
        return path
    head, *rest = path.split("%")
    decoded = [head]
    for part in rest:
        octet = unquote_to_bytes("%" + part[:2])
        if len(octet) == 1 and octet[0] in _UNRESERVED:
            decoded.append(chr(octet[0]) + part[2:])
        else:
            decoded.append("%" + part)
    return "".join(decoded)
