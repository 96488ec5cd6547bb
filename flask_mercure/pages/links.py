"""The hub's URL in a page; ``Link`` headers that advertise hub and topic (spec, Discovery; RFC 8288)."""

from __future__ import annotations

import re
from urllib.parse import quote

from flask import has_request_context, request
from werkzeug.datastructures import Headers

from flask_mercure.configuration.settings import Configuration
from flask_mercure.cookies.hosts import host_of
from flask_mercure.topics.characters import check_characters, check_media_type

_LINK_OF_OURS = re.compile(r'<([^>]*)>; rel="(mercure|self)"')
_URI = "%/:?#[]@!$&'()*+,;=-._~"  # RFC 3986: what a URI reference may hold, "%" being an escape already


def page_url(read: Configuration) -> str:
    """The hub's URL for the page that the current request answers; without a request ``MERCURE_PUBLIC_URL``.

    :param read: the settings of the hub.
    """
    return read.cookie.url_for(host_of(request.host)) if has_request_context() else read.public_url


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
    """Add ``Link`` fields; each takes the place of the one with its relation that was added before.

    :param headers: of the response.
    :param links: made by :func:`hub_link` and :func:`self_link`.
    """
    replaced = {_kind(link) for link in links}
    kept = [link for link in headers.getlist("Link") if _kind(link) is None or _kind(link) not in replaced]
    headers.setlist("Link", [*kept, *links])


def _kind(link: str) -> tuple[str, str] | None:
    """What makes two links of ours the same: the relation, and the URL of hubs, which may be several."""
    found = _LINK_OF_OURS.match(link)
    if found is None:
        return None
    target, relation = found.groups()
    return relation, target if relation == "mercure" else ""


def _parameter(name: str, value: str) -> str:
    """A target attribute: quoted, and in the form of RFC 8187 where a header cannot carry the text."""
    if value.isascii():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'; {name}="{escaped}"'
    return f"; {name}*=UTF-8''{quote(value, safe='!#$&+-.^_`|~')}"
