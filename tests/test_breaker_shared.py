"""Breakers across processes and restarts: one round of probes for all, records that outlive a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.prober import SETTINGS

from xenolect import BreakerOpenError, EmergenceManager
from xenolect._breaker_records import Ledger, Record, Times, revive
from xenolect.model import BreakerState as B
from xenolect.testing import Clock
from xenolect_backends.memory import MemoryIndex
from xenolect_plugins.breaker import Breaker, BreakerMachineState

PROBER = Path(__file__).parent / "prober.py"


def tripped(store: Any, **given: Any) -> None:
    """A store whose variant "x" has an open breaker."""
    with EmergenceManager.open(store, background=False, **given) as manager:
        manager.variants.propose("x", {}, id="x")
        for _ in range(5):
            manager.breakers.acquire("x").failure()
        assert manager.breakers.status("x").state == B.OPEN


def probers(store: Path, count: int, seconds: float, outcome: str) -> list[list[str]]:
    """What so many processes printed that probed at the same time."""
    made = [
        subprocess.Popen(
            [sys.executable, str(PROBER), str(store), str(seconds), outcome],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in made:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in made:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0].split() for process in made]
    assert all(lines[-1] == "done" for lines in printed)
    return printed


def test_eight_processes_share_the_permits_of_one_round(tmp_path: Path) -> None:
    """Eight processes ask as fast as they can; three probes pass in all, not three each."""
    tripped(tmp_path, breaker=SETTINGS)

    printed = probers(tmp_path, 8, 2.0, "hold")

    assert sum(lines.count("probe") for lines in printed) == 3
    assert sum("probe" in lines for lines in printed) == 1


def test_a_round_that_succeeds_closes_it_for_all(tmp_path: Path) -> None:
    """Three good probes, and every process admits ordinary calls within about a second."""
    tripped(tmp_path, breaker=SETTINGS)

    printed = probers(tmp_path, 4, 10.0, "success")

    assert sum(lines.count("probe") for lines in printed) == 3
    assert all("closed" in lines for lines in printed)


def test_failing_rounds_latch_for_all(tmp_path: Path) -> None:
    """Rounds go round the processes: the attempts add up over them, three failures latch it."""
    tripped(tmp_path, breaker=SETTINGS)

    printed = probers(tmp_path, 4, 6.0, "failure")

    assert 3 <= sum(lines.count("probe") for lines in printed) <= 9
    with EmergenceManager.open(tmp_path, background=False, breaker=SETTINGS) as manager:
        assert manager.breakers.status("x").state == B.LATCHED


def reopen(store: Path, clock: Clock, times: int) -> None:
    """Open and close the store so often; every time the breaker is as it was."""
    for i in range(times):
        clock.advance(0.1)
        with EmergenceManager.open(store, clock=clock, background=False) as manager:
            status = manager.breakers.status("x")
            assert status.state == B.OPEN, i
            with pytest.raises(BreakerOpenError, match="variant 'x' is open; try again in"):
                manager.breakers.acquire("x")
            assert status.retry_after is not None
            assert 0.0 < status.retry_after <= 36.0


def test_open_survives_restarts(tmp_path: Path, clock: Clock) -> None:
    """30 restarts within the wait, then one after it: still no ordinary call, but probes."""
    tripped(tmp_path, clock=clock)

    reopen(tmp_path, clock, 30)
    clock.advance(60.0)

    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        assert manager.breakers.status("x").state == B.OPEN
        for _ in range(3):
            manager.breakers.acquire("x").success()
        assert manager.breakers.status("x").state == B.CLOSED
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        assert manager.breakers.status("x").state == B.CLOSED


@pytest.mark.slow
def test_open_survives_200_restarts(tmp_path: Path, clock: Clock) -> None:
    """The same, 200 times."""
    tripped(tmp_path, clock=clock)

    reopen(tmp_path, clock, 200)


def test_open_survives_a_killed_process(tmp_path: Path) -> None:
    """A process trips the breaker and is killed half a second later: the next finds it open."""
    program = (
        "import sys, time; from xenolect import EmergenceManager\n"
        "manager = EmergenceManager.open(sys.argv[1])\n"
        "manager.variants.propose('x', {}, id='x')\n"
        "for _ in range(5): manager.breakers.acquire('x').failure()\n"
        "print('tripped', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "tripped\n"
        time.sleep(0.5)
        process.kill()

    with EmergenceManager.open(tmp_path, background=False) as manager:
        assert manager.breakers.status("x").state == B.OPEN


def test_latched_forced_and_disabled_are_journaled_and_open_is_not(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """The journal hears of what an operator did and of giving up, not of every opening."""
    manager = opened()
    for name in ("x", "y"):
        manager.variants.activate(manager.variants.propose(name, {}, id=name), force=True)

    def facts() -> list[str]:
        manager.flush()
        entries = manager._runtime.index.changes(0)
        return [
            c.value["kind"] for e in entries for c in e.changes if c.kind == "breaker" and c.value
        ]

    for _ in range(5):
        manager.breakers.acquire("x").failure()
    assert facts() == []
    manager.breakers.force_open("x")
    manager.breakers.reset("x")
    for _ in range(3):
        manager.breakers.acquire("x").success()
    assert facts() == ["forced_open", "open", "closed"]
    for _ in range(5):
        manager.breakers.acquire("x").failure()
    manager.breakers.disable("y", ttl="1h")

    assert facts() == ["forced_open", "open", "closed", "disabled"]


def test_two_managers_hear_of_each_other(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """What one trips, resets, forces or disables the other knows after its next tick."""
    shared = {"use": "memory", "name": "breakers: news"}
    one, two = opened(index=shared), opened(index=shared)
    one.variants.activate(one.variants.propose("x", {}, id="x"))
    two.tick()

    def both() -> list[B]:
        one.tick()
        two.tick()
        return [m.breakers.status("x").state for m in (one, two)]

    for _ in range(5):
        one.breakers.acquire("x").failure()
    assert both() == [B.OPEN, B.OPEN]
    two.breakers.force_open("x")
    assert both() == [B.FORCED_OPEN, B.FORCED_OPEN]
    one.breakers.reset("x")
    assert one.breakers.status("x").state == B.HALF_OPEN
    two.tick()
    with pytest.raises(BreakerOpenError):
        two.breakers.acquire("x")
    for _ in range(3):
        one.breakers.acquire("x").success()
    assert both() == [B.CLOSED, B.CLOSED]
    two.breakers.disable("x", ttl=60)
    assert both() == [B.DISABLED, B.DISABLED]


def test_a_round_nobody_uses_goes_to_a_process_with_traffic(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """The idle process lets go after two seconds; its unused permits are worth nothing then."""
    shared = {"use": "memory", "name": "breakers: an idle round"}
    idle, busy = opened(index=shared), opened(index=shared)
    idle.variants.activate(idle.variants.propose("x", {}, id="x"))
    idle.breakers.force_open("x")
    busy.tick()
    idle.breakers.reset("x")
    busy.tick()
    assert busy.breakers.claim("x") is None

    clock.advance(3.0)
    idle.tick()
    busy.tick()

    assert idle.breakers.claim("x") is None
    assert [busy.breakers.claim("x") is not None for _ in range(4)] == [True, True, True, False]


# -- records ------------------------------------------------------------------------------------------


def times(now: float, wall: float, boot: str) -> Times:
    """Clocks that stand still."""
    return Times(lambda: now, lambda: wall, boot)


OPEN = BreakerMachineState(B.OPEN, generation=3, attempts=1, since=1_000.0, until=1_060.0)


@pytest.mark.parametrize(
    ("now", "wall", "boot", "left"),
    [
        (1_020.0, 9_999_999.0, "a", 40.0),  # the same boot: the wall's jump is not looked at
        (900.0, 5_000.0, "a", 60.0),  # never longer than once more
        (10.0, 5_020.0, "b", 40.0),  # another boot: the wall says how long ago
        (10.0, 5_020.0 + 3_600.0, "b", 0.0),  # jumped ahead: probes now
        (10.0, 5_020.0 - 3_600.0, "b", 60.0),  # jumped back: one wait at most
    ],
)
def test_a_wait_survives_boots_and_jumps(now: float, wall: float, boot: str, left: float) -> None:
    """A minute's wait recorded at wall time 5,000 on boot "a"."""
    record = Record.of(Breaker(), OPEN, times(1_000.0, 5_000.0, "a"), 1)

    state = revive(Breaker(), record, times(now, wall, boot))

    assert state.until is not None
    assert max(0.0, state.until - now) == left
    assert (state.state, state.attempts) == (B.OPEN, 1)


def test_a_recorded_wait_is_never_longer_than_the_longest() -> None:
    """A record that says a year is cut to the longest wait there is."""
    record = Record.of(Breaker(), attrs.evolve(OPEN, until=1e9), times(1_000.0, 5_000.0, "a"), 1)

    state = revive(Breaker(), record, times(1_000.0, 5_000.0, "a"))

    assert state.until == 1_000.0 + 480.0 * 1.2


def test_writing_a_record_is_a_compare_and_swap() -> None:
    """Of two that follow the same record one is written; the newest is read; a crash's rest is cleared."""
    index = MemoryIndex()
    ledger = Ledger(lambda: index, lambda: "me")
    clocks = times(0.0, 0.0, "a")

    def record(serial: int) -> Record:
        return Record.of(Breaker(), OPEN, clocks, serial)

    first, second, rival, stale = record(1), record(2), record(2), record(1)
    assert ledger.write("x", first)
    assert ledger.write("x", second)
    assert not ledger.write("x", rival)
    assert not ledger.write("x", stale)
    assert ledger.one("x") == second
    index.lease("breaker/x/1", json.dumps(attrs.asdict(first)), time.time(), 60.0)  # not cleared
    assert ledger.one("x") == second
    assert ledger.write("x", record(3))
    ledger.drop("x")
    assert ledger.read() == {}


def test_an_unreadable_record_opens_the_breaker(tmp_path: Path, clock: Clock) -> None:
    """Garbage where the record was: fail closed, and heal by probes."""
    tripped(tmp_path, clock=clock)
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        index = manager._runtime.index
        for lease in index.leases("breaker/", time.time()):
            index.lease(lease.name, lease.holder, time.time(), 0.0)
            index.lease(lease.name, "garbage", time.time(), 60.0)

    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        assert manager.breakers.status("x").state == B.OPEN
        clock.advance(60.0)
        for _ in range(3):
            manager.breakers.acquire("x").success()
        assert manager.breakers.status("x").state == B.CLOSED


def test_while_the_index_fails_every_process_has_its_own(
    opened: Callable[..., EmergenceManager], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tripping, waiting and healing go on; the status says so; afterwards it is shared again."""
    from xenolect import StorageError

    manager = opened()
    manager.variants.activate(manager.variants.propose("x", {}, id="x"))
    index = manager._runtime.index

    def fail(*_: Any) -> Any:
        raise StorageError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(index, "lease", fail)
        patch.setattr(index, "leases", fail)
        for _ in range(5):
            manager.breakers.acquire("x").failure()
        manager._runtime.writer.run_jobs()
        status = manager.breakers.status("x")
        assert (status.state, status.degraded) == (B.OPEN, True)
        clock.advance(60.0)
        manager.breakers.acquire("x").failure()
        assert manager.breakers.status("x").attempts == 1
    assert index.leases("breaker/", time.time()) == []

    manager.tick()

    assert not manager.breakers.status("x").degraded
    assert len(index.leases("breaker/", time.time())) == 1
