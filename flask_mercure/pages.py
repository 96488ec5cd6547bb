"""What an application puts into pages and their headers, so that browsers find the hub.

* the hub's URL, for the page that is being made;
* ``Link`` headers that advertise hub and topic (spec, Discovery; RFC 8288);
* template functions: elements with the configuration for scripts, and for what a page does with updates;
* the JavaScript module in ``static/``. The app itself serves it, under a path with a digest of its files, so
  that browsers keep it for a year and fetch it again when it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Flask, Response, current_app, has_request_context, request, send_from_directory, url_for
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from werkzeug.datastructures import Headers

from flask_mercure.config.settings import Configuration
from flask_mercure.cookies import host_of
from flask_mercure.errors import InvalidArgument
from flask_mercure.html import HTML_TYPES, dom_id, path_for
from flask_mercure.state import MercureState
from flask_mercure.topics import (
    Topics,
    URLPattern,
    build_topic,
    check_characters,
    check_media_type,
    matchers,
    subscription_url,
)
from mercure_hub.protocol.topics import MatcherType

ENDPOINT = "mercure_static"
REFRESH = "mercure_refresh"
"""Endpoint of the view that renews cookies and tokens."""

RENEW_AT = 0.8
"""Part of the lifetime of a cookie or a token after which the page renews it."""

_MODULE = "mercure.js"

STATIC_FOLDER = Path(__file__).with_name("static")
"""The folder with the JavaScript module, ``mercure.js`` and what it imports, for frameworks that serve it."""

_YEAR = 365 * 24 * 3600
_TYPES = {".js": "text/javascript", ".ts": "text/plain"}
_TRANSPORTS = ("fetch", "eventsource", "websocket")

_FUNCTION = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*", re.ASCII)
_OWN_LINK = re.compile(r'<([^>]*)>; rel="(mercure|self)"')
_URI = "%/:?#[]@!$&'()*+,;=-._~"  # RFC 3986: what a URI reference may hold, "%" being an escape already


def page_url(configuration: Configuration) -> str:
    """The hub's URL for the page that the current request answers; without a request ``MERCURE_PUBLIC_URL``.

    :param configuration: the settings of the hub.
    """
    return (
        configuration.cookie.url_for(host_of(request.host))
        if has_request_context()
        else configuration.public_url
    )


def hub_link(
    public_url: str,
    *,
    last_event_id: str | None = None,
    content_type: str | None = None,
    type: str | None = None,
    key_set: str | None = None,
) -> str:
    """The ``Link`` field value that advertises the hub (spec, Hub Discovery).

    :param public_url: of the hub.
    :param last_event_id: of the last update that the resource includes.
    :param content_type: media type of the updates, where it is not that of the resource.
    :param type: event type of the updates, where they have one.
    :param key_set: URL of the keys that decrypt the updates (0.x, Discovery; in 1.0 an extension attribute).
    :raises InvalidArgument: a value cannot be expressed.
    """
    link = f'<{public_url}>; rel="mercure"'
    if last_event_id is not None:
        link += _parameter("last-event-id", check_characters(last_event_id, "last_event_id"))
    if content_type is not None:
        link += _parameter("content-type", check_media_type(content_type, "content_type"))
    if type is not None:
        link += _parameter("type", check_characters(type, "type"))
    if key_set is not None:
        link += _parameter("key-set", quote(check_characters(key_set, "key_set"), safe=_URI))
    return link


def self_link(topic: str) -> str:
    """The ``Link`` field value that names the topic of a resource (spec, Topic Discovery).

    :param topic: its canonical topic; what a URI cannot hold is escaped as UTF-8 (RFC 3987 section 3.1).
    :raises InvalidArgument: the topic holds forbidden characters.
    """
    return f'<{quote(check_characters(topic, "topic"), safe=_URI)}>; rel="self"'


def add_links(headers: Headers, *links: str) -> None:
    """Add ``Link`` fields; each replaces the one with its relation that was added before.

    :param headers: of the response.
    :param links: made by :func:`hub_link` and :func:`self_link`.
    """
    replaced = {_kind(link) for link in links}
    kept = [link for link in headers.getlist("Link") if _kind(link) is None or _kind(link) not in replaced]
    headers.setlist("Link", [*kept, *links])


def _kind(link: str) -> tuple[str, str] | None:
    """What identifies a link of this module: its relation, and the hub's URL, as there may be several."""
    own = _OWN_LINK.match(link)
    if own is None:
        return None
    target, relation = own.groups()
    return relation, target if relation == "mercure" else ""


def _parameter(name: str, value: str) -> str:
    """A target attribute: quoted, and in the form of RFC 8187 where a header cannot carry the text."""
    if value.isascii():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'; {name}="{escaped}"'
    return f"; {name}*=UTF-8''{quote(value, safe='!#$&+-.^_`|~')}"


@cache
def version() -> str:
    """A digest of the module's files."""
    digest = sha256()
    for path in sorted(STATIC_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def install(app: Flask, state: MercureState, path: str) -> None:
    """Serve the JavaScript module, and give the app's templates their functions.

    :param app: the application.
    :param state: its hubs.
    :param path: of the app, where it serves the module.
    """
    app.add_url_rule(f"{path.rstrip('/')}/<digest>/<path:filename>", ENDPOINT, _serve)
    app.add_template_global(_url(state), "mercure_url")
    app.add_template_global(build_topic, "mercure_topic")
    app.add_template_global(URLPattern.build, "mercure_pattern")
    app.add_template_global(module_url, "mercure_module")
    app.add_template_global(_script(state), "mercure_script")
    app.add_template_global(_on(state), "mercure_on")
    app.add_template_global(mercure_progress)
    app.add_template_global(dom_id)


@cache
def _modules() -> dict[str, str]:
    """The files of the modules that scripts import, by name: those with types."""
    stems = sorted(path.name.removesuffix(".d.ts") for path in STATIC_FOLDER.glob("*.d.ts"))
    return {("mercure" if f"{stem}.js" == _MODULE else f"mercure/{stem}"): f"{stem}.js" for stem in stems}


def module_url(*, external: bool = False) -> str:
    """The URL of the JavaScript module, for ``import``.

    :param external: with the app's origin, for a page of another one.
    """
    return _file_url(_MODULE, external=external)


def _file_url(filename: str, *, external: bool = False) -> str:
    # A partial that is broadcast is rendered without the request.
    make = url_for if has_request_context() else path_for(current_app._get_current_object())  # type: ignore[attr-defined]
    return make(ENDPOINT, digest=version(), filename=filename, _external=external)


def refresh_url(hub: str, *, external: bool = False, **query: str) -> str:
    """The URL where a page renews its cookie or token.

    :param hub: its name.
    :param external: with the app's origin, for a page of another one.
    :param query: parameters.
    """
    return url_for(REFRESH, hub=hub, _external=external, **query)


def page_options(
    configuration: Configuration, topics: Topics, last_event_id: str | None, *, last_value: bool = False
) -> dict[str, Any]:
    """What ``connect`` of the module has to know.

    :param configuration: of the hub.
    :param topics: to subscribe to.
    :param last_event_id: of the last update that the page includes.
    :param last_value: begin with the newest update of each topic.
    :raises InvalidArgument: a topic or the id cannot be expressed.
    """
    options: dict[str, Any] = {
        "url": page_url(configuration),
        "protocol": configuration.protocol,
        "topics": [_as_json(one) for one in matchers(topics, configuration.protocol, "topics")],
    }
    if last_event_id is not None:
        options["lastEventId"] = check_characters(last_event_id, "last_event_id")
    if last_value:
        options["lastValue"] = True
    return options


def _serve(digest: str, filename: str) -> Response:
    response = send_from_directory(STATIC_FOLDER, filename, mimetype=_TYPES.get(Path(filename).suffix))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Access-Control-Allow-Origin"] = "*"  # public; pages of other origins import it too
    if digest == version():
        response.headers["Cache-Control"] = f"public, max-age={_YEAR}, immutable"
    else:  # while an update rolls out, another process may have made the page
        response.headers["Cache-Control"] = "no-cache"
    return response


def _url(state: MercureState) -> Callable[..., str]:
    def mercure_url(
        topics: Topics = (),
        last_event_id: str | None = None,
        hub: str | None = None,
        *,
        last_value: bool = False,
    ) -> str:
        configuration = state.hub(hub).configuration
        return subscription_url(
            page_url(configuration), configuration.protocol, topics, last_event_id, last_value=last_value
        )

    return mercure_url


def _script(state: MercureState) -> Callable[..., Markup]:
    def mercure_script(
        topics: Topics = (),
        last_event_id: str | None = None,
        *,
        hub: str | None = None,
        nonce: str | None = None,
        import_map: bool = True,
        refresh: str | None = None,
        topic_of: str | None = None,
        transport: str | None = None,
        last_value: bool = False,
        event_source: bool = False,
    ) -> Markup:
        """Elements for the page's head, after which scripts can ``import { on, subscribe } from "mercure"``.

        :param topics: that ``connect()`` subscribes to.
        :param last_event_id: of the last update that the page includes.
        :param hub: name of a hub; ``None`` for the default one.
        :param nonce: of the page's Content-Security-Policy, for the import map.
        :param import_map: ``False`` when the page has its own; scripts then import ``mercure_module()``.
        :param refresh: URL that answers a POST with a fresh cookie; called before the token ends. Default: a
            view of the extension, where ``subscribe_grants`` is used.
        :param topic_of: ``"type"`` at a hub that does not name topics, when updates have their topic as type.
        :param transport: ``fetch`` (default), ``eventsource`` or ``websocket``.
        :param last_value: begin with the newest update of each topic.
        :param event_source: replace the page's ``EventSource``, so that libraries share the connection.
        :raises InvalidArgument: a topic or an argument cannot be expressed.
        """
        configuration = state.hub(hub).configuration
        options = page_options(configuration, topics, last_event_id, last_value=last_value)
        if refresh is None and state.has_grants(name := state.hub(hub).name):
            refresh = refresh_url(name)
        if refresh is not None:
            options |= {"refresh": refresh, "refreshAfter": round(configuration.lifetime * RENEW_AT, 3)}
        if topic_of not in (None, "type"):
            raise InvalidArgument(
                f"topic_of is {topic_of!r}; give 'type', or a function to connect() in the page"
            )
        if transport is not None and transport not in _TRANSPORTS:
            raise InvalidArgument(
                f"transport is {transport!r}; known are {', '.join(map(repr, _TRANSPORTS))}"
            )
        given = {"topicOf": topic_of, "transport": transport}
        options |= {name: value for name, value in given.items() if value is not None}
        elements = _elements(configuration, options, nonce, import_map)
        if event_source:
            elements.append(_module_element("install.js", nonce))
        return Markup("\n").join(elements)

    return mercure_script


def _elements(
    configuration: Configuration, options: Mapping[str, Any], nonce: str | None, import_map: bool
) -> list[Markup]:
    elements = []
    url = page_url(configuration)
    if _is_elsewhere(url):
        # With cookies: browsers keep connections for requests with and without them apart.
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        link = Markup('<link rel="preconnect" href="{}" crossorigin="use-credentials">')
        elements.append(link.format(origin))
    # Turbo Drive puts the next page's in its place, which it does not with scripts.
    attributes = {"content": json.dumps(options)}
    if has_request_context() and request.method not in ("GET", "HEAD"):
        attributes["data-method"] = request.method  # loading the page again would send it again
    elements.append(Markup('<meta name="mercure" data-mercure{}>').format(_attributes(attributes)))
    if import_map:
        allowed = Markup(' nonce="{}"').format(nonce) if nonce else ""
        names = _json({"imports": {name: _file_url(file) for name, file in _modules().items()}})
        elements.append(Markup('<script type="importmap"{}>{}</script>').format(allowed, names))
    return elements


def _on(state: MercureState) -> Callable[..., Markup]:
    def mercure_on(
        type: str,
        call: str | None = None,
        *,
        topics: Topics = (),
        last_event_id: str | None = None,
        text: str | None = None,
        field: str | None = None,
        gap: str | None = None,
        nonce: str | None = None,
    ) -> Markup:
        """An element for the page's body that says what the page does with updates of a type.

        It listens for as long as it is in the page, on the connection that ``mercure_script`` describes.

        :param type: ``turbo`` shows Turbo Streams, and ``htmx`` does out-of-band swaps: the updates of these
            types are HTML that the app has rendered. Any other event type goes with ``call`` or ``text``;
            ``message`` stands for updates that were published without one.
        :param call: name of a function of the page's own, such as ``toast`` or ``app.toast``, which is given
            the update.
        :param topics: to subscribe to in addition, for as long as the element is in the page.
        :param last_event_id: result of ``mercure.last_event_id()``, called before the page's data was read.
            The element then takes updates of its ``topics`` only, from that position on.
        :param text: in place of ``call``: a CSS selector; the elements show the update's data as text. In
            ``#item-{id}``, fields of JSON are put in, escaped.
        :param field: of the JSON, whose value they show; default: all of the data.
        :param gap: ``reload`` loads the page anew when updates may be missing, ``event`` leaves it to the
            page's listeners to ``mercure:gap``; anything else is the name of a function, which is given the
            event's detail. Default: ``event`` if there is a ``call``, else ``reload``.
        :param nonce: of the page's Content-Security-Policy, where that does not allow scripts of ``'self'``.
        :raises InvalidArgument: ``call`` or ``gap`` names no function, or a type or topic cannot be
            expressed.
        :raises TypeError: there is no type; or one of HTML with ``call`` or ``text``, another with both or
            neither; or a position without topics.
        """
        if not type or not isinstance(type, str):
            raise TypeError(
                f"mercure_on has the type {type!r}; give an event type, such as 'saved', or 'message' for "
                "updates that were published without one"
            )
        check_characters(type, "type")
        if call in HTML_TYPES:
            raise TypeError(
                f"mercure_on has the call {call!r}; write mercure_on({call!r}), which takes as HTML what the "
                f"app has rendered: updates of the type {call!r}, which a TurboStream and a template of "
                "broadcast have, and no others"
            )
        if type in HTML_TYPES:
            if call is not None or text is not None:
                raise TypeError(
                    f"mercure_on has the type {type!r}, whose updates are HTML, and a call or text: write "
                    f"mercure_on({type!r}), or publish with a type of your own"
                )
        elif (call is None) == (text is None):
            raise TypeError("mercure_on needs either call, such as 'toast', or text, a CSS selector")
        if last_event_id is not None and not topics:
            raise TypeError("mercure_on has a last_event_id, and no topics= whose updates begin there")
        if field is not None and text is None:
            raise TypeError("mercure_on has a field, and no text= that says which elements show it")
        if call is not None and not _FUNCTION.fullmatch(call):
            raise InvalidArgument(f"call is {call!r}; give the name of a function, such as 'app.toast'")
        if text == "":
            raise InvalidArgument("text is empty; give a CSS selector, such as '#count'")
        if gap is None:
            gap = "reload" if call is None else "event"
        if not _FUNCTION.fullmatch(gap):
            raise InvalidArgument(
                f"gap is {gap!r}; give 'reload', 'event', or the name of a function such as 'app.fetch'"
            )
        wanted = [_as_json(one) for one in matchers(topics, state.configuration.protocol, "topics")]
        given = {
            "type": type,
            "call": call,
            "topics": json.dumps(wanted) if wanted else None,
            "last-event-id": last_event_id,
            "text": text,
            "field": field,
            "gap": None if gap == "event" else gap,
        }
        attributes = _attributes({name: value for name, value in given.items() if value is not None})
        element = Markup("<mercure-on{} hidden></mercure-on>").format(attributes)
        return _module_element("on.js", nonce) + element

    return mercure_on


def mercure_progress(
    topic: str,
    label: str = "Progress",
    *,
    done: str = "Done.",
    then: str | None = None,
    nonce: str | None = None,
) -> Markup:
    """A bar for the page's body that shows how far a job is: what ``mercure.progress()`` publishes.

    It shows the present state at once and then follows, on the connection that ``mercure_script`` describes.

    :param topic: of this run of the job.
    :param label: what the bar is about, for screen readers.
    :param done: text at the end of a job that is done; of one that has failed, the job says it.
    :param then: URL that the page goes to when the job is done.
    :param nonce: of the page's Content-Security-Policy, where that does not allow scripts of ``'self'``.
    :raises InvalidArgument: the topic cannot be expressed, or ``then`` is not a URL of HTTP.
    """
    if then is not None and urlsplit(then).scheme not in ("", "http", "https"):
        raise InvalidArgument(f"then is {then!r}; give a path or a URL of HTTP")
    given = {"topic": check_characters(topic, "topic"), "done": done}
    attributes = _attributes(given if then is None else {**given, "then": then})
    element = Markup(
        '<mercure-progress{}><progress aria-label="{}"></progress> <span data-label></span> <output></output>'
        "</mercure-progress>"
    ).format(attributes, label)
    return _module_element("progress_bar.js", nonce) + element


def _module_element(filename: str, nonce: str | None) -> Markup:
    """A script of this package; a browser runs it once, however many there are."""
    source = {"src": _file_url(filename)} | ({"nonce": nonce} if nonce else {})
    return Markup('<script type="module"{}></script>').format(_attributes(source))


def _attributes(values: Mapping[str, str]) -> Markup:
    return Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in values.items())


def _as_json(topic: str | URLPattern) -> str | dict[str, str]:
    return (
        topic
        if isinstance(topic, str)
        else {"match": topic.value, "match_type": MatcherType.URLPATTERN.value}
    )


def _json(value: object) -> Markup:
    """JSON for a script element, which no text in it can end; ASCII whatever the app's provider does."""
    return htmlsafe_json_dumps(value, dumps=json.dumps)


def _is_elsewhere(public_url: str) -> bool:
    """Whether the hub has another origin than the page."""
    if not has_request_context():
        return False
    hub, page = urlsplit(public_url), urlsplit(request.host_url)
    return (hub.scheme, hub.netloc) != (page.scheme, page.netloc)
