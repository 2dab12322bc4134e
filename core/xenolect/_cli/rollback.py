"""``xenolect rollback``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, say, store_command
from xenolect.manager import EmergenceManager


@click.command("rollback")
@click.argument("variant")
@click.option("--reason", default="operator", show_default=True, help="Why; kept in the journal.")
@store_command()
def command(manager: EmergenceManager, output: Output, variant: str, reason: str) -> None:
    """Take VARIANT back to its last proven point: content, state and routing, in one commit."""
    after = manager.rollback(variant, reason=reason)
    baseline = manager.variants.baseline(after.protocol)
    name = None if baseline is None else baseline.id

    def text() -> None:
        say(f"{after.id}  {after.status}  version {after.version}")
        say(f"baseline of {after.protocol}: {name}")

    output.show({"variant": after, "baseline": name}, text)
