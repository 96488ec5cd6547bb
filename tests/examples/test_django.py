"""``examples/django`` in headless Chromium: a site that is no Flask app, on a real hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.examples.browser import ROOT, Page, end, free_ports, spawn, wait_for_answer, windows_of
from tests.examples.page_site import SECRET, HubProcess

pytestmark = pytest.mark.servers

LIST = "return [...document.querySelectorAll('#orders button')].map((one) => one.textContent)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the site."""
    folder = tmp_path_factory.mktemp("site")
    hub_port, port = free_ports(2)
    url = f"http://localhost:{port}"
    hub = HubProcess(folder, hub_port, {"MERCURE_CORS_ORIGINS": url})
    settings = {"HUB_URL": hub.url, "HUB_SECRET": SECRET, "ORDERS_DATA": str(folder / "data")}
    program = str(ROOT / "examples" / "django" / "orders.py")
    process = spawn(folder, "site", ["-W", "error", program, f"localhost:{port}"], settings)
    try:
        wait_for_answer(url, process)
        yield url
    finally:
        end(process)
        hub.close()
        assert "Traceback" not in Path(folder / "site.log").read_text()


@pytest.fixture
def windows(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Callable[[int], list[Page]]]:
    with windows_of(Page, chromium) as several:
        yield several


def sign_in(page: Page, site: str, name: str) -> None:
    page.driver.get(site)
    page.driver.find_element(By.NAME, "name").send_keys(f"{name}\n")
    page.wait_for("the orders", lambda: page.run(LIST), ["Ulysses: new"])


def test_what_is_saved_is_read_by_its_owner_alone(site: str, windows: Callable[[int], list[Page]]) -> None:
    ada, grace = windows(2)
    sign_in(ada, site, "ada")
    sign_in(grace, site, "grace")
    ada.driver.find_element(By.CSS_SELECTOR, "#orders button").click()
    ada.wait_for("the paid order", lambda: ada.run(LIST), ["Ulysses: paid"])
    ada.driver.find_element(By.NAME, "title").send_keys("Dubliners <b>\n")
    ada.wait_for("the new order", lambda: ada.run(LIST), ["Ulysses: paid", "Dubliners <b>: new"])
    assert grace.run(LIST) == ["Ulysses: new"]
    grace.driver.refresh()
    assert grace.run(LIST) == ["Ulysses: new"]
    ada.driver.refresh()
    assert ada.run(LIST) == ["Ulysses: paid", "Dubliners <b>: new"]


def test_the_cookie_is_renewed_and_taken(site: str) -> None:
    with requests.Session() as browser:
        form = browser.get(site, timeout=10).text
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[0]
        entered = browser.post(
            f"{site}/login", {"name": "joan", "csrfmiddlewaretoken": token}, allow_redirects=False, timeout=10
        )
        assert "__Secure-mercure_access_token=ey" in entered.headers["Set-Cookie"]
        assert browser.post(f"{site}/renew", timeout=10).status_code == 403
        script = {"X-Requested-With": "mercure"}
        renewed = browser.post(f"{site}/renew", headers=script, timeout=10)
        assert renewed.status_code == 204
        assert "__Secure-mercure_access_token=ey" in renewed.headers["Set-Cookie"]
        assert "HttpOnly" in renewed.headers["Set-Cookie"]
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(site, timeout=10).text)[0]
        left = browser.post(
            f"{site}/logout", {"csrfmiddlewaretoken": token}, allow_redirects=False, timeout=10
        )
        assert "__Secure-mercure_access_token=;" in left.headers["Set-Cookie"]
        assert "Max-Age=0" in left.headers["Set-Cookie"]
        out = browser.post(f"{site}/renew", headers=script, allow_redirects=False, timeout=10)
        assert out.status_code == 302


def test_a_user_changes_no_order_of_others(site: str, windows: Callable[[int], list[Page]]) -> None:
    (page,) = windows(1)
    sign_in(page, site, "mallory")
    status = page.run(
        "const body = new FormData(document.getElementById('new')); body.set('state', 'stolen');"
        "return fetch('/orders/1', { method: 'POST', body }).then(({ status }) => status)"
    )
    assert status == 404
