"""What the demo shows while it runs, and the one screen it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from xenolect_mcp.demo.results import Arm, PhaseResult, Results
from xenolect_mcp.demo.screen import Screen

__all__ = ["LiveScreen", "verdict"]

_STYLE = {"promoted": "green", "stopped": "red", "undecided": "yellow"}
_SPARK = " ▁▂▃▄▅▆▇█"


class LiveScreen(Screen):
    """A table that grows by a row a phase; without a terminal one line a phase."""

    def __init__(self, console: Console, policy: str) -> None:
        self._console = console
        self._phases: list[PhaseResult] = []
        self._doing = "starting a server and a manager in another process"
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )
        console.print(
            Panel(
                Syntax(policy.strip(), "toml", background_color="default", word_wrap=True),
                title="the rollout policy",
                title_align="left",
                border_style="dim",
            )
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def began(self, text: str) -> None:
        self._doing = text
        if self._live is None:
            self._console.print(text)
        self._show()

    def phase(self, phase: PhaseResult) -> None:
        self._phases.append(phase)
        self._doing = f"{phase.number}. {phase.title}: {phase.what}"
        if phase.note:
            self._doing += f" ({phase.note})"
        if self._live is None:
            self._console.print(self._doing)
        self._show()

    def moved(self, phase: PhaseResult) -> None:
        self._show()

    def decided(self, phase: PhaseResult) -> None:
        if self._live is None:
            self._console.print(f"   {phase.outcome}: {phase.reason}")
        self._show()

    def _show(self) -> None:
        if self._live is None:
            return
        table = _table()
        for phase in self._phases:
            table.add_row(*_row(phase))
        self._live.update(Group(table, Text(f"  {self._doing}", style="dim")), refresh=True)


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("change", no_wrap=True)
    table.add_column("share", no_wrap=True)
    for name in ("calls", "failed", "control", "bytes", "harm", "safe"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _row(phase: PhaseResult) -> list[Any]:
    new, control = phase.tally(Arm.CANARY), phase.tally(Arm.CONTROL)
    last = phase.samples[-1] if phase.samples else None
    undecided = phase.outcome == "undecided"
    fractions = [] if last is None else [s.fraction for s in _few(phase.samples, 6)]
    return [
        str(phase.number),
        phase.title,
        "".join(_SPARK[round(fraction * 8)] for fraction in fractions),
        str(new.calls),
        Text(str(new.failed), style="red" if new.failed else ""),
        f"{control.calls}, {control.failed}",
        _percent(new.ratio),
        _odds(last.harm) if last else "",
        _odds(last.safe) if last else "",
        Text("..." if undecided else phase.outcome, style=_STYLE[phase.outcome]),
    ]


def _few(samples: list[Any], count: int) -> list[Any]:
    if len(samples) <= count:
        return samples
    return [samples[i * (len(samples) - 1) // (count - 1)] for i in range(count)]


_LEGEND = (
    "calls, failed: of the new variant; control: calls, failed; bytes: on the wire, of plain JSON;\n"
    "harm, safe: evidence as odds, it stops at harm 100 and may be promoted from safe 20"
)


def verdict(results: Results, page: Path | None) -> Group:
    """The last screen: a line a phase, why, and the sentence."""
    table = _table()
    for phase in results.phases:
        table.add_row(*_row(phase))
    why = [Text(_LEGEND, style="dim"), Text("")]
    for phase in results.phases:
        line = Text(f"{phase.number} ").append(phase.outcome, style=_STYLE[phase.outcome])
        line.append(f": {phase.reason}{_where(phase)}")
        if phase.note:
            line.append(f"; {phase.note}")
        why.append(line)
    retries = [a for a in results.attempts if a.arm is Arm.RETRY]
    agreed, differed = results.agreement
    worked = sum(a.ok for a in retries)
    replayed = sum(not a.ok for a in results.replay)
    spread = ", ".join(f"{n} agents on {v}" for v, n in results.assignment.items())
    agents = results.facts.get("agents")
    repeated = f"{len(retries)} failed canary calls were repeated with the control, {worked} worked"
    lines = [
        f"{len(results.attempts):,} calls by {agents} agents in {results.seconds:.0f} s; {repeated}",
        f"both processes chose the same variant in {agreed:,} of {agreed + differed:,} calls",
        f"replay of the final assignment ({spread}): {len(results.replay):,} calls, {replayed} failed",
    ]
    if any(results.executed):
        same, other = results.executed
        lines.append(
            f"the tool suites executed {same + other:,} calls, {same:,} of them as they are recorded"
        )
    if page is not None:
        lines.append(f"report: {page}")
    parts: list[Any] = [table, *why, Text("")]
    parts += [Text(line) for line in lines]
    parts += [Text(f"not as it should be: {problem}", style="red") for problem in results.problems]
    style = "bold red" if results.problems else "bold green"
    parts += [Text(""), Text(results.sentence, style=style)]
    return Group(*parts)


def _where(phase: PhaseResult) -> str:
    """Which suites broke, or at how many agents: whichever says it shorter."""
    new = phase.tally(Arm.CANARY)
    if not new.failed:
        return ""
    suites = phase.failures()
    broken = {name: tally for name, tally in suites.items() if tally.failed}
    if len(broken) <= len(suites) // 2:
        parts = [f"{name} {t.failed} of {t.calls}" for name, t in sorted(broken.items())]
        return f" ({', '.join(parts)}; the other {len(suites) - len(broken)} suites 0)"
    agents = {a.agent for a in phase.attempts if a.arm is Arm.CANARY and not a.ok}
    return f" ({new.failed} of {new.calls} calls, all at {len(agents)} agents)"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _odds(value: float) -> str:
    if value >= 1000:
        return f"{value:.0e}".replace("e+0", "e")
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
