"""The command: what it prints, and how it ends when something is wrong: one line, status 2."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hub import __version__, cli
from hub.protocol import keys
from hub.protocol.keys import generate_pair
from hub.setting_table import TABLE, reference

SECRET = "a-secret-that-is-long-enough-for-HS384-and-not-for-HS512"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from outside, nothing is written outside."""
    for name in list(os.environ):
        if name.startswith("MERCURE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


load = partial(keys.load, exists=lambda _: False)


class TestPrinting:
    def test_a_secret(self, capsys: pytest.CaptureFixture[str]) -> None:
        printed = []
        for _ in range(2):
            assert cli.main(["keys"]) == 0
            printed.append(capsys.readouterr().out)
        assert printed[0] != printed[1]
        for line in printed:
            assert len(line.splitlines()) == 1
            assert load(line.strip(), "HS512").algorithms == ("HS512",)

    @pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed25519", "EdDSA")])
    def test_a_key_pair(self, kind: str, algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["keys", f"--{kind}"]) == 0
        printed = capsys.readouterr().out
        private, end, public = printed.partition("-----END PRIVATE KEY-----\n")
        signing = load(private + end, purpose="sign")
        assert signing.algorithms == load(public).algorithms == load(printed).algorithms == (algorithm,)

    def test_one_kind_of_keys_at_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["keys", "--rsa", "--ec"])
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_the_reference(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["settings"]) == 0
        assert capsys.readouterr().out == reference()

    @pytest.mark.parametrize("columns", ["60", "80", "300"])
    def test_help_mentions_every_setting(
        self, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(SystemExit) as caught:
            cli.main(["--help"])
        assert caught.value.code == 0
        printed = " ".join(capsys.readouterr().out.split())
        for setting in TABLE:
            assert f" {setting.flag}" in printed
            assert f"[{setting.variable}]" in printed.replace(" ", "")
            if columns == "300":
                assert setting.text in printed
        assert "--config" in printed
        assert "mercure-hub keys" in printed

    def test_the_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"mercure-hub {__version__}\n"


class TestRefusals:
    """Before anything is started."""

    def refused(
        self, capsys: pytest.CaptureFixture[str], *words: str, key: str = SECRET, **environment: str
    ) -> str:
        with pytest.MonkeyPatch.context() as patch:
            if key:
                patch.setenv("MERCURE_PUBLISHER_JWT_KEY", key)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                status = cli.main(words)
            except SystemExit as end:
                assert isinstance(end.code, int)
                status = end.code
        printed = capsys.readouterr()
        assert status == 2
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("mercure-hub: ")
        for secret in ("hunter2", SECRET):
            assert secret not in line
        return line.removeprefix("mercure-hub: ")

    def test_no_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key="")
        assert line.startswith("MERCURE_PUBLISHER_JWT_KEY: is not set; make a secret with: mercure-hub keys")

    def test_a_weak_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key="hunter2")
        assert line.startswith(
            "MERCURE_PUBLISHER_JWT_KEY: the secret has 7 bytes and HS256 needs at least 32"
        )

    def test_a_mangled_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key=generate_pair("ec")[1].splitlines()[0])
        assert line.startswith("MERCURE_PUBLISHER_JWT_KEY: the PEM is mangled: its END line is missing")

    @pytest.mark.parametrize("words", [("--heartbeat", "x"), ("run", "--heartbeat=x")])
    def test_a_wrong_value(self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        assert self.refused(capsys, *words) == "--heartbeat: 'x' is not a number of seconds of 0 or more"

    def test_an_unknown_flag_and_not_its_value(self, capsys: pytest.CaptureFixture[str]) -> None:
        expected = "--publisher-key: there is no such flag; see mercure-hub --help"
        assert self.refused(capsys, "--publisher-key=hunter2") == expected
        assert self.refused(capsys, "--publisher-key", "hunter2") == expected

    def test_an_abbreviated_flag(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such flag" in self.refused(capsys, "--heart=1")

    def test_a_word_too_many_is_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such flag" in self.refused(capsys, "--publisher-jwt-key", SECRET, "hunter2")

    def test_a_flag_without_its_value(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.refused(capsys, "--listen") == (
            "argument --listen: expected one argument; see mercure-hub --help"
        )

    def test_an_unreadable_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.refused(capsys, "--config", "nowhere.toml") == (
            "MERCURE_CONFIG: 'nowhere.toml' cannot be read: No such file or directory"
        )

    def test_an_unknown_key_of_the_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("hub.toml").write_text('publisher_key = "hunter2"')
        line = self.refused(capsys, MERCURE_CONFIG="hub.toml")
        assert line.startswith("publisher_key in hub.toml: there is no such setting; known are listen,")

    def test_a_password_in_the_database_url(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, MERCURE_TRANSPORT_URL="postgresql://mercure:hunter2@db/mercure")
        assert line.startswith("MERCURE_TRANSPORT_URL: 'postgresql://***@db/mercure' names 'postgresql'")

    def test_a_log_file_that_cannot_be_written(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, "--log-file", "nowhere/hub.log")
        assert line == "MERCURE_LOG_FILE: 'nowhere/hub.log' cannot be opened: No such file or directory"


@pytest.mark.minutes
class TestProcess:
    """What is found out only by starting: in a process of its own."""

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
        return subprocess.run(
            [sys.executable, "-m", "hub", *words],
            env={
                **clean,
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "MERCURE_PUBLISHER_JWT_KEY": SECRET,
                "MERCURE_LISTEN": "127.0.0.1:0",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            start_new_session=True,  # no terminal to ask for a passphrase
        )

    def refused(self, *words: str, status: int = 2, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stderr
        assert "the hub stops" not in done.stderr  # which it says of one that served
        found: list[Any] = re.findall(r"^mercure-hub: (.*)$", done.stderr, re.MULTILINE)
        (line,) = found
        assert done.stderr.endswith(f"{line}\n")
        return str(line)

    @pytest.fixture
    def taken(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield int(listening.getsockname()[1])

    def test_a_port_in_use(self, taken: int) -> None:
        assert self.refused("--listen", f"127.0.0.1:{taken}") == (
            f"MERCURE_LISTEN: cannot listen on 127.0.0.1:{taken}: Address already in use; "
            "stop what uses it, or choose another port"
        )

    @pytest.mark.parametrize("address", ["192.0.2.1:3000", "no-such-host.invalid:3000"])
    def test_an_address_that_is_not_here(self, address: str) -> None:
        assert self.refused(MERCURE_LISTEN=address).startswith("MERCURE_LISTEN: ")

    def test_a_database_that_cannot_be_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "mercure.db"
        assert self.refused(MERCURE_TRANSPORT_URL=f"sqlite:///{path}") == (
            f"MERCURE_TRANSPORT_URL: the database sqlite:///{path} cannot be opened: "
            "unable to open database file; check the path and who may write there"
        )

    def test_a_database_that_is_locked_may_be_free_at_the_next_start(self, tmp_path: Path) -> None:
        """The shipped units start the hub again after status 1, and not after 2."""
        with closing(sqlite3.connect(tmp_path / "mercure.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("CREATE TABLE other (x)")
            assert "cannot be opened: database is locked" in self.refused(status=1)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "mercure.db").write_text("a letter to my aunt" * 100)
        assert "file is not a database" in self.refused()

    def test_certificates_that_cannot_be_used(self, tmp_path: Path) -> None:
        assert self.refused(MERCURE_TLS_CERT="nowhere.pem").startswith(
            "MERCURE_TLS_CERT: 'nowhere.pem' cannot be read: No such file or directory"
        )
        (tmp_path / "cert.pem").write_text("no certificate")
        (tmp_path / "key.pem").write_text(generate_pair("ec")[0])
        line = self.refused(MERCURE_TLS_CERT="cert.pem", MERCURE_TLS_KEY="key.pem")
        assert line.startswith("MERCURE_TLS_CERT: 'cert.pem' and 'key.pem' cannot be used: ")
        assert "passphrase" in line

    def test_keys_need_neither_gevent_nor_a_database(self) -> None:
        code = (
            "import sys; from hub import cli; cli.main(['keys']); "
            "sys.exit('gevent' in sys.modules or 'sqlite3' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


def test_a_secret_that_begins_like_a_flag() -> None:
    known, rest = cli._parser().parse_known_args([f"--publisher-jwt-key=-{SECRET}"])
    assert (known.publisher_jwt_key, rest) == (f"-{SECRET}", [])
