"""``xenolect points``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, store_command, table
from xenolect.manager import EmergenceManager


@click.group("points")
def command() -> None:
    """List, create, verify and restore rollback points."""


@command.command("list")
@click.argument("variant")
@store_command()
def list_(manager: EmergenceManager, output: Output, variant: str) -> None:
    """The points of VARIANT, oldest first."""
    points = manager.points.list(variant)
    if not points and not output.machine:
        click.echo(f"{variant} has no rollback points")
        return
    output.show(
        points,
        lambda: table(
            ("id", "created", "pinned", "reason"),
            [
                (p.id, f"{p.created_at:%Y-%m-%d %H:%M:%S}", "yes" if p.pinned else "", p.reason)
                for p in points
            ],
        ),
    )


@command.command("create")
@click.argument("variant")
@click.option("--reason", default="by hand", show_default=True)
@store_command()
def create(manager: EmergenceManager, output: Output, variant: str, reason: str) -> None:
    """Store a point of VARIANT as it is now."""
    point = manager.points.create(variant, reason)
    output.show(point, lambda: click.echo(point.id))


@command.command("verify")
@click.argument("point")
@store_command()
def verify(manager: EmergenceManager, output: Output, point: str) -> None:
    """Read POINT and its state back."""
    found = manager.points.verify(point)
    output.show(found, lambda: click.echo(f"{found.id}  intact"))


@command.command("restore")
@click.argument("point")
@store_command()
def restore(manager: EmergenceManager, output: Output, point: str) -> None:
    """Put content and state back to POINT; the status stays."""
    after = manager.points.restore(point)
    output.show(after, lambda: click.echo(f"{after.id}  {after.status}  version {after.version}"))
