"""Groups of commands that answer a wrong name with the near one."""

from __future__ import annotations

import click

__all__ = ["ListByDefault", "Verbs"]


class Verbs(click.Group):
    """A group that says which verb was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what is near when a name is wrong."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib

            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"no command is called {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class ListByDefault(Verbs):
    """A group that lists when it is called without a verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a verb, or with an option in its place, the verb is ``list``."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)
