"""Migrations of states: an older state is brought up to date when it is read.

The *schema* of a state is a number of the application's own, per protocol; 1 where nobody says. A
migration leads from one to a later one. What is put has the newest schema that any migration leads to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenolect.errors import ConfigError, DuplicateError, InvalidError, PluginError

if TYPE_CHECKING:
    from xenolect._registry import Registry

__all__ = ["Migrate", "Migrations"]

Migrate = Callable[[Any], Any]
"""From a state as ``get`` gives it to the same state in a later schema."""


class Migrations:
    """The known ones, by protocol: those of plugins, and those registered in this process."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, dict[int, Migrate]]] = {}

    @classmethod
    def of(cls, registry: Registry) -> Migrations:
        """Those that plugins offer as ``PROTOCOL.FROM.TO``; ConfigError, PluginError."""
        made = cls()
        for offered in registry.offers("state_migrations"):
            protocol, source, target = (*offered.name.rsplit(".", 2), "", "")[:3]
            if not (protocol and source.isdigit() and target.isdigit()):
                raise ConfigError(
                    f"the state migration {offered.name!r} of {offered.plugin} ({offered.source}) is not "
                    f"named PROTOCOL.FROM.TO, as in 'chat.1.2'; block it with [plugins] blocked = "
                    f'["{offered.handle}"]'
                )
            function = registry.make("state_migrations", offered.name, {}, "state migrations")
            made.add(protocol, int(source), int(target), function)
        return made

    def add(self, protocol: str, source: int, target: int, function: Migrate) -> None:
        """Know one more; InvalidError, DuplicateError."""
        if not 1 <= source < target:
            raise InvalidError(
                f"a state migration leads from a schema to a later one, got {source} to {target}"
            )
        steps = self._steps.setdefault(protocol, {}).setdefault(source, {})
        if target in steps:
            raise DuplicateError(
                f"there is a state migration of {protocol!r} from {source} to {target} already"
            )
        steps[target] = function

    def newest(self, protocol: str) -> int:
        """The schema of what is put now."""
        steps = self._steps.get(protocol, {})
        return max((target for targets in steps.values() for target in targets), default=1)

    def apply(self, protocol: str, schema: int, value: Any, what: str, lenient: bool) -> Any:
        """The value in the newest schema. InvalidError where no migrations lead there, or where it is
        of a later one; a tool that serves nobody (``lenient``) takes a later one as it is."""
        newest = self.newest(protocol)
        if schema == newest or (schema > newest and lenient):
            return value
        if schema > newest:
            raise InvalidError(
                f"{what} has schema {schema}, this process knows protocol {protocol!r} up to schema "
                f"{newest}: it was written by a newer release of the application; upgrade this one, or "
                f"restore an older state with a rollback"
            )
        for source, target in self._path(protocol, schema, newest, what):
            try:
                value = self._steps[protocol][source][target](value)
            except Exception as error:
                raise PluginError(
                    f"the state migration {protocol}.{source}.{target} failed on {what}: "
                    f"{type(error).__name__}: {error}; the state is as it was, fix the migration",
                    plugin=f"{protocol}.{source}.{target}",
                ) from error
        return value

    def _path(self, protocol: str, schema: int, newest: int, what: str) -> list[tuple[int, int]]:
        """The fewest steps."""
        before: dict[int, int] = {schema: 0}
        queue = deque([schema])
        while queue:
            at = queue.popleft()
            for target in sorted(self._steps[protocol].get(at, ()), reverse=True):
                if target not in before:
                    before[target] = at
                    queue.append(target)
        if newest not in before:
            raise InvalidError(
                f"{what} has schema {schema}, and no state migrations of protocol {protocol!r} lead from "
                f"there to {newest}; register the missing one, named {protocol}.{schema}.{newest}"
            )
        steps: list[tuple[int, int]] = []
        at = newest
        while at != schema:
            steps.insert(0, (before[at], at))
            at = before[at]
        return steps
