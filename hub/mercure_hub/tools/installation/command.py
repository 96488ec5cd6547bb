"""``mercure-hub install``: print a file of the system, filled in for this machine."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mercure_hub.config.settings import ROWS
from mercure_hub.tools.installation.pieces import PAGES, PIECES, Layout, LayoutError, render

_DESCRIPTION = """Print a file that puts the hub into a system. Nothing is written or changed.

What no flag names is taken from the settings of the hub (the environment, MERCURE_CONFIG) and from this
installation."""
_UNREADABLE = ("/root/", "/home/")


def run(parser: argparse.ArgumentParser, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command.

    :param parser: empty; it ends the process when a flag is wrong.
    :param words: what follows ``install``.
    :param environment: variables, for what the flags leave open.
    :returns: exit status: 0, or 2 when a value cannot be used.
    """
    parser.description, parser.formatter_class = _DESCRIPTION, argparse.RawDescriptionHelpFormatter
    _add_flags(parser)
    options = parser.parse_args(words)
    if options.docs:
        for path, (piece, layout) in PAGES.items():
            Path(options.docs, path).write_text(render(piece, layout), encoding="utf-8")
        return 0
    try:
        layout = _layout(options, _settings(environment))
    except (LayoutError, OSError, ValueError) as error:
        sys.stderr.write(f"mercure-hub: {error}\n")
        return 2
    if layout.executable.startswith(_UNREADABLE) and options.print in ("systemd", "supervisor"):
        sys.stderr.write(
            f"mercure-hub: {layout.executable} is where another user cannot read; "
            "make the environment in /opt/mercure\n"
        )
    sys.stdout.write(render(options.print, layout))
    return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    usual = Layout()
    what = parser.add_mutually_exclusive_group(required=True)
    listed = "; ".join(f"{name}: {text}" for name, (_, text) in PIECES.items())
    what.add_argument("--print", choices=PIECES, metavar="FILE", help=listed)
    what.add_argument("--docs", metavar="FOLDER", help=argparse.SUPPRESS)  # make docs
    for flag, text in {
        "--executable": f"the command; here {_executable()}",
        "--user": "who runs the hub; by default a user that systemd makes, mercure elsewhere",
        "--state": f"folder of the database; by default {usual.state}",
        "--settings": f"folder of hub.env; by default {usual.settings}",
        "--public-url": f"the hub's URL as clients know it; by default {usual.public_url}",
        "--listen": "where the proxy reaches the hub, ADDRESS:PORT; by default 127.0.0.1:3000",
        "--transport-url": "the engine that several hubs share; by default SQLite, in the state folder",
        "--hub-ca": "the hub speaks HTTPS, and this file has what signed its certificate",
        "--app": f"folder of the application; by default {usual.application}",
        "--upstream": f"where gunicorn or uWSGI serves it; by default {usual.upstream}",
        "--certificate": f"of the site; by default {usual.certificate}",
        "--certificate-key": f"its private key; by default {usual.certificate_key}",
    }.items():
        parser.add_argument(flag, help=text)
    parser.add_argument(
        "--hub", action="append", metavar="ADDRESS:PORT", help="another hub behind the proxy; repeatable"
    )
    parser.add_argument(
        "--streams", type=int, help=f"subscribers at the same time; by default {usual.streams}"
    )


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of the hub that a layout takes up, as text."""
    path = environment.get("MERCURE_CONFIG")
    file = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    names = ("listen", "public_url", "tls_cert", "transport_url")
    found: dict[str, str] = {name: str(file[name]) for name in names if name in file}
    for name in names:
        if environment.get(f"MERCURE_{name.upper()}"):
            found[name] = environment[f"MERCURE_{name.upper()}"]
    return found


def _layout(options: argparse.Namespace, settings: Mapping[str, str]) -> Layout:
    given = {
        "executable": options.executable or _executable(),
        "user": options.user,
        "state": options.state,
        "settings": options.settings,
        "hubs": None if options.hub is None else tuple(options.hub),
        "transport_url": options.transport_url or settings.get("transport_url"),
        "public_url": options.public_url or settings.get("public_url"),
        "authority": options.hub_ca or settings.get("tls_cert"),
        "streams": options.streams,
        "application": options.app,
        "upstream": options.upstream,
        "certificate": options.certificate,
        "certificate_key": options.certificate_key,
    }
    listen = options.listen or settings.get("listen")
    if listen:
        try:
            host, given["port"] = ROWS["listen"].read(listen)
        except ValueError as error:
            raise LayoutError(f"listen: {listen!r} {error}") from None
        # A hub that listens on all addresses is reached on this machine's own.
        given["host"] = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    return Layout(**{name: value for name, value in given.items() if value is not None})


def _executable() -> str:
    """The command of this installation."""
    script = Path(sys.executable).parent / "mercure-hub"
    return str(script) if script.exists() else f"{sys.executable} -m mercure_hub"
