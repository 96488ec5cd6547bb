"""``[[retention]]`` tables: what they mean, and mistakes with their remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercure_hub import cli
from mercure_hub.config.loading import load_settings
from mercure_hub.config.retention import MOST, RULE_KEYS
from mercure_hub.config.settings import SettingError, Settings, reference
from mercure_hub.storage.interface import Retention, Rule

SECRET = "a-secret-that-is-long-enough-for-HS256"
THREE = """
[[retention]]
match_urlpattern = "/answers/:id"
max_age = 3600

[[retention]]
match_urlpattern = "/orders/*"
max_age = 2592000
size = 100_000

[[retention]]
match = "gauge"
size_per_topic = 1
"""


def configured(path: Path, toml: str, **variables: str) -> Settings:
    (path / "hub.toml").write_text(toml)
    environment = {f"MERCURE_{name.upper()}": value for name, value in variables.items()}
    environment |= {"MERCURE_CONFIG": str(path / "hub.toml"), "MERCURE_PUBLISHER_JWT_KEY": SECRET}
    return load_settings(environment, {})


def test_tables_are_rules_in_their_order(tmp_path: Path) -> None:
    settings = configured(tmp_path, f"history_size = 10\n{THREE}", history_max_age="60")
    rules = (
        Rule("urlpattern", "/answers/:id", 0, 0, 3600.0),
        Rule("urlpattern", "/orders/*", 100_000, 0, 2592000.0),
        Rule("exact", "gauge", 0, 1, 0.0),
    )
    assert settings.retention == rules
    assert settings.kept == Retention(10, 60.0, rules)
    url = "https://example.com/.well-known/mercure"
    assert configured(tmp_path, THREE, public_url=url).kept == Retention(rules=rules, base=url)


def test_without_tables_there_are_no_rules(tmp_path: Path) -> None:
    assert configured(tmp_path, "").kept == Retention()


def test_a_table_without_limits_keeps_all(tmp_path: Path) -> None:
    assert configured(tmp_path, '[[retention]]\nmatch = "*"').retention == (Rule("exact", "*"),)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("retention = 5", "retention in PATH: is not a table; write [[retention]] above its keys"),
        ("[retention]\nsize = 5", "retention in PATH: is not a table; write [[retention]] above its keys"),
        ("[[retention]]\nsize = 5", "number 1 in PATH: match, match_urlpattern: neither is given; add one"),
        (
            '[[retention]]\nmatch = "a"\nmatch_urlpattern = "/a"',
            "number 1 in PATH: match, match_urlpattern: both are given; keep one",
        ),
        ("[[retention]]\nmatch = 5", "match: is 5; give a string that is not empty"),
        ('[[retention]]\nmatch = ""', "match: is ''; give a string that is not empty"),
        (f'{THREE}[[retention]]\nmatch = "a"\nage = 5', "number 4 in PATH: age: there is no such key; known"),
        *(
            (f'[[retention]]\nmatch = "a"\n{name} = {value}', f"{name}: is ")
            for name, value in [
                *[("size", value) for value in ("0", "-1", "1.5", '"5"', "true")],
                *[("size_per_topic", value) for value in ("0", "-1")],
                *[("max_age", value) for value in ("0", "-1", "inf", "nan", '"1 h"', "true")],
            ]
        ),
        ('[[retention]]\nmatch_urlpattern = "/{a"', "is not a well-formed URL Pattern"),
        ('[[retention]]\nmatch = "a\\u0000"', "holds the control or format character"),
        ('[[retention]]\nmatch = "a"\n' * (MOST + 1), f"{MOST + 1} tables; the limit is {MOST}"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        configured(tmp_path, toml)
    message = str(caught.value)
    assert said.replace("PATH", str(tmp_path / "hub.toml")) in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("url", ["redis://localhost/0", "valkey://localhost/0", "postgresql://localhost/m"])
def test_every_engine_has_rules(tmp_path: Path, url: str) -> None:
    assert len(configured(tmp_path, THREE, transport_url=url).retention) == 3


def test_check_shows_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hub.toml").write_text(f'publisher_jwt_key = "{SECRET}"\n{THREE}[[retention]]\nmatch = "*"\n')
    assert cli.main(["check", "--config", "hub.toml"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "# retention" in line] == [
        "# retention: urlpattern '/answers/:id': updates of the last 3600 s",
        "# retention: urlpattern '/orders/*': the last 100000 updates, none older than 2592000 s",
        "# retention: exact 'gauge': the last update of each topic",
        "# retention: exact '*': all updates",
    ]


def test_the_reference_has_every_key() -> None:
    for key in RULE_KEYS:
        assert f"| `{key.name}` | {key.text}" in reference()
