"""The scorer, found and configured as a user would, and through the kit for scorers."""

from __future__ import annotations

import xenolect_low_latency

from xenolect import Agent, Candidate, PerformanceHistory, ProtocolVariant
from xenolect.testing import ScorerTests


class TestLowLatency(ScorerTests):
    """It keeps every promise of a scorer."""

    def make(self) -> xenolect_low_latency.LowLatency:
        """A scorer with its defaults."""
        return xenolect_low_latency.LowLatency()


def test_faster_scores_higher() -> None:
    """Half at the goal, more below it, less above it, and an unmeasured variant counts as at the goal."""
    measured = [25.0, 50.0, 150.0]
    candidates = [
        Candidate(ProtocolVariant(f"v{ms:g}"), PerformanceHistory(count=10, latency_ms=ms))
        for ms in measured
    ]
    new = Candidate(ProtocolVariant("new"), PerformanceHistory())

    scores = xenolect_low_latency.LowLatency(50.0).score([*candidates, new], Agent("a"))

    assert scores == [50 / 75, 0.5, 0.25, 0.5]
