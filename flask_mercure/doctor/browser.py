"""What browsers do: keep and send the cookie or not, read answers of another origin, share connections."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from flask_mercure.client.connection import Head
from flask_mercure.cookies import CookiePolicy, is_loopback, is_same_site
from flask_mercure.doctor.addresses import Profile
from flask_mercure.doctor.connection import HubClient, Unreachable, dial, time_left
from flask_mercure.doctor.findings import (
    Finding,
    Symptom,
    apache,
    app,
    hub,
    nginx,
    note,
    ok,
    problem,
    skipped,
    warning,
)
from flask_mercure.errors import CookieError
from mercure_hub.protocol.errors import Section
from mercure_hub.protocol.tokens.credentials import OLD_COOKIE

_ALLOW_ORIGIN = "access-control-allow-origin"
_ALLOW_CREDENTIALS = "access-control-allow-credentials"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = struct.Struct("!HBBBL")  # length in 16 + 8 bits, type, flags, stream
_SETTING = struct.Struct("!HL")
_SETTINGS = 4
_MAX_CONCURRENT_STREAMS = 3
_MAX_FRAMES = 16
_FEW_STREAMS = 20


def grants(*, are_registered: bool) -> Finding:
    """Whether the app gives browsers the cookie for private updates.

    :param are_registered: the app uses ``subscribe_grants`` for this hub.
    """
    if are_registered:
        return ok("grants", "the app has subscribe_grants: each user's cookie is for what it returns")
    return note(
        "grants",
        "the app has no function with @mercure.subscribe_grants: a browser gets private updates only where a "
        "view calls set_cookie with their topics",
        Symptom.NOT_DELIVERED,
        app("@mercure.subscribe_grants  # on a function that returns the topics of the current user"),
    )


def cookie(policy: CookiePolicy, token: str, max_age: int | None, app_url: str, pages: str) -> Finding:
    """Whether a browser keeps the cookie and sends it to the hub (RFC 6265bis).

    :param policy: of the app.
    :param token: a real one, whose length counts.
    :param max_age: of the cookie, in seconds.
    :param app_url: origin of the app, whose answer sets the cookie.
    :param pages: origin of the pages that open streams.
    """
    sets, page, url = urlsplit(app_url), urlsplit(pages), urlsplit(policy.public_url)
    host = sets.hostname or ""
    try:
        policy.set(Headers(), host, token, max_age)
    except CookieError as error:
        return problem("cookie", str(error), Symptom.COOKIE_REFUSED)
    if policy.secure:
        for where, scheme, name in (
            ("the app is", sets.scheme, host),
            ("the hub is", url.scheme, policy.host),
        ):
            if scheme == "http" and not is_loopback(name):
                return problem(
                    "cookie",
                    f"the cookie is Secure and {where} on http at {name}: browsers do not keep it, or do not "
                    "send it. Serve it over https; in development without TLS open the page as "
                    "http://localhost, or take all of these lines",
                    Symptom.COOKIE_REFUSED,
                    app("MERCURE_COOKIE_SECURE = False"),
                    app('MERCURE_COOKIE_NAME = "mercure_access_token"'),
                    hub("MERCURE_COOKIE_NAME=mercure_access_token"),
                )
    lax = policy.same_site in ("Strict", "Lax")
    if not is_same_site(page.hostname or "", policy.host):
        if lax:
            return problem(
                "cookie",
                f"pages of {pages} and the hub at {policy.host} are two sites, and the cookie is "
                f"SameSite={policy.same_site}: browsers do not send it. Put the hub on the site of the "
                "pages, or hand the token to fetch() with an Authorization header",
                Symptom.COOKIE_LOST,
                app(f'MERCURE_PUBLIC_URL = "{pages}/.well-known/mercure"'),
            )
        return warning(
            "cookie",
            f"pages of {pages} and the hub at {policy.host} are two sites: most browsers block cookies "
            "between them",
            Symptom.COOKIE_LOST,
            app(f'MERCURE_PUBLIC_URL = "{pages}/.well-known/mercure"'),
        )
    if lax and page.scheme != url.scheme:
        line = f'MERCURE_PUBLIC_URL = "{page.scheme}{policy.public_url[len(url.scheme) :]}"'
        return problem(
            "cookie",
            f"pages come over {page.scheme} and the hub's URL is on {url.scheme}: for browsers these are two "
            f"sites, and they do not send a cookie that is SameSite={policy.same_site}. Serve both over "
            "https",
            Symptom.COOKIE_LOST,
            app(line),
        )
    domain = policy.domain_for(host)
    span = f"for {host} only" if domain is None else f"for {domain} and its subdomains"
    return ok("cookie", f"browsers keep {policy.name} from {app_url}, {span}, and send it to the hub")


def cookie_unread(policy: CookiePolicy, known: Profile | None, status: int) -> Finding:
    """The hub admits the token in a header and not in the cookie.

    :param policy: of the app.
    :param known: the hub's metadata.
    :param status: the answer to the cookie; 200 when the stream opened and a private update did not come.
    """
    # Hubs that speak 0.x read the old cookie too, besides the one that they advertise.
    if known is not None and known.cookie not in (None, policy.name) and policy.name != OLD_COOKIE:
        return problem(
            "cookie",
            f"the app sets the cookie {policy.name} and the hub reads {known.cookie}",
            Symptom.COOKIE_NAME,
            app(f'MERCURE_COOKIE_NAME = "{known.cookie}"'),
            hub(f"MERCURE_COOKIE_NAME={policy.name}"),
        )
    seen = f"answers {status} to the same token in the cookie {policy.name}"
    if status == 200:
        seen = f"sends no private update to a browser with the cookie {policy.name}, as if it were anonymous"
    return problem(
        "cookie",
        f"the hub admits a token in the Authorization header and {seen}: it reads a cookie of another name, "
        "or a proxy removes it",
        Symptom.COOKIE_NAME,
        hub(f"MERCURE_COOKIE_NAME={policy.name}"),
        nginx("proxy_set_header Cookie $http_cookie;"),
    )


def cors(origin: str, answer: Head, preflight: Head | None) -> Finding:
    """Whether a page of another origin may read the stream, with its cookie (Fetch standard, CORS check).

    :param origin: of the page.
    :param answer: to a subscription with the cookie.
    :param preflight: answer to the OPTIONS request that precedes a fetch() with an Authorization header.
    """
    allowed = answer.headers.getlist(_ALLOW_ORIGIN)
    line = hub(f"MERCURE_CORS_ORIGINS={origin}  # besides those that are there, separated by spaces")
    if len(allowed) > 1 or any("," in one for one in allowed):
        return problem(
            "cors",
            "the answer has Access-Control-Allow-Origin more than once, from the hub and from the proxy: "
            "browsers refuse it. Take it out of the proxy (add_header in nginx, Header in Apache): the hub "
            "sends it",
            Symptom.CORS,
            nginx("proxy_hide_header Access-Control-Allow-Origin;  # if the proxy should send it"),
            apache("Header always unset Access-Control-Allow-Origin  # the proxy's own"),
        )
    if allowed == ["*"]:
        return problem(
            "cors",
            "the answer allows any origin (*), which does not count for requests with a cookie: it has to "
            f"name {origin}",
            Symptom.CORS,
            line,
        )
    if allowed != [origin]:
        named = f"allows {allowed[0][:100]!r}" if allowed else "names no origin"
        return problem(
            "cors",
            f"pages of {origin} may not read the stream: Access-Control-Allow-Origin {named}",
            Symptom.CORS,
            line,
        )
    if answer.headers.get(_ALLOW_CREDENTIALS) != "true":
        return problem(
            "cors",
            f"pages of {origin} may read the stream, but not with their cookie: there is no "
            "Access-Control-Allow-Credentials: true",
            Symptom.CORS,
            line,
        )
    if preflight is not None and (
        preflight.status >= 300 or preflight.headers.getlist(_ALLOW_ORIGIN) != [origin]
    ):
        is_redirect = 300 <= preflight.status < 400
        said = f"is answered with {preflight.status} and without the origin"
        if is_redirect:
            said = f"is answered with {preflight.status}, a redirect, which browsers do not follow here"
        elif preflight.status >= 400:
            said = f"is answered with {preflight.status}, and browsers want a success"
        return warning(
            "cors",
            f"EventSource works from {origin}; fetch() with an Authorization header does not: the request "
            f"before it (OPTIONS) {said}. Does the proxy answer OPTIONS itself?",
            Symptom.CORS,
            *(() if preflight.status >= 300 else (line,)),  # the hub always answers with a success
        )
    return ok("cors", f"pages of {origin} may read the stream with their cookie")


def publishing(origin: str, status: int) -> Finding:
    """Whether a page may publish with its cookie.

    :param origin: of the page.
    :param status: the answer to a publication without a topic.
    """
    if status == 403:
        return problem(
            "cors",
            f"pages of {origin} may not publish with their cookie (403)",
            Section.CROSS_SITE,
            hub(f"MERCURE_PUBLISH_ORIGINS={origin}  # besides those that are there"),
        )
    if status == 401:
        return problem(
            "cors",
            "the hub does not take a publication with the cookie (401)",
            Symptom.COOKIE_NAME,
        )
    return ok("cors", f"pages of {origin} may publish with their cookie")


def negotiated(public: HubClient, server: str) -> Finding:
    """Offer the protocols that browsers offer (RFC 7301), and judge the one that the server chooses.

    :param public: the public URL.
    :param server: its ``Server`` header.
    """
    chosen: str | None = None
    streams: int | None = None
    if public.endpoint.scheme == "https":
        deadline = time.monotonic() + public.seconds
        try:
            with dial(public.endpoint, public.trust, deadline, ("h2", "http/1.1")) as sock:
                chosen = sock.selected_alpn_protocol() if isinstance(sock, ssl.SSLSocket) else None
                if chosen == "h2":
                    streams = max_concurrent_streams(sock, deadline)
        except (Unreachable, OSError) as error:
            return skipped("http", f"the protocol could not be negotiated: {error}")
    return connections(public.endpoint.scheme, chosen, streams, server)


def max_concurrent_streams(sock: socket.socket, deadline: float) -> int | None:
    """Begin HTTP/2 and read what the server allows (RFC 9113 sections 3.4 and 6.5).

    :param sock: after a handshake that chose ``h2``.
    :param deadline: on the monotonic clock.
    :returns: the number; ``None`` when the server names none.
    :raises OSError: the connection breaks.
    """
    sock.settimeout(time_left(deadline))
    sock.sendall(_PREFACE + _FRAME_HEAD.pack(0, 0, _SETTINGS, 0, 0))
    for _ in range(_MAX_FRAMES):
        high, low, kind, flags, _stream = _FRAME_HEAD.unpack(_exactly(sock, 9, deadline))
        payload = _exactly(sock, high << 8 | low, deadline)
        if kind == _SETTINGS and not flags & 1:
            settings = dict(_SETTING.iter_unpack(payload[: len(payload) // 6 * 6]))
            return settings.get(_MAX_CONCURRENT_STREAMS)
    return None


def _exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    received = b""
    while len(received) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        piece = sock.recv(count - len(received))
        if not piece:
            raise ConnectionResetError
        received += piece
    return received


def connections(scheme: str, protocol: str | None, streams: int | None, server: str) -> Finding:
    """What the protocol means for pages with streams.

    :param scheme: of the public URL.
    :param protocol: that TLS has chosen for a browser.
    :param streams: that HTTP/2 allows at once.
    :param server: the ``Server`` header of the public address.
    """
    if protocol != "h2":
        why = "" if scheme == "https" else ", since browsers speak HTTP/2 over TLS only"
        return note(
            "http",
            f"browsers speak HTTP/1.1 with the public address{why}: they have six connections to a host in "
            "all tabs together, each open stream takes one, and the seventh waits. Open one stream for a "
            "page",
            Symptom.CONNECTIONS,
            *(() if scheme == "http" else (nginx("http2 on;"), apache("Protocols h2 http/1.1"))),
        )
    allowed = "as many streams as it likes" if streams is None else f"{streams} streams"
    if "apache" in server.lower():
        return note(
            "http",
            f"HTTP/2 with Apache, which announces {allowed} on a connection and runs six at once on a new "
            "one: six EventSources hang the site's other requests. Open one stream for a page, or give the "
            "hub a host name of its own",
            Symptom.CONNECTIONS,
        )
    if streams is not None and streams < _FEW_STREAMS:
        return note(
            "http",
            f"HTTP/2, {allowed} on a connection, which all tabs of a browser share. Open one stream for a "
            "page",
            Symptom.CONNECTIONS,
            nginx("http2_max_concurrent_streams 128;"),
        )
    return ok("http", f"HTTP/2, {allowed} on a connection")
