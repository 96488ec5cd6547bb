"""A job that tells its progress, in workers of Celery and RQ on a Valkey; tests lead it step by step.

The module is also what the workers load: ``HUB``, ``SECRET`` and ``BROKER`` are in their environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery  # type: ignore[import-untyped]
import redis
import rq
from flask import Flask, has_app_context

from flask_mercure import Mercure

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60

mercure = Mercure()
app = Flask("jobs")
app.config.update(
    MERCURE_URL=os.environ.get("HUB", "http://127.0.0.1:9/"),
    MERCURE_JWT_SECRET=os.environ.get("SECRET", "x" * 40),
)
mercure.init_app(app)


def work(topic: str, total: int | None) -> None:
    """Do what the test says, word by word: ``step LABEL``, ``fail``, ``end``."""
    leader = redis.Redis.from_url(os.environ["BROKER"], decode_responses=True)
    with mercure.progress(topic, total) as step:
        while True:
            said: Any = leader.blpop([f"lead:{topic}"], timeout=PATIENCE)
            word, _, label = said[1].partition(" ")
            match word:
                case "step":
                    step(label=label)
                case "fail":
                    raise RuntimeError("the password is secret")
                case "end":
                    step.result = "/report"
                    return


class FlaskTask(celery.Task):  # type: ignore[misc]
    """As Flask's documentation has it."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        with app.app_context():
            return self.run(*args, **kwargs)


tasks = celery.Celery("jobs", task_cls=FlaskTask, broker=os.environ.get("BROKER"), set_as_current=False)
tasks.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@tasks.task(name="work", ignore_result=True)  # type: ignore[untyped-decorator]
def celery_work(topic: str, total: int | None) -> None:
    assert has_app_context()
    work(topic, total)


def rq_work(topic: str, total: int | None) -> None:
    with app.app_context():
        work(topic, total)


_COMMANDS = {
    "celery": [
        *(
            "-m",
            "celery",
            "-A",
            "tests.flask_mercure.jobs:tasks",
            "worker",
            "--pool=prefork",
            "--concurrency=1",
        ),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ],
    "rq": [
        *("-c", "import os, redis, rq; connection = redis.Redis.from_url(os.environ['BROKER'])"),
    ],
}
_COMMANDS["rq"][-1] += "; rq.Worker(['default'], connection=connection).work()"


class Worker:
    """A worker of a queue, in processes of its own, and who leads its jobs.

    :param kind: ``celery`` or ``rq``.
    :param broker: URL of the Valkey.
    :param hub: its URL.
    :param secret: its key.
    :param folder: for the log.
    """

    def __init__(self, kind: str, broker: str, hub: str, secret: str, folder: Path) -> None:
        self._kind = kind
        self._broker = broker
        self._leader = redis.Redis.from_url(broker, decode_responses=True)
        self._log = folder / f"{kind}.log"
        environment = {
            "BROKER": broker,
            "HUB": hub,
            "SECRET": secret,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *_COMMANDS[kind]],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def start(self, topic: str, total: int | None = None) -> None:
        """Enqueue a job."""
        if self._kind == "rq":
            connection = redis.Redis.from_url(self._broker)
            rq.Queue(connection=connection).enqueue(rq_work, topic, total)
            connection.close()
        else:
            with tasks.connection_for_write(self._broker) as connection:
                celery_work.apply_async((topic, total), connection=connection)

    def lead(self, topic: str, *words: str) -> None:
        """Tell a job what to do."""
        for word in words:
            self._leader.rpush(f"lead:{topic}", word)

    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self._leader.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def working(kind: str, broker: str, hub: str, secret: str, folder: Path) -> Iterator[Worker]:
    """A worker for the length of a ``with`` block; see :class:`Worker`."""
    worker = Worker(kind, broker, hub, secret, folder)
    try:
        yield worker
    finally:
        worker.close()
