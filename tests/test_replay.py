"""Decisions are recomputed to the last bit, and an edited history is named."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from tests.fleets import fleet, json_and_zstd, traffic

from xenolect import EmergenceManager, InvalidError
from xenolect._replay import Replay, Replayed, attempts, curve
from xenolect._routing import routed
from xenolect.cli import main
from xenolect.decisions import Decisions
from xenolect.errors import EmergenceError
from xenolect.facts import Put
from xenolect.rows import OBSERVATION_COLUMNS, digest_row
from xenolect.testing import Clock
from xenolect_backends.sqlite_index import SqliteIndex

LIFE = {"min_effect": 0.05, "min_operations": 50}


def replayed(manager: EmergenceManager, anchor: Any = None) -> Replayed:
    """Everything recomputed."""
    manager.flush()
    return Replay(manager._runtime.index, manager._runtime.registry).run(anchor)


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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store that has seen the whole story."""
    place = tmp_path_factory.mktemp("store")
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(place, clock=clock, background=False, seed=7) as manager:
        story(manager, clock)
    return place


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


# -- the chain -------------------------------------------------------------------------------------


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

    assert not Decisions(index_of(place)).verify().ok


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
    index = index_of(place)
    version = next(f.version for f in index_of(store).load().facts if f.kind == "baseline")
    with sqlite3.connect(place / "index.db") as db:
        db.execute(
            "UPDATE facts SET digest = ? WHERE kind = 'baseline'",
            (digest_fact("baseline", "default", version, value),),
        )
    db.close()
    registry = EmergenceManager.open("memory://", background=False)._runtime.registry

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


# -- why -------------------------------------------------------------------------------------------


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
