"""``flask mercure publish``, ``subscribe`` and ``token``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

import click
from flask.cli import with_appcontext

from flask_mercure.commands.words import errors_in_words, hub_option
from flask_mercure.hub import Hub
from flask_mercure.topics.matchers import Topic, URLPattern, typed
from mercure_hub.protocol import event_stream


@click.command("publish")
@hub_option
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("--data", default="", help='Content of the update; "-" reads it from standard input.')
@click.option("--private", is_flag=True, help="Only for subscribers whose token allows one of the topics.")
@click.option("--id", "event_id", help="Id of the update; the hub makes one otherwise.")
@click.option("--type", "event_type", help="Event type.")
@click.option("--retry", type=click.IntRange(min=0), help="Milliseconds before a client reconnects.")
@with_appcontext
def publish(
    name: str | None,
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
    with errors_in_words():
        click.echo(
            Hub(name).publish(topics, data, private=private, id=event_id, type=event_type, retry=retry)
        )


@click.command("token")
@hub_option
@click.option("--subscribe", multiple=True, metavar="TOPIC", help="Topic that may be read; * for all.")
@click.option("--subscribe-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--publish", multiple=True, metavar="TOPIC", help="Topic to publish on; * for all.")
@click.option("--publish-urlpattern", multiple=True, metavar="PATTERN", help="The same, a URL Pattern.")
@click.option("--lifetime", type=click.FloatRange(min=0, min_open=True), help="Seconds.")
@with_appcontext
def token(
    name: str | None,
    *,
    subscribe: tuple[str, ...],
    subscribe_urlpattern: tuple[str, ...],
    publish: tuple[str, ...],
    publish_urlpattern: tuple[str, ...],
    lifetime: float | None,
) -> None:
    """Print an access token."""
    with errors_in_words():
        hub = Hub(name)
        made = hub.create_token(
            _topics(hub, subscribe, subscribe_urlpattern),
            _topics(hub, publish, publish_urlpattern) or None,
            lifetime=lifetime,
        )
    click.echo(made)


@click.command("subscribe")
@hub_option
@click.argument("topics", nargs=-1, metavar="TOPIC...")
@click.option("--urlpattern", multiple=True, metavar="PATTERN", help="URL Pattern of topics.")
@click.option(
    "--last-event-id", metavar="ID", help='Start after this update; "earliest" for all that is kept.'
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@with_appcontext
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
        errors_in_words(),
        suppress(KeyboardInterrupt),
        hub.subscribe(_topics(hub, topics, urlpattern), last_event_id=last_event_id) as events,
    ):
        for event in islice(events, count):
            event_type = None if event.type == "message" else event.type
            click.echo(event_stream.encode(event.id, event.data, event_type), nl=False)


def _topics(hub: Hub, written: Sequence[str], patterns: Sequence[str]) -> list[Topic]:
    protocol = hub._state.configuration.protocol
    return [*(typed(one, protocol) for one in written), *map(URLPattern, patterns)]
