"""Prints ``docs/commands.md`` from the command line itself: ``python -m tests.commands_page``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from xenolect.cli import COMMANDS, main

HEAD = """\
# Commands

Every command takes `--json` (one JSON document on standard output, errors as JSON on standard error). Those that work on
a store take `--storage PATH_OR_URL` or `--config FILE`; without either it is `XENOLECT__STORAGE`, else `variants/`.

| exit code | meaning |
| --- | --- |
| 0 | ok |
| 1 | a check failed |
| 2 | the call was wrong |
| 3 | not found |
| 4 | conflict: somebody was first, or it exists already |
| 5 | refused: not in this state, over a limit, not compatible, not allowed |
| 6 | corrupt |
| 7 | a backend is away |

`xenolect demo` comes with `xenolect-mcp`; other distributions may add commands of their own
([xenolect_commands](hooks.md#xenolect_commands)). This page is made from the command line by `python -m tests.commands_page`.
"""

COMMON = ("storage", "config", "machine", "help")


def _each(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _each(inner, f"{path} {name}")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and verb that xenolect itself has, with its words."""
    context = click.Context(main)
    for name in sorted(COMMANDS):
        command = main.get_command(context, name)
        assert command is not None
        yield from _each(command, name)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _option(option: click.Option, command: click.Command) -> str:
    """Its names, and what it takes."""
    names = ", ".join(option.opts)
    if option.is_flag:
        return names
    return f"{names} {option.make_metavar(click.Context(command))}".replace("|", "\\|")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, command in commands():
        level = "##" if " " not in path else "###"
        arguments = " ".join(
            each.make_metavar(click.Context(command))
            for each in command.params
            if isinstance(each, click.Argument)
        )
        parts.append(f"{level} `{path}`\n")
        if isinstance(command, click.Group):
            parts.append(" ".join((command.help or "").split("\b")[0].split()) + "\n")
            continue
        parts.append(f"`xenolect {path}{' ' + arguments if arguments else ''}`\n")
        for paragraph in (command.help or "").replace("\b", "").strip().split("\n\n"):
            parts.append(" ".join(paragraph.split()) + "\n")
        rows = [
            f"| `{_option(each, command)}` | {_cell(each.help or '')} |"
            for each in command.params
            if isinstance(each, click.Option) and each.name not in COMMON
        ]
        if rows:
            parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
