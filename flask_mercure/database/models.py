"""Publishing what happens to the objects of a model, when their transaction commits.

Listeners note each change of an object. Within a transaction the changes of one object become one update. An
object that loses a topic, or is deleted, also gets an update for subscribers of what it was; for that
:func:`as_it_was` looks at the object as the database has it, before a flush changes it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask, current_app, has_app_context
from sqlalchemy import Connection, Table, event, inspect, select
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Mapper, RelationshipDirection, RelationshipProperty, object_session
from sqlalchemy.orm.attributes import set_committed_value

from flask_mercure.config.values import OnFailure
from flask_mercure.contexts import within
from flask_mercure.database.outbox import AppOutbox, outbox_of
from flask_mercure.database.rules import Action, Rule
from flask_mercure.database.table import check_storable
from flask_mercure.database.transaction import Outgoing, Pending, collect, listen
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.state import state_of
from flask_mercure.updates import Publication, Update

_Model = TypeVar("_Model", bound=type[Any])

_log = logging.getLogger("flask_mercure")

# Two changes of one object in one transaction as one; None: it was never visible outside.
_TOGETHER: dict[tuple[Action, Action], Action | None] = {
    ("create", "create"): "create",
    ("create", "update"): "create",
    ("create", "delete"): None,
    ("update", "create"): "update",
    ("update", "update"): "update",
    ("update", "delete"): "delete",
    ("delete", "create"): "update",
    ("delete", "update"): "update",
    ("delete", "delete"): "delete",
}


def broadcast_model(model: _Model, rule: Rule) -> _Model:
    """Publish what happens to the objects of a model and of the models that inherit from it.

    :param model: a mapped class.
    :param rule: what to publish.
    :raises InvalidArgument: it lacks what the rule publishes.
    :raises TypeError: it is not mapped.
    """
    try:
        inspect(model)
    except NoInspectionAvailable:
        raise TypeError(f"broadcast marks SQLAlchemy models, and {model!r} is not mapped") from None
    rule = rule.of(model)
    listen()

    known: weakref.WeakKeyDictionary[InstanceState[Any], _Before] = weakref.WeakKeyDictionary()

    def created(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        _changed(rule, target, "create")

    def before_update(_mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        known.pop(inspect(target), None)  # of a flush that failed
        before = _look_back(rule, target, "update", connection) if _is_modified(target) else None
        if before is not None:
            known[inspect(target)] = before

    def before_create(mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        session = object_session(target)
        # A new object that replaces one deleted in this flush: its row is updated.
        if session is not None and mapper.identity_key_from_instance(target) in session.identity_map:
            before_update(mapper, connection, target)

    def updated(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        before = known.pop(inspect(target), None)
        # The event also comes for objects of which no column was changed.
        if _is_modified(target):
            _changed(rule, target, "update", before)

    def deleted(_mapper: Mapper[Any], connection: Connection, target: Any) -> None:
        # Before the row is gone, while what was not loaded yet can be.
        _changed(rule, target, "delete", _look_back(rule, target, "delete", connection))

    for name, listener in (
        ("before_insert", before_create),
        ("after_insert", created),
        ("before_update", before_update),
        ("after_update", updated),
        ("before_delete", deleted),
    ):
        event.listen(model, name, listener, propagate=True)
    return model


def _is_modified(target: Any) -> bool:
    session = object_session(target)
    return session is not None and session.is_modified(target, include_collections=False)


def _changed(rule: Rule, target: Any, action: Action, before: _Before | None = None) -> None:
    session = object_session(target)
    if session is None:
        return
    mapper: Mapper[Any] = inspect(target).mapper
    key = (rule, mapper.identity_key_from_instance(target))
    try:
        destination = _Destination.of(rule)
    except Exception:
        if rule.on_failure == "raise":
            raise
        _log.exception("no update is published for a %s", type(target).__name__)
        return
    change = _Change(rule, target, action, destination, before)
    if action == "delete" and before is not None:
        change.deletion = before.gone(before.topics)
    collect(session, key, change)


def _look_back(rule: Rule, target: Any, action: Action, connection: Connection) -> _Before | None:
    """What subscribers know of an object, before a flush changes or deletes its row.

    :returns: ``None`` if an update keeps its topics, or if nobody needs to know.
    """
    is_wanted = "delete" in rule.on or (action == "update" and rule.partial is not None)
    if not is_wanted or not has_app_context() or (action == "update" and not _may_move(rule, target)):
        return None
    try:
        destination = _Destination.of(rule)
    except Exception:
        return None  # _changed tells of it
    try:
        earlier = as_it_was(target, connection) if _is_modified(target) else target
        return _Before(rule, destination, earlier, rule.topics_of(earlier))
    except Exception:
        if destination.on_failure == "raise":
            raise
        _log.exception(
            "no end is published on the topics that a %s had before its %s", type(target).__name__, action
        )
        return None


def _may_move(rule: Rule, target: Any) -> bool:
    """Whether the topics may depend on what was changed."""
    attributes = inspect(target).attrs
    return rule.attributes is None or any(
        name not in attributes or attributes[name].history.has_changes() for name in rule.attributes
    )


@dataclass(frozen=True)
class _Destination:
    """Where the updates of a rule go, in the app whose context was active at the change."""

    app: Flask
    hub: str
    outbox: AppOutbox | None
    on_failure: OnFailure

    @classmethod
    def of(cls, rule: Rule) -> _Destination:
        if not has_app_context():
            raise RuntimeError(
                "a model that is broadcast was changed without an app context, and no hub is known: put the "
                "change and its commit into 'with app.app_context():'"
            )
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        pipeline = pipeline_of(app)
        policy = rule.on_failure or pipeline.settings.on_failure
        if policy == "raise" and rule.on_failure is None:
            policy = "log"  # what is saved must not become an error page
        hub = state_of(app).hub(rule.hub).name
        return cls(app, hub, outbox_of(app) if pipeline.outbox is not None else None, policy)

    @property
    def table(self) -> Table | None:
        """That the updates are written to."""
        return None if self.outbox is None else self.outbox.binding.table

    def committed(self, updates: Sequence[Outgoing]) -> None:
        """After the commit: wake the relay, or send."""
        if self.outbox is not None:
            self.outbox.committed(updates)
            return
        publications = [one.publication for one in updates]
        hub = state_of(self.app).hub(self.hub)
        pipeline = pipeline_of(self.app)
        within(self.app, lambda: pipeline.publish(hub, publications, self.on_failure, together=False))


@dataclass(frozen=True)
class _Before:
    """What subscribers know of an object that is being changed or deleted.

    :param rule: by which they do.
    :param destination: of its updates.
    :param earlier: the object as it was.
    :param topics: that it had.
    """

    rule: Rule
    destination: _Destination
    earlier: Any
    topics: list[str]

    def gone(self, topics: list[str]) -> Publication | None:
        """The update that tells of its end on these topics, if that is published."""
        if "delete" not in self.rule.on:
            return None
        return _made(
            self.destination,
            self.earlier,
            "delete",
            lambda: self.rule.update_on(topics, self.earlier, "delete"),
        )


@dataclass
class _Change:
    """What happened to one object, for one rule."""

    rule: Rule
    target: Any
    action: Action
    destination: _Destination
    before: _Before | None = None
    deletion: Publication | None = field(init=False, default=None)

    def merged(self, earlier: Pending) -> Pending | None:
        """What both come to."""
        assert isinstance(earlier, _Change)
        action = _TOGETHER[earlier.action, self.action]
        if action is None:
            return None
        self.action = action
        if action == "create":
            self.before = None  # it was never visible outside
        elif earlier.before is not None:
            self.before = earlier.before
            if action == "delete":
                self.deletion = self.before.gone(self.before.topics)
        return self

    def outgoing(self) -> Sequence[Outgoing]:
        """The updates, with the object as it is now."""
        publications = [self.deletion] if self.action == "delete" else self._now()
        return [
            Outgoing(self.destination.hub, one, self.destination.table, self.destination)
            for one in publications
            if one is not None
        ]

    def _now(self) -> Sequence[Publication | None]:
        """The end on topics that it has no more, and its update; in pages, its beginning on new topics."""
        if self.action not in self.rule.on and self.before is None:
            return ()
        lost: list[str] = []
        new: list[str] = []

        def update() -> Update | None:
            forget_stale_relations(self.target)
            topics = self.rule.topics_of(self.target)
            if self.before is not None:
                lost.extend(one for one in self.before.topics if one not in topics)
                # Data is about the object. HTML is about a page, which lacks its element if the topic is new.
                if self.rule.partial is not None:
                    new.extend(one for one in topics if one not in self.before.topics)
            return self._update_on([one for one in topics if one not in new], self.action)

        publication = _made(self.destination, self.target, self.action, update)
        ended = self.before.gone(lost) if self.before is not None and lost else None
        begun = None
        if new:
            begun = _made(self.destination, self.target, "create", lambda: self._update_on(new, "create"))
        return ended, publication, begun

    def _update_on(self, topics: list[str], action: Action) -> Update | None:
        return self.rule.update_on(topics, self.target, action) if action in self.rule.on else None


def _made(
    destination: _Destination, target: Any, action: Action, make: Callable[[], Update | None]
) -> Publication | None:
    """An update; what is wrong with it is logged, unless the model has asked for errors."""

    def publication() -> Publication | None:
        update = make()
        return None if update is None else update.publication().with_id()

    try:
        made = within(destination.app, publication)
        if made is not None:
            check_storable(made)
    except Exception:
        if destination.on_failure == "raise":
            raise
        _log.exception("no update is published for the %s of a %s", action, type(target).__name__)
        return None
    return made


def as_it_was(target: Any, connection: Connection) -> Any:
    """A copy of an object with its values before the changes that are flushed now.

    The copy is of the same class and its relations can be followed; it belongs to no transaction.

    :param target: of a mapped class, before its UPDATE or DELETE.
    :param connection: of the flush.
    :raises LookupError: the row is gone.
    """
    state: InstanceState[Any] = inspect(target)
    mapper: Mapper[Any] = state.mapper
    earlier = mapper.class_manager.new_instance()
    missing = []
    for column in mapper.column_attrs:
        history = state.attrs[column.key].history
        known = history.deleted or history.unchanged
        if known:
            set_committed_value(earlier, column.key, known[0])
        elif history.added or not column.deferred:  # set, or expired, without having been read
            missing.append(column.key)
    if missing:
        identity = state.identity or mapper.primary_key_from_instance(target)
        keys = zip(mapper.primary_key, identity, strict=True)
        attributes = [getattr(mapper.class_, key) for key in missing]
        row = connection.execute(select(*attributes).where(*(key == value for key, value in keys))).first()
        if row is None:
            raise LookupError(f"there is no row of {mapper.class_.__name__} {identity!r}")
        for key, value in zip(missing, row, strict=True):
            set_committed_value(earlier, key, value)
    for relation in mapper.relationships:
        history = state.attrs[relation.key].history
        if relation.uselist:
            continue
        keys_changed = any(
            state.attrs[mapper.get_property_by_column(one).key].history.has_changes()
            for one in relation.local_columns
        )
        known = history.deleted or (() if keys_changed else history.unchanged)
        if known:
            set_committed_value(earlier, relation.key, known[0])
    session = object_session(target)
    if session is not None and mapper.relationships:
        session.enable_relationship_loading(earlier)
    return earlier


def forget_stale_relations(target: Any) -> None:
    """After a flush, reload relations whose foreign keys the app has changed directly.

    SQLAlchemy leaves ``book.author`` as it was when ``book.author_id`` is set; a topic with ``{author.id}``
    would be that of the wrong author.

    :param target: without changes that are not flushed.
    """
    state: InstanceState[Any] = inspect(target)
    stale = [
        relation.key
        for relation in state.mapper.relationships
        if relation.direction is RelationshipDirection.MANYTOONE
        and relation.key in state.dict
        and not _is_current(state, relation)
    ]
    session = object_session(target)
    if stale and session is not None:
        session.expire(target, stale)


def _is_current(state: InstanceState[Any], relation: RelationshipProperty[Any]) -> bool:
    related = state.dict[relation.key]
    pairs = relation.local_remote_pairs or ()
    own = [state.dict.get(state.mapper.get_property_by_column(local).key) for local, _ in pairs]
    if related is None:
        return None in own
    mapper: Mapper[Any] = inspect(related).mapper
    return own == [getattr(related, mapper.get_property_by_column(remote).key) for _, remote in pairs]
