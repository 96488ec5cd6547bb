"""What of a model is published, and to whom: the arguments of ``@mercure.broadcast``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any, Literal, get_args

from flask import url_for
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper

from flask_mercure.config.values import OnFailure, check_policy
from flask_mercure.errors import InvalidArgument
from flask_mercure.html import (
    TurboStream,
    check_id,
    dom_id,
    htmx_insertion,
    htmx_removal,
    htmx_replacement,
    render_shared,
    variable_name,
)
from flask_mercure.topics import check_template, filled, is_dot_segment
from flask_mercure.updates import Update

Action = Literal["create", "update", "delete"]
ACTIONS: tuple[Action, ...] = get_args(Action)

Topics = str | Callable[[Any], Any] | Iterable[Any]
"""A format string over the object's attributes, a callable, or several of these."""

_Topic = Callable[[Any], Any]

Format = Literal["turbo", "htmx"]  # the event types of HTML

# By format and what happened to an object: what can happen to its element; the first is the default.
_IN_PAGES: dict[Format, dict[Action, tuple[str, ...]]] = {
    "turbo": {
        "create": ("append", "prepend", "refresh"),
        "update": ("replace", "morph", "refresh"),
        "delete": ("remove", "refresh"),
    },
    "htmx": {"create": ("append", "prepend"), "update": ("replace",), "delete": ("remove",)},
}


@dataclass(frozen=True, eq=False)
class Partial:
    """How pages show the objects of a model: one element for each, with its ``dom_id``, in another one.

    :param template: name of the partial that makes the element.
    :param target: id of the element around it, or a callable that is given the object.
    :param actions: what happens in pages when an object is created, updated or deleted.
    :param format: name of the library in the pages, and event type of the updates.
    :param variable: name of the object in the partial.
    """

    template: str
    target: str | Callable[[Any], str]
    actions: Mapping[Action, str]
    format: Format
    variable: str = ""

    def change(self, instance: Any, action: Action) -> Any:
        """The data of the update that changes pages.

        :raises InvalidArgument: the partial does not make the element.
        :raises Exception: what the partial raises.
        """
        in_page = self.actions[action]
        id = dom_id(instance)
        if in_page == "refresh":
            return TurboStream.refresh()
        if in_page == "remove":
            return TurboStream.remove(id) if self.format == "turbo" else htmx_removal(id)
        html = render_shared(self.template, **{self.variable: instance})
        if f'id="{id}"' not in html and f"id='{id}'" not in html:
            name = self.variable
            raise InvalidArgument(
                f"the template {self.template!r} makes no element with the id {id!r}, by which pages find "
                f'it: write id="{{{{ dom_id({name}) }}}}" into it'
            )
        if in_page in ("replace", "morph"):
            if self.format == "turbo":
                return TurboStream.replace(id, html, morph=in_page == "morph")
            return htmx_replacement(html, id)
        target = check_id(self.target(instance) if callable(self.target) else self.target)
        if self.format == "htmx":
            return htmx_insertion(in_page, target, html)
        add = TurboStream.append if in_page == "append" else TurboStream.prepend
        return add(target, html)


@dataclass(frozen=True, eq=False)
class Rule:
    """One ``@mercure.broadcast`` of one model.

    :param hub: name of the hub; ``None`` for the default one.
    :param topics: of an object's updates.
    :param attributes: that the topics are made of; ``None``: any.
    :param columns: names of attributes that are published, to be looked for in the model.
    :param serializer: makes the data of an object.
    :param private: whether only subscribers may read it whose token allows it.
    :param on: actions that are published.
    :param type: event type of the updates.
    :param deleted: makes the data of a deleted object; ``None``: its identity.
    :param on_failure: what happens when the hub does not take an update.
    :param partial: makes the data instead of ``serializer`` and ``deleted``.
    """

    hub: str | None
    topics: tuple[_Topic, ...]
    attributes: frozenset[str] | None
    columns: tuple[str, ...]
    serializer: Callable[[Any], Any]
    private: bool | Callable[[Any], bool]
    on: frozenset[Action]
    type: str | Callable[[Action], str | None] | None
    deleted: Callable[[Any], Any] | None
    on_failure: OnFailure | None
    partial: Partial | None = None

    def update(self, instance: Any, action: Action) -> Update | None:
        """The update that an object's change is, as the object is now.

        :param instance: of the model; its attributes are read.
        :param action: what happened to it.
        :returns: ``None`` if the object has no topic, so that nothing is published.
        :raises InvalidArgument: a topic has no value.
        :raises TypeError: ``private`` does not give True or False.
        """
        return self.update_on(self.topics_of(instance), instance, action)

    def update_on(self, topics: list[str], instance: Any, action: Action) -> Update | None:
        """The same, on these topics.

        :returns: ``None`` when there is no topic.
        :raises TypeError: ``private`` does not give True or False.
        """
        if not topics:
            return None
        private = self.private(instance) if callable(self.private) else self.private
        if not isinstance(private, bool):
            # It decides who can read the update: do not guess what None means.
            raise TypeError(f"private of {type(instance).__name__} gives {private!r}; return True or False")
        if self.partial is not None:
            return Update(topics, self.partial.change(instance, action), private, type=self.partial.format)
        if action == "delete":
            data = identity(instance) | {"deleted": True} if self.deleted is None else self.deleted(instance)
        else:
            data = self.serializer(instance)
        event_type = self.type(action) if callable(self.type) else self.type
        return Update(topics, data, private, type=event_type)

    def topics_of(self, instance: Any) -> list[str]:
        """The topics of an object, as it is now; none if nothing is published.

        :raises InvalidArgument: a topic has no value.
        """
        topics: list[str] = []
        for topic in self.topics:
            made = topic(instance)
            if made is not None:
                topics += (made,) if isinstance(made, str) else made
        return topics

    def of(self, model: Any) -> Rule:
        """The rule for the objects of a model.

        :raises InvalidArgument: it does not have the attributes that are published.
        """
        for name in self.columns:
            if not hasattr(model, name):
                columns = ", ".join(map(repr, inspect(model).mapper.column_attrs.keys()))
                raise InvalidArgument(f"columns holds {name!r}; {model.__name__} has {columns}")
        if self.partial is None:
            return self
        return replace(self, partial=replace(self.partial, variable=variable_name(model)))


def make_rule(
    hub: str | None,
    topics: Topics,
    *,
    columns: Any,
    serializer: Any,
    private: Any,
    on: str | Iterable[str],
    type: Any,
    deleted: Any,
    on_failure: str | None,
    template: str | None = None,
    target: Any = None,
    actions: Any = None,
    format: Any = None,
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
    published = (on,) if isinstance(on, str) else tuple(on)
    for action in published:
        if action not in ACTIONS:
            raise InvalidArgument(f"on holds {action!r}; use 'create', 'update' and 'delete'")
    if not published:
        raise InvalidArgument("on is empty; use 'create', 'update' and 'delete'")
    contents = {"columns": columns, "serializer": serializer, "template": template}
    given = [name for name, value in contents.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            f"broadcast has {' and '.join(given) or 'neither columns, serializer nor template'}: write "
            "columns=('id', 'title') with all that subscribers may read; or serializer=, a callable that is "
            "given the object; or template=, a partial"
        )
    for_others = ("deleted", "type") if template is not None else ("target", "actions", "format")
    values = {"deleted": deleted, "type": type, "target": target, "actions": actions, "format": format}
    for name in for_others:
        if values[name] is not None:
            raise TypeError(f"broadcast has {given[0]}, for which there is no {name}")
    partial = None if template is None else _partial(template, several, target, actions, format)
    if not (isinstance(private, bool) or callable(private)):
        raise TypeError(
            f"private is {private!r}; give True for subscribers whose token allows the topic, False for "
            "everybody who can connect, or a callable that is given the object"
        )
    names = () if columns is None else _names(columns)
    made = tuple(_TopicTemplate(topic) if isinstance(topic, str) else topic for topic in several)
    attributes = [one.attributes for one in made if isinstance(one, _TopicTemplate)]
    return Rule(
        hub,
        made,
        frozenset().union(*attributes) if len(attributes) == len(made) else None,
        names,
        _attributes(names)
        if names
        else _serializer(identity if serializer is None else serializer, "serializer"),
        private,
        frozenset(action for action in ACTIONS if action in published),
        type,
        None if deleted is None else _serializer(deleted, "deleted"),
        None if on_failure is None else check_policy(on_failure),
        partial,
    )


def _partial(template: Any, topics: tuple[Any, ...], target: Any, actions: Any, format: Any) -> Partial:
    """Check the arguments about pages."""
    if not isinstance(template, str):
        raise TypeError(f"template is {template!r}; give the name of a template, such as '_order.html'")
    chosen: Format = "turbo" if format is None else format
    if chosen not in _IN_PAGES:
        raise InvalidArgument(f"format is {format!r}; known are {', '.join(map(repr, _IN_PAGES))}")
    known = _IN_PAGES[chosen]
    in_pages = {action: possible[0] for action, possible in known.items()}
    for action, in_page in dict(actions or {}).items():
        if action not in known:
            raise InvalidArgument(f"actions holds {action!r}; use 'create', 'update' and 'delete'")
        if in_page not in known[action]:
            raise InvalidArgument(
                f"actions has {in_page!r} for {action!r}; in pages with {chosen} there is "
                f"{', '.join(map(repr, known[action]))}"
            )
        in_pages[action] = in_page
    if target is None:
        (first, *_) = topics
        if not isinstance(first, str) or "{" in first or "}" in first:
            raise TypeError(
                "broadcast has no target: name the id of the element in which pages show the objects, "
                "target='orders', or give a callable that is given the object"
            )
        target = first
    if not callable(target):
        if not isinstance(target, str):
            raise TypeError(f"target is {target!r}; give the id of an element, or a callable")
        check_id(target)
    return Partial(template, target, in_pages, chosen)


def _serializer(given: Any, name: str) -> Callable[[Any], Any]:
    """A callable from what people have: one, or an object with ``dump``."""
    dump = getattr(given, "dump", None)
    if callable(dump) and not isinstance(given, type):
        return dump  # type: ignore[no-any-return]
    if callable(given):
        return given  # type: ignore[no-any-return]
    hint = "" if name == "deleted" else "; names of attributes are columns=('id', 'title')"
    raise TypeError(f"{name} is {given!r}; give a callable or an object with dump(){hint}")


def _names(given: Any) -> tuple[str, ...]:
    """Names of attributes.

    :raises TypeError: they are something else, or none.
    """
    if not isinstance(given, str | bytes | Mapping) and isinstance(given, Collection):
        names = tuple(given)
        if names and all(isinstance(one, str) for one in names):
            return names
    raise TypeError(f"columns is {given!r}; give names of attributes, such as ('id', 'title')")


def _attributes(names: tuple[str, ...]) -> Callable[[Any], Any]:
    return lambda instance: {one: getattr(instance, one) for one in names}


def topic_url(endpoint: str, **values: Any) -> Callable[[Any], str]:
    """A topic that is the URL of a view, for ``@mercure.broadcast``.

    Outside of a request Flask needs ``SERVER_NAME`` for it. ``url_for`` leaves ``/`` and ``..`` in a value as
    they are, and an empty value or ``None`` makes another URL, so a value of this kind is an error;
    :func:`~flask_mercure.build_topic` encodes the ``/``.

    :param endpoint: of the view, as for ``url_for``.
    :param values: names of attributes, by the variables of the URL: ``topic_url("book", id="id")``. A
        callable is given the object.
    """

    def topic(instance: Any) -> str:
        made = {
            name: source(instance) if callable(source) else _value(instance, source)
            for name, source in values.items()
        }
        for name, value in made.items():
            text = "" if value is None else str(value)  # as converters write it
            if not text or "/" in text or is_dot_segment(text):
                raise InvalidArgument(
                    f"the value of {name!r} in the URL of {endpoint!r} is {text[:80]!r} and would lead to "
                    "the topics of others: refuse it, or use a format string, which encodes it"
                )
        return url_for(endpoint, _external=True, **made)

    return topic


class _TopicTemplate:
    """``books/{id}`` with the attributes of an object, encoded; ``{author.id}`` follows a relation.

    ``attributes`` has the names of the attributes, of relations their paths.

    :raises InvalidArgument: it names no attribute, or a value could choose among the topics of others.
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(Formatter().parse(template))
        except ValueError as error:
            raise InvalidArgument(f"topics holds {template!r}, which cannot be read: {error}") from None
        self._template = template
        self._pieces: list[tuple[str, str | None]] = []
        self._fields: dict[str, tuple[str, str, str | None]] = {}
        before = ""
        for literal, name, specification, conversion in parsed:
            before += literal
            if name is None:  # a doubled brace
                continue
            if not all(part.isidentifier() for part in name.split(".")):
                raise InvalidArgument(
                    f"topics holds {template!r}; name attributes in it, as in 'books/{{id}}'"
                )
            field = f"{name}!{conversion}:{specification}" if conversion or specification else name
            self._fields[field] = (name, specification or "", conversion)
            self._pieces.append((before, field))
            before = ""
        self._pieces.append((before, None))
        check_template("topic", template, self._pieces)
        self.attributes = frozenset(name for name, _, _ in self._fields.values())

    def __call__(self, instance: Any) -> str:
        def value_of(field: str) -> str:
            name, specification, conversion = self._fields[field]
            value = _value(instance, name)
            if conversion:
                value = Formatter().convert_field(value, conversion)
            return format(value, specification)

        return filled("topic", self._template, self._pieces, value_of)


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
