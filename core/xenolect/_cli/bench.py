"""``xenolect bench``."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import click

from xenolect._bench import FULL, GROUPS, Plan, Row, run
from xenolect._bench.peers import absent
from xenolect._bench.rows import duration
from xenolect._cli.common import Output
from xenolect._cli.growth import curves, drawn, text
from xenolect.units import bytes_of


@click.command("bench")
@click.option("--only", multiple=True, type=click.Choice(list(GROUPS)), help="Only these groups.")
@click.option("--size", default="64MiB", show_default=True, help="Size of the large state.")
@click.option("--full", is_flag=True, help="The sizes promised for: 1 GiB, takes 2 GiB of memory.")
@click.option("--peers", is_flag=True, help="Also what else is installed and does such work.")
@click.option(
    "--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Write a page with charts here."
)
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(
    only: tuple[str, ...], size: str, full: bool, peers: bool, plot: str | None, machine: bool
) -> None:
    """Measure the promised paths beside floors measured in the same run. Prints; gates nothing.

    What is measured at several sizes is drawn as well: how it grows.
    """
    output = Output(machine)
    try:
        plan = Plan(FULL if full else bytes_of(size), peers)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from error

    def say(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"{text} ...", err=True)

    def line(row: Row) -> str:
        ours, floor = duration(row.ours_us), duration(row.floor_us)
        used = "" if row.cpu is None else f"{row.cpu:.3g}"
        held = {True: "held", False: "MISSED", None: ""}[row.held]
        return (
            f"{row.name:<44}{ours:>10}{floor:>10}  x {row.ratio:<8.3g}{used:<7}"
            f"{row.promise:<18}{held:<8}{row.floor}"
        )

    rows = []
    if peers and (missing := absent()):
        click.echo(f"not installed here: {', '.join(missing)}", err=True)
    if not machine:
        click.echo(
            f"{'operation':<44}{'ours':>10}{'floor':>10}  ratio     {'by CPU':<7}{'promised':<26}the floor is"
        )
    for row in run(plan, only, say):
        rows.append(row)
        if not machine:
            click.echo(line(row))
    found = curves(rows)
    if found and not machine:
        click.echo("\nhow it grows")
        for each in text(found):
            click.echo(each)
    if plot is not None:
        Path(plot).write_text(drawn(found), "utf-8")
        if not machine:
            click.echo(f"charts {plot}")
    if machine:
        output.show(
            [
                {
                    "name": row.name,
                    "ours_us": row.ours_us,
                    "floor_us": row.floor_us,
                    "ratio": row.ratio,
                    "cpu_ratio": row.cpu,
                    "floor": row.floor,
                    "promise": row.promise,
                    "held": row.held,
                    "growth": row.growth and attrs.asdict(row.growth),
                }
                for row in rows
            ],
            lambda: None,
        )
