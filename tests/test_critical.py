"""Critical failures: what takes a variant back at once, and what one liar can not do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    Agent,
    AgentContext,
    CorruptError,
    EmergenceManager,
    InvalidError,
    InvalidMetricsError,
    PerformanceMetrics,
    VariantStatus,
)
from xenolect.errors import InvalidVariantError
from xenolect.testing import Clock, Heard

Opened = Callable[..., EmergenceManager]
SHARED = {"use": "memory", "name": "critical"}
LIMITS: dict[str, Any] = {
    "custom": {
        "tokens": {"direction": "lower", "limit": 1000},
        "quality": {"direction": "higher", "bounds": [0, 1], "limit": 0.2},
        "resource_usage": {"direction": "lower", "limit": 0.9},
    }
}


def canary(manager: EmergenceManager, **zstd: Any) -> tuple[list[str], list[str]]:
    """A rollout of ``zstd``; the agents it is served, and the others."""
    names = fleet(manager)
    _, variant = json_and_zstd(manager, **zstd)
    manager.canaries.start(variant, seed=1, initial_fraction=0.2)
    inside = [n for n in names if manager.canaries.routes("zstd", n)]
    return inside, [n for n in names if n not in inside]


def status(manager: EmergenceManager, variant: str = "zstd") -> str:
    """The variant's status."""
    return str(manager.variants.get(variant).status)


def crash(manager: EmergenceManager, agent: Any, variant: str = "zstd", **more: Any) -> None:
    """An agent says that the variant crashed while it was loaded."""
    manager.report(variant, agent, success=False, critical="crash_on_load", **more)


def damage(manager: EmergenceManager, variant: str) -> None:
    """Change a bit in the newest chunk of the variant's state."""
    chunks = manager._runtime.chunks
    _, content = manager.states._versions.located(variant, None)
    key = f"variants/{variant}/state/{content.table[0].object}"
    data = bytearray(chunks.get(key))
    data[-1] ^= 1
    chunks.put(key, bytes(data), if_absent=False)


# -- what agents say ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["crash_on_load", "schema_violation", "corrupt_state"])
def test_the_second_agent_takes_the_variant_back(manager: EmergenceManager, kind: str) -> None:
    """One agent is not believed, two are; ten more change nothing; rule and names are kept."""
    heard = Heard()
    manager.on(heard)
    inside, _ = canary(manager)

    manager.report("zstd", inside[0], success=False, critical=kind)
    after_one = status(manager)
    for name in inside[1:12]:
        manager.report("zstd", name, success=False, critical=kind)

    assert after_one == "canary"
    assert status(manager) == "rolled_back"
    assert sum(e.kind == "variant.rolled_back" for e in heard.events) == 1
    assert sum(e.kind == "variant.critical" for e in heard.events) == 1
    document = manager._runtime.value("rollout", "zstd")
    assert document["critical"] == {"rule": kind, "agents": inside[:2]}
    assert document["reason"].startswith(f"critical: {kind}")
    assert manager.variants.quarantine("zstd") is not None


def test_one_lying_agent_can_not_roll_back_the_fleet(manager: EmergenceManager) -> None:
    """Neither by repeating itself, nor under names nobody registered, nor with the help of an agent
    that is not served the variant."""
    inside, outside = canary(manager)
    liar = inside[0]

    for _ in range(4):
        for who in (liar, Agent(f"{liar}-again", AgentContext()), outside[0]):
            crash(manager, who)
            for name in inside[1:4]:  # what works for the others keeps the breaker closed
                manager.report("zstd", name, success=True)

    assert status(manager) == "canary"
    assert manager.canaries.status("zstd").state == "ramping"
    assert {manager.select(n).variant.id for n in inside} == {"zstd"}


def test_a_stranger_is_warned_of_once(
    manager: EmergenceManager, caplog: pytest.LogCaptureFixture
) -> None:
    """What an unregistered agent says is a failure like any other, and the log says so once."""
    canary(manager)
    with caplog.at_level(logging.WARNING, "xenolect.safeguards"):
        for _ in range(3):
            crash(manager, Agent("stranger", AgentContext()))

    assert ["not registered" in r.getMessage() for r in caplog.records] == [True]
    assert manager.performance.history("zstd").failures == 3


def test_an_active_variant_is_taken_back_too(manager: EmergenceManager) -> None:
    """Promoted long ago: two agents are enough, and the baseline serves."""
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)

    crash(manager, names[0])
    crash(manager, names[1])

    assert status(manager) == "rolled_back"
    assert {manager.select(n).variant.id for n in names} == {"json"}


def test_the_baseline_stays(manager: EmergenceManager, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can take its place: the log says so, once, and it is served."""
    names = fleet(manager)
    json_and_zstd(manager)

    with caplog.at_level(logging.ERROR, "xenolect.safeguards"):
        for name in names[:5]:
            crash(manager, name, "json")

    assert status(manager, "json") == "active"
    assert manager.select(names[0]).variant.id == "json"
    assert ["fails critically" in r.getMessage() for r in caplog.records] == [True]


def test_two_agents_must_speak_of_the_same_thing(manager: EmergenceManager, clock: Clock) -> None:
    """Of one version of the variant, of one kind of failure, within a day."""
    inside, _ = canary(manager)

    crash(manager, inside[0])
    manager.report("zstd", inside[1], success=False, critical="schema_violation")
    of_two_kinds = status(manager)
    manager.variants.update(manager.variants.get("zstd"), changes={"wire": "zstd", "level": 2})
    inside = [n for n in inside if manager.canaries.routes("zstd", n)]
    crash(manager, inside[2])
    of_two_versions = status(manager)
    clock.advance(86_401)
    crash(manager, inside[3])
    of_two_days = status(manager)
    crash(manager, inside[4])

    assert (of_two_kinds, of_two_versions, of_two_days) == ("canary", "canary", "canary")
    assert status(manager) == "rolled_back"


def test_what_can_not_be_critical_is_refused(manager: EmergenceManager) -> None:
    """An unknown kind and a success are the caller's mistakes; nothing is recorded."""
    inside, _ = canary(manager)

    with pytest.raises(InvalidError, match="critical must be one of crash_on_load"):
        manager.report("zstd", inside[0], success=False, critical="explosion")
    with pytest.raises(InvalidMetricsError, match="succeeded"):
        manager.report("zstd", inside[0], success=True, critical="crash_on_load")

    assert manager.performance.history("zstd").count == 0


def test_sessions_are_routed_but_agents_are_witnesses(manager: EmergenceManager) -> None:
    """With unit="session" two conversations of one agent are one witness."""
    names = fleet(manager, 3)
    json_and_zstd(manager)
    manager.canaries.start("zstd", unit="session", initial_fraction=0.5, seed=1)
    sessions = [
        s for s in (f"s{i}" for i in range(40)) if manager.canaries.routes("zstd", names[0], s)
    ]

    crash(manager, names[0], session=sessions[0])
    crash(manager, names[0], session=sessions[1])
    crash(manager, names[1])  # of no session that is known to be served the canary
    one_agent = status(manager)
    crash(manager, names[1], session=sessions[2])

    assert one_agent == "canary"
    assert status(manager) == "rolled_back"


# -- several processes, restarts, modes --------------------------------------------------------------


def test_each_of_two_processes_has_one_witness(opened: Opened) -> None:
    """What one process was told, the other one knows: the second witness is enough in either."""
    first = opened(index=SHARED | {"name": "two"}, chunks=SHARED | {"name": "two"})
    second = opened(index=SHARED | {"name": "two"}, chunks=SHARED | {"name": "two"})
    inside, _ = canary(first)
    second.tick()

    crash(first, inside[0])
    first.flush()
    alone = status(first)
    second.tick()
    crash(second, inside[1])

    assert alone == "canary"
    assert status(second) == "rolled_back"
    first.tick()
    assert status(first) == "rolled_back"
    assert {first.select(n).variant.id for n in inside} == {"json"}


def test_witnesses_told_at_once_are_added_up_later(opened: Opened) -> None:
    """Two processes that did not hear of each other yet: the journal brings the two together."""
    shared = SHARED | {"name": "at once"}
    first, second = opened(index=shared, chunks=shared), opened(index=shared, chunks=shared)
    inside, _ = canary(first)
    second.tick()
    held: list[Any] = []
    later, first._runtime.later = (
        first._runtime.later,
        held.append,
    )  # the first one's writer is slow
    crash(first, inside[0])
    first._runtime.later = later
    crash(second, inside[1])
    before = status(second)

    for job in held:
        job()
    first.tick()
    second.tick()

    assert before == "canary"
    assert status(first) == status(second) == "rolled_back"


def test_a_restart_forgets_no_witness(tmp_path: Path, opened: Opened) -> None:
    """One witness before, one after the process was started again."""
    manager = opened(tmp_path)
    inside, _ = canary(manager)
    crash(manager, inside[0])
    manager.close()

    manager = opened(tmp_path)
    crash(manager, inside[0])
    the_same = status(manager)
    crash(manager, inside[1])

    assert the_same == "canary"
    assert status(manager) == "rolled_back"


def test_a_process_that_died_in_between_is_finished_by_the_next(
    tmp_path: Path, opened: Opened
) -> None:
    """Both witnesses are stored, the rollback is not: who opens the store next commits it."""
    manager = opened(tmp_path)
    inside, _ = canary(manager)
    manager._critical._points.roll_back = lambda *_, **__: None  # type: ignore[method-assign]
    crash(manager, inside[0])
    crash(manager, inside[1])
    assert status(manager) == "canary"
    manager._runtime.index.close()  # no goodbye
    manager._runtime.closed = True

    again = opened(tmp_path)
    again.tick()

    assert status(again) == "rolled_back"


def test_observe_only_says_so(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """In mode observe a critical failure is an event and a line in the log, and changes nothing."""
    manager = opened()
    inside, _ = canary(manager)
    heard = Heard()
    manager.on(heard)
    manager.mode = "observe"

    with caplog.at_level(logging.ERROR, "xenolect.safeguards"):
        for name in inside[:4]:
            crash(manager, name)
    observed = status(manager)
    manager.mode = "normal"
    crash(manager, inside[4])

    assert observed == "canary"
    assert len([r for r in caplog.records if "the mode is observe" in r.getMessage()]) == 1
    assert [e.detail["observed"] for e in heard.events if e.kind == "variant.critical"] == [
        True,
        False,
    ]
    assert status(manager) == "rolled_back"


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beyond", "within"),
    [
        ({"custom": {"tokens": 1001.0}}, {"custom": {"tokens": 1000.0}}),
        ({"custom": {"quality": 0.19}}, {"custom": {"quality": 0.2}}),
        ({"resource_usage": 0.91}, {"resource_usage": 0.9}),
    ],
)
def test_a_limit_is_a_limit(opened: Opened, beyond: Any, within: Any) -> None:
    """A value at the limit is fine. One beyond it, measured by the host, takes the variant back."""
    manager = opened(metrics=LIMITS)
    inside, _ = canary(manager)

    manager.record("zstd", PerformanceMetrics(1.0, **within))
    before = status(manager)
    manager.record("zstd", PerformanceMetrics(1.0, **beyond))

    assert before == "canary"
    assert status(manager) == "rolled_back"
    rule = manager._runtime.value("rollout", "zstd")["critical"]["rule"]
    assert rule == f"limit.{next(iter(beyond.get('custom', {'resource_usage': 0})))}"
    assert {manager.select(n).variant.id for n in inside} == {"json"}


def test_an_agent_that_measures_needs_a_second_one(opened: Opened) -> None:
    """A value beyond a limit under an agent's name is its word only; the second agent's proves it."""
    manager = opened(metrics=LIMITS)
    inside, _ = canary(manager)

    for _ in range(5):
        manager.report("zstd", inside[0], success=True, custom={"tokens": 5000.0})
    one = status(manager)
    manager.report("zstd", inside[1], success=True, custom={"tokens": 5000.0})

    assert one == "canary"
    assert status(manager) == "rolled_back"


def test_what_came_late_is_history_only(opened: Opened, clock: Clock) -> None:
    """A value measured an hour ago says nothing of the variant as it is now."""
    manager = opened(metrics=LIMITS)
    canary(manager)
    then = datetime.fromtimestamp(clock() - 3600, UTC)

    manager.record("zstd", PerformanceMetrics(1.0, custom={"tokens": 5e6}, timestamp=then))

    assert status(manager) == "canary"


# -- damage ---------------------------------------------------------------------------------------


def read_get(manager: EmergenceManager, variant: str) -> None:
    """Read it whole."""
    manager.states.get(variant)


def read_open(manager: EmergenceManager, variant: str) -> None:
    """Read it through a reader that is open already."""
    with manager.states.open(variant) as reader:
        reader.read()


def read_into(manager: EmergenceManager, variant: str) -> None:
    """Read it into a buffer."""
    manager.states.read_into(variant, bytearray(1000))


def verify_point(manager: EmergenceManager, variant: str) -> None:
    """Ask whether its point is intact."""
    manager.points.verify(manager.points.create(variant))


READS = [read_get, read_open, read_into, verify_point]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("cipher", ["none", "aes-gcm"])
def test_damage_found_by_reading_takes_the_variant_back(
    opened: Opened, read: Callable[..., None], cipher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of a served variant that is not what was written, or can not be decrypted: the older,
    intact one is back, and the reader has the error."""
    monkeypatch.setenv("TEST_KEY", "17" * 32)
    keys = {} if cipher == "none" else {"keys": {"env": "TEST_KEY"}}
    manager = opened(cipher={"use": cipher, **keys}, state={"cache_size": 0})
    names = fleet(manager)
    _, zstd = json_and_zstd(manager)
    manager.states.put(zstd, {"window": 1})
    manager.variants.activate(zstd, force=True)
    manager.points.create(zstd)
    manager.states.put(zstd, {"window": 2})
    damage(manager, "zstd")

    with pytest.raises(CorruptError):
        read(manager, "zstd")
    manager.flush()

    assert status(manager) == "rolled_back"
    assert manager.states.get("zstd") == {"window": 1}
    assert {manager.select(n).variant.id for n in names} == {"json"}
    assert manager._runtime.value("quarantine", "zstd")["evidence"]["rule"] == "corrupt_state"


def test_damage_of_an_older_version_is_nobodys_fault(opened: Opened) -> None:
    """What is served is whole: an old version that can not be read is an error of that read only."""
    manager = opened(state={"cache_size": 0})
    inside, _ = canary(manager)
    manager.states.put("zstd", {"window": 1})
    damage(manager, "zstd")
    manager.states.put("zstd", {"window": 2})

    with pytest.raises(CorruptError):
        manager.states.get("zstd", version=1)

    assert status(manager) == "canary"
    assert manager.select(inside[0]).variant.id == "zstd"


def test_a_damaged_baseline_is_restored_in_place(opened: Opened) -> None:
    """It stays active, with the state of its newest intact point; its own damaged one is passed over."""
    manager = opened(state={"cache_size": 0})
    names = fleet(manager)
    json_and_zstd(manager)
    manager.states.put("json", {"window": 1})
    manager.points.create("json", pinned=True)
    manager.states.put("json", {"window": 2})
    manager.points.create("json", pinned=True)
    damage(manager, "json")

    with pytest.raises(CorruptError):
        manager.states.get("json")

    assert status(manager, "json") == "active"
    assert manager.states.get("json") == {"window": 1}
    assert manager.select(names[0]).variant.id == "json"
    assert manager.status()["safe_mode"] == []


# -- schemas --------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"window": {"type": "integer", "minimum": 1}},
    "required": ["window"],
    "additionalProperties": False,
}


def test_a_state_that_breaks_its_schema_takes_the_variant_back(manager: EmergenceManager) -> None:
    """What a served variant wrote and its own schema forbids is not stored; the rollout ends."""
    inside, _ = canary(manager, metadata={"state_schema": SCHEMA})
    manager.states.put("zstd", {"window": 8})

    with pytest.raises(InvalidError, match=r"\$\.window: 0 is less than the minimum of 1"):
        manager.states.put("zstd", {"window": 0})

    assert status(manager) == "rolled_back"
    assert "window" in manager._runtime.value("rollout", "zstd")["critical"]["found"]
    assert {manager.select(n).variant.id for n in inside} == {"json"}


@pytest.mark.parametrize("state", [b"bytes", {"window": 1.5}, [1], None, {"window": 1, "x": 1}])
def test_a_state_must_be_what_the_schema_says(manager: EmergenceManager, state: Any) -> None:
    """Before anybody is served it is only refused; nothing is stored."""
    _, zstd = json_and_zstd(manager, metadata={"state_schema": SCHEMA})

    with pytest.raises(InvalidError, match="breaks its state_schema"):
        manager.states.put(zstd, state)

    assert manager.states.versions(zstd) == []
    assert status(manager) == "proposed"
    assert manager.states.put(zstd, {"window": 2}).version == 1


def test_what_is_no_json_is_the_callers_mistake(manager: EmergenceManager) -> None:
    """NaN and odd keys are refused as ever, and blame nobody."""
    canary(manager, metadata={"state_schema": True})

    with pytest.raises(InvalidError, match="JSON"):
        manager.states.put("zstd", {1: 2})

    assert status(manager) == "canary"


def test_changes_follow_their_schema(manager: EmergenceManager) -> None:
    """At ``propose`` and at each ``update``, of the changes or of the schema."""
    schema = {"properties": {"level": {"enum": [1, 3, 9]}}}
    variant = manager.variants.propose("x", {"level": 3}, metadata={"changes_schema": schema})

    with pytest.raises(InvalidVariantError, match=r"changes_schema: \$\.level: 4 is not one of"):
        manager.variants.update(variant, changes={"level": 4})
    with pytest.raises(InvalidVariantError, match="changes break"):
        manager.variants.update(variant, metadata={"changes_schema": {"maxProperties": 0}})
    with pytest.raises(InvalidVariantError, match="changes break"):
        manager.variants.propose("y", {"level": 2}, metadata={"changes_schema": schema})

    assert manager.variants.update(variant, changes={"level": 9}).changes["level"] == 9


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "no such type"}, r"metadata\.state_schema is no JSON Schema: \$\.type"),
        (["a list"], "an object or a boolean, got FrozenList|got list"),
        ({"$ref": "https://example.org/schema.json"}, "checking fetches nothing"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "checking fetches nothing"),
        ({"$id": "https://a.example/", "$ref": "other.json"}, "checking fetches nothing"),
    ],
)
def test_what_is_no_schema_is_refused(manager: EmergenceManager, schema: Any, words: str) -> None:
    """With the place of the mistake; a schema that points elsewhere is never followed."""
    with pytest.raises(InvalidVariantError, match=words):
        manager.variants.propose("x", {}, metadata={"state_schema": schema})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/$defs/none"}, "refers to '/.defs/none', which is not in it"),
        ({"$ref": "#"}, "refers to itself without end"),
    ],
)
def test_a_schema_that_can_not_be_applied_blames_nobody(
    manager: EmergenceManager, schema: Any, words: str
) -> None:
    """It is an error of the one who wrote it, not of the variant's output."""
    canary(manager, metadata={"state_schema": schema})

    with pytest.raises(InvalidError, match=words):
        manager.states.put("zstd", {"window": 1})

    assert status(manager) == VariantStatus.CANARY
