"""Several processes that put, read, restore and collect at random: what they saw is one history."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from xenolect import ConflictError, EmergenceManager

VARIANTS = [f"v{number}" for number in range(10)]


def opened(place: Path) -> EmergenceManager:
    """With small chunks, so that a state has several."""
    return EmergenceManager.open(
        place, background=False, state={"chunk_size": 256, "cache_size": 0}
    )


def live(place: Path, seed: int, operations: int) -> None:
    """What one process does; it prints what it saw, one line each, with the times around it."""
    rng = random.Random(seed)
    manager = opened(place)
    index: Any = manager._runtime.index
    for number in range(operations):
        variant = rng.choice(VARIANTS)
        # The log is copied back all the time, by all of them: what SQLite's bug needs.
        index._connections._checkpoint_at = 8192 * rng.randrange(8)
        act = rng.choices(["put", "get", "rollback", "gc", "reopen"], [40, 40, 10, 8, 2])[0]
        if act == "reopen":
            manager.close()
            manager = opened(place)
            index = manager._runtime.index
            continue
        seen: dict[str, Any] = {"act": act, "variant": variant, "by": seed}
        if act != "gc":
            manager._runtime.catch_up()
        expected = manager.states.versions(variant)[-1].version
        seen["begin"] = time.monotonic()
        if act == "get":
            manager._runtime.catch_up()
            seen["token"] = manager.states.get(variant)["token"]
        elif act == "put":
            seen["token"], seen["expected"] = f"{seed}-{number}", expected
            fill = "x" * rng.randrange(900)
            try:
                ref = manager.states.put(variant, {"token": seen["token"], "fill": fill}, expected)
                seen["version"] = ref.version
            except ConflictError:
                seen["act"] = "conflict"
        elif act == "rollback":
            try:
                manager.points.restore(rng.choice(manager.points.list(variant)))
            except ConflictError:
                seen["act"] = "conflict"
        else:
            seen["removed"] = len(manager.states.gc(0).removed)
        seen["end"] = time.monotonic()
        print(json.dumps(seen), flush=True)
    manager.close()


def histories(place: Path, processes: int, operations: int) -> list[dict[str, Any]]:
    """Let them live, all at once; what all of them saw."""
    with opened(place) as manager:
        for variant in VARIANTS:
            manager.variants.propose(variant, {}, id=variant)
            for number in range(2):
                manager.states.put(variant, {"token": f"{variant}-{number}"})
                manager.points.create(variant)
    program = "import sys; sys.path.insert(0, sys.argv[1]); from tests.test_linear import live; "
    program += (
        "from pathlib import Path; live(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"
    )
    root = Path(__file__).parent.parent
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(root), str(place), str(seed), str(operations)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    seen = []
    for each in running:
        out, errors = each.communicate(timeout=1500)
        assert each.returncode == 0, errors
        seen += [json.loads(line) for line in out.splitlines()]
    return seen


def judged(place: Path, seen: list[dict[str, Any]]) -> dict[str, int]:
    """One history: versions without a gap, each put upon the version it expected, each read of a version
    that was current at some moment between its begin and its end."""
    of: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for each in seen:
        of[each["variant"]][each["act"]].append(each)
    counts: dict[str, int] = defaultdict(int)
    with opened(place) as manager:
        assert manager.decisions.verify().ok
        assert manager.states.verify().ok
        facts = manager._runtime.facts
        for variant in VARIANTS:
            refs = manager.states.versions(variant)
            assert [ref.version for ref in refs] == list(range(1, len(refs) + 1))
            token = [manager.states.get(variant, version=ref.version)["token"] for ref in refs]
            stored = [facts["state_version", f"{variant}/{ref.version:08d}"].value for ref in refs]
            puts = {each["version"]: each for each in of[variant]["put"]}
            assert len(puts) == len(of[variant]["put"])  # no version was given to two
            for version, put in puts.items():
                assert put["expected"] == version - 1
                assert token[version - 1] == put["token"]
            restored = [n for n, value in enumerate(stored, 1) if "same_as" in value]
            for version in restored:
                assert token[version - 1] == token[stored[version - 1]["same_as"] - 1]
            assert sorted([1, 2, *puts, *restored]) == list(range(1, len(refs) + 1))
            # Nobody knows the version that a restore made, but there are as many as were told.
            told = len(of[variant]["rollback"])
            assert len(restored) <= told
            # A version begins after those before it began, and ends before those after it ended.
            began, ended = [0.0], [float("inf")]
            for ref in refs:
                began.append(max(began[-1], puts.get(ref.version, {}).get("begin", 0.0)))
            for ref in reversed(refs):
                ended.append(min(ended[-1], puts.get(ref.version, {}).get("end", ended[-1])))
            ended.reverse()
            for read in of[variant]["get"]:
                assert any(
                    began[version] <= read["end"] and ended[version] >= read["begin"]
                    for version, found in enumerate(token, 1)
                    if found == read["token"]
                ), read
            for act in ("put", "get", "conflict", "rollback", "gc"):
                counts[act] += len(of[variant][act])
        counts["removed"] = sum(each.get("removed", 0) for each in seen)
        manager.states.gc(0)
        assert manager.states.verify().ok
    db = sqlite3.connect(place / "index.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    return counts


def test_three_processes_see_one_history(tmp_path: Path) -> None:
    """Three processes, ten variants, a collector without grace among them."""
    counts = judged(tmp_path, histories(tmp_path, 3, 16))
    assert counts["put"] > 5
    assert counts["get"] > 5
    assert counts["rollback"] + counts["gc"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eight_processes_see_one_history(tmp_path: Path) -> None:
    """Eight processes for longer: no reader has an error, no commit is lost, nothing is out of order."""
    counts = judged(tmp_path, histories(tmp_path, 8, 150))
    assert counts["put"] > 200
    assert counts["rollback"] > 30
    assert counts["conflict"] > 0
    assert counts["removed"] > 0
