"""App contexts in the middle of somebody else's work, such as a transaction that is committing.

The end of an app context runs the app's teardown functions. The one that Flask's documentation shows for
SQLAlchemy closes the session of the thread: here that would be the session that commits. So these contexts do
not end. Each is the current one in a copy of the caller's variables only, and is forgotten with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from flask import Flask, current_app, has_app_context

_Result = TypeVar("_Result")


def within(app: Flask, call: Callable[[], _Result]) -> _Result:
    """Call something in a context of an app: the current one, if it is of this app.

    :param app: whose context it needs.
    :param call: what needs it.
    """
    if has_app_context() and current_app._get_current_object() is app:  # type: ignore[attr-defined]
        return call()
    return _called(app, call, copy_context())


def apart_from_the_request(app: Flask, call: Callable[[], _Result]) -> _Result:
    """Call something in a context of an app that has neither the request nor ``g`` of the caller.

    Contexts of others stay, such as that of a tenant or of tracing.

    :param app: whose context it needs.
    :param call: what needs it.
    """
    fresh = Context()
    for variable, value in copy_context().items():
        if not variable.name.startswith("flask."):
            fresh.run(variable.set, value)
    return _called(app, call, fresh)


def _called(app: Flask, call: Callable[[], _Result], variables: Context) -> _Result:
    sessions = _sessions(app)
    session = None
    if sessions is not None and has_app_context() and current_app._get_current_object() is app:  # type: ignore[attr-defined]
        session = sessions() if sessions.has() else None

    def run() -> _Result:
        app.app_context().push()
        with _shared(sessions, session):
            return call()

    return variables.run(run)


def _sessions(app: Flask) -> Any:
    """The registry from which Flask-SQLAlchemy takes the session of a context, if the app has it."""
    registry = getattr(getattr(app.extensions.get("sqlalchemy"), "session", None), "registry", None)
    return registry if hasattr(registry, "has") else None


@contextmanager
def _shared(sessions: Any, session: Any) -> Iterator[None]:
    """``db.session`` is the caller's, which knows what it has not committed yet.

    Another one would not see that; and in a database in memory it has the same connection and takes it back.
    """
    if session is not None:
        sessions.set(session)
    try:
        yield
    finally:
        if sessions is not None and sessions.has():
            if session is None:
                sessions().close()
            sessions.clear()
