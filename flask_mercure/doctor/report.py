"""Findings as people read them, and as machines do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from flask_mercure.doctor.finding import Finding, Level
from mercure_hub.protocol.errors import reference

_MARKS = {
    Level.OK: "ok",
    Level.NOTE: "note",
    Level.SKIPPED: "skipped",
    Level.WARNING: "WARNING",
    Level.PROBLEM: "PROBLEM",
}
_MARK, _CHECK, _WIDTH = 9, 10, 100
_INDENT = " " * (_MARK + _CHECK)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether there is no problem."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def as_text(finding: Finding) -> str:
    """A finding for the terminal; one that is well takes one line, mostly."""
    head = f"{_MARKS[finding.level]:<{_MARK}}{finding.check:<{_CHECK}}"
    lines = textwrap.wrap(
        finding.summary,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # Lines of configuration are not wrapped: they are copied.
    lines += [f"{_INDENT}  {remedy.where}: {remedy.line}" for remedy in finding.remedies]
    if finding.section is not None:
        lines.append(f"{_INDENT}  see {reference(finding.section)}")
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = [
        f"{count} {level.value}{'s' if count > 1 else ''}"
        for level in (Level.PROBLEM, Level.WARNING)
        if (count := sum(finding.level is level for finding in findings))
    ]
    if not counts:
        return "Everything that was checked works."
    return ", ".join(counts) + "."


def as_document(hub: str | None, findings: Sequence[Finding]) -> dict[str, object]:
    """The findings about a hub, for JSON."""
    return {
        "hub": hub,
        "healthy": is_healthy(findings),
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.value,
                "summary": finding.summary,
                "remedies": [{"where": one.where, "line": one.line} for one in finding.remedies],
                "section": finding.section,
                "help": None if finding.section is None else reference(finding.section),
            }
            for finding in findings
        ],
    }
