"""What the commands have in common: errors as messages, and the option that names a hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from flask_mercure.errors import MercureError

hub_option = click.option(
    "--hub", "name", metavar="NAME", help="One of MERCURE_HUBS; default: the default one."
)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Our own errors are for the person at the shell: one message, no traceback."""
    try:
        yield
    except MercureError as error:
        raise click.ClickException(str(error)) from error
