"""Several processes on one store: compare-and-swap, the feed, shared verdicts, kill -9."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd
from tests.worker import Worker

from xenolect import EmergenceManager, VariantStatus


@pytest.fixture
def workers() -> Iterator[Callable[..., Worker]]:
    """Processes that end with the test."""
    made: list[Worker] = []

    def make(**environment: str) -> Worker:
        made.append(Worker(**environment))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.poll() is None:
            worker.end()


def test_one_of_two_updates_wins(tmp_path: Path, workers: Callable[..., Worker]) -> None:
    """Two processes update one variant from version 3: one wins, the other hears both versions."""
    with EmergenceManager.open(tmp_path, background=False) as manager:
        variant = manager.variants.propose("x", {}, id="x")
        variant = manager.variants.update(variant, changes={"n": 1})
        assert manager.variants.update(variant, changes={"n": 2}).version == 3
    pair = [workers(), workers()]
    for worker in pair:
        worker.ask("open", path=str(tmp_path), background=False)

    for i, worker in enumerate(pair):
        worker.send("update", id="x", expected=3, changes={"by": i})
    answers = [worker.receive() for worker in pair]

    won = [a for a in answers if "version" in a]
    lost = [a for a in answers if "conflict" in a]
    assert [a["version"] for a in won] == [4]
    assert [(a["expected"], a["found"]) for a in lost] == [(3, 4)]
    assert "version 4" in lost[0]["conflict"]
    assert "expected 3" in lost[0]["conflict"]


def test_a_rollback_reaches_the_other_process(
    tmp_path: Path, workers: Callable[..., Worker]
) -> None:
    """After a rollback in one process, the other makes no canary choice from 500 ms on."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, initial_fraction=0.5, seed=1)
        other = workers()
        other.ask("open", path=str(tmp_path))
        other.send("watch", agents=names[:40], variant="zstd", seconds=3.0)
        time.sleep(1.5)

        manager.rollback("zstd", reason="ticket")
        done = time.time()

        chosen = other.receive()
    assert any(t < done for t in chosen)
    assert [t - done for t in chosen if t > done + 0.5] == []


def test_each_of_two_processes_has_one_witness(
    tmp_path: Path, workers: Callable[..., Worker]
) -> None:
    """An agent of each says that the variant crashed: neither proves it alone, together they do, and
    within 500 ms of the rollback nobody is served it in the process that did not ask for it."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, initial_fraction=0.5, seed=1)
        inside = [n for n in names if manager.canaries.routes(zstd, n)]
        other = workers()
        other.ask("open", path=str(tmp_path))

        manager.report("zstd", inside[0], success=False, critical="crash_on_load").wait()
        alone = manager.variants.get("zstd").status
        time.sleep(0.5)
        other.ask("crash", variant="zstd", agent=inside[1])
        done = time.time()
        chosen = []
        while time.time() < done + 1.5:
            chosen += [time.time() for n in inside if manager.select(n).variant.id == "zstd"]
            time.sleep(0.005)

        assert alone == VariantStatus.CANARY
        assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
        assert [t - done for t in chosen if t > done + 0.5] == []


def wait_until_known(worker: Worker, variant: str) -> None:
    """Return when another process follows the variant's rollout, which takes a look at the feed."""
    until = time.monotonic() + 30
    while True:
        try:
            worker.ask("status", variant=variant)
            return
        except AssertionError:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_the_verdict_uses_the_evidence_of_both(
    tmp_path: Path, workers: Callable[..., Worker]
) -> None:
    """Three failures in each of two processes prove together what neither proves alone."""
    with EmergenceManager.open(tmp_path) as manager:
        names = fleet(manager)
        other = workers()
        other.ask("open", path=str(tmp_path))
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, seed=1)
        canaries = [n for n in names if manager.canaries.routes(zstd, n)]

        for name in canaries[:3]:
            manager.report("zstd", name, success=False)
        manager.flush()
        alone = manager.variants.get("zstd").status
        wait_until_known(other, "zstd")  # evidence of a rollout not heard of yet is history only
        other.ask("report", variant="zstd", agents=canaries[3:6], success=False)
        until = time.monotonic() + 30
        while manager.variants.get("zstd").status == "canary" and time.monotonic() < until:
            time.sleep(0.02)

        assert alone == VariantStatus.CANARY
        assert manager.variants.get("zstd").status == VariantStatus.ROLLED_BACK
        assert manager.canaries.status("zstd").evidence["canary_failures"] > 3
        time.sleep(0.5)
        assert other.ask("status", variant="zstd")["status"] == "rolled_back"


def test_reopening_loses_nothing(tmp_path: Path) -> None:
    """Variants, agents, measurements, states, rollouts and modes are there after a restart."""
    with EmergenceManager.open(tmp_path, background=False) as manager:
        names = fleet(manager, 50)
        _, zstd = json_and_zstd(manager)
        manager.states.put("json", b"\x00\x01" * 1000)
        manager.canaries.start(zstd, initial_fraction=0.5, seed=2)
        manager.report("json", names[0], success=False, latency_ms=7.0)
        before = {n: manager.select(n).variant.id for n in names}
        canary = manager.canaries.status(zstd)
        versions = {v.id: v.version for v in manager.variants.list()}

    with EmergenceManager.open(tmp_path, background=False) as manager:
        assert {n: manager.select(n).variant.id for n in names} == before
        assert manager.canaries.status("zstd").levels == canary.levels
        assert manager.canaries.status("zstd").fraction == canary.fraction
        assert {v.id: v.version for v in manager.variants.list()} == versions
        assert manager.states.get("json") == b"\x00\x01" * 1000
        history = manager.performance.history("json")
        assert (history.count, history.failures) == (1, 1)


def killed_rounds(tmp_path: Path, rounds: int) -> int:
    """Kill a writer again and again; check every acknowledgement after each; the number seen."""
    rng = random.Random(5)
    acknowledged = 0
    for round_ in range(rounds):
        worker = Worker()
        worker.send("churn", path=str(tmp_path), tag=f"r{round_}")
        lines: list[Any] = []

        def read(worker: Worker = worker, lines: list[Any] = lines) -> None:
            assert worker.process.stdout is not None
            import json

            for line in worker.process.stdout:
                if line.endswith("\n"):
                    lines.append(json.loads(line))

        reader = threading.Thread(target=read)
        reader.start()
        while not lines:
            assert worker.process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.random() * 0.15)
        worker.kill()
        reader.join()
        assert worker.process.stdout is not None
        worker.process.stdout.close()
        acknowledged += len(lines)
        with EmergenceManager.open(tmp_path, background=False) as manager:
            for line in lines:
                assert "crash" not in line, line
                if "variant" in line:
                    assert manager.variants.get(line["variant"]).version >= line["version"]
                elif "state" in line:
                    state = manager.states.get(line["state"])
                    assert state == {"i": line["i"], "fill": "x" * (line["i"] % 7) * 1000}
                else:
                    assert manager.variants.get(line["archived"]).status == "archived"
            for variant in manager.variants.list():
                assert variant.changes == {"i": int(variant.id.split("-")[1])}
            assert manager.states.verify(deep=True).problems == ()
            for variant in manager.variants.list():  # room for the next round
                if variant.status != "archived":
                    manager.variants.archive(variant)
    return acknowledged


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """kill -9 while variants and states are written: no tool is needed, nothing is half there."""
    assert killed_rounds(tmp_path, 8) > 5


@pytest.mark.slow
def test_fifty_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """The same, fifty rounds on one store."""
    assert killed_rounds(tmp_path, 50) > 200


def rollouts_of_equals(tmp_path: Path, runs: int, processes: int) -> int:
    """A/A rollouts by several processes at once; how many were rolled back."""
    crew = [Worker() for _ in range(processes)]
    rolled_back = 0
    try:
        for run in range(runs):
            path = tmp_path / f"run{run}"
            with EmergenceManager.open(path) as manager:
                names = fleet(manager)
                _, zstd = json_and_zstd(manager)
                for worker in crew:
                    worker.ask("open", path=str(path))
                manager.canaries.start(zstd, initial_fraction=0.25)
                for i, worker in enumerate(crew):
                    worker.send(
                        "traffic",
                        agents=names,
                        operations=400,
                        failing=0.02,
                        seed=run * processes + i,
                    )
                statuses = {worker.receive() for worker in crew}
                for worker in crew:
                    worker.ask("close")
                manager.flush()
                rolled_back += "rolled_back" in statuses or (
                    manager.variants.get("zstd").status == "rolled_back"
                )
    finally:
        for worker in crew:
            worker.end()
    return rolled_back


@pytest.mark.timeout(400)
def test_four_processes_judge_equals_fairly(tmp_path: Path) -> None:
    """Four processes, one rollout, no difference: not one of ten short runs is rolled back."""
    assert rollouts_of_equals(tmp_path, 10, 4) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_processes_judge_two_hundred_runs_fairly(tmp_path: Path) -> None:
    """The same, 200 runs: at most 1 % are rolled back."""
    assert rollouts_of_equals(tmp_path, 200, 4) <= 2
