"""Well-kept packages beside ours, where they are installed, each doing what it can of the same work.

None of them does all of it: each row says what the peer does, and what it does not. Peers keep what they
can from one call to the next (flags loaded, children of metrics looked up), as their documentation advises.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xenolect._bench.rows import Row, cpu

__all__ = ["absent", "crowd", "guard", "learn", "record", "select"]

PACKAGES = {
    "growthbook": "growthbook",
    "openfeature": "openfeature-sdk",
    "mabwiser": "mabwiser",
    "prometheus_client": "prometheus_client",
    "pybreaker": "pybreaker",
}
PROGRAMS = {"borg": "pip install borgbackup", "restic": "https://restic.net"}
MOST = 100  # flags, and arms: systems that look at each take milliseconds for more
CONTEXT = {"id": "agent-0", "platform": "linux", "zstd": 2}


def absent() -> list[str]:
    """What is not installed here, with how to get it."""
    missing = [
        f"{package} (pip install {package})"
        for name, package in PACKAGES.items()
        if importlib.util.find_spec(name) is None
    ]
    return missing + [f"{n} ({how})" for n, how in PROGRAMS.items() if shutil.which(n) is None]


def _found(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def select(ours: float, count: int) -> Iterator[Row]:
    """Choosing among so many variants."""
    if count > MOST:
        return
    names = [f"v{i}" for i in range(count)]
    growthbook, openfeature = _found("growthbook"), _found("openfeature")
    mab = _found("mabwiser.mab") if _found("mabwiser") else None
    if growthbook is not None:
        is_on = _growthbook(growthbook, names)
        what = "growthbook: 1 flag by a condition and a hashed half; ranks and measures nothing"
        yield Row("  beside growthbook, 1 flag", ours, cpu(lambda: is_on("v7"), 300), what)
        what = f"growthbook: all {count} flags, as one must to choose; ranks and measures nothing"
        everything = cpu(lambda: [is_on(name) for name in names], max(5, 300 // count))
        yield Row(f"  beside growthbook, {count} flags", ours, everything, what)
    if openfeature is not None:
        asked = _openfeature(names)
        what = "openfeature-sdk: 1 flag in memory, the rule in Python; ranks and measures nothing"
        yield Row("  beside openfeature-sdk, 1 flag", ours, cpu(asked, 300), what)
    if mab is not None:
        bandit = _bandit(mab, names)
        what = "mabwiser UCB1: the best arm by its bound; no requirements, rollouts, breakers"
        yield Row(f"  beside mabwiser, {count} arms", ours, cpu(bandit.predict, 300), what)


def learn(ours: float, count: int) -> Iterator[Row]:
    """One more measurement, and choosing again."""
    mab = _found("mabwiser.mab") if _found("mabwiser") and count <= MOST else None
    if mab is None:
        return
    bandit = _bandit(mab, [f"v{i}" for i in range(count)])

    def both() -> None:
        bandit.partial_fit(["v7"], [1])
        bandit.predict()

    what = "mabwiser UCB1: partial_fit and predict; no latencies, no weight of age, nothing stored"
    yield Row("  record and select beside mabwiser", ours, cpu(both, 30), what)


def _growthbook(growthbook: Any, names: Sequence[str]) -> Callable[[str], bool]:
    rule = {
        "condition": {"platform": {"$in": ["linux", "macos"]}, "zstd": {"$gte": 1}},
        "force": True,
        "coverage": 0.5,
        "hashAttribute": "id",
    }
    features = {name: {"defaultValue": False, "rules": [rule]} for name in names}
    made: Callable[[str], bool] = growthbook.GrowthBook(attributes=CONTEXT, features=features).is_on
    return made


def _openfeature(names: Sequence[str]) -> Callable[[], object]:
    from hashlib import blake2b

    api = importlib.import_module("openfeature.api")
    memory = importlib.import_module("openfeature.provider.in_memory_provider")
    details = importlib.import_module("openfeature.flag_evaluation").FlagResolutionDetails
    context = importlib.import_module("openfeature.evaluation_context").EvaluationContext

    def rule(flag: Any, asked: Any) -> Any:
        has = asked.attributes
        half = blake2b(asked.targeting_key.encode(), digest_size=1).digest()[0] < 128
        on = has["platform"] in ("linux", "macos") and has["zstd"] >= 1 and half
        return details(value=flag.variants["on" if on else "off"])

    flags = {
        name: memory.InMemoryFlag("off", {"on": True, "off": False}, context_evaluator=rule)
        for name in names
    }
    api.set_provider(memory.InMemoryProvider(flags), "xenolect bench")
    client, agent = api.get_client("xenolect bench"), context("agent-0", CONTEXT)
    return lambda: client.get_boolean_value("v7", False, agent)


def _bandit(mab: Any, names: Sequence[str]) -> Any:
    bandit = mab.MAB(list(names), mab.LearningPolicy.UCB1(alpha=1.0))
    bandit.fit([*names, *names], [i % 2 for i in range(2 * len(names))])
    return bandit


def record(ours: float) -> Iterator[Row]:
    """One measurement in memory."""
    prometheus = _found("prometheus_client")
    if prometheus is None:
        return
    registry = prometheus.CollectorRegistry()
    calls = prometheus.Counter("calls", "Calls.", ["variant"], registry=registry).labels("v1")
    latency = prometheus.Histogram("latency", "Latency.", ["variant"], registry=registry)
    observe = latency.labels("v1").observe

    def both() -> None:
        calls.inc()
        observe(12.5)

    what = "prometheus_client: a counter and 15 fixed buckets; no windows, agents, breaker or score"
    yield Row("  beside prometheus_client", ours, cpu(both, 2_000), what)


def guard(ours: float, call: Callable[[], None], mode: str) -> Iterator[Row]:
    """A guarded call that goes well."""
    pybreaker = _found("pybreaker")
    if pybreaker is None or mode != "consecutive failures":
        return
    breaker = pybreaker.CircuitBreaker(fail_max=5)
    what = "pybreaker: consecutive failures, its lock held during the call; no probes by permit"
    yield Row("  beside pybreaker", ours, cpu(lambda: breaker.call(call), 5_000), what)


def crowd(
    ours: float, call: Callable[[], object], crowds: Callable[..., list[float]]
) -> Iterator[Row]:
    """Slow calls of several threads through one breaker."""
    pybreaker = _found("pybreaker")
    if pybreaker is None:
        return
    breaker = pybreaker.CircuitBreaker(fail_max=5)
    (took,) = crowds(lambda: breaker.call(call))
    yield Row("  beside pybreaker", ours, took, "pybreaker: one call at a time")
