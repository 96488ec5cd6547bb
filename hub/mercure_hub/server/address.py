"""Who the client is and which URL it used, through proxies that are trusted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from mercure_hub.protocol.errors import InvalidRequest, Misdirected
from mercure_hub.protocol.identity import Identity, derived

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MAX_ADDRESS = 64  # what is longer is none, and must not fill the memory of _is_in
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Addressing:
    """Derives what a request is for.

    :param scheme: ``https`` when the hub itself ends TLS.
    :param public: the configured public URL, or ``None`` to derive it from each request.
    :param allowed: public URLs that are served; empty: all.
    :param trusted_proxies: networks whose ``X-Forwarded-*`` fields count.
    """

    scheme: str = "http"
    public: Identity | None = None
    allowed: Collection[str] = ()
    trusted_proxies: Sequence[Network] = ()

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address: the last one in ``X-Forwarded-For`` that is no trusted proxy."""
        if not self._trusts(peer):
            return peer
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop[:_MAX_ADDRESS]
        return hops[0][:_MAX_ADDRESS] if hops else peer

    def identity(self, peer: str, headers: Mapping[str, str], *, any_url: bool = False) -> Identity:
        """The hub's public URL for a request.

        :param any_url: serve it whatever its URL, as a health check comes by an internal one.
        :raises InvalidRequest: the host is not one.
        :raises Misdirected: the URL is not served (MERCURE_ALLOWED_URLS).
        """
        used = self._derive(peer, headers)
        if self.allowed and not any_url and used.url not in self.allowed:
            raise Misdirected(f"{used.url} is not served here (MERCURE_ALLOWED_URLS).")
        return self.public or used

    def _derive(self, peer: str, headers: Mapping[str, str]) -> Identity:
        scheme, host = self.scheme, headers.get("host", "localhost")
        if ("x-forwarded-proto" in headers or "x-forwarded-host" in headers) and self._trusts(peer):
            # The last value is the one that the trusted proxy wrote; those before it may be the client's.
            forwarded = headers.get("x-forwarded-proto", scheme).rpartition(",")[2].strip().lower()
            scheme = forwarded if forwarded in _DEFAULT_PORTS else scheme
            host = headers.get("x-forwarded-host", host).rpartition(",")[2].strip()
        return _derived(scheme, host)

    def _trusts(self, address: str) -> bool:
        if not self.trusted_proxies or len(address) > _MAX_ADDRESS:
            return False
        return _is_in(address, tuple(self.trusted_proxies))


@lru_cache(maxsize=1024)
def _derived(scheme: str, host: str) -> Identity:
    if not _HOST.fullmatch(host):
        raise InvalidRequest("The Host header is not a host and port.", "Host")
    return derived(scheme, host.removesuffix(_DEFAULT_PORTS[scheme]))


@lru_cache(maxsize=4096)
def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # an IPv4 client of a hub that listens on [::]
    return any(parsed in network for network in networks)
