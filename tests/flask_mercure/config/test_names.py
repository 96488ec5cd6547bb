"""Names that begin like a setting and are none."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_mercure import Mercure
from flask_mercure.config.settings import KEYS, unknown_names
from mercure_hub.config.settings import VARIABLES
from tests.flask_mercure.fake_hub import SECRET


def test_every_setting_of_app_and_hub_is_known() -> None:
    assert list(unknown_names(KEYS, VARIABLES)) == []
    assert list(unknown_names(VARIABLES, KEYS)) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MERCURE_PUBLIC_ULR", "; did you mean MERCURE_PUBLIC_URL?"),
        ("MERCURE_JWT_SECRETS", "; did you mean MERCURE_JWT_SECRET?"),
        ("MERCURE_VERIFY_SSL", "; did you mean MERCURE_VERIFY_TLS?"),
        ("MERCURE_MINE", ""),
    ],
)
def test_an_unknown_name_in_the_configuration_is_told(name: str, hint: str) -> None:
    said = f"{name} in the app's configuration is not a setting of flask-mercure{hint}"
    assert list(unknown_names([name, "MERCURE_URL", "OTHER", 5], [])) == [said]
    assert list(unknown_names([name], [name])) == [said]


def test_a_variable_is_named_only_if_it_nearly_is_a_setting() -> None:
    environment = ["MERCURE_PUBLIC_ULR", "MERCURE_SERVICE_HOST", "MERCURE_PORT_3000_TCP_ADDR", "HOME"]
    (said,) = unknown_names([], environment)
    assert said.startswith("MERCURE_PUBLIC_ULR in the environment is not a setting of flask-mercure; did you")


def test_a_starting_app_warns_of_unknown_names(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERCURE_JWT_SECERT", "hunter2")
    app = Flask("app")
    app.config.update(MERCURE_JWT_SECRET=SECRET, MERCURE_PUBLIC_ULR="https://example.com/hub")
    Mercure(app)
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [
        "MERCURE_JWT_SECERT",
        "MERCURE_PUBLIC_ULR",
    ]
    assert "hunter2" not in caplog.text
