"""The package itself."""

from __future__ import annotations

import pickle
from importlib.metadata import version

import flask_mercure
from flask_mercure import HubUnreachable, SomeHubsFailed


def test_version_is_that_of_the_distribution() -> None:
    assert flask_mercure.__version__ == version("flask-mercure")


def test_the_error_of_several_hubs_passes_from_process_to_process() -> None:
    away = HubUnreachable("no connection", possibly_published=True)
    error = SomeHubsFailed(published_ids={"eu": "1"}, errors={"us": away})
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.published_ids == {"eu": "1"}
    assert copy.possibly_published
    assert copy.errors["us"].possibly_published
