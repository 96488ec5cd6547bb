"""Writes what was measured: a table in Markdown, a picture for each row, everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, plot
from bench.model import FLOOR, HUB, Line, Row, Target, number

LIMIT = 0.85
"""Share of a core from which on the load generator is the limit."""

_BEGIN = "<!-- {}: written by bench/publish.py -->"
_END = "<!-- end of the {} -->"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole measurement.

    :param command: that was given.
    :param started: date and time, UTC.
    :param size: full, quick or smoke.
    :param runs: of each case.
    :param absent: hubs that were not there, in words.
    :param variants: columns of our hub in another form, each of which has a column with the ratio to it.
    """

    command: str
    started: str
    size: str
    runs: int
    machine: Mapping[str, str]
    rows: Sequence[Row]
    absent: Sequence[str] = ()
    variants: Sequence[str] = ()


def write(outcome: Outcome, folder: Path, name: str = "results.json") -> None:
    """Write the results as JSON, and a picture for each row.

    :param name: of the file with the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(_lines(asdict(outcome)))
    for row in outcome.rows:
        if row.lines:
            (folder / f"{row.name}.svg").write_text(plot.svg(row))


def _lines(content: dict[str, Any]) -> str:
    """JSON with a line for each run: some hundred, which a person may want to compare."""
    rows = []
    for row in content["rows"]:
        runs = ",\n".join(json.dumps(one) for one in row["runs"])
        others = {name: value for name, value in row.items() if name != "runs"}
        rows.append(json.dumps({**others, "runs": []})[:-3] + f"[\n{runs}\n]}}")
    head = json.dumps({**content, "rows": []}, indent=1)
    return head.replace('"rows": []', '"rows": [\n' + ",\n".join(rows) + "\n]", 1) + "\n"


def read(path: Path) -> Outcome:
    """Read ``results.json`` again."""
    content: dict[str, Any] = json.loads(path.read_text())
    rows = [Row(**{**row, "lines": [_line(line) for line in row["lines"]]}) for row in content["rows"]]
    return Outcome(**{**content, "rows": rows})


def _line(content: dict[str, Any]) -> Line:
    target = content["target"]
    return Line(**{**content, "target": None if target is None else Target(**target)})


def markdown(outcome: Outcome, pictures: str = "") -> str:
    """The table, with the machine above it and the notes below it.

    :param pictures: folder of the pictures as the page links them; without it the pictures are not linked.
    """
    peers = _peers(outcome.rows)
    parts = [origin(outcome)]
    if outcome.absent:
        parts.append("\n".join(f"- {words}" for words in outcome.absent))
    variants = [name for name in outcome.variants if name in peers]
    head = ["load: measurement", HUB, *peers, *(f"of {name}" for name in variants), "ratio", "target", ""]
    table = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 3) + "---|---|"]
    notes: list[str] = []
    for row in outcome.rows:
        title = f"[{row.title}]({pictures}/{row.name}.svg)" if pictures and row.lines else row.title
        tail = f": *not measured: {row.skipped}*" if row.skipped else ""
        table.append(f"| **{title}**{tail} |" + " |" * (len(head) - 1))
        table += [_cells(row, line, peers, variants) for line in row.lines]
        older = [f"measured on {row.origin}"] if row.origin else []
        notes += [f"- {row.title}: {note}" for note in [*older, *row.notes, *_limits(row)]]
    parts.append("\n".join(table))
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def origin(outcome: Outcome) -> str:
    """When, on what and how often it was measured."""
    small = "" if outcome.size == "full" else f", of {outcome.size} size; the targets are for full size"
    return (
        f"Measured on {outcome.started}: {machine.sentence(dict(outcome.machine))}. "
        f"Each number is the median of {outcome.runs} run{'s' if outcome.runs > 1 else ''}"
        f"{small}."
    )


def short_origin(outcome: Outcome) -> str:
    """The same for rows beside those of another run."""
    python, revision = outcome.machine["python"], outcome.machine["revision"]
    return f"{outcome.started}, revision {revision}, Python {python}"


def _peers(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for line in row.lines for name in line.values)
    others = [name for name in names if name not in (HUB, FLOOR)]
    return [name for name in (FLOOR, *others) if name in names]


def _cells(row: Row, line: Line, peers: Sequence[str], variants: Sequence[str]) -> str:
    medians = [line.median(name) for name in (HUB, *peers)]
    ratios = [*(line.ratio_to(name) for name in variants), row.ratio(line)]
    met = row.is_met(line)
    cells = [
        f"{line.case}: {line.title}",
        *("" if value is None else number(value) for value in medians),
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "" if line.target is None else line.target.words(),
        "" if met is None else "met" if met else "**missed**",
    ]
    return "| " + " | ".join(cells) + " |"


def _limits(row: Row) -> list[str]:
    limited = [line for line in row.lines if line.generator is not None and line.generator >= LIMIT]
    return [
        f"the load generator used {line.generator:.0%} of a core in “{line.case}: {line.title}” and may have "
        "limited it"
        for line in limited
    ]


def refresh(page: Path, table: str, name: str = "table") -> None:
    """Put a table between its two marks on a page.

    :param name: that the marks have.
    :raises ValueError: the page does not have them.
    """
    text = page.read_text()
    first, last = _BEGIN.format(name), _END.format(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page} has no {first} and {last} to put the table between")
    page.write_text(f"{before}{first}\n\n{table}\n{last}{after}")
