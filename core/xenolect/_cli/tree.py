"""``xenolect export`` and ``xenolect import``: the layout of version 1."""

from __future__ import annotations

from pathlib import Path

import click

from xenolect import errors
from xenolect._cli.common import Output, bar, say, store_command
from xenolect._v1_tree import read_tree, write_tree
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes

__all__ = ["export", "import_"]

_V1 = click.option("--v1", is_flag=True, help="The layout of version 1 of the specification.")
_DRY = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


def _only_v1(v1: bool, verb: str) -> None:
    if not v1:
        raise errors.InvalidError(
            f"say --v1 for the layout of version 1; `xenolect variants {verb}` takes variants to another "
            f"store in a file"
        )


@click.command("export")
@_V1
@_DRY
@click.argument("folder", type=click.Path(file_okay=False))
@click.argument("variants", nargs=-1)
@store_command()
def export(
    manager: EmergenceManager,
    output: Output,
    v1: bool,
    dry_run: bool,
    folder: str,
    variants: tuple[str, ...],
) -> None:
    """Write VARIANTS (default: all) with their newest states below FOLDER."""
    _only_v1(v1, "export")
    with bar("exporting") as progress:
        done = write_tree(manager, Path(folder), variants, dry_run=dry_run, progress=progress)
    verb = "would be written" if dry_run else "written"
    output.show(
        done,
        lambda: say(
            f"{len(done.variants)} variants and {len(done.states)} states "
            f"({format_bytes(done.bytes)}) {verb} below {folder}"
        ),
    )


@click.command("import")
@_V1
@_DRY
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@store_command()
def import_(manager: EmergenceManager, output: Output, v1: bool, dry_run: bool, folder: str) -> int:
    """Take in the variants below FOLDER as proposed, with their states."""
    _only_v1(v1, "import")
    with bar("importing") as progress:
        done = read_tree(manager, Path(folder), dry_run=dry_run, progress=progress)
    would = "would be " if dry_run else ""

    def text() -> None:
        say(f"{len(done.imported)} variants {would}imported, {len(done.states)} with a state")
        if done.same:
            say(f"{len(done.same)} are there already")
        for name, why in done.refused.items():
            say(f"{name}: left out ({why})")

    output.show(done, text)
    return 1 if done.refused else 0
