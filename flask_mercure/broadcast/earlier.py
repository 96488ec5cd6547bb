"""An object as the database has it: before a flush changes it, and after."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, inspect, select
from sqlalchemy.orm import InstanceState, Mapper, RelationshipDirection, RelationshipProperty, object_session
from sqlalchemy.orm.attributes import set_committed_value


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
    """After a flush, have relations read anew whose foreign keys the app has changed by themselves.

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
