"""The command ``mercure-hub``, which is ``python -m mercure_hub``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mercure_hub import INSTALL, NOT_ON_WINDOWS, PACKAGES, __version__
from mercure_hub.protocol.errors import StorageError, StorageUnusable
from mercure_hub.protocol.tokens.keys import generate_secret

if TYPE_CHECKING:
    from mercure_hub.config.settings import Setting
# What needs a package of the extra is imported late: "keys" does without, and the others say what is missing.

_FAILED, _REFUSED = 1, 2  # exit statuses; the shipped units start the hub again after the first one only
_DESCRIPTION = "Streams Mercure updates to browsers and other clients."
_COMMANDS = {
    "run": "run the hub; without a command, this is it",
    "check": "read all settings, keys and certificates as a start would, and print the settings",
    "keys": "print a fresh secret, or with --rsa, --ec, --ed25519 a key pair",
    "history": "look at the stored updates; export, import, copy, prune, vacuum or back them up",
    "install": "print a unit, a proxy's configuration or a Dockerfile, filled in for this machine",
    "convert": "print our settings for the Caddyfile or the environment of another hub",
    "settings": "print the reference of all settings as Markdown",
}

_NEED_POSIX = ("run", "check", "history")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: without the program's name; by default those of the process.
    :returns: exit status: 0, 1 when a command could not do its work, or 2 when a setting or a word on the
        command line cannot be used.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words.pop(0) if words and not words[0].startswith("-") else "run"
    if sys.platform == "win32" and command in _NEED_POSIX:
        return _refuse(NOT_ON_WINDOWS)
    try:
        return _run(command, words)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in PACKAGES:
            raise
        return _refuse(f"a package that the hub needs is missing ({error.name}); {INSTALL.format('hub')}")


def _run(command: str, words: list[str]) -> int:
    match command:
        case "run" | "check" | "keys":
            return {"run": _serve, "check": _check, "keys": _keys}[command](words)
        case "settings":
            from mercure_hub.config.settings import reference  # noqa: PLC0415

            _command_parser("settings").parse_args(words)
            sys.stdout.write(reference())
            return 0
        case "history":
            from mercure_hub.tools.history import command as history  # noqa: PLC0415 - needs a database, the others do not

            return history.main(words, os.environ, _command_parser("history"))
        case "install" | "convert":
            return _for_people(command, words)
    from difflib import get_close_matches  # noqa: PLC0415 - not in a process that serves

    near = get_close_matches(command, _COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_COMMANDS)}"
    return _refuse(f"there is no such command; {hint}")


def _for_people(command: str, words: Sequence[str]) -> int:
    """The commands that print something to be put elsewhere."""
    from mercure_hub.tools.conversion import command as migration  # noqa: PLC0415
    from mercure_hub.tools.installation import command as installation  # noqa: PLC0415

    parser = _command_parser(command)
    if command == "install":
        return installation.run(parser, words, os.environ)
    return migration.run(parser, words)


def _keys(words: Sequence[str]) -> int:
    parser = _command_parser("keys")
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
    from mercure_hub.protocol.tokens.asymmetric import generate_pair  # noqa: PLC0415 - a secret needs no cryptography

    private, public = generate_pair(kind)
    print(private, public, sep="", end="")  # noqa: T201
    return 0


def _flags(parser: _Parser, words: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by the names of settings."""
    known, unknown = parser.parse_known_args(words)
    if unknown:  # what is no flag is not shown, it may be a part of a secret
        flag = unknown[0].partition("=")[0] if unknown[0].startswith("--") else "an argument"
        parser.exit(_REFUSED, f"mercure-hub: {flag}: there is no such flag; see mercure-hub --help\n")
    return {name: value for name, value in vars(known).items() if value is not None}


def _check(words: Sequence[str]) -> int:
    parser = _parser("check")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    flags = _flags(parser, words)
    is_quiet = flags.pop("quiet")
    _look_for_packages()
    from mercure_hub.config.settings import SettingError, unknown_variables  # noqa: PLC0415
    from mercure_hub.tools.check import check  # noqa: PLC0415

    for warning in unknown_variables(os.environ):
        print(f"mercure-hub: {warning}", file=sys.stderr)  # noqa: T201
    try:
        lines = check(os.environ, flags)
    except SettingError as error:
        return _refuse(str(error))
    if not is_quiet:
        print(*lines, sep="\n")  # noqa: T201
    return 0


def _look_for_packages() -> None:
    """Miss a package now: some are imported late, for the first client that needs them.

    :raises ModuleNotFoundError: one is not there.
    """
    for name in PACKAGES:
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def _serve(words: Sequence[str]) -> int:
    flags = _flags(_parser(), words)
    _look_for_packages()
    from mercure_hub.config.loading import load_settings  # noqa: PLC0415
    from mercure_hub.config.settings import SettingError, unknown_variables  # noqa: PLC0415

    # Before the settings are read: with a package missing, no setting helps.
    from mercure_hub.protocol.hub_url import WELL_KNOWN  # noqa: PLC0415
    from mercure_hub.server import logs  # noqa: PLC0415
    from mercure_hub.server.lifecycle import tell_predecessor  # noqa: PLC0415
    from mercure_hub.server.sockets import notify  # noqa: PLC0415
    from mercure_hub.server.workers import serve  # noqa: PLC0415

    try:
        settings = load_settings(os.environ, flags)
    except SettingError as error:
        return _refuse(str(error))
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
    log = logging.getLogger("mercure_hub.server")
    for warning in unknown_variables(os.environ):
        log.warning("%s", warning)

    def announce(address: str) -> None:
        log.info("mercure-hub %s listens on %s", __version__, address)
        if settings.debugger:
            own = settings.public_url.url if settings.public_url else address + WELL_KNOWN
            log.info("the debugger is at %s/debugger/", own.rstrip("/"))
        if settings.playground:
            log.warning("PLAYGROUND: everybody on this machine may publish and read everything here")
        tell_predecessor(os.environ)
        notify(os.environ, "READY=1", f"STATUS=listens on {address}", f"X_ADDRESS={address}")

    try:
        serve(settings, announce, lambda: load_settings(os.environ, flags))
    except SettingError as error:
        return _refuse(str(error))
    except StorageError as error:
        _refuse(f"MERCURE_TRANSPORT_URL: {error}")
        # A full disk or a lock may be over soon: whoever watches over the hub starts it again.
        return _REFUSED if isinstance(error, StorageUnusable) else _FAILED
    return 0


def _refuse(message: str) -> int:
    print(f"mercure-hub: {message}", file=sys.stderr)  # noqa: T201
    return _REFUSED


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but a flag that needs a value takes the next word, which may begin with ``-``."""
        words = sys.argv[1:] if args is None else list(args)
        joined: list[str] = []
        while words:
            word = words.pop(0)
            action = self._option_string_actions.get(word)
            if (
                action is not None
                and action.nargs is None
                and words
                and words[0].startswith("-")
                and words[0].partition("=")[0] not in self._option_string_actions
            ):
                word = f"{word}={words.pop(0)}"
            joined.append(word)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mercure-hub: {message}; see {self.prog} --help\n")


def _command_parser(command: str) -> _Parser:
    text = _COMMANDS[command]
    return _Parser(f"mercure-hub {command}", description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)


def _parser(command: str = "run") -> _Parser:
    """The parser of a command that takes all settings."""
    from mercure_hub.config.settings import CONFIG, TABLE  # noqa: PLC0415

    commands = "\n".join(f"  mercure-hub {name:<10}{text}" for name, text in _COMMANDS.items())
    if command == "run":
        usage = "mercure-hub [COMMAND] [FLAG ...]"
        text = f"{_DESCRIPTION}\n\ncommands, each with a --help of its own:\n{commands}"
    else:
        usage = f"mercure-hub {command} [FLAG ...]"
        text = f"{_COMMANDS[command][0].upper()}{_COMMANDS[command][1:]}."
    parser = _Parser(
        "mercure-hub",
        usage=usage,
        description=text,
        epilog="A flag wins over the environment, the environment over the file of --config.",
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
    parser.add_argument(
        setting.flag,
        dest=setting.name,
        metavar=setting.form,
        help=text,
        nargs="?" if setting.is_switch else None,
        const="1" if setting.is_switch else None,
    )
