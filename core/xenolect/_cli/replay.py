"""``xenolect replay``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from xenolect import errors
from xenolect._cli.common import Output, store_command
from xenolect._replay import Progress, Replay, Replayed
from xenolect.manager import EmergenceManager

CORRUPT = ("entry", "anchor", "facts")


@click.command("replay")
@click.option(
    "--anchor",
    metavar="FILE|REV:DIGEST",
    help="What --write-anchor wrote: proves that no tail was cut off.",
)
@click.option(
    "--write-anchor",
    metavar="FILE",
    help="Write the newest entry's revision and digest to FILE, if all is well.",
)
@store_command()
def command(
    manager: EmergenceManager, output: Output, anchor: str | None, write_anchor: str | None
) -> int:
    """Recompute every verdict, transition and routing from the journal, and name what differs.

    Exit code 0: all equal to the last bit; 1: something comes out differently; 6: the journal was
    edited or cut.
    """
    expected = None if anchor is None else _read(anchor)
    runtime = manager._runtime
    replay = Replay(runtime.index, runtime.registry, max(runtime.config.max_staleness, 0.0))
    with _progress(output) as progress:
        found = replay.run(expected, progress)
    if write_anchor is not None and not found.problems:
        head = {"revision": found.journal.revision, "digest": found.journal.digest}
        Path(write_anchor).write_text(json.dumps(head) + "\n", "utf-8")
    output.show({**_document(found)}, lambda: _text(found, write_anchor))
    if any(problem.kind in CORRUPT for problem in found.problems):
        return 6
    return 1 if found.problems else 0


def _document(found: Replayed) -> Mapping[str, Any]:
    return {
        "ok": not found.problems,
        "entries": found.journal.entries,
        "revision": found.journal.revision,
        "digest": found.journal.digest,
        "facts": found.facts,
        "rollouts": found.rollouts,
        "decisions": found.decisions,
        "verdicts": found.verdicts,
        "compared": found.compared,
        "transitions": found.transitions,
        "routed": found.routed,
        "fingerprint": found.fingerprint,
        "problems": found.problems,
        "unverified": found.unverified,
    }


def _text(found: Replayed, written: str | None) -> None:
    journal = found.journal
    click.echo(f"journal      {journal.entries} entries, head {journal.digest[:16]}")
    if found.fingerprint:
        click.echo(f"facts        {found.facts}")
        click.echo(
            f"rollouts     {found.rollouts}: {found.verdicts} verdicts recomputed, {found.compared} "
            f"compared with the journal"
        )
        click.echo(f"transitions  {found.transitions}")
        click.echo(f"routing      {found.routed} observations")
        click.echo(f"fingerprint  {found.fingerprint}")
    else:
        click.echo("nothing was recomputed: the journal can not be followed")
    for text in found.unverified:
        click.echo(f"not verified: {text}")
    for problem in found.problems:
        click.secho(f"{problem.kind}: ", fg="red", nl=False)
        click.echo(problem.message)
    if not found.problems:
        click.echo("all equal")
        if written is not None:
            click.echo(
                f"anchor written to {written}; keep it where this store's owner can not reach"
            )
    elif written is not None:
        click.echo("no anchor was written")


def _read(text: str) -> Mapping[str, Any]:
    """An anchor from a file or from ``REV:DIGEST``."""
    revision, colon, digest = text.partition(":")
    if colon and revision.isdigit() and len(digest) == 64:
        return {"revision": int(revision), "digest": digest}
    try:
        found = json.loads(Path(text).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InvalidError(
            f"--anchor: {text!r} is neither REVISION:DIGEST nor a file with an anchor ({error})"
        ) from None
    if not isinstance(found, Mapping):
        raise errors.InvalidError(f"--anchor: {text} holds no anchor")
    return found


@contextmanager
def _progress(output: Output) -> Iterator[Progress | None]:
    """A bar on a terminal."""
    import sys

    if output.machine or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("replay", total=None)
        yield lambda what, done, total: bar.update(
            row, description=what, completed=done, total=total
        )
