"""Puts a measurement into the documentation.

    python -m bench.publish build/bench/results.json

writes docs/performance/ and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import report

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
    report.write(outcome, options.docs / "performance")
    report.refresh(options.docs / "performance.md", report.markdown(outcome, pictures="performance"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
