"""The vendored data is what the notice says."""

from __future__ import annotations

from collections import Counter

from jsonschema.validators import validator_for
from xenolect_mcp import data
from xenolect_mcp.demo import server, traffic


def test_the_data_is_complete() -> None:
    """800 sessions, 4,625 calls of 81 tools in 8 suites, 128 declarations, 42 clients."""
    calls = [call for session in data.sessions() for call in session.calls]
    assert len(data.sessions()) == 800
    assert len(calls) == 4625
    assert len({call.name for call in calls}) == 81
    assert len({call.suite for call in calls}) == 8
    assert len(data.tools()) == 128
    assert {call.name for call in calls} <= set(data.tools())
    versions = Counter(client["protocolVersion"] for client in data.clients().values())
    assert versions == {"2025-06-18": 38, "2025-03-26": 4}


def test_what_the_declared_schemas_reject_is_known() -> None:
    """171 recorded results violate their tool's own outputSchema, in three suites; five are clean."""
    checks = {
        name: validator_for(tool["outputSchema"])(tool["outputSchema"])
        for name, tool in data.tools().items()
    }
    rejected: Counter[str] = Counter()
    for session in data.sessions():
        for call in session.calls:
            if not checks[call.name].is_valid(server.answer(call).structured_content):
                rejected[call.suite] += 1
    assert rejected == {"MessageAPI": 112, "TradingBot": 43, "MathAPI": 16}


def test_dictionaries_are_trained_on_other_tasks_than_are_dealt() -> None:
    """Up to 600 dealt sessions share no benchmark task with those kept for training."""
    kept = {traffic.task(session) for session in traffic.training()}
    dealt = {traffic.task(session) for _, session in traffic.deal(600, traffic.fleet(), 7)}
    assert len(traffic.training()) == 200
    assert not kept & dealt


def test_dealing_is_a_function_of_the_seed() -> None:
    """The same seed deals the same; another one does not; 800 is every session once."""
    members = traffic.fleet()
    first = [(m.name, s.id) for m, s in traffic.deal(300, members, 1)]
    assert first == [(m.name, s.id) for m, s in traffic.deal(300, members, 1)]
    assert first != [(m.name, s.id) for m, s in traffic.deal(300, members, 2)]
    assert len({s.id for _, s in traffic.deal(800, members, 1)}) == 800
