"""The chat of ``examples/chat`` in headless Chromium, with its hub and its app as real processes."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from tests.certificates import self_signed
from tests.examples.browser import ROOT, end, free_ports, spawn, wait_for_answer
from tests.examples.chat_window import Window

pytestmark = pytest.mark.servers

_APP = ROOT / "examples" / "chat" / "app.py"
_SECRET = "a secret of the tests with more than 32 bytes"


class Site:
    """A hub and the chat, on free ports.

    :param directory: for the database and the logs.
    :param certificate: paths of certificate and key; with them both speak HTTPS.
    :param lifetime: of the hub's cookie, in seconds.
    """

    def __init__(
        self, directory: Path, certificate: tuple[Path, Path] | None = None, lifetime: int = 3600
    ) -> None:
        self._directory = directory
        self._certificate = certificate
        scheme = "http" if certificate is None else "https"
        hub_port, self._port = free_ports(2)
        self._hub_listen = f"127.0.0.1:{hub_port}"
        self.hub_origin = f"{scheme}://localhost:{hub_port}"
        self.url = f"{scheme}://localhost:{self._port}"
        self._hub: subprocess.Popen[bytes] | None = None
        self.start_hub()
        self._app = self._start_app(lifetime)
        wait_for_answer(f"{self.url}/sign-in", self._app)

    def start_hub(self) -> None:
        """Start the hub, or start it again on the same port and database."""
        settings = {
            "MERCURE_LISTEN": self._hub_listen,
            "MERCURE_PUBLISHER_JWT_KEY": _SECRET,
            "MERCURE_SUBSCRIPTIONS": "1",
            "MERCURE_CORS_ORIGINS": self.url,
            "MERCURE_COOKIE_NAME": "mercure_access_token",
            "MERCURE_TRANSPORT_URL": f"sqlite:///{self._directory}/chat.db",
            "MERCURE_HISTORY_SIZE": "20000",
        }
        if self._certificate is not None:
            settings |= {
                "MERCURE_TLS_CERT": str(self._certificate[0]),
                "MERCURE_TLS_KEY": str(self._certificate[1]),
            }
        self._hub = spawn(self._directory, "hub", ["-m", "mercure_hub"], settings)
        wait_for_answer(f"{self.hub_origin}/healthz", self._hub)

    def stop_hub(self, number: signal.Signals) -> None:
        """End the hub with a signal."""
        assert self._hub is not None
        self._hub.send_signal(number)
        status = self._hub.wait(10)
        assert status == (0 if number == signal.SIGTERM else -number)

    def _start_app(self, lifetime: int) -> subprocess.Popen[bytes]:
        hub_url = f"{self.hub_origin}/.well-known/mercure"
        settings = {
            "FLASK_SECRET_KEY": "of the tests",
            "FLASK_MERCURE_URL": hub_url,
            "FLASK_MERCURE_PUBLIC_URL": hub_url,
            "FLASK_MERCURE_JWT_SECRET": _SECRET,
            "FLASK_MERCURE_COOKIE_NAME": "mercure_access_token",
            "FLASK_MERCURE_COOKIE_SECURE": "false",
            "FLASK_MERCURE_TOKEN_LIFETIME": str(lifetime),
        }
        arguments = ["-m", "flask", "--app", str(_APP), "run", "--port", str(self._port)]
        if self._certificate is not None:
            settings |= {
                "FLASK_MERCURE_COOKIE_SECURE": "true",
                "FLASK_SESSION_COOKIE_SECURE": "true",
                "FLASK_MERCURE_VERIFY_TLS": str(self._certificate[0]),
            }
            arguments += ["--cert", str(self._certificate[0]), "--key", str(self._certificate[1])]
        return spawn(self._directory, "app", arguments, settings)

    def hub_log(self) -> str:
        """What the hub has written."""
        return (self._directory / "hub.log").read_text()

    def close(self) -> None:
        """End both processes."""
        end(self._app)
        end(self._hub)


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a hub and the chat."""
    sites: list[Site] = []

    def start(**options: Any) -> Site:
        sites.append(Site(tmp_path, **options))
        return sites[-1]

    yield start
    for site in sites:
        site.close()
        assert "Traceback" not in site.hub_log(), site.hub_log()


@pytest.fixture
def site(start_site: Callable[..., Site]) -> Site:
    """A hub and the chat without TLS."""
    return start_site()


def _post(site: Site, name: str, text: str, **where: str) -> None:
    """Sign in without a browser and say something."""
    with requests.Session() as session:
        session.headers["Origin"] = site.url
        assert session.post(f"{site.url}/sign-in", data={"name": name}).status_code == 200
        answer = session.post(f"{site.url}/messages", json={"text": text, **where})
        assert answer.status_code == 201, answer.text


def test_messages_arrive_and_private_ones_only_where_they_should(
    site: Site, windows: Callable[[int], list[Window]]
) -> None:
    ada, grace, linus = windows(3)
    ada.sign_in(site, "Ada")
    grace.sign_in(site, "Grace")
    linus.sign_in(site, "Linus")

    ada.send("Hello\nall")
    for window in (ada, grace, linus):
        window.wait_texts("Hello\nall")

    ada.open("user:grace")
    ada.send("only you")
    ada.wait_texts("only you")
    grace.wait_for("unread", grace.unread, {"user:ada": 1})
    grace.open("user:ada")
    grace.wait_texts("only you")
    grace.send("and you")
    ada.wait_texts("only you", "and you")

    # What comes later has arrived, so the private messages would have, too.
    ada.open("room:lobby")
    ada.send("the end")
    linus.wait_texts("Hello\nall", "the end")
    assert linus.run("return document.querySelectorAll('#private a').length") == 0
    assert "only you" not in linus.driver.page_source
    linus.driver.refresh()
    linus.wait_live()
    linus.wait_texts("Hello\nall", "the end")
    assert linus.run("return document.querySelectorAll('#private a').length") == 0


def test_who_is_here(site: Site, windows: Callable[[int], list[Window]]) -> None:
    ada, grace = windows(2)
    ada.sign_in(site, "Ada")
    ada.wait_for("here", ada.here, ["ada"])
    grace.sign_in(site, "Grace")
    for window in (ada, grace):
        window.wait_for("here", window.here, ["ada", "grace"])

    # Two windows of one person count once, and share a connection.
    grace.driver.switch_to.new_window("tab")
    grace.driver.get(f"{site.url}/rooms/music")
    grace.wait_live()
    grace.wait_for("here", grace.here, ["grace"])
    grace.wait_for("elsewhere", grace.elsewhere, ["ada"])
    grace.driver.close()
    grace.driver.switch_to.window(grace.driver.window_handles[0])
    ada.wait_for("here", ada.here, ["ada", "grace"])

    grace.driver.find_element("css selector", "#sign-out button").click()
    grace.wait("signed out", lambda: "/sign-in" in grace.driver.current_url)
    assert [cookie["name"] for cookie in grace.driver.get_cookies()] == []
    ada.wait_for("here", ada.here, ["ada"])  # after a time in which a reload would have come back
    ada.wait_for("elsewhere", ada.elsewhere, [])


def test_unread_messages_are_counted(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    _post(site, "Grace", "long ago", room="music")
    ada.sign_in(site, "Ada")
    assert ada.unread() == {}  # what was said before the first visit is not new

    _post(site, "Grace", "one", room="workshop")
    _post(site, "Grace", "two", room="workshop")
    _post(site, "Grace", "three", to="ada")
    _post(site, "Grace", "four", room="music")
    _post(site, "Grace", "five", room="lobby")
    expected = {"room:workshop": 2, "user:grace": 1, "room:music": 1}
    ada.wait_for("unread", ada.unread, expected)
    ada.wait_texts("five")
    assert ada.driver.title.startswith("(4) lobby")

    ada.driver.refresh()
    ada.wait_for("unread", ada.unread, expected)
    ada.open("room:workshop")
    ada.wait_texts("one", "two")
    assert ada.run("return document.querySelectorAll('#messages .new').length") == 1
    ada.wait_for("unread", ada.unread, {"user:grace": 1, "room:music": 1})


def test_history_after_a_reload(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    _post(site, "Grace", "before you came", room="lobby")
    _post(site, "Grace", "for Linus alone", to="Linus")
    ada.sign_in(site, "Ada")
    ada.wait_texts("before you came")
    ada.send("now")
    ada.wait_texts("before you came", "now")
    ada.driver.get(f"{site.url}/people/grace")
    ada.wait_live()
    ada.send("privately")
    ada.wait_texts("privately")

    ada.driver.refresh()
    ada.wait_live()
    ada.wait_texts("privately")
    ada.open("room:lobby")
    ada.wait_texts("before you came", "now")
    ada.driver.back()
    ada.wait_texts("privately")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_hub_is_restarted_under_open_pages(
    site: Site, windows: Callable[[int], list[Window]], number: signal.Signals
) -> None:
    ada, grace, linus = windows(3)
    ada.sign_in(site, "Ada")
    grace.sign_in(site, "Grace")
    linus.sign_in(site, "Linus")
    ada.send("one")
    ada.open("user:grace")
    ada.send("secret one")
    ada.open("room:lobby")
    for window in (ada, grace):
        window.wait_texts("one")
        window.wait_for("here", window.here, ["ada", "grace", "linus"])

    site.stop_hub(number)
    for window in (ada, grace):
        window.wait_for("state", window.state, "offline")
    linus.driver.get("about:blank")  # after SIGKILL nobody is left who could tell that he goes
    ada.driver.find_element("id", "text").send_keys("too early", Keys.ENTER)
    ada.wait("an error", lambda: ada.driver.find_element("id", "problem").is_displayed())
    assert ada.run("return document.getElementById('text').value") == "too early"

    site.start_hub()
    _post(site, "Linus", "two", room="lobby")  # before the pages are back, or at least at that time
    _post(site, "Linus", "secret two", to="Ada")
    ada.driver.find_element("id", "text").send_keys(Keys.ENTER)
    for window in (ada, grace):
        window.wait_live()
    grace.send("three")
    for window in (ada, grace):
        window.wait_texts("one", "two", "too early", "three")
        window.wait_for("here", window.here, ["ada", "grace"])
        window.wait_for("elsewhere", window.elsewhere, [])
    ada.open("user:linus")
    ada.wait_texts("secret two")
    grace.open("user:ada")
    grace.wait_texts("secret one")

    for window in (ada, grace):
        window.driver.refresh()
        window.wait_live()
        window.open("room:lobby")
        window.wait_texts("one", "two", "too early", "three")
        window.wait_for("here", window.here, ["ada", "grace"])


def test_nothing_is_lost_while_rooms_are_changed(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    expected = [f"number {index}" for index in range(60)]
    with requests.Session() as session:
        session.headers["Origin"] = site.url
        session.post(f"{site.url}/sign-in", data={"name": "Grace"})

        def talk() -> None:
            for text in expected:
                session.post(f"{site.url}/messages", json={"text": text, "room": "lobby"})

        talking = threading.Thread(target=talk)
        talking.start()
        while talking.is_alive():  # each change replaces the stream
            ada.open("room:music")
            ada.open("room:lobby")
        talking.join()
    ada.wait_texts(*expected)


def test_the_cookie_is_renewed_before_the_hub_ends_the_stream(
    start_site: Callable[..., Site], windows: Callable[[int], list[Window]]
) -> None:
    site = start_site(lifetime=4)
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    requested = "return performance.getEntriesByType('resource').map((one) => one.name)"
    ada.wait("two renewals", lambda: sum("/refresh/" in url for url in ada.run(requested)) >= 2)
    ada.wait_live()
    _post(site, "Grace", "still there?", room="lobby")
    ada.wait_texts("still there?")
    ada.wait_for("here", ada.here, ["ada"])


def test_a_page_whose_cookie_is_gone(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    ada.driver.execute_cdp_cmd(
        "Network.deleteCookies",
        {"name": "mercure_access_token", "url": f"{site.hub_origin}/.well-known/mercure"},
    )
    site.stop_hub(signal.SIGTERM)
    site.start_hub()
    _post(site, "Grace", "meanwhile", room="lobby")
    ada.wait_texts("meanwhile")  # the hub refused, the page asked the app for another cookie
    ada.wait_live()

    ada.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    site.stop_hub(signal.SIGTERM)
    site.start_hub()
    ada.wait_for("state", ada.state, "refused")
    assert ada.driver.find_element("css selector", "#state a").is_displayed()


def test_who_is_signed_out_keeps_what_was_not_sent(
    site: Site, windows: Callable[[int], list[Window]]
) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada", "/rooms/music")
    # The session has ended; a mark that says so would have told the page at once.
    for cookie in ada.driver.execute_cdp_cmd("Network.getAllCookies", {})["cookies"]:
        if not cookie["name"].startswith("mercure_identity"):
            named = {name: cookie[name] for name in ("name", "domain", "path")}
            ada.driver.execute_cdp_cmd("Network.deleteCookies", named)
    ada.driver.find_element("id", "text").send_keys("half a thought", Keys.ENTER)
    ada.wait("a problem", lambda: "signed out" in ada.driver.find_element("id", "problem").text)
    site.stop_hub(signal.SIGTERM)
    site.start_hub()
    ada.wait_for("state", ada.state, "refused")
    assert not ada.driver.find_element("id", "send").is_enabled()

    ada.driver.find_element("css selector", "#state a").click()
    ada.wait("the form", lambda: "/sign-in" in ada.driver.current_url)
    ada.sign_in(site, "Ada", "/rooms/music")
    assert ada.run("return document.getElementById('text').value") == "half a thought"
    ada.driver.find_element("id", "text").send_keys(Keys.ENTER)
    ada.wait_texts("half a thought")
    ada.driver.refresh()
    ada.wait_live()
    assert ada.run("return document.getElementById('text').value") == ""


def test_the_network_goes_and_comes_back(site: Site, windows: Callable[[int], list[Window]]) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    ada.driver.execute_cdp_cmd("Network.enable", {})
    ada.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    ada.wait_for("state", ada.state, "offline")
    shown = "return document.getElementById('state').textContent"
    ada.wait("the countdown", lambda: str(ada.run(shown)).startswith("Offline, again in "))
    _post(site, "Grace", "meanwhile", room="lobby")
    ada.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})
    ada.wait_texts("meanwhile")
    ada.wait_live()


def test_more_tabs_than_the_browser_has_connections(
    site: Site, windows: Callable[[int], list[Window]]
) -> None:
    """Six to a host over HTTP/1.1, and all tabs share one, whatever room they show."""
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    for number in range(8):
        ada.driver.switch_to.new_window("tab")
        ada.driver.get(f"{site.url}/rooms/{('lobby', 'workshop')[number % 2]}")
        ada.wait_live()
    ada.send("from the last tab")
    ada.driver.switch_to.window(ada.driver.window_handles[2])
    ada.wait_texts("from the last tab")


def test_text_is_text_and_nothing_comes_from_elsewhere(
    site: Site, windows: Callable[[int], list[Window]]
) -> None:
    [ada] = windows(1)
    ada.sign_in(site, "Ada")
    attack = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    ada.send(attack)
    ada.wait_texts(attack)
    assert ada.run("return document.querySelectorAll('#messages img, #messages script').length") == 0
    assert ada.driver.title.startswith("lobby")
    requested = ada.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(requested) > 3
    assert all(url.startswith((f"{site.url}/", f"{site.hub_origin}/")) for url in requested)


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone(site: Site, windows: Callable[[int], list[Window]], width: int) -> None:
    [ada] = windows(1)
    size = {"width": width, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    ada.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def fits() -> bool:
        inside: bool = ada.run(
            "return document.documentElement.scrollWidth <= innerWidth"
            " && document.getElementById('log')?.scrollWidth <= innerWidth"
            " && document.getElementById('send').getBoundingClientRect().bottom <= innerHeight"
        )
        return inside

    ada.sign_in(site, "Ada Augusta King-Noel")
    _post(site, "Wolfgang Amadeus Mozart", "https://example.com/" + "a" * 300, room="lobby")
    ada.wait("the message", lambda: len(ada.texts()) == 1)
    assert fits()
    # A drawer that is closed cannot be reached; one that is open has the focus, and Escape closes it.
    visible = "return getComputedStyle(document.getElementById(arguments[0])).visibility"
    assert ada.run(visible, "side") == ada.run(visible, "people") == "hidden"
    ada.driver.find_element("css selector", "button[data-panel=side]").click()
    assert ada.run("return document.activeElement.id") == "side"
    assert fits()
    ada.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    ada.wait_for("the drawer", lambda: ada.run(visible, "side"), "hidden")
    ada.driver.find_element("css selector", "button[data-panel=people]").click()
    ada.wait_for("here", ada.here, ["ada augusta king-noel"])
    assert fits()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of a certificate and of its key."""
    both = self_signed(tmp_path_factory.mktemp("certificate"))
    return both, both


def test_over_https(
    start_site: Callable[..., Site],
    windows: Callable[[int], list[Window]],
    certificate: tuple[Path, Path],
) -> None:
    site = start_site(certificate=certificate)
    ada, grace = windows(2)
    ada.sign_in(site, "Ada")
    grace.sign_in(site, "Grace")
    assert all(cookie["secure"] for cookie in ada.driver.get_cookies())
    ada.wait_for("here", ada.here, ["ada", "grace"])
    ada.send("over TLS")
    grace.wait_texts("over TLS")
    ada.open("user:grace")
    ada.send("privately")
    grace.wait_for("unread", grace.unread, {"user:ada": 1})

    site.stop_hub(signal.SIGKILL)
    site.start_hub()
    for window in (ada, grace):
        window.wait_live()
    grace.open("user:ada")
    grace.wait_texts("privately")
    grace.send("back again")
    ada.wait_texts("privately", "back again")
    ada.wait_for("here", ada.here, ["ada", "grace"])
