"""``xenolect points``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, say, store_command, table
from xenolect._cli.groups import ListByDefault
from xenolect.manager import EmergenceManager


@click.group("points", cls=ListByDefault)
def command() -> None:
    """List rollback points (default), or create, verify and restore them."""


@command.command("list")
@click.argument("variant", required=False)
@store_command()
def list_(manager: EmergenceManager, output: Output, variant: str | None) -> None:
    """The points of VARIANT, or of all, oldest first."""
    whose = [variant] if variant is not None else [v.id for v in manager.variants.list()]
    points = [point for name in whose for point in manager.points.list(name)]
    if not points and not output.machine:
        say("no rollback points yet; a rollout makes one, and so does `xenolect points create`")
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
@click.option("--reason", default="by hand", show_default=True, help="Why; kept with the point.")
@store_command()
def create(manager: EmergenceManager, output: Output, variant: str, reason: str) -> None:
    """Store a point of VARIANT as it is now."""
    point = manager.points.create(variant, reason)
    output.show(point, lambda: say(point.id))


@command.command("verify")
@click.argument("point")
@store_command()
def verify(manager: EmergenceManager, output: Output, point: str) -> None:
    """Read POINT and its state back."""
    found = manager.points.verify(point)
    output.show(found, lambda: say(f"{found.id}  intact"))


@command.command("restore")
@click.argument("point")
@store_command()
def restore(manager: EmergenceManager, output: Output, point: str) -> None:
    """Put content and state back to POINT; the status stays."""
    after = manager.points.restore(point)
    output.show(after, lambda: say(f"{after.id}  {after.status}  version {after.version}"))
