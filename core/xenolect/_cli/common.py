"""What every command shares: finding the store, printing for people or machines, exit codes."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import click

from xenolect import errors
from xenolect.manager import EmergenceManager

__all__ = ["ListByDefault", "Output", "pair", "parse", "store_command", "table"]

CODES: tuple[tuple[type[errors.EmergenceError], int], ...] = (
    (errors.InvalidError, 2),
    (errors.NotFoundError, 3),
    (errors.PluginError, 3),
    (errors.TransitionError, 5),
    (errors.ConflictError, 4),
    (errors.NoCompatibleVariantError, 5),
    (errors.BreakerOpenError, 5),
    (errors.LimitError, 5),
    (errors.AccessError, 5),
    (errors.CorruptError, 6),
    (errors.StorageError, 7),
)


def exit_code(error: errors.EmergenceError) -> int:
    """The exit code of an error: what the caller can do about it."""
    return next((code for kind, code in CODES if isinstance(error, kind)), 1)


class Output:
    """Prints one answer: a document for machines, or text for people."""

    def __init__(self, machine: bool) -> None:
        self.machine = machine

    def show(self, document: Any, text: Callable[[], None]) -> None:
        """The document with --json, else whatever ``text`` prints."""
        if self.machine:
            click.echo(json.dumps(plain(document), indent=2, ensure_ascii=False))
        else:
            text()

    def fail(self, error: errors.EmergenceError) -> int:
        """Print an error; the exit code."""
        if self.machine:
            click.echo(
                json.dumps(
                    {
                        "error": {
                            "code": error.code,
                            "message": str(error),
                            "retryable": error.retryable,
                            "retry_after": error.retry_after,
                        }
                    }
                ),
                err=True,
            )
        else:
            click.secho("error: ", fg="red", nl=False, err=True)
            click.echo(str(error), err=True)
        return exit_code(error)


def plain(value: Any) -> Any:
    """Records as JSON."""
    if attrs.has(type(value)):
        return {f.name: plain(getattr(value, f.name)) for f in attrs.fields(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn by rich in a terminal, tab-separated in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(str(cell) for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    Console().print(drawn)


@contextmanager
def opened(
    storage: str | None, config: str | None, *, create: bool = False
) -> Iterator[EmergenceManager]:
    """The manager of a store, without a thread and not counted as a serving process."""
    place = _place(storage, config)
    if not create and storage_is_missing(place):
        raise errors.NotFoundError(
            f"there is no store in {place!r}; make one with `xenolect init {place}`, or name another "
            f"with --storage"
        )
    # what a command did is on standard output; the library's log would say it twice
    logging.getLogger("xenolect").addHandler(logging.NullHandler())
    with EmergenceManager.open(place, background=False, process=False, actor="cli") as manager:
        yield manager


def _place(storage: str | None, config: str | None) -> str | None:
    if storage is not None and config is not None:
        raise errors.InvalidError("give --storage or --config, not both")
    place = storage if storage is not None else config
    if place is None and "XENOLECT__STORAGE" not in os.environ:
        return "variants/"
    return place


def storage_is_missing(place: str | None) -> bool:
    """Is this a local directory without a store?"""
    if place is None or "://" in place or place.endswith(".toml"):
        return False
    path = Path(place)
    return not ((path / "index.db").exists() or (path / "xenolect.toml").exists())


def store_command(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options --storage, --config, --json, and a manager and an output first."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--storage", metavar="PATH_OR_URL", help="The store (default: variants/).")
        @click.option("--config", metavar="FILE", help="A TOML file that says where the store is.")
        @click.option(
            "--json", "machine", is_flag=True, help="One JSON document on standard output."
        )
        @functools.wraps(function)
        def run(storage: str | None, config: str | None, machine: bool, **arguments: Any) -> None:
            output = Output(machine)
            try:
                with opened(storage, config, create=create) as manager:
                    code = function(manager, output, **arguments)
            except errors.EmergenceError as error:
                raise SystemExit(output.fail(error)) from None
            if code:
                raise SystemExit(code)

        return run

    return decorate


def parse(text: str, what: str) -> Any:
    """A JSON value, or ``@FILE`` with one; text that is no JSON is a usage error."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except OSError as error:
            raise errors.InvalidError(
                f"{what}: {text[1:]} can not be read: {error.strerror}"
            ) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise errors.InvalidError(
            f'{what}: {text!r} is not JSON ({error}); write it as in \'{{"wire": "zstd"}}\' or @file.json'
        ) from None


def pair(text: str, what: str, *, versions: bool = False) -> tuple[str, Any]:
    """``name=value``; the value is JSON where it can be read as such, else text.

    With ``versions`` a number with a point stays text: 1.10 is not 1.1.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise errors.InvalidError(f"{what}: {text!r} is not NAME=VALUE")
    if versions and value.replace(".", "").isdigit() and "." in value:
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


class ListByDefault(click.Group):
    """A group that lists when it is called without a verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a verb the verb is ``list``."""
        if not any(arg in self.commands or arg in ("-h", "--help") for arg in args):
            args = ["list", *args]
        return super().parse_args(ctx, args)
