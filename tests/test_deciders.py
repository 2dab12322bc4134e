"""The bundled deciders keep what their kits ask for."""

from __future__ import annotations

import pytest

from xenolect.testing import RuleTests, SafeguardTests, ScorerTests
from xenolect_plugins.breaker import Breaker
from xenolect_plugins.canary import Canary
from xenolect_plugins.capabilities import Capabilities
from xenolect_plugins.scoring import Compatibility, PerformanceScore, StabilityScore


class TestPerformance(ScorerTests):
    """The scorer ``performance``."""

    def make(self) -> PerformanceScore:
        """With its defaults."""
        return PerformanceScore()


class TestCompatibility(ScorerTests):
    """The scorer ``compatibility``, with its graded part on."""

    def make(self) -> Compatibility:
        """Half of the score for optional capabilities."""
        return Compatibility(optional_weight=0.5)


class TestStability(ScorerTests):
    """The scorer ``stability``."""

    def make(self) -> StabilityScore:
        """With its defaults."""
        return StabilityScore()


class TestCapabilities(RuleTests):
    """The rule ``capabilities``."""

    def make(self) -> Capabilities:
        """There is only one."""
        return Capabilities()


class TestBreaker(SafeguardTests):
    """The safeguard ``breaker``."""

    def make(self) -> Breaker:
        """With its defaults."""
        return Breaker()


class TestRamp(SafeguardTests):
    """The safeguard ``canary``."""

    def make(self) -> Canary:
        """With its defaults."""
        return Canary()


def test_an_irrelevant_variant_changes_nothing() -> None:
    """Scores are measured against fixed references: one more candidate leaves the others alone."""
    from xenolect import Agent, Candidate, PerformanceHistory, ProtocolVariant

    pair = [
        Candidate(ProtocolVariant(f"v{i}"), PerformanceHistory(100, i, 1 - i / 100, 10.0 * (i + 1)))
        for i in range(2)
    ]
    slow = Candidate(ProtocolVariant("slow"), PerformanceHistory(100, 0, 1.0, 1e6))
    agent = Agent("a")

    for make in (PerformanceScore, Compatibility, StabilityScore):
        assert make().score([*pair, slow], agent)[:2] == make().score(pair, agent)


def test_success_keeps_half_of_the_weight() -> None:
    """An agent that only asks for speed does not get a variant that fails fast."""
    weights = PerformanceScore().weights({"latency": 1.0})

    assert weights["success"] == pytest.approx(0.5)
    assert sum(weights.values()) == pytest.approx(1.0)
