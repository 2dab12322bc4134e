"""Charts as SVG in one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import attrs

from xenolect.units import format_seconds

__all__ = ["Line", "Mark", "chart", "facts", "page"]

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 44, 42

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #66717f; --rule: #dfe4ea; --paper: #fff;
  --a: #1f6feb; --b: #c2410c; --c: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #98a3b0; --rule: #2b333d;
  --paper: #12161b; --a: #6cb0ff; --b: #ff9b6a; --c: #5fd38a; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 780px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .title { fill: var(--ink); font-weight: 600; font-size: 13px; }
.rule { stroke: var(--rule); } .mark { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; } .band { stroke: none; opacity: .18; }
.a { stroke: var(--a); } .b { stroke: var(--b); } .c { stroke: var(--c); }
.fa { fill: var(--a) !important; } .fb { fill: var(--b) !important; } .fc { fill: var(--c) !important; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left;
  vertical-align: top; } td { font-variant-numeric: tabular-nums; } th { font-weight: 400;
  color: var(--soft); white-space: nowrap; }
svg .name { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.grid td { white-space: nowrap; } .grid .long { white-space: normal; min-width: 9rem; }
"""


@attrs.frozen
class Line:
    """A curve over seconds; ``low`` and ``high`` draw a band around it. ``colour``: "a", "b" or "c"."""

    name: str
    at: Sequence[float]
    value: Sequence[float]
    colour: str = "a"
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@attrs.frozen
class Mark:
    """A level that means something: a horizontal rule with its name above it, or ``below``."""

    value: float
    name: str
    below: bool = False


def chart(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    *,
    log: bool = False,
    of: str = "",
) -> str:
    """Curves over time as one ``<svg>``; ``log``: powers of ten on the axis, else shares in per cent.

    ``of``: not over time but over a number of these, by powers of ten as well.
    """
    lines = [line for line in lines if line.at]
    if not lines:
        return f"<p>{escape(title)}: there is nothing to draw.</p>"
    end = max(max(line.at) for line in lines) or 1.0
    sizes = sorted({t for line in lines for t in line.at}) if of else []
    first, last = (math.log10(max(sizes[0], 0.5)), math.log10(end)) if of else (0.0, 1.0)
    values = [v for line in lines for v in (*line.value, *line.low, *line.high)]
    values += [mark.value for mark in marks]
    bottom, top, ticks = _decades(values) if log else (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0])

    def x(at: float) -> float:
        if of:
            share = (math.log10(max(at, 0.5)) - first) / ((last - first) or 1.0)
            return LEFT + (WIDTH - LEFT - RIGHT) * share
        return LEFT + (WIDTH - LEFT - RIGHT) * at / end

    def y(value: float) -> float:
        place = math.log10(max(value, 10**bottom)) if log else value
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (place - bottom) / (top - bottom)

    def path(at: Iterable[float], value: Iterable[float]) -> str:
        return " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(at, value, strict=True))

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">',
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    for tick in ticks:
        level = 10**tick if log else tick
        name = _power(tick, ticks) if log else f"{level:.0%}"
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" '
            f'y2="{y(level):.1f}"/><text x="{LEFT - 8}" y="{y(level) + 4:.1f}" '
            f'text-anchor="end">{name}</text>'
        )
    below = HEIGHT - BOTTOM + 18
    for k, at in enumerate(sizes):
        anchor = "end" if k == len(sizes) - 1 else "middle" if k else "start"
        name = f"{at:,.10g}{f' {of}' if k == len(sizes) - 1 else ''}"
        parts.append(f'<text x="{x(at):.1f}" y="{below}" text-anchor="{anchor}">{name}</text>')
    for k in range(0 if of else 5):
        at = end * k / 4
        anchor = "end" if k == 4 else "middle" if k else "start"
        parts.append(
            f'<text x="{x(at):.1f}" y="{below}" text-anchor="{anchor}">'
            f"{escape(format_seconds(round(at, 0 if end >= 8 else 2))) if at else '0'}</text>"
        )
    parts += [
        f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark.value):.1f}" '
        f'y2="{y(mark.value):.1f}"/>'
        for mark in marks
    ]
    for line in lines:
        if line.low:
            edge = path(line.at, line.high) + " " + path(list(line.at)[::-1], list(line.low)[::-1])
            parts.append(f'<polygon class="band f{line.colour}" points="{edge}"/>')
        points = path(line.at, line.value)
        parts.append(f'<polyline class="line {line.colour}" points="{points}"/>')
    parts += [
        f'<text class="name" x="{LEFT + 4}" '
        f'y="{y(mark.value) + (13 if mark.below else -5):.1f}">{escape(mark.name)}</text>'
        for mark in marks
    ]
    place = float(LEFT)
    for line in lines:
        parts.append(
            f'<text class="f{line.colour}" x="{place:.0f}" y="{HEIGHT - 6}">{escape(line.name)}</text>'
        )
        place += 7.2 * len(line.name) + 24
    return "\n".join([*parts, "</svg>"])


def _decades(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The powers of ten around the values, at most eight of them ruled."""
    logs = [math.log10(value) for value in values if value > 0.0] or [0.0]
    bottom, top = math.floor(max(min(logs), -8.0)), math.ceil(max(logs))
    if top <= bottom:
        top = bottom + 1
    step = max(1, math.ceil((top - bottom) / 8))
    return float(bottom), float(top), [float(k) for k in range(bottom, top + 1, step)]


def _power(tick: float, ticks: Sequence[float]) -> str:
    """A power of ten: written out where all of the axis can be."""
    if min(ticks) >= -3 and max(ticks) <= 5:
        return f"{10**tick:,.10g}"
    return "10" + f"{tick:.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and numbers as a table."""
    body = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows
    )
    return f"<table>\n{body}\n</table>"


def page(title: str, *parts: str) -> str:
    """A whole HTML document."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )
