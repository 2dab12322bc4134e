"""Two processes decide at once: what one did while the other was about to commit is not undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager, TransitionError
from xenolect.errors import ConflictError
from xenolect.testing import Clock

Pair = tuple[EmergenceManager, EmergenceManager]


@pytest.fixture
def pair(opened: Callable[..., EmergenceManager], tmp_path: Path) -> Pair:
    """Two managers of one store: json is the baseline, old is active, zstd proposed."""
    one, two = opened(tmp_path), opened(tmp_path)
    fleet(one, 40)
    json_and_zstd(one)
    one.variants.activate(one.variants.propose("old", {}, id="old"), force=True)
    two.tick()
    return one, two


def before_commit(manager: EmergenceManager, act: Callable[[], Any]) -> None:
    """Let ``act`` happen once, when the manager is about to ask its index to commit."""
    index = manager._runtime.index
    commit = index.commit

    def later(*given: Any, **more: Any) -> int:
        index.commit = commit  # type: ignore[method-assign]
        act()
        return commit(*given, **more)

    index.commit = later  # type: ignore[method-assign]


def test_what_is_named_the_baseline_is_not_deprecated(pair: Pair) -> None:
    """Decided before it was the baseline, refused because it is by now."""
    one, two = pair
    before_commit(one, lambda: two.variants.baseline("default", "old"))

    with pytest.raises(TransitionError, match="is the baseline"):
        one.variants.deprecate("old")
    assert two.variants.get("old").status == "active"


def test_what_is_deprecated_is_not_named_the_baseline(pair: Pair) -> None:
    """The other way round."""
    one, two = pair
    before_commit(one, lambda: two.variants.deprecate("old"))

    with pytest.raises(TransitionError, match="active variants"):
        one.variants.baseline("default", "old")
    assert one.variants.baseline().id == "json"  # type: ignore[union-attr]


def test_a_control_that_goes_meanwhile_stops_the_start(pair: Pair) -> None:
    """A rollout is compared with somebody who is served."""
    one, two = pair
    before_commit(one, lambda: two.variants.deprecate("old"))

    with pytest.raises(TransitionError, match="control must be an active variant"):
        one.canaries.start("zstd", control="old")
    assert one.variants.get("zstd").status == "proposed"


def test_a_promotion_follows_the_baseline_of_the_moment(pair: Pair) -> None:
    """What is replaced became the baseline meanwhile: the pointer moves with it."""
    one, two = pair
    one.canaries.start("zstd", replaces="old", seed=1)
    before_commit(one, lambda: two.variants.baseline("default", "old"))

    one.canaries.promote("zstd", force=True)

    assert one.variants.get("old").status == "deprecated"
    assert one.variants.baseline().id == "zstd"  # type: ignore[union-attr]
    assert one.rollback("zstd").status == "rolled_back"
    assert one.variants.baseline().id == "old"  # type: ignore[union-attr]


def test_a_promotion_is_not_committed_over_a_suspension(pair: Pair) -> None:
    """The rollout moved after the decision, and the process heard of it while it wrote its point."""
    one, two = pair
    one.canaries.start("zstd", seed=1)
    two.tick()
    write = one.points.write

    def slow(*given: Any, **more: Any) -> Any:
        two.breakers.force_open("zstd")
        two.flush()
        one._runtime.catch_up()
        return write(*given, **more)

    one.points.write = slow  # type: ignore[method-assign]

    with pytest.raises(ConflictError, match="decide again"):
        one.canaries.promote("zstd", force=True)
    assert two.variants.get("zstd").status == "canary"
    assert two.canaries.status("zstd").state == "suspended"


def test_proof_against_older_content_does_not_end_the_next_attempt(
    pair: Pair, clock: Clock
) -> None:
    """Harm is proved of a content that another process has just edited."""
    one, two = pair
    one.canaries.start("zstd", seed=1)
    two.tick()
    later = one._runtime.later

    def edited(job: Callable[[], None]) -> None:
        one._runtime.later = later
        two.variants.update(two.variants.get("zstd"), changes={"wire": "better"})
        later(job)

    one._runtime.later = edited
    names = [n for n in one._runtime.agents if one.canaries.routes("zstd", n)]
    for i in range(40):
        if one.variants.get("zstd").version > 2:
            break
        one.report("zstd", names[i % len(names)], success=False)
    one.flush()

    assert one.variants.get("zstd").status == "canary"
    assert one.canaries.status("zstd").attempt == 2
    assert one.variants.get("zstd").changes == {"wire": "better"}


def test_a_paused_rollout_is_not_promoted(manager: EmergenceManager) -> None:
    """Not even by force: it is resumed first."""
    fleet(manager, 40)
    json_and_zstd(manager)
    manager.canaries.start("zstd")
    manager.canaries.pause("zstd")

    with pytest.raises(TransitionError, match="resume it first"):
        manager.canaries.promote("zstd", force=True)
    manager.canaries.resume("zstd")
    manager.canaries.promote("zstd", force=True)
    assert manager.variants.get("zstd").status == "active"


def test_the_only_active_variant_heals(manager: EmergenceManager, clock: Clock) -> None:
    """Its breaker opens; it is served all the same, and its probes close it again."""
    names = fleet(manager, 40)
    json_and_zstd(manager)
    for name in names[:6]:
        manager.report(manager.select(name), name, success=False)
    assert manager.breakers.status("json").state == "open"
    manager.canaries.start("zstd", initial_fraction=0.5, seed=1)
    for _ in range(10):
        clock.advance(10.0)
        manager.tick()
        for name in names:
            manager.report(manager.select(name), name, success=True)

    assert manager.breakers.status("json").state == "closed"
    assert {manager.select(name).variant.id for name in names} == {"json", "zstd"}


def test_a_promoted_baseline_that_fails_is_taken_back(
    manager: EmergenceManager, clock: Clock
) -> None:
    """Its breaker latches, and what it had replaced is the baseline again."""
    names = fleet(manager, 40)
    json_and_zstd(manager)
    manager.canaries.start("zstd", replaces="json", seed=1)
    manager.canaries.promote("zstd", force=True)
    for _ in range(60):
        clock.advance(10.0)
        manager.tick()
        for name in names[:8]:
            chosen = manager.select(name)
            manager.report(chosen, name, success=chosen.variant.id == "json")

    assert manager.variants.get("zstd").status == "rolled_back"
    assert manager.variants.baseline().id == "json"  # type: ignore[union-attr]
    assert {manager.select(name).variant.id for name in names} == {"json"}
