"""Databases for tests: SQLite in a file, and a PostgreSQL of its own on a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from tests.needs import need

_BINARIES = Path("/usr/lib/postgresql")
_TIMEOUT = 60.0


def _binaries() -> Path:
    """The newest PostgreSQL of this machine; Debian does not have its server on the path."""
    return max(_BINARIES.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3])).parent


def _user() -> str | None:
    """Who runs the server, which refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def running_postgresql() -> Iterator[Path]:
    """A server for the length of a ``with`` block; gives the folder of its socket."""
    need("postgresql")
    binaries = _binaries()
    user = _user()
    # Not pytest's folder: that is closed to other users, and too long for the path of a socket.
    folder = Path(tempfile.mkdtemp(prefix="mercure-pg-"))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        group = None if user is None else pwd.getpwnam(user).pw_gid
        extra = None if user is None else ()
        data = folder / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "app", "--auth=trust", "--no-sync", "-E", "UTF8"],
            user=user, group=group, extra_groups=extra, cwd=folder, check=True, capture_output=True,
            timeout=_TIMEOUT, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=",
                    "-c", "fsync=off", "-c", "max_connections=200", "-c", "max_prepared_transactions=10",
                ],
                user=user, group=group, extra_groups=extra, cwd=folder, stdout=log, stderr=log,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        try:
            _await(folder, server)
            yield folder
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(_TIMEOUT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            psycopg.connect(host=str(folder), user="app", dbname="postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "log").read_text()) from None
            time.sleep(0.05)  # the server has no other sign
        else:
            return


@contextmanager
def fresh_database(folder: Path) -> Iterator[str]:
    """A database of that server for one test; gives its URL."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=str(folder), user="app", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield URL.create(
                "postgresql+psycopg", username="app", database=name, query={"host": str(folder)}
            ).render_as_string()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def failing_commit(
    engine: Engine, when: Callable[[], object] = lambda: True, *, is_done: bool = False
) -> Iterator[None]:
    """One COMMIT fails, the first of a ``with`` block for which ``when`` is true.

    :param is_done: the database has done it, and the connection broke before it could say so.
    """
    dialect = engine.dialect
    commit = dialect.do_commit
    has_failed = False

    def fail(connection: Any) -> None:
        nonlocal has_failed
        if has_failed or not when():
            commit(connection)
            return
        has_failed = True
        if is_done:
            commit(connection)
        else:
            dialect.do_rollback(connection)  # as databases do by themselves
        assert dialect.loaded_dbapi is not None
        raise dialect.loaded_dbapi.OperationalError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "do_commit", fail)
        yield
    assert has_failed


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Path]:
    with running_postgresql() as folder:
        yield folder


@pytest.fixture
def postgresql(postgresql_server: Path) -> Iterator[str]:
    with fresh_database(postgresql_server) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.minutes)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once for each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    url: str = request.getfixturevalue("postgresql")
    return url
