"""The journal as a chain: what edits of it are found, where it is anchored, and how it is read."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from tests.fleets import fleet, json_and_zstd, traffic
from tests.stories import edited, index_of, replay_of, rewritten, told

from xenolect import EmergenceManager, InvalidError
from xenolect._replay import Replay, attempts, curve
from xenolect._routing import routed
from xenolect.cli import main
from xenolect.decisions import Decisions
from xenolect.errors import EmergenceError
from xenolect.testing import Clock


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store that has seen the whole story."""
    return told(tmp_path_factory.mktemp("store"))


def flip(db: sqlite3.Connection, draw: random.Random) -> str:
    """Change one byte of one column of one entry; what was done."""
    rows = [row[0] for row in db.execute("SELECT revision FROM journal")]
    revision = draw.choice(rows)
    column = draw.choice(("revision", "previous", "actor", "at", "changes", "digest"))
    (value,) = db.execute(
        f"SELECT {column} FROM journal WHERE revision = ?", (revision,)
    ).fetchone()
    if column == "revision":
        new: Any = revision ^ (1 << draw.randrange(8))
        if new in rows:  # swapped: the other one has to make place
            new += 1_000_000
    elif column == "at":
        import struct

        raw = bytearray(struct.pack("<d", value))
        raw[draw.randrange(6)] ^= 1 << draw.randrange(8)
        (new,) = struct.unpack("<d", raw)
    else:
        raw = bytearray(value.encode() or b"x")
        place = draw.randrange(len(raw))
        other = draw.choice(b'0123456789abcdefxyzE,:.{}[]" ')
        raw[place] = other if raw[place] != other else raw[place] ^ 1
        new = raw.decode("utf-8", "replace")
    db.execute(f"UPDATE journal SET {column} = ? WHERE revision = ?", (new, revision))
    return f"{column} of {revision}: {value!r:.60} -> {new!r:.60}"


def detected(store: Path, place: Path, edits: int, seed: int) -> list[str]:
    """Edit a copy ``edits`` times, one at a time; the edits that nothing noticed."""
    shutil.copytree(store, place)
    db = sqlite3.connect(place / "index.db", isolation_level=None)
    before = [tuple(row) for row in db.execute("SELECT * FROM journal")]
    draw = random.Random(seed)
    missed = []
    index = index_of(place)
    for _ in range(edits):
        what = flip(db, draw)
        try:
            if Decisions(index).verify().ok:
                missed.append(what)
        except EmergenceError:
            pass
        db.execute("DELETE FROM journal")
        db.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", before)
    assert Decisions(index).verify().ok
    index.close()
    db.close()
    return missed


def test_single_byte_edits_of_the_journal_are_detected(store: Path, tmp_path: Path) -> None:
    """200 edits of one byte in any column: all are noticed, and undone the chain holds again."""
    assert detected(store, tmp_path / "s", 200, 1) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_edits_are_detected(store: Path, tmp_path: Path) -> None:
    """The same 1,000 times."""
    assert detected(store, tmp_path / "s", 1_000, 2) == []


def test_an_edit_that_means_the_same_is_an_edit(store: Path, tmp_path: Path) -> None:
    """0.10 for 0.1 changes no value, but the bytes are not those that were written."""
    place = edited(
        store, tmp_path / "s", "UPDATE journal SET changes = replace(changes, '0.01', '0.010')"
    )

    with closing(index_of(place)) as index:
        assert not Decisions(index).verify().ok


def test_edited_entries_are_named_one_by_one(store: Path, tmp_path: Path) -> None:
    """Two edits are two names, and ``replay`` exits with 6."""
    place = edited(
        store, tmp_path / "s", "UPDATE journal SET actor = 'mallory' WHERE revision IN (4, 9)"
    )

    found = replay_of(place, 6)

    assert [(p["kind"], p["revision"]) for p in found["problems"]] == [("entry", 4), ("entry", 9)]


def test_a_fact_beside_the_journal_is_named(store: Path, tmp_path: Path) -> None:
    """A fact whose own digest was made to fit still is not what the journal made."""
    from xenolect.facts import digest_fact

    value = {"variant_id": "mallory"}
    place = edited(
        store,
        tmp_path / "s",
        "UPDATE facts SET value = ?, digest = ? WHERE kind = 'baseline'",
        '{"variant_id":"mallory"}',
        digest_fact("baseline", "default", 1, value),
    )
    with closing(index_of(store)) as index:
        version = next(f.version for f in index.load().facts if f.kind == "baseline")
    with sqlite3.connect(place / "index.db") as db:
        db.execute(
            "UPDATE facts SET digest = ? WHERE kind = 'baseline'",
            (digest_fact("baseline", "default", version, value),),
        )
    db.close()
    registry = EmergenceManager.open("memory://", background=False)._runtime.registry

    with closing(index_of(place)) as index:
        found = Replay(index, registry).run()

    assert [p.kind for p in found.problems] == ["facts"]
    assert "baseline 'default'" in found.problems[0].message


# -- anchors ---------------------------------------------------------------------------------------


def test_a_cut_tail_is_noticed_with_the_anchor_only(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    """An older copy of a store is intact in itself; the anchor knows of entries that it lacks."""
    place = tmp_path / "now"
    with EmergenceManager.open(place, background=False) as manager:
        json_and_zstd(manager)
    shutil.copytree(place, tmp_path / "old")
    with EmergenceManager.open(place, background=False) as manager:
        fleet(manager, 3)
    kept = tmp_path / "anchor.json"
    replay_of(place, 0, "--write-anchor", str(kept))

    assert replay_of(place, 0, "--anchor", str(kept))["ok"]
    assert replay_of(tmp_path / "old", 0)["ok"]
    found = replay_of(tmp_path / "old", 6, "--anchor", str(kept))
    assert found["problems"][0]["kind"] == "anchor"
    assert "cut" in found["problems"][0]["message"]


def test_a_rewritten_history_is_noticed_with_the_anchor(store: Path, tmp_path: Path) -> None:
    """A chain made to fit again has another head."""
    kept = tmp_path / "anchor.json"
    anchor = replay_of(store, 0, "--write-anchor", str(kept))

    def edit(document: Any) -> bool:
        document["expected"] = 1.0
        return True

    place = rewritten(store, tmp_path / "s", edit)
    text = f"{anchor['revision']}:{anchor['digest']}"

    assert replay_of(place, 6, "--anchor", text)["problems"][0]["kind"] == "anchor"
    assert replay_of(store, 0, "--anchor", text)["ok"]


def test_what_is_no_anchor_is_refused(manager: EmergenceManager, store: Path) -> None:
    """With what an anchor looks like."""
    with pytest.raises(InvalidError, match="64 hex digits"):
        manager.decisions.verify({"revision": 1})
    assert "REVISION:DIGEST" in str(
        CliRunner().invoke(main, ["replay", "--storage", str(store), "--anchor", "x"]).output
    )


# -- reading ---------------------------------------------------------------------------------------


def test_decisions_can_be_read(manager: EmergenceManager) -> None:
    """Oldest first or newest first, all or those of a variant; the anchor is the newest entry."""
    json_and_zstd(manager)
    fleet(manager, 2)
    everything = list(manager.decisions)

    assert [e.revision for e in everything] == list(range(1, len(everything) + 1))
    assert manager.decisions.list(newest=True, limit=1) == (everything[-1],)
    assert {c.key for e in manager.decisions.list("zstd") for c in e.changes} == {"zstd"}
    anchor = manager.decisions.anchor()
    assert anchor == {"revision": everything[-1].revision, "digest": everything[-1].digest}
    fleet(manager, 3)
    assert manager.decisions.verify(anchor).ok


def test_the_curve_ends_where_harm_was_proved(store: Path) -> None:
    """Evidence after each observation, up to the one that proved harm."""
    index = index_of(store)
    registry = EmergenceManager.open("memory://", background=False)._runtime.registry
    first, *_ = attempts(index.changes(0))

    found = curve(Replay(index, registry), first)
    index.close()

    assert len(found.at) == len(found.e_value) == len(found.noninferiority) > 10
    assert found.e_value[-1] == first.last["evidence"]["e_value"]
    assert max(found.e_value[:-1]) < first.last["evidence"]["threshold"] <= found.e_value[-1]


def why(*arguments: str) -> str:
    """``xenolect why``."""
    done = CliRunner().invoke(main, ["why", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_why_names_rule_numbers_and_records(tmp_path: Path) -> None:
    """After a rollback: which rule, on how many records, and the failures that were the last straw."""
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(tmp_path, clock=clock, background=False) as manager:
        names = fleet(manager, 100)
        json_and_zstd(manager)
        manager.canaries.start("zstd", seed=1)
        traffic(manager, clock, names, 1, bad=0.3, rounds=15)
        assert manager.variants.get("zstd").status == "rolled_back"
        rollout = manager._runtime.value("rollout", "zstd")
        salt = int(rollout["salt"], 16)
        canaries = {n for n in names if routed(n, salt, rollout["levels"][0])}

    text = why("zstd", "--storage", str(tmp_path))
    proof = json.loads(why("zstd", "--json", "--storage", str(tmp_path)))["proof"]

    assert "rule: failure_ratio" in text
    assert "the canary's last 5" in text
    assert proof["verdict"] == "rollback"
    assert proof["e_value"] >= proof["threshold"] == pytest.approx(1 / proof["alpha"])
    assert len(proof["records"]) == 5
    assert proof["records"][-1]["failures"] == 1
    assert {r["arm"] for r in proof["records"]} == {"canary"}
    assert {r["unit"] for r in proof["records"]} <= canaries


def test_the_report_of_a_rollout(store: Path, tmp_path: Path) -> None:
    """One page with the recomputed evidence, the shares and every step; it loads nothing."""
    page = tmp_path / "report.html"

    why("zstd", "--report", str(page), "--storage", str(store))

    html = page.read_text()
    assert html.count("<svg") == 2
    assert "polyline" in html
    assert "src=" not in html
    assert "http" not in html
    assert "every level passed" in html
    for svg in html.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")


def test_a_report_is_of_a_variant_with_a_rollout(store: Path, tmp_path: Path) -> None:
    """Neither of an agent nor of a variant that was never rolled out."""
    for name, code in (("agent-1", 2), ("json", 3)):
        done = CliRunner().invoke(
            main, ["why", name, "--report", str(tmp_path / "x"), "--storage", str(store)]
        )
        assert done.exit_code == code, done.output
        assert not (tmp_path / "x").exists()
