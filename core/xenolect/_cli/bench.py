"""``xenolect bench``."""

from __future__ import annotations

import sys

import click

from xenolect._bench import FULL, GROUPS, Plan, Row, run
from xenolect._bench.rows import duration
from xenolect._cli.common import Output
from xenolect.units import bytes_of


@click.command("bench")
@click.option("--only", multiple=True, type=click.Choice(list(GROUPS)), help="Only these groups.")
@click.option("--size", default="64MiB", show_default=True, help="Size of the large state.")
@click.option("--full", is_flag=True, help="The sizes promised for: 1 GiB, takes 2 GiB of memory.")
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(only: tuple[str, ...], size: str, full: bool, machine: bool) -> None:
    """Measure the promised paths beside floors measured in the same run. Prints; gates nothing."""
    output = Output(machine)
    try:
        plan = Plan(FULL if full else bytes_of(size))
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
    if not machine:
        click.echo(
            f"{'operation':<44}{'ours':>10}{'floor':>10}  ratio     {'by CPU':<7}{'promised':<26}the floor is"
        )
    for row in run(plan, only, say):
        rows.append(row)
        if not machine:
            click.echo(line(row))
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
                }
                for row in rows
            ],
            lambda: None,
        )
