"""The command line ``xenolect``. Each command's module is imported only when it is run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["main"]

# name -> (module below xenolect._cli, one line of help): --help imports none of them
COMMANDS = {
    "agents": ("agents", "List, register, update and remove agents."),
    "bench": ("bench", "Measure the hot paths beside their floors."),
    "canary": ("canary", "Start, watch and steer rollouts."),
    "init": ("init", "Make a store in a directory, with a commented xenolect.toml."),
    "plugins": ("plugins", "Show every plugin: loaded, left out and why, blocked."),
    "points": ("points", "List, create, verify and restore rollback points."),
    "propose": ("propose", "Propose a variant, from options or from JSON files."),
    "replay": ("replay", "Recompute what was decided, and check that nobody edited it."),
    "rollback": ("rollback", "Take a variant back to its last proven point."),
    "select": ("select", "Say which variant an agent is served, and its score."),
    "state": ("state", "Put, get, list, verify and clean up states."),
    "status": ("status", "Show what runs: variants, rollouts, breakers, parts."),
    "variants": ("variants", "List variants and move them through their life."),
    "why": ("why", "Explain a choice for an agent, or what became of a variant."),
}
ELSEWHERE = {
    "demo": ("xenolect-mcp", "Roll five changes out to real MCP clients (needs xenolect-mcp)."),
}


class Lazy(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours, those of plugins, and those we know where to get."""
        return sorted({*COMMANDS, *ELSEWHERE, *_plugin_commands()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command that is asked for."""
        if name in COMMANDS:
            module = importlib.import_module(f"xenolect._cli.{COMMANDS[name][0]}")
            command: click.Command = module.command
            return command
        offered = _plugin_commands().get(name)
        if offered is not None:
            made: click.Command = offered.offer.make()
            return made
        if name in ELSEWHERE:
            return _missing(name, ELSEWHERE[name][0])
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what is near when a name is wrong."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no command is called {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and help, from the tables: importing thirteen modules for one page is too slow."""
        rows = {name: text for name, (_, text) in COMMANDS.items()}
        rows |= {name: text for name, (_, text) in ELSEWHERE.items()}
        for name, offered in _plugin_commands().items():
            if name not in rows:
                rows[name] = f"From {offered.source}."
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


_found: dict[str, Any] | None = None


def _plugin_commands() -> dict[str, Any]:
    """The commands that installed plugins offer, found once."""
    global _found
    if _found is None:
        from xenolect._registry import Registry
        from xenolect.config import PluginsConfig

        _found = {each.name: each for each in Registry.collect(PluginsConfig(), (), ()).commands()}
    return _found


def _missing(name: str, distribution: str) -> click.Command:
    @click.command(name, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def missing(arguments: Sequence[str]) -> None:
        click.echo(
            f"error: `xenolect {name}` comes with {distribution}; install it: "
            f"pip install {distribution}",
            err=True,
        )
        raise SystemExit(3)

    return missing


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xenolect")
def main() -> None:
    """Let a fleet of agents change the protocol it speaks, safely.

    Every command takes --storage PATH_OR_URL or --config FILE (or XENOLECT__STORAGE), and --json.
    Exit codes: 0 ok, 1 failed check, 2 usage, 3 not found, 4 conflict, 5 refused, 6 corrupt,
    7 backend away.
    """


if __name__ == "__main__":
    main()
