"""Puts a measurement into the documentation.

    python -m bench.publish build/bench/results.json

writes docs/performance/ with the long tables, and the short ones of docs/performance.md. A run of some rows
replaces these and leaves the others as they are, if it was made on the same kind of machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import report, summary
from bench.report import Outcome
from bench.rows import GROUPS, SUBJECTS

DOCS = Path(__file__).parent.parent / "docs"
_SAME = ("processor", "cores")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :returns: exit status: 0, or 2 if the measurement is not published.
    """
    parser = argparse.ArgumentParser(description="Put a measurement into docs/performance.md.")
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of performance.md")
    parser.add_argument("--alone", action="store_true", help="drop what was published before")
    options = parser.parse_args(arguments)
    outcome = report.read(options.results)
    if outcome.size != "full":
        sys.stderr.write(f"{options.results} is of {outcome.size} size; only a full run is published\n")
        return 2
    published = options.docs / "performance/results.json"
    if published.exists() and not options.alone:
        before = report.read(published)
        if not _is_same(before, outcome):
            sys.stderr.write("what is published is of another machine; --alone drops it\n")
            return 2
        outcome = merged(before, outcome)
    report.write(outcome, published.parent)
    show(outcome, options.docs)
    return 0


def show(outcome: Outcome, docs: Path) -> None:
    """Write all tables of a measurement.

    :param docs: folder of performance.md.
    """
    engines = [row for row in outcome.rows if row.name in GROUPS["engines"]]
    others = [row for row in outcome.rows if row not in engines]
    for rows, name in (others, "table"), (engines, "table of engines"):
        if rows:
            part = replace(outcome, rows=rows)
            report.refresh(docs / "performance/README.md", report.markdown(part, pictures="."), name)
    if others:
        short = summary.markdown(others, outcome.machine["python"], outcome.variants)
        report.refresh(docs / "performance.md", f"{report.origin(outcome)}\n\n{short}", "table")
        report.refresh(docs / "performance.md", summary.sizes(others), "table of sizes")


def merged(before: Outcome, outcome: Outcome) -> Outcome:
    """A measurement with those rows of an older one that it lacks; these say when they were measured."""
    new = {row.name for row in outcome.rows}
    kept = [
        replace(row, origin=row.origin or report.short_origin(before))
        for row in before.rows
        if row.name not in new
    ]
    order = {subject.name: place for place, subject in enumerate(SUBJECTS)}
    rows = sorted([*outcome.rows, *kept], key=lambda row: order.get(row.name, len(order)))
    return replace(
        outcome,
        rows=rows,
        absent=list(dict.fromkeys([*outcome.absent, *(before.absent if kept else [])])),
        variants=list(dict.fromkeys([*outcome.variants, *(before.variants if kept else [])])),
    )


def _is_same(before: Outcome, outcome: Outcome) -> bool:
    return all(before.machine.get(name) == outcome.machine.get(name) for name in _SAME)


if __name__ == "__main__":
    sys.exit(main())
