"""The list of stock: a change that is saved while there is no hub arrives when there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flask_mercure.cli import mercure
from flask_mercure.database import outbox_stats
from flask_mercure.state import state_of
from tests.examples.loading import load_example
from tests.examples.page_site import Served, Tab
from tests.hub.running import SECRET, running_hub


@pytest.fixture
def example() -> ModuleType:
    return load_example("outbox")


@pytest.mark.minutes
def test_what_is_saved_without_a_hub_arrives_later(folder: Path, example: ModuleType) -> None:
    with running_hub(folder, anonymous=1) as hub:
        config = {
            "DATABASE": f"sqlite:///{folder}/stock.db",
            "MERCURE_URL": hub.url,
            "MERCURE_JWT_SECRET": SECRET,
            "MERCURE_RELAY_THREAD": False,
        }
        app = example.create_app(config)
        client = app.test_client()
        for by in ("1", "1", "-1"):
            assert client.post("/items/2", data={"by": by}).status_code == 302
        assert outbox_stats(app).waiting == 6  # with the three items of the beginning
        assert "this page was made: 6" in client.get("/").text
        stream = hub.subscribe({"match": "stock"})
        result = app.test_cli_runner().invoke(mercure, ["relay", "--once"])
        assert result.output.startswith("6 sent"), result.output
        sent = [json.loads(data) for data in stream.take(6)]
        assert sorted(one["id"] for one in sent[:3]) == [1, 2, 3]
        assert sent[3:] == [{"id": 2, "count": count} for count in (1, 2, 1)]
        assert "this page was made: 0" in client.get("/").text
        state_of(app).publisher.close()
        app.config["MERCURE_OUTBOX"].engine.dispose()


@pytest.fixture
def stock(tmp_path: Path, example: ModuleType) -> Iterator[Served]:
    database = f"sqlite:///{tmp_path}/stock.db"
    site = Served(
        tmp_path,
        lambda config: example.create_app({**config, "DATABASE": database}),
        example.mercure,
        {"MERCURE_ANONYMOUS": "1"},
    )
    yield site
    with site.app.app_context():
        site.mercure.flush()
    site.close()


@pytest.mark.servers
def test_the_hub_is_restarted_between_two_pages(stock: Served, tab: Tab) -> None:
    counts = "return [...document.querySelectorAll('output')].map((one) => one.textContent)"
    tab.driver.get(stock.url)
    tab.wait_for("connections", stock.topics, [["stock"]])
    tab.run("window.isSame = true")
    other = tab.new()
    other.driver.get(stock.url)
    other.run("document.querySelectorAll('button[value=\"1\"]')[1].click()")
    tab.wait_for("counts", lambda: tab.run(counts), ["0", "1", "0"])

    stock.hub.kill()
    for wanted in ("2", "3"):
        other.run("document.querySelectorAll('button[value=\"1\"]')[1].click()")
        other.wait_for("counts", lambda: other.run(counts), ["0", wanted, "0"])
    assert tab.run(counts) == ["0", "1", "0"]
    stock.hub.start()
    tab.wait_for("counts", lambda: tab.run(counts), ["0", "3", "0"])
    assert tab.run("return window.isSame") is True
