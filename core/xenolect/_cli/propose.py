"""``xenolect propose``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from xenolect import errors
from xenolect._cli.common import Output, pair, parse, say, store_command
from xenolect.manager import EmergenceManager

FIELDS = (
    "id",
    "protocol",
    "description",
    "changes",
    "requirements",
    "optional",
    "conflicts",
    "metadata",
    "parent_id",
)


@click.command("propose")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("--description", "-d", help="What it is, for people.")
@click.option("--changes", help="What it changes: JSON, or @FILE.")
@click.option("--id", "id_", help="A slug; a UUID4 is made without one.")
@click.option(
    "--protocol", default="default", show_default=True, help="Which variants it competes with."
)
@click.option("--require", multiple=True, metavar="CAP=PREDICATE", help='As in zstd=">=1.5"')
@click.option(
    "--optional", multiple=True, metavar="CAP=PREDICATE", help="Good to have; may be repeated."
)
@click.option(
    "--conflict",
    multiple=True,
    metavar="CAP=PREDICATE",
    help="What an agent must not have; may be repeated.",
)
@click.option(
    "--metadata",
    multiple=True,
    metavar="NAME=VALUE",
    help="Anything to remember of it; may be repeated.",
)
@click.option("--parent", help="The variant it was derived from.")
@click.option("--activate", is_flag=True, help="Activate it at once (the first of its protocol).")
@store_command(create=True)
def command(
    manager: EmergenceManager,
    output: Output,
    files: tuple[str, ...],
    description: str | None,
    changes: str | None,
    id_: str | None,
    protocol: str,
    require: tuple[str, ...],
    optional: tuple[str, ...],
    conflict: tuple[str, ...],
    metadata: tuple[str, ...],
    parent: str | None,
    activate: bool,
) -> None:
    """Propose a variant, from options or from JSON FILES (one object each, named like the options)."""
    if files and (description or changes):
        raise errors.InvalidError("give FILES, or --description and --changes, not both")
    wanted = [_read(file) for file in files]
    if not files:
        if not description:
            raise errors.InvalidError("say what it is with --description, or give JSON files")
        wanted = [
            {
                "description": description,
                "changes": {} if changes is None else parse(changes, "--changes"),
                "id": id_,
                "protocol": protocol,
                "requirements": dict(pair(text, "--require", versions=True) for text in require),
                "optional": dict(pair(text, "--optional", versions=True) for text in optional),
                "conflicts": dict(pair(text, "--conflict", versions=True) for text in conflict),
                "metadata": dict(pair(text, "--metadata", versions=True) for text in metadata),
                "parent_id": parent,
            }
        ]
    proposed = []
    for each in wanted:
        text = each.pop("description", each.get("id") or "")
        variant = manager.variants.propose(text, each.pop("changes", {}), **each)
        proposed.append(manager.variants.activate(variant) if activate else variant)

    def text_() -> None:
        for variant in proposed:
            needs = ", ".join(f"{k} {json.dumps(v)}" for k, v in variant.requirements.items())
            say(
                f"{variant.id}  {variant.status}  {variant.description}"
                + (f"  (requires {needs})" if needs else "")
            )

    output.show(proposed, text_)


def _read(file: str) -> dict[str, Any]:
    document = parse(f"@{file}", file)
    if not isinstance(document, dict):
        raise errors.InvalidError(
            f"{Path(file).name}: expected one JSON object with {', '.join(FIELDS)}"
        )
    unknown = sorted(set(document) - set(FIELDS))
    if unknown:
        raise errors.InvalidError(
            f"{Path(file).name}: unknown {', '.join(unknown)}; known: {', '.join(FIELDS)}"
        )
    return document
