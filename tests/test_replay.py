"""Decisions are recomputed to the last bit, and an edited history is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd
from tests.stories import edited, index_of, replay_of, rewritten, told

from xenolect import EmergenceManager
from xenolect._replay import Replay, Replayed, attempts
from xenolect.facts import Put
from xenolect.testing import Clock


def replayed(manager: EmergenceManager, anchor: Any = None) -> Replayed:
    """Everything recomputed."""
    manager.flush()
    return Replay(manager._runtime.index, manager._runtime.registry).run(anchor)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store that has seen the whole story."""
    return told(tmp_path_factory.mktemp("store"))


# -- recomputing ----------------------------------------------------------------------------------


def test_a_whole_story_comes_out_equal(store: Path) -> None:
    """Every verdict, transition and routed observation of three attempts, to the last bit."""
    found = replay_of(store, 0)

    assert found["ok"]
    assert found["rollouts"] == 3
    assert found["routed"] == found["verdicts"] > 6_000
    assert found["transitions"] >= 20
    assert found["compared"] >= 20
    assert found["unverified"] == []
    assert replay_of(store, 0)["fingerprint"] == found["fingerprint"]


def test_what_was_decided_locally_is_recomputed(store: Path) -> None:
    """The rollback was proved in the process that saw it; its document says on which records."""
    index = index_of(store)
    first, *_ = attempts(index.changes(0))
    document = first.last
    index.close()

    assert document["decided"]["by"] == "local"
    assert document["verdict"] == "rollback"
    assert document["evidence"]["e_value"] >= document["evidence"]["threshold"]
    assert first.steps[0][3]["step"]["event"] == "Start"
    assert document["step"]["event"] == "Proved"


def test_two_managers_in_one_store(
    opened: Callable[..., Any], clock: Clock, tmp_path: Path
) -> None:
    """Evidence of two writers: merged verdicts come out equal, local ones too or are said to be open."""
    one, two = opened(tmp_path), opened(tmp_path)
    names = fleet(one, 100)
    json_and_zstd(one)
    one.canaries.start("zstd", seed=1, processes=2)
    two._runtime.catch_up()
    draw = random.Random(3)
    for _ in range(30):
        for name in names:
            manager = draw.choice((one, two))
            chosen = manager.select(name)
            bad = 0.3 if chosen.variant.id == "zstd" else 0.0
            manager.report(chosen, name, success=draw.random() >= 0.01 + bad, latency_ms=1.0)
        clock.advance(60)
        one.tick()
        two.tick()
    assert one.variants.get("zstd").status == "rolled_back"

    found = replayed(one)

    assert found.problems == ()
    assert found.verdicts > 100


def test_an_older_document_without_its_event_is_still_checked(store: Path, tmp_path: Path) -> None:
    """Where no event is stored, some legal event must lead from state to state."""
    index = index_of(store)
    registry = EmergenceManager.open("memory://", background=False)._runtime.registry
    entries = index.changes(0)

    class Old:
        """The index as a release wrote it that did not store events."""

        def __getattr__(self, name: str) -> Any:
            return getattr(index, name)

    import attrs

    from xenolect._replay import _Player

    replay = Replay(Old(), registry)  # type: ignore[arg-type]
    problems = []
    for attempt in attempts(entries):
        steps = tuple((r, t, a, {**d, "step": None}) for r, t, a, d in attempt.steps)
        player = _Player(replay, attrs.evolve(attempt, steps=steps))
        player.play()
        problems += player.problems
        steps = tuple(
            (r, t, a, {**d, "state": {**d["state"], "level": 4, "ppm": 1}})
            if n == 1
            else (r, t, a, d)
            for n, (r, t, a, d) in enumerate(steps)
        )
        player = _Player(replay, attrs.evolve(attempt, steps=steps))
        player.play()
        assert any(problem.kind == "transition" for problem in player.problems)
    index.close()

    assert problems == []


# -- edits that keep the chain ---------------------------------------------------------------------


def test_a_forged_e_value_is_named(store: Path, tmp_path: Path) -> None:
    """One bit of one e-value, with the whole chain made to fit: exit 1, and the entry is named."""

    def edit(document: Any) -> bool:
        if document["verdict"] != "rollback":
            return False
        document["evidence"]["e_value"] *= 1 + 2**-52
        return True

    found = replay_of(rewritten(store, tmp_path / "s", edit), 1)

    assert [p["kind"] for p in found["problems"]] == ["verdict"]
    assert "e_value" in found["problems"][0]["message"]
    assert str(found["problems"][0]["revision"]) in found["problems"][0]["message"]


def test_a_forged_transition_is_named(store: Path, tmp_path: Path) -> None:
    """A level that no event led to."""

    def edit(document: Any) -> bool:
        if document["state"]["state"] != "ramping" or document["state"]["level"] != 0:
            return False
        document["state"] = {**document["state"], "level": 5, "ppm": 950_000}
        return True

    found = replay_of(rewritten(store, tmp_path / "s", edit), 1)

    assert "transition" in {p["kind"] for p in found["problems"]}


@pytest.mark.parametrize(
    ("part", "kind"), [("ratio", "verdict"), ("share", "transition")], ids=["units", "share"]
)
def test_a_forged_count_of_units_is_named(
    store: Path, tmp_path: Path, part: str, kind: str
) -> None:
    """One unit more in an arm, or a share that holds from an earlier record on."""

    def edit(document: Any) -> bool:
        if part == "ratio" and document.get("ratio"):
            document["ratio"]["control"] += 1
            return True
        if part == "share" and document["share"]["after"]:
            document["share"]["after"] = 10**9
            return True
        return False

    found = replay_of(rewritten(store, tmp_path / "s", edit), 1)

    assert kind in {p["kind"] for p in found["problems"]}
    assert "units" in str(found["problems"]) or "share" in str(found["problems"])


def test_what_another_version_of_a_judge_decided_is_not_recomputed(
    store: Path, tmp_path: Path
) -> None:
    """Its name and both versions are said; transitions and routing are recomputed all the same."""

    def edit(document: Any) -> bool:
        document["judge"]["version"] = 7
        return bool(document["state"]["state"] == "promoted")  # the last one

    found = replay_of(rewritten(store, tmp_path / "s", edit), 0)

    assert found["verdicts"] == 0
    assert found["transitions"] > 20
    assert len(found["unverified"]) == 3
    assert "version 7 of the judge 'evalue' decided, version 1 is installed" in str(found)


def test_a_store_of_before_baselines_were_facts_opens_and_is_replayed(
    store: Path, tmp_path: Path
) -> None:
    """Its documents hold the baseline themselves, and a ramp's state with fewer fields."""
    index = index_of(store)
    frozen = {f.key: f.value for f in index.load().facts if f.kind == "frozen"}
    journal = [c for e in index.changes(0) for c in e.changes if c.kind == "frozen"]
    frozen |= {c.key: c.value for c in journal if isinstance(c, Put)}
    index.close()

    def edit(document: Any) -> bool:
        document["baseline"] = frozen[document["baseline"]]
        del document["guardrails"], document["state"]["inner"], document["judge"]["version"]
        return bool(document["state"]["state"] == "promoted")  # the last one

    place = rewritten(store, tmp_path / "s", edit)
    found = replay_of(place, 0)

    assert found["ok"]
    assert "version 0 of the judge" in str(found["unverified"])
    with EmergenceManager.open(place, background=False) as manager:
        assert manager.canaries.status("zstd").state == "promoted"


def test_units_counted_by_an_older_release_are_not_verified(store: Path, tmp_path: Path) -> None:
    """Its documents do not say from which record on a share held: that is said, and is no difference."""

    def edit(document: Any) -> bool:
        document["share_at"] = document.pop("share")["at"]
        return bool(document["state"]["state"] == "promoted")  # the last one

    found = replay_of(rewritten(store, tmp_path / "s", edit), 0)

    assert found["ok"]
    assert len(found["unverified"]) == 3
    assert "units were counted by a release" in found["unverified"][0]


def test_a_moved_observation_is_named(store: Path, tmp_path: Path) -> None:
    """An observation put into the other arm contradicts the routing of its unit."""
    place = edited(
        store, tmp_path / "s", "UPDATE observations SET arm = 'canary' WHERE sequence = 1"
    )

    found = replay_of(place, 1)

    assert "routing" in {p["kind"] for p in found["problems"]}
    assert "observation 1 " in str(found["problems"])


def test_dropped_evidence_is_named(store: Path, tmp_path: Path) -> None:
    """A document that stands on an observation that is gone does not come out the same."""
    place = edited(store, tmp_path / "s", "DELETE FROM observations WHERE arm = 'canary'")

    assert {p["kind"] for p in replay_of(place, 1)["problems"]} >= {"verdict"}
