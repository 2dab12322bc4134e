"""``journal.sample``: a share of the selections in the journal, and what it costs who does not want it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import AgentContext, EmergenceManager, NoCompatibleVariantError, StorageError
from xenolect import _sampling as sampling
from xenolect.config import load
from xenolect.decisions import Sampled
from xenolect.testing import Clock


def opened(storage: str | Path = "memory://", share: float = 1.0, **given: object):
    """A manager with two variants that keeps a share of its choices."""
    given = {"background": False, "journal": {"sample": share}, "seed": 7, **given}
    manager = EmergenceManager.open(storage, **given)  # type: ignore[arg-type]
    if not manager.variants.list():
        json_and_zstd(manager)
    return manager


def test_every_selection_is_in_the_journal_as_it_was_made() -> None:
    clock = Clock(1_000_000.0)
    with opened(clock=clock) as manager:
        agents = fleet(manager, 10)
        made = []
        for agent in agents:
            clock.advance(1.0)
            made.append((clock(), manager.select(agent, session=f"of {agent}")))
        assert not list(manager.decisions.selections())
        manager.flush()
        assert list(manager.decisions.selections()) == [
            Sampled(at, s.agent_id, s.session, s.protocol, s.variant.id, s.variant.version,
                    s.reason.value, s.score, s.revision)
            for at, s in made
        ]  # fmt: skip
        (only,) = manager.decisions.selections(manager.agents.get(agents[3]))
        assert only.agent == agents[3]
        assert manager.decisions.verify().ok


def test_a_call_is_a_selection_and_what_was_refused_is_none() -> None:
    with opened() as manager:
        agent = fleet(manager, 1)[0]
        with manager.call(agent):
            pass
        with pytest.raises(NoCompatibleVariantError):
            manager.select(agent, "spoken by nobody")
        assert manager.select(agent, "spoken by nobody", default="x").reason.value == "default"
        manager.flush()
        assert [each.agent for each in manager.decisions.selections()] == [agent]


def test_a_share_is_a_share() -> None:
    with opened(share=0.1) as manager:
        agent = fleet(manager, 1)[0]
        for _ in range(5000):
            manager.select(agent)
        manager.flush()
        # 5000 draws at .1: the standard deviation is 21
        assert 390 < sum(1 for _ in manager.decisions.selections()) < 610


def test_without_a_share_choosing_is_what_it_was() -> None:
    with opened(share=0.0) as manager:
        agent = fleet(manager, 1)[0]
        assert manager._selector._chosen == manager._selector._select
        before = manager.status()["revision"]
        for _ in range(1000):
            manager.select(agent)
        manager.flush()
        assert manager.status()["revision"] == before


def test_an_entry_is_a_batch_and_the_rest_waits_for_the_interval() -> None:
    clock = Clock(1_000_000.0)
    with opened(clock=clock) as manager:
        agent = fleet(manager, 1)[0]
        for _ in range(2 * sampling.BATCH + 1):
            manager.select(agent)
        manager.tick()
        sizes = [len(change.value["chosen"]) for entry in manager.decisions
                 for change in entry.changes if change.kind == "selections"]  # fmt: skip
        assert sizes == [sampling.BATCH, sampling.BATCH, 1]
        manager.select(agent)
        clock.advance(30.0)
        manager.tick()
        assert sum(1 for _ in manager.decisions.selections()) == 2 * sampling.BATCH + 1
        clock.advance(31.0)
        manager.tick()
        assert sum(1 for _ in manager.decisions.selections()) == 2 * sampling.BATCH + 2


def test_closing_stores_what_waits_and_every_process_reads_it(tmp_path: Path) -> None:
    with opened(tmp_path) as manager:
        agents = fleet(manager, 5)
        for agent in agents:
            manager.select(agent)
    with opened(tmp_path) as manager:
        assert [each.agent for each in manager.decisions.selections()] == list(agents)
        manager.select(agents[0])
        assert manager.decisions.verify().ok
    with opened(tmp_path, share=0.0) as manager:
        assert Counter(each.agent for each in manager.decisions.selections())[agents[0]] == 2
        assert not manager.states.verify().problems


def test_the_background_thread_stores_it(tmp_path: Path) -> None:
    with opened(tmp_path, background=True, metrics={"interval": "1s"}) as manager:
        agent = fleet(manager, 1)[0]
        manager.select(agent)
        for _ in range(600):
            if list(manager.decisions.selections()):
                break
            time.sleep(0.05)
        assert [each.agent for each in manager.decisions.selections()] == [agent]


def test_what_can_not_be_stored_goes_on_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as manager:
        agents = fleet(manager, 3)
        for agent in agents:
            manager.select(agent)
        manager.report("json", agents[0], success=True)
        commit = manager._runtime.index.commit

        def refuse(*_: object, **__: object) -> int:
            raise StorageError("the disk is away")

        monkeypatch.setattr(manager._runtime.index, "commit", refuse)
        with pytest.raises(StorageError):
            manager.flush()
        assert manager._runtime.performance.pending == 0  # what was measured is stored all the same
        monkeypatch.setattr(manager._runtime.index, "commit", commit)
        manager.flush()
        assert [each.agent for each in manager.decisions.selections()] == list(agents)


def test_what_is_too_much_to_keep_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST", 20)
    with opened() as manager:
        agent = fleet(manager, 1)[0]
        for _ in range(50):
            manager.select(agent)
        manager.flush()
        manager.select(agent)
        manager.flush()
        found = [
            (len(change.value["chosen"]), change.value["dropped"])
            for entry in manager.decisions
            for change in entry.changes
            if change.kind == "selections"
        ]
        assert found == [(20, 30), (1, 0)]


def test_a_lost_index_comes_back_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as manager:
        agents = fleet(manager, 4)
        for agent in agents:
            manager.select(agent)
        manager.flush()
    for each in tmp_path.glob("index.db*"):
        each.unlink()
    from click.testing import CliRunner

    from xenolect.cli import main

    answer = CliRunner().invoke(main, ["reindex", "--storage", str(tmp_path), "--json"])
    assert answer.exit_code == 0, answer.output
    json.loads(answer.stdout)
    with opened(tmp_path, share=0.0) as manager:
        assert [each.agent for each in manager.decisions.selections()] == list(agents)


def test_settings_that_protect_nobody_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xenolect"):
        load(None, environ={}, access={"roles": {"a": "viewer"}})
        load(None, environ={}, limits={"per_key": 5})
        load(None, environ={})
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "[access] has no effect in this release: nobody is refused by it",
        "[limits] has no effect in this release: nobody is refused by it",
    ]


def test_agents_that_were_never_registered_are_named(tmp_path: Path) -> None:
    from xenolect import Agent

    with opened(tmp_path) as manager:
        manager.select(Agent("passing by", AgentContext()))
        manager.flush()
        assert [each.agent for each in manager.decisions.selections("passing by")] == ["passing by"]
        manager.select(Agent("half \ud800", AgentContext()), session="x" * 100_000)
        manager.flush()
        strange = list(manager.decisions.selections())[-1]
        assert (strange.agent, strange.session) == ("half \\ud800", "x" * 256)


def test_who_only_looks_leaves_no_trace(tmp_path: Path) -> None:
    with opened(tmp_path) as manager:
        agent = fleet(manager, 1)[0]
    with opened(tmp_path, process=False) as manager:
        before = manager.status()["revision"]
        manager.select(agent)
        manager.flush()
        assert manager.status()["revision"] == before
