"""The printed files: those in docs/ are the same, nothing is left open, nothing can be smuggled in."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest

from mercure_hub.cli import main
from mercure_hub.config.settings import TABLE
from mercure_hub.tools.installation.pieces import PAGES, PIECES, Layout, LayoutError, render
from tests.hub.running import RunningHub
from tests.needs import need

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("path", PAGES)
def test_docs_have_what_is_printed(path: str) -> None:
    """``make docs`` writes them."""
    piece, layout = PAGES[path]
    assert (DOCS / path).read_text() == render(piece, layout)


@pytest.mark.parametrize("piece", PIECES)
def test_no_placeholder_is_left_in_the_files(piece: str) -> None:
    for layout in (
        Layout(),
        Layout(authority="/x.pem", user="shop", state="/srv/state", port=4000),
        Layout(transport_url="postgresql://db/x", hubs=("a:1", "b:2")),
        Layout(transport_url="valkey://127.0.0.1/0", authority="/x.pem", hubs=("[::1]:1",)),
    ):
        text = render(piece, layout)
        assert not re.search(r"@[A-Z_]+@|@if |@end@", text)
        assert text.endswith("\n")
        assert "\n\n\n" not in text
        assert all(line == line.rstrip() for line in text.splitlines())


def test_given_values_are_in_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--public-url", "https://shop.test:8443/live", "--listen", "[::1]:4000", "--user", "shop"]
    flags += ["--state", "/srv/state", "--executable", "/opt/x/bin/mercure-hub"]
    assert main(["install", "--print", "systemd", *flags]) == 0
    unit = capsys.readouterr().out
    assert "ExecStart=/opt/x/bin/mercure-hub\n" in unit
    assert "User=shop\n" in unit
    assert "ReadWritePaths=/srv/state\n" in unit
    assert "DynamicUser" not in unit
    assert main(["install", "--print", "apache", *flags]) == 0
    apache = capsys.readouterr().out
    assert '<Location "/live">' in apache
    assert 'ProxyPass "http://[::1]:4000/live" ' in apache
    assert main(["install", "--print", "environment", *flags]) == 0
    assert "MERCURE_LISTEN=[::1]:4000\n" in capsys.readouterr().out
    assert main(["install", "--print", "caddy", *flags]) == 0
    assert "\nshop.test:8443 {\n" in capsys.readouterr().out


def test_the_settings_of_the_hub_count_and_flags_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('listen = "127.0.0.1:1111"\npublic_url = "https://a.test/hub"\n')
    monkeypatch.setenv("MERCURE_CONFIG", str(file))
    main(["install", "--print", "nginx"])
    assert "location ^~ /hub {" in capsys.readouterr().out
    monkeypatch.setenv("MERCURE_LISTEN", "0.0.0.0:2222")
    main(["install", "--print", "nginx"])
    assert "proxy_pass http://127.0.0.1:2222;" in capsys.readouterr().out
    main(["install", "--print", "nginx", "--listen", "127.0.0.1:3333"])
    assert "proxy_pass http://127.0.0.1:3333;" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"public_url": 'https://a"b/x'},
        {"public_url": "https://example.com/a b"},
        {"public_url": "https://example.com/x\n}\nserver {"},
        {"public_url": "https://example.com"},
        {"public_url": "ftp://example.com/x"},
        {"state": "/var/lib/../../etc"},
        {"state": "relative"},
        {"state": "/srv/state"},
        {"state": "/var/lib/a b"},
        {"settings": "/etc/x;y"},
        {"executable": "mercure-hub"},
        {"executable": "/bin/sh\nUser=root"},
        {"executable": "/bin/$(id)"},
        {"user": "root\nx"},
        {"upstream": "a; evil"},
        {"authority": "/a\tb"},
        {"certificate": "'"},
        {"streams": 0},
        {"hubs": ("a:1; evil",)},
        {"hubs": ("a",)},
        {"transport_url": "postgresql://db/x\nMERCURE_ANONYMOUS=1"},
        {"transport_url": "postgresql://db/'x"},
        {"transport_url": "mysql://db/x"},
    ],
)
def test_no_value_changes_the_form_of_a_file(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(LayoutError, match=f"^{name}: "):
        replace(Layout(), **wrong)  # type: ignore[arg-type]


def test_the_command_refuses_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--print", "nginx", "--listen", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("mercure-hub: listen: 'nowhere' is not an address")
    with pytest.raises(SystemExit):
        main(["install"])
    with pytest.raises(SystemExit):
        main(["install", "--print", "windows"])


ENGINES = [
    ("postgresql://m:secret@localhost/x", "network.target postgresql.service", True),
    ("postgresql:///x?host=/run/postgresql", "network.target postgresql.service", True),
    ("postgresql://m@db1,db2/x", "network-online.target", False),
    ("redis://127.0.0.1:6379/0", "network.target valkey-server.service redis-server.service", True),
    ("redis+sentinel://127.0.0.1:26379/main", "network-online.target", False),
]


@pytest.mark.parametrize(("url", "after", "is_local"), ENGINES)
def test_a_hub_with_an_engine_has_no_file(
    url: str, after: str, is_local: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on this machine starts first; the URL, which may hold a password, is in hub.env only."""
    monkeypatch.setenv("MERCURE_TRANSPORT_URL", url)
    printed = {}
    for piece in PIECES:
        assert main(["install", "--print", piece]) == 0
        printed[piece] = capsys.readouterr().out
    unit = printed["systemd"]
    assert f"\nAfter={after}\n" in unit
    assert f"\nWants={after.removeprefix('network.target ')}\n" in unit
    for piece in ("systemd", "supervisor", "docker", "compose"):
        assert "/var/lib/mercure/mercure.db" not in printed[piece]
    assert "StateDirectory" not in unit
    assert "ReadWritePaths" not in unit
    assert "WorkingDirectory" not in unit
    assert f"MERCURE_TRANSPORT_URL={url}" in printed["environment"].replace("'", "")
    assert [piece for piece, text in printed.items() if "secret@" in text and piece != "environment"] == []


@pytest.mark.minutes
def test_a_url_is_quoted_for_the_shell_that_reads_it(tmp_path: Path) -> None:
    url = "postgresql://m:p$a`b@db/x?a=b&c=d"
    file = tmp_path / "hub.env"
    file.write_text(render("environment", Layout(transport_url=url)))
    done = subprocess.run(
        ["sh", "-c", f'. {file}; printf %s "$MERCURE_TRANSPORT_URL"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == url


def test_several_hubs_are_behind_one_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--listen", "10.0.0.11:3000", "--hub", "10.0.0.12:3000", "--hub", "10.0.0.13:3000"]
    assert main(["install", "--print", "nginx-hubs", *flags]) == 0
    assert capsys.readouterr().out.count("    server 10.0.0.1") == 2 * 3  # each of them again as a spare
    assert main(["install", "--print", "nginx", *flags]) == 0
    assert "proxy_pass http://mercure-hubs;" in capsys.readouterr().out
    assert main(["install", "--print", "apache", *flags]) == 0
    assert capsys.readouterr().out.count("    BalancerMember ") == 3
    assert main(["install", "--print", "caddy", *flags]) == 0
    assert "reverse_proxy http://10.0.0.11:3000 http://10.0.0.12:3000 http://10.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("streams", "numbers"),
    [(300, (100, 500, 10, 600)), (1000, (250, 1500, 12, 1500)), (3500, (500, 4000, 16, 3000))],
)
def test_apaches_numbers_are_those_that_were_measured(streams: int, numbers: tuple[int, ...]) -> None:
    text = render("apache-workers", Layout(streams=streams))
    for name, number in zip(
        ("ThreadsPerChild", "MaxRequestWorkers", "ServerLimit", "H2MaxWorkers"), numbers, strict=True
    ):
        assert re.search(rf"{name} +{number}\n", text)


@pytest.mark.minutes
def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """systemd's own measure: 0 is closed, 10 is open."""
    need("systemd")
    unit = tmp_path / "mercure-hub.service"
    unit.write_text(render("systemd", Layout(executable=sys.executable)))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_of_supervisor_starts_the_hub() -> None:
    program = ConfigParser(inline_comment_prefixes=(" ;",), interpolation=None)
    program.read_string(render("supervisor", Layout()))
    section = program["program:mercure-hub"]
    assert section["command"].endswith('exec /opt/mercure/bin/mercure-hub"')
    assert section["user"] == "mercure"


@pytest.mark.minutes
def test_the_dockerfile_matches_the_page(hub: RunningHub) -> None:
    """There is no engine here; what can be tried of it is."""
    text = render("docker", Layout(port=hub.port)).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    known = {
        "FROM",
        "ARG",
        "COPY",
        "RUN",
        "USER",
        "WORKDIR",
        "VOLUME",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert {line.split()[0] for line in lines} == known
    assert set(re.findall(r"MERCURE_[A-Z_]+", text)) <= {setting.variable for setting in TABLE}
    (check,) = re.findall(r'"-c", "([^"]+)"', text)
    assert check.startswith("import urllib.request; urllib.request.urlopen(")
    (url,) = re.findall(r"'(http:[^']+)'", check)
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200
