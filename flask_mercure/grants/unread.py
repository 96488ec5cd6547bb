"""Private updates that nobody may read: a hint for the developer of an app that forgot to say who may."""

from __future__ import annotations

from flask import current_app

from flask_mercure.state import MercureState


def hint(state: MercureState) -> None:
    """Say in the log, in debug mode and once for each hub, that private updates have no readers.

    :param state: of the current app.
    """
    readers = state.readers
    for name in readers.private - readers.let_in - readers.told:
        if current_app.debug and not state.has_grants(name):
            readers.told.add(name)
            current_app.logger.warning(
                "A private update was published%s, and this app has let no browser read such updates yet: "
                "register a function with @mercure.subscribe_grants, or call mercure.set_cookie where users "
                "sign in.",
                "" if name == state.default else f" on the hub {name!r}",
            )
