"""``xenolect reindex``."""

from __future__ import annotations

import click

from xenolect import errors
from xenolect._cli.common import Output, bar, place_of, say, store_options
from xenolect.config import load


@click.command("reindex")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--accept-loss", is_flag=True, help="Go on where entries of the journal can not be recovered."
)
@click.option(
    "--prefer",
    type=click.Choice(["index", "mirror"]),
    help="Which one is right, where both can be read and disagree.",
)
@click.option("--force", is_flag=True, help="Also where processes seem to be serving.")
@store_options
def command(
    storage: str | None,
    config: str | None,
    machine: bool,
    dry_run: bool,
    accept_loss: bool,
    prefer: str | None,
    force: bool,
) -> None:
    """Rebuild a lost index from its mirror, or a lost mirror from the index."""
    from xenolect._reindex import rebuild

    output = Output(machine)
    try:
        with bar("rebuilding") as progress:
            done = rebuild(
                load(place_of(storage, config)),
                dry_run=dry_run,
                accept_loss=accept_loss,
                prefer=prefer,
                force=force,
                progress=progress,
            )
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None

    def text() -> None:
        would = "would be " if dry_run else ""
        if done.source == "index":
            say(f"the index is whole, at entry {done.revision}; nothing of it is changed")
        else:
            say(f"{done.why}")
            say(
                f"the index {would}rebuilt from its mirror: entry {done.revision}, {done.facts} facts, "
                f"{done.entries} entries"
            )
        if done.recovered:
            say(f"{done.recovered} entries come from the old index")
        if done.lost:
            say(f"{done.lost} entries are lost")
        if done.aside:
            say(f"the old index is kept as {done.aside}")
        if done.rollups:
            say(f"{done.rollups} roll-ups of what was measured come from their segments")
        for key in done.damaged:
            say(f"{key}: damaged")
        for key in done.mirrors:
            say(f"{key}: {would}written from the index")
        for variant in done.restarted:
            say(f"the rollout of {variant} begins again: its evidence was in the index alone")

    output.show(done, text)
