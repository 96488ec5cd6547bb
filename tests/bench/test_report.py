"""The table, the pictures, the JSON, and the page that shows them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import publish, report
from bench.model import Line, Row
from bench.plot import svg
from tests.bench.outcome import FANOUT, OUTCOME

PAGE = Path(__file__).parents[2] / "docs/performance.md"


def test_the_table() -> None:
    lines = report.markdown(OUTCOME, pictures="performance").splitlines()
    assert "2 cores of Example 9000" in lines[0]
    assert "median of 3 runs." in lines[0]
    assert "| load: measurement | hub | floor | nchan | ratio | target |  |" in lines
    assert "| **[Fan-out](performance/fanout.svg)** | | | | | | |" in lines
    assert (
        "| 1,000 subscribers: deliveries per CPU-second | 95.0 | 100 | 50.0 | 0.95 | ≥ 0.9 x floor | met |"
        in lines
    )
    assert (
        "| 1,000 subscribers: bytes per idle subscriber (PSS) | 2,000 |  |  |  | ≤ 1,024 | **missed** |"
        in lines
    )
    assert "| **Two processes**: *not measured: the hub says: no* | | | | | | |" in lines
    assert "- nchan is not here" in lines
    assert "- Fan-out: a note" in lines
    assert any("load generator used 97% of a core" in line for line in lines)


def test_each_line_of_the_table_has_as_many_cells() -> None:
    lines = [line for line in report.markdown(OUTCOME).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}


def test_another_form_of_the_hub_has_a_column_and_one_with_the_ratio() -> None:
    line = Line("case", "figure", {"hub": [10.0, 30.0], "before": [20.0, 20.0]})
    outcome = replace(OUTCOME, rows=[Row("row", "Row", [line])], variants=["before", "not measured"])
    lines = report.markdown(outcome).splitlines()
    assert "| load: measurement | hub | before | of before | ratio | target |  |" in lines
    assert "| case: figure | 20.0 | 20.0 | 1.00 |  |  |  |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    report.write(OUTCOME, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fanout.svg", "results.json"]
    assert report.read(tmp_path / "out/results.json") == OUTCOME


def test_the_picture_is_well_formed() -> None:
    row = Row("name", 'A <b> & "c"', FANOUT.lines)
    tree = ElementTree.fromstring(svg(row))
    space = "{http://www.w3.org/2000/svg}"
    assert tree.attrib["aria-label"] == 'A <b> & "c"'
    bars = tree.findall(f"{space}rect")[1:]
    assert len(bars) == 4
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] > widths[1] > widths[2]  # floor, hub, nchan
    paths = [path.attrib["stroke"] for path in tree.findall(f"{space}path")]
    assert paths.count("#212529") == 3  # a single run has no span
    assert paths.count("#b02a37") == 2  # the targets
    assert {"floor", "hub", "nchan", "95.0"} <= {text.text for text in tree.iter(f"{space}text")}


def test_a_long_name_has_room() -> None:
    line = replace(FANOUT.lines[0], case="a name of a case that is longer than most of them are")
    tree = ElementTree.fromstring(svg(Row("name", "title", [line])))
    texts = [one for one in tree.iter("{http://www.w3.org/2000/svg}text") if one.text == line.case]
    assert float(texts[0].attrib["x"]) > len(line.case) * 6.5


def test_a_table_of_zeros_has_a_picture() -> None:
    line = replace(FANOUT.lines[1], values={"hub": [0.0]})
    ElementTree.fromstring(svg(Row("name", "title", [line])))


def test_a_measurement_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "docs/performance.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    report.write(OUTCOME, tmp_path / "out")
    arguments = ["publish", str(tmp_path / "out/results.json"), "--docs", str(page.parent)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert publish.main() == 0
    once = page.read_text()
    assert "Example 9000" in once
    assert once.splitlines()[0] == PAGE.read_text().splitlines()[0]
    assert (page.parent / "performance/fanout.svg").exists()
    assert publish.main() == 0
    assert page.read_text() == once


def test_engines_have_a_table_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one kind of rows leaves the other's table and file alone."""
    page = tmp_path / "performance.md"
    page.write_text(PAGE.read_text())
    report.write(replace(OUTCOME, rows=[replace(FANOUT, name="appends")]), tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path / "out/results.json"), "--docs", str(tmp_path)])
    assert publish.main() == 0
    names = sorted(path.name for path in (tmp_path / "performance").iterdir())
    assert names == ["appends.svg", "engines.json"]
    before, _, after = page.read_text().partition("<!-- table of engines: written by bench/publish.py -->")
    assert before == PAGE.read_text().partition("<!-- table of engines")[0]
    assert "Example 9000" in after


def test_only_a_full_run_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(replace(OUTCOME, size="quick"), tmp_path)
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path / "results.json"), "--docs", str(tmp_path)])
    assert publish.main() == 2
    assert "only a full run is published" in capsys.readouterr().err


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match="to put the table between"):
        report.refresh(page, "table")


def test_the_published_results_are_those_of_the_page() -> None:
    """Nobody has edited a number by hand."""
    for published in (PAGE.parent / "performance").glob("*.json"):
        table = report.markdown(report.read(published), pictures="performance")
        assert table in PAGE.read_text()
        assert "Bearer" not in json.dumps(json.loads(published.read_text()))
