"""One rollback: whom it falls back to, what asks for it, and what ends with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import break_point, fleet, json_and_zstd, status

from xenolect import (
    Agent,
    AgentContext,
    ConflictError,
    CorruptError,
    EmergenceManager,
    TransitionError,
    UnavailableError,
    VariantStatus,
)
from xenolect.facts import Put
from xenolect.testing import Clock, Heard

Opened = Callable[..., EmergenceManager]


def three_points(manager: EmergenceManager) -> list[Any]:
    """An active variant with three points, each with another state, and a newer state still."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)
    points = []
    for window in (1, 2, 3):
        manager.states.put("zstd", {"window": window})
        points.append(manager.points.create("zstd", f"window {window}"))
    manager.states.put("zstd", {"window": 4})
    return points


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_corrupt_point_is_passed_over(manager: EmergenceManager, broken: int) -> None:
    """The next older good one is restored, and the event names those that were not."""
    heard = Heard()
    manager.on(heard)
    points = three_points(manager)
    for point in points[3 - broken :]:
        break_point(manager, point)

    manager.rollback("zstd")

    assert status(manager) == "rolled_back"
    assert manager.states.get("zstd") == {"window": 3 - broken}
    (event,) = [e for e in heard.events if e.kind == "variant.rolled_back"]
    assert len(event.detail["skipped"]) == broken
    assert manager.status()["safe_mode"] == []


def test_a_point_whose_state_is_damaged_is_passed_over(opened: Opened) -> None:
    """Not only the manifest is verified before anything is restored."""
    manager = opened(state={"cache_size": 0})
    three_points(manager)
    _, content = manager.states._versions.located("zstd", 3)
    chunks = manager._runtime.chunks
    key = f"variants/zstd/state/{content.table[0].object}"
    chunks.put(key, chunks.get(key)[:-1] + b"?", if_absent=False)

    manager.rollback("zstd")

    assert manager.states.get("zstd") == {"window": 2}


def test_with_no_point_left_there_is_safe_mode(tmp_path: Path, opened: Opened) -> None:
    """Only the baseline is served, also after a restart, until an operator leaves; and who asked for
    the rollback hears of it."""
    manager = opened(tmp_path)
    points = three_points(manager)
    manager.variants.activate(manager.variants.propose("b", {}, id="b"), force=True)
    manager.variants.activate(
        manager.variants.propose("other", {}, id="other", protocol="other"), force=True
    )
    for point in points:
        break_point(manager, point)

    with pytest.raises(
        CorruptError, match=r"no rollback point of 'zstd' is intact.*leave_safe_mode"
    ):
        manager.rollback("zstd")

    assert status(manager) == "rolled_back"
    manager.close()
    manager = opened(tmp_path)
    assert manager.status()["safe_mode"] == ["default"]
    assert {manager.select(f"agent-{i}").reason for i in range(50)} == {"baseline"}
    assert manager.negotiate(["agent-1", "agent-2"]).variant.id == "json"
    assert manager.select("agent-1", "other").reason == "only"  # the other protocol goes on

    assert manager.points.leave_safe_mode().id == "json"
    assert manager.status()["safe_mode"] == []
    assert {manager.select(f"agent-{i}").reason for i in range(50)} == {"best"}
    with pytest.raises(TransitionError, match="not in safe mode"):
        manager.points.leave_safe_mode()


def test_safe_mode_is_left_only_for_something_good(opened: Opened) -> None:
    """With a damaged state of the baseline, or without a point of it, an operator is told what is
    missing."""
    manager = opened(state={"cache_size": 0})
    for point in three_points(manager):
        break_point(manager, point)
    manager.states.put("json", {"window": 9})
    with pytest.raises(CorruptError):
        manager.rollback("zstd")
    (point,) = manager.points.list("json")
    break_point(manager, point)
    with pytest.raises(TransitionError, match=r"points\.create\('json', pinned=True\)"):
        manager.points.leave_safe_mode()
    manager.points.create("json", pinned=True)
    _, content = manager.states._versions.located("json", None)
    chunks = manager._runtime.chunks
    key = f"variants/json/state/{content.table[0].object}"
    chunks.put(key, chunks.get(key)[:-1] + b"?", if_absent=False)
    with pytest.raises(TransitionError, match="is damaged"):
        manager.points.leave_safe_mode()
    manager.states.put("json", {"window": 10})
    manager.points.create("json", pinned=True)

    assert manager.points.leave_safe_mode().id == "json"


def test_in_safe_mode_a_canary_is_served_to_nobody(opened: Opened) -> None:
    """A rollout of the protocol that runs already waits until safe mode is left."""
    manager = opened()
    points = three_points(manager)
    manager.variants.propose("new", {}, id="new")
    manager.canaries.start("new", initial_fraction=0.5, seed=1)
    for point in points:
        break_point(manager, point)
    with pytest.raises(CorruptError):
        manager.rollback("zstd")

    during = {manager.select(f"agent-{i}").variant.id for i in range(100)}
    manager.points.leave_safe_mode()

    assert during == {"json"}
    assert {manager.select(f"agent-{i}").variant.id for i in range(100)} == {"json", "new"}


# -- one rollback ---------------------------------------------------------------------------------


def test_ten_rollbacks_are_one(manager: EmergenceManager) -> None:
    """Whoever asks again gets the variant as it is; one entry in the journal."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)
    revision = manager.status()["revision"]

    versions = {manager.rollback("zstd", f"ticket {n}").version for n in range(10)}

    assert len(versions) == 1
    assert manager.status()["revision"] == revision + 1
    assert manager.canaries.status("zstd").reason == "ticket 0"


def test_rolling_back_the_baseline_twice_changes_nothing_twice(manager: EmergenceManager) -> None:
    """A baseline is restored in place, and only where it differs from its point."""
    fleet(manager)
    base, _ = json_and_zstd(manager)
    manager.variants.update(base, changes={"wire": "worse"}, force=True)

    first = manager.rollback("json")
    again = manager.rollback("json")

    assert (first.status, first.changes) == (VariantStatus.ACTIVE, {"wire": "json"})
    assert again.version == first.version


@pytest.mark.parametrize("replaces", [None, "json"])
@pytest.mark.parametrize("first", ["promotion", "rollback"])
def test_rollback_beats_promotion(
    opened: Opened, first: str, replaces: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two operators decide on the same version, one promotes and one rolls back; whoever commits
    first, the variant ends rolled back and there is one baseline."""
    shared = {"use": "memory", "name": f"duel {first} {replaces}"}
    one, two = opened(index=shared, chunks=shared), opened(index=shared, chunks=shared)
    agents = fleet(one)
    json_and_zstd(one)
    one.canaries.start("zstd", replaces=replaces, seed=1)
    two.tick()
    loser = two if first == "promotion" else one
    commit = loser._runtime.index.commit
    done: list[str] = []

    def late(changes: Any, **given: Any) -> int:
        """The other one is quicker."""
        if not done and any(isinstance(c, Put) and c.kind == "variant" for c in changes):
            done.append(first)
            if first == "promotion":
                one.canaries.promote("zstd", force=True)
            else:
                two.rollback("zstd", "ticket")
        return commit(changes, **given)

    with monkeypatch.context() as patch:
        patch.setattr(loser._runtime.index, "commit", late)
        if first == "promotion":
            two.rollback("zstd", "ticket")
        else:
            with pytest.raises((ConflictError, TransitionError)):
                one.canaries.promote("zstd", force=True)

    assert done
    for manager in (one, two):
        manager.tick()
        assert status(manager) == "rolled_back"
        assert manager.variants.baseline("default").id == "json"
        assert status(manager, "json") == "active"
        assert {manager.select(a).variant.id for a in agents} == {"json"}


def test_a_rollback_asked_for_nobody_is_refused(manager: EmergenceManager) -> None:
    """A variant that was never served has nothing to go back to."""
    json_and_zstd(manager)

    with pytest.raises(TransitionError, match="nobody is served by it"):
        manager.rollback("zstd")


def latch(manager: EmergenceManager, clock: Clock, *shut: str) -> None:
    """Let breakers open, and every probe fail until they give up."""
    for _ in range(5):
        for variant in shut:
            manager.report(variant, "agent-0", success=False)
    for _ in range(12):
        clock.advance(700)
        manager.tick()
        for number in range(200):
            chosen = manager.select(f"agent-{number}")
            if chosen.permit is not None:
                manager.report(chosen, chosen.agent_id, success=chosen.variant.id not in shut)


def test_a_breaker_that_latched_takes_an_active_variant_back(
    manager: EmergenceManager, clock: Clock
) -> None:
    """Without any rollout: three failed rounds of probes are a rollback."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)

    latch(manager, clock, "zstd")

    assert status(manager) == "rolled_back"
    assert "breaker" in manager._runtime.value("quarantine", "zstd")["reason"]


def test_a_breaker_that_latched_takes_a_canary_back(
    manager: EmergenceManager, clock: Clock
) -> None:
    """Where the judge asks for far more evidence: the breaker gives up first."""
    fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1, alpha=1e-12)

    latch(manager, clock, "zstd")

    assert status(manager) == "rolled_back"
    assert "latched" in manager.canaries.status("zstd").reason


def test_trouble_of_both_arms_takes_nobody_back(manager: EmergenceManager, clock: Clock) -> None:
    """The control's breaker is shut as well: the canary holds, and its breaker that latched blames
    nobody."""
    heard = Heard()
    manager.on(heard)
    fleet(manager)
    json_and_zstd(manager)
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1, alpha=1e-12)

    latch(manager, clock, "json", "zstd")

    assert status(manager) == "canary"
    assert manager.breakers.status("json").state != "closed"
    assert {manager.select(f"agent-{n}").variant.id for n in range(200)} == {"json"}
    assert manager.canaries.status("zstd").state == "hold"
    (alert,) = [e.detail["message"] for e in heard.events if e.kind == "canary.alert"]
    assert alert == "both arms fail: nobody is blamed"


def test_what_was_committed_counts_also_where_it_can_not_be_read_back(
    opened: Callable[..., EmergenceManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is not readable right after a rollback: it is done all the same, nobody is served what
    was taken back, and reading goes on where it was."""
    manager = opened()
    json_and_zstd(manager)
    manager.variants.activate("zstd", force=True)
    index = manager._runtime.index
    commit, changes, done = index.commit, index.changes, []

    def committed(*given: Any, **named: Any) -> int:
        done.append(commit(*given, **named))
        return done[-1]

    def broken(after: int) -> Any:
        if done:
            raise UnavailableError("no answer")
        return changes(after)

    with monkeypatch.context() as patched:
        patched.setattr(index, "commit", committed)
        patched.setattr(index, "changes", broken)
        assert manager.rollback("zstd", reason="by hand").status is VariantStatus.ROLLED_BACK
        assert manager.select(Agent("a", AgentContext({}))).variant.id == "json"
    manager.tick()
    assert manager._runtime.facts == {(fact.kind, fact.key): fact for fact in index.load().facts}
    assert manager._runtime.digest == index.load().digest
