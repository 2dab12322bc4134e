"""What went wrong, for people or machines, and the exit code. Imports nothing heavy: `--help` needs it."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click

from xenolect import errors

__all__ = ["exit_code", "fail", "fail_usage", "shown"]

CODES: tuple[tuple[type[errors.EmergenceError], int], ...] = (
    (errors.InvalidError, 2),
    (errors.NotFoundError, 3),
    (errors.PluginError, 3),
    (errors.TransitionError, 5),  # before its parent: it will not go away by reading again
    (errors.ConflictError, 4),
    (errors.NoCompatibleVariantError, 5),
    (errors.BreakerOpenError, 5),
    (errors.LimitError, 5),
    (errors.AccessError, 5),
    (errors.CorruptError, 6),
    (errors.StorageError, 7),
)


UNSEEN = ("Cc", "Cf", "Cs")  # control, format, surrogate
KEPT = "\n\u200c\u200d"  # lines, and the joiners that some scripts are written with


def exit_code(error: errors.EmergenceError) -> int:
    """The exit code of an error: what the caller can do about it."""
    return next((code for kind, code in CODES if isinstance(error, kind)), 1)


def fail(error: errors.EmergenceError, machine: bool) -> int:
    """Print an error on standard error; the exit code."""
    detail = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    _print(error.code, str(error), machine, {"retryable": error.retryable, **detail})
    return exit_code(error)


def fail_usage(message: str, machine: bool) -> int:
    """Print that the command was called wrongly; the exit code."""
    _print("usage", message, machine, {"retryable": False, "retry_after": None})
    return 2


def _print(code: str, message: str, machine: bool, detail: dict[str, Any]) -> None:
    if machine:
        document = {"error": {"code": code, "message": message, **detail}}
        click.echo(json.dumps(document, default=str), err=True)
    else:
        click.secho("error: ", fg="red", nl=False, err=True)
        click.echo(shown(message), err=True)


def shown(text: str) -> str:
    """Text that may come from an agent, safe for a terminal: control characters become visible.

    An escape sequence in a description could otherwise repaint the operator's screen, and a character
    that turns the writing direction could make one id look like another. Lines stay lines.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(each) if unicodedata.category(each) in UNSEEN and each not in KEPT else each
        for each in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
