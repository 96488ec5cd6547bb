"""Draws a row as an SVG: a bar for each contestant of each case, with the span of its runs and the target."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.model import HUB, Line, Row, number

_BARS, _VALUE, _NAME = 380, 110, 62
_CHARACTER = 6.8  # width that is left for one; the fonts of readers differ
_BAR, _GAP, _TITLE, _BELOW = 15, 7, 28, 18
_COLOURS = {HUB: "#2a6f97", "floor": "#adb5bd", "nchan": "#c98b2b"}
_OTHER, _DARK, _GREY, _LIMIT = "#7b5ea7", "#212529", "#495057", "#b02a37"


def svg(row: Row) -> str:
    """The picture of a row; each figure has a panel with a scale of its own.

    A red line is the target; a bar of the hub is on the right side of it or not.
    """
    left = _NAME + _CHARACTER * max(len(line.case) for line in row.lines)
    width = round(left + _BARS + _VALUE)
    parts: list[str] = []
    y = 34
    for title in dict.fromkeys(line.title for line in row.lines):
        parts.append(f'<text x="12" y="{y + 18}" fill="{_GREY}">{escape(title)}</text>')
        y += _TITLE
        drawn, y = _panel(row, [line for line in row.lines if line.title == title], left, y)
        parts += drawn
        y += _BELOW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{escape(row.title)}">\n'
        f'<rect width="{width}" height="{y}" fill="#ffffff"/>\n'
        f'<text x="12" y="22" font-size="14" font-weight="600" fill="{_DARK}">{escape(row.title)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _panel(row: Row, lines: Sequence[Line], left: float, y: int) -> tuple[list[str], int]:
    most = max(max(values) for line in lines for values in line.values.values())
    scale = _BARS / most if most > 0 else 0.0
    parts: list[str] = []
    for line in lines:
        parts.append(_text(left - _NAME, y + 12, line.case, _DARK))
        limit = row.limit(line)
        for name in line.values:
            parts += _bar(line, name, left, y, scale)
            if name == HUB and limit is not None and 0 < limit * scale <= _BARS:
                x = left + limit * scale
                parts.append(
                    f'<path d="M{x:.1f} {y - 2}v{_BAR + 4}" stroke="{_LIMIT}" stroke-width="2" fill="none"/>'
                )
            y += _BAR + 2
        y += _GAP
    return parts, y


def _bar(line: Line, name: str, left: float, y: int, scale: float) -> list[str]:
    values, middle = line.values[name], line.median(name) or 0.0
    length = max(1.0, middle * scale)
    low, high = (left + max(0.0, value) * scale for value in (min(values), max(values)))
    colour = _COLOURS.get(name, _OTHER)
    parts = [
        _text(left - 6, y + 12, name, _GREY),
        f'<rect x="{left:.1f}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
    ]
    if len(values) > 1:
        centre = y + _BAR / 2
        ends = "".join(f"M{x:.1f} {centre - 3}v6" for x in (low, high))
        parts.append(f'<path d="M{low:.1f} {centre}H{high:.1f}{ends}" stroke="{_DARK}" fill="none"/>')
    end = max(left + length, high) + 6
    parts.append(f'<text x="{end:.1f}" y="{y + 12}" fill="{_DARK}">{number(middle)}</text>')
    return parts


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="end" fill="{colour}">{escape(text)}</text>'
