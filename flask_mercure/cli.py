"""``flask mercure``: publish, subscribe, tokens, the outbox, and a hub for development."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from itertools import islice
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, ScriptInfo, run_command
from werkzeug.serving import is_running_from_reloader

from flask_mercure import development
from flask_mercure.doctor.command import doctor
from flask_mercure.errors import MercureError, requiring_sqlalchemy
from flask_mercure.explanation.command import explain
from flask_mercure.hub import Hub
from flask_mercure.state import state_of
from flask_mercure.topics import Topic, URLPattern, typed
from mercure_hub.protocol import event_stream

mercure = AppGroup("mercure", help="Publish to the Mercure hub, subscribe to it, run it for development.")
mercure.add_command(doctor)
mercure.add_command(explain)

_hub_option = click.option(
    "--hub", "name", metavar="NAME", help="One of MERCURE_HUBS; default: the default one."
)


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Show an error of the extension as one message, without a traceback."""
    try:
        yield
    except MercureError as error:
        raise click.ClickException(str(error)) from error


@mercure.command("hub", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_hub_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[HUB OPTIONS]...")
def run_hub(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run the hub with the configuration of the app, for development.

    The hub listens where MERCURE_URL points to and trusts the app's keys. Subscribers without a token,
    active subscriptions and the debugger are on, and the pages of "flask run" are admitted, whatever its
    port; variables of the environment such as MERCURE_ANONYMOUS=0 and options of mercure-hub change that,
    for example:

      flask mercure hub --cors-origins https://shop.test --log-level debug
    """
    with _errors_as_messages():
        environment = development.environment(state_of(current_app).hub(name).configuration, os.environ)
        development.check_packages()
    command = development.command(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606 - our own interpreter, no shell


@mercure.command(
    "run",
    with_appcontext=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS]...")
@click.pass_context
def run(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run the app and its hub together, for development.

    The options are those of "flask run", such as --host, --port, --cert and --key. An app that calls
    app.config.from_prefixed_env() needs no settings: it gets new secrets, and a hub under the host name of
    its pages. What the app or the environment sets counts. The hub's history is in the instance folder.

      flask --app shop --debug mercure run --port 8000
    """
    command = run_command.make_context("run", [*arguments], parent=context)
    if not is_running_from_reloader():  # the process that restarts the app has the hub
        with _errors_as_messages():
            development.check_packages()  # not on Windows, which has not all of these signals
            certificate = command.params["cert"] if isinstance(command.params["cert"], tuple) else None
            settings, listening = development.settings_of_a_run(command.params["host"], certificate)
            for name, value in settings.items():
                os.environ.setdefault(name, value)
            app = context.ensure_object(ScriptInfo).load_app()
            with app.app_context():
                configuration = state_of(app).hub(None).configuration
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what ends this ends the hub, too
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # not under nohup
                    signal.signal(number, signal.default_int_handler)
            held = listening if configuration.url == settings["FLASK_MERCURE_URL"] else None
            if held is None:  # the app has its hub elsewhere
                listening.close()
            with development.hub_beside(app, configuration, os.environ, held), suppress(KeyboardInterrupt):
                click.echo(f" * Hub of {app.name!r} on {configuration.url}")
                run_command.invoke(command)
        return
    development.end_with_parent()
    run_command.invoke(command)


@mercure.command("publish")
@_hub_option
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--data", default="", help='Content of the update; "-" reads it from standard input.')
@click.option(
    "--public", is_flag=True, help="For everybody who can connect, not only with a token for a topic."
)
@click.option("--id", "event_id", help="Id of the update; the hub makes one otherwise.")
@click.option("--type", "event_type", help="Event type.")
@click.option("--retry", type=click.IntRange(min=0), help="Milliseconds before a client reconnects.")
def publish(
    name: str | None,
    topics: tuple[str, ...],
    *,
    data: str,
    public: bool,
    event_id: str | None,
    event_type: str | None,
    retry: int | None,
) -> None:
    """Publish an update and print its id."""
    if data == "-":
        data = sys.stdin.read()
    with _errors_as_messages():
        click.echo(
            Hub(name).publish(topics, data, private=not public, id=event_id, type=event_type, retry=retry)
        )


@mercure.command("token")
@_hub_option
@click.option("--subscribe", multiple=True, metavar="TOPIC", help="Topic that may be read; * for all.")
@click.option("--subscribe-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--publish", multiple=True, metavar="TOPIC", help="Topic to publish on; * for all.")
@click.option("--publish-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--lifetime", type=click.FloatRange(min=0, min_open=True), help="Seconds.")
@click.option("--user", metavar="ID", help="The user the token is for: its sub.")
def token(
    name: str | None,
    *,
    subscribe: tuple[str, ...],
    subscribe_urlpattern: tuple[str, ...],
    publish: tuple[str, ...],
    publish_urlpattern: tuple[str, ...],
    lifetime: float | None,
    user: str | None,
) -> None:
    """Print an access token."""
    with _errors_as_messages():
        hub = Hub(name)
        access_token = hub.create_token(
            _topics(hub, subscribe, subscribe_urlpattern),
            _topics(hub, publish, publish_urlpattern) or None,
            lifetime=lifetime,
            user=user,
        )
    click.echo(access_token)


@mercure.command("revoke")
@_hub_option
@click.argument("user", required=False)
@click.option("--topic", "topics", multiple=True, metavar="TOPIC", help="Only tokens that grant it.")
@click.option("--topic-urlpattern", "patterns", multiple=True, metavar="PATTERN", help="As it was granted.")
@click.option("--sid", metavar="ID", help="Instead of a user: the tokens with this sid, of a session.")
@click.option("--jti", metavar="ID", help="Instead of a user: the token with this jti.")
@click.option(
    "--lifetime",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for which such tokens may still be valid. Default: 30 days.",
)
def revoke(
    name: str | None,
    user: str | None,
    topics: tuple[str, ...],
    patterns: tuple[str, ...],
    *,
    sid: str | None,
    jti: str | None,
    lifetime: float | None,
) -> None:
    """End the access of a USER at once, or that of a session or a token.

    The hub ends the streams and refuses the tokens that were issued before. It needs MERCURE_REVOCATIONS=1.
    """
    with _errors_as_messages():
        hub = Hub(name)
        hub.revoke(user, topics=_topics(hub, topics, patterns), sid=sid, jti=jti, lifetime=lifetime)
    click.echo("ended; the hub refuses these tokens")


@mercure.command("subscribe")
@_hub_option
@click.argument("topics", nargs=-1, metavar="TOPIC...")
@click.option("--urlpattern", multiple=True, metavar="PATTERN", help="URL Pattern of topics.")
@click.option(
    "--last-event-id", metavar="ID", help='Start after this update; "earliest" for all that is kept.'
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
def subscribe(
    name: str | None,
    topics: tuple[str, ...],
    urlpattern: tuple[str, ...],
    last_event_id: str | None,
    count: int | None,
) -> None:
    """Print the updates of topics as they arrive, in the form of an event stream.

    A lost connection is taken up again where it broke. Ctrl-C ends it.
    """
    if not (topics or urlpattern):
        raise click.UsageError("name a topic, or a pattern with --urlpattern")
    hub = Hub(name)
    with (
        _errors_as_messages(),
        suppress(KeyboardInterrupt),
        hub.subscribe(_topics(hub, topics, urlpattern), last_event_id=last_event_id) as events,
    ):
        for event in islice(events, count):
            event_type = None if event.type == "message" else event.type
            click.echo(event_stream.encode(event.id, event.data, event_type), nl=False)


def _topics(hub: Hub, written: Sequence[str], patterns: Sequence[str]) -> list[Topic]:
    protocol = hub._state.configuration.protocol
    return [*(typed(one, protocol) for one in written), *map(URLPattern, patterns)]


# The other commands work without SQLAlchemy, so the outbox is imported only when a command needs it.


def _app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


@contextmanager
def _outbox() -> Iterator[tuple[Any, Any, Any]]:
    """A connection in a transaction, the table of the outbox, and the module that reads it."""
    with _errors_as_messages():
        with requiring_sqlalchemy("the outbox"):
            database = import_module("flask_mercure.database.outbox")
            contents = import_module("flask_mercure.database.table")
        binding = database.outbox_of(_app()).binding
        with binding.engine.begin() as connection:
            yield connection, binding.table, contents


@mercure.command("relay")
@click.option("--once", is_flag=True, help="Send what waits and end; for cron.")
def relay(*, once: bool) -> None:
    """Send the updates of the outbox to the hub, until SIGTERM or Ctrl-C.

    Several relays share the work. What one cannot send stays in the outbox.
    """
    with _errors_as_messages(), requiring_sqlalchemy("the outbox"):
        service = import_module("flask_mercure.database.outbox")
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with (
        _errors_as_messages(),
        closing(service.relay_for(_app())) as sender,
        service.ending_on_signals(sender),
    ):
        if once:
            done = sender.run_once()
            click.echo(f"{done.sent} sent, {done.failed} to be tried again, {done.parked} parked")
        else:
            sender.run()


@mercure.group("outbox")
def outbox() -> None:
    """Look at the updates that wait in the database, and look after them."""


@outbox.command("stats")
def show_stats() -> None:
    """Print how many updates wait, fail and are parked."""
    with _outbox() as (connection, table, contents):
        stats = contents.read_stats(connection, table, time.time())
    click.echo(f"waiting  {stats.waiting}")
    click.echo(f"oldest   {stats.oldest_age:.0f} s")
    click.echo(f"failing  {stats.failing}")
    click.echo(f"parked   {stats.parked}")


@outbox.command("list")
@click.option("--state", type=click.Choice(["waiting", "parked"]), help="Default: all.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rows.")
def show_list(state: str | None, limit: int) -> None:
    """Print the oldest updates, without their data."""
    with _outbox() as (connection, table, contents):
        rows = contents.list_updates(connection, table, state, limit)
    for row in rows:
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.created_at))
        private = " private" if row.private else ""
        click.echo(
            f"{row.sequence}  {row.state}  {written}  {row.hub}{private}  {' '.join(row.topics)}  {row.id}"
        )
        if row.error:
            after = f"after {row.attempts} attempts: " if row.attempts else ""
            click.echo(f"    {after}{row.error}")


@outbox.command("retry")
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="All that are parked or failing.")
def retry(numbers: tuple[int, ...], *, everything: bool) -> None:
    """Try parked or failing updates again at once; NUMBER is the first column of the list."""
    if bool(numbers) is everything:
        raise click.UsageError("name updates by their number, or use --all")
    with _outbox() as (connection, table, contents):
        count = contents.retry(connection, table, numbers)
    click.echo(f"{count} updates are tried again")


@outbox.command("purge")
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@click.option("--state", type=click.Choice(["waiting", "parked"]), help="All of one state.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what is older.")
@click.option("--yes", is_flag=True, help="Do not ask before updates are deleted that wait.")
def purge(numbers: tuple[int, ...], *, state: str | None, older_than: float | None, yes: bool) -> None:
    """Delete updates: those with a NUMBER, or those of a state."""
    if bool(numbers) is (state is not None):
        raise click.UsageError("name updates by their number, or a state with --state")
    if state != "parked" and not yes:
        click.confirm("Updates that wait would never reach their subscribers. Delete them?", abort=True)
    before = None if older_than is None else time.time() - older_than * 86400
    with _outbox() as (connection, table, contents):
        states = contents.STATES if state is None else (state,)
        count = contents.purge(connection, table, numbers, states=states, before=before)
    click.echo(f"{count} updates are deleted")
