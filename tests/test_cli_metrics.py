"""``xenolect metrics`` and ``xenolect watch`` on a real store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fleets import fleet

from xenolect import EmergenceManager, PerformanceMetrics
from xenolect.cli import main
from xenolect.testing import Clock

START = datetime(2026, 10, 31, 20, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Six hours of a variant, over the end of a month, with its p95 growing; kept for ever."""
    place = tmp_path / "store"
    place.mkdir()
    kept = "".join(
        f'{name} = "200y"\n' for name in ("retention", "hourly", "daily", "monthly", "half_life")
    )
    (place / "xenolect.toml").write_text(f"[metrics]\n{kept}")
    clock = Clock(START)
    with EmergenceManager.open(place, clock=clock, background=False) as manager:
        manager.variants.activate(manager.variants.propose("plain", {"wire": "json"}, id="json"))
        for hour in range(6):
            for _ in range(4):
                clock.advance(900)
                metrics = PerformanceMetrics(
                    0.9 if hour == 3 else 1.0, 10.0 * (hour + 1), 0.5, custom={"b\x1b[2J": 2.0},
                    count=10,
                )  # fmt: skip
                manager.record("json", metrics)
                manager.tick()
    return place


def run(store: Path, *arguments: str, code: int = 0) -> str:
    """Run a command on the store; what it printed."""
    result = CliRunner().invoke(main, [*arguments, "--storage", str(store)])
    assert result.exit_code == code, result.output
    return result.output


def test_metrics_are_a_table_of_hours(store: Path) -> None:
    """The newest hours, oldest first; what an agent named a metric can not clear the screen."""
    lines = run(store, "metrics", "json", "--last", "3").splitlines()
    assert lines[0].split()[:3] == ["from", "operations", "success"]
    assert [line[:16] for line in lines[1:]] == [
        "2026-11-01 00:00",
        "2026-11-01 01:00",
        "2026-11-01 02:00",
    ]
    assert lines[1].split()[2:4] == ["40", "97.50%"]  # ten of the bad hour's fall into it
    assert "usage 0.5, b\\x1b[2J 2" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_metrics_by_day_and_month_as_json(store: Path) -> None:
    """All of a resolution, as records; counts are whole and add up."""
    for by, wanted in (("daily", [150, 90]), ("monthly", [150, 90])):
        document = json.loads(run(store, "metrics", "json", "--by", by, "--json"))
        assert document["resolution"] == by
        assert [each["count"] for each in document["rollups"]] == wanted
        assert sum(each["failures"] for each in document["rollups"]) == 4
    first = document["rollups"][0]
    assert (first["since"], first["until"]) == (
        "2026-10-01T00:00:00+00:00",
        "2026-11-01T00:00:00+00:00",
    )


def test_metrics_are_drawn(store: Path) -> None:
    """From the least to the most, a character for each hour."""
    lines = run(store, "metrics", "json", "--plot").splitlines()
    assert lines[0] == "2026-10-31 20:00 to 2026-11-01 02:00 (UTC)"
    by_name = {line[:11].strip(): line[11:] for line in lines[1:]}
    speed = by_name["p95 ms"].partition("  ")[0]
    assert len(speed) == 7
    assert (speed[0], speed[-1]) in {("▁", "█"), ("_", "#")}
    assert by_name["success"].endswith("to 100.00%")


def test_metrics_are_written_as_parquet(store: Path, tmp_path: Path) -> None:
    """Every bucket that is kept, with types that other tools read."""
    import pyarrow.parquet as pq

    file = tmp_path / "out.parquet"
    assert run(store, "metrics", "json", "--parquet", str(file)) == f"{file}: 7 rows\n"
    table = pq.read_table(file).to_pylist()
    assert [each["count"] for each in table] == [30, 40, 40, 40, 40, 40, 10]
    assert table[0]["since"] == datetime(2026, 10, 31, 20, tzinfo=UTC)
    assert table[0]["variant"] == "json"
    assert json.loads(table[0]["custom"]) == {"b\x1b[2J": 2.0}


def test_parquet_says_what_to_install(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a place that can not be written to is an error of storage."""
    nowhere = str(tmp_path / "none" / "out.parquet")
    assert "can not be written" in run(store, "metrics", "json", "--parquet", nowhere, code=7)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = run(store, "metrics", "json", "--parquet", str(tmp_path / "x"), code=3)
    assert "pip install 'xenolect[parquet]'" in said


def test_an_unknown_variant_is_not_found(store: Path) -> None:
    """With the near one; a variant that nothing was measured of says so."""
    assert "did you mean 'json'" in run(store, "metrics", "jsn", code=3)
    with EmergenceManager.open(store, background=False) as manager:
        manager.variants.propose("new", {}, id="new")
    assert run(store, "metrics", "new") == "nothing was measured of new\n"


# -- watching ---------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """A store with a rollout."""
    place = tmp_path / "busy"
    with EmergenceManager.open(place, background=False) as manager:
        names = fleet(manager)
        manager.variants.activate(manager.variants.propose("plain", {}, id="json"))
        canary = manager.variants.propose("zstd", {}, id="zstd")
        manager.canaries.start(canary, seed=1)
        for name in names[:60]:
            manager.report("json", name, success=True, latency_ms=20.0)
    return place


def test_watch_once_is_for_scripts(busy: Path) -> None:
    """One look: what is served and tested, its breaker, its rate, its rollout."""
    seen = json.loads(run(busy, "watch", "--once", "--window", "60", "--json"))
    rows: dict[str, Any] = {each["variant"]: each for each in seen["variants"]}
    assert rows["json"]["per_second"] == pytest.approx(1.0)
    assert rows["json"]["baseline"] is True
    assert rows["json"]["success_rate"] == 1.0
    assert rows["zstd"]["rollout"]["fraction"] == pytest.approx(0.1)
    assert {each["breaker"] for each in rows.values()} == {"closed"}
    lines = run(busy, "watch", "--once").splitlines()
    assert lines[0].endswith("200 agents")
    assert any("active (baseline)" in line for line in lines)
    assert any("10.0%" in line for line in lines)


def test_watching_changes_nothing(busy: Path) -> None:
    """No commit, no health check, no lease."""
    before = json.loads(run(busy, "watch", "--once", "--json"))
    after = json.loads(run(busy, "watch", "--once", "--json"))
    assert after["revision"] == before["revision"]
    assert after["processes"] == before["processes"]


def test_watch_looks_again_and_ends_on_ctrl_c(busy: Path) -> None:
    """In a process of its own: it sees what others record, and an interrupt is no error."""
    # Whoever starts the tests in the background of a shell has interrupts ignored, and so have children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "xenolect", "watch", "--every", "0.1", "--storage", str(busy)],
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("revision ")
        with EmergenceManager.open(busy, background=False) as manager:
            manager.variants.propose("late", {}, id="late")
            manager.variants.start_testing("late")
        for line in process.stdout:
            if line.startswith("late "):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
