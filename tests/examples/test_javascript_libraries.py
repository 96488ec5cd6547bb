"""``examples/htmx`` and ``examples/turbo`` in headless Chromium, with the libraries as npm has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from markupsafe import Markup

from tests.examples.loading import load_example
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shopping(tmp_path_factory: pytest.TempPathFactory, libraries: Callable[[str], str]) -> Iterator[Served]:
    modules = libraries("htmx")
    app = load_example("htmx")
    site = Served(
        tmp_path_factory.mktemp("site"),
        lambda config: app.create_app({**config, "NODE_MODULES": modules}),
        app.mercure,
        {"MERCURE_CORS_ORIGINS": "http://localhost:* http://127.0.0.1:*"},  # as of flask mercure hub
    )
    yield site
    site.close()


@pytest.fixture(scope="module")
def turbo(libraries: Callable[[str], str]) -> str:
    return libraries("turbo")


@pytest.fixture
def votes(tmp_path: Path, turbo: str) -> Iterator[Callable[[], Served]]:
    """Serves the example."""
    running: list[Served] = []

    def serve() -> Served:
        example = load_example("turbo")

        site = Served(
            tmp_path,
            lambda config: example.create_app({**config, "NODE_MODULES": turbo}),
            example.mercure,
        )
        running.append(site)
        return site

    yield serve
    for site in running:
        site.close()


def _wait_connected(site: Served, tab: Tab, count: int = 1) -> None:
    tab.wait_for("connections", lambda: len(site.subscriptions()), count)


def test_htmx(shopping: Served, tab: Tab) -> None:
    """The app is opened by both names of this machine; the hub's URL has one of them."""
    tab.driver.get(shopping.url)
    _wait_connected(shopping, tab)
    other = tab.new()
    other.driver.get(shopping.url.replace("localhost", "127.0.0.1"))
    _wait_connected(shopping, tab, 2)

    other.driver.find_element("name", "text").send_keys("bread & <b>butter</b>\n")

    things = "return [...document.querySelectorAll('#things li')].map((one) => one.textContent)"
    for one in (tab, other):
        tab.wait_for("things", lambda one=one: one.run(things), ["bread & <b>butter</b>"])  # type: ignore[misc]
        assert one.run("return count.textContent") == "1 to buy"
    # The form is that of the answer, ready for the next thing.
    field = "return [document.activeElement.name, document.activeElement.value]"
    other.wait_for("the field", lambda: other.run(field), ["text", ""])


def test_htmx_tabs_share_a_connection(shopping: Served, tab: Tab) -> None:
    tab.driver.get(shopping.url)
    _wait_connected(shopping, tab)
    other = tab.new()
    other.driver.get(shopping.url)
    many = Markup('<p id="count" hx-swap-oob="true">many</p>')
    shopping.publish("things", many, type="htmx", private=True)
    for one in (tab, other):
        one.wait_for("count", lambda one=one: one.run("return count.textContent"), "many")  # type: ignore[misc]
    _wait_connected(shopping, tab)


@pytest.mark.parametrize("text", ["", " ", "x" * 81])
def test_things_that_are_refused(shopping: Served, text: str) -> None:
    assert shopping.app.test_client().post("/things", data={"text": text}).status_code == 422


def test_the_policy_of_the_list(shopping: Served) -> None:
    policy = shopping.app.test_client().get("/").headers["Content-Security-Policy"]
    assert f"script-src 'self'; style-src 'self'; connect-src 'self' {shopping.hub.url}; " in policy


def test_turbo(votes: Callable[[], Served], tab: Tab) -> None:
    """Two tabs have one connection, here to a hub of another origin."""
    site = votes()
    tab.driver.get(site.url)
    _wait_connected(site, tab)
    other = tab.new()
    other.driver.get(site.url)
    other.wait_for("Turbo", lambda: other.run("return typeof Turbo"), "object")
    # Turbo sends the form and shows the page that it leads to, in the same document.
    other.run("window.isSame = true; document.querySelector('[value=Plum]').click()")
    counts = "return [...document.querySelectorAll('output')].map((one) => one.textContent)"
    for one in (tab, other):
        one.wait_for("votes", lambda one=one: one.run(counts), ["0", "0", "1"])  # type: ignore[misc]
    assert other.run("return window.isSame") is True
    # Changed by the update alone: the button that has the focus keeps it.
    tab.run("document.querySelector('[value=Pear]').focus()")
    site.app.test_client().post("/votes", data={"fruit": "Pear"})
    for one in (tab, other):
        one.wait_for("votes", lambda one=one: one.run(counts), ["0", "1", "1"])  # type: ignore[misc]
    assert tab.run("return document.activeElement.value") == "Pear"
    _wait_connected(site, tab)


def test_turbo_counts_what_there_is(votes: Callable[[], Served]) -> None:
    client = votes().app.test_client()
    assert client.post("/votes", data={"fruit": "Potato"}).status_code == 422
    assert client.post("/votes").status_code == 400
