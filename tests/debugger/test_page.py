"""The debugger in headless Chromium, with a hub as a real process."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.examples.browser import Page, end, free_ports, leave, spawn, wait_for_answer

pytestmark = pytest.mark.servers

SECRET = "a secret of the tests with more than 32 bytes"
COOKIE = "mercure_access_token"
CONTROLS = ("button", "textbox", "radio", "checkbox", "combobox", "tab")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


class Hub:
    """A hub on a free port.

    :param settings: beside the usual ones.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        (port,) = free_ports(1)
        self.origin = f"http://localhost:{port}"
        self.url = f"{self.origin}/.well-known/mercure"
        self.process = spawn(
            directory,
            "hub",
            ["-m", "mercure_hub"],
            {
                "MERCURE_LISTEN": f"127.0.0.1:{port}",
                "MERCURE_PUBLISHER_JWT_KEY": SECRET,
                "MERCURE_COOKIE_NAME": COOKIE,
                "MERCURE_TRANSPORT_URL": f"sqlite:///{directory}/hub.db",
                **settings,
            },
        )
        wait_for_answer(f"{self.origin}/healthz", self.process)

    def token(self, *topics: str, secret: str = SECRET, **claims: Any) -> str:
        detail = {
            "type": "https://mercure.rocks/authorization-detail",
            "actions": ["publish", "subscribe"],
            "topics": [{"match": topic} for topic in topics or ("*",)],
            "payload": {"name": "Ada"},
        }
        content = {
            "iss": "urn:flask-mercure",
            "aud": self.url,
            "sub": "Ada",
            "client_id": "tests",
            "iat": int(time.time()),
            "exp": int(time.time()) + 3000,
            "jti": str(uuid.uuid4()),
            "authorization_details": [detail],
            **claims,
        }
        return jwt.encode(content, secret, "HS256", headers={"typ": "at+jwt"})


class Debugger(Page):
    """The page as its user sees it."""

    def open(self, hub: Hub) -> None:
        self.driver.get(f"{hub.url}/debugger/")
        self.wait("the script has run", lambda: self.all("#matchers input"))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def fill(self, selector: str, value: str) -> None:
        self.run(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', { bubbles: true }))",
            self.one(selector),
            value,
        )

    def paste(self, token: str) -> None:
        self.click("#tab-token")
        self.fill("#pasted", token)

    def subscribe(self, *topics: str) -> None:
        self.click("#tab-subscribe")
        while len(self.all("#matchers input")) < len(topics):
            self.click("#add-matcher")
        for element, topic in zip(self.all("#matchers input"), topics, strict=True):
            element.clear()
            element.send_keys(topic)
        self.click("#connect")

    def publish(self, topic: str, data: str) -> None:
        self.click("#tab-publish")
        self.fill("#topics", topic)
        self.fill("#data", data)
        self.click("#send")

    def live(self) -> None:
        self.wait_for("the stream", lambda: self.text("#state-text"), "Live")

    def events(self) -> list[str]:
        return [element.text for element in self.all("#events pre")]

    def says(self, selector: str, words: str) -> None:
        self.wait(f"{selector} says {words!r}", lambda: words in self.text(selector))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    running = Hub(
        tmp_path_factory.mktemp("hub"), MERCURE_DEBUGGER="1", MERCURE_SUBSCRIPTIONS="1", MERCURE_ANONYMOUS="1"
    )
    yield running
    end(running.process)


@pytest.fixture
def page(hub: Hub, chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Debugger]:
    opened = Debugger(chromium(1)[0])
    opened.open(hub)
    yield opened
    assert leave([opened]) == []


def test_subscribe_and_publish_with_a_token(page: Debugger, hub: Hub) -> None:
    page.paste(hub.token())
    page.says("#verdict", "Publishing: accepted")
    page.says("#verdict", "Subscribing: accepted")
    page.subscribe("books/1")
    page.live()
    page.publish("books/1", '{"title":"Emma"}')
    page.wait_for("the event", page.events, ['{\n  "title": "Emma"\n}'])
    page.says("#published", "Published as urn:uuid:")
    assert page.text("#count") == "1"


def test_what_arrives_is_text(page: Debugger, hub: Hub) -> None:
    page.paste(hub.token(payload=HOSTILE, sub=HOSTILE, iss=HOSTILE))
    page.says("#verdict", "refused")
    page.paste(hub.token())
    page.subscribe("hostile")
    page.live()
    page.publish("hostile", HOSTILE)
    page.wait_for("the event", page.events, [HOSTILE])
    assert page.driver.title == "Mercure debugger"
    assert page.all("img") == []


def test_the_page_shows_history(page: Debugger, hub: Hub) -> None:
    page.paste(hub.token())
    for number in range(3):
        page.publish("history", f"number {number}")
        page.says("#published", "Published as")
        page.run("document.getElementById('published').replaceChildren()")
    page.click("#tab-subscribe")
    page.click('input[name="start"][value="earliest"]')
    page.subscribe("history")
    page.wait_for("all", page.events, ["number 2", "number 1", "number 0"])
    page.click("#clear")
    assert page.events() == []
    page.subscribe("history")
    page.wait_for("all again", page.events, ["number 2", "number 1", "number 0"])
    page.click("#events li:nth-child(2) button")
    page.click("#clear")
    page.click("#connect")
    page.wait_for("what came after", page.events, ["number 2"])
    page.click("#disconnect")
    page.says("#state-text", "Not subscribed")


def test_the_page_works_without_a_token(page: Debugger) -> None:
    page.click('input[name="who"][value="nothing"]')
    page.subscribe("public")
    page.live()
    page.publish("public", "x")
    page.says("#publish-problem", "401 This needs an access token")
    page.problems()  # the console tells of the 401 as well


def test_why_a_token_is_refused(page: Debugger, hub: Hub) -> None:
    for token, cause in [
        (hub.token(exp=int(time.time()) - 90), "the token expired 9"),
        (hub.token(aud="https://other.example/"), "aud is 'https://other.example/'; this hub is"),
        (hub.token(secret=SECRET + "?"), "no key of this hub has signed the token"),
        ("nonsense", "not a JWT"),
    ]:
        page.paste(token)
        page.click("#explain")
        page.says("#verdict", cause)
    page.paste(hub.token(exp=int(time.time()) - 90))
    page.says("#claims", "Expired 1 min")
    page.subscribe("x")
    page.says("#subscribe-problem", "the token expired 9")
    page.click("#subscribe-problem button")
    assert page.one("#token").is_displayed()
    page.problems()


def test_what_a_token_grants(page: Debugger, hub: Hub) -> None:
    page.paste(hub.token("books/1", "books/2"))
    page.says("#claims", "books/2")
    page.says("#claims", "Expires in 49 min")
    assert [row.text for row in page.all("#claims tbody tr")] == [
        "publish, subscribe books/1 exact",
        "publish, subscribe books/2 exact",
    ]
    assert json.loads(page.text("#claims pre")) == {"name": "Ada"}
    page.fill("#asked-topic", "books/1")
    page.click("#explain")
    page.says("#verdict", "it may publish on this topic")
    page.fill("#asked-topic", "books/3")
    page.click("#explain")
    page.says("#verdict", "it may not read private updates on this topic")


def test_the_page_explains_the_cookie(page: Debugger, hub: Hub) -> None:
    page.click("#tab-token")
    page.click("#explain")
    page.says("#verdict", "The request had no token.")
    cookie = {"name": COOKIE, "value": hub.token("a"), "path": "/.well-known/mercure", "httpOnly": True}
    page.driver.add_cookie(cookie)
    page.click("#explain")
    page.says("#verdict", "Publishing: accepted")
    page.says("#claims", '"sub": "Ada"')
    page.subscribe("a")
    page.live()
    page.publish("a", "with a cookie")
    page.wait_for("the event", page.events, ["with a cookie"])


def test_the_page_shows_who_is_connected(page: Debugger, hub: Hub) -> None:
    page.paste(hub.token())
    page.click("#tab-presence")
    page.click("#watch")
    page.wait("the page's own subscription", lambda: len(page.all("#people li")) == 1)
    page.subscribe("somewhere")
    page.live()
    page.click("#tab-presence")
    page.says("#people", "somewhere")
    page.says("#people", '"name": "Ada"')
    page.click("#tab-subscribe")
    page.click("#disconnect")
    page.click("#tab-presence")
    page.wait("it is gone", lambda: "somewhere" not in page.text("#people"))


def test_it_comes_back_after_a_restart_of_the_hub(
    tmp_path: Path, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    hub = Hub(tmp_path, MERCURE_DEBUGGER="1", MERCURE_WRITE_TIMEOUT="1")
    page = Debugger(chromium(1)[0])
    try:
        page.open(hub)
        page.paste(hub.token())
        page.subscribe("a")
        page.live()
        page.says("#state-text", "Interrupted, again in")
        page.publish("a", "while it was away")
        page.wait_for("replayed", page.events, ["while it was away"])
    finally:
        leave([page])
        end(hub.process)


def test_the_page_of_a_playground_has_a_token(
    tmp_path: Path, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    hub = Hub(tmp_path, MERCURE_PLAYGROUND="1", MERCURE_PUBLISHER_JWT_KEY="")
    page = Debugger(chromium(1)[0])
    try:
        page.open(hub)
        assert page.one("#playground").is_displayed()
        page.click("#connect")
        page.live()
        page.click("#tab-publish")
        page.click("#send")
        page.wait("the greeting", lambda: '{\n  "hello": "world"\n}' in page.events())
    finally:
        assert leave([page]) == []
        end(hub.process)
    log = (tmp_path / "hub.log").read_text()
    assert f"the debugger is at {hub.url.replace('localhost', '127.0.0.1')}/debugger/" in log
    assert "PLAYGROUND: everybody on this machine may publish and read everything here" in log


def test_with_the_keyboard_alone(page: Debugger, hub: Hub) -> None:
    page.click("#tab-subscribe")
    focused = page.driver.switch_to
    for key, expected in [
        (Keys.ARROW_RIGHT, "publish"),
        (Keys.END, "presence"),
        (Keys.ARROW_RIGHT, "subscribe"),
        (Keys.ARROW_LEFT, "presence"),
        (Keys.HOME, "subscribe"),
    ]:
        focused.active_element.send_keys(key)
        assert focused.active_element.get_attribute("aria-controls") == expected
        visible = [panel.get_attribute("id") for panel in page.all(".panel") if panel.is_displayed()]
        assert visible == [expected]
    focused.active_element.send_keys(Keys.TAB)
    assert focused.active_element.get_attribute("aria-label") == "Type of matcher"
    focused.active_element.send_keys(Keys.TAB)
    focused.active_element.send_keys("keys", Keys.ENTER)
    page.live()


def test_everything_has_a_name(page: Debugger, hub: Hub) -> None:
    """For those who hear the page: each control as the browser tells it to a screen reader."""
    page.paste(hub.token())
    page.says("#verdict", "accepted")
    for tab in ("subscribe", "publish", "token", "presence"):
        page.click(f"#tab-{tab}")
        tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        for node in tree:
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in CONTROLS:
                assert node["name"]["value"].strip(), node
    assert page.run("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_the_page_fits_the_window(width: int, page: Debugger, hub: Hub) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.paste(hub.token("https://example.com/" + "a-long-topic/" * 20))
    page.says("#verdict", "accepted")
    for tab in ("subscribe", "publish", "token", "presence"):
        page.click(f"#tab-{tab}")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth"), tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(scheme: str, page: Debugger, hub: Hub) -> None:
    """WCAG 2.2, 1.4.3: text has at least 4.5 to 1."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.paste(hub.token(exp=1))
    page.says("#verdict", "refused")
    low = page.run(
        """
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const over = (below, colour) => {
          canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1);
          canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
          return `rgb(${r} ${g} ${b})`;
        };
        const ground = (element) => {
          if (!element) return "white";
          return over(ground(element.parentElement), getComputedStyle(element).backgroundColor);
        };
        const light = (colour) => {
          const parts = colour.match(/[0-9]+/g).map((one) => one / 255)
            .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const found = [];
        for (const element of document.querySelectorAll("body *")) {
          const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
          if (!own || !element.checkVisibility()) continue;
          const below = ground(element);
          const [a, b] = [light(below), light(over(below, getComputedStyle(element).color))].sort();
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) found.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
        }
        return found;
        """
    )
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert low == []
