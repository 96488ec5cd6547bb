"""What templates put into a page, and the module that the app serves."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from flask import Flask, render_template_string

import flask_mercure
from flask_mercure import ConfigurationError, InvalidArgument, Mercure, URITemplate, URLPattern
from flask_mercure.pages import version

_HUB = "https://hub.example/.well-known/mercure"


def make_app(**config: object) -> Flask:
    app = Flask("pages")
    app.config.from_mapping(MERCURE_JWT_SECRET="x" * 40, MERCURE_PUBLIC_URL=_HUB)
    app.config.from_mapping(config)
    Mercure(app)
    return app


def render(
    template: str, app: Flask | None = None, base_url: str = "https://app.example", **values: object
) -> str:
    with (app or make_app()).test_request_context(base_url=base_url):
        return render_template_string(template, **values)


def configuration(html: str) -> dict[str, object]:
    found = re.search(r'<meta name="mercure" data-mercure content="(.*?)">', html)
    assert found is not None
    read: dict[str, object] = json.loads(unescape(found[1]))
    return read


def test_mercure_script_writes_the_configuration() -> None:
    html = render(
        '{{ mercure_script(topics, "urn:1", refresh="/r", topic_of="type", transport="eventsource") }}',
        topics=["a", URLPattern("/books/:id")],
    )
    assert configuration(html) == {
        "url": _HUB,
        "protocol": "1.0",
        "topics": ["a", {"match": "/books/:id", "match_type": "urlpattern"}],
        "lastEventId": "urn:1",
        "refresh": "/r",
        "refreshAfter": 2880.0,
        "topicOf": "type",
        "transport": "eventsource",
    }


@pytest.mark.parametrize("topic", ["</script><script>alert(1)</script>", "<!--", "a&b", "\"'", "ä€😀", "]]>"])
def test_no_topic_ends_its_element(topic: str) -> None:
    html = render("{{ mercure_script(topic) }}", topic=topic)
    assert configuration(html)["topics"] == [topic]
    assert html.count("<script") == html.count("</script") == html.count("<meta") == 1
    assert html.isascii()


def test_mercure_script_replaces_event_source_on_request() -> None:
    html = render("{{ mercure_script('a', event_source=True, nonce='abc') }}")
    script = f'<script type="module" src="/_mercure/{version()}/install.js" nonce="abc"></script>'
    assert html.endswith(script)  # behind the configuration, and before the scripts of libraries
    assert "install.js" not in render("{{ mercure_script('a') }}")


def test_line_separators_are_escaped_whatever_the_apps_provider_does() -> None:
    app = make_app()
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    html = render('{{ mercure_script("a", refresh=name) }}', app, name="\u2028\u2029")
    assert "\\u2028\\u2029" in html
    assert configuration(html)["refresh"] == "\u2028\u2029"


def test_the_nonce_is_an_attribute_of_the_import_map() -> None:
    html = render("{{ mercure_script('a', nonce=nonce) }}", nonce='x" onload="alert(1)')
    assert '<script type="importmap" nonce="x&#34; onload=&#34;alert(1)">' in html


def test_a_page_with_its_own_import_map() -> None:
    html = render("{{ mercure_script('a', import_map=False) }} {{ mercure_module() }}")
    assert "importmap" not in html
    assert html.endswith(f"/_mercure/{version()}/mercure.js")


def test_the_hubs_connection_is_prepared_when_it_is_elsewhere() -> None:
    link = '<link rel="preconnect" href="https://hub.example" crossorigin="use-credentials">'
    assert link in render("{{ mercure_script('a') }}")
    assert "preconnect" not in render("{{ mercure_script('a') }}", base_url="https://hub.example")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("mercure_script('a', topic_of='data')", "topic_of is 'data'"),
        ("mercure_script('a', transport='pigeon')", "transport is 'pigeon'"),
        ("mercure_script('')", "empty"),
        ("mercure_script('a', last_event_id='\\n')", "control"),
    ],
)
def test_template_functions_refuse_wrong_arguments(call: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        render(f"{{{{ {call} }}}}")


def test_mercure_script_for_older_hubs() -> None:
    app = make_app(MERCURE_PROTOCOL="0.x")
    html = render("{{ mercure_script(wanted) }}", app, wanted=URITemplate("/books/{id}"))
    assert (configuration(html)["protocol"], configuration(html)["topics"]) == ("0.x", ["/books/{id}"])


def test_the_module_is_kept_until_it_changes() -> None:
    client = make_app().test_client()
    with client.get(f"/_mercure/{version()}/mercure.js") as response:
        assert response.status_code == 200
        assert response.content_type == "text/javascript; charset=utf-8"
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert b"connect" in response.data
    with client.get("/_mercure/another/mercure.js") as response:
        assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["nothing.js", "../page.py", "..%2fpage.py", "%2e%2e/page.py", "/etc/passwd"]
)
def test_only_files_of_the_module_are_served(name: str) -> None:
    assert make_app().test_client().get(f"/_mercure/{version()}/{name}").status_code in (404, 308)


def test_the_module_is_served_under_another_path() -> None:
    app = make_app(MERCURE_STATIC_PATH="/assets/hub/")
    assert f"/assets/hub/{version()}/mercure.js" in render("{{ mercure_script('a') }}", app)
    html = render("{{ mercure_module() }}", app, base_url="https://app.example/prefix")
    assert html == f"/prefix/assets/hub/{version()}/mercure.js"


@pytest.mark.parametrize("path", ["assets", "/<name>", 7])
def test_a_wrong_static_path_is_refused(path: object) -> None:
    with pytest.raises(ConfigurationError, match="MERCURE_STATIC_PATH"):
        make_app(MERCURE_STATIC_PATH=path)


def test_the_types_name_what_the_module_exports() -> None:
    folder = Path(flask_mercure.__file__).parent / "static"
    lists = re.findall(r"^export \{ ([\w, ]+) \}", (folder / "mercure.js").read_text(), re.M)
    exported = {name for names in lists for name in names.split(", ")}
    declared = re.findall(
        r"^export (?:class|function|const) (\w+)", (folder / "mercure.d.ts").read_text(), re.M
    )
    assert exported == set(declared) >= {"Mercure", "Update", "connect", "on", "presence", "subscribe"}


@pytest.mark.parametrize(("page", "hub"), [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost")])
def test_a_page_on_the_loopback_gets_the_hub_under_its_own_name(page: str, hub: str) -> None:
    """A cookie of one does not reach the other, so the hub gets the page's name."""
    app = make_app(MERCURE_PUBLIC_URL=f"http://{hub}:3000/m")
    base_url = f"http://{page}:5000"
    at = f"http://{page}:3000/m"
    assert render("{{ mercure_url() }}", app, base_url) == at
    assert configuration(render("{{ mercure_script('a') }}", app, base_url))["url"] == at


@pytest.mark.parametrize("hub", ["https://127.0.0.1:3000/m", "http://[::1]:3000/m", "http://hub.localhost/m"])
def test_a_page_on_another_host_gets_the_public_url(hub: str) -> None:
    app = make_app(MERCURE_PUBLIC_URL=hub)
    assert render("{{ mercure_url() }}", app, "http://localhost:5000") == hub


# -- mercure_on


@pytest.mark.parametrize(
    ("call", "attributes"),
    [
        ('"turbo"', 'type="turbo" gap="reload"'),
        ('"htmx", topics="x", gap="event"', 'type="htmx" topics="[&#34;x&#34;]"'),
        ('"saved", "app.toast"', 'type="saved" call="app.toast"'),
        ('"saved", "toast", gap="reload"', 'type="saved" call="toast" gap="reload"'),
        ('"count", text="#count"', 'type="count" text="#count" gap="reload"'),
        (
            '"a", text="#a-{id} > b", field="count"',
            'type="a" text="#a-{id} &gt; b" field="count" gap="reload"',
        ),
        (
            '"a", "b", topics=["x", mercure_pattern("/books/:id")]',
            'type="a" call="b" topics="[&#34;x&#34;, {&#34;match&#34;: &#34;/books/:id&#34;, '
            '&#34;match_type&#34;: &#34;urlpattern&#34;}]"',
        ),
        (
            '"a", "b", topics="x", last_event_id="urn:1"',
            'type="a" call="b" topics="[&#34;x&#34;]" last-event-id="urn:1"',
        ),
        ("name, 'b'", 'type="&#34;&gt;&lt;script&gt;" call="b"'),
    ],
)
def test_mercure_on_writes_an_element(call: str, attributes: str) -> None:
    html = render("{{ mercure_on(" + call + ") }}", name='"><script>')
    script = f'<script type="module" src="/_mercure/{version()}/on.js"></script>'
    assert html == f"{script}<mercure-on {attributes} hidden></mercure-on>"


def test_a_pattern_in_a_script_is_what_subscribe_takes() -> None:
    script = render("{{ mercure_pattern('/tenants/{}/*', '*') | tojson }}")
    assert json.loads(script) == {"match": "/tenants/%2A/*", "match_type": "urlpattern"}


def test_mercure_on_has_a_nonce() -> None:
    html = render("{{ mercure_on('a', 'b', nonce='x\"y') }}")
    assert f'src="/_mercure/{version()}/on.js" nonce="x&#34;y"></script>' in html


@pytest.mark.parametrize("name", ["alert(1)", "a b", "a..b", "1a", "", "a.", "a['b']", "ä"])
def test_mercure_on_calls_nothing_but_functions(name: str) -> None:
    with pytest.raises(InvalidArgument, match="call is"):
        render("{{ mercure_on('a', name) }}", name=name)
    with pytest.raises(InvalidArgument, match="gap is"):
        render("{{ mercure_on('a', 'b', gap=name) }}", name=name)


@pytest.mark.parametrize(("method", "marked"), [("GET", False), ("HEAD", False), ("POST", True)])
def test_the_answer_of_a_post_says_so(method: str, marked: bool) -> None:
    with make_app().test_request_context(method=method):
        html = render_template_string("{{ mercure_script('a') }}")
    assert ('data-method="POST"' in html) is marked


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("'a'", "either call.* or text"),
        ("'a', 'b', text='c'", "either call.* or text"),
        ("'a', 'b', field='c'", "has a field"),
        ("'a', 'b', last_event_id='urn:1'", "no topics"),
        ("none", "has the type None; give an event type, such as 'saved', or 'message'"),
        ("''", "has the type ''; give an event type"),
        ("7, 'b'", "has the type 7"),
        ("'message', 'turbo'", r"has the call 'turbo'; write mercure_on\('turbo'\)"),
        ("'saved', 'htmx'", r"has the call 'htmx'; write mercure_on\('htmx'\)"),
        ("'turbo', 'turbo'", r"write mercure_on\('turbo'\)"),
        ("'turbo', 'app.toast'", r"write mercure_on\('turbo'\), or publish with a type of your own"),
        ("'htmx', text='#a'", r"write mercure_on\('htmx'\), or"),
    ],
)
def test_mercure_on_does_one_thing(call: str, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        render("{{ mercure_on(" + call + ") }}")


def test_mercure_on_shows_text_somewhere() -> None:
    with pytest.raises(InvalidArgument, match="text is empty"):
        render("{{ mercure_on('a', text='') }}")


@pytest.mark.parametrize(
    ("module", "names"), [("runs", {"Run", "followRun", "followRuns"}), ("ai", {"MercureChatTransport"})]
)
def test_the_types_of_the_modules_beside_it_name_what_they_export(module: str, names: set[str]) -> None:
    folder = Path(flask_mercure.__file__).parent / "static"
    for file in (folder / f"{module}.js", folder / f"{module}.d.ts"):
        assert set(re.findall(r"^export (?:class|function) (\w+)", file.read_text(), re.M)) == names


def test_modules_are_imported_by_name() -> None:
    text = render("{{ mercure_script() }}")
    (names,) = re.findall(r'<script type="importmap">(.*?)</script>', text)
    modules = json.loads(names)["imports"]
    at = f"/_mercure/{version()}"
    assert modules["mercure"] == f"{at}/mercure.js"
    assert modules["mercure/ai"] == f"{at}/ai.js"
    assert modules["mercure/runs"] == f"{at}/runs.js"


# -- mercure_progress


def test_mercure_progress_writes_a_bar() -> None:
    html = render(
        "{{ mercure_progress(topic, label, done='Fine.', then='/a?b=1&c', nonce='x') }}",
        topic='"a',
        label="<b>",
    )
    assert html == (
        f'<script type="module" src="/_mercure/{version()}/progress_bar.js" nonce="x"></script>'
        '<mercure-progress topic="&#34;a" done="Fine." then="/a?b=1&amp;c">'
        '<progress aria-label="&lt;b&gt;"></progress> <span data-label></span> <output></output>'
        "</mercure-progress>"
    )


@pytest.mark.parametrize("then", ["javascript:alert(1)", "data:text/html,x", "JavaScript:x"])
def test_mercure_progress_goes_to_pages_only(then: str) -> None:
    with pytest.raises(InvalidArgument, match="then is"):
        render("{{ mercure_progress('a', then=then) }}", then=then)
    with pytest.raises(InvalidArgument, match="topic"):
        render("{{ mercure_progress('a\nb') }}")
