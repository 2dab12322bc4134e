"""``xenolect state``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from xenolect import errors
from xenolect._cli.common import (
    Output,
    bar,
    place_of,
    plain,
    say,
    store_command,
    store_options,
    strict_json,
    table,
)
from xenolect._cli.groups import Verbs
from xenolect.config import load
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes


@click.group("state", cls=Verbs)
def command() -> None:
    """Put, get, list, verify and clean up states."""


@command.command("put")
@click.argument("variant")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--as-json", is_flag=True, help="Store the file as a JSON value, not as bytes.")
@store_command()
def put(manager: EmergenceManager, output: Output, variant: str, file: str, as_json: bool) -> None:
    """Store FILE as the next state of VARIANT."""
    if as_json:
        try:
            value: Any = strict_json(Path(file).read_text("utf-8"))
        except ValueError as error:
            raise errors.InvalidError(f"{file} is not JSON: {error}") from None
        ref = manager.states.put(variant, value)
    else:
        with open(file, "rb") as stream, bar("storing") as progress:
            ref = manager.states.put(variant, stream, progress=progress)
    output.show(
        ref,
        lambda: say(
            f"{ref.variant_id} state {ref.version}: {format_bytes(ref.size)} in {ref.chunks} chunks"
        ),
    )


@command.command("get")
@click.argument("variant")
@click.option("--version", type=int, help="An older version of the state.")
@click.option("--out", type=click.Path(dir_okay=False), help="A file (default: standard output).")
@store_command()
def get(
    manager: EmergenceManager, output: Output, variant: str, version: int | None, out: str | None
) -> None:
    """Write the state of VARIANT, every chunk verified."""
    import shutil

    if out is not None:
        with manager.states.open(variant, version) as source, open(out, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        output.show({"written": out}, lambda: say(out))
        return
    value = manager.states.get(variant, version)
    if isinstance(value, bytes) and output.machine:
        raise errors.InvalidError(
            f"the state of {variant!r} is bytes, which JSON can not hold; write it with --out FILE"
        )
    if isinstance(value, bytes):
        sys.stdout.buffer.write(value)
    else:
        import json

        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


@command.command("versions")
@click.argument("variant")
@store_command()
def versions(manager: EmergenceManager, output: Output, variant: str) -> None:
    """The versions of VARIANT's state."""
    refs = manager.states.versions(variant)
    output.show(
        refs,
        lambda: table(
            ("version", "kind", "size", "chunks", "created", "root"),
            [
                (
                    r.version,
                    r.kind,
                    format_bytes(r.size),
                    r.chunks,
                    f"{r.created_at:%Y-%m-%d %H:%M:%S}",
                    r.root[:16],
                )
                for r in refs
            ],
        ),
    )


@command.command("verify")
@click.argument("variant", required=False)
@click.option("--deep/--shallow", default=True, help="Read every byte, or only look what is there.")
@store_command()
def verify(manager: EmergenceManager, output: Output, variant: str | None, deep: bool) -> int:
    """Check the states of VARIANT, or of all."""
    with bar("verifying") as progress:
        report = manager.states.verify(variant, deep=deep, progress=progress)

    def text() -> None:
        for problem in report.problems:
            say(str(problem))
        say(
            f"{report.checked} objects, {format_bytes(report.bytes)}, "
            f"{len(report.problems)} problems"
        )

    output.show(report, text)
    return 1 if report.problems else 0


@command.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@store_command()
def gc(manager: EmergenceManager, output: Output, dry_run: bool) -> None:
    """Remove chunks that no version refers to and that are older than the grace."""
    with bar("cleaning up") as progress:
        removed = manager.states.gc(dry_run=dry_run, progress=progress)
    verb = "would remove" if dry_run else "removed"

    def text() -> None:
        for key in removed.removed:
            say(key)
        say(f"{verb} {len(removed.removed)} objects; {removed.young} are within the grace")

    output.show(removed, text)


@command.command("repair")
@click.argument("variant", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what could be healed, and from what.")
@store_command()
def repair(manager: EmergenceManager, output: Output, variant: str | None, dry_run: bool) -> int:
    """Make damaged states of VARIANT, or of all, whole again."""
    with bar("repairing") as progress:
        done = manager.states.repair(variant, dry_run=dry_run, progress=progress)
    would = "would be " if dry_run else ""

    def text() -> None:
        for each in done.healed:
            found = ", ".join(each.sources) or "its mirror"
            into = f" as version {each.version}" if each.version else ""
            say(
                f"{each.variant_id} state {each.damaged}: {would}healed{into}, "
                f"{len(each.objects)} damaged objects, from {found}"
            )
        for gone in done.lost:
            say(f"{gone.variant_id} state {gone.version}: lost ({gone.what}); {gone.done}")
        for key in done.rewritten:
            say(f"{key}: {would}written again from the index")
        for key in done.quarantined:
            say(f"{key}: damaged, {would}quarantined")
        say(f"{done.checked} objects checked, {len(done.healed)} healed, {len(done.lost)} lost")

    output.show(done, text)
    return 1 if done.lost else 0


@command.command("scavenge")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only say what could be put together.")
@store_options
def scavenge(
    storage: str | None, config: str | None, machine: bool, folder: str, dry_run: bool
) -> None:
    """Put the newest states together from the objects alone, into FOLDER; the store is only read."""
    from xenolect._scavenge import scavenge as search

    output = Output(machine)
    try:
        with bar("searching") as progress:
            settings = load(place_of(storage, config))
            done = search(settings, Path(folder), dry_run=dry_run, progress=progress)
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None

    def text() -> None:
        say(f"objects of store {done.store}")
        for each in done.states:
            holes = f", {len(each.missing)} chunks are missing" if each.missing else ""
            say(
                f"{each.variant_id} state {each.version}: {format_bytes(each.size)} by its "
                f"{each.source}{holes}"
            )
            for doubt in each.doubts:
                say(f"  {doubt}")
        for gone in done.lost:
            say(f"{gone}: lost")

    output.show(done, text)
    if done.lost:
        raise SystemExit(1)
