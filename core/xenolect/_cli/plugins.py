"""``xenolect plugins``."""

from __future__ import annotations

import logging

import click

from xenolect import errors
from xenolect._cli.common import Output, place_of, store_options, table
from xenolect._registry import Registry
from xenolect.config import load


@click.command("plugins")
@store_options
def command(storage: str | None, config: str | None, machine: bool) -> None:
    """Show every plugin: loaded, left out and why, or blocked; and what each offers."""
    output = Output(machine)
    try:
        # the table says what was left out; the log would say it twice
        logging.getLogger("xenolect").addHandler(logging.NullHandler())
        settings = load(place_of(storage, config))
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
