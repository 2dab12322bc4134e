"""Draws the pictures of the pages: ``python docs/pictures/draw.py``.

The ramp is computed by the ramp itself, the evidence by the judge of two real rollouts in a drawn fleet.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from xenolect import AgentContext, EmergenceManager
from xenolect._cli.chart import Line, Mark, chart
from xenolect.ramps import levels
from xenolect.testing import Clock

HERE = Path(__file__).parent
HOUR, MINUTE = 3600.0, 60.0

# Pictures are images of a page that may be light or dark: they bring a background of their own.
STYLE = """
svg { background: #fff; } text { fill: #5b6673; font: 12px system-ui, sans-serif; }
.title { fill: #1d2530; font-weight: 600; font-size: 13px; }
.rule { stroke: #dfe4ea; } .mark { stroke: #66717f; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; } .band { stroke: none; opacity: .18; }
.a { stroke: #1f6feb; } .b { stroke: #c2410c; } .c { stroke: #15803d; }
.fa { fill: #1f6feb; } .fb { fill: #c2410c; } .fc { fill: #15803d; }
.name { paint-order: stroke; stroke: #fff; stroke-width: 4px; }
.box { fill: #f4f7fb; stroke: #1d2530; stroke-width: 1.4; } .bad { fill: #fdf0ea; }
.good { fill: #ecf7ef; } .hand { fill: #fff; stroke-dasharray: 5 4; }
.arrow { fill: none; stroke: #1d2530; stroke-width: 1.4; marker-end: url(#head); }
.state { fill: #1d2530; font-weight: 600; font-size: 14px; text-anchor: middle; }
.what { text-anchor: middle; }
"""


def save(name: str, svg: str) -> None:
    """One picture, with its style inside and room for a file's own needs."""
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    svg = re.sub(r"(<svg [^>]*>)", rf"\1\n<style>{STYLE}</style>", svg, count=1)
    (HERE / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")


def ramp() -> None:
    """The default levels with a check passed every 5 min, and a linear ramp beside it."""
    shares = {name: [ppm / 1e6 for ppm in levels(0.1, 5, name)] for name in ("geometric", "linear")}
    lines = []
    for colour, (name, values) in zip("ab", shares.items(), strict=True):
        at, value = [], []
        for k, share in enumerate([*values, 1.0]):
            at += [k * 5 * MINUTE, (k + 1) * 5 * MINUTE]
            value += [share, share]
        lines.append(Line(name, at, value, colour))
    save("ramp", chart("Share of the eligible units, where every check passes", lines))


def curve(success: float, hours: float, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Times, evidence of harm and of being no worse, read every ten calls of a real rollout."""
    clock, draw = Clock(), random.Random(seed)
    with EmergenceManager.open("memory://", background=False, clock=clock) as manager:
        agents = [f"agent-{n}" for n in range(100)]
        manager.agents.register_many([(each, AgentContext()) for each in agents])
        manager.variants.activate(manager.variants.propose("old", {}, id="old"))
        rates = {"old": 0.99, "new": success}

        def call(agent: str) -> None:
            chosen = manager.select(agent)
            well = draw.random() < rates[chosen.variant.id]
            manager.report(chosen, agent, success=well, latency_ms=draw.uniform(20, 30))
            clock.advance(MINUTE / len(agents))

        for agent in agents * 60:
            call(agent)
        manager.variants.propose("new", {}, id="new")
        manager.canaries.start("new", seed=1)
        at, harm, well = [0.0], [1.0], [1.0]
        while at[-1] < hours * HOUR and manager.canaries.status("new").state == "ramping":
            for turn, agent in enumerate(agents, 1):
                call(agent)
                if turn % 10 == 0:
                    evidence: Any = manager.canaries.status("new").evidence
                    at.append(at[-1] + MINUTE / 10)
                    harm.append(max(evidence["e_value"], 1e-3))
                    well.append(max(evidence["noninferiority"], 1e-3))
            manager.tick()
        return at, harm, well


def evidence() -> None:
    """A variant that fails seven times as often, and one that is as good as the old one."""
    at, harm, _ = curve(0.93, 1.0, 3)
    title = "Evidence of harm: 7 % of the calls fail, not 1 %; 10 % of 100 calls a minute"
    marks = [Mark(100, "rolled back"), Mark(20, "held")]
    save("evidence-harm", chart(title, [Line("evidence of harm", at, harm, "b")], marks, log=True))
    at, harm, well = curve(0.99, 12.0, 4)
    lines = [Line("that it is no worse", at, well, "c"), Line("of harm", at, harm, "b")]
    title = "Evidence about a variant that is as good as the old one"
    marks = [Mark(100, "rolled back"), Mark(20, "may be promoted")]
    save("evidence-well", chart(title, lines, marks, log=True))


def breaker() -> None:
    """The states of the breaker, by hand."""
    save("breaker", (HERE / "breaker.txt").read_text("utf-8"))


if __name__ == "__main__":
    ramp()
    breaker()
    evidence()
