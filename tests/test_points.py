"""Rollback points and what they are for: kept, pruned, verified, restored; safe mode when none is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    ConflictError,
    CorruptError,
    EmergenceManager,
    PointNotFoundError,
    TransitionError,
    VariantStatus,
)
from xenolect.facts import Put
from xenolect.testing import Clock, Heard

Opened = Callable[..., EmergenceManager]


def names(manager: EmergenceManager, variant: str = "zstd") -> list[str]:
    """The ids of the points kept."""
    return [p.id for p in manager.points.list(variant)]


def break_point(manager: EmergenceManager, point: Any) -> None:
    """Change the object of a point."""
    key = manager._runtime.value("point", f"{point.variant_id}/{int(point.id.split('@')[1]):08d}")[
        "object"
    ]
    chunks = manager._runtime.chunks
    chunks.put(key, chunks.get(key)[:-1] + b"?", if_absent=False)


def status(manager: EmergenceManager, variant: str = "zstd") -> str:
    """The variant's status."""
    return str(manager.variants.get(variant).status)


# -- what a point is ------------------------------------------------------------------------------


def test_a_point_holds_everything_that_a_rollback_needs(manager: EmergenceManager) -> None:
    """Content, state version, routing and the configuration's digest, in one object, read back."""
    fleet(manager)
    _, zstd = json_and_zstd(manager, metadata={"owner": "me"})
    manager.states.put(zstd, {"window": 1})

    manager.canaries.start(zstd, seed=1)

    (point,) = manager.points.list("zstd")
    manifest = manager._runtime.value("point", "zstd/00000001")["manifest"]
    assert (point.id, point.reason, point.pinned, point.verified) == (
        "zstd@1",
        "before canary",
        True,
        True,
    )
    assert manifest["content"]["changes"] == {"wire": "zstd"}
    assert manifest["content"]["metadata"] == {"owner": "me"}
    assert manifest["state"]["version"] == 1
    assert manifest["routing"]["baseline"] == "json"
    assert manifest["config"] == manager._runtime.config.digest()
    assert manager.points.verify(point).id == "zstd@1"


def test_a_point_that_can_not_be_read_back_starts_no_canary(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store changes what is written: the start fails, and nobody is served the canary."""
    manager = opened()
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    chunks = manager._runtime.chunks
    put = chunks.put

    def worse(key: str, data: Any, *, if_absent: bool = True) -> None:
        put(key, bytes(data)[:-1] + b"?" if "/points/" in key else data, if_absent=if_absent)

    monkeypatch.setattr(chunks, "put", worse)
    with pytest.raises(CorruptError, match="read back different"):
        manager.canaries.start(zstd)

    assert status(manager) == "proposed"
    assert names(manager) == []


def test_restoring_keeps_identity_and_counts_on(manager: EmergenceManager, clock: Clock) -> None:
    """Id, status and created_at stay, the version is the next one, the state says "same as 1"."""
    _, zstd = json_and_zstd(manager)
    manager.states.put(zstd, {"window": 1})
    point = manager.points.create(zstd, "as it was")
    clock.advance(60)
    manager.variants.update(zstd, changes={"wire": "other"}, description="other")
    manager.states.put(zstd, {"window": 2})
    before = manager.variants.get("zstd")
    revision = manager.status()["revision"]

    after = manager.points.restore(point)

    assert manager.status()["revision"] == revision + 1  # one commit
    assert (after.id, after.created_at, after.status) == (zstd.id, zstd.created_at, zstd.status)
    assert after.version == before.version + 1
    assert (after.changes, after.description) == ({"wire": "zstd"}, "zstd")
    assert manager.states.get("zstd") == {"window": 1}
    assert manager._runtime.value("state_version", "zstd/00000003")["same_as"] == 1


def test_a_point_from_before_the_first_state_takes_it_away(manager: EmergenceManager) -> None:
    """Nothing of what the canary stored is left."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd)
    manager.states.put("zstd", {"window": 2})

    manager.rollback("zstd")

    with pytest.raises(LookupError, match="has no state"):
        manager.states.get("zstd")


@pytest.mark.parametrize("name", ["zstd@7", "zstd", "", "json@1@", "zstd@-1"])
def test_a_point_that_is_not_there_is_said(manager: EmergenceManager, name: str) -> None:
    """With the call that lists those that are."""
    json_and_zstd(manager)

    with pytest.raises(PointNotFoundError, match=r"points\.list"):
        manager.points.restore(name)


# -- keeping and pruning --------------------------------------------------------------------------


def test_the_newest_are_kept_and_pins_stay(opened: Opened) -> None:
    """Of ten points with room for four: the pinned, the proven, the referenced, and the newest."""
    manager = opened(rollback={"max_points": 4})
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.points.create(zstd, "mine", pinned=True)
    manager.canaries.start(zstd)
    manager.canaries.promote(zstd, force=True)
    for number in range(7):
        manager.points.create("zstd", f"loose {number}")

    kept = {p.id: (p.reason, p.pinned) for p in manager.points.list("zstd")}

    assert kept == {
        "zstd@1": ("mine", True),
        "zstd@2": ("before canary", True),
        "zstd@3": ("promoted", True),
        "zstd@10": ("loose 6", False),
    }
    assert len(list(manager._runtime.chunks.list("variants/zstd/points/"))) == 4


def test_a_hundred_are_kept_by_default(manager: EmergenceManager) -> None:
    """The 101st point takes the oldest that is not pinned."""
    _, zstd = json_and_zstd(manager)
    for _ in range(103):
        manager.points.create(zstd)

    assert names(manager) == [f"zstd@{n}" for n in range(4, 104)]


def test_old_points_go_and_proven_ones_stay(manager: EmergenceManager, clock: Clock) -> None:
    """After 30 days, by themselves: what is pinned is there after a year."""
    json_and_zstd(manager)
    manager.points.create("json", "loose")
    manager.points.create("json", "mine", pinned=True)
    clock.advance(29 * 86_400)
    manager.tick()
    before = names(manager, "json")
    clock.advance(2 * 86_400)
    manager.tick()
    after = names(manager, "json")
    clock.advance(365 * 86_400)
    manager.tick()

    assert before == ["json@1", "json@2", "json@3"]
    assert after == names(manager, "json") == ["json@1", "json@3"]
    assert len(list(manager._runtime.chunks.list("variants/json/points/"))) == 2


def test_a_number_is_never_used_again(manager: EmergenceManager, clock: Clock) -> None:
    """Not even when its point is gone, nor when another process left an object of that name."""
    _, zstd = json_and_zstd(manager)
    manager.points.create(zstd)
    clock.advance(31 * 86_400)
    manager.tick()
    manager._runtime.chunks.put("variants/zstd/points/00000002.json", b"left behind")

    assert manager.points.create(zstd).id == "zstd@3"


def promoted_without_its_object(manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch) -> str:
    """A promotion whose process died before it stored the promoted point's object; its key."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.states.put(zstd, {"window": 1})
    manager.canaries.start(zstd, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(manager.points, "complete", lambda key: None)
        manager.canaries.promote(zstd, force=True)
    assert status(manager) == "active"
    return "variants/zstd/points/00000002.json"


def test_a_promotion_waits_for_no_object(
    manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process dies after the commit nothing is damaged, and who needs the point writes it."""
    key = promoted_without_its_object(manager, monkeypatch)
    chunks = manager._runtime.chunks
    assert key not in set(chunks.list("variants/zstd/points/"))
    assert manager.states.verify().problems == ()

    assert manager.points.verify("zstd@2").reason == "promoted"
    assert key in set(chunks.list("variants/zstd/points/"))

    manager.states.put("zstd", {"window": 2})
    manager.rollback("zstd")
    assert manager.states.get("zstd") == {"window": 1}


def test_a_promotion_stores_its_point_by_the_end_of_the_call(manager: EmergenceManager) -> None:
    """Without a thread; over what a process that died left under its name."""
    fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.canaries.start(zstd, seed=1)
    manager._runtime.chunks.put("variants/zstd/points/00000002.json", b"left behind")

    manager.canaries.promote(zstd, force=True)

    manager.points._read(manager._runtime.value("point", "zstd/00000002"))
    assert manager.points.verify("zstd@2").reason == "promoted"


def test_a_promoted_point_that_was_changed_is_still_damage(
    manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one that is not there is behind."""
    key = promoted_without_its_object(manager, monkeypatch)
    manager.points.complete("zstd/00000002")
    manager.points.complete("zstd/00000002")
    break_point(manager, manager.points.list("zstd")[-1])

    with pytest.raises(CorruptError, match="00000002"):
        manager.points.verify("zstd@2")
    assert [problem.key for problem in manager.states.verify().problems] == [key]


# -- falling back ---------------------------------------------------------------------------------


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


# -- what asks for one ----------------------------------------------------------------------------


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
