"""``xenolect variants``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from xenolect._cli.common import Output, say, store_command, table
from xenolect._cli.groups import ListByDefault
from xenolect.manager import EmergenceManager
from xenolect.model import ProtocolVariant, VariantStatus


@click.group("variants", cls=ListByDefault)
def command() -> None:
    """List variants (default), or show one and move it through its life."""


def _list(
    manager: EmergenceManager, output: Output, status: str | None, protocol: str | None
) -> None:
    variants = manager.variants.list(status=status, protocol=protocol)
    baselines = set(manager.status()["baselines"].values())
    if not variants and not output.machine:
        say("no variants; propose one with `xenolect propose`")
        return
    output.show(
        variants,
        lambda: table(
            ("id", "protocol", "status", "version", "description"),
            [
                (
                    v.id,
                    v.protocol,
                    f"{v.status} (baseline)" if v.id in baselines else v.status,
                    v.version,
                    v.description,
                )
                for v in variants
            ],
        ),
    )


def _print(variant: ProtocolVariant) -> None:
    say(f"{variant.id}  {variant.status}  version {variant.version}  {variant.description}")
    for name in ("changes", "requirements", "optional", "conflicts", "metadata"):
        value: Any = getattr(variant, name)
        if value:
            say(f"  {name}: {json.dumps(value, ensure_ascii=False)}")


@command.command("list")
@click.option(
    "--status",
    type=click.Choice([str(s) for s in VariantStatus]),
    help="Only those in this status.",
)
@click.option("--protocol", help="Only those of this protocol.")
@store_command()
def list_(
    manager: EmergenceManager, output: Output, status: str | None, protocol: str | None
) -> None:
    """List variants."""
    _list(manager, output, status, protocol)


@command.command("show")
@click.argument("variant")
@store_command()
def show(manager: EmergenceManager, output: Output, variant: str) -> None:
    """Show one variant whole."""
    found = manager.variants.get(variant)
    output.show(found, lambda: _print(found))


def _verb(name: str, help_: str, forcible: bool = False) -> None:
    def run(manager: EmergenceManager, output: Output, variant: str, **options: Any) -> None:
        method = getattr(manager.variants, {"test": "start_testing"}.get(name, name))
        moved = method(variant, **options)
        output.show(moved, lambda: say(f"{moved.id}  {moved.status}"))

    run.__doc__ = help_
    run.__name__ = name
    wrapped = store_command()(run)
    if forcible:
        wrapped = click.option("--force", is_flag=True, help="Without proof; audited.")(wrapped)
    command.command(name)(click.argument("variant")(wrapped))


_verb("test", "PROPOSED or ROLLED_BACK to TESTING.")
_verb("activate", "To ACTIVE: the first of its protocol, a deprecated one, or with --force.", True)
_verb("deprecate", "ACTIVE to DEPRECATED.")
_verb("archive", "Put a variant away for good.")


@command.command("baseline")
@click.argument("protocol")
@click.argument("variant", required=False)
@store_command()
def baseline(manager: EmergenceManager, output: Output, protocol: str, variant: str | None) -> None:
    """Show the fallback of PROTOCOL, or make VARIANT it."""
    found = manager.variants.baseline(protocol, variant)
    name = None if found is None else found.id
    output.show({"protocol": protocol, "baseline": name}, lambda: say(name or "none"))


@command.command("export")
@click.argument("path", type=click.Path(dir_okay=False))
@click.argument("variants", nargs=-1)
@click.option(
    "--key", type=click.Path(exists=True), help="File of an Ed25519 private key, 32 bytes."
)
@store_command()
def export(
    manager: EmergenceManager, output: Output, path: str, variants: tuple[str, ...], key: str | None
) -> None:
    """Write VARIANTS (default: all) into the file PATH, with a digest."""
    signing = None if key is None else Path(key).read_bytes()
    count = manager.variants.export(variants or None, path, key=signing)
    output.show({"path": path, "variants": count}, lambda: say(f"{count} variants are in {path}"))


@command.command("import")
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--trust", multiple=True, help="A public key (base64) that must have signed it.")
@store_command()
def import_(manager: EmergenceManager, output: Output, path: str, trust: tuple[str, ...]) -> None:
    """Take in the variants of PATH as proposed; exit code 4 where an id is taken by another."""
    done = manager.variants.import_(path, trust=trust or None)

    def words() -> None:
        say(f"{len(done.imported)} imported, {len(done.same)} were there already")
        if done.signed_by:
            say(f"signed by {done.signed_by}")
        for name, why in done.conflicts.items():
            say(f"left out: {name}: {why}")

    output.show(done, words)
    if done.conflicts:
        click.get_current_context().exit(4)
