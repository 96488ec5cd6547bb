"""Updates in the background of processes that others fork and end: none is lost at their end.

The hub asks to wait for an hour, and takes what comes after that: only the end of the process can be what
sends it.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flask_mercure.fake_hub import SECRET, Answer, FakeHub, running

pytestmark = pytest.mark.minutes

APP = """
import os, sys
from flask import Flask
from flask_mercure import Mercure

mercure = Mercure()
app = Flask("worker")
app.config.update(MERCURE_URL=os.environ["HUB"], MERCURE_JWT_SECRET=os.environ["SECRET"],
                  MERCURE_ON_FAILURE="background")
mercure.init_app(app)

def publish(name):
    with app.app_context():
        mercure.publish("a", name)
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        hub.answers = [Answer(b"not now", 503, headers={"Retry-After": "3600"}), Answer()]
        yield hub


def run(program: str, hub: FakeHub, folder: Path, *arguments: str) -> str:
    """Run a program that has the app; what it writes."""
    (folder / "worker.py").write_text(APP)
    (folder / "program.py").write_text(textwrap.dedent(program))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", *(arguments or ("program.py",))],
        cwd=folder,
        env={"HUB": hub.url, "SECRET": SECRET, "PYTHONPATH": f"{Path.cwd()}:{folder}", "PATH": ""},
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    return said


def arrived(hub: FakeHub) -> set[str]:
    """What the hub has taken: the first request is the one that it turned down."""
    return {dict(request.pairs)["data"] for request in hub.received[1:]}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_background_queue_empties_in_a_child_of_multiprocessing(
    hub: FakeHub, tmp_path: Path, method: str
) -> None:
    program = """
    import multiprocessing, sys
    import worker

    if __name__ == "__main__":
        child = multiprocessing.get_context(sys.argv[1]).Process(target=worker.publish, args=("child",))
        child.start()
        child.join()
        sys.exit(child.exitcode)
    """
    run(program, hub, tmp_path, "program.py", method)
    assert arrived(hub) == {"child"}


def test_background_queues_of_a_parent_and_its_multiprocessing_child_empty(
    hub: FakeHub, tmp_path: Path
) -> None:
    program = """
    import multiprocessing, sys
    import worker

    if __name__ == "__main__":
        worker.publish("parent")
        child = multiprocessing.get_context("fork").Process(target=worker.publish, args=("child",))
        child.start()
        child.join()
        sys.exit(child.exitcode)
    """
    run(program, hub, tmp_path)
    assert arrived(hub) == {"parent", "child"}


def test_flush_before_os_exit(hub: FakeHub, tmp_path: Path) -> None:
    program = """
    import os, sys
    import worker

    child = os.fork()
    if child == 0:
        worker.publish("child")
        os._exit(0 if worker.mercure.flush() else 1)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
    """
    run(program, hub, tmp_path)
    assert arrived(hub) == {"child"}


def test_flush_returns_after_its_timeout(tmp_path: Path) -> None:
    program = """
    import os
    import worker

    assert worker.mercure.flush(0)
    worker.publish("a")
    assert not worker.mercure.flush(0.2)
    os._exit(0)
    """
    with running() as hub:
        hub.answers = [Answer(b"no", 503)]
        run(program, hub, tmp_path)


def test_background_queue_survives_a_fork_without_hooks(hub: FakeHub, tmp_path: Path) -> None:
    """As that of uWSGI: the child finds the parent's thread and locks, and must not use them."""
    program = """
    import ctypes, os, sys
    import worker

    worker.publish("parent")
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        worker.publish("child")
        os._exit(0 if worker.mercure.flush() else 1)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
    """
    run(program, hub, tmp_path)
    assert arrived(hub) == {"parent", "child"}


def test_background_queue_empties_in_a_celery_worker(hub: FakeHub, tmp_path: Path) -> None:
    """The process of a task ends when the worker is told to."""
    (tmp_path / "queue").mkdir()
    (tmp_path / "tasks.py").write_text(
        textwrap.dedent("""
        import celery
        import worker

        folder = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "queue"}
        tasks = celery.Celery("tasks", broker="filesystem://")
        tasks.conf.update(broker_transport_options=folder, worker_hijack_root_logger=False)

        @tasks.task
        def publish(name):
            worker.publish(name)

        @tasks.task
        def end():
            tasks.control.shutdown()
        """)
    )
    program = """
    import subprocess, sys
    import tasks

    tasks.publish.delay("task")
    tasks.end.delay()
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", "--concurrency=1"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    sys.exit(subprocess.run([*command, *quiet], timeout=100).returncode)
    """
    run(program, hub, tmp_path)
    assert arrived(hub) == {"task"}


def test_background_queue_empties_in_an_rq_job(hub: FakeHub, tmp_path: Path) -> None:
    program = """
    import threading
    import fakeredis, redis, rq
    import worker

    class Client(redis.Redis):
        def client_info(self):  # fakeredis has it in another form
            return {"addr": "127.0.0.1"}

    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = Client(port=server.server_address[1])
    queue = rq.Queue(connection=connection)
    jobs = [queue.enqueue(worker.publish, f"job {number}") for number in range(3)]
    assert rq.Worker([queue], connection=connection).work(burst=True)
    assert all(job.is_finished for job in jobs)
    """
    run(program, hub, tmp_path)
    assert arrived(hub) == {"job 0", "job 1", "job 2"}


def test_extension_imports_without_os_fork(hub: FakeHub, tmp_path: Path) -> None:
    """On Windows there are none."""
    program = """
    import os
    del os.register_at_fork, os.fork
    import flask_mercure
    import flask_mercure.database.outbox
    """
    run(program, hub, tmp_path)
