"""``flask mercure relay`` and ``flask mercure outbox``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from flask_mercure.commands.words import errors_in_words
from mercure_hub import INSTALL

# SQLAlchemy comes with the outbox. The command line is there without it too, so nothing of it is
# imported before a command runs.


def _app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


@contextmanager
def _outbox() -> Iterator[tuple[Any, Any, Any]]:
    """A connection in a transaction, the table, and the module that reads it."""
    with errors_in_words():
        _load()
        outbox = import_module("flask_mercure.outbox.app").outbox_of(_app()).binding
        with outbox.engine.begin() as connection:
            yield connection, outbox.table, import_module("flask_mercure.outbox.contents")


def _load() -> None:
    try:
        import_module("sqlalchemy")
    except ModuleNotFoundError:
        raise click.ClickException(
            f"the outbox needs SQLAlchemy, which is not installed; {INSTALL.format('outbox')}"
        ) from None


@click.command("relay")
@click.option("--once", is_flag=True, help="Send what waits and end; for cron.")
@with_appcontext
def relay(*, once: bool) -> None:
    """Send the updates of the outbox to the hub, until SIGTERM or Ctrl-C.

    Several relays share the work. What one cannot send stays in the outbox.
    """
    _load()
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    service = import_module("flask_mercure.outbox.service")
    with errors_in_words(), closing(service.relay_for(_app())) as made, service.ending_on_signals(made):
        if once:
            done = made.run_once()
            click.echo(f"{done.sent} sent, {done.failed} to be tried again, {done.parked} parked")
        else:
            made.run()


outbox = AppGroup("outbox", help="Look at the updates that wait in the database, and look after them.")


@outbox.command("stats")
def show_stats() -> None:
    """Print how many updates wait, fail and are parked."""
    with _outbox() as (connection, table, contents):
        read = contents.stats(connection, table, time.time())
    click.echo(f"waiting    {read.waiting}")
    click.echo(f"oldest     {read.oldest_age:.0f} s")
    click.echo(f"failing    {read.failing}")
    click.echo(f"parked     {read.parked}")
    click.echo(f"delivered  {read.delivered}")


@outbox.command("list")
@click.option("--state", type=click.Choice(["waiting", "parked", "delivered"]), help="Default: all.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rows.")
def show_list(state: str | None, limit: int) -> None:
    """Print the oldest updates, without their data."""
    with _outbox() as (connection, table, contents):
        rows = contents.listing(connection, table, state, limit)
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
@click.option("--state", type=click.Choice(["waiting", "parked", "delivered"]), help="All of one state.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only what is older.")
@click.option("--yes", is_flag=True, help="Do not ask before updates are deleted that wait.")
def purge(numbers: tuple[int, ...], *, state: str | None, older_than: float | None, yes: bool) -> None:
    """Delete updates: those with a NUMBER, or those of a state."""
    if bool(numbers) is (state is not None):
        raise click.UsageError("name updates by their number, or a state with --state")
    if state != "parked" and state != "delivered" and not yes:  # noqa: PLR1714
        click.confirm("Updates that wait would never reach their subscribers. Delete them?", abort=True)
    before = None if older_than is None else time.time() - older_than * 86400
    with _outbox() as (connection, table, contents):
        states = contents.STATES if state is None else (state,)
        count = contents.purge(connection, table, numbers, states=states, before=before)
    click.echo(f"{count} updates are deleted")
