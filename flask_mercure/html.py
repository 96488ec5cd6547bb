"""HTML for pages that are open: partials that everybody gets, Turbo Streams, and out-of-band swaps of htmx.

Pages take HTML only from updates of two event types, which are kept for HTML that the app has rendered. So
text that somebody has typed is never HTML in a page, whatever it looks like.

A partial that is published is the same for all subscribers. So it is rendered as in a command, with an app
context and without the request: no ``current_user``, ``session`` or ``g`` of whoever caused the update can
get into it. ``url_for`` gives paths there, as in the page that shows the partial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, current_app, has_request_context, render_template, request
from markupsafe import Markup, escape

from flask_mercure.contexts import apart_from_the_request
from flask_mercure.errors import InvalidArgument, requiring_sqlalchemy

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TURBO: Final = "turbo"
"""Event type of Turbo Streams."""

HTMX: Final = "htmx"
"""Event type of out-of-band swaps of htmx."""

HTML_TYPES: Final = (TURBO, HTMX)
"""Event types of HTML; an update has one of them only if the app has rendered its data."""

_OTHER_CHARACTER = re.compile(r"[^A-Za-z0-9-]")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_FIRST_TAG = re.compile(r"\s*(?:<!--.*?-->\s*)*<([A-Za-z][^\s/>]*)", re.DOTALL)

# What the parser of HTML wants around an element that cannot stand alone.
_AROUND = {
    **dict.fromkeys(("tbody", "thead", "tfoot", "caption", "colgroup"), "table"),
    **dict.fromkeys(("td", "th"), "tr"),
    "tr": "tbody",
    "col": "colgroup",
}


def variable_name(model: type[Any]) -> str:
    """The name under which a partial has an object: ``order_line`` for the class ``OrderLine``."""
    return _CAPITAL.sub("_", model.__name__).lower()


def dom_id(instance: Any) -> str:
    """The id of the element that shows an object, such as ``order-7``; templates have it too.

    It holds the name of the model's class (with inheritance, of the topmost mapped one) and the primary key.
    Of the key only letters, digits and ``-`` stay as they are, so the id is valid in a selector, whatever a
    user has put into the key.

    :param instance: of a SQLAlchemy model, with a primary key: it has been flushed.
    :raises ConfigurationError: SQLAlchemy is not installed.
    :raises InvalidArgument: it is not an object of a model, or has no primary key yet.
    """
    with requiring_sqlalchemy("dom_id()"):
        from sqlalchemy import inspect  # noqa: PLC0415
    state = inspect(instance, raiseerr=False)
    if state is None or not hasattr(state, "mapper") or state is state.mapper:
        raise InvalidArgument(f"a {type(instance).__name__} has no id in pages; give an object of a model")
    key = state.mapper.primary_key_from_instance(instance)
    if None in key:
        raise InvalidArgument(
            f"this {type(instance).__name__} has no primary key yet, and so no id: flush the session first"
        )
    name = variable_name(state.mapper.base_mapper.class_)
    return f"{name}-{'__'.join(_OTHER_CHARACTER.sub(_encoded, str(one)) for one in key)}"


def _encoded(character: re.Match[str]) -> str:
    return "".join(f"_{byte:02x}" for byte in character[0].encode())


def is_html_type(type: str | None) -> bool:
    """Return true if subscribers could read an event type as one of :data:`HTML_TYPES`."""
    # Readers of an event stream leave out a space at the beginning (HTML, "Server-sent events").
    return isinstance(type, str) and type.strip() in HTML_TYPES


def html_type(type: str | None, data: object) -> str | None:
    """The event type with which data is published as it is.

    :param type: requested event type.
    :param data: data of the update.
    :returns: ``turbo`` for a :class:`TurboStream`, else ``type``.
    :raises InvalidArgument: the type is one of :data:`HTML_TYPES` and the data is not HTML that the app has
        rendered; or the data is a :class:`TurboStream` and the type another one.
    """
    if isinstance(data, TurboStream):
        if type not in (None, TURBO):
            raise InvalidArgument(
                f"type is {type!r}, and pages take a TurboStream only from the type {TURBO!r}, which it has: "
                "leave type out"
            )
        return TURBO
    if is_html_type(type) and not isinstance(data, Markup):
        rendered = "markupsafe.Markup" if type == HTMX else "a TurboStream"
        raise InvalidArgument(
            f"type is {type!r}, which is kept for HTML that the app has rendered, and data is a "
            f"{data.__class__.__name__}: give {rendered}, or choose another type"
        )
    return type


def render_shared(template: str, **context: Any) -> Markup:
    """Render a partial that several people get: with an app context, without the request.

    :param template: name of the template; its content must be escaped, as Flask does for ``.html``.
    :param context: what the template has, beside globals and context processors.
    :raises InvalidArgument: the app does not escape the template.
    :raises Exception: what the template raises.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def render() -> Markup:
        return render_escaped(template, **{"url_for": path_for(app), **context})

    return apart_from_the_request(app, render)


def render_escaped(template: str, **context: Any) -> Markup:
    """Render a template to HTML.

    :param template: name of the template; its content must be escaped, as Flask does for ``.html``.
    :param context: variables of the template, beside globals and context processors.
    :raises InvalidArgument: the app does not escape the template.
    :raises Exception: any error of the template.
    """
    autoescape = current_app.jinja_env.autoescape
    if not (autoescape(template) if callable(autoescape) else autoescape):
        raise InvalidArgument(
            f"the template {template!r} is not escaped, so data could become HTML: name it with .html"
        )
    return Markup(render_template(template, **context))  # noqa: S704 - escaped by the template


def path_for(app: Flask) -> Callable[..., str]:
    """``url_for`` without a request: paths, unless an external URL is asked for, which needs SERVER_NAME.

    :param app: whose routes it knows.
    """

    def url_for(endpoint: str, *, _anchor: str | None = None, **values: Any) -> str:
        if app.config["SERVER_NAME"] is not None or values.get("_external") or values.get("_scheme"):
            return app.url_for(endpoint, **{"_anchor": _anchor, "_external": False, **values})
        method = values.pop("_method", None)
        values.pop("_external", None)
        app.inject_url_defaults(endpoint, values)
        # No host is in what is built.
        adapter = app.url_map.bind("localhost", app.config["APPLICATION_ROOT"])
        path = adapter.build(endpoint, values, method=method)
        return path if _anchor is None else f"{path}#{_anchor}"

    return url_for


@dataclass(frozen=True, slots=True)
class _Action:
    """One ``<turbo-stream>``."""

    name: str
    attributes: dict[str, str]
    content: Any = None
    template: str | None = None
    context: dict[str, Any] = field(default_factory=dict)

    def html(self, render: Callable[..., Markup]) -> Markup:
        attributes = Markup("").join(
            Markup(' {}="{}"').format(name, value) for name, value in self.attributes.items()
        )
        start = Markup('<turbo-stream action="{}"{}>').format(self.name, attributes)
        if self.content is None and self.template is None:
            return start + Markup("</turbo-stream>")
        content = escape(self.content) if self.template is None else render(self.template, **self.context)
        return start + Markup("<template>{}</template></turbo-stream>").format(content)


class TurboStream:
    """Changes to a page, for Hotwire Turbo: publish them, or return them from the view of a form. ::

        mercure.publish("orders", TurboStream.append("orders", template="_order.html", order=order))
        return TurboStream.replace("form", template="_form.html", form=form)

    ``+`` joins several. Each action takes:

    * ``target``: id of an element, or an object of a model, whose :func:`dom_id` it is; or ``targets``, a CSS
      selector for any number of elements;
    * ``content``: text, which is escaped, or :class:`~markupsafe.Markup`; or ``template``, the name of a
      partial, with its variables as further arguments.

    A partial is rendered when it is used: published, without the request, for it is the same for everybody;
    as a response or in a template, with it.
    """

    MEDIA_TYPE: Final = "text/vnd.turbo-stream.html"
    __slots__ = ("_actions",)

    def __init__(self, *streams: TurboStream) -> None:
        self._actions: tuple[_Action, ...] = tuple(one for stream in streams for one in stream._actions)

    @classmethod
    def append(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Add to the end of an element; a child with the same id is replaced."""
        return cls._of("append", _where(target, targets), content, template, context)

    @classmethod
    def prepend(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Add to the beginning of an element; a child with the same id is replaced."""
        return cls._of("prepend", _where(target, targets), content, template, context)

    @classmethod
    def before(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Insert before an element."""
        return cls._of("before", _where(target, targets), content, template, context)

    @classmethod
    def after(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Insert after an element."""
        return cls._of("after", _where(target, targets), content, template, context)

    @classmethod
    def replace(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        morph: bool = False,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Replace an element; with ``morph`` change only what differs, which keeps focus and scrolling."""
        return cls._of("replace", _where(target, targets, morph=morph), content, template, context)

    @classmethod
    def update(
        cls,
        target: Any = None,
        content: Any = "",
        *,
        targets: str | None = None,
        morph: bool = False,
        template: str | None = None,
        **context: Any,
    ) -> TurboStream:
        """Replace what is in an element; with ``morph`` change only what differs."""
        return cls._of("update", _where(target, targets, morph=morph), content, template, context)

    @classmethod
    def remove(cls, target: Any = None, *, targets: str | None = None) -> TurboStream:
        """Remove an element."""
        return cls._of("remove", _where(target, targets))

    @classmethod
    def refresh(cls) -> TurboStream:
        """Load the page again, as Turbo does: what is new is morphed in if the page says so.

        The page whose form led to it does not: it shows the answer to that form.
        """
        own = request.headers.get("X-Turbo-Request-Id") if has_request_context() else None
        return cls._of("refresh", {} if own is None else {"request-id": own})

    @classmethod
    def _of(
        cls,
        action: str,
        attributes: dict[str, str],
        content: Any = None,
        template: str | None = None,
        context: dict[str, Any] | None = None,
    ) -> TurboStream:
        if template is not None and content not in ("", None):
            raise TypeError(f"the stream has content and the template {template!r}; give one of them")
        if template is None and context:
            raise TypeError(f"{', '.join(context)} would be for a template; name it: template='_row.html'")
        made = cls()
        made._actions = (_Action(action, attributes, content, template, context or {}),)
        return made

    @staticmethod
    def is_accepted() -> bool:
        """Whether the current request takes it as a response: Turbo has sent it, from a form."""
        return TurboStream.MEDIA_TYPE in request.accept_mimetypes.values()

    def published(self) -> str:
        """As subscribers get it."""
        return str(Markup("").join(one.html(render_shared) for one in self._actions))

    def __html__(self) -> str:
        return Markup("").join(one.html(render_escaped) for one in self._actions)

    def __str__(self) -> str:
        return str(self.__html__())

    def __repr__(self) -> str:
        actions = " + ".join(f".{one.name}({one.attributes!r})" for one in self._actions)
        return f"{type(self).__name__}{actions}"

    def __add__(self, other: TurboStream) -> TurboStream:
        return TurboStream(self, other) if isinstance(other, TurboStream) else NotImplemented

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As a response, which a view makes of it by returning it."""
        return Response(str(self), content_type=f"{self.MEDIA_TYPE}; charset=utf-8")(environ, start_response)


def _where(target: Any, targets: str | None, *, morph: bool = False) -> dict[str, str]:
    """The attributes that name the elements.

    :raises InvalidArgument: none could be named so.
    """
    if (target is None) == (targets is None):
        raise TypeError("give either a target, the id of an element, or targets, a CSS selector")
    method = {"method": "morph"} if morph else {}
    if targets is not None:
        return {"targets": targets, **method}
    return {"target": check_id(target) if isinstance(target, str) else dom_id(target), **method}


def check_id(target: str) -> str:
    """The id of an element.

    :raises InvalidArgument: no element can have it (HTML, "The id attribute").
    """
    if not target or any(character.isspace() for character in target):
        raise InvalidArgument(
            f"the target is {target!r}; the id of an element has no spaces and is not empty"
        )
    return target


# Where htmx puts something, by the names of Turbo's actions.
_HTMX_SWAPS = {"append": "beforeend", "prepend": "afterbegin", "replace": "outerHTML", "remove": "delete"}


def htmx_insertion(action: str, target: str, html: Markup) -> Markup:
    """An out-of-band swap of htmx that adds an element; a page that has it already leaves it out.

    :param action: ``append`` or ``prepend``.
    :param target: id of the element to which it is added.
    :param html: one element.
    """
    first = _FIRST_TAG.match(html)
    around = _AROUND.get(first[1].lower(), "div") if first else "div"
    return Markup('<{0} hx-swap-oob="{1}:{2}">{3}</{0}>').format(
        around, _HTMX_SWAPS[action], _selector(target), html
    )


def htmx_replacement(html: Markup, id: str) -> Markup:
    """An out-of-band swap of htmx that replaces an element.

    :param html: one element.
    :param id: of the element that it replaces.
    :raises InvalidArgument: it does not begin with an element.
    """
    first = _FIRST_TAG.match(html)
    if first is None:
        raise InvalidArgument(f"the partial of {id!r} does not begin with an element: {str(html[:80])!r}")
    attribute = Markup(' hx-swap-oob="{}:{}"').format(_HTMX_SWAPS["replace"], _selector(id))
    return html[: first.end()] + attribute + html[first.end() :]


def htmx_removal(id: str) -> Markup:
    """An out-of-band swap of htmx that removes an element."""
    return Markup('<div hx-swap-oob="{}:{}"></div>').format(_HTMX_SWAPS["remove"], _selector(id))


def _selector(id: str) -> str:
    """A CSS selector of an id (CSS Syntax, section 4.3.7); htmx would split one with a comma."""
    escaped = re.sub(r"[^\w-]", lambda character: f"\\{ord(character[0]):x} ", id)
    return f'[id="{escaped}"]'
