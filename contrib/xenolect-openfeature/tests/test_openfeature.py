"""The provider through the real SDK: flags, targeting, errors, tracking and events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.track import TrackingEventDetails
from xenolect_openfeature import XenolectProvider

from xenolect import AgentContext, EmergenceManager

ZSTD = EvaluationContext("agent-7", {"zstd": "1.5.6"})
PLAIN = EvaluationContext("agent-8", {})


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[EmergenceManager]:
    """A protocol "wire" with a baseline for all and a better variant for those who know zstd."""
    with EmergenceManager.open(tmp_path / "store", background=False) as made:
        json = made.variants.propose("plain", {"encoding": "json"}, id="json", protocol="wire")
        made.variants.activate(json)
        changes = {"encoding": "zstd", "level": 3, "ratio": 0.5, "on": True, "deep": {"a": [1]}}
        zstd = made.variants.propose(
            "zstd", changes, id="zstd", protocol="wire", requirements={"zstd": ">=1.5"}
        )
        made.variants.activate(zstd, force=True)
        for _ in range(30):
            made.report("zstd", "agent-1", success=True, latency_ms=1.0)
            made.report("json", "agent-1", success=True, latency_ms=90.0)
        yield made


@pytest.fixture
def client(manager: EmergenceManager) -> Iterator[OpenFeatureClient]:
    """A client of the SDK whose provider is ours."""
    api.set_provider_and_wait(XenolectProvider(manager, stale_check=0.02))
    yield api.get_client()
    api.shutdown()
    api.clear_providers()


def test_flags_are_variants(client: OpenFeatureClient) -> None:
    """Every type of value, from the changes of the variant that this agent speaks."""
    assert client.get_string_value("wire", "none", ZSTD) == "zstd"
    assert client.get_string_value("wire", "none", PLAIN) == "json"
    assert client.get_string_value("wire:encoding", "none", ZSTD) == "zstd"
    assert client.get_integer_value("wire:level", 0, ZSTD) == 3
    assert client.get_float_value("wire:ratio", 0.0, ZSTD) == 0.5
    assert client.get_boolean_value("wire:on", False, ZSTD) is True
    assert client.get_object_value("wire", {}, PLAIN) == {"encoding": "json"}
    assert list(client.get_object_value("wire:deep", {}, ZSTD)["a"]) == [1]


def test_details_say_why(client: OpenFeatureClient) -> None:
    """Variant, reason, and what xenolect called it."""
    details = client.get_string_details("wire", "none", ZSTD)
    assert (details.variant, details.reason) == ("zstd", Reason.TARGETING_MATCH)
    assert details.flag_metadata["canary"] is False
    assert details.flag_metadata["version"] == 2
    assert 0.0 < details.flag_metadata["score"] <= 1.0


def test_a_registered_agent_is_known_by_its_key(
    client: OpenFeatureClient, manager: EmergenceManager
) -> None:
    """Its registered capabilities count, not what the caller says of it."""
    manager.agents.register("agent-9", AgentContext({"zstd": "1.5.0"}))
    assert client.get_string_value("wire", "none", EvaluationContext("agent-9")) == "zstd"


def test_a_canary_is_a_split(client: OpenFeatureClient, manager: EmergenceManager) -> None:
    """Units in the share get the new variant; both arms are told apart from mere targeting."""
    new = manager.variants.propose("new", {"encoding": "br"}, id="br", protocol="wire")
    for number in range(40):
        manager.agents.register(f"a{number}", AgentContext({}))
    manager.canaries.start(new, initial_fraction=0.5, seed=1)
    found = [client.get_string_details("wire", "", EvaluationContext(f"a{n}")) for n in range(40)]
    assert {d.variant for d in found} == {"json", "br"}
    assert {d.reason for d in found} == {Reason.SPLIT}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda c: c.get_string_details("wire", "d", EvaluationContext()), "TARGETING_KEY_MISSING"),
        (lambda c: c.get_string_details("nothing", "d", ZSTD), "FLAG_NOT_FOUND"),
        (lambda c: c.get_string_details("wire:none.such", "d", ZSTD), "FLAG_NOT_FOUND"),
        (lambda c: c.get_string_details("wire:level", "d", ZSTD), "TYPE_MISMATCH"),
        (lambda c: c.get_integer_details("wire:on", 4, ZSTD), "TYPE_MISMATCH"),
        (lambda c: c.get_integer_details("wire", 4, ZSTD), "TYPE_MISMATCH"),
        (lambda c: c.get_string_details("\x00", "d", ZSTD), "FLAG_NOT_FOUND"),
    ],
)
def test_an_evaluation_never_raises(
    client: OpenFeatureClient, ask: Callable[[OpenFeatureClient], Any], code: str
) -> None:
    """The default, and why."""
    details = ask(client)
    assert details.value in ("d", 4)
    assert details.reason == Reason.ERROR
    assert details.error_code == ErrorCode[code]
    assert details.error_message


def test_an_attribute_that_can_not_be_read_is_no_capability(client: OpenFeatureClient) -> None:
    """Such an agent gets what needs nothing."""
    odd = EvaluationContext("agent-9", {"zstd": object()})
    assert client.get_string_value("wire", "none", odd) == "json"


def test_a_closed_manager_gives_defaults(
    client: OpenFeatureClient, manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails inside."""
    monkeypatch.setattr(manager, "select", lambda *_: 1 / 0)
    details = client.get_string_details("wire", "d", ZSTD)
    assert (details.value, details.error_code) == ("d", ErrorCode.GENERAL)
    assert "ZeroDivisionError" in details.error_message


def test_tracking_reports(client: OpenFeatureClient, manager: EmergenceManager) -> None:
    """Value is the latency; success and variant are attributes; nothing raises."""
    before = manager.performance.history("zstd").count
    client.track("wire", ZSTD, TrackingEventDetails(12.5))
    client.track("wire", ZSTD, TrackingEventDetails(12.5, {"success": False}))
    client.track("wire", ZSTD, TrackingEventDetails(9.0, {"variant": "json", "bytes": 40}))
    client.track("wire", EvaluationContext())
    client.track("nothing", ZSTD)
    client.track("wire", ZSTD, TrackingEventDetails(-1.0))
    history = manager.performance.history("zstd")
    assert (history.count - before, history.failures) == (2, 1)
    assert manager.performance.history("json").custom == {"bytes": 40.0}


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_changes_and_staleness_are_events(
    client: OpenFeatureClient, manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback names the flag; silence of the feed is said, and its end."""
    heard: list[tuple[str, EventDetails]] = []
    lock = threading.Lock()

    def hear(kind: ProviderEvent) -> Callable[[EventDetails], None]:
        def handler(details: EventDetails) -> None:
            with lock:
                heard.append((kind.value, details))

        return handler

    for kind in ProviderEvent:
        client.add_handler(kind, hear(kind))
    heard.clear()
    manager.rollback("zstd", reason="ticket")
    manager.tick()
    _until(lambda: any(k == "PROVIDER_CONFIGURATION_CHANGED" for k, _ in heard))
    (changed,) = [d for _, d in heard if d.message == "variant.rolled_back"]
    assert changed.flags_changed == ["wire"]
    assert client.get_string_value("wire", "none", ZSTD) == "json"

    status = dict(manager.status())
    monkeypatch.setattr(manager, "status", lambda: {**status, "stale": True})
    _until(lambda: any(k == "PROVIDER_STALE" for k, _ in heard))
    assert client.get_string_details("wire", "", PLAIN).reason == Reason.STALE
    monkeypatch.undo()
    _until(lambda: heard[-1][0] == "PROVIDER_READY")
