"""Units missing in one arm are noticed; a fair share is not blamed, however often it is looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager
from xenolect._cli.why import _rollout as told
from xenolect._sample_ratio import ALARM, KNOWN, Ratio, SampleRatio, Share
from xenolect.facts import Observation
from xenolect.model import CanaryState


def closed(share: float, canary: int, control: int) -> float:
    """The logarithm of the evidence in closed form, with a Dirichlet prior of mass 100."""
    total = math.lgamma(100.0) - math.lgamma(100.0 + canary + control)
    for theta, n in ((share, canary), (1.0 - share, control)):
        total += math.lgamma(100.0 * theta + n) - math.lgamma(100.0 * theta) - n * math.log(theta)
    return total


@given(st.integers(1, 999_999), st.lists(st.booleans(), max_size=400))
def test_unit_by_unit_is_the_closed_form(ppm: int, arms: list[bool]) -> None:
    """In whatever order they come."""
    ratio = Ratio(ppm)
    for canary in arms:
        ratio = ratio.more(canary=canary)
    assert (ratio.canary, ratio.control) == (sum(arms), len(arms) - sum(arms))
    found = closed(ppm / 1e6, ratio.canary, ratio.control)
    if abs(found) < 600.0:
        assert math.log(ratio.evidence) == pytest.approx(found, abs=1e-6)
    assert Ratio.from_json(ratio.to_json()) == ratio


def test_known_values() -> None:
    """60 instead of 100 of 1,000 is just no alarm, 80 is nothing; 40 is one."""
    assert math.exp(closed(0.1, 60, 900)) == pytest.approx(754.5, rel=0.001)
    for canary, alarm in ((40, True), (80, False)):
        ratio = Ratio(100_000)
        for k in range(900 + canary):
            ratio = ratio.more(canary=k % 10 == 0 and ratio.canary < canary)
        assert bool(ratio.mismatch) is alarm
    assert "40 units on the canary and 900 on its control at a share of 10.0%" in _short().mismatch


def _short() -> Ratio:
    ratio = Ratio(100_000)
    for _ in range(40):
        ratio = ratio.more(canary=True)
    for _ in range(900):
        ratio = ratio.more(canary=False)
    return ratio


def paths(share: float, missing: float, units: int, runs: int, seed: int):
    """The evidence after each unit, shape (runs, units), if ``missing`` of the canary's never report."""
    rng = np.random.default_rng(seed)
    reached = share * (1.0 - missing)
    canary = rng.random((runs, units)) < reached / (reached + 1.0 - share)
    n_c = np.cumsum(canary, axis=1) - canary
    n = np.arange(units)
    up = np.where(canary, 100.0 * share + n_c, 100.0 * (1.0 - share) + (n - n_c))
    theta = np.where(canary, share, 1.0 - share)
    return np.cumsum(np.log(up / (100.0 + n) / theta), axis=1)


@pytest.mark.parametrize("share", [0.1, 0.398, 0.95])
def test_a_fair_share_is_not_blamed(share: float) -> None:
    """Looked at after each of 2,000 units: at most 1 of 1,000 levels alarms (4,000 runs)."""
    found = (paths(share, 0.0, 2_000, 4_000, 1).max(axis=1) >= math.log(ALARM)).mean()
    print(f"\nfair, {share:.1%}: {found:.3%}")
    assert found <= 0.001 + 3 * math.sqrt(0.001 / 4_000)


@pytest.mark.parametrize(
    ("share", "missing", "most"),
    [
        (0.1, 0.2, 8_000),
        (0.1, 0.5, 1_000),
        (0.1, 1.0, 200),
        (0.398, 0.2, 2_500),
        (0.95, 0.2, 12_000),
    ],
)
def test_missing_units_are_noticed(share: float, missing: float, most: int) -> None:
    """How many units (both arms) it takes, in nine of ten of 500 runs."""
    found = paths(share, missing, most, 500, 2) >= math.log(ALARM)
    assert found.any(axis=1).mean() >= 0.9
    first = np.where(found.any(axis=1), found.argmax(axis=1) + 1, most)
    print(
        f"\n{found.any(axis=1).mean():.1%}, {missing:.0%} missing at {share:.1%}: {np.median(first):.0f} units in the median"
    )


def observed(sequence: int, unit: str, at: float, *, canary: bool) -> Observation:
    """One record of a unit."""
    arm = "canary" if canary else "control"
    return Observation("r", arm, unit, 1, 0, at, None, {}, "w", sequence)


def test_counting_follows_the_share() -> None:
    """Known units count once; a new share counts anew; nobody is counted while nothing is routed."""
    ratio, first = SampleRatio(), Share(100_000, 0.0)
    ratio.begin(first)
    for i in range(30):
        ratio.see(i + 1, f"u{i % 10}", 10.0 + i, canary=i % 10 == 0)
    assert (ratio.now.canary, ratio.now.control) == (1, 9)
    ratio.see(31, "early", 4.0, canary=False)  # others may still have routed by the last share
    assert ratio.now.control == 9
    paused = first.next(0, 50.0, 31)
    ratio.begin(paused)
    ratio.see(32, "while suspended", 60.0, canary=False)
    assert ratio.now == Ratio(0)
    ratio.begin(paused.next(158_489, 70.0, 32))
    ratio.see(33, "while suspended", 80.0, canary=False)
    ratio.see(34, "u3", 80.0, canary=True)
    assert (ratio.now.canary, ratio.now.control) == (0, 1)
    ratio.begin(paused.next(158_489, 70.0, 32))  # the same document again
    assert ratio.now.control == 1
    assert not ratio.stale


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("saw"), st.integers(0, 12), st.booleans(), st.floats(0.0, 40.0)),
        st.tuples(st.just("share"), st.sampled_from((0, 100_000, 500_000, 1_000_000))),
    ),
    max_size=60,
)


@given(STEPS, st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_it_does_not_matter_when_a_process_hears_of_a_share(
    steps: list[tuple[Any, ...]], late: list[int]
) -> None:
    """Several observations late, and so once more from the start, or at once, or when all is over."""
    share, stored, shares = Share(100_000, 0.0), [], []
    heard = SampleRatio()
    heard.begin(share)
    for lag, step in zip(late, steps, strict=False):
        if step[0] == "saw":
            _, unit, canary, at = step
            stored.append(observed(len(stored) + 1, f"u{unit}", at, canary=canary))
        else:
            share = share.next(step[1], float(len(stored)), len(stored))
            shares.append(share)
        heard.take(stored, len(stored))
        while shares and lag != 3:  # else it hears of them later
            heard.begin(shares.pop(0))
        if heard.stale:
            heard.again(stored)
    for each in shares:
        heard.begin(each)
    if heard.stale:
        heard.again(stored)
    fresh = SampleRatio()
    fresh.begin(Share.of({"share": share.to_json()}))
    fresh.take(stored, len(stored))

    assert heard.now == fresh.now


def test_a_document_without_its_own_share_has_one() -> None:
    """As older releases wrote them: from the moment that the share changed last."""
    document = {"started_at": 5.0, "state": {"ppm": 100_000}}
    assert Share.of(document) == Share(100_000, 5.0)
    assert Share.of({**document, "share_at": 9.0}) == Share(100_000, 9.0)


def test_memory_is_bounded() -> None:
    """Beyond a hundred thousand units nobody is counted."""
    ratio = SampleRatio()
    ratio.begin(Share(500_000, 0.0))
    for i in range(KNOWN + 50):
        ratio.see(i + 1, str(i), 10.0, canary=i % 2 == 0)
    assert ratio.now.canary + ratio.now.control == KNOWN
    assert ratio.now.mismatch == ""


def test_a_rollout_whose_canary_units_are_missing_holds_until_it_is_resumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By session: most of the canary's never report. HOLD with the numbers; ``resume`` counts anew."""
    now = [1_000_000.0]
    with EmergenceManager.open("memory://", clock=lambda: now[0], background=False) as manager:
        agents = fleet(manager, zstd="1.5")
        _, canary = json_and_zstd(manager)
        manager.canaries.start(
            canary,
            initial_fraction=0.5,
            unit="session",
            seed=3,
            judge={"use": "evalue", "latency": False},
        )
        number = 0

        def talk(minutes: int, lost: float) -> None:
            nonlocal number
            for _ in range(minutes * 30):
                now[0] += 2.0
                number += 1
                session = f"s{number}"
                chosen = manager.select(agents[number % 200], session=session).variant
                if chosen.id == canary.id and number % 10 < lost * 10:
                    continue
                manager.report(chosen, agents[number % 200], success=True, session=session)
                if number % 15 == 0:
                    manager.tick()

        talk(16, 0.9)
        status = manager.canaries.status(canary)
        assert status.state is CanaryState.HOLD
        assert status.level == 0
        assert status.reason.startswith("sample ratio mismatch: ")
        counted = status.evidence["sample_ratio"]
        assert counted["ppm"] == 500_000
        assert counted["canary"] < 0.2 * counted["control"]
        assert counted["evidence"] >= ALARM
        told(status)
        shown = f"{counted['canary']} sessions on the canary, {counted['control']} on control"
        assert f"first seen at 50.0%: {shown}" in capsys.readouterr().out

        talk(5, 0.0)  # it does not heal by itself as long as the numbers say otherwise
        assert manager.canaries.status(canary).state is CanaryState.HOLD
        manager.canaries.resume(canary)
        talk(45, 0.0)
        status = manager.canaries.status(canary)
        assert status.level >= 1
        assert "mismatch" not in status.reason


def test_sessions_from_before_the_rollout_are_in_neither_arm() -> None:
    """They keep what they were given; only the outer ones would be counted, all of them as control."""
    now = [1_000_000.0]
    with EmergenceManager.open("memory://", clock=lambda: now[0], background=False) as manager:
        agents = fleet(manager, zstd="1.5")
        _, canary = json_and_zstd(manager)

        def talk(sessions: range) -> None:
            for i in sessions:
                name = agents[i % 200]
                chosen = manager.select(name, session=f"s{i}")
                manager.report(chosen, name, success=True, session=f"s{i}")
            now[0] += 60.0
            manager.tick()

        talk(range(500))
        manager.canaries.start(canary, initial_fraction=0.3, unit="session", seed=3)
        for minute in range(6):
            talk(range(500))
            talk(range(500 + 40 * minute, 540 + 40 * minute))
        manager.flush()
        status = manager.canaries.status(canary)
        counted = status.evidence["sample_ratio"]

    assert 150 <= counted["canary"] + counted["control"] <= 240
    assert counted["canary"] > 30
    assert counted["evidence"] < ALARM
    assert "mismatch" not in status.reason


def test_replay_counts_the_same_units() -> None:
    """Every stored ratio comes out of the stored observations; an edited one is named."""
    from xenolect._registry import Registry
    from xenolect._replay import Replay, attempts
    from xenolect.config import PluginsConfig
    from xenolect.decisions import Decisions

    now = [1_000_000.0]
    with EmergenceManager.open("memory://", clock=lambda: now[0], background=False) as manager:
        agents = fleet(manager, zstd="1.5")
        base, canary = json_and_zstd(manager)
        manager.canaries.start(canary, initial_fraction=0.3, seed=5)
        for i in range(3_000):
            now[0] += 1.0
            agent = agents[i * 7 % 200]
            manager.report(manager.select(agent).variant, agent, success=True, latency_ms=50.0)
            manager.tick()
            if i == 1_000:
                manager.canaries.pause(canary)
            if i == 1_300:
                manager.canaries.resume(canary)
        manager.flush()
        index = manager._runtime.index
        replay = Replay(index, Registry.collect(PluginsConfig(third_party=False)))
        found = replay.run()
        assert found.problems == ()
        entries, _ = Decisions(index).read(None)
        (attempt,) = attempts(entries)
        ratios = [document["ratio"] for *_, document in attempt.steps[1:]]
        assert max(ratio["canary"] for ratio in ratios) >= 40
        assert base.id == attempt.last["control_id"]
