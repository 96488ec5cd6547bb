"""``mercure-hub history`` on engines that several machines share."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mercure_hub import cli
from mercure_hub.tools.history.copying import copy
from mercure_hub.tools.history.engines import opened
from mercure_hub.tools.history.history import HistoryError
from tests.hub.running import running_hub
from tests.tools.history.test_copy import NewUrl, copied, everything, fill, hub_at, new_url

__all__ = ["new_url"]
pytestmark = pytest.mark.minutes


@pytest.fixture(params=["postgresql", "valkey"])
def url(
    request: pytest.FixtureRequest,
    new_url: NewUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Of a new history."""
    for name in list(os.environ):
        if name.startswith("MERCURE_"):
            monkeypatch.delenv(name)
    made = new_url(request.param)
    monkeypatch.setenv("MERCURE_TRANSPORT_URL", made)
    return made


class Console:
    """Runs commands, and has what they print."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd, self._monkeypatch = capfd, monkeypatch
        self.out = self.err = ""

    def run(self, *words: str, stdin: str = "") -> int:
        self._capfd.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli.main(["history", *words])
        sys.stdout.flush()
        self.out, self.err = self._capfd.readouterr()
        assert "Traceback" not in self.err
        return status

    @property
    def ids(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.out.splitlines()]


@pytest.fixture
def console(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    return Console(capfd, monkeypatch)


def line(**changes: object) -> str:
    return json.dumps({"id": "x", "topics": ["t"], "data": "d", "published_at": 5, **changes}) + "\n"


def test_stats(url: str, console: Console) -> None:
    fill(url)
    assert console.run("stats", "--json", "--top", "3") == 0
    found = json.loads(console.out)
    assert (found["updates"], found["private"], found["hubs"], found["ever_published"]) == (6, 0, 0, 6)
    assert (found["subscription_events"], found["subscription_event_bytes"]) == (4, 24)
    assert found["bytes"] == 6 * len("data of id1 é\0".encode())
    assert (found["oldest"]["id"], found["newest"]["id"]) == ("id1", "id6")
    topics = {one["topic"]: one["updates"] for one in found["topics"]}
    assert topics == {"/subscriptions/x": 4, "a": 3, "b": 3}
    assert all(size > 0 for size in found["sizes"].values())
    with hub_at(url):
        assert console.run("stats") == 0
    assert "hub at work   1 process" in console.out


def test_a_selection_is_exported(url: str, console: Console) -> None:
    fill(url)
    console.run("export")
    assert console.ids == [f"id{number}" for number in range(1, 7)]
    assert json.loads(console.out.splitlines()[0])["data"] == "data of id1 é\0"
    console.run("export", "--topic", "b")
    assert console.ids == ["id2", "id5", "id6"]
    console.run("export", "--pattern", "*id:n(1|5)")
    assert console.ids == ["id1", "id5"]
    console.run("export", "--topic", "/subscriptions/x")
    assert len(console.ids) == 4
    console.run("export", "--since", "1h")
    assert len(console.ids) == 6
    console.run("export", "--until", "1h")
    assert console.ids == []


def test_large_updates_are_exported_in_pieces(url: str, console: Console) -> None:
    lines = "".join(line(id=f"n{number}", data="x" * 2_000_000) for number in range(12))
    lines += "".join(line(id=f"m{number}") for number in range(1500))
    assert console.run("import", stdin=lines) == 0
    console.run("export")
    assert console.ids == [f"n{number}" for number in range(12)] + [f"m{number}" for number in range(1500)]


def test_an_export_is_imported(url: str, console: Console, new_url: NewUrl) -> None:
    source = new_url("sqlite")
    fill(source)
    console.run("export", "--transport-url", source)
    exported = console.out
    assert console.run("import", stdin=exported) == 0
    assert "6 updates were imported" in console.err
    console.run("export")
    assert console.ids == [f"id{number}" for number in range(1, 7)]
    with hub_at(url) as hub:
        assert hub.place_of("id4") == 4
        hub.append("new")
        assert hub.place_of("new") == 7


def test_an_import_is_whole_or_refused(url: str, console: Console) -> None:
    fill(url)
    lines = "".join(line(id=f"n{number}") for number in range(1200))
    for wrong, message in ((line(id="id3"), "has the id 'id3'"), ("{", "is not JSON")):
        assert console.run("import", stdin=lines + wrong) == 1
        assert "line 1201 " in console.err
        assert message in console.err
        assert len(everything(url)[0]) == 10
    with hub_at(url):
        assert console.run("import", stdin=lines) == 1
    assert "a hub is at work" in console.err
    assert console.run("import", "--skip-known", stdin=lines + line(id="id3")) == 0
    assert "1,200 updates were imported, 1 were there already" in console.err
    rows, marks = everything(url)
    assert (len(rows), marks.last, marks.events) == (1210, 1210, 4)


def test_a_selection_is_pruned(url: str, console: Console) -> None:
    fill(url)
    assert console.run("prune", "--topic", "b", "--dry-run") == 0
    assert "3 updates would be discarded" in console.err
    with hub_at(url):
        assert console.run("prune", "--topic", "b") == 0
    assert "0 updates were discarded" in console.err, "hubs on other machines may have to read them"
    assert console.run("prune", "--topic", "b", "--keep", "1") == 0
    assert "2 updates were discarded" in console.err
    console.run("export")
    assert console.ids == ["id1", "id3", "id4", "id6"]
    console.run("prune", "--keep", "1")
    with hub_at(url) as hub:
        assert hub.place_of("id3") is None
        assert hub.place_of("id6") == 10
        assert hub.store.beginning(10).updates == 10
        assert [entry.update.id for entry in hub.store.read(0, 10, ["b", "a"], 10).entries] == ["id6"]


def test_a_hub_that_starts_ends_a_copy(
    url: str,
    new_url: NewUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would send what is copied as new; the copy goes on when it has stopped."""
    source = new_url("sqlite")
    fill(source)
    monkeypatch.setattr("mercure_hub.tools.history.copying.BATCH", 4)
    with ExitStack() as stack:
        one = stack.enter_context(opened(source))
        other = stack.enter_context(opened(url, is_made=True))

        def start(_: int) -> None:
            stack.enter_context(hub_at(url))

        with pytest.raises(HistoryError, match="a hub "):
            copy(one, other, start)
    assert everything(url)[1].last == 4
    copied(source, url)
    assert everything(url) == everything(source)


def test_clients_resume_at_a_hub_on_the_copy(url: str, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/hub.db"
    with running_hub(tmp_path, anonymous=1, transport_url=source) as hub:
        ids = [hub.send("a", str(number)) for number in range(5)]
        copied(source, url)
        ids.append(hub.send("a", "5"))
    copied(source, url)
    with running_hub(tmp_path, anonymous=1, transport_url=url) as hub:
        stream = hub.subscribe({"match": "a"}, Last_Event_ID=ids[2])
        assert stream.take(3) == ["3", "4", "5"]
        assert stream.reply.headers["last-event-id"] == ids[2]
        hub.send("a", "6")
        assert stream.next().data == "6"


@pytest.mark.parametrize("command", [("stats",), ("export",), ("prune", "--keep", "1")])
def test_an_engine_without_a_history_is_told(command: tuple[str, ...], url: str, console: Console) -> None:
    assert console.run(*command) == 1
    assert "mercure-hub: there is no history " in console.err


def test_an_engine_that_is_away_is_told(console: Console, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    away = url.replace("://", "://somebody:secret@" if "@" not in url else "://", 1)
    host, _, rest = away.rpartition(":")
    monkeypatch.setenv("MERCURE_TRANSPORT_URL", f"{host}:1/{rest.partition('/')[2]}")
    assert console.run("stats") == 1
    assert "cannot be reached" in console.err
    assert len(console.err.splitlines()) == 1
    assert "secret" not in console.err
