"""Puts a measurement into the documentation.

    python -m bench.publish build/bench/results.json

writes docs/performance/ and the table in docs/performance.md. The rows about engines have a table and a file
of their own; a run of only one kind leaves the other as it is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.rows import GROUPS

DOCS = Path(__file__).parent.parent / "docs"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Put a measurement into docs/performance.md.")
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of performance.md")
    options = parser.parse_args()
    outcome = report.read(options.results)
    if outcome.size != "full":
        sys.stderr.write(f"{options.results} is of {outcome.size} size; only a full run is published\n")
        return 2
    engines = [row for row in outcome.rows if row.name in GROUPS["engines"]]
    others = [row for row in outcome.rows if row not in engines]
    parts = (others, "results.json", "table"), (engines, "engines.json", "table of engines")
    for rows, file, name in parts:
        if rows:
            part = replace(outcome, rows=rows)
            report.write(part, options.docs / "performance", file)
            report.refresh(
                options.docs / "performance.md", report.markdown(part, pictures="performance"), name
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
