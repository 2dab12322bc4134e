"""How what was measured grows with the number of things: as text, and as a page of charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import attrs

from xenolect._bench.rows import Row, duration
from xenolect._cli.chart import Line, Mark, chart, facts, page
from xenolect._cli.metrics import bars

__all__ = ["Curve", "curves", "drawn", "text"]


@attrs.frozen
class Curve:
    """One operation: rows of growing size, two at least."""

    name: str
    of: str
    rows: Sequence[Row]

    @property
    def sizes(self) -> list[int]:
        """How many things, in ascending order."""
        return [row.growth.size for row in self.rows if row.growth is not None]

    @property
    def factor(self) -> float:
        """How many times what the smallest size takes the largest does."""
        return self.rows[-1].ours_us / self.rows[0].ours_us


def curves(rows: Iterable[Row]) -> list[Curve]:
    """The rows that belong together, in order of their first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.growth is not None:
            found.setdefault((row.growth.name, row.growth.of), []).append(row)
    return [
        Curve(name, of, sorted(each, key=lambda row: row.growth.size if row.growth else 0))
        for (name, of), each in found.items()
        if len(each) > 1
    ]


def text(found: Iterable[Curve]) -> list[str]:
    """Two lines for each: ours and the floor on one logarithmic scale."""
    lines = []
    for curve in found:
        ours, floor = [r.ours_us for r in curve.rows], [r.floor_us for r in curve.rows]
        signs = bars([math.log10(value) for value in (*ours, *floor)])
        sizes = f"{curve.sizes[0]:,} to {curve.sizes[-1]:,} {curve.of}"
        lines.append(f"{curve.name}, {sizes}: x {curve.factor:.3g}")
        for name, values, drawn in (
            ("ours", ours, signs[: len(ours)]),
            ("floor", floor, signs[len(ours) :]),
        ):
            lines.append(f"  {name:<6}{drawn}  {', '.join(map(duration, values))}")
    return lines


def drawn(found: Sequence[Curve]) -> str:
    """A page with a chart for each."""
    parts = []
    for curve in found:
        lines = [
            Line("xenolect", curve.sizes, [row.ours_us for row in curve.rows], "a"),
            Line(curve.rows[0].floor, curve.sizes, [row.floor_us for row in curve.rows], "b"),
        ]
        marks = [
            Mark(row.within, f"promised at {size:,}: {duration(row.within)}")
            for size, row in zip(curve.sizes, curve.rows, strict=True)
            if row.within is not None
        ]
        if len({mark.value for mark in marks}) == 1 and len(marks) == len(curve.rows):
            marks = [Mark(marks[0].value, f"promised: {duration(marks[0].value)}")]
        numbers = [
            (f"{size:,} {curve.of}", f"{duration(row.ours_us)}, x {row.ratio:.3g}")
            for size, row in zip(curve.sizes, curve.rows, strict=True)
        ]
        title = f"microseconds, by the number of {curve.of}"
        parts += [
            f"<h2>{escape(curve.name)}</h2>",
            chart(title, lines, marks, log=True, of=curve.of),
            facts(numbers),
        ]
    return page("How what xenolect does grows", *parts)
