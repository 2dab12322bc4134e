"""The manager in event loops: asyncio's and trio's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from xenolect import (
    AgentContext,
    AsyncEmergenceManager,
    ConflictError,
    NoCompatibleVariantError,
    PerformanceMetrics,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Every test runs on both."""
    return request.param


async def _opened(tmp_path: Path, **settings: Any) -> AsyncEmergenceManager:
    return await AsyncEmergenceManager.open(tmp_path / "store", **settings)


async def test_a_whole_life(tmp_path: Path) -> None:
    """Propose, register, select, call, store, roll back, and open again."""
    async with await _opened(tmp_path) as manager:
        base = await manager.variants.propose("plain", {"wire": "json"}, id="json")
        await manager.variants.activate(base)
        zstd = await manager.variants.propose(
            "zstd", {"wire": "zstd"}, id="zstd", requirements={"zstd": ">=1.5"}
        )
        await manager.variants.activate(zstd, force=True)
        await manager.agents.register("agent-7", AgentContext({"zstd": "1.5.6"}))
        async with manager.call("agent-7") as call:
            await anyio.lowlevel.checkpoint()
        await manager.report(call.variant, "agent-7", True, latency_ms=3.0).wait()
        await manager.record("json", PerformanceMetrics(1.0, count=10)).wait()
        assert (await manager.performance.history("json")).count >= 10
        assert (await manager.performance.rollups("json", "daily"))[-1].count >= 10
        ref = await manager.states.put("zstd", {"window": 1})
        assert ref.version == 1
        point = await manager.points.create("zstd")
        await manager.points.verify(point)
        await manager.states.put("zstd", b"x" * 3_000_000)
        async with await manager.states.open("zstd") as reader:
            await reader.seek(2_999_990)
            assert await reader.read() == b"x" * 10
        await manager.rollback("zstd", reason="ticket")
        assert manager.select("agent-7").variant.id == "json"
        with pytest.raises(NoCompatibleVariantError):
            manager.select("agent-7", protocol="other")
        await manager.set_mode("baseline")
        assert manager.mode == "baseline"
        assert (await manager.status())["mode"] == "baseline"
    async with await _opened(tmp_path) as manager:
        assert (await manager.variants.get("zstd")).status == "rolled_back"


async def test_a_rollout(tmp_path: Path) -> None:
    """Started and ended from a loop; routing is a plain call."""
    async with await _opened(tmp_path) as manager:
        await manager.variants.activate(await manager.variants.propose("a", {}, id="a"))
        new = await manager.variants.propose("b", {}, id="b")
        names = [f"agent-{number}" for number in range(50)]
        await manager.agents.register_many([(name, AgentContext({})) for name in names])
        await manager.canaries.start(new, seed=1)
        inside = [name for name in names if manager.canaries.routes("b", name)]
        assert inside
        chosen = manager.select(inside[0])
        assert chosen.variant.id == "b"
        status = await manager.canaries.abort("b")
        assert status.state == "aborted"


async def test_many_tasks_at_once(tmp_path: Path) -> None:
    """Forty tasks write one variant; each success is a version of its own, the rest conflicted."""
    async with await _opened(tmp_path) as manager:
        made = await manager.variants.propose("a", {}, id="a")
        won: list[int] = []

        async def update(number: int) -> None:
            current = await manager.variants.get("a")
            try:
                after = await manager.variants.update(current, description=f"by {number}")
            except ConflictError:
                return
            won.append(after.version)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(update, number)
        assert sorted(won) == list(range(made.version + 1, made.version + 1 + len(won)))
        assert won


async def test_a_cancelled_task_leaves_whole_states(tmp_path: Path) -> None:
    """A put that was begun is finished; the store is closed and opens again."""
    content = b"abc" * 2_000_000
    with anyio.CancelScope() as scope:
        async with await _opened(tmp_path) as manager:
            await manager.variants.propose("a", {}, id="a")
            async with anyio.create_task_group() as group:
                group.start_soon(manager.states.put, "a", content)
                await anyio.sleep(0.001)
                scope.cancel()
    assert scope.cancel_called
    async with await _opened(tmp_path) as manager:
        versions = await manager.states.versions("a")
        assert len(versions) <= 1
        if versions:
            assert await manager.states.get("a") == content


async def test_the_loop_goes_on_while_a_state_is_stored(tmp_path: Path) -> None:
    """Other tasks run during a put."""
    async with await _opened(tmp_path) as manager:
        await manager.variants.propose("a", {}, id="a")
        turns = 0
        done = anyio.Event()

        async def count() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await manager.states.put("a", b"xyz" * 5_000_000)
            done.set()
        assert turns > 10
