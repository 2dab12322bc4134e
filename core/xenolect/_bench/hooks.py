"""Telling observers of an event: the registry's own dispatch beside pluggy's, of the same hooks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from xenolect._bench.rows import Growth, Plan, Progress, Row, side_by_side
from xenolect._registry import Registry
from xenolect.config import PluginsConfig
from xenolect.events import Event
from xenolect.hookspecs import hookimpl

__all__ = ["rows"]


class _Observer:
    @hookimpl
    def xenolect_observe(self, event: Event) -> None:
        """Hear of it."""


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    progress("hooks")
    event = Event("bench", datetime(2026, 1, 1, tzinfo=UTC), 0, None, {})
    for count in (0, 1, 3, 10):
        observers = [_Observer() for _ in range(count)]
        registry = Registry.collect(PluginsConfig(third_party=False), observers, bundled=())
        hook = registry._pluggy.hook.xenolect_observe
        ours, floor = side_by_side(
            (partial(registry.observers, event), partial(hook, event=event)), 1_000, 15
        )
        yield Row(
            f"an event, observers: {count}",
            ours,
            floor,
            "pluggy, the same hooks",
            growth=Growth("an event", count, "observers"),
        )
