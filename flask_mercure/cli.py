"""``flask mercure``: the hub for development, and publishing and subscribing from the shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import click
from flask import current_app
from flask.cli import AppGroup

from flask_mercure import development
from flask_mercure.doctor.command import doctor
from flask_mercure.errors import MercureError
from flask_mercure.extension import Mercure, state_of
from flask_mercure.matchers import Topic, URLPattern
from flask_mercure.outbox_commands import outbox, relay
from hub.protocol import event_stream

mercure = AppGroup("mercure", help="Publish to the Mercure hub, subscribe to it, run it for development.")


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Our own errors are for the person at the shell: one message, no traceback."""
    try:
        yield
    except MercureError as error:
        raise click.ClickException(str(error)) from error


@mercure.command("hub", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[HUB OPTIONS]...")
def run_hub(arguments: tuple[str, ...]) -> None:
    """Run the hub with the configuration of the app, for development.

    The hub listens where MERCURE_URL points to and trusts the app's keys. Subscribers without a token and
    active subscriptions are on, and the pages of "flask run" are admitted; variables of the environment such
    as MERCURE_ANONYMOUS=0 and options of mercure-hub change that, for example:

      flask mercure hub --cors-origins http://localhost:8000 --log-level debug
    """
    with _errors_in_words():
        environment = development.environment(state_of(current_app).configuration, os.environ)
    missing = development.missing_packages()
    if missing:
        raise click.ClickException(
            f"the hub needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'flask-mercure[hub]'"
        )
    command = development.command(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606 - our own interpreter, no shell


@mercure.command("publish")
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--data", default="", help='Content of the update; "-" reads it from standard input.')
@click.option("--private", is_flag=True, help="Only for subscribers whose token allows one of the topics.")
@click.option("--id", "event_id", help="Id of the update; the hub makes one otherwise.")
@click.option("--type", "event_type", help="Event type.")
@click.option("--retry", type=click.IntRange(min=0), help="Milliseconds before a client reconnects.")
def publish(
    topics: tuple[str, ...],
    *,
    data: str,
    private: bool,
    event_id: str | None,
    event_type: str | None,
    retry: int | None,
) -> None:
    """Publish an update and print its id."""
    if data == "-":
        data = sys.stdin.read()
    with _errors_in_words():
        click.echo(
            Mercure().publish(topics, data, private=private, id=event_id, type=event_type, retry=retry)
        )


@mercure.command("token")
@click.option("--subscribe", multiple=True, metavar="TOPIC", help="Topic that may be read; * for all.")
@click.option("--subscribe-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--publish", multiple=True, metavar="TOPIC", help="Topic to publish on; * for all.")
@click.option("--publish-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--lifetime", type=click.FloatRange(min=0, min_open=True), help="Seconds.")
def token(
    subscribe: tuple[str, ...],
    subscribe_urlpattern: tuple[str, ...],
    publish: tuple[str, ...],
    publish_urlpattern: tuple[str, ...],
    lifetime: float | None,
) -> None:
    """Print an access token."""
    with _errors_in_words():
        made = Mercure().create_token(
            _topics(subscribe, subscribe_urlpattern),
            _topics(publish, publish_urlpattern) or None,
            lifetime=lifetime,
        )
    click.echo(made)


@mercure.command("subscribe")
@click.argument("topics", nargs=-1, metavar="TOPIC...")
@click.option("--urlpattern", multiple=True, metavar="PATTERN", help="URL Pattern of topics.")
@click.option(
    "--last-event-id", metavar="ID", help='Start after this update; "earliest" for all that is kept.'
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
def subscribe(
    topics: tuple[str, ...], urlpattern: tuple[str, ...], last_event_id: str | None, count: int | None
) -> None:
    """Print the updates of topics as they arrive, in the form of an event stream.

    A lost connection is taken up again where it broke. Ctrl-C ends it.
    """
    wanted = _topics(topics, urlpattern)
    if not wanted:
        raise click.UsageError("name a topic, or a pattern with --urlpattern")
    with (
        _errors_in_words(),
        suppress(KeyboardInterrupt),
        Mercure().subscribe(wanted, last_event_id=last_event_id) as events,
    ):
        for event in islice(events, count):
            event_type = None if event.type == "message" else event.type
            click.echo(event_stream.encode(event.id, event.data, event_type), nl=False)


mercure.add_command(relay)
mercure.add_command(outbox)
mercure.add_command(doctor)


def _topics(exact: Sequence[str], patterns: Sequence[str]) -> list[Topic]:
    return [*exact, *map(URLPattern, patterns)]
