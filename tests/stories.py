"""A store with a story of rollouts, and copies of it that somebody edited."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tests.fleets import fleet, json_and_zstd, traffic

from xenolect import EmergenceManager
from xenolect._replay import attempts
from xenolect.cli import main
from xenolect.rows import OBSERVATION_COLUMNS, digest_row
from xenolect.testing import Clock
from xenolect_backends.sqlite_index import SqliteIndex

LIFE = {"min_effect": 0.05, "min_operations": 50}


def story(manager: EmergenceManager, clock: Clock) -> None:
    """A rollback, an aborted attempt, a pause, an opened breaker, and a promotion."""
    names = fleet(manager, 100)
    json_and_zstd(manager)
    manager.canaries.start("zstd", seed=1)
    traffic(manager, clock, names, 1, bad=0.5, rounds=20)
    assert manager.variants.get("zstd").status == "rolled_back"
    clock.advance(8 * 86400)
    manager.variants.start_testing("zstd")
    manager.canaries.start("zstd", seed=2, **LIFE)
    traffic(manager, clock, names, 2, rounds=7)
    manager.canaries.pause("zstd")
    traffic(manager, clock, names, 3, rounds=6)
    manager.canaries.resume("zstd")
    manager.breakers.force_open("zstd")
    manager.flush()
    manager.breakers.reset("zstd")
    traffic(manager, clock, names, 4, rounds=6)
    manager.canaries.abort("zstd")
    manager.variants.start_testing("zstd")
    manager.canaries.start("zstd", seed=3, **LIFE)
    traffic(manager, clock, names, 5, rounds=90)
    assert manager.variants.get("zstd").status == "active"


def index_of(place: Path) -> SqliteIndex:
    """The index of a store."""
    return SqliteIndex(place / "index.db")


def edited(store: Path, place: Path, statement: str, *values: Any) -> Path:
    """A copy of the store whose tables were edited."""
    shutil.copytree(store, place)
    with sqlite3.connect(place / "index.db") as db:
        db.execute(statement, values)
        # Whoever forges a row forges its digest, too: what replay says must not depend on that.
        for number, *row in db.execute(
            f"SELECT rowid, {', '.join(OBSERVATION_COLUMNS)} FROM observations"
        ).fetchall():
            digest = digest_row("observations", row)
            db.execute("UPDATE observations SET digest = ? WHERE rowid = ?", (digest, number))
    db.close()
    return place


def replay_of(place: Path, code: int, *arguments: str) -> Any:
    """``xenolect replay --json``; the exit code is checked."""
    done = CliRunner().invoke(main, ["replay", "--storage", str(place), "--json", *arguments])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout else done.stderr


def rewritten(store: Path, place: Path, edit: Callable[[Any], bool]) -> Path:
    """A copy whose rollout documents were edited, chain and facts made to fit again."""
    shutil.copytree(store, place)
    old = index_of(store)
    entries = old.changes(0)
    observations = [o for a in attempts(entries) for o in old.observations(a.id, 0)]
    old.close()
    (place / "index.db").unlink()
    for name in ("index.db-wal", "index.db-shm"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "journal")  # its mirror, which who edits an index would have to edit too
    new = index_of(place)
    done = False
    for entry in entries:
        for change in entry.changes:
            if change.kind == "rollout" and not done:
                done = edit(change.value)  # type: ignore[union-attr]
        new.commit(entry.changes, actor=entry.actor, at=entry.at)
    new.append_windows(sorted(observations, key=lambda o: o.sequence))
    new.close()
    assert done
    return place


def told(place: Path) -> Path:
    """A closed store that has seen the whole story."""
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(place, clock=clock, background=False, seed=7) as manager:
        story(manager, clock)
    return place
