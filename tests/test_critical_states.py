"""Damage and forbidden content of states, as critical failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.fleets import canary, fleet, json_and_zstd, status

from xenolect import (
    CorruptError,
    EmergenceManager,
    InvalidError,
    VariantStatus,
)
from xenolect.errors import InvalidVariantError

Opened = Callable[..., EmergenceManager]


def damage(manager: EmergenceManager, variant: str) -> None:
    """Change a bit in the newest chunk of the variant's state."""
    chunks = manager._runtime.chunks
    _, content = manager.states._versions.located(variant, None)
    key = f"variants/{variant}/state/{content.table[0].object}"
    data = bytearray(chunks.get(key))
    data[-1] ^= 1
    chunks.put(key, bytes(data), if_absent=False)


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
