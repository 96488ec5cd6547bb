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

from mercure_hub import __version__, cli
from mercure_hub.config.settings import TABLE, reference
from mercure_hub.protocol.tokens import keys
from mercure_hub.protocol.tokens.asymmetric import generate_pair

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
    def test_keys_prints_a_secret(self, capsys: pytest.CaptureFixture[str]) -> None:
        printed = []
        for _ in range(2):
            assert cli.main(["keys"]) == 0
            printed.append(capsys.readouterr().out)
        assert printed[0] != printed[1]
        for line in printed:
            assert len(line.splitlines()) == 1
            assert load(line.strip(), "HS512").algorithms == ("HS512",)

    @pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed25519", "EdDSA")])
    def test_keys_prints_a_key_pair(
        self, kind: str, algorithm: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["keys", f"--{kind}"]) == 0
        printed = capsys.readouterr().out
        private, end, public = printed.partition("-----END PRIVATE KEY-----\n")
        signing = load(private + end, purpose="sign")
        assert signing.algorithms == load(public).algorithms == load(printed).algorithms == (algorithm,)

    def test_keys_makes_one_kind_of_key_at_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(["keys", "--rsa", "--ec"])
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_the_reference_of_settings_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
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

    def test_the_version_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
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

    def test_a_missing_key_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key="")
        assert line.startswith("MERCURE_PUBLISHER_JWT_KEY: is not set; make a secret with: mercure-hub keys")

    def test_a_weak_key_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key="hunter2")
        assert line.startswith(
            "MERCURE_PUBLISHER_JWT_KEY: the secret has 7 bytes and HS256 needs at least 32"
        )

    def test_a_mangled_key_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, key=generate_pair("ec")[1].splitlines()[0])
        assert line.startswith("MERCURE_PUBLISHER_JWT_KEY: the PEM is mangled: its END line is missing")

    @pytest.mark.parametrize("words", [("--heartbeat", "x"), ("run", "--heartbeat=x")])
    def test_a_wrong_value_is_refused(
        self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.refused(capsys, *words) == "--heartbeat: 'x' is not a number of seconds of 0 or more"

    def test_an_unknown_flag_is_named_without_its_value(self, capsys: pytest.CaptureFixture[str]) -> None:
        expected = "--publisher-key: there is no such flag; see mercure-hub --help"
        assert self.refused(capsys, "--publisher-key=hunter2") == expected
        assert self.refused(capsys, "--publisher-key", "hunter2") == expected

    def test_an_abbreviated_flag_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such flag" in self.refused(capsys, "--heart=1")

    def test_a_word_too_many_is_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no such flag" in self.refused(capsys, "--publisher-jwt-key", SECRET, "hunter2")

    def test_a_flag_without_its_value_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.refused(capsys, "--listen") == (
            "argument --listen: expected one argument; see mercure-hub --help"
        )

    def test_an_unreadable_file_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.refused(capsys, "--config", "nowhere.toml") == (
            "MERCURE_CONFIG: 'nowhere.toml' cannot be read: No such file or directory"
        )

    def test_an_unknown_key_of_the_file_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("hub.toml").write_text('publisher_key = "hunter2"')
        line = self.refused(capsys, MERCURE_CONFIG="hub.toml")
        assert line.startswith("publisher_key in hub.toml: there is no such setting; known are listen,")

    def test_a_password_in_the_database_url_is_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, MERCURE_TRANSPORT_URL="mysql://mercure:hunter2@db/mercure")
        assert line.startswith("MERCURE_TRANSPORT_URL: 'mysql://***@db/mercure' names 'mysql'")

    def test_a_log_file_that_cannot_be_written_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.refused(capsys, "--log-file", "nowhere/hub.log")
        assert line == "MERCURE_LOG_FILE: 'nowhere/hub.log' cannot be opened: No such file or directory"


@pytest.mark.minutes
class TestProcess:
    """What is found out only by starting: in a process of its own."""

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MERCURE_")}
        return subprocess.run(
            [sys.executable, "-m", "mercure_hub", *words],
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

    def test_a_port_in_use_ends_the_hub(self, taken: int) -> None:
        assert self.refused("--listen", f"127.0.0.1:{taken}") == (
            f"MERCURE_LISTEN: cannot listen on 127.0.0.1:{taken}: Address already in use; "
            "stop what uses it, or choose another port"
        )

    @pytest.mark.parametrize("address", ["192.0.2.1:3000", "no-such-host.invalid:3000"])
    def test_an_address_that_cannot_be_bound_ends_the_hub(self, address: str) -> None:
        assert self.refused(MERCURE_LISTEN=address).startswith("MERCURE_LISTEN: ")

    def test_a_database_that_cannot_be_opened_ends_the_hub(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "mercure.db"
        assert self.refused(MERCURE_TRANSPORT_URL=f"sqlite:///{path}") == (
            f"MERCURE_TRANSPORT_URL: the database sqlite:///{path} cannot be opened: "
            f"there is no folder {str(path.parent)!r}; make it"
        )

    def test_a_database_that_is_locked_may_be_free_at_the_next_start(self, tmp_path: Path) -> None:
        """The shipped units start the hub again after status 1, and not after 2."""
        with closing(sqlite3.connect(tmp_path / "mercure.db", isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("CREATE TABLE other (x)")
            assert "cannot be opened: database is locked" in self.refused(status=1)

    def test_a_file_that_is_no_database_ends_the_hub(self, tmp_path: Path) -> None:
        (tmp_path / "mercure.db").write_text("a letter to my aunt" * 100)
        assert "is not an SQLite database" in self.refused()

    def test_certificates_that_cannot_be_used_end_the_hub(self, tmp_path: Path) -> None:
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
            "import sys; from mercure_hub import cli; cli.main(['keys']); "
            "sys.exit('gevent' in sys.modules or 'sqlite3' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[str, str]]:
    """What ``check`` prints: value and source of each setting, by its variable."""
    assert cli.main(["check", *words]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line for line in printed.out.splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        named, _, source = line.partition("  # ")
        name, _, value = named.partition("=")
        found[name] = value, source
    return found


class TestCheck:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("sqlite:///x.db", "# storage: the database sqlite:///x.db"),
            (
                "postgresql://me:hush@db1,db2/news?sslmode=require",
                "# storage: database news of PostgreSQL at db1,db2; history stats tries the connection",
            ),
            (
                "redis://:hush@cache:6379/0?name=news&durability=relaxed",
                "# storage: history 'news' in Redis at cache:6379, which may lose what it has acknowledged; "
                "history stats tries the connection",
            ),
        ],
    )
    def test_check_says_where_updates_would_be(
        self, url: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY", SECRET)
        assert cli.main(["check", "--transport-url", url]) == 0
        out = capsys.readouterr().out
        assert shown in out.splitlines()
        assert "hush" not in out

    @pytest.mark.parametrize(("url", "driver"), [("postgresql://db/x", "psycopg"), ("redis://db/0", "redis")])
    def test_check_misses_the_driver(
        self,
        url: str,
        driver: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY", SECRET)

        def missing(_: str) -> None:
            raise ModuleNotFoundError(name=driver)

        monkeypatch.setattr("mercure_hub.storage.engines.import_module", missing)
        assert cli.main(["check", "--transport-url", url]) == 2
        err = capsys.readouterr().err
        assert err.startswith("mercure-hub: MERCURE_TRANSPORT_URL: ")
        assert f"{driver} is not installed" in err

    def test_check_prints_every_setting_with_its_source(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("hub.toml").write_text('heartbeat = 15\ndrain = 1\ncors_origins = ["https://a.example"]')
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY", SECRET)
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_ALG", "HS384 HS256")
        monkeypatch.setenv("MERCURE_DRAIN", "2")
        monkeypatch.setenv("MERCURE_WORKERS", "")
        found = checked(capsys, "--config", "hub.toml", "--history-size", "7", "--anonymous")
        assert list(found) == [setting.variable for setting in TABLE]
        assert found["MERCURE_HEARTBEAT"] == ("15", "file hub.toml")
        assert found["MERCURE_CORS_ORIGINS"] == ("https://a.example", "file hub.toml")
        assert found["MERCURE_DRAIN"] == ("2", "environment")
        assert found["MERCURE_HISTORY_SIZE"] == ("7", "command line")
        assert found["MERCURE_ANONYMOUS"] == ("1", "command line")
        assert found["MERCURE_WORKERS"] == ("1", "default")
        assert found["MERCURE_PUBLIC_URL"] == ("", "default")
        assert found["MERCURE_PUBLISHER_JWT_KEY"] == ("*** (HS384 HS256)", "environment")
        assert found["MERCURE_SUBSCRIBER_JWT_KEY"] == ("*** (HS384 HS256)", "MERCURE_PUBLISHER_JWT_KEY")
        assert found["MERCURE_SUBSCRIBER_JWT_ALG"] == ("HS384 HS256", "MERCURE_PUBLISHER_JWT_ALG")
        assert found["MERCURE_SUBSCRIBER_JWT_KEY_FALLBACK"] == ("", "default")

    def test_check_prints_what_a_playground_switches_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = checked(capsys, "--playground", "--subscriptions=0")
        assert found["MERCURE_ANONYMOUS"] == ("1", "MERCURE_PLAYGROUND")
        assert found["MERCURE_CORS_ORIGINS"][0].startswith("http://localhost:* ")
        assert found["MERCURE_SUBSCRIPTIONS"] == ("0", "command line")

    def test_check_prints_issuers(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("hub.toml").write_text(
            f'public_url = "https://example.com/hub"\n[[issuer]]\nidentifier = "urn:a"\n'
            f'publisher_key = "{SECRET}"\njwks_uri = "https://keys.example/?hunter2"\n'
        )
        assert cli.main(["check", "--config", "hub.toml"]) == 0
        out = capsys.readouterr().out
        assert "# issuer 'urn:a': keys: 1 of publishers, 1 of subscribers, more at a URL" in out.splitlines()
        assert "hunter2" not in out
        assert SECRET not in out

    def test_no_secret_is_printed(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private, public = generate_pair("ec")
        Path("old").write_text(SECRET)
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY", private)
        monkeypatch.setenv("MERCURE_PUBLISHER_JWT_KEY_FALLBACK", "@old")
        monkeypatch.setenv("MERCURE_PUBLIC_URL", "https://example.com/hub")
        monkeypatch.setenv("MERCURE_JWKS_URI", "https://keys.example/set?token=hunter2")
        found = checked(capsys)
        printed = str(found)
        for secret in (SECRET, "hunter2", *private.splitlines()[1:-1], *public.splitlines()[1:-1]):
            assert secret not in printed
        assert found["MERCURE_JWKS_URI"] == ("https://keys.example/set?***", "environment")
        assert found["MERCURE_SUBSCRIBER_JWT_KEY_FALLBACK"] == (
            "*** (HS256)",
            "MERCURE_PUBLISHER_JWT_KEY_FALLBACK",
        )

    def test_a_quiet_check_prints_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["check", "--quiet", f"--publisher-jwt-key={SECRET}"]) == 0
        assert capsys.readouterr() == ("", "")
        assert cli.main(["check", "--quiet", "--heartbeat=x", f"--publisher-jwt-key={SECRET}"]) == 2
        assert capsys.readouterr().err == (
            "mercure-hub: --heartbeat: 'x' is not a number of seconds of 0 or more\n"
        )

    def test_a_misspelt_variable_is_told(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MERCURE_PUBLIC_ULR", "https://example.com/hub")
        assert cli.main(["check", "--quiet", "--publisher-jwt-key", SECRET]) == 0
        assert "did you mean MERCURE_PUBLIC_URL?" in capsys.readouterr().err

    @pytest.mark.parametrize("words", [("--no-such-flag",), ("word",), ("--heart=1",)])
    def test_wrong_arguments_of_check_are_refused(
        self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["check", *words])
        assert end.value.code == 2
        assert "no such flag" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--publisher-jwt-key=hunter2"], "MERCURE_PUBLISHER_JWT_KEY: the secret has 7 bytes"),
            (["--publisher-jwt-key=@nowhere/key"], "MERCURE_PUBLISHER_JWT_KEY: the key file"),
            (["--config=nowhere.toml"], "MERCURE_CONFIG: 'nowhere.toml' cannot be read"),
            (["--jwks-file=nowhere.json"], "MERCURE_JWKS_FILE: 'nowhere.json' cannot be read"),
            (["--tls-cert=nowhere.pem"], "MERCURE_TLS_CERT: 'nowhere.pem' cannot be read"),
            (["--tls-cert=text", "--tls-key=text"], "MERCURE_TLS_CERT: 'text' and 'text' cannot be used"),
            (["--log-file=nowhere/hub.log"], "MERCURE_LOG_FILE: 'nowhere/hub.log' cannot be opened"),
            (["--access-log=folder"], "MERCURE_ACCESS_LOG: 'folder' cannot be opened: Is a directory"),
            (["--transport-url=sqlite:///nowhere/hub.db"], "there is no folder 'nowhere'; make it"),
            (
                ["--transport-url=sqlite:///folder"],
                "MERCURE_TRANSPORT_URL: the database sqlite:///folder is a",
            ),
            (["--transport-url=sqlite:///text"], "is not an SQLite database"),
        ],
    )
    @pytest.mark.parametrize("command", ["check", "run"])
    @pytest.mark.minutes
    def test_check_reports_what_keeps_a_hub_from_starting(
        self, command: str, words: list[str], said: str, tmp_path: Path
    ) -> None:
        """The hub itself has other words for some, but the same status."""
        Path("text").write_text("a letter to my aunt" * 100)
        Path("folder").mkdir()
        done = TestProcess().run(command, "--listen=127.0.0.1:0", *words)
        assert done.returncode == 2
        if command == "check":
            assert done.stdout == ""
            assert said in done.stderr

    @pytest.mark.minutes
    def test_check_opens_nothing_for_writing(self, tmp_path: Path) -> None:
        """Not even the database, the log or a port, and neither where they are nor where they are not."""
        code = """
import os, sys
from mercure_hub import cli
import mercure_hub.tools.check
def hook(event, arguments):
    assert event not in ("sqlite3.connect", "socket.bind", "socket.connect", "os.mkdir", "os.rename"), event
    if event == "open":
        assert not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), arguments
sys.addaudithook(hook)
sys.exit(cli.main(["check", "--log-file=hub.log", "--access-log=access.log"]))
"""
        for _ in range(2):
            before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={
                    "MERCURE_PUBLISHER_JWT_KEY": SECRET,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
            with closing(sqlite3.connect("mercure.db")) as database:
                database.execute("CREATE TABLE IF NOT EXISTS other (x)")
            Path("hub.log").write_text("")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--publisher-jwt-key", f"-{SECRET}"], f"-{SECRET}"),
        (["--publisher-jwt-key", f"--{SECRET}"], f"--{SECRET}"),
        (["--publisher-jwt-key", f"-{SECRET}=", "--anonymous"], f"-{SECRET}="),
        (["--anonymous", "--publisher-jwt-key", f"-h{SECRET}"], f"-h{SECRET}"),
    ],
)
def test_a_value_may_begin_like_a_flag(words: list[str], value: str) -> None:
    known, rest = cli._parser().parse_known_args(words)
    assert known.publisher_jwt_key == value
    assert rest == []
    assert known.anonymous == ("1" if "--anonymous" in words else None)


def test_a_flag_is_not_the_value_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--publisher-jwt-key", "--anonymous"], ["--publisher-jwt-key", "--listen=127.0.0.1:0"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert "argument --publisher-jwt-key: expected one argument" in capsys.readouterr().err


def test_a_secret_may_begin_like_a_flag() -> None:
    known, rest = cli._parser().parse_known_args([f"--publisher-jwt-key=-{SECRET}"])
    assert (known.publisher_jwt_key, rest) == (f"-{SECRET}", [])
