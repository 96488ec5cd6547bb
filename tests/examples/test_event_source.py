"""The module's EventSource in Chromium: it does what the standard says, and shares one connection.

The cases of the table are those of the Web Platform Tests (eventsource/), as far as a hub can send them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Response, request
from selenium import webdriver

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab

pytestmark = pytest.mark.servers


# -- what the standard says ----------------------------------------------------------------------------------


@dataclass
class Wire:
    """What the server does with the requests of one case."""

    content: bytes = b"data: data\n\n"
    status: int = 200
    media_type: str = "text/event-stream"
    ends: bool = False
    """The first stream ends behind its content; a later one says which cursor it was asked for."""
    redirects: bool = False
    positions: list[str | None] = field(default_factory=list)


# Runs a script that has `EventSource`, `url`, `source(url, init)` and `log(...)`, and ends with `done()`.
_PRELUDE = """
const { promise, resolve: done } = Promise.withResolvers();
const lines = [];
const log = (...what) => lines.push(what.length === 1 ? what[0] : what);
const sources = [];
const source = (...given) => { const one = new EventSource(...given); sources.push(one); return one; };
const caught = (action) => { try { action(); return null; } catch (error) { return error.name; } };
const url = arguments[1];
const { EventSource } = arguments[0] === "native" ? { EventSource: window.NativeEventSource } : window.module;
const run = new Function("EventSource", "url", "source", "log", "done", "caught", arguments[2]);
run(EventSource, url, source, log, done, caught);
const late = new Promise((resolve) => setTimeout(resolve, 15000, "late"));
return Promise.race([promise, late]).then((end) => {
  for (const one of sources) one.close();
  return end === "late" ? [...lines, "not done"] : lines;
});
"""

# Name: what the server sends, what the page does, and what it logs.
_CASES: dict[str, tuple[Wire, str, list[Any]]] = {
    "no URL": (Wire(), "log(caught(() => new EventSource())); done()", ["TypeError"]),
    "called as a function": (Wire(), "log(caught(() => EventSource(url))); done()", ["TypeError"]),
    "no valid URL": (
        Wire(),
        "log(caught(() => new EventSource('http://[invalid'))); done()",
        ["SyntaxError"],
    ),
    "the URL is resolved": (
        Wire(),
        """
        const { pathname, search } = new URL(url);
        log(source(pathname + search).url === url);
        log(source(url).url === url);
        done();
        """,
        [True, True],
    ),
    "the URL is made a string": (
        Wire(),
        "log(source(new URL(url)).url === url); log(source({ toString: () => url }).url === url); done()",
        [True, True],
    ),
    "constants": (
        Wire(),
        """
        const one = source(url);
        for (const name of ["CONNECTING", "OPEN", "CLOSED"]) {
          one[name] = 7;
          log(name, one[name], EventSource[name], EventSource.prototype[name], delete EventSource[name]);
        }
        done();
        """,
        [["CONNECTING", 0, 0, 0, False], ["OPEN", 1, 1, 1, False], ["CLOSED", 2, 2, 2, False]],
    ),
    "the interface": (
        Wire(),
        """
        const one = source(url);
        log(EventSource.name, EventSource.length, one instanceof EventSource, one instanceof EventTarget);
        log(Object.prototype.toString.call(one), one.onopen, one.onmessage, one.onerror, one.withCredentials);
        log(Object.keys(EventSource.prototype).sort().join());
        EventSource.prototype.added = true;
        log(one.added);
        delete EventSource.prototype.added;
        for (const name of ["url", "withCredentials", "readyState"]) {
          const before = one[name];
          one[name] = "x";
          log(one[name] === before);
        }
        done();
        """,
        [
            ["EventSource", 1, True, True],
            ["[object EventSource]", None, None, None, False],
            "CLOSED,CONNECTING,OPEN,close,onerror,onmessage,onopen,readyState,url,withCredentials",
            True,
            True,
            True,
            True,
        ],
    ),
    "credentials": (
        Wire(),
        """
        log(source(url, undefined).withCredentials);
        for (const withCredentials of [undefined, true, "yes", 0])
          log(source(url, { withCredentials }).withCredentials);
        done();
        """,
        [False, False, True, True, False],
    ),
    "states": (
        Wire(),
        """
        const one = source(url);
        log(one.readyState);
        one.onopen = () => log("open", one.readyState);
        one.onmessage = () => { one.close(); log(one.readyState); done(); };
        """,
        [0, ["open", 1], 2],
    ),
    "the event open": (
        Wire(),
        """
        source(url).onopen = function (event) {
          log(event.type, event.bubbles, event.cancelable, event.constructor.name, "data" in event);
          log(this === event.target, event.target === event.currentTarget);
          done();
        };
        """,
        [["open", False, False, "Event", False], [True, True]],
    ),
    "the event message": (
        Wire(b"id: 7\ndata: data\n\n"),
        """
        source(url).onmessage = (event) => {
          log(event.type, event.data, event.lastEventId, event.origin === new URL(url).origin);
          log(event.bubbles, event.cancelable, event.source, event.ports.length);
          log(event.constructor === MessageEvent);
          done();
        };
        """,
        [["message", "data", "7", True], [False, False, None, 0], True],
    ),
    "it is an EventTarget": (
        Wire(b"data: 1\n\ndata: 2\n\n"),
        """
        const one = source(url);
        const gone = () => log("gone");
        one.addEventListener("message", gone);
        one.addEventListener("message", ({ data }) => log("once", data), { once: true });
        const object = { handleEvent: ({ data }) => { log("object", data); if (data === "2") done(); } };
        one.addEventListener("message", object);
        one.removeEventListener("message", gone);
        """,
        [["once", "1"], ["object", "1"], ["object", "2"]],
    ),
    "handlers keep their turn": (
        Wire(b"data: 1\n\ndata: 2\n\n"),
        """
        const one = source(url);
        one.onmessage = "none";
        log(one.onmessage);
        one.onmessage = () => log("replaced");
        one.addEventListener("message", ({ data }) => {
          log("listener");
          if (data === "1") one.onmessage = null;
          else done();
        });
        const handler = () => log("handler");
        one.onmessage = handler;
        log(one.onmessage === handler);
        """,
        [None, True, "handler", "listener", "listener"],
    ),
    "closed before it is open": (
        Wire(),
        """
        const one = source(url);
        one.onopen = one.onmessage = one.onerror = ({ type }) => log(type);
        one.close();
        log(one.readyState);
        one.close();
        setTimeout(done, 300);
        """,
        [2],
    ),
    "closed in the event open": (
        Wire(),
        """
        const one = source(url);
        one.onopen = () => { log("open"); one.close(); setTimeout(done, 300); };
        one.onmessage = one.onerror = ({ type }) => log(type);
        """,
        ["open"],
    ),
    "closed in a message, nothing more comes": (
        Wire(b"data: 1\n\ndata: 2\n\nevent: x\ndata: 3\n\n", ends=True),
        """
        const one = source(url);
        one.onmessage = ({ data }) => { log(data); one.close(); setTimeout(done, 2500); };
        one.onerror = one.onopen = ({ type }) => log(type);
        one.addEventListener("x", () => log("x"));
        """,
        ["open", "1"],
    ),
    "types": (
        Wire(
            b"event: test\ndata: x\n\ndata: y\n\nevent: open\ndata: z\n\nevent: error\ndata: e\n\n"
            b"data: end\n\n"
        ),
        """
        const one = source(url);
        one.addEventListener("test", ({ type, data }) => log(type, data));
        one.onopen = ({ type, data }) => log(type, data ?? null);
        one.onerror = ({ type, data }) => log(type, data ?? null);
        one.onmessage = ({ data }) => { log(data); if (data === "end") done(); };
        """,
        [["open", None], ["test", "x"], "y", ["open", "z"], ["error", "e"], "end"],
    ),
    "an empty type is message": (
        Wire(b"event:\ndata: data\n\n"),
        "source(url).onmessage = ({ type, data }) => { log(type, data); done(); };",
        [["message", "data"]],
    ),
    "lines of data": (
        Wire(
            b"data:msg\ndata\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\n"
            b"data:end\n\n"
        ),
        "source(url).onmessage = ({ data }) => { log(data); if (data === 'end') done(); };",
        ["msg\n\nmsg", "", "end"],
    ),
    "data before the final empty line": (
        Wire(b"retry:1000\ndata:test1\n\nid:test\ndata:test2", ends=True),
        """
        const one = source(url);
        one.onmessage = ({ data, lastEventId }) => log(data, lastEventId);
        one.onerror = () => { one.close(); done(); };
        """,
        [["test1", ""]],
    ),
    "comments": (
        Wire(b"data:1\r:\0\n:\r\ndata:2\n:%b\rdata:3\n:data:fail\r:\ndata:4\n\n" % (b"x" * 2000)),
        "source(url).onmessage = ({ data }) => { log(data); done(); };",
        ["1\n2\n3\n4"],
    ),
    "line ends": (
        Wire(b"data:1\r\n\r\ndata:2\n\r\ndata:3\r\rdata:4\n\n"),
        "source(url).onmessage = ({ data }) => { log(data); if (data === '4') done(); };",
        ["1", "2", "3", "4"],
    ),
    "leading spaces": (
        Wire(b"data:\ttest\rdata: \ndata:  two\ndata:end\n\n"),
        "source(url).onmessage = ({ data }) => { log(data); done(); };",
        ["\ttest\n\n two\nend"],
    ),
    "a byte order mark": (
        Wire(b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n"),
        "source(url).onmessage = ({ data }) => { log(data); if (data === '3') done(); };",
        ["1", "3"],
    ),
    "UTF-8": (
        Wire("data:ok…\n\nevent: ü\ndata: 😀\n\n".encode()),
        """
        const one = source(url);
        one.onmessage = ({ data }) => log(data);
        one.addEventListener("ü", ({ data }) => { log(data); done(); });
        """,
        ["ok…", "😀"],
    ),
    "NULL in data": (
        Wire(b"data:\0\n\n\n\n"),
        "source(url).onmessage = ({ data }) => { log(data === '\\0'); done(); };",
        [True],
    ),
    "an id with NULL is none": (
        Wire(b"id: 1\x002\ndata: x\n\n"),
        "source(url).onmessage = ({ lastEventId }) => { log(lastEventId); done(); };",
        [""],
    ),
    "a parameter of the media type that is wrong": (
        Wire(media_type="text/event-stream;x bogus"),
        "source(url).onmessage = ({ data }) => { log(data); done(); };",
        ["data"],
    ),
    "another media type": (
        Wire(media_type="text/event-streams"),
        """
        const one = source(url);
        one.onopen = one.onmessage = ({ type }) => log(type);
        one.onerror = ({ type, bubbles, cancelable }) => {
          log(type, bubbles, cancelable, one.readyState);
          done();
        };
        """,
        [["error", False, False, 2]],
    ),
    "a redirect is followed": (
        Wire(redirects=True),
        """
        const one = source(url);
        one.onmessage = ({ data, origin }) => { log(data, one.url === url); done(); };
        """,
        [["data", True]],
    ),
    "it comes again with its last id": (
        Wire(b"retry: 100\nid: \xe2\x80\xa6last\ndata: first\n\n", ends=True),
        """
        const one = source(url);
        one.onopen = () => log("open", one.readyState);
        one.onerror = () => log("error", one.readyState);
        one.onmessage = ({ data }) => { log(data); if (data !== "first") done(); };
        """,
        [["open", 1], "first", ["error", 0], ["open", 1], "after …last"],
    ),
}  # fmt: skip
_CASES |= {
    f"status {status}": (
        Wire(status=status),
        """
        const one = source(url);
        one.onopen = one.onmessage = ({ type }) => log(type);
        one.onerror = () => log("error", one.readyState);
        setTimeout(done, 1500);
        """,
        [["error", 2]],
    )
    for status in (204, 400, 401, 403, 404, 410)
}


class Standard(Site):
    """A site whose hub is replaced by streams that a case describes, at ``/wire``."""

    wire = Wire()

    def _add_pages(self, app: Any) -> None:
        super()._add_pages(app)
        app.add_url_rule("/wire", view_func=self._stream)
        app.add_url_rule("/wire-elsewhere", view_func=self._stream)
        self.over = threading.Event()

    def _stream(self) -> Response:
        wire = self.wire
        asked = request.headers.get("Last-Event-ID") or request.args.get("last_event_id") or None
        if asked is not None and "Last-Event-ID" in request.headers:
            asked = asked.encode("latin-1").decode()
        wire.positions.append(asked)
        if wire.redirects and request.path == "/wire":
            return Response(
                status=307, headers={"Location": "/wire-elsewhere?" + request.query_string.decode()}
            )
        if wire.status != 200:
            return Response(status=wire.status)

        def content() -> Iterator[bytes]:
            if wire.ends and len(wire.positions) > 1:
                yield f"data: after {asked}\n\n".encode()
            else:
                yield wire.content
                if wire.ends:
                    return
            self.over.wait(20)

        return Response(content(), content_type=wire.media_type, headers={"Mercure-With": "topics"})


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standard]:
    running = Standard(tmp_path_factory.mktemp("standard"))
    yield running
    running.over.set()
    running.close()


@pytest.mark.parametrize("kind", ["native", "module"])
@pytest.mark.parametrize("name", _CASES)
def test_the_standard(
    standard: Standard, chromium: Callable[[int], list[webdriver.Chrome]], name: str, kind: str
) -> None:
    wire, script, expected = _CASES[name]
    standard.wire = Wire(wire.content, wire.status, wire.media_type, wire.ends, wire.redirects)
    standard.over.clear()
    tab = Tab(chromium(1)[0])
    tab.visit(f"{standard.url}/")
    if kind == "module":
        tab.run("connect({ url: arguments[0], share: false, fallback: false })", f"{standard.url}/wire")
    else:
        tab.run("window.NativeEventSource = EventSource")
    try:
        assert tab.run(_PRELUDE, kind, f"{standard.url}/wire?match=a", script) == expected
    finally:
        standard.over.set()
        leave([tab])


# -- one connection ------------------------------------------------------------------------------------------

_OPEN = """
window.got = [];
window.sources = arguments[0].map((url, index) => {
  const source = new (window.module.EventSource)(url);
  for (const type of ["message", "open", "error", "x"])
    source.addEventListener(type, ({ data }) => got.push([index, type, data ?? source.readyState]));
  return source;
});
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Site) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    assert leave([first]) == []
    first.wait_for("connections", site.topics, [])


def url_of(site: Site, *topics: object, last_event_id: str | None = None) -> str:
    with site.app.test_request_context(base_url=site.url):
        function = site.app.jinja_env.globals["mercure_url"]
        url: str = function(topics, last_event_id)  # type: ignore[operator]
        return url


def got(tab: Tab, index: int | None = None) -> list[Any]:
    found: list[Any] = tab.run("return got")
    return found if index is None else [one[1:] for one in found if one[0] == index]


def test_the_sources_of_a_page_and_its_tabs_share_a_connection(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run(_OPEN, [url_of(site, "a"), url_of(site, "b"), url_of(site, "a", "c")])
    other = tab.new()
    other.visit(f"{site.url}/?topics=d")
    other.run(_OPEN, [url_of(site, "b")])
    other.follow()
    other.wait_open()
    tab.wait_for("connections", site.topics, [["a", "b", "c", "d"]])
    for topic, data, kind in (("a", "1", None), ("b", "2", "x"), ("c", "3", None), ("d", "4", None)):
        site.publish(topic, data, type=kind)
    tab.wait_for("a", lambda: got(tab, 0), [["open", 1], ["message", "1"]])
    tab.wait_for("b", lambda: got(tab, 1), [["open", 1], ["x", "2"]])
    tab.wait_for("a and c", lambda: got(tab, 2), [["open", 1], ["message", "1"], ["message", "3"]])
    other.wait_for("the other's b", lambda: got(other, 0), [["open", 1], ["x", "2"]])
    other.wait_updates("4")
    tab.run("sources[0].close(); sources[2].close()")
    tab.wait_for("connections", site.topics, [["b", "d"]])
    assert tab.run("return sources.map((one) => one.readyState)") == [2, 1, 2]


def test_a_response_that_is_over_leaves_nothing_on_the_signal(site: Site, tab: Tab) -> None:
    """A page may use one signal for all that it fetches."""
    tab.visit(f"{site.url}/")
    left = tab.run(
        """
        const { signal } = new AbortController();
        const listeners = [];
        signal.addEventListener = (_, listener) => listeners.push(listener);
        signal.removeEventListener = (_, listener) => listeners.splice(listeners.indexOf(listener), 1);
        const { imports } = JSON.parse(document.querySelector("script[type=importmap]").textContent);
        const { fetchEvents } = await import(imports.mercure.replace("mercure.js", "event_response.js"));
        const response = await fetchEvents(arguments[0], { signal });
        const before = listeners.length;
        await response.body.cancel();
        return [before, listeners.length];
        """,
        url_of(site, "a"),
    )
    assert left == [1, 0]
    tab.run("module.connect().close()")


def test_each_source_begins_at_its_own_position(site: Site, tab: Tab) -> None:
    first = site.publish("a", "1")
    second = site.publish("a", "2")
    site.publish("a", "3")
    tab.visit(f"{site.url}/")
    tab.run(
        _OPEN,
        [
            url_of(site, "a", last_event_id=second),
            url_of(site, "a", last_event_id=first),
            url_of(site, "a"),
        ],
    )
    tab.wait_for("the second", lambda: got(tab, 0), [["open", 1], ["message", "3"]])
    tab.wait_for("the first", lambda: got(tab, 1), [["open", 1], ["message", "2"], ["message", "3"]])
    tab.wait_for("connections", site.topics, [["a"]])
    site.publish("a", "4")
    for index in range(3):
        tab.wait_for("the last", lambda index=index: got(tab, index)[-1], ["message", "4"])  # type: ignore[misc]
    for index in range(2):
        data = [data for _, data in got(tab, index)]
        assert len(data) == len(set(map(str, data)))


def test_sources_that_begin_where_the_page_does_need_one_request(site: Site, tab: Tab) -> None:
    position = site.publish("other", "0")
    site.publish("a", "1")
    site.publish("b", "2")
    tab.visit(f"{site.url}/")
    tab.run(_OPEN, [url_of(site, topic, last_event_id=position) for topic in "ab"])
    tab.wait_for("a", lambda: got(tab, 0), [["open", 1], ["message", "1"]])
    tab.wait_for("b", lambda: got(tab, 1), [["open", 1], ["message", "2"]])
    requests = (
        "return performance.getEntriesByType('resource').filter(({ name }) => name.includes('match=')).length"
    )
    assert tab.run(requests) <= 1  # a stream is listed when it ends
    assert site.topics() == [["a", "b"]]


def test_sources_come_back_with_what_they_missed(
    tmp_path: Path, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    site = Site(tmp_path)
    tab = Tab(chromium(1)[0])
    try:
        tab.visit(f"{site.url}/")
        tab.run(_OPEN, [url_of(site, "a"), url_of(site, "b")])
        tab.wait("both", lambda: got(tab) == [[0, "open", 1], [1, "open", 1]])
        site.publish("a", "1")
        tab.wait("the first", lambda: [0, "message", "1"] in got(tab))
        site.hub.kill()
        tab.wait("errors", lambda: [0, "error", 0] in got(tab) and [1, "error", 0] in got(tab))
        site.hub.start()
        site.publish("a", "2")
        site.publish("b", "3")
        tab.wait_for(
            "a",
            lambda: [one for one in got(tab, 0) if one[0] == "message"],
            [["message", "1"], ["message", "2"]],
        )
        tab.wait_for("b", lambda: [one for one in got(tab, 1) if one[0] == "message"], [["message", "3"]])
        assert [one for one in got(tab, 1) if one[0] == "open"] == [["open", 1]] * 2
    finally:
        leave([tab])
        site.close()


def test_other_urls_get_the_browsers_own(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run(
        """
        window.kind = (url) => {
          const one = new module.EventSource(url);
          one.close();
          return one.constructor === EventSource;
        };
        """
    )
    kind = "return kind(arguments[0])"
    hub = url_of(site, "a")
    assert tab.run(kind, hub) is False
    for other in (
        f"{site.url}/buffered",
        f"{hub}&authorization=x",
        hub.replace("match=a", "topic=a"),
        site.hub.url,
        f"{hub}&last_value=1",
    ):
        assert tab.run(kind, other) is True, other
    assert (
        tab.run(
            "const one = new module.EventSource('/x'); one.close(); return one instanceof module.EventSource"
        )
        is True
    )


def test_a_page_without_a_configuration_gets_the_browsers_own(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run("document.querySelector('[data-mercure]').remove()")
    tab.run("window.one = new module.EventSource(arguments[0])", url_of(site, "a"))
    assert tab.run("return one.constructor === EventSource") is True
    tab.wait_for("connections", site.topics, [["a"]])
    tab.run("one.close()")


def test_sources_end_with_the_connection(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run(_OPEN, [url_of(site, "a")])
    tab.wait_for("open", lambda: got(tab), [[0, "open", 1]])
    tab.run("connect().close()")
    assert got(tab) == [[0, "open", 1], [0, "error", 2]]


def test_at_another_hub_each_source_has_a_connection_of_its_own(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run(
        """
        const request = window.fetch;
        window.fetch = (url, options) => {
          const asked = new URL(url);
          asked.searchParams.delete("with");
          return request(asked, options);
        };
        """
    )
    tab.run(_OPEN, [url_of(site, "a"), url_of(site, "b")])
    tab.wait("both", lambda: sorted(got(tab)) == [[0, "open", 1], [1, "open", 1]])
    site.publish("a", "1")
    site.publish("b", "2", type="x")
    tab.wait_for("a", lambda: got(tab, 0), [["open", 1], ["message", "1"]])
    tab.wait_for("b", lambda: got(tab, 1), [["open", 1], ["x", "2"]])
    tab.run("localStorage.clear()")


def test_a_page_that_is_refused_fails_once(
    tmp_path: Path, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    site = Site(tmp_path, {"MERCURE_ANONYMOUS": "0"})
    tab = Tab(chromium(1)[0])
    try:
        tab.visit(f"{site.url}/")
        tab.run(_OPEN, [url_of(site, "a")])
        tab.wait_for("the end", lambda: got(tab), [[0, "error", 2]])
        tab.driver.get(f"{site.url}/sign-in")
        tab.visit(f"{site.url}/")
        tab.run(_OPEN, [url_of(site, "a")])  # with the cookie, although it does not ask for credentials
        tab.wait_for("open", lambda: got(tab), [[0, "open", 1]])
        site.publish("a", "1", private=True)
        tab.wait_for("a private update", lambda: got(tab)[1:], [[0, "message", "1"]])
    finally:
        leave([tab])
        site.close()
