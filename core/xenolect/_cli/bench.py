"""``xenolect bench``."""

from __future__ import annotations

import sys

import click

from xenolect._bench import Row, run
from xenolect._cli.common import Output


@click.command("bench")
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(machine: bool) -> None:
    """Measure the hot paths beside floors measured in the same run."""
    output = Output(machine)

    def say(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"{text} ...", err=True)

    def line(row: Row) -> str:
        ours, floor = f"{row.ours_us:,.2f} us", f"{row.floor_us:,.2f} us"
        return f"{row.name:<34}{ours:>14}{floor:>14}  x {row.ratio:<8.3g}{row.floor}"

    rows = []
    if not machine:
        click.echo(f"{'operation':<34}{'ours':>14}{'floor':>14}  ratio     the floor is")
    for row in run(say):
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
                    "floor": row.floor,
                }
                for row in rows
            ],
            lambda: None,
        )
