"""The report's pictures: plain SVG, written by hand, coloured by the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from xenolect_mcp.demo.results import PhaseResult, Results, Tally, percentile

__all__ = ["bytes_per_call", "heat_map", "latencies", "rollout"]

WIDTH = 760
LABEL = 190


def _svg(width: float, height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _text(
    x: float, y: float, text: str, kind: str = "", anchor: str = "start", extra: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}" {extra}>'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def bytes_per_call(tallies: Mapping[str, Tally]) -> str:
    """A bar per variant: its bytes on the wire for what is one byte of JSON, both ways."""
    rows = [(name, t.ratio, t.bytes_per_call) for name, t in tallies.items() if t.ratio is not None]
    if not rows:
        return ""
    step, top = 34, 8
    body = []
    for i, (name, ratio, mean) in enumerate(rows):
        y = top + i * step
        width = (WIDTH - LABEL - 170) * min(ratio, 1.0)
        body += [
            _text(LABEL - 10, y + 17, name, "name", "end"),
            f'<rect x="{LABEL}" y="{y + 3:.1f}" width="{width:.1f}" height="20" rx="2" class="bar"/>',
            _text(LABEL + width + 8, y + 17, f"{ratio:.0%}   {mean or 0:,.0f} B a call", "value"),
        ]
    return _svg(WIDTH, top + step * len(rows), "Bytes on the wire by variant", body)


def latencies(tallies: Mapping[str, Tally]) -> str:
    """Median and 95th percentile per variant, on one scale."""
    rows = []
    for name, tally in tallies.items():
        p50, p95 = percentile(tally.latencies, 0.5), percentile(tally.latencies, 0.95)
        if p50 is not None and p95 is not None:
            rows.append((name, p50, p95))
    if not rows:
        return ""
    most = max(p95 for *_, p95 in rows) * 1.02
    step, top = 30, 8
    scale = (WIDTH - LABEL - 120) / most
    body = []
    bottom = top + step * len(rows)
    for tick in _ticks(most):
        x = LABEL + tick * scale
        body += [
            _line(x, top, x, bottom, "grid"),
            _text(x, bottom + 16, f"{tick:g} ms", "tick", "middle"),
        ]
    for i, (name, p50, p95) in enumerate(rows):
        y = top + i * step + 14
        a, b = LABEL + p50 * scale, LABEL + p95 * scale
        body += [
            _text(LABEL - 10, y + 4, name, "name", "end"),
            _line(a, y, b, y, "range"),
            f'<circle cx="{a:.1f}" cy="{y}" r="5" class="dot"/>',
            _line(b, y - 6, b, y + 6, "range"),
            _text(b + 8, y + 4, f"{p50:.1f} / {p95:.1f} ms", "value"),
        ]
    return _svg(WIDTH, bottom + 24, "Latency by variant: median and 95th percentile", body)


def _ticks(most: float) -> list[float]:
    raw = most / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [i * step for i in range(int(most / step) + 1)]


def rollout(phase: PhaseResult, harm_at: float, safe_at: float) -> str:
    """Two panels on one time axis: the share served, and the evidence for and against."""
    samples = phase.samples
    if not samples:
        return ""
    width, left, right = 760.0, 64.0, 150.0
    share_top, share_bottom = 16.0, 78.0
    top, bottom = 104.0, 250.0
    span = max(phase.decided_after, 1e-6)

    def x(at: float) -> float:
        return left + (width - left - right) * min(max((at - phase.started) / span, 0.0), 1.0)

    def share_y(fraction: float) -> float:
        return share_bottom - (share_bottom - share_top) * fraction

    low, high = -2.0, 4.0

    def y(e_value: float) -> float:
        level = math.log10(max(e_value, 1e-9))
        return bottom - (bottom - top) * (min(max(level, low), high) - low) / (high - low)

    body = []
    for fraction in (0.0, 0.5, 1.0):
        body += [
            _line(left, share_y(fraction), width - right, share_y(fraction), "grid"),
            _text(left - 8, share_y(fraction) + 4, f"{fraction:.0%}", "tick", "end"),
        ]
    path = [f"M{x(samples[0].at):.1f},{share_bottom}"]
    for before, after in pairwise(samples):
        path.append(f"L{x(before.at):.1f},{share_y(before.fraction):.1f}")
        path.append(f"L{x(after.at):.1f},{share_y(before.fraction):.1f}")
    path.append(f"L{x(samples[-1].at):.1f},{share_y(samples[-1].fraction):.1f}")
    final = 1.0 if phase.outcome == "promoted" else 0.0
    path.append(f"L{width - right:.1f},{share_y(samples[-1].fraction):.1f}")
    path.append(f"L{width - right:.1f},{share_bottom}Z")
    body.append(f'<path d="{"".join(path)}" class="share"/>')
    body.append(
        f'<circle cx="{width - right:.1f}" cy="{share_y(final):.1f}" r="4.5" class="end {phase.outcome}"/>'
    )
    body.append(_text(width - right + 10, share_y(final) + 4, f"then {final:.0%}", "value"))
    body.append(_text(left, share_top - 5, "share of conversations served the new variant", "axis"))

    for exponent in (-2, 0, 2, 4):
        body += [
            _line(left, y(10.0**exponent), width - right, y(10.0**exponent), "grid"),
            _text(left - 8, y(10.0**exponent) + 4, _odds(exponent), "tick", "end"),
        ]
    body += [
        _line(left, y(harm_at), width - right, y(harm_at), "limit harm"),
        _text(width - right + 10, y(harm_at) + 4, f"stop at {harm_at:g} : 1", "harm"),
        _line(left, y(safe_at), width - right, y(safe_at), "limit safe"),
        _text(width - right + 10, y(safe_at) + 4, f"promote from {safe_at:g} : 1", "safe"),
        _text(left, top - 7, "evidence (odds, logarithmic)", "axis"),
    ]
    for kind in ("safe", "harm"):
        points = " ".join(f"{x(s.at):.1f},{y(getattr(s, kind)):.1f}" for s in samples)
        body.append(f'<polyline points="{points}" class="curve {kind}"/>')
    steps = _ticks(span)
    for tick in steps:
        body.append(_text(x(phase.started + tick), bottom + 18, f"{tick:g} s", "tick", "middle"))
    title = f"Phase {phase.number}: share and evidence over time"
    return _svg(width, bottom + 26, title, body)


def _odds(exponent: int) -> str:
    return f"{10**exponent:,} : 1" if exponent >= 0 else f"1 : {10**-exponent:,}"


def heat_map(results: Results) -> str:
    """Share of failed calls for each suite (rows) under each variant (columns), in words as well."""
    table = results.by_variant_and_suite()
    variants = [name for name in table if table[name]]
    suites = sorted({suite for suites in table.values() for suite in suites})
    if not variants:
        return ""
    left, top, height = 160.0, 54.0, 34.0
    width = (940.0 - left) / len(variants)
    body = []
    for j, variant in enumerate(variants):
        middle = left + (j + 0.5) * width
        words = variant.split("-")
        half = (len(words) + 1) // 2 if len(variant) > 12 else len(words)
        body.append(_text(middle, top - 26, "-".join(words[:half]), "name", "middle"))
        if words[half:]:
            body.append(_text(middle, top - 11, "-".join(words[half:]), "name", "middle"))
    for i, suite in enumerate(suites):
        y = top + i * height
        body.append(_text(left - 10, y + height / 2 + 4, suite, "name", "end"))
        for j, variant in enumerate(variants):
            tally = table[variant].get(suite)
            x = left + j * width
            place = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{width - 2:.1f}" height="{height - 2:.1f}" rx="3"'
            if tally is None:
                body.append(f'<rect {place} class="none"/>')
                body.append(
                    _text(x + width / 2, y + height / 2 + 4, "not called", "tick", "middle")
                )
                continue
            rate = tally.failure_rate
            strength = 0.0 if not tally.failed else 0.25 + 0.75 * math.sqrt(rate)
            style = f'style="fill-opacity:{strength:.2f}"' if tally.failed else ""
            body.append(f'<rect {place} class="{"bad" if tally.failed else "good"}" {style}/>')
            words_ = f"{rate:.0%} of {tally.calls}" if tally.failed else f"0 of {tally.calls}"
            tone = "cell strong" if strength > 0.6 else "cell"
            body.append(_text(x + width / 2, y + height / 2 + 4, words_, tone, "middle"))
    total = top + height * len(suites) + 6
    return _svg(940.0, total, "Failed calls by tool suite and variant", body)
