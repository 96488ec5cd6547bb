"""The cookie that carries a browser's access token to the hub (spec, Cookie; RFC 6265)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers, ResponseCacheControl
from werkzeug.http import dump_cookie, parse_cache_control_header, parse_set_header

from flask_mercure.errors import CookieError

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"/[\x21-\x3a\x3c-\x7e]*")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_MAX_BYTES = 4096
"""What browsers keep of a cookie, its attributes included (RFC 6265 section 6.1)."""

# Names below which a registry of a country sells domains: co.uk, com.au, or.jp … Browsers know the whole
# public suffix list and refuse a cookie for any of it. This is no copy: it catches the usual ones.
_SECOND_LEVEL = re.compile("ac|com?|edu|gob?|govt?|gv|mil|net?|nom|org?|sch")
_PORTS = {"http": ":80", "https": ":443"}
_LOOPBACK = ("127.0.0.1", "localhost")
_SHARED_HOSTING = (
    *("appspot.com", "azurewebsites.net", "cloudfront.net", "fly.dev", "github.io", "gitlab.io"),
    *("herokuapp.com", "netlify.app", "ngrok.io", "onrender.com", "pages.dev", "run.app"),
    *("vercel.app", "web.app", "workers.dev"),
)


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """How the authorization cookie is set, the same for each user.

    :param name: of the cookie, which the hub must know.
    :param public_url: of the hub, to which browsers send the cookie.
    :param path: ``Path`` attribute.
    :param domain: ``Domain`` attribute; ``None``: derived from the hosts of app and hub.
    :param secure: ``Secure`` attribute.
    :param same_site: ``SameSite`` attribute; ``None`` leaves it out.
    :param partitioned: ``Partitioned`` attribute (CHIPS): one jar for each site that embeds the page.
    :param setting: the names of the settings, for messages.
    :raises ValueError: a browser would refuse each such cookie, or never send it to the hub; the message
        names the configuration key.
    """

    name: str
    public_url: str
    path: str
    domain: str | None
    secure: bool
    same_site: str | None
    partitioned: bool = False
    setting: Callable[[str], str] = "MERCURE_{}".format
    host: str = field(init=False)

    def __post_init__(self) -> None:
        of = self.setting
        url = urlsplit(self.public_url)
        object.__setattr__(self, "host", _normalized(url.hostname or ""))
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{of('COOKIE_NAME')} is {self.name!r}, which cannot be the name of a cookie")
        if not _PATH.fullmatch(self.path):
            raise ValueError(f"{of('COOKIE_PATH')} is {self.path!r}; it must start with / and have no ;")
        if not _path_matches(url.path, self.path):
            raise ValueError(
                f"{of('COOKIE_PATH')} is {self.path!r}: browsers would not send the cookie to the hub at "
                f"{url.path!r} ({of('PUBLIC_URL')})"
            )
        if self.partitioned:
            self._check_partitioned()
        prefix = self.name.lower()
        if not self.secure:
            if prefix.startswith(("__secure-", "__host-", "__http-")):
                raise ValueError(
                    f"{of('COOKIE_SECURE')} is False, and browsers refuse a cookie named {self.name} without "
                    f"Secure: set {of('COOKIE_NAME')}, in the hub too, to a name such as mercure_access_token"
                )
            if self.same_site == "None":
                raise ValueError(
                    f"{of('COOKIE_SAMESITE')} is 'None', which browsers refuse without Secure: "
                    f"set {of('COOKIE_SECURE')}=True, or {of('COOKIE_SAMESITE')}='Lax'"
                )
        if prefix.startswith("__host-") and (self.path != "/" or self.domain is not None):
            raise ValueError(
                f"{of('COOKIE_NAME')} is {self.name}: browsers want {of('COOKIE_PATH')}='/' and no "
                f"{of('COOKIE_DOMAIN')} with it; the prefix __Secure- has neither rule"
            )
        if self.domain is not None:
            self._check_domain(self.domain)

    def _check_partitioned(self) -> None:
        of = self.setting
        named = f"{of('COOKIE_PARTITIONED')} is True"
        if not self.secure:
            raise ValueError(
                f"{named}, and browsers refuse a Partitioned cookie without Secure: set "
                f"{of('COOKIE_SECURE')}=True"
            )
        if self.same_site != "None":
            raise ValueError(
                f"{named} and {of('COOKIE_SAMESITE')} is {self.same_site!r}: a Partitioned cookie is "
                "for pages inside a frame of another site, and there browsers send only SameSite=None; leave "
                "one of the two out"
            )

    def collides_with(self, other: CookiePolicy) -> bool:
        """Whether a browser may keep one cookie for both: equal name and path, and a domain for both hosts.

        :param other: the cookie of another hub.
        """
        if (self.name, self.path) != (other.name, other.path):
            return False
        if self.domain is not None and other.domain is not None:
            return self.domain == other.domain
        return is_same_site(self.host, other.host)

    def is_set(self, headers: Headers) -> str | None:
        """The value that the response gives the cookie; empty when it deletes it, ``None`` without it.

        :param headers: of the response.
        """
        for line in headers.getlist("Set-Cookie"):
            if _identity(line)[:2] == (self.name, self.path):
                return line.partition(";")[0].partition("=")[2]
        return None

    def _check_domain(self, domain: str) -> None:
        of = self.setting
        if not _HOST_NAME.fullmatch(domain) or _is_address(domain):
            raise ValueError(f"{of('COOKIE_DOMAIN')} is {domain!r}; it must be a domain name, not an address")
        if "." not in domain:
            raise ValueError(f"{of('COOKIE_DOMAIN')} is {domain!r}; browsers refuse a domain of one label")
        if not _domain_matches(self.host, domain):
            raise ValueError(
                f"{of('COOKIE_DOMAIN')} is {domain!r}, which is neither {self.host!r}, the host of "
                f"{of('PUBLIC_URL')}, nor a parent of it"
            )

    def set(self, headers: Headers, request_host: str, token: str, max_age: int | None) -> None:
        """Add the cookie to the headers of a response.

        :param headers: of the response; an earlier cookie of this name is replaced.
        :param request_host: host of the request, without port.
        :param token: in compact serialization.
        :param max_age: seconds; ``None`` for a cookie that ends with the browser's session.
        :raises CookieError: a browser would refuse it.
        """
        line = self._line(request_host, token, max_age)
        if len(line) > _MAX_BYTES:
            raise CookieError(
                f"the cookie has {len(line)} bytes, {len(token)} of them the token, and browsers refuse more "
                f"than {_MAX_BYTES}: name fewer topics, one URLPattern for many topics, or fewer claims"
            )
        replace_cookie(headers, line)

    def clear(self, headers: Headers, request_host: str) -> None:
        """Add a cookie without content that makes the browser delete the one with the token.

        :param headers: of the response.
        :param request_host: host of the request, without port.
        :raises CookieError: no browser can have such a cookie from this host.
        """
        replace_cookie(headers, self._line(request_host, "", 0))

    def is_delivered_over_http(self, request_host: str) -> bool:
        """Whether the cookie works without TLS: not ``Secure``, or on the trusted loopback."""
        return not self.secure or is_loopback(request_host)

    def url_for(self, request_host: str) -> str:
        """The hub's URL for a page, so that the page's cookie reaches the hub.

        :param request_host: host of the request, without port.
        :returns: ``public_url``; with the page's host where that is the other of ``localhost`` and
            ``127.0.0.1``.
        """
        if not self._is_same_machine(request_host):
            return self.public_url
        url = urlsplit(self.public_url)
        port = "" if url.port is None else f":{url.port}"
        return url._replace(netloc=_normalized(request_host) + port).geturl()

    def urls(self) -> list[str]:
        """All that :meth:`url_for` gives: what a hub may take for its own URL that goes by ``Host``."""
        return [self.public_url, *map(self.url_for, _LOOPBACK)]

    def domain_for(self, request_host: str) -> str | None:
        """The ``Domain`` attribute that makes the cookie reach app and hub, and as few others as possible.

        :param request_host: host of the request, without port.
        :returns: ``None`` when both have the same host: a cookie for this host alone.
        :raises CookieError: there is no such domain.
        """
        of = self.setting
        app = _normalized(request_host)
        if self.domain is not None:
            if not _domain_matches(app, self.domain):
                raise CookieError(
                    f"the page comes from {app!r}, outside of {of('COOKIE_DOMAIN')}={self.domain!r}: "
                    "browsers refuse such a cookie"
                )
            return self.domain
        if app == self.host or self._is_same_machine(app):
            return None
        between = f"the page comes from {app!r} and the hub is at {self.host!r} ({of('PUBLIC_URL')})"
        if self.name.lower().startswith("__host-"):
            raise CookieError(
                f"{between}: a cookie with the prefix __Host- stays on one host; set {of('COOKIE_NAME')} "
                "to a name with the prefix __Secure-"
            )
        if _is_address(app) or _is_address(self.host):
            raise CookieError(
                f"{between}: a cookie cannot be shared between an IP address and another host; open the page "
                f"by the host of {of('PUBLIC_URL')}, or put the hub behind the app's host"
            )
        parent = _shared_parent(app, self.host)
        if _is_public_suffix(parent):
            shared = (
                f"all that they share is {parent!r}, which is public" if parent else "they share no domain"
            )
            raise CookieError(
                f"{between}: {shared}, so no cookie can reach both. Put the hub on a subdomain of the site "
                "or behind the app's host; else give the page a token, with mercure.session(token=True). "
                f"{of('COOKIE_DOMAIN')} overrules this"
            )
        return parent

    def _is_same_machine(self, request_host: str) -> bool:
        # With TLS the certificate may have one of the names only.
        return self.public_url.startswith("http:") and _is_one_machine(request_host, self.host)

    def _line(self, request_host: str, value: str, max_age: int | None) -> str:
        return dump_cookie(
            self.name,
            value,
            max_age=max_age,
            expires=0 if max_age == 0 else None,
            path=self.path,
            domain=self.domain_for(request_host),
            secure=self.secure,
            httponly=True,
            samesite=self.same_site,
            max_size=0,
            # not partitioned=…: werkzeug has it since 3.1
        ) + ("; Partitioned" if self.partitioned else "")


def replace_cookie(headers: Headers, line: str) -> None:
    """One cookie of a name, path and domain in a response (RFC 6265 section 4.1.1): the last wins.

    :param headers: of the response, which is kept out of shared caches.
    :param line: value of ``Set-Cookie``.
    """
    replaced = _identity(line)
    kept = [one for one in headers.getlist("Set-Cookie") if _identity(one) != replaced]
    headers.setlist("Set-Cookie", [*kept, line])
    keep_private(headers)


def identity_cookie(url: str) -> str:
    """Return the name of the mark by which scripts know whose cookie the browser has.

    The JavaScript module makes the same name.

    :param url: public URL of the hub.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_PORTS.get(parts.scheme, ""))
    return "mercure_identity_" + re.sub("[^A-Za-z0-9]+", "_", host + (parts.path or "/"))


def _identity(line: str) -> tuple[str, str, str]:
    """What makes two cookies one to a browser: name, path and domain (RFC 6265 section 5.3)."""
    pair, *rest = line.split(";")
    attributes = {
        name.strip().lower(): value.strip() for name, _, value in (one.partition("=") for one in rest)
    }
    return pair.partition("=")[0].strip(), attributes.get("path", ""), attributes.get("domain", "")


def _path_matches(request_path: str, cookie_path: str) -> bool:
    """RFC 6265 section 5.1.4."""
    return request_path.startswith(cookie_path) and (
        cookie_path.endswith("/") or request_path[len(cookie_path) :][:1] in ("", "/")
    )


def keep_private(headers: Headers) -> None:
    """Keep a response with a cookie of one user out of the caches that several users share.

    RFC 9111 sections 3.5, 4.1, 5.2.2. Rules for the browser's own cache stay.

    :param headers: of the response.
    """
    control = parse_cache_control_header(headers.get("Cache-Control"), cls=ResponseCacheControl)
    control.public = False
    control.s_maxage = None
    control.private = True
    headers["Cache-Control"] = control.to_header()
    for name in ("CDN-Cache-Control", "Surrogate-Control"):
        headers.pop(name, None)
    vary = parse_set_header(headers.get("Vary"))
    if "*" not in vary:
        vary.add("Cookie")
        headers["Vary"] = vary.to_header()


def is_loopback(host: str) -> bool:
    """Whether browsers treat the host as trustworthy without TLS (W3C, Secure Contexts, 3.1)."""
    name = _normalized(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback


def _is_one_machine(one: str, other: str) -> bool:
    """Whether both are names of this machine's IPv4 loopback: two hosts to a cookie, but one server.

    :param one: a host, without port.
    :param other: another one.
    """
    return {_normalized(one), _normalized(other)} <= set(_LOOPBACK)


def is_same_site(one: str, other: str) -> bool:
    """Whether two hosts belong to one site, as far as that is known without the public suffix list.

    :param one: a host, without port.
    :param other: another one.
    """
    left, right = _normalized(one), _normalized(other)
    if left == right:
        return True
    return not (_is_address(left) or _is_address(right) or _is_public_suffix(_shared_parent(left, right)))


def host_of(authority: str) -> str:
    """The host of a ``Host`` header, without its port."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _normalized(host: str) -> str:
    return host.lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _domain_matches(host: str, domain: str) -> bool:
    """RFC 6265 section 5.1.3."""
    return host == domain or (host.endswith(f".{domain}") and not _is_address(host))


def _shared_parent(one: str, other: str) -> str:
    shared: list[str] = []
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        shared.append(left)
    return ".".join(reversed(shared))


def _is_public_suffix(domain: str) -> bool:
    labels = domain.split(".")
    if len(labels) == 1 or domain in _SHARED_HOSTING:
        return True
    return len(labels) == 2 and len(labels[1]) == 2 and _SECOND_LEVEL.fullmatch(labels[0]) is not None
