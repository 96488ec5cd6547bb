"""``flask mercure hub``: the hub for development."""

from __future__ import annotations

import os
import sys

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_mercure.commands.words import errors_in_words, hub_option
from flask_mercure.development import launch
from flask_mercure.state import state_of


@click.command("hub", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@hub_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[HUB OPTIONS]...")
@with_appcontext
def run_hub(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run the hub with the configuration of the app, for development.

    The hub listens where MERCURE_URL points to and trusts the app's keys. Subscribers without a token,
    active subscriptions and the debugger are on, and the pages of "flask run" are admitted, whatever its
    port; variables of the environment such as MERCURE_ANONYMOUS=0 and options of mercure-hub change that,
    for example:

      flask mercure hub --cors-origins https://shop.test --log-level debug
    """
    with errors_in_words():
        environment = launch.environment(state_of(current_app).hub(name).configuration, os.environ)
        launch.check_packages()
    command = launch.command(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606 - our own interpreter, no shell
