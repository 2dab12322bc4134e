"""Metrics through the real SDK and the real Prometheus client, selections on spans, the dashboard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from xenolect_otel import READINGS, attributes_of, emit, instrument, on_span, read
from xenolect_otel.command import dashboard
from xenolect_otel.prometheus import XenolectCollector, name_of

from xenolect import AgentContext, EmergenceManager, StorageError
from xenolect.cli import main

AGENTS = [f"agent-of-somebody-{n}" for n in range(40)]


def fill(manager: EmergenceManager) -> None:
    """Two variants, a rollout, a rollback, traffic with failures, an open breaker, a state."""
    manager.agents.register_many([(name, AgentContext({})) for name in AGENTS])
    manager.variants.activate(manager.variants.propose("a", {"n": 1}, id="json", protocol="wire"))
    for name in ("zstd", "snappy"):
        manager.variants.propose(name, {"n": 2}, id=name, protocol="wire")
    manager.canaries.start("zstd", seed=1)
    manager.rollback("zstd", reason="ticket")
    manager.canaries.start("snappy", seed=1)
    for n in range(100):
        manager.report("json", AGENTS[n % 40], success=n % 10 != 0, latency_ms=20.0)
    manager.states.put("json", b"x" * 1000)
    manager.states.get("json")
    manager.breakers.force_open("json")
    manager.flush()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[EmergenceManager]:
    """A manager that has something to tell."""
    with EmergenceManager.open(tmp_path / "store", background=False) as made:
        fill(made)
        yield made


def exposed(manager: EmergenceManager) -> str:
    """What Prometheus would scrape."""
    registry = CollectorRegistry()
    registry.register(XenolectCollector(manager))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Value by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# -- OpenTelemetry ----------------------------------------------------------------------------------


def test_the_sdk_collects_what_the_manager_says(manager: EmergenceManager) -> None:
    """Counters and gauges with units and attributes; nothing after ``stop``."""
    reader = InMemoryMetricReader()
    running = instrument(manager, MeterProvider([reader]))
    found: dict[str, Any] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        found[metric.name] = metric
        assert metric.unit == READINGS[metric.name].unit
        assert metric.description == READINGS[metric.name].text
    operations = {
        point.attributes["xenolect.variant"]: point.value
        for point in found["xenolect.operations"].data.data_points
    }
    assert operations == {"json": 100}
    assert found["xenolect.operations"].data.is_monotonic
    (failures,) = found["xenolect.failures"].data.data_points
    assert (failures.value, failures.attributes["xenolect.protocol"]) == (10, "wire")
    quantiles = {
        point.attributes["xenolect.quantile"]: point.value
        for point in found["xenolect.latency"].data.data_points
    }
    assert quantiles["0.5"] == pytest.approx(0.020, rel=0.02)
    shares = found["xenolect.canary.share"].data.data_points
    assert [(p.attributes["xenolect.variant"], p.value) for p in shares] == [("snappy", 0.1)]
    running.stop()
    assert reader.get_metrics_data() is None


def test_an_index_that_fails_is_logged_and_nothing_else(
    manager: EmergenceManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK goes on; the next collection has everything again."""

    def fails() -> Any:
        raise StorageError("disk full")

    reader = InMemoryMetricReader()
    instrument(manager, MeterProvider([reader]))
    with monkeypatch.context() as patch:
        patch.setattr(manager, "status", fails)
        assert reader.get_metrics_data() is None
        assert "can not be observed: disk full" in caplog.text
        assert "xenolect_up 0.0" in exposed(manager)
    assert reader.get_metrics_data() is not None
    assert "xenolect_up 1.0" in exposed(manager)


def test_every_reading_is_defined(manager: EmergenceManager) -> None:
    """With the labels of its definition, and no label that could hold an agent."""
    found = read(manager)
    for each in found:
        assert tuple(each.labels) == READINGS[each.name].labels
    missing = set(READINGS) - {each.name for each in found} - {"xenolect.agents.ejected"}
    if sys.platform != "linux":
        missing -= {"xenolect.process.memory"}
    assert missing == set()
    assert not any("agent" in label for d in READINGS.values() for label in d.labels)


# -- selections -------------------------------------------------------------------------------------


def test_a_selection_is_an_evaluation_on_the_span(manager: EmergenceManager) -> None:
    """By the names of the semantic conventions; the agent only where it is asked for."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    chosen = manager.select(AGENTS[0], "wire")
    with provider.get_tracer("test").start_as_current_span("call"):
        on_span(chosen)
        on_span(chosen, context_id=True)
    (span,) = exporter.get_finished_spans()
    first, second = span.events
    assert first.name == second.name == "feature_flag.evaluation"
    assert dict(first.attributes or {}) == {
        "feature_flag.key": "wire",
        "feature_flag.result.variant": "json",
        "feature_flag.result.reason": attributes_of(chosen)["feature_flag.result.reason"],
        "feature_flag.provider.name": "xenolect",
    }
    assert (second.attributes or {})["feature_flag.context.id"] == AGENTS[0]
    on_span(chosen)  # outside of any span: nothing happens


def test_the_names_are_those_of_the_conventions() -> None:
    """As the package of the conventions spells them."""
    from opentelemetry.semconv._incubating.attributes import feature_flag_attributes as names

    known = {value for name, value in vars(names).items() if name.startswith("FEATURE_FLAG")}

    class Chosen:
        variant, protocol, reason, agent_id = "v", "p", "canary", "a"

    made = attributes_of(Chosen(), context_id=True)  # type: ignore[arg-type]
    assert set(made) <= known
    assert made["feature_flag.result.reason"] == names.FeatureFlagResultReasonValues.SPLIT.value


def test_a_selection_is_an_event_of_the_logs(manager: EmergenceManager) -> None:
    """With the event's name; a default that is no variant is told as it is."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    emit(manager.select(AGENTS[0], "wire"), provider)
    emit(manager.select(AGENTS[0], "nothing", default="plan b"), provider, context_id=True)
    first, second = (each.log_record for each in exporter.get_finished_logs())
    assert first.event_name == "feature_flag.evaluation"
    assert "feature_flag.context.id" not in (first.attributes or {})
    assert dict(second.attributes or {}) == {
        "feature_flag.key": "nothing",
        "feature_flag.result.variant": "default",  # no variant of ours
        "feature_flag.result.reason": "default",
        "feature_flag.provider.name": "xenolect",
        "feature_flag.context.id": AGENTS[0],
    }


# -- Prometheus -------------------------------------------------------------------------------------


def test_prometheus_scrapes_values_and_no_agent(manager: EmergenceManager) -> None:
    """Names with units and ``_total``; the id of an agent is nowhere in the text."""
    text = exposed(manager)
    found = samples(text)
    json_ = (("protocol", "wire"), ("variant", "json"))
    assert found["xenolect_operations_total", json_] == 100
    assert found["xenolect_failures_total", json_] == 10
    assert found["xenolect_success_ratio", json_] == pytest.approx(0.9)
    assert found["xenolect_deployments_total", (("outcome", "rolled_back"),)] == 1
    assert found["xenolect_breaker_open", json_] == 1
    assert found["xenolect_variants", (("status", "active"),)] == 1
    assert found["xenolect_agents", ()] == 40
    assert found["xenolect_disk_usage_bytes", (("part", "index"),)] > 0
    assert "agent-of-somebody" not in text


def test_counters_never_go_back(manager: EmergenceManager, tmp_path: Path) -> None:
    """After more traffic, roll-ups and a restart."""
    before = samples(exposed(manager))
    manager.report("json", AGENTS[0], success=True)
    manager.tick()
    manager.close()
    with EmergenceManager.open(tmp_path / "store", background=False) as again:
        after = samples(exposed(again))
    grown = [key for key in before if key[0].endswith("_total") and "process" not in key[0]]
    assert all(after[key] >= before[key] for key in grown)
    assert sum(after[key] - before[key] for key in grown) == 1


def test_every_query_of_the_dashboard_has_its_metric(manager: EmergenceManager) -> None:
    """And every label it groups or filters by."""
    board = json.loads(dashboard())
    families = {
        family.name: {label for sample in family.samples for label in sample.labels}
        for family in text_string_to_metric_families(exposed(manager))
    }
    labels = {name_of(name): set(each.labels) for name, each in READINGS.items()}
    labels["xenolect_up"] = set()
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries.append(board["templating"]["list"][1]["query"]["query"])
    assert len(queries) > 20
    for query in queries:
        names = re.findall(r"xenolect_\w+", query)
        assert names
        for name in names:
            family = name.removesuffix("_total")
            assert family in families, name
            assert name.endswith("_total") == (
                family in {name_of(n) for n, d in READINGS.items() if d.kind == "counter"}
            ), name
            for used in (
                *re.findall(r"by \((\w+)\)", query),
                *re.findall(rf"{name}{{(\w+)=", query),
            ):
                assert used in labels[family], (used, query)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# -- the command ------------------------------------------------------------------------------------


def test_the_command_prints_once(manager: EmergenceManager, tmp_path: Path) -> None:
    """What the store says, without counting as a process of it; and the dashboard."""
    place = str(tmp_path / "store")
    manager.flush()
    result = CliRunner().invoke(main, ["prometheus", "--once", "--storage", place])
    assert result.exit_code == 0, result.output
    found = samples(result.output)
    assert found["xenolect_operations_total", (("protocol", "wire"), ("variant", "json"))] == 100
    assert found["xenolect_processes", ()] == 1
    assert "agent-of-somebody" not in result.output
    shown = CliRunner().invoke(main, ["prometheus", "--dashboard"])
    assert json.loads(shown.output)["title"] == "xenolect"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A typing error makes no store, and wrong options say so."""
    nowhere = tmp_path / "none"
    result = CliRunner().invoke(main, ["prometheus", "--once", "--storage", str(nowhere)])
    assert result.exit_code == 1
    assert "there is no store" in result.output
    assert not nowhere.exists()
    result = CliRunner().invoke(main, ["prometheus", "--window", "soon"])
    assert result.exit_code == 2
    assert "is not a duration" in result.output


def test_it_serves_until_it_is_interrupted(manager: EmergenceManager, tmp_path: Path) -> None:
    """On a free port: each scrape sees what was stored since."""
    place = ["--storage", str(tmp_path / "store")]
    # Whoever starts the tests in the background of a shell has interrupts ignored, and so have children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "xenolect", "prometheus", "--port", "0", *place],
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        key = ("xenolect_operations_total", (("protocol", "wire"), ("variant", "json")))
        with urllib.request.urlopen(url, timeout=60) as answer:  # our own address
            assert samples(answer.read().decode())[key] == 100
        manager.report("json", AGENTS[0], success=True)
        manager.flush()
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert samples(answer.read().decode())[key] == 101
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def test_finding_the_command_loads_nothing() -> None:
    """The command line looks for commands at every start: no manager, no OpenTelemetry by then."""
    program = (
        "import sys, xenolect_otel.plugin as p; list(p.xenolect_commands())\n"
        "print(*{'xenolect.manager', 'opentelemetry', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
