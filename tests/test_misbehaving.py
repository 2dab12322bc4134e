"""Plugins that misbehave in use: what is done about it, and the whole message about it.

What is left out at open, missing names, names offered twice and wrong options are in test_registry.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import (
    BreakerOpenError,
    CorruptError,
    EmergenceManager,
    NoCompatibleVariantError,
    PluginError,
    StorageError,
    Verdict,
    hookimpl,
    offer,
)
from xenolect.judges import Evidence
from xenolect.testing import Clock
from xenolect_backends.memory import MemoryChunks, MemoryIndex

Opened = Callable[..., EmergenceManager]


def offering(hook: str, make: Callable[..., Any], name: str = "bad") -> SimpleNamespace:
    """A plugin in process with one offer."""

    def implementation() -> Iterator[Any]:
        yield offer(name, make)

    return SimpleNamespace(hook=hookimpl(implementation, specname=hook))


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What was logged at a level, without the events of the bundled observer."""
    return [
        each.getMessage()
        for each in caplog.records
        if each.levelno == level and not hasattr(each, "xenolect_event")
    ]


# -- scorers and rules ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda n: [1.5] * n, "ValueError: 2 answers for 2 candidates, all must be in [0, 1]"),
        (
            lambda n: [float("nan")] * n,
            "ValueError: 2 answers for 2 candidates, all must be in [0, 1]",
        ),
        (lambda n: [0.5], "ValueError: 1 answers for 2 candidates, all must be in [0, 1]"),
    ],
    ids=["raises", "above one", "no number", "too few"],
)
def test_a_scorer_loses_its_column(
    answer: Callable[[int], Any],
    words: str,
    opened: Opened,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Selection answers with the other weights and says so; one WARNING, however often it is asked."""

    class Scorer:
        def score(self, candidates: Any, agent: Any) -> Any:
            return answer(len(candidates))

    manager = opened(
        plugins=[offering("xenolect_scoring", Scorer)], scoring={"bad": 0.5, "performance": 0.5}
    )
    fleet(manager, 2)
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)

    for agent in ("agent-0", "agent-1") * 5:
        selection = manager.select(agent)
        manager.report(selection, agent, success=True)

    assert (selection.reason, set(selection.parts)) == ("degraded", {"performance"})
    assert messages(caplog, logging.WARNING) == [
        f"scorer 'bad' is left out, its weight goes to the others: {words}"
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: {}["region"], "KeyError: 'region'"),
        (lambda: 7, "TypeError: it answered 7, neither words nor None"),
    ],
    ids=["raises", "no words"],
)
def test_a_rule_excludes_with_the_reason(
    answer: Callable[[], Any], words: str, opened: Opened
) -> None:
    """The variant is refused, and everybody who asks hears why."""

    class Rule:
        def refuses(self, variant: Any, context: Any) -> Any:
            return answer() if variant.id == "json" else None

    manager = opened(
        plugins=[offering("xenolect_compatibility", Rule)], compatibility={"rules": ["bad"]}
    )
    fleet(manager, 1)
    _, zstd = json_and_zstd(manager)

    assert manager.explain("agent-0")[0].reason == f"rule 'bad' failed: {words}"
    with pytest.raises(NoCompatibleVariantError) as refused:
        manager.select("agent-0")
    assert refused.value.excluded == {"json": f"rule 'bad' failed: {words}"}
    manager.variants.activate(zstd, force=True)
    assert manager.select("agent-0").variant.id == "zstd"


# -- safeguards -----------------------------------------------------------------------------------


@attrs.frozen
class Stumbling:
    """A breaker whose every step raises."""

    def start(self) -> Any:
        """A state like any other."""
        return SimpleNamespace(state="closed", generation=0, attempts=0, until=None)

    def step(self, state: Any, event: Any, now: float, draw: float) -> Any:
        """Never an answer."""
        raise ZeroDivisionError("division by zero")

    def dump(self, state: Any) -> Any:
        """Nothing of it."""
        return {}

    def load(self, data: Any) -> Any:
        """The only one there is."""
        return self.start()


def test_a_breaker_that_raises_refuses(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody passes; the outcome is recorded all the same; one ERROR, however often it is asked."""
    manager = opened(plugins=[offering("xenolect_safeguards", Stumbling)], breaker={"use": "bad"})
    fleet(manager, 1)
    json_and_zstd(manager)

    for _ in range(3):
        manager.report("json", "agent-0", success=False)
        with pytest.raises(BreakerOpenError) as refused:
            manager.breakers.acquire("json")

    assert refused.value.retry_after == 1.0
    assert manager.performance.history("json").failures == 3
    assert messages(caplog, logging.ERROR) == [
        "safeguard 'bad' of SimpleNamespace (in process) raised ZeroDivisionError: division by "
        "zero; its state is kept, and whoever asks is refused"
    ]


def test_a_breaker_that_can_not_begin_is_named(opened: Opened) -> None:
    """When the manager is opened, before anybody is served with it."""

    class Stillborn(Stumbling):
        def start(self) -> Any:
            raise ZeroDivisionError("division by zero")

    plugins = [offering("xenolect_safeguards", Stillborn)]
    with pytest.raises(PluginError) as refused:
        opened(plugins=plugins, breaker={"use": "bad"})

    assert str(refused.value) == (
        "breaker: safeguard 'bad' of SimpleNamespace (in process) can not be made: "
        "ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: None, "TypeError: update answered NoneType, not (verdict, evidence)"),
        (
            lambda: (Verdict.PROMOTE, Evidence(noninferiority=float("inf"))),
            "ValueError: its evidence is not finite: 1.0, inf",
        ),
    ],
    ids=["raises", "no answer", "not finite"],
)
def test_a_judge_holds(answer: Callable[[], Any], words: str, opened: Opened, clock: Clock) -> None:
    """The rollout stays where it is, with the reason; never a promotion."""

    class Judge:
        def start(self, baseline: Any, config: Any) -> Any:
            return {}

        def update(self, state: Any, records: Any) -> Any:
            return answer()

        def dump(self, state: Any) -> bytes:
            return b"{}"

        def load(self, data: bytes) -> Any:
            return {}

    manager = opened(plugins=[offering("xenolect_judges", Judge)], canary={"judge": "bad"})
    names = fleet(manager, 40)
    json_and_zstd(manager)
    manager.canaries.start("zstd")

    for _ in range(3):
        for name in names:
            manager.report(manager.select(name), name, success=True)
        clock.advance(300)
        manager.tick()

    status = manager.canaries.status("zstd")
    assert (status.state, status.verdict, status.level) == ("hold", "hold", 0)
    assert status.reason == f"the judge failed: {words}"


# -- observers ------------------------------------------------------------------------------------


def test_an_observer_stops_no_rollback(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """Logged, and nothing else: the variant is taken back."""

    @hookimpl
    def xenolect_observe(event: Any) -> None:
        raise ValueError("deaf")

    manager = opened(plugins=[SimpleNamespace(xenolect_observe=xenolect_observe)])
    _, zstd = json_and_zstd(manager)
    manager.variants.activate(zstd, force=True)
    manager.rollback("zstd", reason="ticket 1182")
    manager.flush()

    assert manager.variants.get("zstd").status == "rolled_back"
    assert [each for each in messages(caplog, logging.WARNING) if "observer" in each] == [
        "observer SimpleNamespace (in process) raised at variant.proposed: ValueError: deaf"
    ]


# -- stores and ciphers ---------------------------------------------------------------------------


class Chunks(MemoryChunks):
    """A store whose driver's exceptions come through."""

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        raise RuntimeError("socket closed")

    def get(self, key: str) -> bytes:
        if "/state/" in key:
            raise RuntimeError("socket closed")
        return super().get(key)


class Index(MemoryIndex):
    """An index whose driver's exceptions come through, once it is broken."""

    broken = False

    def commit(self, *args: Any, **given: Any) -> int:
        if self.broken:
            raise RuntimeError("connection lost")
        return super().commit(*args, **given)


class Cipher:
    """A cipher that seals, and then knows no better than to raise anything."""

    id = "bad"

    def seal(self, plain: Any, bound: bytes) -> bytes:
        """With eight bytes in front."""
        return b"sealed: " + bytes(plain)

    def open(self, sealed: Any, bound: bytes) -> bytes:
        """Never."""
        raise RuntimeError("no such algorithm")


def test_a_chunk_store_that_raises_anything(opened: Opened) -> None:
    """StorageError with the plugin's name; the cause is chained."""
    manager = opened(plugins=[offering("xenolect_chunk_storage", Chunks)], chunks="bad")
    json_and_zstd(manager)
    manager.states.put("json", {"a": 1})

    with pytest.raises(StorageError) as failed:
        manager.states.get("json")

    assert str(failed.value) == (
        "chunk storage 'bad' of SimpleNamespace (in process) raised RuntimeError: socket closed; "
        "a plugin should raise an error of xenolect.errors"
    )
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_an_index_that_raises_anything(opened: Opened) -> None:
    """StorageError, and nothing of what was asked for came true."""
    index = Index()
    manager = opened(plugins=[offering("xenolect_index_storage", lambda: index)], index="bad")
    json_and_zstd(manager)
    index.broken = True

    with pytest.raises(StorageError) as failed:
        manager.variants.propose("third", {}, id="third")
    index.broken = False

    assert str(failed.value) == (
        "index storage 'bad' of SimpleNamespace (in process) raised RuntimeError: connection lost; "
        "a plugin should raise an error of xenolect.errors"
    )
    assert [each.id for each in manager.variants.list()] == ["json", "zstd"]


def test_a_cipher_that_raises_anything(opened: Opened) -> None:
    """StorageError: that it is broken proves no damage, so nothing is rolled back for it."""
    manager = opened(plugins=[offering("xenolect_encryption", Cipher)], cipher="bad")
    json_and_zstd(manager)
    manager.states.put("json", b"state")
    manager.states.clear_cache()

    with pytest.raises(StorageError) as failed:
        manager.states.get("json")

    assert not isinstance(failed.value, CorruptError)
    assert str(failed.value) == (
        "cipher 'bad' of SimpleNamespace (in process) raised RuntimeError: no such algorithm; "
        "a plugin should raise an error of xenolect.errors"
    )


def test_errors_of_ours_are_left_as_they_are(opened: Opened) -> None:
    """A store that keeps its promise is not spoken for; nor is what it hands out piece by piece."""

    class Lost(MemoryChunks):
        def list(self, prefix: str) -> Iterator[str]:
            yield "variants/a"
            raise OSError("gone") if prefix else CorruptError("as it said itself")

    from xenolect._foreign import answered_for

    store = answered_for("chunks", Lost(), "chunk storage 'lost' of a test")
    with pytest.raises(CorruptError, match="^as it said itself$"):
        list(store.list(""))
    with pytest.raises(StorageError) as failed:
        list(store.list("variants/"))
    assert str(failed.value) == (
        "chunk storage 'lost' of a test raised OSError: gone; a plugin should raise an error of "
        "xenolect.errors"
    )


# -- unwanted -------------------------------------------------------------------------------------


def test_what_is_blocked_is_listed_and_not_used(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``[plugins] blocked``, from the environment as well; asking for it says so."""
    monkeypatch.setenv("XENOLECT__PLUGINS__BLOCKED", '["simplenamespace"]')
    with pytest.raises(PluginError) as refused:
        opened(plugins=[offering("xenolect_chunk_storage", MemoryChunks)], chunks="bad")

    assert str(refused.value).startswith(
        "chunks: no plugin offers chunk storage 'bad'. Installed: fsspec, memory, obstore"
    )
    assert "SimpleNamespace (in process): named in plugins.blocked" in str(refused.value)
