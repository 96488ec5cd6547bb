"""Listening to what happens to the objects of a model, until their transaction commits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask, current_app, has_app_context
from sqlalchemy import Connection, Table, event, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, object_session

from flask_mercure.broadcast.rule import Action, Rule
from flask_mercure.outbox.app import AppOutbox, outbox_of
from flask_mercure.outbox.rows import check
from flask_mercure.outbox.transaction import Entry, Outgoing, collect, listen
from flask_mercure.publishing.delivery import deliver
from flask_mercure.publishing.reliability import reliability_of
from flask_mercure.publishing.settings import OnFailure
from flask_mercure.state import state_of
from flask_mercure.updates.publication import Publication, with_id
from flask_mercure.updates.update import Update

_Model = TypeVar("_Model", bound=type[Any])

_log = logging.getLogger("flask_mercure")

# What two changes of one object in one transaction come to; None: nobody outside has ever seen it.
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
    :raises TypeError: it is not mapped.
    """
    try:
        inspect(model)
    except NoInspectionAvailable:
        raise TypeError(f"broadcast marks SQLAlchemy models, and {model!r} is none") from None
    listen()

    def created(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        _changed(rule, target, "create")

    def updated(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        session = object_session(target)
        # The event also comes for objects of which no column was changed.
        if session is not None and session.is_modified(target, include_collections=False):
            _changed(rule, target, "update")

    def deleted(_mapper: Mapper[Any], _connection: Connection, target: Any) -> None:
        # Before the row is gone, while what was not loaded yet can be.
        _changed(rule, target, "delete")

    for name, listener in (("after_insert", created), ("after_update", updated), ("before_delete", deleted)):
        event.listen(model, name, listener, propagate=True)
    return model


def _changed(rule: Rule, target: Any, action: Action) -> None:
    session = object_session(target)
    if session is None:
        return
    mapper: Mapper[Any] = inspect(target).mapper
    key = (rule, mapper.identity_key_from_instance(target))
    try:
        change = _Change(rule, target, action, _Way.of(rule))
    except Exception:
        _log.exception("no update is published for a %s", type(target).__name__)
        return
    collect(session, key, change)


@dataclass(frozen=True)
class _Way:
    """Where the updates of a rule go, in the app whose context was active at the change."""

    app: Flask
    hub: str
    outbox: AppOutbox | None
    on_failure: OnFailure

    @classmethod
    def of(cls, rule: Rule) -> _Way:
        if not has_app_context():
            raise RuntimeError("a model that is broadcast was changed without an app context")
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        reliability = reliability_of(app)
        policy = rule.on_failure or reliability.settings.on_failure
        if policy == "raise" and rule.on_failure is None:
            policy = "log"  # what is saved must not become an error page
        hub = state_of(app).hub(rule.hub).name
        return cls(app, hub, outbox_of(app) if reliability.outbox is not None else None, policy)

    @property
    def table(self) -> Table | None:
        """That the updates are written to."""
        return None if self.outbox is None else self.outbox.binding.table

    def settled(self, updates: Sequence[Outgoing]) -> None:
        """After the commit: wake the relay, or send."""
        if self.outbox is not None:
            self.outbox.settled(updates)
            return
        with self.app.app_context():
            publications = [one.publication for one in updates]
            deliver(state_of(self.app).hub(self.hub), publications, self.on_failure, together=False)


@dataclass
class _Change:
    """What happened to one object, for one rule."""

    rule: Rule
    target: Any
    action: Action
    way: _Way
    made: Publication | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.action == "delete":
            self.made = self._publication()

    def after(self, earlier: Entry) -> Entry | None:
        """What both come to."""
        assert isinstance(earlier, _Change)
        action = _TOGETHER[earlier.action, self.action]
        if action is None:
            return None
        self.action = action
        return self

    def outgoing(self) -> Sequence[Outgoing]:
        """The update, with the object as it is now."""
        if self.action not in self.rule.on:
            return ()
        publication = self.made if self.action == "delete" else self._publication()
        if publication is None:
            return ()
        return (Outgoing(self.way.hub, publication, self.way.table, self.way),)

    def _publication(self) -> Publication | None:
        """The update; what is wrong with it is logged, unless the model has asked for errors."""
        if self.action not in self.rule.on:
            return None
        try:
            with self.way.app.app_context():
                update: Update | None = self.rule.update(self.target, self.action)
                if update is None:
                    return None
                publication = with_id(update.publication())
            check(publication)
        except Exception:
            if self.way.on_failure == "raise":
                raise
            _log.exception(
                "no update is published for the %s of a %s", self.action, type(self.target).__name__
            )
            return None
        return publication
