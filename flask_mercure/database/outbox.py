"""The outbox of an app: its database, how updates come into it, and the relay that empties it.

* :class:`Outbox`: which database ``MERCURE_OUTBOX`` names, as engine, table and session;
* :class:`AppOutbox` and :class:`OutboxWriter`: updates that are written with a transaction;
* :func:`relay_for` and :class:`RelayThread`: the relay, as a process or as a thread of each process;
* :func:`outbox_stats` and :class:`OutboxCollector`: for monitoring.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Unpack

from flask import Flask, current_app
from sqlalchemy import Connection, Engine, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_mercure.config.settings import AppSettings
from flask_mercure.database.relay import Relay, wakeup_for
from flask_mercure.database.table import Stats, channel, check_storable, outbox_table, read_stats, write
from flask_mercure.database.transaction import Outgoing, PublishedUpdate, collect, write_at_commit
from flask_mercure.errors import ConfigurationError, InvalidArgument
from flask_mercure.publishing import recorder
from flask_mercure.publishing.background import AtExit, PerProcess
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.state import state_of
from flask_mercure.updates import Publication, Update, UpdateOptions

if TYPE_CHECKING:
    from prometheus_client import Metric

Target = Session | AsyncSession | scoped_session[Any] | Connection
"""Whose transaction an update belongs to."""

_USE = (
    "a Flask-SQLAlchemy object, a sessionmaker or scoped_session with bind=, an Engine, an Outbox, or the "
    "import path of one of these, such as 'package.module:db'"
)

_STOPPING = 5.0  # seconds for the threads at the end of a process
_RESTART_AFTER = 5.0  # seconds after an error

_GAUGES = {
    "waiting": "Updates that are to be sent.",
    "failing": "Waiting updates that have failed while the hub took others.",
    "parked": "Updates that the hub refused for good or never took.",
    "oldest_age": "Seconds since the oldest waiting update was written.",
}

_log = logging.getLogger("flask_mercure.relay")


class Outbox:
    """An outbox: where its rows are, and whose transactions write them.

    :param source: a Flask-SQLAlchemy object, a ``sessionmaker`` or ``scoped_session`` with ``bind=``, or an
        ``Engine``.
    :param metadata: that carries the table; default: that of the Flask-SQLAlchemy object, else one of its
        own, which Alembic does not see.
    :raises TypeError: the source is none of these.
    """

    def __init__(self, source: Any, metadata: MetaData | None = None) -> None:
        is_flask_sqlalchemy = hasattr(type(source), "engines") and hasattr(source, "metadata")
        if not (is_flask_sqlalchemy or isinstance(source, Engine | sessionmaker | scoped_session)):
            raise TypeError(f"an outbox needs {_USE}; this is a {type(source).__name__}")
        if metadata is None:
            metadata = source.metadata if is_flask_sqlalchemy else MetaData()
        self._source = source
        self._is_flask_sqlalchemy = is_flask_sqlalchemy
        self.table: Table = outbox_table(metadata)

    @property
    def engine(self) -> Engine:
        """Of the database; with Flask-SQLAlchemy it needs the context of the app.

        :raises ConfigurationError: the sessions are bound to no engine.
        """
        source = self._source
        if isinstance(source, Engine):
            return source
        if self._is_flask_sqlalchemy:
            key = self.table.metadata.info.get("bind_key")
            engine = source.engines[key]
        else:
            factory = source.session_factory if isinstance(source, scoped_session) else source
            engine = getattr(factory, "kw", {}).get("bind")
        if not isinstance(engine, Engine):
            raise ConfigurationError(
                "MERCURE_OUTBOX names sessions without bind=: give an Engine, which the relay reads from"
            )
        return engine

    def current_session(self) -> Session | None:
        """The session of this thread or app context, where the source has such a thing."""
        source = self._source
        if self._is_flask_sqlalchemy:
            source = source.session
        if isinstance(source, scoped_session):
            session: Session = source()
            return session
        return None


def _bound(value: Any, extensions: dict[str, Any]) -> Outbox:
    """The outbox that the configuration names.

    :param value: of ``MERCURE_OUTBOX``, imported already; ``True`` stands for the app's Flask-SQLAlchemy.
    :param extensions: of the app.
    :raises ValueError: with the end of a sentence that begins with the key.
    """
    if value is True:
        value = extensions.get("sqlalchemy")
        if value is None:
            raise ValueError(
                "is True, and the app has no Flask-SQLAlchemy yet: call db.init_app(app) before "
                f"mercure.init_app(app), or name {_USE}"
            )
    if isinstance(value, Outbox):
        return value
    try:
        return Outbox(value)
    except TypeError:
        raise ValueError(f"is a {type(value).__name__}; name {_USE}") from None


class AppOutbox:
    """The outbox of one app.

    :param binding: where its rows are.
    :param relay_thread: sends them from this process; ``None`` where another process does.
    """

    def __init__(self, binding: Outbox, relay_thread: RelayThread | None = None) -> None:
        self.binding = binding
        self.relay_thread = relay_thread

    def add(self, hub: str, publications: Sequence[Publication], target: Target | None = None) -> list[str]:
        """Publish updates when a transaction commits.

        :param hub: name of the hub.
        :param publications: in order.
        :param target: whose transaction; ``None`` means the app's current session, and without such a
            session they are a transaction of their own.
        :returns: their ids.
        :raises InvalidArgument: a database cannot store one, or the connection has no transaction.
        :raises TypeError: the target is of another kind.
        """
        table = self.binding.table
        named = [one.with_id() for one in publications]
        for one in named:
            check_storable(one)
        writer = self._session_or_connection(target)
        if isinstance(writer, Session):
            for one in named:
                collect(writer, object(), PublishedUpdate(Outgoing(hub, one, table, self)))
        elif writer is not None:
            # There is no event after the commit of a connection: the relay finds the rows by itself.
            write_at_commit(writer, table, [(hub, one) for one in named])
        else:
            with self.binding.engine.begin() as connection:
                write(connection, table, [(hub, one) for one in named], time.time())
            self.wake_relay()
        return [one.id or "" for one in named]

    def committed(self, updates: Sequence[Outgoing]) -> None:
        """Record the updates in a test, and wake the relay."""
        if recorder.is_recording():
            for update in updates:
                recorder.take(update.hub, [update.publication], from_outbox=True)
        self.wake_relay()

    def wake_relay(self) -> None:
        """Wake the relay thread of this process, if it has one: rows were committed."""
        if self.relay_thread is not None:
            self.relay_thread.wake()

    def _session_or_connection(self, target: Target | None) -> Session | Connection | None:
        if target is None:
            return self.binding.current_session()
        if isinstance(target, scoped_session):
            target = target()
        if isinstance(target, AsyncSession):
            return target.sync_session
        if isinstance(target, Session):
            return target
        if not isinstance(target, Connection):
            raise TypeError(
                f"an update is written with a Session or a Connection, not with a {type(target).__name__}"
            )
        if not target.in_transaction():
            raise InvalidArgument("the connection has no transaction to write in; use engine.begin()")
        return target


def outbox_of(app: Flask) -> AppOutbox:
    """The outbox of an app.

    :raises ConfigurationError: it has none.
    """
    outbox = pipeline_of(app).outbox
    if not isinstance(outbox, AppOutbox):
        raise ConfigurationError(
            f"the app {app.name!r} has no outbox: set MERCURE_OUTBOX to its database, such as your db object"
        )
    return outbox


class OutboxWriter:
    """Publishes on one hub when a transaction commits.

    :param hub: name of the hub; ``None`` for the default one.
    :param target: a session, an asynchronous one, a ``scoped_session``, or a connection in a transaction.
        ``None`` means the app's current session; without one each update is a transaction of its own.
    """

    def __init__(self, hub: str | None, target: Target | None = None) -> None:
        self._hub = hub
        self._target = target

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        **options: Unpack[UpdateOptions],
    ) -> str:
        """Publish an update when the transaction commits; a rollback, of a savepoint too, takes it back.

        ``data`` is written as JSON now: what changes in it later is not published. The other arguments are
        those of :meth:`flask_mercure.Mercure.publish`.

        :returns: the id of the update.
        :raises ConfigurationError: the app has no outbox.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update, or a database cannot store it.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        publication = Update(topics, data, **options).publication()
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return outbox_of(app).add(state_of(app).hub(self._hub).name, [publication], self._target)[0]


def open_outbox(app: Flask, settings: AppSettings) -> AppOutbox:
    """The outbox that the settings of an app name, with a relay thread if they ask for one.

    :raises ValueError: with the end of a sentence that begins with ``MERCURE_OUTBOX``.
    """
    binding = _bound(settings.outbox, app.extensions)
    if not settings.relay_thread:
        return AppOutbox(binding)
    thread = RelayThread(app)
    # At the first request, not now: a server may fork its workers after it has loaded the app.
    app.before_request(thread.ensure)
    return AppOutbox(binding, thread)


def relay_for(app: Flask, *, interval: float = 1.0) -> Relay:
    """A relay, to be used in the context of its app.

    :param interval: seconds between two looks at the table, when nothing wakes the relay.
    :raises ConfigurationError: the app has no outbox.
    """
    outbox, pipeline, state = outbox_of(app).binding, pipeline_of(app), state_of(app)

    def send(hub: str, publications: Sequence[Publication]) -> None:
        # "raise" whatever the app has configured: the relay has to know the outcome
        pipeline.publish(state.hub(hub), publications, "raise", from_outbox=True)

    def takes_batches(hub: str) -> bool:
        if recorder.is_recording():
            return False  # a test without a hub
        return state.hub(hub).publisher.takes_batches()

    return Relay(
        outbox.engine,
        outbox.table,
        send,
        wakeup_for(outbox.engine, channel(outbox.table)),
        takes_batches=takes_batches,
        longest_request=max(
            hub.configuration.connect_timeout + hub.configuration.read_timeout for hub in state.hubs.values()
        ),
        interval=interval,
    )


@contextlib.contextmanager
def ending_on_signals(relay: Relay) -> Iterator[None]:
    """Let SIGTERM and SIGINT end a relay after the update that is under way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        relay.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RelayThread:
    """A relay in a daemon thread of each process, for apps that run no relay process.

    It starts when it is first needed, in a forked process again.

    :param app: whose outbox it relays.
    :param interval: seconds between two looks at the table, when nothing wakes the relay.
    """

    def __init__(self, app: Flask, *, interval: float = 1.0) -> None:
        self._runs = PerProcess(lambda: _Run(app, interval))
        _threads.add(self)

    def ensure(self) -> None:
        """Have the thread running."""
        _at_exit.register()
        self._runs.get().ensure()

    def wake(self) -> None:
        """Have the thread look at the outbox now."""
        self.ensure()
        self._runs.get().wake()

    def stop(self, timeout: float = _STOPPING) -> None:
        """End the thread after the update that is under way; what waits stays in the outbox.

        :param timeout: seconds to wait for it.
        """
        run = self._runs.existing()
        if run is not None:
            run.stop(timeout)


class _Run:
    """The thread of one process."""

    def __init__(self, app: Flask, interval: float) -> None:
        self._app = app
        self._interval = interval
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._relay: Relay | None = None
        self._ending = threading.Event()

    def ensure(self) -> None:
        if self._thread is None and not self._ending.is_set():
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="mercure relay", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:  # at the limit of the system, or the interpreter ends
                        _log.warning("the relay has no thread, and updates wait in the outbox: %s", error)
                        return
                    self._thread = thread

    def wake(self) -> None:
        relay = self._relay
        if relay is not None:
            relay.wake()

    def stop(self, timeout: float) -> None:
        self._ending.set()
        relay, thread = self._relay, self._thread
        if relay is not None:
            relay.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with (
                    self._app.app_context(),
                    contextlib.closing(relay_for(self._app, interval=self._interval)) as relay,
                ):
                    self._relay = relay
                    if not self._ending.is_set():
                        relay.run()
            except Exception:
                _log.exception("the relay ended; it begins again in %.0f s", _RESTART_AFTER)
                self._ending.wait(_RESTART_AFTER)


_threads: weakref.WeakSet[RelayThread] = weakref.WeakSet()


def _end() -> None:
    until = time.monotonic() + _STOPPING
    for thread in list(_threads):
        thread.stop(max(0.0, until - time.monotonic()))


_at_exit = AtExit(_end)


def outbox_stats(app: Flask, clock: Callable[[], float] = time.time) -> Stats:
    """The numbers of an app's outbox, read now.

    :param clock: gives the seconds since the epoch.
    :raises ConfigurationError: the app has no outbox.
    """
    with app.app_context():
        outbox = outbox_of(app).binding
        with outbox.engine.connect() as connection:
            return read_stats(connection, outbox.table, clock())


class OutboxCollector:
    """Reads the numbers when Prometheus asks for them.

    :param app: whose outbox it is.
    :raises ConfigurationError: prometheus_client is not installed.
    """

    def __init__(self, app: Flask) -> None:
        try:
            import prometheus_client.core  # noqa: F401, PLC0415
        except ModuleNotFoundError:
            raise ConfigurationError(
                "OutboxCollector needs a package that is not installed: pip install prometheus-client"
            ) from None
        self._app = app

    def describe(self) -> list[Metric]:
        """No look at the database when the collector is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One gauge for each number."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        stats = outbox_stats(self._app)
        for name, meaning in _GAUGES.items():
            unit = "_seconds" if name == "oldest_age" else ""
            yield GaugeMetricFamily(f"mercure_outbox_{name}{unit}", meaning, value=getattr(stats, name))
