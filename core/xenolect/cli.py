"""The command line ``xenolect``. Each command's module is imported only when it is run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from xenolect import errors
from xenolect._cli.failure import fail, fail_usage
from xenolect._cli.groups import Verbs

if TYPE_CHECKING:
    from xenolect._registry import Offered, Registry

__all__ = ["main"]

# name -> (module below xenolect._cli, one line of help): --help imports none of them
COMMANDS = {
    "agents": ("agents", "List, register, update and remove agents."),
    "bench": ("bench", "Measure the hot paths beside their floors."),
    "canary": ("canary", "Start, watch and steer rollouts."),
    "cache": ("cache", "Let go of what processes keep of verified states."),
    "export": ("export", "Write variants and states in the layout of version 1."),
    "import": ("import_", "Take in variants and states of the layout of version 1."),
    "init": ("init", "Make a store in a directory, with a commented xenolect.toml."),
    "keys": ("keys", "List, make, rotate, replace and destroy the keys that seal."),
    "metrics": ("metrics", "Show what was measured of a variant by hour, day or month."),
    "new-plugin": ("new_plugin", "Write a distribution with a working plugin and its tests."),
    "plugins": ("plugins", "Show every plugin: loaded, left out and why, blocked."),
    "points": ("points", "List, create, verify and restore rollback points."),
    "propose": ("propose", "Propose a variant, from options or from JSON files."),
    "reindex": ("reindex", "Rebuild a lost index from its mirror, or the mirror from the index."),
    "replay": ("replay", "Recompute what was decided, and check that nobody edited it."),
    "rollback": ("rollback", "Take a variant back to its last proven point."),
    "select": ("select", "Say which variant an agent is served, and its score."),
    "simulate": ("simulate", "Play a policy's rollouts in a drawn world before enabling it."),
    "state": ("state", "Put, get, list, verify and clean up states."),
    "status": ("status", "Show what runs: variants, rollouts, breakers, parts."),
    "variants": ("variants", "List variants and move them through their life."),
    "watch": ("watch", "Show rollouts, breakers and rates, live."),
    "why": ("why", "Explain a choice for an agent, or what became of a variant."),
}
ELSEWHERE = {
    "demo": ("xenolect-mcp", "Roll five changes out to real MCP clients."),
    "prometheus": ("xenolect-otel", "Serve the metrics of a store to Prometheus."),
}


MACHINE = "xenolect.machine"


class Lazy(Verbs):
    """A group that knows its commands' names and help without importing them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember --json, which stands behind a command, for errors that come before it runs."""
        ctx.meta[MACHINE] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """With --json a wrong call is answered in JSON too; errors of a plugin's command are told as ours."""
        try:
            return super().invoke(ctx)
        except errors.EmergenceError as error:
            raise SystemExit(fail(error, ctx.meta[MACHINE])) from None
        except click.ClickException as error:
            if not ctx.meta[MACHINE]:
                raise
            fail_usage(error.format_message(), True)
            ctx.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours, those of plugins, and those we know where to get."""
        return sorted({*COMMANDS, *ELSEWHERE, *_offered()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command that is asked for."""
        if name in COMMANDS:
            module = importlib.import_module(f"xenolect._cli.{COMMANDS[name][0]}")
            command: click.Command = module.command
            return command
        offers = _offered().get(name)
        if offers is not None:
            return _made(name, offers)
        if name in ELSEWHERE:
            return _failing(name, _missing(name, ELSEWHERE[name][0]))
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and help, from the tables: importing thirteen modules for one page is too slow."""
        rows = {name: text for name, (_, text) in COMMANDS.items()}
        for name, offers in _offered().items():
            source = " and ".join(each.source for each in offers)
            text = ELSEWHERE[name][1] if name in ELSEWHERE else "An added command."
            rows.setdefault(name, f"{text} ({source})")
        for name, (distribution, text) in ELSEWHERE.items():
            rows.setdefault(name, f"{text} (needs {distribution})")
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


_registry: Registry | None = None


def _plugins() -> Registry:
    """The installed plugins, collected once; the bundled ones add no commands."""
    global _registry
    if _registry is None:
        from xenolect._registry import Registry
        from xenolect.config import PluginsConfig

        _registry = Registry.collect(PluginsConfig(), (), ())
    return _registry


def _offered() -> dict[str, list[Offered]]:
    """The commands of plugins by name; two plugins may offer the same."""
    found: dict[str, list[Offered]] = {}
    for each in _plugins().commands():
        found.setdefault(each.name, []).append(each)
    return found


def _made(name: str, offers: Sequence[Offered]) -> click.Command:
    """The command of a plugin, or one that says why there is none."""
    sources = " and ".join(f"{each.plugin} ({each.source})" for each in offers)
    if len(offers) > 1:
        return _failing(
            name,
            f"two plugins offer `xenolect {name}`: {sources}; remove one of them",
        )
    try:
        made = offers[0].offer.make()
    except Exception as error:
        return _failing(
            name,
            f"`xenolect {name}` of {sources} can not be loaded: {type(error).__name__}: {error}",
        )
    if not isinstance(made, click.Command):
        return _failing(name, f"`xenolect {name}` of {sources} is no click.Command but {made!r}")
    return made


def _missing(name: str, distribution: str) -> str:
    """Why a command that we know is not there."""
    for record in _plugins().describe():
        if record.source.partition(" ")[0] == distribution and record.status != "loaded":
            return f"xenolect {name} comes with {record.source}, which is {record.status}: {record.why}"
    return f"xenolect {name} comes with {distribution}; install it: pip install {distribution}"


def _failing(name: str, message: str) -> click.Command:
    """A command that takes any arguments and fails with a message and exit code 3."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    @click.pass_context
    def failing(ctx: click.Context) -> None:
        ctx.exit(fail(errors.PluginError(message), bool(ctx.meta[MACHINE])))

    return failing


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
