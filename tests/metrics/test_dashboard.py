"""The dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.metrics.catalogue import CATALOGUE
from mercure_hub.metrics.exposition import Storage
from mercure_hub.metrics.tally import Board
from tests.metrics.test_tally import read

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "mercure-hub.json"
NAME = re.compile(r"\bmercure_[a-z_]+")
LABELS = re.compile(r"\b(?:by|without) \(([^)]*)\)|\{([^}]*)\}")


def panels() -> list[Any]:
    found: list[Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


QUERIES = [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_names_what_there_is(query: str) -> None:
    there_is = read(Board(1), Storage(True, 1, 1))
    names = NAME.findall(query)
    assert names
    for name in names:
        labels = {label for found, pairs in there_is for label, _ in pairs if found == name}
        assert labels or (name, ()) in there_is, name
    known = {label for _, pairs in there_is for label, _ in pairs} | {"job", "instance"}
    for match in LABELS.finditer(query):
        for label in re.findall(r"[a-z_]+(?==)|^[a-z_]+$", (match[1] or match[2]).replace(",", "\n"), re.M):
            assert label in known, label


def test_each_family_is_shown() -> None:
    """What nobody looks at need not be counted."""
    for family in CATALOGUE:
        assert any(family.name in query for query in QUERIES), family.name


def test_the_panels_do_not_lie_over_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
