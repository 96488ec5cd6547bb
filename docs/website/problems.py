"""The page of the names of problems: ``python -m docs.website.problems``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from flask_mercure.doctor.findings import Symptom
from mercure_hub.protocol.errors import PAGE, Section, problem_type

_HEADING = re.compile(r'^<a id="([a-z-]+)"></a>\n### (.+)$', re.MULTILINE)
_INTRODUCTION = f"""# Names of problems

<!-- Made from hub/mercure_hub/protocol/errors.py, flask_mercure/doctor/findings.py and the headings of
the page by `make docs`. -->

A refusal of the hub is a problem document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). Its `type` is
`{problem_type(Section.AUDIENCE).removesuffix(Section.AUDIENCE)}` with one of these names; in the findings of
[the doctor](doctor.md), `section` is the name alone. A name stays what it is in later versions.

| name | |
|---|---|
"""


def page(troubleshooting: str) -> str:
    """The page, in Markdown.

    :param troubleshooting: text of the page with the sections.
    """
    headings = dict(_HEADING.findall(troubleshooting))
    linked = Path(PAGE).name
    rows = [
        f"| `{section}` | [{headings[section]}]({linked}#{section}) |\n" for section in (*Section, *Symptom)
    ]
    return _INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page((Path(__file__).parents[1] / PAGE.rpartition("/")[2]).read_text(encoding="utf-8")))
