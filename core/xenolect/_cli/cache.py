"""``xenolect cache``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, say, store_command
from xenolect._cli.groups import Verbs
from xenolect._codec import moment
from xenolect.facts import Put
from xenolect.manager import EmergenceManager


@click.group("cache", cls=Verbs)
def command() -> None:
    """Let go of what processes keep of verified states."""


@command.command("clear")
@click.option("--dry-run", is_flag=True, help="Change nothing.")
@store_command()
def clear(manager: EmergenceManager, output: Output, dry_run: bool) -> None:
    """Have every process on this store let go of its verified cache."""
    processes = manager.status()["processes"]
    if not dry_run:
        at = moment(manager._runtime.clock()).isoformat()
        manager._runtime.publish(Put("setting", "cache", {"cleared_at": at}))
    would = "would let" if dry_run else "let"
    output.show(
        {"processes": processes, "dry_run": dry_run},
        lambda: say(f"{processes} processes {would} go of their caches"),
    )
