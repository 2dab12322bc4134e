"""``status``: the specification's system and business metrics, from real stores and rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager, PerformanceMetrics
from xenolect.cli import main
from xenolect.testing import Clock

DAY = 86400.0


def test_deployments_are_counted_by_how_they_end(
    opened: Callable[..., EmergenceManager], tmp_path: Path, clock: Clock
) -> None:
    """Promoted, rolled back, aborted; each attempt counts, also after a restart and in 30 days' time."""
    manager = opened(tmp_path)
    fleet(manager)
    json_and_zstd(manager)
    empty = manager.status()
    assert empty["rollouts"]["success_rate"] is None
    assert empty["rollbacks"] == {"total": 0, "in_30_days": 0}
    for _ in range(3):
        clock.advance(2 * DAY)
        if manager.variants.get("zstd").status == "rolled_back":
            manager.variants.start_testing("zstd")
        manager.canaries.start("zstd", seed=1)
        manager.rollback("zstd", reason="ticket")
        manager.rollback("zstd", reason="again")  # idempotent: one rollback
    clock.advance(2 * DAY)
    manager.variants.start_testing("zstd")
    manager.canaries.start("zstd", seed=1)
    manager.canaries.abort("zstd")
    manager.variants.start_testing("zstd")
    manager.canaries.start("zstd", seed=1)
    manager.canaries.promote("zstd", force=True)
    manager.close()
    again = opened(tmp_path)
    status = again.status()
    ended = {name: status["rollouts"][name] for name in ("promoted", "rolled_back", "aborted")}
    assert ended == {"promoted": 1, "rolled_back": 3, "aborted": 1}
    assert status["rollouts"]["success_rate"] == 0.2
    assert status["rollbacks"] == {"total": 3, "in_30_days": 3}
    assert status["variants"]["active"] == 2
    assert status["agents"] == 200
    clock.advance(27 * DAY)  # the first two were 35 and 33 days ago by now
    assert again.status()["rollbacks"] == {"total": 3, "in_30_days": 1}


def test_what_the_process_and_the_store_take(
    opened: Callable[..., EmergenceManager], tmp_path: Path
) -> None:
    """Bytes on disk are those of the files; memory and CPU those of this process."""
    manager = opened(tmp_path)
    manager.variants.propose("v", {}, id="v")
    manager.states.put("v", bytes(3_000_000), expected_version=None)
    manager.record("v", PerformanceMetrics(1.0, 3.0))
    manager.flush()
    status = manager.status()
    files = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert status["disk"]["bytes"] <= files <= status["disk"]["bytes"] + 2**16
    assert 0 < status["disk"]["index_bytes"] <= status["disk"]["bytes"]
    process = status["process"]
    assert process["memory_peak_bytes"] is None or process["memory_peak_bytes"] > 10 * 2**20
    assert process["memory_bytes"] is None or process["memory_bytes"] > 10 * 2**20
    assert process["cpu_seconds"] > 0.0
    assert status["rollups"] == {"error": None, "behind": False}
    json.dumps(status)
    assert opened().status()["disk"] == {"bytes": None, "index_bytes": None}


def test_status_reads_well(tmp_path: Path) -> None:
    """The command shows the same in words."""
    place = str(tmp_path / "s")
    with EmergenceManager.open(place, background=False) as manager:
        fleet(manager)
        json_and_zstd(manager)
        manager.canaries.start("zstd", seed=1)
        manager.rollback("zstd")
    result = CliRunner().invoke(main, ["status", "--storage", place])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    assert lines["ended"].endswith(
        "0 promoted, 1 rolled back, 0 aborted: 0% of deployments succeeded"
    )
    assert lines["rollbacks"].endswith("1 in 30 days")
    assert "store" in lines["disk"]
    assert "index" in lines["disk"]
    assert "CPU" in lines["this"]
