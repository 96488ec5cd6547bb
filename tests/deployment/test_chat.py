"""The chat as people have it: behind a proxy, in browsers, with a hub that supervisord keeps alive."""

from __future__ import annotations

import resource
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from urllib3.exceptions import InsecureRequestWarning

from tests.deployment.front import Front, free_ports, wait_until
from tests.deployment.nginx import running_nginx
from tests.deployment.site import ROOT, make_sources, readable_folder, running_apache
from tests.deployment.supervision import Supervised, supervised_hub
from tests.examples.browser import leave
from tests.examples.chat_window import Window
from tests.needs import need

pytestmark = pytest.mark.servers

STREAMS = 1000
_LOBBY = "match=" + quote("/rooms/lobby", safe="")
_APPLICATION = """
import pathlib
import runpy
import sys

folder = pathlib.Path(__file__).parent
sys.path.insert(0, str(folder))

from chat.app import create_app

settings = runpy.run_path(str(folder / "settings.py"))
application = create_app(
    {name: value for name, value in settings.items() if name.isupper()}
    | {"SECRET_KEY": "of the tests", "SESSION_COOKIE_SECURE": True}
)
"""


class Person(Window):
    """A window that comes through the proxy."""

    def enter(self, front: Front, name: str) -> None:
        """Sign in and wait for the stream."""
        self.driver.get(f"https://127.0.0.1:{front.https}/sign-in")
        self.driver.find_element("id", "name").send_keys(name, Keys.ENTER)
        self.wait("signed in", lambda: "/rooms/" in self.driver.current_url)
        self.wait_live()


@pytest.fixture(scope="module", params=["apache", "nginx"])
def front(request: pytest.FixtureRequest, hub_port: int) -> Iterator[tuple[Front, Path]]:
    """The proxy with the chat behind it: Apache with mod_wsgi, nginx with gunicorn; and the chat's folder."""
    need("supervisor", "chromium", "chromium-driver", *(["nginx"] if request.param == "nginx" else []))
    with readable_folder() as shop:
        if request.param == "apache":
            (shop / "venv").symlink_to(request.getfixturevalue("environment"))
        make_sources(shop)
        (shop / "wsgi.py").write_text(_APPLICATION)
        ignored = shutil.ignore_patterns("instance", "__pycache__")
        shutil.copytree(ROOT / "examples" / "chat", shop / "chat", ignore=ignored)
        running = running_apache if request.param == "apache" else running_nginx
        with running(shop, hub_port) as one:
            yield one, shop


@pytest.fixture(scope="module")
def hub_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def hub(front: tuple[Front, Path], hub_port: int, folder: Path) -> Iterator[Supervised]:
    """The hub, and who starts it again."""
    with supervised_hub(folder, front[1], hub_port, front[0].public_url) as running:
        yield running


@pytest.fixture
def people(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[list[Person]]:
    """Two browsers; checks that no page had a problem."""
    opened = [Person(driver) for driver in chromium(2)]
    yield opened
    assert leave(opened) == []


class Guest:
    """Somebody without a browser.

    :param front: where the chat is.
    """

    def __init__(self, front: Front, name: str) -> None:
        self._url = f"https://127.0.0.1:{front.https}"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = False
        self.session.headers["Origin"] = self._url
        # A connection that is kept belongs to one process of Apache; once streams have all the threads of
        # that process, nobody answers on it.
        self.session.headers["Connection"] = "close"
        assert self._send("/sign-in", data={"name": name}).status_code == 200

    def say(self, text: str) -> bool:
        """Whether the chat took it: it says so when the hub is away."""
        return self._send("/messages", json={"text": text, "room": "lobby"}).status_code == 201

    def cookie(self) -> str:
        return "; ".join(f"{one.name}={one.value}" for one in self.session.cookies)

    def _send(self, path: str, **content: object) -> requests.Response:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            return self.session.post(self._url + path, timeout=60, **content)  # type: ignore[arg-type]


def test_two_windows_talk_and_the_hub_is_killed(
    front: tuple[Front, Path], hub: Supervised, people: list[Person]
) -> None:
    site, (ada, grace) = front[0], people
    ada.enter(site, "Ada")
    grace.enter(site, "Grace")
    ada.send("one")
    grace.wait_texts("one")
    grace.send("two")
    for window in people:
        window.wait_texts("one", "two")
        window.wait_for("here", window.here, ["ada", "grace"])
    guest = Guest(site, "Linus")
    assert guest.say("before")

    killed = hub.kill()
    wait_until(lambda: guest.say("after"), "the hub does not come back", 20)
    assert hub.pid not in (0, killed)
    for window in people:
        window.wait_live()
    ada.send("three")
    for window in people:
        window.wait_texts("one", "two", "before", "after", "three")
        window.wait_for("here", window.here, ["ada", "grace"])
    assert "Traceback" not in hub.log()


def test_the_site_answers_beside_a_thousand_streams(front: tuple[Front, Path], hub: Supervised) -> None:
    """Each stream holds a thread of Apache; a page takes about the time that it took before."""
    site = front[0]
    guest = Guest(site, "Linus")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * STREAMS)), hard))
    try:
        with ExitStack() as stack:
            before = _page_time(site)
            streams = [
                stack.enter_context(site.follow(_LOBBY, Cookie=guest.cookie())) for _ in range(STREAMS)
            ]
            assert {stream.response.status for stream in streams} == {200}
            assert _page_time(site) < max(5 * before, 0.25)
            assert guest.say("hello, all")
            for stream in streams:
                assert "hello, all" in stream.next().data
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _page_time(site: Front) -> float:
    """Seconds for a page of the application, in the middle of some."""
    times = []
    for _ in range(9):
        started = time.monotonic()
        assert site.fetch("/sign-in")[0] == 200
        times.append(time.monotonic() - started)
    return statistics.median(times)
