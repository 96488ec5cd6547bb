"""The progress of jobs in real workers of Celery and RQ, which fork for each job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flask_mercure import Mercure, Subscription
from tests.engines import RedisServer
from tests.flask_mercure.jobs import PATIENCE, Worker, working
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub

pytestmark = pytest.mark.minutes

mercure = Mercure()


@pytest.fixture(scope="module", params=["celery", "rq"])
def worker(
    request: pytest.FixtureRequest,
    valkey_engine: RedisServer,
    hub: RunningHub,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    broker = f"redis://{valkey_engine.host}:{valkey_engine.port}/{1 if request.param == 'rq' else 2}"
    with working(request.param, broker, hub.url, hub.secret, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


def read(events: Subscription) -> dict[str, Any]:
    event = events.wait(PATIENCE)
    assert event.type == "progress"
    data: dict[str, Any] = event.json()
    return data


def test_a_job_tells_how_it_goes_on(worker: Worker, hub: RunningHub, request: pytest.FixtureRequest) -> None:
    topic = f"jobs/{request.node.name}"
    with app_on(hub, mercure), mercure.subscribe(topic, "earliest") as events:
        worker.start(topic, 2)
        assert read(events) == {"state": "running", "value": 0, "total": 2, "label": None}
        worker.lead(topic, "step first")
        assert read(events) == {"state": "running", "value": 1, "total": 2, "label": "first"}
        worker.lead(topic, "step second", "end")
        update = read(events)
        if update["state"] == "running":  # it had the time to tell of the step
            update = read(events)
        assert update == {"state": "done", "value": 2, "total": 2, "label": "second", "result": "/report"}


def test_a_job_that_fails(worker: Worker, hub: RunningHub, request: pytest.FixtureRequest) -> None:
    """The worker knows why, the subscribers do not."""
    topic = f"jobs/{request.node.name}"
    with app_on(hub, mercure):
        worker.lead(topic, "fail")
        with mercure.subscribe(topic, "earliest") as events:
            worker.start(topic)
            assert read(events)["state"] == "running"
            assert read(events) == {
                "state": "failed", "value": 0, "total": None, "label": None, "message": "The job has failed.",
            }  # fmt: skip
            worker.start(topic)  # the queue tries it again
            assert read(events)["state"] == "running"
            worker.lead(topic, "end")
            assert read(events)["state"] == "done"
