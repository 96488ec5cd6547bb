"""The table, the pictures, the JSON, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import publish, report, summary
from bench.model import Line, Row, Target
from bench.plot import svg
from tests.bench.outcome import FANOUT, OUTCOME, SKIPPED

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("performance.md", "performance/README.md")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """The pages, with nothing published beside them."""
    folder = tmp_path / "docs"
    for page in PAGES:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text((DOCS / page).read_text())
    return folder


def published(docs: Path, outcome: report.Outcome, *options: str) -> int:
    """Publish a measurement; the exit status of the command."""
    report.write(outcome, docs.parent / "out")
    return publish.main([str(docs.parent / "out/results.json"), "--docs", str(docs), *options])


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


def test_a_measurement_is_published(docs: Path) -> None:
    fast = Line(
        "1,000 subscribers x 200 updates", "deliveries per CPU-second", {"hub": [9.0], "floor": [10.0]}
    )
    fast = replace(fast, target=Target(0.9, at_least=True, of="floor"))
    outcome = replace(OUTCOME, rows=[replace(FANOUT, lines=[fast])])
    assert published(docs, outcome) == 0
    long, short = (docs / "performance/README.md").read_text(), (docs / "performance.md").read_text()
    assert "[Fan-out](./fanout.svg)" in long
    assert (docs / "performance/fanout.svg").exists()
    for text in (long, short):
        assert "Example 9000" in text
    assert (
        "| An update for 1,000 subscribers of a topic | 9.00 deliveries a second and core "
        "| 0.90 of a C loop of `send()` |" in short.splitlines()
    )
    assert "| a core: deliveries a second | 4 |" in short.splitlines()
    assert published(docs, outcome) == 0
    assert (docs / "performance.md").read_text() == short


def test_another_python_has_a_line_in_the_short_table() -> None:
    """Of the CPU: few deliveries for a second of it are much CPU."""
    name = "Python 3.11.7"
    fan = Line("1,000 subscribers x 200 updates", "deliveries per CPU-second", {"hub": [10.0], name: [8.0]})
    publish = Line("64 publishers", "µs of CPU per publish", {"hub": [30.0], name: [40.0]})
    rows = [Row("fanout", "", [fan]), Row("publish", "", [publish])]
    lines = summary.markdown(rows, "3.13.1", ["before", name]).splitlines()
    assert (
        "| CPU with Python 3.13.1, of that with Python 3.11.7 | 0.75 for publishing, 0.80 for fan-out | |"
        in lines
    )
    assert sum("CPU with Python" in line for line in lines) == 1


def test_engines_have_a_table_of_their_own(docs: Path) -> None:
    before, _, _ = (docs / "performance/README.md").read_text().partition("<!-- table of engines")
    short = (docs / "performance.md").read_text()
    assert published(docs, replace(OUTCOME, rows=[replace(FANOUT, name="appends")])) == 0
    first, _, after = (docs / "performance/README.md").read_text().partition("<!-- table of engines")
    assert first == before
    assert "Example 9000" in after
    assert (docs / "performance.md").read_text() == short


def test_some_rows_join_what_is_published(docs: Path) -> None:
    """Rows of another run say so, also when a third one comes."""
    assert published(docs, OUTCOME) == 0
    later = replace(OUTCOME, started="2026-02-03 04:05 UTC", rows=[replace(SKIPPED, skipped="", title="New")])
    assert published(docs, later) == 0
    rows = report.read(docs / "performance/results.json").rows
    origin = "2026-01-02 03:04 UTC, revision abc1234, Python 3.13.1"
    assert [(row.name, row.title, row.origin) for row in rows] == [
        ("fanout", "Fan-out", origin),
        ("workers", "New", ""),
    ]
    text = (docs / "performance/README.md").read_text()
    assert "Measured on 2026-02-03" in text
    assert f"- Fan-out: measured on {origin}" in text
    third = replace(OUTCOME, started="2026-03-04 05:06 UTC", rows=[replace(FANOUT, name="burst")])
    assert published(docs, third) == 0
    rows = report.read(docs / "performance/results.json").rows
    assert [(row.name, row.origin[:10]) for row in rows] == [
        ("fanout", "2026-01-02"),
        ("burst", ""),
        ("workers", "2026-02-03"),
    ]


def test_rows_of_another_machine_do_not_join(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert published(docs, OUTCOME) == 0
    other = replace(OUTCOME, machine={**OUTCOME.machine, "cores": "4"}, rows=[SKIPPED])
    assert published(docs, other) == 2
    assert "another machine; --alone" in capsys.readouterr().err
    assert published(docs, other, "--alone") == 0
    assert [row.name for row in report.read(docs / "performance/results.json").rows] == ["workers"]


def test_only_a_full_run_is_published(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert published(docs, replace(OUTCOME, size="quick")) == 2
    assert "only a full run is published" in capsys.readouterr().err


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match="to put the table between"):
        report.refresh(page, "table")


def test_the_published_results_are_those_of_the_pages(tmp_path: Path) -> None:
    """Nobody has edited a number by hand."""
    results = DOCS / "performance/results.json"
    assert "Bearer" not in json.dumps(json.loads(results.read_text()))
    (tmp_path / "performance").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text((DOCS / page).read_text())
    publish.show(report.read(results), tmp_path)
    for page in PAGES:
        assert (tmp_path / page).read_text() == (DOCS / page).read_text(), page
