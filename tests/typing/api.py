"""The public face as a user's editor sees it: read by pyright in strict mode, never run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_type

import attrs

from xenolect import (
    Agent,
    AgentContext,
    Candidate,
    EmergenceManager,
    PerformanceMetrics,
    ProtocolVariant,
    hookimpl,
    offer,
    scorer,
)
from xenolect.config import Config, load
from xenolect.hookspecs import Offer
from xenolect.interfaces import Rule, Scorer


@attrs.frozen
class Steady:
    """A scorer and a rule in one, by structure alone."""

    floor: float = 0.5

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> list[float]:
        return [max(self.floor, c.history.success_rate or 0.0) for c in candidates]

    def refuses(self, variant: ProtocolVariant, context: AgentContext) -> str | None:
        return None if context.platform else "the agent names no platform"


def takes_parts(scorer: Scorer, rule: Rule) -> None: ...


takes_parts(Steady(), Steady())


@hookimpl
def xenolect_scoring() -> Iterator[Offer[Steady]]:
    made = offer("steady", Steady)
    assert_type(made, Offer[Steady])
    yield made


@scorer("half")
def half(candidates: Sequence[Candidate], agent: Agent) -> list[float]:
    return [0.5 for _ in candidates]


assert_type(half([], Agent("a")), list[float])
assert_type(load("variants/", canary={"unit": "session"}), Config)


def use(manager: EmergenceManager) -> None:
    variant = manager.variants.propose("msgpack", {"encoding": "msgpack"})
    assert_type(variant, ProtocolVariant)
    manager.agents.register("agent-7", AgentContext({"zstd": "1.5.6"}))
    manager.record(variant, PerformanceMetrics(success_rate=0.99, latency_ms=45.0, count=100))
    selection = manager.select("agent-7")
    assert_type(selection.variant, ProtocolVariant)
    assert_type(selection.excluded["json"], str)
