"""Schemas of states, and two neighbouring releases on one store."""

from __future__ import annotations

import hashlib
import json
import sqlite3

import pytest

from xenolect import AgentContext, InvalidError, PluginError, StorageError, hookimpl, offer
from xenolect import open as open_manager
from xenolect.errors import ConfigError, CorruptError, DuplicateError
from xenolect.facts import Put


class Chat:
    """A plugin with two migrations of one protocol."""

    @hookimpl
    def xenolect_state_migrations(self):
        yield offer("chat.1.2", lambda: lambda state: {**state, "dialect": "plain"})
        yield offer("chat.2.3", lambda: lambda state: {**state, "depth": len(state)})


class Misnamed:
    """Not PROTOCOL.FROM.TO."""

    @hookimpl
    def xenolect_state_migrations(self):
        yield offer("chat.newer", lambda: dict)


def released(opened, place, *plugins):
    """A process of one release of an application."""
    return opened(place, plugins=plugins)


def old(opened, place):
    """A release without migrations has stored something."""
    manager = released(opened, place)
    for name in ("v", "w"):
        manager.variants.propose(name, {}, id=name, protocol="chat")
    manager.variants.propose("other", {}, id="other")
    manager.states.put("v", {"a": 1})
    manager.states.put("other", {"a": 1})
    return manager


def test_an_older_state_is_brought_up_to_date_when_it_is_read(opened, tmp_path):
    """Step by step, by the plugin's migrations; what is stored stays, other protocols too; what is put now
    has the newest schema and is not migrated again."""
    old(opened, tmp_path).close()
    manager = released(opened, tmp_path, Chat())

    assert manager.states.get("v") == {"a": 1, "dialect": "plain", "depth": 2}
    assert manager.states.get("other") == {"a": 1}
    assert json.loads(manager.states.open("v").read()) == {"a": 1}
    assert [ref.schema for ref in manager.states.versions("v")] == [1]
    manager.states.put("v", {"b": 2})
    assert manager.states.get("v") == {"b": 2}
    assert manager.states.get("v", version=1) == {"a": 1, "dialect": "plain", "depth": 2}
    assert [ref.schema for ref in manager.states.versions("v")] == [1, 3]


def test_a_rollback_across_schemas(opened, tmp_path):
    """A point of before holds an older state; after the rollback it is migrated like any other."""
    before = old(opened, tmp_path)
    before.variants.activate("v")
    before.points.create("v", pinned=True)
    before.close()
    manager = released(opened, tmp_path, Chat())
    manager.states.put("v", {"b": 2})
    manager.rollback("v")
    assert manager.states.get("v")["a"] == 1
    assert [ref.schema for ref in manager.states.versions("v")] == [1, 3, 1]


def test_a_newer_state_is_refused_with_the_reason(opened, tmp_path):
    """An older release of the application does not read what it can not know; a tool that serves nobody
    shows it as it is."""
    old(opened, tmp_path).close()
    released(opened, tmp_path, Chat()).states.put("v", {"b": 2})
    behind = released(opened, tmp_path)
    with pytest.raises(
        InvalidError, match="has schema 3, this process knows protocol 'chat' up to"
    ):
        behind.states.get("v")
    assert behind.states.get("v", version=1) == {"a": 1}
    tool = opened(tmp_path, process=False)
    assert tool.states.get("v") == {"b": 2}


def test_registered_in_process(opened, tmp_path):
    """The same without a plugin; patches and repairs keep the schema of what they build on."""
    manager = old(opened, tmp_path)
    manager.states.put("w", b"one")
    manager.states.register_migration("chat", 1, 4, lambda state: state + b"!" if state else state)
    assert manager.states.get("w") == b"one!"
    assert manager.states.patch("w", {0: b"O"}).schema == 1
    assert manager.states.get("w") == b"One!"
    assert manager.states.put("w", b"two").schema == 4
    with pytest.raises(DuplicateError):
        manager.states.register_migration("chat", 1, 4, bytes)
    with pytest.raises(InvalidError):
        manager.states.register_migration("chat", 4, 4, bytes)


def test_migrations_that_do_not_lead_there_or_fail(opened, tmp_path):
    """A gap and an exception say what to do, and the stored state is as it was."""
    manager = old(opened, tmp_path)
    manager.states.register_migration("chat", 2, 3, dict)
    with pytest.raises(InvalidError, match=r"no state migrations .* lead from there to 3"):
        manager.states.get("v")
    manager.states.register_migration("chat", 1, 2, lambda state: state["missing"])
    with pytest.raises(PluginError, match=r"chat\.1\.2 failed on state 1 of variant 'v': KeyError"):
        manager.states.get("v")
    assert json.loads(manager.states.open("v").read()) == {"a": 1}
    with pytest.raises(ConfigError, match="is not named PROTOCOL.FROM.TO"):
        opened(tmp_path / "other", plugins=[Misnamed()])


# -- two releases on one store ------------------------------------------------------------------------


def neighbour(manager):
    """What a release with more fields does to every document; facts of a kind of its own; a new column and
    a new table in a newer minor of the schema."""
    runtime = manager._runtime
    changes = [
        Put(fact.kind, fact.key, {**fact.value, "from_later": {"kept": [1]}})
        for fact in list(runtime.facts.values())
        if isinstance(fact.value, dict) and fact.kind not in ("point", "frozen", "key")
    ]
    runtime.commit([*changes, Put("later_kind", "x", {"n": 1})])


def test_a_neighbour_adds_fields_and_this_release_keeps_them(opened, tmp_path):
    """Variants, agents, states, rollouts, baselines: what this release does not know is still there after
    it has written each of them, and it works on."""
    manager = opened(tmp_path)
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(25)])
    manager.variants.propose("v", {"n": 1}, id="v")
    manager.states.put("v", {"a": 1})
    manager.canaries.start("v", seed=1)
    neighbour(manager)
    manager.close()
    this = opened(tmp_path)

    this.agents.update("a1", AgentContext({"zstd": "2"}))
    this.states.put("v", {"a": 2})
    this.canaries.pause("v")
    this.canaries.resume("v")
    this.variants.update(this.variants.get("base"), changes={"n": 3}, force=True)
    this.flush()

    for kind, key in (("variant", "base"), ("variant", "v"), ("agent", "a1"), ("state", "v"),
                      ("rollout", "v"), ("later_kind", "x")):  # fmt: skip
        value = this._runtime.value(kind, key)
        assert "from_later" in value or kind == "later_kind", kind
    assert this.states.get("v", version=1) == {"a": 1}
    assert this.states.verify().ok
    assert this.rollback("v").status == "rolled_back"
    assert "from_later" in this._runtime.value("variant", "v")


def test_a_newer_minor_of_the_index_is_shared_and_a_newer_major_refused(tmp_path):
    """Another table and another column are left alone by this release while both write."""
    with open_manager(tmp_path, background=False) as manager:
        manager.variants.propose("v", {}, id="v")
    db = sqlite3.connect(tmp_path / "index.db")
    db.execute("CREATE TABLE of_later (x INTEGER) STRICT")
    db.execute("ALTER TABLE facts ADD COLUMN of_later TEXT")
    db.execute("UPDATE meta SET value = '1.99' WHERE key = 'schema'")
    db.commit()
    with open_manager(tmp_path, background=False) as manager:
        manager.variants.update("v", expected_version=1, changes={"n": 1})
        db.execute("INSERT INTO of_later VALUES (7)")
        db.commit()
        manager.variants.update("v", expected_version=2, changes={"n": 2})
    assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1.99",)
    assert db.execute("SELECT x FROM of_later").fetchall() == [(7,)]
    db.execute("UPDATE meta SET value = '2.0' WHERE key = 'schema'")
    db.commit()
    db.close()
    before = (tmp_path / "index.db").read_bytes()
    with pytest.raises(ConfigError, match="has schema 2.0, and this release reads up to 1.x"):
        open_manager(tmp_path)
    assert (tmp_path / "index.db").read_bytes() == before


def of_format_3(data):
    """The same object as a later release would write it, if it changed nothing else."""
    end = int.from_bytes(data[6:8], "big")  # of the header, whose last 8 bytes are its digest
    body = b"XLC3" + data[4 : end - 8]
    return body + hashlib.sha256(body).digest()[:8] + data[end:]


def test_a_damaged_number_of_the_format_is_damage(opened, tmp_path):
    """The header's digest is of format 2: nobody is told to upgrade, and ``verify`` names the object."""
    manager = old(opened, tmp_path)
    chunk = next(tmp_path.glob("variants/v/state/chunk_*"))
    chunk.write_bytes(b"XLC3" + chunk.read_bytes()[4:])
    (problem, *_) = manager.states.verify(deep=True).problems
    assert chunk.name in problem.key
    manager.close()
    with pytest.raises(CorruptError, match="does not begin as a stored object"):
        opened(tmp_path).states.get("v")


def test_objects_of_a_newer_major_are_refused_with_the_reason(opened, tmp_path):
    """A chunk, a segment of the journal and ``store.json`` of format 3 say "upgrade" and stay as they are."""
    manager = old(opened, tmp_path)
    manager.close()
    chunk = next(tmp_path.glob("variants/v/state/chunk_*"))
    chunk.write_bytes(of_format_3(chunk.read_bytes()))
    later = opened(tmp_path)
    with pytest.raises(StorageError, match="has format 3, this release reads 2; upgrade xenolect"):
        later.states.get("v")
    later.close()
    segment = next(tmp_path.glob("journal/0*"))
    whole = segment.read_bytes()
    segment.write_bytes(of_format_3(whole))
    with pytest.raises(StorageError, match="has format 3"):
        open_manager(tmp_path)
    segment.write_bytes(whole)
    store = tmp_path / "store.json"
    store.write_text(store.read_text().replace('"format":2', '"format":3'))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    with pytest.raises(StorageError, match="says format 3, this release reads 2; upgrade"):
        open_manager(tmp_path)
    assert {p: p.read_bytes() for p in before} == before
