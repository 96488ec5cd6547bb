"""The files that ``mercure-hub install`` prints, made from templates; docs/ has those for ``Layout()``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mercure_hub.protocol.hub_url import WELL_KNOWN

_STATE_ROOT = "/var/lib/"
_WORD = re.compile(r"[A-Za-z0-9._/:@+,~\[\]-]+")
_PATH = re.compile(r"/[A-Za-z0-9._/@+,~-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
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
        if not self.user and not self.state.startswith(_STATE_ROOT):
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

    @staticmethod
    def _check_path(name: str, value: str) -> None:
        if not _PATH.fullmatch(value) or ".." in PurePosixPath(value).parts:
            raise LayoutError(
                f"{name}: {value!r} is not an absolute path made of letters, digits and . _ - + @ , ~"
            )

    @property
    def flags(self) -> Mapping[str, bool]:
        """What the conditions of the templates may ask for."""
        path = self._path()
        return {
            "tls": bool(self.authority),
            "plain": not self.authority,
            "prefix": path != WELL_KNOWN,
            "usual": path == WELL_KNOWN,
            "dynamic": not self.user,
            "user": bool(self.user),
            "moved": (self.host, self.port) != ("127.0.0.1", 3000),
            "managed": self.state.startswith(_STATE_ROOT),
            "elsewhere": not self.state.startswith(_STATE_ROOT),
        }

    @property
    def values(self) -> Mapping[str, str]:
        """What stands for the names in the templates."""
        origin = urlsplit(self.public_url)
        threads = _threads(self.streams)
        workers = -(-(self.streams + (200 if self.streams <= 400 else 500)) // threads) * threads
        host = f"[{self.host}]" if ":" in self.host else self.host
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
            "LISTEN": f"{host}:{self.port}",
            "PORT": str(self.port),
            "SCHEME": "https" if self.authority else "http",
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
    "nginx-site": ("nginx-site.conf", "a whole site with gunicorn or uWSGI"),
    "caddy": ("Caddyfile", "a whole site with gunicorn"),
    "docker": ("Dockerfile", "an image of the hub"),
}
"""What can be printed: template and description by name."""

_USUAL = Layout()
_PREFIX = replace(_USUAL, public_url="https://example.com/hub")
_TLS = replace(_USUAL, authority="/etc/mercure/ca.pem")

PAGES: Mapping[str, tuple[str, Layout]] = {
    "systemd/mercure-hub.service": ("systemd", _USUAL),
    "systemd/mercure-hub.socket": ("systemd-socket", _USUAL),
    "systemd/hub.env": ("environment", _USUAL),
    "supervisor/mercure-hub.conf": ("supervisor", _USUAL),
    "apache/mercure.conf": ("apache", _USUAL),
    "apache/mercure-prefix.conf": ("apache", _PREFIX),
    "apache/mercure-tls.conf": ("apache", _TLS),
    "apache/site.conf": ("apache-site", _USUAL),
    "apache/mpm.conf": ("apache-workers", _USUAL),
    "nginx/mercure.conf": ("nginx", _USUAL),
    "nginx/mercure-prefix.conf": ("nginx", _PREFIX),
    "nginx/mercure-tls.conf": ("nginx", _TLS),
    "nginx/site.conf": ("nginx-site", _USUAL),
    "caddy/Caddyfile": ("caddy", _USUAL),
    "caddy/Caddyfile-prefix": ("caddy", _PREFIX),
    "caddy/Caddyfile-tls": ("caddy", _TLS),
    "docker/Dockerfile": ("docker", _USUAL),
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
