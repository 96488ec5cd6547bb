"""How log lines look, where they go, and when: one line for each event, in order, none twice."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from mercure_hub.server import logs
from mercure_hub.server.access_log import AccessLog, InfoLog
from tests.server.test_access_log import TOKEN


@pytest.fixture
def restored() -> Iterator[None]:
    """The logger ``hub`` is as before after the test."""
    logger = logging.getLogger("mercure_hub")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


class TestLines:
    @pytest.fixture
    def path(self, tmp_path: Path, restored: None) -> Path:
        return tmp_path / "hub.log"

    def test_an_access_line_as_text(self, path: Path) -> None:
        logs.configure("info", "text", str(path))
        AccessLog().write("192.0.2.1", "GET", b"/hub?topic=a&authorization=" + TOKEN.encode(), 200, 0.00123)
        assert path.read_text().endswith(
            ' INFO    192.0.2.1 "GET /hub?topic=a&authorization=[redacted]" 200 1.2 ms\n'
        )

    def test_an_access_line_as_json(self, path: Path) -> None:
        logs.configure("info", "json", str(path))
        AccessLog().write("192.0.2.1", "POST", b"/hub?jwt=" + TOKEN.encode(), 401, 0.00123)
        AccessLog().write_refused("192.0.2.1", 400, 'This is not HTTP/1.1: "\n\u2028\N{SNOWMAN}\ud800.')
        first, second = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        assert first | {"time": ""} == {
            "time": "",
            "level": "info",
            "logger": "mercure_hub.access",
            "message": '192.0.2.1 "POST /hub?jwt=[redacted]" 401 1.2 ms',
            "peer": "192.0.2.1",
            "method": "POST",
            "target": "/hub?jwt=[redacted]",
            "status": 401,
            "ms": 1.2,
        }
        assert second["status"] == 400
        assert "\N{SNOWMAN}" in second["message"]
        assert TOKEN not in path.read_text()

    def test_an_exception_as_json_is_one_line(self, path: Path) -> None:
        logs.configure("info", "json", str(path))
        try:
            raise RuntimeError('broken "\n"')
        except RuntimeError:
            logging.getLogger("mercure_hub.server").exception("failed %s", "here")
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["message"] == "failed here"
        assert "RuntimeError" in json.loads(line)["exception"]

    def test_lines_below_the_level_are_not_written(self, path: Path) -> None:
        logs.configure("warning", "text", str(path))
        assert not AccessLog().is_on
        logging.getLogger("mercure_hub.server").info("no")
        logging.getLogger("mercure_hub.server").warning("yes")
        assert path.read_text().endswith("WARNING yes\n")

    def test_other_loggers_are_left_alone(self, path: Path) -> None:
        handlers = logging.getLogger().handlers[:]
        logs.configure("debug", "text", str(path))
        assert logging.getLogger().handlers == handlers

    def test_a_log_file_is_appended_to(self, path: Path) -> None:
        path.write_text("before\n")
        logs.configure("info", "text", str(path))
        logs.configure("info", "text", str(path))
        logging.getLogger("mercure_hub").info("after")
        first, second = path.read_text().splitlines()
        assert first == "before"
        assert second.endswith("after")

    def test_a_log_file_that_cannot_be_opened_raises(self, path: Path) -> None:
        with pytest.raises(OSError):
            logs.configure("info", "text", str(path.parent))

    def test_without_a_file_lines_go_to_standard_error(
        self, restored: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs.configure("info", "text", "")
        logging.getLogger("mercure_hub").info("here")
        assert capsys.readouterr().err.endswith("here\n")


class Timer:
    """A timer that fires when the test says so."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None
        self.is_closed = False

    def again(self, callback: Callable[[], None]) -> None:
        assert self.callback is None and not self.is_closed
        self.callback = callback

    def stop(self) -> None:
        self.callback = None

    def close(self) -> None:
        self.is_closed = True

    def fire(self) -> None:
        callback = self.callback
        assert callback is not None
        callback()
        assert self.callback is None, "it would fire again"


class Loop:
    """Its timers fire when the test says so."""

    def __init__(self, *timers: Timer) -> None:
        self._timers = iter(timers)

    def timer(self, after: float, repeat: float, ref: bool) -> Timer:
        assert after == repeat == logs.BATCH and not ref
        return next(self._timers)


def words(path: Path) -> list[str]:
    return [line.split(" ", 2)[2].removeprefix("INFO    ") for line in path.read_text().splitlines()]


def batches(path: Path) -> Timer:
    """Log to a file in batches; within the test, because pytest adds a handler of its own before."""
    logs.configure("info", "text", str(path))
    timer = Timer()
    logs.gather(Loop(timer))
    assert logs.only_handler(logging.getLogger("mercure_hub.access")) is not None
    return timer


class TestBatches:
    """A process with an event loop writes several lines at a time."""

    @pytest.fixture
    def path(self, tmp_path: Path, restored: None) -> Path:
        return tmp_path / "hub.log"

    @pytest.fixture
    def writes(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        written: list[bytes] = []
        original = os.write

        def write(descriptor: int, content: bytes) -> int:
            written.append(bytes(content))
            return original(descriptor, content)

        monkeypatch.setattr(os, "write", write)
        return written

    def test_lines_wait_for_the_timer_and_are_written_together(self, path: Path, writes: list[bytes]) -> None:
        timer = batches(path)
        for number in range(3):
            AccessLog().write("192.0.2.1", "GET", b"/%d" % number, 200, 0.0)
        InfoLog("mercure_hub.subscriber").info("left")
        assert path.read_text() == ""
        timer.fire()
        assert words(path) == [*[f'192.0.2.1 "GET /{n}" 200 0.0 ms' for n in range(3)], "left"]
        assert len(writes) == 1
        AccessLog().write_refused("192.0.2.1", 400, "no")
        timer.fire()
        assert words(path)[4:] == ["192.0.2.1 400 no"]

    def test_lines_wait_each_time_also_with_a_timer_of_the_event_loop(
        self, path: Path, writes: list[bytes]
    ) -> None:
        logs.configure("info", "text", str(path))
        logs.gather(gevent.get_hub().loop)
        log = InfoLog("mercure_hub.subscriber")
        log.info("first")
        while not writes:
            gevent.idle()
        for number in range(30):
            log.info(str(number))
            gevent.idle()
        while len(words(path)) < 31:
            gevent.idle()
        assert len(writes) < 20
        assert words(path) == ["first", *map(str, range(30))]

    def test_a_warning_is_written_at_once_behind_what_came_before(
        self, path: Path, writes: list[bytes]
    ) -> None:
        timer = batches(path)
        AccessLog().write("192.0.2.1", "GET", b"/", 200, 0.0)
        logging.getLogger("mercure_hub.server").info("info")
        logging.getLogger("mercure_hub.storage").warning("warning")
        assert words(path) == ['192.0.2.1 "GET /" 200 0.0 ms', "info", "WARNING warning"]
        assert len(writes) == 1
        timer.fire()  # there is nothing left
        logging.getLogger("mercure_hub.server").info("later")
        assert len(words(path)) == 3
        timer.fire()
        assert words(path)[3:] == ["later"]

    def test_requests_in_a_file_of_their_own_wait_on_their_own(self, path: Path) -> None:
        access, timers = path.with_name("access.log"), [Timer(), Timer()]
        logs.configure("error", "text", str(path), str(access))
        logs.gather(Loop(*timers))
        AccessLog().write("192.0.2.1", "GET", b"/", 200, 0.0)
        assert not InfoLog("mercure_hub.subscriber").is_on
        logging.getLogger("mercure_hub.server").error("urgent")
        assert words(path) == ["ERROR   urgent"]
        assert access.read_text() == ""
        timers[1].fire()
        assert len(words(access)) == 1

    def test_many_lines_do_not_wait(self, path: Path) -> None:
        timer = batches(path)
        log = AccessLog()
        for _ in range(1000):
            log.write("192.0.2.1", "GET", b"/", 200, 0.0)
        assert 700 < len(words(path)) < 1000
        timer.fire()
        assert len(words(path)) == 1000

    def test_nothing_is_lost_at_the_end(self, path: Path) -> None:
        timer = batches(path)
        logging.getLogger("mercure_hub.server").info("before")
        logs.write_at_once()
        assert timer.is_closed
        logging.getLogger("mercure_hub.server").info("after")
        assert words(path) == ["before", "after"]

    def test_nothing_is_lost_when_the_process_ends_in_the_middle(self, path: Path) -> None:
        batches(path)
        log = logging.getLogger("mercure_hub.server")
        log.info("before")
        log_handler = logging.getLogger("mercure_hub").handlers[0]
        log_handler.close()
        assert words(path) == ["before"]
        log.info("of a thread that goes on")
        assert words(path) == ["before", "of a thread that goes on"]

    def test_lines_of_other_threads_do_not_wait(self, path: Path) -> None:
        timer = batches(path)
        log = logging.getLogger("mercure_hub.storage")
        thread = threading.Thread(target=log.info, args=("of the writer",))
        thread.start()
        thread.join()
        assert words(path) == ["of the writer"]
        assert timer.callback is None

    def test_threads_lose_no_line_and_keep_their_order(self, path: Path) -> None:
        timer = batches(path)

        def write(name: str) -> None:
            for number in range(300):
                level = logging.WARNING if number % 50 == 0 else logging.INFO
                logging.getLogger("mercure_hub.storage").log(level, "%s %d", name, number)

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        log = InfoLog("mercure_hub.subscriber")
        for number in range(300):
            log.info(f"loop {number}")
            if number % 7 == 0 and timer.callback is not None:
                timer.fire()
        for thread in threads:
            thread.join()
        logs.write_at_once()
        found: dict[str, list[int]] = {}
        for line in path.read_text().splitlines():
            *_, name, last = line.split()
            found.setdefault(name, []).append(int(last))
        assert found == {name: list(range(300)) for name in ("a", "b", "c", "loop")}

    def test_a_file_that_was_renamed_gets_no_later_batch(self, path: Path) -> None:
        timer = batches(path)
        log = logging.getLogger("mercure_hub.server")
        log.info("first")
        timer.fire()
        path.rename(path.with_name("old"))
        log.info("second")
        timer.fire()
        assert words(path.with_name("old")) == ["first"]
        assert words(path) == ["second"]

    def test_a_line_with_a_wrong_number_of_arguments_is_reported_and_the_others_go_on(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        timer = batches(path)
        log = logging.getLogger("mercure_hub.server")
        log.info("before")
        log.info("%d", "one")
        log.info("after")
        timer.fire()
        assert words(path) == ["before", "after"]
        assert "TypeError" in capsys.readouterr().err


class TestFailures:
    """No request may fail because of its line."""

    @pytest.fixture
    def path(self, tmp_path: Path, restored: None) -> Path:
        return tmp_path / "hub.log"

    def test_a_full_disk_is_reported_once_and_the_lost_lines_are_counted(
        self, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logs.configure("info", "text", str(path))
        original, room = os.write, [7]

        def write(descriptor: int, content: bytes) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            written = original(descriptor, content[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", write)
        for number in range(3):
            AccessLog().write("192.0.2.1", "GET", b"/%d" % number, 200, 0.0)
        told = capsys.readouterr().err
        reason = "cannot be written: No space left on device; log lines are lost"
        assert told == f"mercure-hub: {str(path)!r} {reason}\n"
        room[0] = 1 << 20
        AccessLog().write("192.0.2.1", "GET", b"/3", 200, 0.0)
        torn, lost, last = path.read_text().splitlines()
        assert len(torn) == 7
        assert lost.endswith("WARNING up to 3 log lines before this one could not be written")
        assert last.endswith('"GET /3" 200 0.0 ms')
        assert capsys.readouterr().err == ""

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_a_device_that_is_always_full(self, restored: None, capsys: pytest.CaptureFixture[str]) -> None:
        logs.configure("info", "json", "/dev/full")
        for _ in range(3):
            logging.getLogger("mercure_hub.server").error("lost")
        assert capsys.readouterr().err.count("No space left on device") == 1

    def test_a_reader_of_standard_error_that_has_gone(
        self, restored: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            logs.configure("info", "text", "")
            os.close(reading)
            AccessLog().write("192.0.2.1", "GET", b"/", 200, 0.0)

    def test_lines_in_a_pipe_are_not_torn_by_those_of_other_processes(
        self, restored: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, writing = os.pipe()
        written: list[bytes] = []
        with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
            monkeypatch.setattr(sys, "stderr", stream)
            logs.configure("info", "text", "")
            timer = Timer()
            logs.gather(Loop(timer))
            original = os.write

            def write(descriptor: int, content: bytes) -> int:
                written.append(bytes(content))
                return original(descriptor, content)

            with monkeypatch.context() as patched:
                patched.setattr(os, "write", write)
                log = InfoLog("mercure_hub.subscriber")
                for size in (10, 4000, 5000, 10, 1000, 3000):
                    log.info("x" * size)
                timer.fire()
            logs.configure("info", "text", os.devnull)
            os.set_blocking(reading, False)
            assert b"".join(written) == reader.read()
        assert all(piece.endswith(b"\n") for piece in written)
        assert [piece.count(b"\n") for piece in written] == [2, 1, 2, 1]
        assert all(len(piece) <= 4096 or piece.count(b"\n") == 1 for piece in written)

    def test_without_standard_error_nothing_is_written(
        self, restored: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        logs.configure("info", "text", "")
        AccessLog().write("192.0.2.1", "GET", b"/", 200, 0.0)


class TestForms:
    @pytest.fixture
    def path(self, tmp_path: Path, restored: None) -> Path:
        return tmp_path / "hub.log"

    @pytest.mark.parametrize("style", ["text", "json"])
    @pytest.mark.parametrize("worker", [None, 3])
    def test_a_line_looks_the_same_with_and_without_a_record(
        self, path: Path, style: str, worker: int | None
    ) -> None:
        logs.configure("info", style, str(path))
        if worker is not None:
            logs.name_worker(worker)
        fields: dict[str, object] = {"peer": "192.0.2.1", "ms": 1.5}
        logger = logging.getLogger("mercure_hub.access")
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, "said %s", ("\u2028 \ud800",), None)
        record.fields = fields
        logger.handle(record)
        InfoLog(logger.name, lambda: record.created).info("said \u2028 \ud800", fields)
        first, second = path.read_text().split("\n")[:-1]
        assert first == second
        assert "\\ud800" in first

    @pytest.mark.parametrize("style", ["text", "json"])
    @pytest.mark.parametrize("worker", [None, 3, "feeder"])
    @pytest.mark.parametrize("target", ["/", '/?a="b"\\c', "/\N{SNOWMAN}\u2028\ud800", "/\t\n\x7f"])
    def test_the_line_of_a_request_looks_like_others(
        self, path: Path, style: str, worker: int | str | None, target: str
    ) -> None:
        logs.configure("info", style, str(path))
        if worker is not None:
            logs.name_worker(worker)
        handler = logs.only_handler(logging.getLogger("mercure_hub"))
        assert handler is not None
        made = handler.form.request(1.25, "192.0.2.1", "GET", target, status=200, ms=1.26)
        fields: dict[str, object] = {
            "peer": "192.0.2.1", "method": "GET", "target": target, "status": 200, "ms": 1.3,
        }  # fmt: skip
        message = f'192.0.2.1 "GET {target}" 200 1.3 ms'
        assert made == handler.form.line(1.25, "INFO", "mercure_hub.access", message, fields)
        if style == "json":
            said = json.loads(made)
            assert {name: said[name] for name in fields} == fields
            assert said["message"] == message

    def test_the_time_is_local_and_has_milliseconds(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TZ", "UTC-2")
        time.tzset()
        try:
            logs.configure("info", "text", str(path))
            for moment in (1_000_000_000.0, 1_000_000_000.9996, 1_000_000_001.25):
                InfoLog("mercure_hub.subscriber", iter([moment]).__next__).info("left")
        finally:
            monkeypatch.undo()
            time.tzset()
        assert path.read_text().splitlines() == [
            "2001-09-09 03:46:40,000 INFO    left",
            "2001-09-09 03:46:40,999 INFO    left",
            "2001-09-09 03:46:41,250 INFO    left",
        ]

    def test_handlers_of_others_get_records(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        logs.configure("info", "text", str(path))
        logging.getLogger("mercure_hub").addHandler(caplog.handler)
        try:
            AccessLog().write("192.0.2.1", "GET", b"/", 200, 0.0)
        finally:
            logging.getLogger("mercure_hub").removeHandler(caplog.handler)
        assert caplog.messages == ['192.0.2.1 "GET /" 200 0.0 ms']
        assert words(path) == caplog.messages
