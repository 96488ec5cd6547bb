"""The page of the command line, made from the parsers: ``python -m docs.website.commands``."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from unittest.mock import patch

import click

import mercure_hub.cli
from flask_mercure.cli import mercure

_INTRODUCTION = """# Command line

<!-- Made from the parsers by `make docs`; edit the texts there. -->

`flask mercure` comes with the extension and runs in an app's context: `flask --app shop mercure ...`.
`mercure-hub` needs the extra `hub`; `python -m mercure_hub` is the same. `--help` shows what stands here.
"""
_INSTALLED = "/opt/mercure/bin/mercure-hub"  # in place of the path on this machine


def page() -> str:
    """The page, in Markdown."""
    parts = [_INTRODUCTION, "## flask mercure\n"]
    parts += [_click_section(context) for context in click_commands()]
    parts += [
        "## mercure-hub\n",
        "Runs the hub. Each of its flags is one of the [settings](settings.md), such as `--listen` for\n"
        "`MERCURE_LISTEN`; `--config` names a TOML file. `mercure-hub --help` lists them.\n",
        "### mercure-hub check\n",
        "Reads all settings, keys, certificates and JWK files as a start would, and opens nothing for\n"
        "writing. It prints each setting with its value, but no secret, and where the value comes from:\n"
        "`default`, `environment`, `file PATH` or `command line`. Its exit status is 0, or 2 when a hub\n"
        "would not start or reload with these settings; a line says why. It takes the flags of the hub, and\n"
        "`--quiet`, to print only what is wrong.\n",
        "### mercure-hub settings\n",
        "Prints the reference of all settings as Markdown.\n",
    ]
    parts += [_argparse_section(leaf) for name in hub_commands() for leaf in leaves(hub_parser(name))]
    return "\n".join(parts).rstrip() + "\n"


def click_commands() -> Iterator[click.Context]:
    """Each command below ``flask mercure``, those of groups after one another."""
    yield from _below(click.Context(mercure, info_name="flask mercure"))


def _below(parent: click.Context) -> Iterator[click.Context]:
    assert isinstance(parent.command, click.Group)
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent=parent, info_name=name)
        if isinstance(command, click.Group):
            yield from _below(context)
        else:
            yield context


def hub_commands() -> list[str]:
    """The commands of ``mercure-hub`` that take flags of their own."""
    return [name for name in mercure_hub.cli._COMMANDS if name not in ("run", "check", "settings")]


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of a command's own commands; the parser itself when it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from leaves(below)
            return
    yield parser


class _Parsed(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def hub_parser(name: str, words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of a command of ``mercure-hub``, taken when the command is about to use it.

    :param words: to parse; none: they are not looked at.
    :raises SystemExit: the parser refuses them.
    """

    class Recording(mercure_hub.cli._Parser):
        def parse_args(self, *_: object, **__: object) -> argparse.Namespace:  # type: ignore[override]
            if words is not None:
                super().parse_args(words)
            raise _Parsed(self)

    with patch.object(mercure_hub.cli, "_Parser", Recording):
        try:
            mercure_hub.cli.main([name])
        except _Parsed as parsed:
            return parsed.parser
    raise LookupError(f"mercure-hub {name} has no parser")


def _click_section(context: click.Context) -> str:
    command = context.command
    arguments = [one for one in command.collect_usage_pieces(context) if one != "[OPTIONS]"]
    rows = []
    for option in command.get_params(context):
        if isinstance(option, click.Option) and "--help" not in option.opts and not option.hidden:
            flags = ", ".join(option.opts)
            value = "" if option.is_flag else f" {_value_of(option, context)}"
            record = option.get_help_record(context)
            rows.append((f"{flags}{value}", record[1] if record else ""))
    text = re.sub(r"^ +", "    ", inspect.cleandoc(command.help or ""), flags=re.MULTILINE)
    return _section(f"{context.command_path} {' '.join(arguments)}".strip(), context.command_path, text, rows)


def _value_of(option: click.Option, context: click.Context) -> str:
    metavar = option.make_metavar(context)
    return "NUMBER" if metavar.endswith(" RANGE") else metavar


def _argparse_section(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        text = (action.help or "").replace(_here(), _INSTALLED).replace("%%", "%")
        value = "" if action.nargs == 0 else f" {action.metavar or (action.dest or '').upper()}"
        rows.append((f"{', '.join(action.option_strings)}{value}".strip(), text))
    return _section(parser.prog, parser.prog, parser.description or "", rows)


def _here() -> str:
    from mercure_hub.tools.installation import command  # noqa: PLC0415 - with the commands that have it

    return command._executable()


def _section(usage: str, title: str, text: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"### {title}\n", *([f"    {usage}\n"] if usage != title else []), text, ""]
    listed = [f"| `{_cell(option)}` | {_cell(explained)} |" for option, explained in rows]
    if listed:
        lines += ["| option | |", "|---|---|", *listed, ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
