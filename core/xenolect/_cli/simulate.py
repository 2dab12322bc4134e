"""``xenolect simulate``."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import click

from xenolect import errors
from xenolect._cli.chart import Line, Mark, chart, facts, page
from xenolect._cli.common import Output
from xenolect._options import structure
from xenolect.config import Config, load
from xenolect.model import CanaryState
from xenolect.simulation import Campaign, Simulation, World, read_trace, simulate
from xenolect.units import format_seconds

BACK, UP = CanaryState.ROLLED_BACK, CanaryState.PROMOTED


@click.command("simulate")
@click.argument("policy", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False),
    help="Recorded traffic of the control as JSON lines: at, agent, session, success, latency_ms.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="Write a page with charts here.")
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(policy: str, trace: str | None, out: str | None, machine: bool) -> None:
    """Play many rollouts under the settings of POLICY before anybody is served by them.

    POLICY is a settings file: its [canary] table is what is tried, its [world] table the fleet it is
    tried in.
    """
    output = Output(machine)
    try:
        config, world = _read(Path(policy))
        recorded = None if trace is None else read_trace(trace)
        begun = time.perf_counter()
        with _progress(machine) as progress:
            found = simulate(config, world, recorded, progress=progress)
        seconds = time.perf_counter() - begun
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None
    document = _document(found, seconds)
    if out is not None:
        Path(out).write_text(_page(found, policy, config), "utf-8")
        document["written"] = out
    output.show(document, lambda: _text(found, seconds, out))


def _read(file: Path) -> tuple[Config, World]:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise errors.ConfigError(f"{file} can not be read as TOML: {error}") from None
    world = table.pop("world", {})
    if not isinstance(world, dict):
        raise errors.ConfigError(f"world: expected a table [world] in {file}, got {world!r}")
    config = load(environ={}, **table)
    return config, structure(world, World, "world")


@contextmanager
def _progress(machine: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal."""
    if machine or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("rollouts", total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


def _campaign(campaign: Campaign) -> dict[str, Any]:
    return {
        "success": campaign.success,
        "runs": len(campaign.runs),
        "promoted": campaign.promoted,
        "rolled_back": campaign.rolled_back,
        "held": campaign.held,
        "seconds_to_promote": _spread(campaign, "at", UP),
        "seconds_to_roll_back": _spread(campaign, "at", BACK),
        "failures_until_rollback": _spread(campaign, "failures", BACK),
        "operations_until_rollback": _spread(campaign, "operations", BACK),
    }


def _spread(campaign: Campaign, field: str, state: CanaryState) -> dict[str, float | None]:
    return {f"p{round(100 * q)}": campaign.quantile(field, q, state) for q in (0.1, 0.5, 0.9)}


def _document(found: Simulation, seconds: float) -> dict[str, Any]:
    rate, low, high = found.false_rollbacks
    return {
        "unit": found.unit,
        "false_rollback": {"rate": rate, "low": low, "high": high, "confidence": 0.95},
        "harmless": _campaign(found.harmless),
        "harmful": None if found.harmful is None else _campaign(found.harmful),
        "events": found.events,
        "seconds": seconds,
        "events_per_second": found.events / seconds,
        "notes": list(found.notes),
    }


def _rows(found: Simulation) -> list[tuple[str, str]]:
    rate, low, high = found.false_rollbacks
    good, bad = found.harmless, found.harmful
    rows = [
        (
            "false rollbacks",
            f"{rate:.2%} of {len(good.runs)} harmless rollouts (95 % interval {low:.2%} to {high:.2%})",
        ),
        ("harmless", _shares(good)),
        ("time to promote", _times(good, UP)),
    ]
    if bad is not None:
        rows += [
            (f"worse, {bad.success:.4g}", _shares(bad)),
            ("detection delay", _times(bad, BACK)),
            ("failures exposed", _counts(bad, "failures")),
            ("operations exposed", _counts(bad, "operations")),
        ]
    return rows


def _shares(campaign: Campaign) -> str:
    return (
        f"{campaign.promoted:.1%} promoted, {campaign.rolled_back:.1%} rolled back, "
        f"{campaign.held:.1%} held"
    )


def _times(campaign: Campaign, state: CanaryState) -> str:
    found = [campaign.quantile("at", q, state) for q in (0.5, 0.9)]
    if found[0] is None or found[1] is None:
        return f"none was {state.replace('_', ' ')} in {campaign.hours:g} h"
    return (
        f"median {format_seconds(round(found[0]))}, 90 % within {format_seconds(round(found[1]))}"
    )


def _counts(campaign: Campaign, field: str) -> str:
    found = [campaign.quantile(field, q, BACK) for q in (0.5, 0.9)]
    if found[0] is None or found[1] is None:
        return "-"
    return f"median {found[0]:.0f}, 90 % at most {found[1]:.0f}"


def _text(found: Simulation, seconds: float, out: str | None) -> None:
    for name, value in _rows(found):
        click.echo(f"{name:<19}{value}")
    click.echo(
        f"{'played':<19}{found.events:,} operations in {seconds:.1f} s "
        f"({found.events / seconds:,.0f}/s)"
    )
    for note in found.notes:
        click.echo(f"note: {note}")
    if out is not None:
        click.echo(f"{'charts':<19}{out}")


def _page(found: Simulation, policy: str, config: Config) -> str:
    campaigns = [(found.harmless, "c", "harmless")]
    if found.harmful is not None:
        campaigns.append((found.harmful, "b", f"worse ({found.harmful.success:.4g})"))
    shares: list[Line] = []
    evidence: list[Line] = []
    for campaign, colour, name in campaigns:
        length = max(len(run.shares) for run in campaign.runs)
        at = [k * campaign.interval for k in range(length)]
        harm = "evidence" if found.betting else "harm"
        for lines, field in ((shares, "shares"), (evidence, harm)):
            low, middle, high = (campaign.over_time(field, q) for q in (0.1, 0.5, 0.9))
            lines.append(Line(name, at, middle, colour, low, high))
    return page(
        f"What {Path(policy).name} would do",
        facts(_rows(found)),
        "<h2>Share served</h2>",
        chart("median share over time; the band holds 80 % of the rollouts", shares),
        "<h2>Evidence of harm</h2>",
        chart(
            "median e-value over time; the band holds 80 % of the rollouts",
            evidence,
            [Mark(found.threshold, "rollback")],
            log=True,
        )
        if found.betting
        else chart(
            "median share of the statistic that rolls back; the band holds 80 % of the rollouts",
            evidence,
            [Mark(1.0, "rollback")],
        ),
        "".join(f"<p>{escape(note)}</p>" for note in found.notes),
        facts(
            [
                ("judge", config.canary.judge.use),
                ("unit", found.unit),
                ("alpha", f"{config.canary.alpha:g}"),
                ("min_effect", f"{config.canary.min_effect:g}"),
                ("operations played", f"{found.events:,}"),
                ("seed", str(found.world.seed)),
            ]
        ),
    )
