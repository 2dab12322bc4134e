"""Measurements whose answer is lost: stored once, whoever asked, and nothing that came after waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenolect import (
    AgentContext,
    EmergenceManager,
    InvalidError,
    PerformanceMetrics,
    UnavailableError,
)
from xenolect.errors import StorageError
from xenolect.testing import Clock

FINE, BAD = PerformanceMetrics(1.0, latency_ms=10.0), PerformanceMetrics(0.0)


@pytest.fixture
def manager(opened: Callable[..., EmergenceManager]) -> EmergenceManager:
    """A baseline, and agents; nothing is stored before it is asked for."""
    manager = opened(metrics={"flush_interval": "1h"})
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(40)])
    return manager


def lose(manager: EmergenceManager, verb: str, error: BaseException, times: int = 1) -> list[Any]:
    """The next answers of the index do not arrive, though it did what it was asked; those it gave."""
    index: Any = manager._runtime.index
    ask, lost = getattr(index, verb), []

    def asked(*args: Any, **given: Any) -> Any:
        lost.append(ask(*args, **given))
        if len(lost) == times:
            setattr(index, verb, ask)
        raise error

    setattr(index, verb, asked)
    return lost


def stored(manager: EmergenceManager, name: str) -> tuple[int, int]:
    """Operations and failures of a variant in the index."""
    found = [w for w in manager._runtime.index.windows(name, 0.0, 4e9) if w.span < 3600]
    return sum(w.count for w in found), sum(w.failures for w in found)


@pytest.mark.parametrize("error", [UnavailableError("no answer"), KeyboardInterrupt()])
def test_a_batch_whose_answer_is_lost_is_stored_once(
    manager: EmergenceManager, error: BaseException
) -> None:
    """Again and again, with more measured in between, which is not kept waiting by it."""
    manager.record_many([("base", FINE)] * 5)
    lost = lose(manager, "append_windows", error, times=3)
    for more in (0, 2, 3):
        manager.record_many([("base", BAD)] * more)
        with pytest.raises(type(error)):
            manager.flush()
        assert stored(manager, "base") == (5, 0)
    assert len(lost) == 3

    manager.flush()

    assert stored(manager, "base") == (10, 5)
    assert manager._runtime.performance.pending == 0


def test_what_an_index_refuses_is_not_kept_apart(manager: EmergenceManager) -> None:
    """That is an answer, so all of it is offered again; the double, which stored it all the same, shows it."""
    manager.record("base", FINE)
    lose(manager, "append_windows", InvalidError("no such column"))
    with pytest.raises(InvalidError):
        manager.flush()
    manager.record("base", BAD)
    manager.flush()
    assert stored(manager, "base") == (3, 1)


def begin(manager: EmergenceManager) -> None:
    """A rollout with evidence that is not stored yet."""
    manager.canaries.start(manager.variants.propose("next", {}, id="next"), seed=1)
    for i in range(40):
        manager.report(manager.select(f"a{i}"), f"a{i}", success=True, latency_ms=10.0)


def seen(manager: EmergenceManager) -> int:
    """Observations of the rollout in the index."""
    rollout = manager._runtime.value("rollout", "next")["rollout"]
    return len(manager._runtime.index.observations(rollout, 0))


@pytest.mark.parametrize("verb", ["commit", "append_windows"])
def test_evidence_of_a_rollback_whose_answer_is_lost_is_stored_once(
    manager: EmergenceManager, verb: str
) -> None:
    """It went with the commit: the flush after it leaves it out. Or with a flush: the commit does."""
    begin(manager)
    if verb == "append_windows":
        lose(manager, verb, UnavailableError("no answer"))
        with pytest.raises(UnavailableError):
            manager.flush()
    else:
        lose(manager, verb, UnavailableError("no answer"))
        with pytest.raises(UnavailableError):
            manager.rollback("next", reason="ticket")
    manager.rollback("next", reason="ticket")
    manager.flush()
    assert seen(manager) == 40
    assert manager.variants.get("next").status == "rolled_back"
    assert stored(manager, "next")[0] + stored(manager, "base")[0] == 40


def test_the_judge_sees_what_is_not_known_to_be_stored(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """A process that joins a rollout weighs the evidence it holds itself, the unsure part included."""
    manager = opened(metrics={"flush_interval": "1h"})
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(40)])
    begin(manager)
    waiting = len(manager._runtime.performance.waiting())
    lose(manager, "append_windows", StorageError("disk"))
    with pytest.raises(StorageError):
        manager.flush()
    assert len(manager._runtime.performance.waiting()) == waiting == 40
    manager.flush()
    assert manager._runtime.performance.waiting() == []
