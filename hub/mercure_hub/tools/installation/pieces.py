"""The files, made from the templates beside this module; docs/ has them as made for ``Layout()``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files

from mercure_hub.tools.installation.layout import Layout

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
