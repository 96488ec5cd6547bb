"""The command ``mercure-hub``, which is ``python -m hub``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hub import __version__
from hub.protocol.errors import MercureError
from hub.protocol.keys import generate_pair, generate_secret
from hub.settings import CONFIG, TABLE, Setting, SettingError, load_settings, reference

_DESCRIPTION = "Streams Mercure updates to browsers and other clients."
_EPILOG = """commands:
  mercure-hub             run the hub
  mercure-hub keys        print a fresh secret, or with --rsa, --ec, --ed25519 a key pair
  mercure-hub settings    print the reference of all settings as Markdown
  mercure-hub install     print a unit, a proxy's configuration or a Dockerfile, filled in for this machine
  mercure-hub convert     print our settings for the Caddyfile or the environment of another hub
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: without the program's name; by default those of the process.
    :returns: exit status: 0, or 2 when a setting cannot be used.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["keys"]:
        return _keys(words[1:])
    if words[:1] == ["settings"]:
        sys.stdout.write(reference())
        return 0
    if words[:1] == ["install"]:
        from hub.installation import command as installation  # noqa: PLC0415

        return installation.run(_Parser("mercure-hub install"), words[1:], os.environ)
    if words[:1] == ["convert"]:
        from hub.migration import command as migration  # noqa: PLC0415

        return migration.run(_Parser("mercure-hub convert"), words[1:])
    if words and words[0] != "run" and not words[0].startswith("-"):
        return _refuse("there is no such command; there are keys, settings, install and convert")
    return _serve(words[1:] if words[:1] == ["run"] else words)


def _keys(words: Sequence[str]) -> int:
    parser = _Parser("mercure-hub keys", description="Print key material.")
    kinds = parser.add_mutually_exclusive_group()
    for kind in ("rsa", "ec", "ed25519"):
        kinds.add_argument(
            f"--{kind}",
            dest="kind",
            action="store_const",
            const=kind,
            help="a private key and its public key, as PEM",
        )
    kind = parser.parse_args(words).kind
    if kind is None:
        print(generate_secret())  # noqa: T201
        return 0
    private, public = generate_pair(kind)
    print(private, public, sep="", end="")  # noqa: T201
    return 0


def _serve(words: Sequence[str]) -> int:
    known, unknown = _parser().parse_known_args(words)
    if unknown:  # what is no flag is not shown, it may be a part of a secret
        flag = unknown[0].partition("=")[0] if unknown[0].startswith("--") else "an argument"
        return _refuse(f"{flag}: there is no such flag; see mercure-hub --help")
    given = vars(known)
    flags = {name: value for name, value in given.items() if value is not None}
    try:
        settings = load_settings(os.environ, flags)
    except SettingError as error:
        return _refuse(str(error))
    # Imported late: "keys" and "--help" need neither gevent nor a database.
    from hub.server import logs  # noqa: PLC0415
    from hub.server.handover import tell_predecessor  # noqa: PLC0415
    from hub.server.sockets import notify  # noqa: PLC0415
    from hub.server.workers import serve  # noqa: PLC0415

    try:
        logs.configure(settings.log_level, settings.log_format, settings.log_file, settings.access_log)
    except OSError as error:
        is_access_log = bool(settings.access_log) and error.filename == str(
            Path(settings.access_log).absolute()
        )
        name, path = (
            ("MERCURE_ACCESS_LOG", settings.access_log)
            if is_access_log
            else ("MERCURE_LOG_FILE", settings.log_file)
        )
        return _refuse(f"{name}: {path!r} cannot be opened: {error.strerror}")
    log = logging.getLogger("hub.server")

    def announce(address: str) -> None:
        log.info("mercure-hub %s listens on %s", __version__, address)
        tell_predecessor(os.environ)
        notify(os.environ, "READY=1", f"STATUS=listens on {address}")

    try:
        serve(settings, announce, lambda: load_settings(os.environ, flags))
    except SettingError as error:
        return _refuse(str(error))
    except MercureError as error:
        return _refuse(f"MERCURE_TRANSPORT_URL: {error}; check the path and who may write there")
    return 0


def _refuse(message: str) -> int:
    print(f"mercure-hub: {message}", file=sys.stderr)  # noqa: T201
    return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mercure-hub: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "mercure-hub",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mercure-hub {__version__}")
    _add(parser, CONFIG)
    for group in dict.fromkeys(setting.group for setting in TABLE):
        section = parser.add_argument_group(group)
        for setting in TABLE:
            if setting.group == group:
                _add(section, setting)
    return parser


def _add(parser: argparse._ActionsContainer, setting: Setting) -> None:
    default = f" Default: {setting.default}." if setting.default else ""
    text = f"{setting.text}{default} [{setting.variable}]".replace("%", "%%")
    is_switch = setting.form == "0|1"
    parser.add_argument(
        setting.flag,
        dest=setting.name,
        metavar=setting.form,
        help=text,
        nargs="?" if is_switch else None,
        const="1" if is_switch else None,
    )
