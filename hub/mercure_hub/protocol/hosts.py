"""Hosts: their syntax, and which addresses are on the public internet or this machine's own."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""A host and perhaps a port, as in ``Host`` and in URLs."""

_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is a host's on the public internet.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64) counts as that one.

    :param address: numeric, of either family, possibly with a scope.
    """
    ip = _parsed(address)
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:
            return is_public(str(IPv4Address(ip.packed[-4:])))
        if ip not in _UNICAST or ip.sixtofour is not None:  # 6to4 is gone (RFC 7526)
            return False
    return ip is not None and ip.is_global and not ip.is_multicast


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    ip = _parsed(address)
    return ip is not None and ip.is_loopback


def is_numeric(host: str) -> bool:
    """Whether a host is an address and no name."""
    return _parsed(host) is not None


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
