"""``xenolect plugins``."""

from __future__ import annotations

import click

from xenolect import errors
from xenolect._cli.common import Output, table
from xenolect._registry import Registry
from xenolect.config import load


@click.command("plugins")
@click.option("--storage", metavar="PATH_OR_URL")
@click.option("--config", metavar="FILE")
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(storage: str | None, config: str | None, machine: bool) -> None:
    """Show every plugin: loaded, left out and why, or blocked; and what each offers."""
    output = Output(machine)
    try:
        settings = load(storage if storage is not None else config)
        records = Registry.collect(settings.plugins).describe()
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None

    def offers(record: object) -> str:
        made = getattr(record, "offers", {})
        text = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in made.items() if names)
        return text or ("hears events" if getattr(record, "observes", False) else "")

    output.show(
        records,
        lambda: table(
            ("plugin", "from", "status", "offers, or why not"),
            [(r.name, r.source, r.status, r.why or offers(r)) for r in records],
        ),
    )
