"""The files that ``mercure-hub install`` prints, made from templates; docs/ has those for ``Layout()``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.storage.address import Address, EngineKind, address_of

_STATE_ROOT = "/var/lib/"
_WORD = re.compile(r"[A-Za-z0-9._/:@+,~\[\]-]+")
_PATH = re.compile(r"/[A-Za-z0-9._/@+,~-]*")
_HUB = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_URL = re.compile(r"[!-~]+")
_PLAIN_URL = re.compile(r"[A-Za-z0-9_./:@*,+=-]+")
_PUBLIC_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")


class LayoutError(Exception):
    """A value cannot stand in a file of a proxy or of systemd; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A machine with a hub and a site. The defaults are those of docs/deployment.md.

    :param executable: the command, by its path; may have arguments.
    :param user: who runs the hub; empty: a user that systemd makes.
    :param state: folder of the database.
    :param settings: folder of ``hub.env``.
    :param public_url: of the hub, as clients know it.
    :param host: where the hub listens, as a proxy reaches it.
    :param port: the same.
    :param hubs: the other hubs behind the same proxy, each as ``ADDRESS:PORT``.
    :param transport_url: of an engine that several hubs share; empty: a file of SQLite in ``state``.
    :param authority: file with what signed the hub's certificate; set when the hub speaks HTTPS.
    :param streams: how many subscribers there are at the same time.
    :param application: folder of the application.
    :param upstream: where gunicorn or uWSGI serves the application.
    :param certificate: of the site.
    :param certificate_key: its private key.
    """

    executable: str = "/opt/mercure/bin/mercure-hub"
    user: str = ""
    state: str = "/var/lib/mercure"
    settings: str = "/etc/mercure"
    public_url: str = "https://example.com" + WELL_KNOWN
    host: str = "127.0.0.1"
    port: int = 3000
    hubs: tuple[str, ...] = ()
    transport_url: str = ""
    authority: str = ""
    streams: int = 1000
    application: str = "/srv/shop"
    upstream: str = "127.0.0.1:8000"
    certificate: str = "/etc/ssl/example.com/fullchain.pem"
    certificate_key: str = "/etc/ssl/example.com/privkey.pem"

    def __post_init__(self) -> None:
        for name in ("state", "settings", "application", "certificate", "certificate_key"):
            self._check_path(name, getattr(self, name))
        if self.authority:
            self._check_path("authority", self.authority)
        for word in self.executable.split(" "):
            if not _WORD.fullmatch(word):
                raise LayoutError(f"executable: {self.executable!r} has a character that systemd would read")
        if not self.executable.startswith("/"):
            raise LayoutError(f"executable: {self.executable!r} is not an absolute path")
        if not _WORD.fullmatch(self.upstream):
            raise LayoutError(f"upstream: {self.upstream!r} is not ADDRESS:PORT and not unix:/path")
        if self.user and not _USER.fullmatch(self.user):
            raise LayoutError(f"user: {self.user!r} is not the name of a user")
        self._check_hubs()
        if not self.user and not self._engine and not self.state.startswith(_STATE_ROOT):
            raise LayoutError(
                f"state: {self.state!r} is not below {_STATE_ROOT}, the only place where systemd gives a "
                "folder to a user that it makes; name a user, too"
            )
        if not 1 <= self.streams <= 1_000_000:
            raise LayoutError(f"streams: {self.streams} is not a number from 1 to 1000000")
        parts = urlsplit(self.public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _WORD.fullmatch(parts.netloc):
            raise LayoutError(
                f"public_url: {self.public_url!r} is not a URL with http:// or https:// and a host"
            )
        if not _PUBLIC_PATH.fullmatch(parts.path):
            raise LayoutError(f"public_url: {self.public_url!r} has no path such as {WELL_KNOWN}")

    def _check_hubs(self) -> None:
        for one in self.hubs:
            if not _HUB.fullmatch(one):
                raise LayoutError(f"hubs: {one!r} is not ADDRESS:PORT")
        if not self.transport_url:
            return
        if not _URL.fullmatch(self.transport_url) or "'" in self.transport_url:
            raise LayoutError("transport_url: it has a character that hub.env cannot hold; write it as %XX")
        try:
            address_of(self.transport_url)
        except ValueError as error:
            raise LayoutError(f"transport_url: it {error}") from None

    @property
    def _engine(self) -> Address | None:
        """The engine, if several machines can share it."""
        address = address_of(self.transport_url) if self.transport_url else None
        return address if address is not None and address.is_shared else None

    @staticmethod
    def _check_path(name: str, value: str) -> None:
        if not _PATH.fullmatch(value) or ".." in PurePosixPath(value).parts:
            raise LayoutError(
                f"{name}: {value!r} is not an absolute path made of letters, digits and . _ - + @ , ~"
            )

    @property
    def flags(self) -> Mapping[str, bool]:
        """What the conditions of the templates may ask for."""
        path, engine = self._path(), self._engine
        kind = None if engine is None else engine.kind
        is_managed = self.state.startswith(_STATE_ROOT)
        return {
            "file": engine is None,
            "shared": engine is not None,
            "local": engine is not None and engine.is_local,
            "remote": engine is not None and not engine.is_local,
            "postgresql": kind is EngineKind.POSTGRESQL,
            "redis": kind is EngineKind.REDIS,
            "one": not self.hubs,
            "several": bool(self.hubs),
            "tls": bool(self.authority),
            "plain": not self.authority,
            "prefix": path != WELL_KNOWN,
            "usual": path == WELL_KNOWN,
            "dynamic": not self.user,
            "user": bool(self.user),
            "moved": (self.host, self.port) != ("127.0.0.1", 3000),
            "managed": engine is None and is_managed,
            "elsewhere": engine is None and not is_managed,
        }

    @property
    def values(self) -> Mapping[str, str]:
        """What stands for the names in the templates."""
        origin = urlsplit(self.public_url)
        threads = _threads(self.streams)
        workers = -(-(self.streams + (200 if self.streams <= 400 else 500)) // threads) * threads
        host = f"[{self.host}]" if ":" in self.host else self.host
        engine = self._engine
        services = _SERVICES[engine.kind] if engine is not None and engine.is_local else ()
        listen = f"{host}:{self.port}"
        scheme = "https" if self.authority else "http"
        return {
            "EXECUTABLE": self.executable,
            "USER": self.user or "mercure",
            "STATE": self.state,
            "STATE_NAME": self.state.removeprefix(_STATE_ROOT),
            "SETTINGS": self.settings,
            "PUBLIC_URL": self.public_url,
            "SITE": origin.netloc,
            "SITE_NAME": origin.hostname or "",
            "PATH": self._path(),
            "LISTEN": listen,
            "HUB": BALANCED if self.hubs else listen,
            "HUBS": " ".join(f"{scheme}://{one}" for one in (listen, *self.hubs)),
            "UPSTREAM_NAME": BALANCED,
            "SERVERS_OF_NGINX": "\n".join(f"    server {one};" for one in (listen, *self.hubs)),
            "SPARE_SERVERS_OF_NGINX": "\n".join(
                f"    server {one} backup max_fails=0;" for one in (listen, *self.hubs)
            ),
            "MEMBERS_OF_APACHE": "\n".join(
                f'    BalancerMember "{scheme}://{one}" timeout=90 connectiontimeout=2 retry=5 '
                "disablereuse=on flushpackets=on upgrade=websocket "
                "hcmethod=GET hcuri=/livez hcinterval=5 hcpasses=1 hcfails=1"
                for one in (listen, *self.hubs)
            ),
            "TRANSPORT_URL": _quoted(self.transport_url),
            "SERVICES": " ".join(services),
            "EXTRAS": "hub" if engine is None else f"hub,{engine.kind.lower()}",
            "PORT": str(self.port),
            "SCHEME": scheme,
            "AUTHORITY": self.authority,
            "STREAMS": f"{self.streams:,}",
            "DESCRIPTORS": str(max(65536, 2 * self.streams)),
            "THREADS": str(threads),
            "WORKERS": str(workers),
            "SERVERS": str(2 * workers // threads),
            "H2_WORKERS": str(threads * _STREAMS_PER_CONNECTION),
            "APPLICATION": self.application,
            "APPLICATION_NAME": PurePosixPath(self.application).name or "site",
            "UPSTREAM": self.upstream,
            "CERTIFICATE": self.certificate,
            "CERTIFICATE_KEY": self.certificate_key,
        }

    def _path(self) -> str:
        return urlsplit(self.public_url).path.rstrip("/")


BALANCED = "mercure-hubs"
"""The name of the hubs behind one proxy in its configuration."""

_SERVICES: Mapping[EngineKind, tuple[str, ...]] = {
    EngineKind.POSTGRESQL: ("postgresql.service",),
    EngineKind.REDIS: ("valkey-server.service", "redis-server.service"),
}
"""Units of Debian by engine; systemd passes over one that is not installed."""


def _quoted(value: str) -> str:
    """For systemd and a shell, which both read hub.env."""
    return value if _PLAIN_URL.fullmatch(value) else f"'{value}'"


_STREAMS_PER_CONNECTION = 6  # as many as Apache serves at once on a new one


def _threads(streams: int) -> int:
    """Threads of one process of Apache, in steps that were measured."""
    return 100 if streams <= 400 else 250 if streams <= 1500 else 500


PIECES: Mapping[str, tuple[str, str]] = {
    "systemd": ("mercure-hub.service", "the unit, /etc/systemd/system/mercure-hub.service"),
    "systemd-socket": ("mercure-hub.socket", "its socket, /etc/systemd/system/mercure-hub.socket"),
    "environment": ("hub.env", "the settings that systemd and supervisord read"),
    "supervisor": ("supervisor.conf", "a program of supervisord, /etc/supervisor/conf.d/mercure-hub.conf"),
    "apache": ("apache.conf", "what a VirtualHost includes"),
    "apache-site": ("apache-site.conf", "a whole site with mod_wsgi"),
    "apache-workers": ("apache-workers.conf", "threads for the expected number of streams"),
    "nginx": ("nginx.conf", "what a server block includes"),
    "nginx-hubs": ("nginx-hubs.conf", "several hubs (--hub), /etc/nginx/conf.d/mercure-hubs.conf"),
    "nginx-site": ("nginx-site.conf", "a whole site with gunicorn or uWSGI"),
    "caddy": ("Caddyfile", "a whole site with gunicorn"),
    "docker": ("Dockerfile", "an image of the hub"),
    "compose": ("compose.yaml", "containers of a hub and its engine (--transport-url)"),
}
"""What can be printed: template and description by name."""

_USUAL = Layout()
_PREFIX = replace(_USUAL, public_url="https://example.com/hub")
_TLS = replace(_USUAL, authority="/etc/mercure/ca.pem")
_SEVERAL = replace(_USUAL, host="10.0.0.11", hubs=("10.0.0.12:3000",))
_SHARED = replace(_USUAL, transport_url="postgresql://mercure@db.example.com/mercure")

PAGES: Mapping[str, tuple[str, Layout]] = {
    "systemd/mercure-hub.service": ("systemd", _USUAL),
    "systemd/mercure-hub.socket": ("systemd-socket", _USUAL),
    "systemd/hub.env": ("environment", _USUAL),
    "supervisor/mercure-hub.conf": ("supervisor", _USUAL),
    "apache/mercure.conf": ("apache", _USUAL),
    "apache/mercure-prefix.conf": ("apache", _PREFIX),
    "apache/mercure-tls.conf": ("apache", _TLS),
    "apache/mercure-several.conf": ("apache", _SEVERAL),
    "apache/site.conf": ("apache-site", _USUAL),
    "apache/mpm.conf": ("apache-workers", _USUAL),
    "nginx/mercure.conf": ("nginx", _USUAL),
    "nginx/mercure-prefix.conf": ("nginx", _PREFIX),
    "nginx/mercure-tls.conf": ("nginx", _TLS),
    "nginx/mercure-several.conf": ("nginx", _SEVERAL),
    "nginx/mercure-hubs.conf": ("nginx-hubs", _SEVERAL),
    "nginx/site.conf": ("nginx-site", _USUAL),
    "caddy/Caddyfile": ("caddy", _USUAL),
    "caddy/Caddyfile-prefix": ("caddy", _PREFIX),
    "caddy/Caddyfile-tls": ("caddy", _TLS),
    "caddy/Caddyfile-several": ("caddy", _SEVERAL),
    "docker/Dockerfile": ("docker", _USUAL),
    "docker/compose.yaml": ("compose", _SHARED),
}
"""The files in docs/, by their paths there."""

_NAME = re.compile(r"@([A-Z0-9_]+)@")
_CONDITION = re.compile(r"@if ([a-z]+)@")
_END = "@end@"


def render(piece: str, layout: Layout) -> str:
    """Make a file.

    :param piece: a name in ``PIECES``.
    :param layout: what it is made for.
    :raises KeyError: there is no such piece.
    """
    template = files(__package__).joinpath("templates", PIECES[piece][0]).read_text(encoding="utf-8")
    text = "".join(_chosen(template, layout.flags))
    return _NAME.sub(lambda match: layout.values[match[1]], text)


def _chosen(template: str, flags: Mapping[str, bool]) -> Iterator[str]:
    """The lines whose conditions hold; conditions do not nest."""
    is_on = True
    for line in template.splitlines(keepends=True):
        condition = _CONDITION.fullmatch(line.strip())
        if condition:
            is_on = flags[condition[1]]
        elif line.strip() == _END:
            is_on = True
        elif is_on:
            yield line
