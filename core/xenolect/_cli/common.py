"""What every command shares: finding the store, printing for people or machines, exit codes."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import click

from xenolect import errors
from xenolect._cli.failure import fail, shown
from xenolect._layers import from_environment
from xenolect._parts import index_options
from xenolect.config import load
from xenolect.manager import EmergenceManager

__all__ = [
    "Output",
    "bar",
    "pair",
    "parse",
    "place_of",
    "plain",
    "say",
    "store_command",
    "store_options",
    "strict_json",
    "table",
]


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
        return fail(error, self.machine)


def say(text: str) -> None:
    """One or more lines for people; what an agent wrote into them can not move the cursor."""
    click.echo(shown(text))


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
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinities
    return value


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn by rich in a terminal, columns of plain text in a pipe."""
    cells = [[_cell(each) for each in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            click.echo(line.rstrip())
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        # an id that is cut or broken can not be copied; the other columns give way
        drawn.add_column(name, overflow="fold", no_wrap=name in ("id", "variant", "plugin"))
    for row in cells:
        drawn.add_row(*map(Text, row))  # as text: "[/x]" in a description is no markup
    Console().print(drawn)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A progress callable that draws a bar after a second; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    drawn = Progress(console=Console(stderr=True), transient=True)
    task = drawn.add_task(what, total=None)
    begun = time.monotonic()

    def step(done: int, total: int | None) -> None:
        if not drawn.live.is_started and time.monotonic() - begun > 1.0:
            drawn.start()
        drawn.update(task, completed=done, total=total)

    try:
        yield step
    finally:
        drawn.stop()


def _cell(value: object) -> str:
    return " ".join(shown(str(value).replace("\t", " ")).split("\n"))


@contextmanager
def opened(
    storage: str | None, config: str | None, *, create: bool = False
) -> Iterator[EmergenceManager]:
    """The manager of a store, without a thread and not counted as a serving process."""
    place = place_of(storage, config)
    if not create:
        _refuse_missing(place, config)
    # what a command did is on standard output; the library's log would say it twice
    logging.getLogger("xenolect").addHandler(logging.NullHandler())
    with EmergenceManager.open(place, background=False, process=False, actor="cli") as manager:
        yield manager


def place_of(storage: str | None, config: str | None) -> str:
    """What --storage and --config, the environment and the default come to, in this order."""
    if storage is not None and config is not None:
        raise errors.InvalidError("give --storage or --config, not both")
    if storage is not None:
        return storage
    if config is not None:
        return config
    return str(from_environment(os.environ).get("storage") or "variants/")


def _refuse_missing(place: str, config: str | None) -> None:
    """Opening makes a store; a command that reads must not make one out of a typing error."""
    settings = load(place)
    index = index_options(settings).get("path")
    if settings.index.use != "sqlite" or not isinstance(index, str) or Path(index).exists():
        return
    if config is None and (Path(settings.storage) / "xenolect.toml").exists():
        return
    how = f"--config {config}" if config is not None else settings.storage
    raise errors.NotFoundError(
        f"there is no store in {settings.storage!r}; make one with `xenolect init {how}`, or name "
        f"another with --storage"
    )


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --storage, --config and --json, which every command has."""
    for option in (
        click.option(
            "--json", "machine", is_flag=True, help="One JSON document on standard output."
        ),
        click.option("--config", metavar="FILE", help="A TOML file that says where the store is."),
        click.option("--storage", metavar="PATH_OR_URL", help="The store (default: variants/)."),
    ):
        function = option(function)
    return function


def store_command(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options --storage, --config, --json, and a manager and an output first."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @store_options
        @functools.wraps(function)
        def run(storage: str | None, config: str | None, machine: bool, **arguments: Any) -> None:
            output = Output(machine)
            try:
                with opened(storage, config, create=create) as manager:
                    code = function(manager, output, **arguments)
            except errors.EmergenceError as error:
                raise SystemExit(output.fail(error)) from None
            except BrokenPipeError:
                raise  # whoever read has gone; click ends quietly
            except OSError as error:
                away = errors.StorageError(f"{error.filename or 'a file'}: {error.strerror}")
                raise SystemExit(output.fail(away)) from None
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
        return strict_json(text)
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
        return name, strict_json(value)
    except ValueError as error:
        if value[:1] in ("{", "["):
            raise errors.InvalidError(f"{what}: {value!r} is not JSON ({error})") from None
        return name, value


def strict_json(text: str) -> Any:
    """A JSON value; ValueError also for a key that is there twice, which of both is meant?"""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return made

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
