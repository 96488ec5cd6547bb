"""Whether a Mercure hub answers at a URL, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

from flask_mercure.cookies import is_loopback
from flask_mercure.doctor.connection import Endpoint, Reply, Stage, Unreachable, origin_of
from flask_mercure.doctor.finding import Finding, Remedy, apache, app, hub, nginx, ok, problem, warning
from mercure_hub.protocol.errors import Section

METADATA = "/.well-known/oauth-protected-resource"
_GATEWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Profile:
    """What a hub's metadata document says; other hubs, and proxies that do not pass it on, have none.

    :param resource: its resource identifier, which tokens name in ``aud``.
    :param cookie: name of the cookie that it reads.
    :param issuers: authorization servers.
    """

    resource: str | None = None
    cookie: str | None = None
    issuers: tuple[str, ...] = ()


def profile(document: dict[str, Any]) -> Profile | None:
    """Read a metadata document (RFC 9728 section 2); ``None`` when it is none of a hub."""
    resource = document.get("resource")
    if not isinstance(resource, str) or not any(
        name.startswith("mercure_") or name == "authorization_details_types_supported" for name in document
    ):
        return None
    cookie = document.get("mercure_cookie")
    issuers = document.get("authorization_servers")
    return Profile(
        resource,
        cookie if isinstance(cookie, str) else None,
        tuple(one for one in issuers if isinstance(one, str)) if isinstance(issuers, list) else (),
    )


def metadata_paths(*endpoints: Endpoint) -> list[str]:
    """Where the metadata may be: after the path of the public URL, also on the internal port."""
    paths = [METADATA + ("" if endpoint.path == "/" else endpoint.path) for endpoint in endpoints]
    return list(dict.fromkeys(paths))


def unreachable(endpoint: Endpoint, error: Unreachable) -> Finding:
    """There is no connection, or no answer on it."""
    where = f"{endpoint.host} (port {endpoint.port}, from {endpoint.setting})"
    match error.stage:
        case Stage.NAME:
            summary = f"the name {endpoint.host!r} of {endpoint.setting} is not known: {error.reason}"
            lines: Sequence[Remedy] = (app(f'{endpoint.setting} = "<the URL with the right host>"'),)
        case Stage.CONNECT:
            summary = f"nothing answers at {where}: {error.reason}. Does the hub run, and listen there?"
            lines = (
                hub(f"MERCURE_LISTEN={endpoint.host}:{endpoint.port}"),
                app(f'{endpoint.setting} = "<where the hub listens>"'),
                Remedy("shell", "systemctl status mercure-hub"),
            )
        case _:
            summary = f"{where} takes connections and gives no answer: {error.reason}"
            lines = (app(f'{endpoint.setting} = "<the URL of the hub>"'),)
            if endpoint.scheme == "http" and error.stage is Stage.NOT_HTTP:
                line = f'{endpoint.setting} = "{endpoint.url.replace("http:", "https:", 1)}"'
                summary += ". Perhaps it speaks TLS"
                lines = (app(line),)
    return problem("url", summary, Section.UNREACHABLE, *lines)


def identify(endpoint: Endpoint, answer: Reply, known: Profile | None) -> Finding:
    """Tell whether a hub answers.

    :param answer: to a GET without token and topics.
    :param known: its metadata.
    """
    status, html = answer.status, answer.head.media_type == "text/html"
    if 300 <= status < 400:
        return _redirect(endpoint, answer.head.headers.get("Location", ""))
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return problem(
            "url",
            f"the hub does not serve {endpoint.named} (421)",
            Section.MISDIRECTED,
            hub(f"MERCURE_ALLOWED_URLS={endpoint.url}  # besides those that are there"),
        )
    if status not in _GATEWAY:
        if known is not None:
            return ok("url", f"{endpoint.named}: a Mercure hub, by its metadata")
        if status == HTTPStatus.UNAUTHORIZED and not html and "basic" not in _schemes(answer):
            return ok("url", f"{endpoint.named}: it asks for a token, as a Mercure hub does")
        if status == HTTPStatus.BAD_REQUEST and not html:
            return ok("url", f"{endpoint.named}: it asks for topics, as a Mercure hub does")
    return _no_hub(endpoint, answer, html=html)


def _no_hub(endpoint: Endpoint, answer: Reply, *, html: bool) -> Finding:
    status = answer.status
    if status in _GATEWAY:
        hint = ""
        if status == HTTPStatus.SERVICE_UNAVAILABLE and "nginx" not in answer.head.headers.get("Server", ""):
            hint = ". Apache answers so, and logs nothing, when ProxyPass has h2:// or h2c://: it is http://"
        return problem(
            "url",
            f"a proxy answers {status} at {endpoint.named}: it does not reach the hub{hint}",
            Section.PROXY_ERROR,
            apache('ProxyPass "http://127.0.0.1:3000/.well-known/mercure" …  # where the hub listens'),
            nginx("proxy_pass http://127.0.0.1:3000;  # where the hub listens"),
            Remedy("shell", "systemctl status mercure-hub"),
        )
    kind = " with an HTML page" if html else ""
    path = "" if endpoint.path == "/.well-known/mercure" else ". The path is usually /.well-known/mercure"
    return problem(
        "url",
        f"{endpoint.named} answers {status}{kind}: this is no Mercure hub, or not its path{path}",
        Section.NOT_A_HUB,
        app(f'{endpoint.setting} = "{endpoint.origin}/.well-known/mercure"'),
        apache('ProxyPass "http://127.0.0.1:3000/.well-known/mercure" …  # before WSGIScriptAlias /'),
        nginx("location /.well-known/mercure { proxy_pass http://127.0.0.1:3000; … }"),
    )


def _schemes(answer: Reply) -> str:
    return " ".join(answer.head.headers.getlist("WWW-Authenticate")).lower()


def _redirect(endpoint: Endpoint, location: str) -> Finding:
    try:
        target = urlsplit(urljoin(endpoint.url, location))
        shown = f"{origin_of(target.geturl())}{target.path}"[:_MAX_SHOWN]
    except ValueError:
        shown = "nowhere"
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return problem(
        "url",
        f"{endpoint.named} redirects to {shown}: publishers do not follow, since the token would be lost "
        "or go "
        "astray, and a page of another origin may not",
        Section.REDIRECT,
        app(f'{endpoint.setting} = "{shown}"'),
    )


def suits_browsers(public: Endpoint, pages: str) -> list[Finding]:
    """Whether browsers elsewhere can reach the public URL, as its text shows.

    :param public: the public URL.
    :param pages: origin of the pages.
    """
    page = urlsplit(pages)
    findings = []
    if is_loopback(public.host) and not is_loopback(page.hostname or ""):
        findings.append(
            warning(
                "url",
                f"{public.named} is this machine only: the browser of a visitor of {pages} looks for the "
                "hub on the "
                "visitor's own machine",
                Section.LOOPBACK,
                app(f'MERCURE_PUBLIC_URL = "{pages}/.well-known/mercure"'),
            )
        )
    if page.scheme == "https" and public.scheme == "http" and not is_loopback(public.host):
        findings.append(
            problem(
                "url",
                f"pages of {pages} are on https and {public.named} is not: browsers block it as mixed "
                "content",
                Section.MIXED_CONTENT,
                app(f'MERCURE_PUBLIC_URL = "{public.url.replace("http:", "https:", 1)}"'),
            )
        )
    return findings
