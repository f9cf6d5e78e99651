"""Curves over the same time, one panel below the other, as SVG. Knows numbers and names, not what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT = 960, 64, 180
_TOP, _PANEL, _GAP, _BOTTOM = 40, 150, 38, 30
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Panel:
    """`curves` are names and their points (time, value)."""

    title: str
    curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]


def draw(title: str, panels: Sequence[Panel], seconds: float, marks: Sequence[tuple[float, str]]) -> str:
    """The picture; `marks` are moments that all panels show, with what happened then."""
    height = _TOP + len(panels) * (_PANEL + _GAP) + _BOTTOM
    span = max(seconds, 1e-9)

    def across(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(at / span, 0.0), 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _TOP + number * (_PANEL + _GAP), across, marks)
    foot = height - _BOTTOM + 8
    for at in _ticks(span):
        parts.append(f'<text x="{across(at):.1f}" y="{foot}" text-anchor="middle">{at:g} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, across: object, marks: Sequence[tuple[float, str]]) -> list[str]:
    assert callable(across)
    highest = max((value for _, points in panel.curves for _, value in points), default=0.0) or 1.0
    ticks = _ticks(highest, 4)
    highest = max(highest, ticks[-1])
    base, right = top + _GAP / 2 + _PANEL, _WIDTH - _RIGHT

    def up(value: float) -> float:
        return base - _PANEL * value / highest

    parts = [f'<text x="{_LEFT}" y="{top + 12:.1f}" font-weight="bold">{escape(panel.title)}</text>']
    for value in ticks:
        y = up(value)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for at, what in marks:
        x = across(at)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base - _PANEL:.1f}" y2="{base:.1f}" stroke="#bbb" '
            f'stroke-dasharray="2 3"><title>{escape(what)}</title></line>'
        )
    for index, (name, points) in enumerate(panel.curves):
        colour = _COLOURS[index % len(_COLOURS)]
        line = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = base - _PANEL + 14 + 18 * index
        parts.append(f'<line x1="{right + 10}" x2="{right + 30}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}"/>')
        parts.append(f'<text x="{right + 36}" y="{y}">{escape(name)}</text>')
    return parts


def _ticks(highest: float, most: int = 10) -> list[float]:
    """Round numbers from 0 to `highest`, `most` at most, so that whoever reads the axis finds them."""
    size = 1e-6
    while True:
        for step in _STEPS:
            if highest / (step * size) <= most:
                count = int(highest / (step * size) + 1e-9)
                return [round(step * size * number, 9) for number in range(count + 1)]
        size *= 10
