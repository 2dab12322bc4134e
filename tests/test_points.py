"""Rollback points and what they are for: kept, pruned, verified, restored; safe mode when none is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.fleets import break_point, fleet, json_and_zstd, status

from xenolect import (
    CorruptError,
    EmergenceManager,
    PointNotFoundError,
)
from xenolect.testing import Clock

Opened = Callable[..., EmergenceManager]


def names(manager: EmergenceManager, variant: str = "zstd") -> list[str]:
    """The ids of the points kept."""
    return [p.id for p in manager.points.list(variant)]


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
