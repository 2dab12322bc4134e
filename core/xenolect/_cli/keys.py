"""``xenolect keys``."""

from __future__ import annotations

import click

from xenolect import errors
from xenolect._cli.common import Output, bar, say, store_command, table
from xenolect._cli.groups import ListByDefault
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes

_DRY = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group("keys", cls=ListByDefault)
def command() -> None:
    """List the keys that seal (default), make, rotate, replace and destroy them."""


@command.command("list")
@store_command()
def list_(manager: EmergenceManager, output: Output) -> int:
    """Every data key, and the key that wraps it."""
    keys = manager.keys.list()

    def text() -> None:
        if not keys:
            use = manager.status()["parts"]["cipher"]
            say("no key was needed yet" if use != "none" else "states are stored unencrypted")
            return
        table(
            ("scope", "state", "id", "revision", "wrapped with"),
            [(k.scope or "?", k.state, k.id, k.revision, k.kek or "?") for k in keys],
        )
        for key in keys:
            if key.problem:
                say(f"{key.object}: {key.problem}")

    output.show(keys, text)
    return 1 if any(key.problem for key in keys) else 0


@command.command("new")
def new() -> None:
    """Print a new key to wrap with: 32 random bytes as hex, for a file or a variable.

    As in `xenolect keys new > key && chmod 600 key`. Keep a copy elsewhere: without it nothing that the
    store has sealed can be read.
    """
    import secrets

    click.echo(secrets.token_hex(32))


@command.command("rotate")
@_DRY
@store_command()
def rotate(manager: EmergenceManager, output: Output, dry_run: bool) -> None:
    """Wrap every data key with the current key of the provider; no state is touched."""
    with bar("wrapping") as progress:
        done = manager.keys.rotate(dry_run=dry_run, progress=progress)
    verb = "would be wrapped" if dry_run else "wrapped"

    def text() -> None:
        say(f"{done.wrapped} of {done.keys} keys {verb} anew with {done.kek}")
        if done.removed:
            say(f"{len(done.removed)} objects with former revisions removed")

    output.show(done, text)


@command.command("rekey")
@click.argument("variant", required=False)
@_DRY
@store_command()
def rekey(manager: EmergenceManager, output: Output, variant: str | None, dry_run: bool) -> None:
    """Make new data keys, and seal the newest state of VARIANT, or of all, with them."""
    with bar("sealing") as progress:
        done = manager.keys.rekey(variant, dry_run=dry_run, progress=progress)

    def text() -> None:
        if done.resumed:
            say("going on with what was interrupted")
        for each in done.states:
            into = f" as version {each.version}" if each.version else ", not done"
            say(f"{each.variant_id}: {each.chunks} chunks, {format_bytes(each.bytes)}{into}")
        say(f"{len(done.keys)} new keys, {len(done.states)} states")

    output.show(done, text)


@command.command("shred")
@click.argument("variant")
@click.option("--yes", is_flag=True, help="Destroy them; there is no way back.")
@_DRY
@store_command()
def shred(
    manager: EmergenceManager, output: Output, variant: str, yes: bool, dry_run: bool
) -> None:
    """Destroy the data keys of VARIANT: its states and points can never be read again."""
    if not (yes or dry_run):
        raise errors.InvalidError(
            f"shredding {variant!r} destroys its states and rollback points for ever; look with "
            f"--dry-run what there is, then say --yes"
        )
    with bar("destroying") as progress:
        done = manager.keys.shred(variant, dry_run=dry_run, progress=progress)
    would = "would be " if dry_run else ""
    output.show(
        done,
        lambda: say(
            f"{done.variant_id}: {len(done.keys)} keys, {done.versions} state versions and {done.points} "
            f"points {would}destroyed, {done.objects} objects {would}removed"
        ),
    )
