"""What of a model is published, and to whom: the arguments of ``@mercure.broadcast``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal, get_args

from flask import url_for
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper

from flask_mercure.errors import InvalidArgument
from flask_mercure.publishing.settings import OnFailure, check_policy
from flask_mercure.topics.building import check_template, filled
from flask_mercure.updates.update import Update

Action = Literal["create", "update", "delete"]
ACTIONS: tuple[Action, ...] = get_args(Action)

Topics = str | Callable[[Any], Any] | Iterable[Any]
"""A format string over the object's attributes, a callable, or several of these."""

_Topic = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """One ``@mercure.broadcast`` of one model.

    :param hub: name of the hub; ``None`` for the default one.
    :param topics: of an object's updates.
    :param serializer: makes the data of an object; ``None``: its columns.
    :param private: whether only subscribers may read it whose token allows it.
    :param on: actions that are published.
    :param type: event type of the updates.
    :param deleted: makes the data of a deleted object; ``None``: its identity.
    :param on_failure: what happens when the hub does not take an update.
    """

    hub: str | None
    topics: tuple[_Topic, ...]
    serializer: Callable[[Any], Any] | None
    private: bool | Callable[[Any], bool]
    on: frozenset[Action]
    type: str | Callable[[Action], str | None] | None
    deleted: Callable[[Any], Any] | None
    on_failure: OnFailure | None

    def update(self, instance: Any, action: Action) -> Update | None:
        """The update that an object's change is, as the object is now.

        :param instance: of the model; its attributes are read.
        :param action: what happened to it.
        :returns: ``None`` when the topics say that nobody is told.
        :raises InvalidArgument: a topic has no value.
        :raises TypeError: ``private`` does not give True or False.
        """
        topics = list(self._topics(instance))
        if not topics:
            return None
        private = self.private(instance) if callable(self.private) else self.private
        if not isinstance(private, bool):
            # Who reads an update depends on it: None must not be guessed at.
            raise TypeError(f"private of {type(instance).__name__} gives {private!r}; return True or False")
        if action == "delete":
            data = identity(instance) | {"deleted": True} if self.deleted is None else self.deleted(instance)
        elif self.serializer is None:
            data = columns(instance)
        else:
            data = self.serializer(instance)
        event_type = self.type(action) if callable(self.type) else self.type
        return Update(topics, data, private, type=event_type)

    def _topics(self, instance: Any) -> Iterable[str]:
        for topic in self.topics:
            found = topic(instance)
            if found is not None:
                yield from (found,) if isinstance(found, str) else found


def rule(
    hub: str | None,
    topics: Topics,
    *,
    serializer: Any,
    private: Any,
    on: str | Iterable[str],
    type: Any,
    deleted: Any,
    on_failure: str | None,
) -> Rule:
    """Check the arguments of ``@mercure.broadcast``.

    :raises InvalidArgument: a value is not one of those that there are.
    :raises TypeError: a value is of the wrong type.
    """
    several = (topics,) if isinstance(topics, str) or callable(topics) else tuple(topics)
    if not several:
        raise InvalidArgument("topics is empty; an update needs at least one topic")
    for topic in several:
        if not (isinstance(topic, str) or callable(topic)):
            raise TypeError(
                f"topics holds {topic!r}; give format strings such as 'books/{{id}}', or callables"
            )
    actions = (on,) if isinstance(on, str) else tuple(on)
    for action in actions:
        if action not in ACTIONS:
            raise InvalidArgument(f"on holds {action!r}; use 'create', 'update' and 'delete'")
    if not actions:
        raise InvalidArgument("on is empty; use 'create', 'update' and 'delete'")
    if not (isinstance(private, bool) or callable(private)):
        raise TypeError(f"private is {private!r}; use True, False or a callable")
    return Rule(
        hub,
        tuple(_format(topic) if isinstance(topic, str) else topic for topic in several),
        _serializer(serializer, "serializer"),
        private,
        frozenset(action for action in ACTIONS if action in actions),
        type,
        _serializer(deleted, "deleted"),
        None if on_failure is None else check_policy(on_failure),
    )


def _serializer(given: Any, name: str) -> Callable[[Any], Any] | None:
    """A callable from what people have: one, an object with ``dump``, names of attributes."""
    if given is None:
        return None
    dump = getattr(given, "dump", None)
    if callable(dump) and not isinstance(given, type):
        return dump  # type: ignore[no-any-return]
    if isinstance(given, str | bytes | Mapping):
        raise TypeError(
            f"{name} is {given!r}; give a callable, an object with dump(), or names of attributes"
        )
    if callable(given):
        return given  # type: ignore[no-any-return]
    if isinstance(given, Sequence) and given and all(isinstance(one, str) for one in given):
        names = tuple(given)
        return lambda instance: {one: getattr(instance, one) for one in names}
    raise TypeError(f"{name} is {given!r}; give a callable, an object with dump(), or names of attributes")


def topic_url(endpoint: str, **values: Any) -> Callable[[Any], str]:
    """A topic that is the URL of a view, for ``@mercure.broadcast``.

    Outside of a request Flask needs ``SERVER_NAME`` for it.

    :param endpoint: of the view, as for ``url_for``.
    :param values: names of attributes, by the variables of the URL: ``topic_url("book", id="id")``. A
        callable is given the object.
    """

    def topic(instance: Any) -> str:
        made = {
            name: source(instance) if callable(source) else _value(instance, source)
            for name, source in values.items()
        }
        return url_for(endpoint, _external=True, **made)

    return topic


def _format(template: str) -> _Topic:
    """``books/{id}`` with the attributes of an object, encoded; ``{author.id}`` follows a relation.

    :raises InvalidArgument: a value in it could choose among the topics of others.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidArgument(f"topics holds {template!r}, which cannot be read: {error}") from None
    pieces: list[tuple[str, str | None]] = []
    fields: dict[str, tuple[str, str, str | None]] = {}
    before = ""
    for literal, name, specification, conversion in parsed:
        before += literal
        if name is None:  # a doubled brace
            continue
        if not all(part.isidentifier() for part in name.split(".")):
            raise InvalidArgument(f"topics holds {template!r}; name attributes in it, as in 'books/{{id}}'")
        field = f"{name}!{conversion}:{specification}" if conversion or specification else name
        fields[field] = (name, specification or "", conversion)
        pieces.append((before, field))
        before = ""
    pieces.append((before, None))
    check_template("topic", template, pieces)

    def topic(instance: Any) -> str:
        def value_of(field: str) -> str:
            name, specification, conversion = fields[field]
            value = _value(instance, name)
            if conversion:
                value = Formatter().convert_field(value, conversion)
            return format(value, specification)

        return filled("topic", template, pieces, value_of)

    return topic


def _value(instance: Any, path: str) -> Any:
    value = instance
    for name in path.split("."):
        value = getattr(value, name)
        if value is None:
            # "users/None" would be a topic of its own, which somebody may be allowed to read
            raise InvalidArgument(f"{path!r} of {type(instance).__name__} is None, and a topic needs a value")
    return value


def identity(instance: Any) -> dict[str, Any]:
    """The primary key of an object, by the names of its attributes."""
    mapper: Mapper[Any] = inspect(instance).mapper
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return dict(zip(keys, mapper.primary_key_from_instance(instance), strict=True))


def columns(instance: Any) -> dict[str, Any]:
    """The columns of an object, by the names of its attributes; deferred ones are left out."""
    mapper: Mapper[Any] = inspect(instance).mapper
    return {one.key: getattr(instance, one.key) for one in mapper.column_attrs if not one.deferred}
