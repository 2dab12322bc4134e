"""A manager as OpenTelemetry metrics: observable instruments, read when the SDK collects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from opentelemetry.metrics import (
    CallbackOptions,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from xenolect import EmergenceError, EmergenceManager
from xenolect_otel.readings import READINGS, Lately, read

__all__ = ["Instruments", "instrument"]

log = logging.getLogger("xenolect.otel")


class Instruments:
    """The instruments of one manager. OpenTelemetry can not take instruments back: after ``stop`` they
    observe nothing."""

    def __init__(self, manager: EmergenceManager, provider: MeterProvider, window: float) -> None:
        self._stopped = False
        self._lately = Lately(lambda: read(manager, window))
        meter = provider.get_meter("xenolect", "0.1.0")
        for name, definition in READINGS.items():
            make = (
                meter.create_observable_counter
                if definition.kind == "counter"
                else meter.create_observable_gauge
            )
            make(name, [self._callback(name)], definition.unit, definition.text)

    def _callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if self._stopped:
                return []
            try:
                return [
                    Observation(each.value, {f"xenolect.{k}": v for k, v in each.labels.items()})
                    for each in self._lately.of(name)
                ]
            except EmergenceError as error:
                log.warning("%s can not be observed: %s", name, error)
                return []

        return observe

    def stop(self) -> None:
        """Observe nothing from now on; before the manager is closed."""
        self._stopped = True


def instrument(
    manager: EmergenceManager, provider: MeterProvider | None = None, *, window: float = 300.0
) -> Instruments:
    """Make a manager observable through a meter provider (the global one when none is given).

    ``window``: seconds that latencies and success rates are of. Attributes are ``xenolect.variant``,
    ``xenolect.protocol`` and the like; never an agent.
    """
    return Instruments(manager, provider or get_meter_provider(), window)
