"""The same readings for Prometheus: a collector that reads when it is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xenolect import EmergenceError, EmergenceManager
from xenolect_otel.readings import READINGS, Reading, read

__all__ = ["StoreCollector", "XenolectCollector", "name_of"]

_SUFFIX = {"s": "_seconds", "By": "_bytes"}


def name_of(name: str) -> str:
    """``xenolect.disk.usage`` -> ``xenolect_disk_usage_bytes``; the client adds ``_total`` to counters."""
    return name.replace(".", "_") + _SUFFIX.get(READINGS[name].unit, "")


class XenolectCollector(Collector):
    """Collects from a manager: ``registry.register(XenolectCollector(manager))``."""

    def __init__(self, manager: EmergenceManager, *, window: float = 300.0) -> None:
        self._look: Callable[[], list[Reading]] = lambda: read(manager, window)

    def describe(self) -> Iterable[Metric]:
        """Names without values, so that registering does not read."""
        return list(_families([]).values())

    def collect(self) -> Iterator[Metric]:
        """Read, or say that it can not be read: ``xenolect_up`` is 0 then."""
        up = GaugeMetricFamily("xenolect_up", "1 where the store could be read.")
        try:
            found = self._look()
        except EmergenceError:
            up.add_metric([], 0.0)
            yield up
            return
        up.add_metric([], 1.0)
        yield up
        yield from _families(found).values()


class StoreCollector(XenolectCollector):
    """Collects from a store that it opens for each scrape: it sees what all processes wrote, counts as
    none of them, and decides nothing."""

    def __init__(self, storage: str, *, window: float = 300.0) -> None:
        def look() -> list[Reading]:
            with EmergenceManager.open(
                storage, background=False, process=False, actor="prometheus"
            ) as manager:
                return [r for r in read(manager, window) if not r.name.startswith(_OF_A_PROCESS)]

        self._look = look


_OF_A_PROCESS = (
    "xenolect.process.",
    "xenolect.measurements.",
    "xenolect.events.",
    "xenolect.stale",
)


def _families(found: list[Reading]) -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, definition in READINGS.items():
        kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
        families[name] = kind(name_of(name), definition.text, labels=list(definition.labels))
    for each in found:
        labels = [each.labels[label] for label in READINGS[each.name].labels]
        families[each.name].add_metric(labels, each.value)
    return families
