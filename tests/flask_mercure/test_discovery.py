"""The URL to subscribe with, and the links of discovery."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Response, render_template_string

from flask_mercure import EVERYTHING, InvalidArgument, Mercure, URITemplate, URLPattern
from mercure_hub.protocol.http import Pairs, parse_form
from tests.flask_mercure.fake_hub import make_app

PUBLIC = "https://hub.example/m"
HUB = f'<{PUBLIC}>; rel="mercure"'


def url(*arguments: Any, protocol: str = "1.0", **keywords: Any) -> str:
    mercure = Mercure()
    with make_app(mercure, PUBLIC_URL=PUBLIC, PROTOCOL=protocol).app_context():
        return mercure.url(*arguments, **keywords)


@pytest.mark.parametrize(
    ("topics", "last_event_id", "protocol", "expected"),
    [
        ((), None, "1.0", []),
        ("a", None, "1.0", [("match", "a")]),
        (["a b&c=d+e;f%", "é"], None, "1.0", [("match", "a b&c=d+e;f%"), ("match", "é")]),
        (EVERYTHING, None, "1.0", [("match", "*")]),
        (
            [URLPattern("https://e.example/:id?"), "a"],
            "urn:uuid:1",
            "1.0",
            [("match_urlpattern", "https://e.example/:id?"), ("match", "a"), ("last_event_id", "urn:uuid:1")],
        ),
        ({"match": "/:id", "match_type": "urlpattern"}, None, "1.0", [("match_urlpattern", "/:id")]),
        ((), "earliest", "1.0", [("last_event_id", "earliest")]),
        (
            [URITemplate("https://e.example/{id}")],
            "1",
            "0.x",
            [("topic", "https://e.example/{id}"), ("lastEventID", "1")],
        ),
    ],
)
def test_subscription_urls(topics: Any, last_event_id: str | None, protocol: str, expected: Pairs) -> None:
    parts = urlsplit(url(topics, last_event_id, protocol=protocol))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == PUBLIC
    assert parse_form(parts.query.encode("ascii")) == expected


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
def test_subscription_urls_that_ask_for_last_values(protocol: str) -> None:
    app = make_app(PUBLIC_URL=PUBLIC, PROTOCOL=protocol)
    with app.test_request_context():
        shown = render_template_string("{{ mercure_url('gauge', last_value=True) }}").replace("&amp;", "&")
    expected = [("match" if protocol == "1.0" else "topic", "gauge"), ("last_value", "1")]
    assert parse_form(urlsplit(shown).query.encode()) == expected
    assert url("gauge", last_value=True, protocol=protocol) == shown


def test_templates_build_topics_and_patterns_too() -> None:
    app = make_app(PUBLIC_URL=PUBLIC)
    page = "{{ mercure_url([mercure_topic('/rooms/{}', room), mercure_pattern('/rooms/{}/*', room)]) }}"
    with app.test_request_context():
        shown = render_template_string(page, room="*").replace("&amp;", "&")
    assert parse_form(urlsplit(shown).query.encode()) == [
        ("match", "/rooms/%2A"),
        ("match_urlpattern", "/rooms/%2A/*"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"topics": "a\r\nb"}, InvalidArgument),
        ({"topics": [""]}, InvalidArgument),
        ({"topics": 5}, TypeError),
        ({"last_event_id": ""}, InvalidArgument),
        ({"last_event_id": "a\x00"}, InvalidArgument),
        ({"last_event_id": 5}, TypeError),
        ({"topics": URLPattern("/x"), "protocol": "0.x"}, InvalidArgument),
    ],
)
def test_subscription_urls_refuse_wrong_values(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        url(**arguments)


def test_templates_have_the_same_url_and_escape_it() -> None:
    app = make_app(PUBLIC_URL=PUBLIC)
    with app.app_context():
        assert (
            render_template_string('<a href="{{ mercure_url(["a", "b"], "x\'") }}">')
            == f'<a href="{PUBLIC}?match=a&amp;match=b&amp;last_event_id=x%27">'
        )
        assert render_template_string("{{ mercure_url('a')|tojson }}") == f'"{PUBLIC}?match=a"'


def links(**arguments: Any) -> list[str]:
    mercure = Mercure()
    response = Response()
    with make_app(mercure, PUBLIC_URL=PUBLIC).test_request_context():
        assert mercure.discover(response, **arguments) is response
    return response.headers.getlist("Link")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [HUB]),
        ({"last_event_id": "urn:uuid:1"}, [f'{HUB}; last-event-id="urn:uuid:1"']),
        ({"last_event_id": 'a"b\\c'}, [f'{HUB}; last-event-id="a\\"b\\\\c"']),
        ({"last_event_id": "é/€"}, [f"{HUB}; last-event-id*=UTF-8''%C3%A9%2F%E2%82%AC"]),
        (
            {"content_type": "application/merge-patch+json"},
            [f'{HUB}; content-type="application/merge-patch+json"'],
        ),
        ({"content_type": "text/plain; charset=utf-8"}, [f'{HUB}; content-type="text/plain; charset=utf-8"']),
        ({"type": "change"}, [f'{HUB}; type="change"']),
        ({"topic": "/books/1"}, ['</books/1>; rel="self"', HUB]),
        ({"topic": "https://e.example/a?b=c#d%20e"}, ['<https://e.example/a?b=c#d%20e>; rel="self"', HUB]),
        ({"topic": 'a>; rel="x", <é b'}, ['<a%3E;%20rel=%22x%22,%20%3C%C3%A9%20b>; rel="self"', HUB]),
        ({"topic": "a\\b^c`d{e|f}"}, ['<a%5Cb%5Ec%60d%7Be%7Cf%7D>; rel="self"', HUB]),
    ],
)
def test_link_headers(arguments: dict[str, Any], expected: list[str]) -> None:
    assert links(**arguments) == expected
    "".join(expected).encode("latin-1")


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": "a\r\nSet-Cookie: x"},
        {"topic": ""},
        {"last_event_id": "a\nb"},
        {"last_event_id": "\u2066"},
        {"content_type": "text/plain\r\nX: y"},
        {"content_type": "html"},
        {"content_type": 'text/"'},
        {"content_type": ""},
        {"type": "a\x7f"},
        {"type": ""},
    ],
)
def test_link_headers_refuse_wrong_values(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        links(**arguments)


@pytest.mark.parametrize("name", ["topic", "last_event_id", "type"])
def test_values_of_link_headers_have_a_type(name: str) -> None:
    with pytest.raises(TypeError):
        links(**{name: 5})


def test_discovering_again_replaces_own_links_and_keeps_others() -> None:
    mercure = Mercure()
    response = Response()
    response.headers.add("Link", "</style.css>; rel=preload")
    response.headers.add("Link", '<https://other.example/m>; rel="mercure"')
    with make_app(mercure, PUBLIC_URL=PUBLIC).test_request_context():
        mercure.discover(response, topic="/1", last_event_id="a")
        mercure.discover(response)
        mercure.discover(response, topic="/2")
    assert response.headers.getlist("Link") == [
        "</style.css>; rel=preload",
        '<https://other.example/m>; rel="mercure"',
        '</2>; rel="self"',
        HUB,
    ]


def test_discover_adds_links_to_the_response_of_the_request() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=PUBLIC)

    @app.get("/")
    def page() -> str:
        assert mercure.discover(topic="/") is None
        mercure.discover(topic="/")
        return "text"

    @app.get("/plain")
    def plain() -> str:
        return "text"

    client = app.test_client()
    assert client.get("/").headers.getlist("Link") == ['</>; rel="self"', HUB]
    assert "Link" not in client.get("/plain").headers


def test_discover_raises_for_a_wrong_value_in_the_view() -> None:
    mercure = Mercure()
    with make_app(mercure).test_request_context(), pytest.raises(InvalidArgument):
        mercure.discover(topic="a\n")
