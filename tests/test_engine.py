"""The engine chooses what the plain rules choose: always fresh, never incompatible, the same everywhere."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.engine_world import CALM, CLOSE, World

from xenolect import (
    Agent,
    AgentContext,
    EmergenceManager,
    PerformanceMetrics,
    offer,
)
from xenolect.testing import Clock


def agree(seed: int, make: Callable[..., EmergenceManager], agents: int) -> int:
    """Compare everything in one world, and again after each kind of change; how many pairs."""
    world = World(seed, make, agents)
    pairs = 0

    def all_agents() -> None:
        nonlocal pairs
        world.plain.kept.clear()
        for agent in world.agents:
            world.check(agent)
        pairs += len(world.agents)
        world.negotiate(world.rng.sample(world.agents, 2))

    all_agents()
    world.measure(40)
    all_agents()
    if len(world.ids) > 1:
        world.shut(world.rng.choice(world.ids))
    world.measure(3)
    all_agents()
    name = world.rng.choice(world.ids)
    world.manager.performance.incident(name, passed=2.0, failed=1.0)
    world.plain.incidents[name] = (2.0, 1.0)
    world.manager.flush()
    world.measure(10)
    all_agents()
    return pairs


def test_engine_and_plain_rules_agree(opened: Callable[..., EmergenceManager]) -> None:
    """10,000 pairs of an agent and a state of the variants: select, recommend, explain and negotiate
    give the plain answers, no pick is incompatible, and each exclusion has its reason."""
    assert sum(agree(seed, opened, 25) for seed in range(100)) >= 10_000


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_engine_and_plain_rules_agree_a_million_times() -> None:
    """The same a million times."""
    pairs = seed = 0
    while pairs < 1_000_000:
        opened: list[EmergenceManager] = []

        def make(opened: list[EmergenceManager] = opened, **given: Any) -> EmergenceManager:
            clock = Clock(1_800_000_000.0)
            manager = EmergenceManager.open("memory://", clock=clock, background=False, **given)
            opened.append(manager)
            return manager

        pairs += agree(10_000 + seed, make, 100)
        seed += 1
        for manager in opened:
            manager.close()


def test_an_irrelevant_variant_never_changes_the_winner(
    opened: Callable[..., EmergenceManager],
) -> None:
    """A variant that is worse than all others, however slow, leaves each choice as it was."""
    for seed in range(12):
        world = World(seed, opened, 20)
        world.measure(60)
        before = {a.id: world.manager.select(a, default=None).variant for a in world.agents}
        added = world.manager.variants.propose("zz", {}, id="zz")
        world.manager.variants.activate(added, force=True)
        for latency in (1e3, 1e7):
            bad = PerformanceMetrics(0.0, latency_ms=latency, count=10_000)
            world.manager.record("zz", bad)
            world.manager.breakers.disable("zz")
        for agent in world.agents:
            if before[agent.id] is not None and before[agent.id].id != "zz":
                now = world.manager.select(agent, default=None).variant
                assert now.id == before[agent.id].id


def test_the_next_line_sees_a_record(opened: Callable[..., EmergenceManager]) -> None:
    """Each record moves the very next selection's score, whoever is best and however often."""
    manager = opened(selection=CALM)
    for name in "abc":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    agent = Agent("x", AgentContext({"zstd": "1"}))
    rng = random.Random(3)
    for _ in range(1_500):
        before = {s.variant.id: s.score for s in manager.recommend(agent)}
        name = rng.choice("abc")
        manager.record(name, PerformanceMetrics(1.0, latency_ms=rng.random()), "x")
        after = {s.variant.id: s.score for s in manager.recommend(agent)}
        assert after[name] != before[name]
        assert all(after[other] == before[other] for other in before if other != name)
        best = max(after.values())
        assert manager.select(agent).score == best


def test_ties_go_to_the_less_exposed_then_to_the_smaller_id(
    opened: Callable[..., EmergenceManager],
) -> None:
    """With nothing but equal scores the choice walks over the variants, the same way every time."""
    manager = opened(
        selection=CALM, scoring={"compatibility": 1.0}, plugins=[], metrics={"half_life": "1d"}
    )
    for name in "cab":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    walked = []
    for i in range(7):
        chosen = manager.select(Agent(f"x{i}")).variant.id
        walked.append(chosen)
        manager.record(chosen, PerformanceMetrics(1.0))
    assert "".join(walked) == "abcabca"


def test_stays_with_what_it_speaks(opened: Callable[..., EmergenceManager], clock: Clock) -> None:
    """An agent switches only after ten minutes and for a real gain; what is shut it leaves at once."""
    manager = opened()
    for name in "ab":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    agent = Agent("x")
    assert manager.select(agent).variant.id == "a"
    manager.record("a", PerformanceMetrics(0.5, count=100))
    manager.breakers.disable("a")
    kept = manager.select(agent)
    assert (kept.variant.id, kept.reason) == ("a", "sticky")
    assert manager.recommend(agent)[0].variant.id == "b"
    clock.advance(601)
    assert manager.select(agent).variant.id == "b"
    manager.record("b", PerformanceMetrics(0.9, count=100))
    clock.advance(601)
    assert manager.select(agent).variant.id == "b"
    manager.breakers.force_open("b")
    assert manager.select(agent).variant.id == "a"


def test_classes_of_agents_learn_apart(opened: Callable[..., EmergenceManager]) -> None:
    """What fails for agents of one kind is left by them, and kept by the others; at most 64 kinds."""
    manager = opened(selection=CALM)
    for name in "ab":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    old, new = (Agent(v, AgentContext(version=v)) for v in ("1.0", "2.0"))
    for agent in (old, new):
        manager.select(agent)
    for _ in range(60):
        manager.record("a", PerformanceMetrics(1.0), new.id)
        manager.record("b", PerformanceMetrics(0.9, count=10), new.id)
        manager.record("a", PerformanceMetrics(0.5, count=2), old.id)
        manager.record("b", PerformanceMetrics(0.9, count=10), old.id)
        manager.breakers.disable("a")
    assert manager.select(new).variant.id == "a"
    assert manager.select(old).variant.id == "b"
    for i in range(200):
        manager.select(Agent(f"n{i}", AgentContext(version=f"{i}.0")))
        manager.record("a", PerformanceMetrics(1.0), f"n{i}")
    track = manager.performance.tracks["a"]
    assert len({*track.classes, *(track.cell.classes if track.cell else ())}) <= 64


def test_age_takes_half_in_a_day(opened: Callable[..., EmergenceManager], clock: Clock) -> None:
    """The half-life is applied by ``tick``, and never in between."""
    manager = opened()
    manager.variants.activate(manager.variants.propose("a", {}, id="a"))
    manager.record("a", PerformanceMetrics(0.75, latency_ms=10.0, count=1000))
    clock.advance(86_400)
    assert manager.performance.recent("a")[0].count == 1000
    manager.tick()
    history, _ = manager.performance.recent("a")
    assert (history.count, history.failures) == pytest.approx((500.0, 125.0))
    assert manager.performance.history("a").count in (0, 1000)  # by age of the window, undecayed


def test_exploring_tries_all_and_leaves_rollouts_alone(
    opened: Callable[..., EmergenceManager],
) -> None:
    """With ``explore`` every variant is drawn now and then, the good ones more; reason "explore"."""
    manager = opened(selection={**CALM, "explore": 1.0}, seed=5)
    for name in "abcd":
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    manager.record("a", PerformanceMetrics(0.2, count=200))
    manager.breakers.disable("a")
    chosen = [manager.select(Agent(f"x{i}")) for i in range(300)]
    counts = {name: sum(s.variant.id == name for s in chosen) for name in "abcd"}
    assert all(counts[name] > 30 for name in "bcd")
    assert counts["a"] < 15
    assert {str(s.reason) for s in chosen} == {"explore"}


def test_a_notebook_shows_tables(opened: Callable[..., EmergenceManager]) -> None:
    """A selection and an explanation are tables, and what users wrote can not break out of them."""
    manager = opened()
    manager.variants.activate(manager.variants.propose("a", {}, id="a", requirements={"<b>": True}))
    manager.variants.activate(manager.variants.propose("b", {}, id="b"), force=True)
    shown = manager.select(Agent("<i>x"))._repr_html_()
    assert "<i>" not in shown
    assert "<th>b</th>" in shown
    table = manager.explain(Agent("x"))._repr_html_()  # type: ignore[attr-defined]
    assert "&lt;b&gt;" in table
    assert "<b>" not in table
    assert table.count("<tr>") == 3


class Halves:
    """A batch scorer that counts how often it is asked, and fails when told."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    def score(self, candidates: Any, agent: Agent) -> list[float]:
        """More measurements, higher score."""
        self.asked += 1
        if self.broken:
            raise RuntimeError("no")
        return [min(1.0, c.history.count / 10.0) for c in candidates]


def test_a_batch_scorer_is_asked_when_something_moved_and_not_per_selection(
    opened: Callable[..., EmergenceManager],
) -> None:
    """A stranger's scorer is fresh without a thread; with one it lags at most a second."""
    from xenolect import hookimpl

    for background in (False, True):
        scorer = Halves()

        class Plugin:
            made = scorer

            @hookimpl
            def xenolect_scoring(self) -> Any:
                yield offer("halves", lambda: self.made)

        manager = opened(
            plugins=[Plugin()],
            scoring={"halves": 1.0},
            selection=CALM,
            background=background,
            clock=None,
        )
        for name in "ab":
            manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
        agent = Agent("x")
        assert manager.select(agent).variant.id == "a"
        asked = scorer.asked
        for _ in range(50):
            manager.select(agent)
        assert scorer.asked == asked
        manager.record("b", PerformanceMetrics(1.0, count=5))
        until = time.monotonic() + 30
        while manager.select(agent).variant.id != "b":
            assert background, "without a thread the next line sees it"
            assert time.monotonic() < until
            time.sleep(0.01)
        scorer.broken = True
        manager.record("b", PerformanceMetrics(1.0))
        while manager.select(agent).reason != "degraded":
            assert background
            assert time.monotonic() < until
            time.sleep(0.01)


def test_selecting_while_others_record(opened: Callable[..., EmergenceManager]) -> None:
    """Threads that select and record at once: nothing raises, and when all is quiet the board says
    what the plain sums say."""
    manager = opened(selection=CALM, metrics={"queue": 10_000_000}, background=True, clock=None)
    names = [f"v{i}" for i in range(40)]
    for name in names:
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)
    agents = [Agent(f"x{i}", AgentContext({"k": i})) for i in range(3)]
    for agent in agents:
        manager.select(agent)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        try:
            for _ in range(1_500):
                if number % 2:
                    manager.select(rng.choice(agents))
                else:
                    good = 0.0 if rng.random() < 0.02 else 1.0
                    metrics = PerformanceMetrics(good, latency_ms=rng.lognormvariate(3.0, 1.0))
                    manager.record(rng.choice(names), metrics, rng.choice(agents).id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for agent in agents:
        ranked = manager.recommend(agent, 99)
        explained = {e.variant.id: e.score for e in manager.explain(agent)}
        assert manager.select(agent).variant.id == ranked[0].variant.id
        assert all(abs(s.score - (explained[s.variant.id] or 0.0)) < CLOSE for s in ranked)


CHOICES = """
import json, random, sys
from xenolect import *
from xenolect.testing import Clock
m = EmergenceManager.open("memory://", clock=Clock(1.8e9), background=False, max_variants=60,
                          selection={"min_dwell": 0, "hysteresis": 0})
rng = random.Random(11)
for i in range(40):
    needs = {"zstd": f">={rng.randint(1, 12)}"} if rng.random() < 0.5 else {}
    m.variants.activate(m.variants.propose("x", {}, id=f"v{i:02}", requirements=needs), force=True)
agents = [Agent(f"a{i}", AgentContext({"zstd": str(rng.randint(1, 12))}, {"latency": rng.random()}))
          for i in range(50)]
out = []
for round_ in range(8):
    for agent in agents:
        s = m.select(agent, default="none")
        out.append([s.variant.id, repr(s.score)])
        if s.reason != "default":
            m.report(s, agent, rng.random() < 0.9, rng.lognormvariate(3, 1))
print(json.dumps(out))
"""


def chosen_by(python: str) -> list[Any]:
    """What another process chooses, with packages of its own or else with those of this one."""
    ours = [p for p in sys.path if p and not p.startswith(os.path.join(sys.base_prefix, "lib"))]
    own = {**os.environ, "PYTHONHASHSEED": "random"}
    own.pop("PYTHONPATH", None)
    for env in (own, {**own, "PYTHONPATH": os.pathsep.join(ours)}):
        done = subprocess.run(
            [python, "-c", CHOICES], capture_output=True, text=True, env=env, check=False
        )
        if not done.returncode:
            break
    strange = ("ImportError", "ModuleNotFoundError", "pyenv")
    if done.returncode and python != sys.executable and any(w in done.stderr for w in strange):
        pytest.skip(f"{python} is not installed here, or can not load the packages of this one")
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13", sys.executable])
def test_the_same_choices_in_every_process_and_version(python: str) -> None:
    """Processes with other hash seeds, and other Pythons, give the same ids and the same bits of
    every score."""
    path = shutil.which(python)
    if path is None:
        pytest.skip(f"{python} is not installed here")
    assert chosen_by(path) == first_choices()


@functools.cache
def first_choices() -> list[Any]:
    """What this Python chooses in another process."""
    return chosen_by(sys.executable)
