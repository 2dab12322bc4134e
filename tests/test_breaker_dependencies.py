"""The index and the chunk store behind breakers of their own, where a network is between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import pytest

from xenolect import (
    AgentContext,
    EmergenceManager,
    NotFoundError,
    UnavailableError,
    hookimpl,
    offer,
)
from xenolect._dependencies import across_a_network
from xenolect.facts import Window
from xenolect.hookspecs import Offer
from xenolect.model import BreakerState as B
from xenolect.testing import Clock
from xenolect_backends.memory import MemoryChunks, MemoryIndex


class Away:
    """A service across a network that may be away; ``asked`` counts what reached it."""

    def __init__(self, inner: Any, switch: Switch) -> None:
        self._inner = inner
        self._switch = switch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        def call(*args: Any, **given: Any) -> Any:
            self._switch.asked += 1
            if self._switch.away and name != "close":
                raise UnavailableError("no answer within 5 s")
            result = found(*args, **given)
            if self._switch.pages is not None and isinstance(result, Iterator):
                return self._switch.torn(result)
            return result

        return call


@attrs.frozen
class Place:
    """Where the service is."""

    url: str = ""


@attrs.define
class Switch:
    """Offers both services; ``away`` is whether they are."""

    away: bool = False
    asked: int = 0
    pages: int | None = None

    def torn(self, found: Iterator[Any]) -> Iterator[Any]:
        """The first ``pages`` of an answer, and then none."""
        yield from itertools.islice(found, self.pages)
        raise UnavailableError("no answer within 5 s")

    @hookimpl
    def xenolect_index_storage(self) -> Iterable[Offer[Any]]:
        """A database."""

        def index(options: Place) -> Any:
            return Away(MemoryIndex(), self)

        yield offer("away", index)

    @hookimpl
    def xenolect_chunk_storage(self) -> Iterable[Offer[Any]]:
        """An object store."""

        def chunks(options: Place) -> Any:
            return Away(MemoryChunks(), self)

        yield offer("away", chunks)


def remote(opened: Callable[..., EmergenceManager], *parts: str) -> tuple[EmergenceManager, Switch]:
    """A manager whose parts of these names are across a network."""
    switch = Switch()
    given = {part: {"use": "away", "url": "service://host/x"} for part in parts}
    return opened(plugins=[switch], **given), switch


@pytest.mark.parametrize(
    ("options", "far"),
    [
        ({"url": "s3://bucket/x"}, True),
        ({"url": "postgresql://host/db", "pool": 3}, True),
        ({"url": "file:///var/x"}, False),
        ({"url": "memory://x"}, False),
        ({"path": "variants/index.db"}, False),
        ({}, False),
    ],
)
def test_only_what_is_across_a_network_has_a_breaker(options: Any, far: bool) -> None:
    """A URL of another machine; files and memory answer or fail at once."""
    assert across_a_network(options) == far


def test_local_parts_have_none(manager: EmergenceManager) -> None:
    """The embedded default is not guarded at all."""
    assert manager.status()["dependencies"] == {}
    assert isinstance(manager._runtime.index, MemoryIndex)


def test_a_chunk_store_that_is_away_is_left_alone_and_found_again(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Five failures open it; then nothing reaches it until the wait is over; probes close it."""
    manager, switch = remote(opened, "chunks")
    chunks = manager._runtime.chunks
    chunks.put("a", b"x")
    with pytest.raises(NotFoundError):
        chunks.get("b")
    switch.away = True
    for _ in range(5):
        with pytest.raises(UnavailableError, match="no answer"):
            chunks.get("a")
    reached = switch.asked

    with pytest.raises(UnavailableError, match="the chunk store is open; try again in .* s") as e:
        chunks.get("a")

    assert 30.0 <= (e.value.retry_after or 0.0) <= 36.0
    assert e.value.retryable
    assert switch.asked == reached
    assert manager.status()["dependencies"] == {"dependency:chunks": "open"}
    switch.away = False
    clock.advance(40.0)
    assert chunks.get("a") == b"x"
    with pytest.raises(NotFoundError):  # an answer as good as any
        chunks.get("b")
    assert chunks.get("a") == b"x"
    assert manager.breakers.status("dependency:chunks").state == B.CLOSED


def test_once_latched_it_is_probed_every_half_hour_or_when_the_operator_says_so(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Three failed rounds latch it; no variant is asked to go back for that."""
    manager, switch = remote(opened, "chunks")
    manager.variants.activate(manager.variants.propose("x", {}, id="x"))
    chunks, name = manager._runtime.chunks, "dependency:chunks"
    switch.away = True
    for wait in (0.0, 40.0, 80.0, 160.0):
        clock.advance(wait)
        for _ in range(5):
            with pytest.raises(UnavailableError):
                chunks.get("a")
    assert manager.breakers.status(name).state == B.LATCHED
    reached = switch.asked
    for _ in range(4):
        clock.advance(1801.0)
        for _ in range(20):
            with pytest.raises(UnavailableError):
                chunks.get("a")
    assert switch.asked == reached + 4
    assert manager.variants.get("x").status == "active"

    switch.away = False
    manager.breakers.reset(name)
    for _ in range(3):
        assert list(chunks.list("")) is not None
    assert manager.breakers.status(name).state == B.CLOSED


def test_while_the_index_is_away_it_is_asked_rarely_and_nothing_measured_is_lost(
    opened: Callable[..., EmergenceManager], clock: Clock
) -> None:
    """Selecting and reporting go on; what waits is stored when it is back, also by closing."""
    manager, switch = remote(opened, "index")
    manager.variants.activate(manager.variants.propose("x", {}, id="x"))
    manager.agents.register("a", AgentContext())
    switch.away = True
    for _ in range(40):
        clock.advance(0.5)
        try:
            manager.report(manager.select("a"), "a", success=True)
        except UnavailableError:
            pass
    before = switch.asked
    for _ in range(40):
        assert manager.select("a").variant.id == "x"
        with pytest.raises(UnavailableError):
            manager.variants.propose("y", {}, id="y")
    assert switch.asked - before <= 3
    assert manager.breakers.status("dependency:index").state == B.OPEN
    switch.away = False

    manager.close()

    inner = manager._runtime.index.inner._inner._inner  # type: ignore[attr-defined]
    assert sum(w.count for w in inner._held.windows.values() if w.variant_id == "x") == 40


@pytest.mark.parametrize("part", ["chunks", "index"])
def test_what_is_read_later_counts_when_it_is_read(
    opened: Callable[..., EmergenceManager], part: str
) -> None:
    """A listing and a variant's windows ask their service page by page: failures there open the breaker,
    on the first page or a later one, and asking for them without reading tells nothing."""
    manager, switch = remote(opened, part)
    guarded: Any = getattr(manager._runtime, part)
    name = f"dependency:{part}"
    if part == "chunks":
        guarded.put("a", b"x")
    else:
        guarded.append_windows([Window("x", 0.5, 1.0, 1, 0)])

    def found() -> Any:
        return guarded.list("") if part == "chunks" else guarded.windows("x", 0.0, 1.0)

    for pages in (0, 1):  # a page that came is a success: half of the calls fail then
        switch.pages, calls = pages, 0
        while manager.breakers.status(name).state == B.CLOSED:
            calls += 1
            found()
            reading = found()
            assert len(list(itertools.islice(reading, pages))) == pages
            with pytest.raises(UnavailableError, match="no answer"):
                next(reading)
        assert calls == 5 if pages == 0 else 5 < calls <= 20
        with pytest.raises(UnavailableError, match="is open"):
            found()
        switch.pages = None
        manager.breakers.reset(name)
        for _ in range(3):  # probes
            assert found() is not None
            assert len(list(found())) >= 1
        assert manager.breakers.status(name).state == B.CLOSED
