"""What is logged: one line for each event, and never a token."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure_hub.server import logs
from mercure_hub.server.logs import AccessLog, redact

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJtZXJjdXJlIjp7fX0.c2lnbmF0dXJl"
OPAQUE = "s3cr3t-opaque~value%2B=="


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "AUTHORIZATION",
        "access_token",
        "token",
        "jwt",
        "auth%6Frization",
        "%61%75%74%68%6f%72%69%7a%61%74%69%6f%6e",
        "access%5Ftoken",
        "+authorization",
        "authorization+",
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        "/hub?{}={}",
        "/hub?topic=a&{}={}&topic=b",
        "/hub?topic=a;{}={};topic=b",
        "/hub?topic=a&amp;{}={}",
        "/hub?{}=&{}={}",
        "/hub#{}={}",
        "/hub?topic=/other?{}={}",
        "{}={}",
        "http://hub.example.com/hub?{}={}",
    ],
)
@pytest.mark.parametrize("secret", [TOKEN, OPAQUE])
def test_parameters_that_hold_tokens_are_redacted(target: str, name: str, secret: str) -> None:
    filled = target.replace("={}", f"={secret}").replace("{}", name)
    shown = redact(filled)
    assert secret not in shown
    assert "[redacted]" in shown
    assert "c2lnbmF0dXJl" not in shown and "s3cr3t" not in shown


@pytest.mark.parametrize(
    "target",
    [f"/{TOKEN}", f"/hub/{TOKEN}/x", f"/hub?topic={TOKEN}", f"/hub?topic=a%26authorization%3D{TOKEN}"],
)
def test_a_jwt_is_redacted_wherever_it_stands(target: str) -> None:
    assert "c2lnbmF0dXJl" not in redact(target)
    assert "c2lnbmF0dXJl" not in redact(target.replace(".", "%2E"))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/.well-known/mercure",
        "/.well-known/mercure?match=https%3A%2F%2Fexample.com%2Fbooks%2F1&match_urlpattern=/:id",
        "/hub?authorization",
        "/hub?tokens=1&my_token=2&key",
        "*",
    ],
)
def test_other_targets_are_shown_as_they_are(target: str) -> None:
    assert redact(target) == target


def test_a_long_target_is_cut() -> None:
    assert redact("/" + "a" * 1000) == "/" + "a" * 499 + "..."
    assert "s3cr3t" not in redact("/hub?" + "a=1&" * 150 + "token=s3cr3t")


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\0", "\x7f", "\x85", "\x9b", "\u2028"])
def test_control_characters_are_shown_as_escapes(character: str) -> None:
    shown = redact(f"/a{character}b")
    assert shown.isprintable()
    assert shown.startswith("/a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize(
    "target",
    ["/" + "eyJ" * 21000, "/?" + "a" * 64000, "/?" + "a&" * 32000, "/?" + "%20eyJ" * 10000, "?" * 64000,
     "/?" + "=" * 64000],
)  # fmt: skip
def test_no_target_takes_long(target: str) -> None:
    started = time.process_time()
    redact(target)
    assert time.process_time() - started < 2.0


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
