"""A phase that is not decided in time ends before the next one begins."""

from __future__ import annotations

from xenolect_mcp.demo.outcomes import end
from xenolect_mcp.demo.results import PhaseResult

from xenolect import EmergenceManager


def test_an_undecided_rollout_is_ended(manager: EmergenceManager) -> None:
    """And one that the manager has decided in the last moment is what it is."""
    manager.variants.activate(manager.variants.propose("a", {}, id="a"))
    for name in ("b", "c", "d"):
        manager.variants.propose(name, {}, id=name)
        manager.canaries.start(name, unit="session")
        if name == "c":
            manager.canaries.promote("c", force=True)
        elif name == "d":
            manager.rollback("d", reason="no good")
        phase = PhaseResult(1, "title", "what", name, "a", "promoted")
        end(manager, phase)
        expected = {"b": ("undecided", "aborted"), "c": ("promoted", "promoted")}
        outcome, state = expected.get(name, ("stopped", "rolled_back"))
        assert (phase.outcome, str(manager.canaries.status(name).state)) == (outcome, state)
