"""The list of stock: a change that is saved while there is no hub arrives when there is one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from flask_mercure.cli import mercure
from flask_mercure.database import outbox_stats
from flask_mercure.state import state_of
from tests.examples.loading import load_example
from tests.hub.running import SECRET, running_hub

pytestmark = pytest.mark.minutes


@pytest.fixture
def example() -> ModuleType:
    return load_example("outbox")


def test_what_is_saved_without_a_hub_arrives_later(folder: Path, example: ModuleType) -> None:
    with running_hub(folder, anonymous=1) as hub:
        config = {"MERCURE_URL": hub.url, "MERCURE_JWT_SECRET": SECRET}
        app = example.create_app(f"sqlite:///{folder}/stock.db", config)
        client = app.test_client()
        for by in ("1", "1", "-1"):
            assert client.post("/items/2", data={"by": by}).status_code == 302
        assert outbox_stats(app).waiting == 6  # with the three items of the beginning
        assert "6 updates wait" in client.get("/").text
        stream = hub.subscribe({"match": "stock/2"})
        result = app.test_cli_runner().invoke(mercure, ["relay", "--once"])
        assert result.output.startswith("6 sent"), result.output
        assert [
            f'"count": {count}' in data for count, data in zip((0, 1, 2, 1), stream.take(4), strict=True)
        ] == [True] * 4
        assert "0 updates wait" in client.get("/").text
        state_of(app).publisher.close()
        app.extensions["example.engine"].dispose()
