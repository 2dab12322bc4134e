"""``AsyncEmergenceManager``: the manager in an event loop, asyncio's or trio's.

What may touch storage is awaited and runs on a thread; what reads memory only is called plainly, since
a thread would cost a hundred times the call. A call that was begun is finished when its task is
cancelled: a commit is never left half way, and the cancellation arrives after it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from xenolect._agents import Agents
from xenolect._call import Call, Receipt
from xenolect._guarded_states import GuardedStates
from xenolect._performance import Performance
from xenolect._points import Points
from xenolect._rollouts import Canaries
from xenolect._variants import Variants
from xenolect.errors import ConfigError
from xenolect.manager import EmergenceManager
from xenolect.model import (
    Agent,
    CanaryStatus,
    Explanation,
    Mode,
    PerformanceMetrics,
    ProtocolVariant,
    Selection,
)

if TYPE_CHECKING:
    import anyio

    from xenolect._breakers import Breakers
    from xenolect.config import Config
    from xenolect.decisions import Decisions
    from xenolect.events import Event

__all__ = ["AsyncEmergenceManager", "AsyncReceipt"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


async def _on_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        from anyio import to_thread
    except ImportError as error:
        raise ConfigError(
            "AsyncEmergenceManager needs anyio: pip install 'xenolect[async]'"
        ) from error
    return await to_thread.run_sync(functools.partial(call, *args, **kwargs))


class _Room(Generic[T]):
    """A part of the manager whose calls are awaited."""

    def __init__(self, inner: T) -> None:
        self._inner = inner


def _awaited(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[_Room[T], P], Awaitable[R]]:
    @functools.wraps(method)
    async def call(self: _Room[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await _on_thread(method, self._inner, *args, **kwargs)

    return call


class AsyncReceipt:
    """What ``report`` returns. The report already acted in memory; ``wait`` makes it durable."""

    __slots__ = ("_receipt",)

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt

    async def wait(self) -> None:
        """Return when the report, and a rollback it caused, are committed."""
        await _on_thread(self._receipt.wait)


class AsyncVariants(_Room[Variants]):
    """``manager.variants``, awaited."""

    get = _awaited(Variants.get)
    list = _awaited(Variants.list)
    baseline = _awaited(Variants.baseline)
    propose = _awaited(Variants.propose)
    start_testing = _awaited(Variants.start_testing)
    activate = _awaited(Variants.activate)
    deprecate = _awaited(Variants.deprecate)
    archive = _awaited(Variants.archive)
    export = _awaited(Variants.export)
    import_ = _awaited(Variants.import_)

    async def update(
        self,
        variant: Any,
        *,
        expected_version: int | None = None,
        force: bool = False,
        **content: Any,
    ) -> ProtocolVariant:
        """Change description, changes, requirements or metadata, by compare-and-swap."""
        return await _on_thread(
            self._inner.update, variant, expected_version=expected_version, force=force, **content
        )


class AsyncAgents(_Room[Agents]):
    """``manager.agents``, awaited."""

    get = _awaited(Agents.get)
    list = _awaited(Agents.list)
    register = _awaited(Agents.register)
    register_many = _awaited(Agents.register_many)
    update = _awaited(Agents.update)
    remove = _awaited(Agents.remove)


class AsyncStates(_Room[GuardedStates]):
    """``manager.states``, awaited. ``put_async`` is not here: ``put`` holds up nothing but its task."""

    put = _awaited(GuardedStates.put)
    get = _awaited(GuardedStates.get)
    read_into = _awaited(GuardedStates.read_into)
    patch = _awaited(GuardedStates.patch)
    versions = _awaited(GuardedStates.versions)
    verify = _awaited(GuardedStates.verify)
    repair = _awaited(GuardedStates.repair)
    gc = _awaited(GuardedStates.gc)

    async def open(self, variant: Any, version: int | None = None) -> anyio.AsyncFile[bytes]:
        """A seekable reader whose ``read``, ``seek`` and ``aclose`` are awaited."""
        import anyio

        reader = await _on_thread(self._inner.open, variant, version)
        return anyio.wrap_file(reader)


class AsyncPoints(_Room[Points]):
    """``manager.points``, awaited."""

    create = _awaited(Points.create)
    list = _awaited(Points.list)
    verify = _awaited(Points.verify)
    restore = _awaited(Points.restore)
    leave_safe_mode = _awaited(Points.leave_safe_mode)


class AsyncCanaries(_Room[Canaries]):
    """``manager.canaries``, awaited; ``routes`` is a pure function and is not."""

    status = _awaited(Canaries.status)
    pause = _awaited(Canaries.pause)
    resume = _awaited(Canaries.resume)
    promote = _awaited(Canaries.promote)
    abort = _awaited(Canaries.abort)

    async def start(self, variant: Any, **options: Any) -> CanaryStatus:
        """Let a variant reach a few units first; options as of ``Canaries.start``."""
        return await _on_thread(self._inner.start, variant, **options)

    def routes(self, variant: Any, agent_id: str, session: str | None = None) -> bool:
        """Is this unit in the canary's share now?"""
        return self._inner.routes(variant, agent_id, session)


class AsyncPerformance(_Room[Performance]):
    """``manager.performance``, awaited."""

    history = _awaited(Performance.history)
    rollups = _awaited(Performance.rollups)


class AsyncEmergenceManager:
    """The manager for event loops: ``async with await AsyncEmergenceManager.open("variants/") as m``.

    Plain: ``select``, ``recommend``, ``explain``, ``negotiate``, ``call``, ``record``, ``report``, ``on``
    and ``breakers``. Awaited: everything else. ``inner`` is the manager itself.
    """

    def __init__(self, inner: EmergenceManager) -> None:
        self.inner = inner
        self.variants = AsyncVariants(inner.variants)
        self.agents = AsyncAgents(inner.agents)
        self.states = AsyncStates(inner.states)
        self.points = AsyncPoints(inner.points)
        self.canaries = AsyncCanaries(inner.canaries)
        self.performance = AsyncPerformance(inner.performance)

    @classmethod
    async def open(
        cls, storage: str | os.PathLike[str] | Config | None = None, **settings: Any
    ) -> Self:
        """As ``EmergenceManager.open``, on a thread."""
        return cls(await _on_thread(EmergenceManager.open, storage, **settings))

    async def close(self) -> None:
        """Store what waits, let go of files and threads. Twice is fine."""
        await _on_thread(self.inner.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import anyio

        with anyio.CancelScope(shield=True):  # a cancelled task still closes its store
            await self.close()

    # -- memory only ----------------------------------------------------------------------------------

    def select(
        self,
        agent: Agent | str,
        protocol: str = "default",
        session: str | None = None,
        **default: Any,
    ) -> Selection:
        """The variant this agent speaks now; ``default=`` as in ``EmergenceManager.select``."""
        return self.inner.select(agent, protocol, session, **default)

    def recommend(
        self, agent: Agent | str, limit: int = 5, protocol: str = "default"
    ) -> list[Selection]:
        """The best eligible variants, best first."""
        return self.inner.recommend(agent, limit, protocol)

    def explain(self, agent: Agent | str, protocol: str | None = None) -> list[Explanation]:
        """Every variant with its verdict in words, its parts and its score."""
        return self.inner.explain(agent, protocol)

    def negotiate(self, agents: Iterable[Agent | str], protocol: str = "default") -> Selection:
        """One active variant that all of these agents can speak."""
        return self.inner.negotiate(agents, protocol)

    def call(
        self, agent: Agent | str, protocol: str = "default", session: str | None = None
    ) -> Call:
        """``async with manager.call("agent-7") as call: ...``."""
        return self.inner.call(agent, protocol, session)

    def record(
        self,
        variant: Any,
        metrics: PerformanceMetrics,
        agent_id: str | None = None,
        session: str | None = None,
    ) -> AsyncReceipt:
        """Record a measurement, in memory at once; ``await`` the receipt's ``wait()`` for the disk."""
        return AsyncReceipt(self.inner.record(variant, metrics, agent_id, session=session))

    def report(
        self, variant: Any, agent_id: str | Agent, success: bool, **more: Any
    ) -> AsyncReceipt:
        """Report one operation of one agent; more as in ``EmergenceManager.report``."""
        return AsyncReceipt(self.inner.report(variant, agent_id, success, **more))

    def on(self, callback: Callable[[Event], Any]) -> Callable[[], None]:
        """Hear every event, on a thread of the manager's; the returned function ends it."""
        return self.inner.on(callback)

    @property
    def breakers(self) -> Breakers:
        """The circuit breakers: their closed path is memory only."""
        return self.inner.breakers

    @property
    def mode(self) -> Mode:
        """normal, observe or baseline; ``set_mode`` changes it."""
        return self.inner.mode

    # -- awaited --------------------------------------------------------------------------------------

    async def set_mode(self, mode: Mode | str) -> None:
        """Switch the mode, for every process."""

        def switch() -> None:
            self.inner.mode = mode

        await _on_thread(switch)

    async def record_many(self, records: Iterable[Any]) -> AsyncReceipt:
        """Record many measurements; all are checked first."""
        return AsyncReceipt(await _on_thread(self.inner.record_many, records))

    async def rollback(self, variant: Any, reason: str = "operator") -> ProtocolVariant:
        """Take a variant back to its last proven point, in one commit."""
        return await _on_thread(self.inner.rollback, variant, reason)

    async def tick(self, now: float | None = None) -> None:
        """What the background thread does about once a second."""
        await _on_thread(self.inner.tick, now)

    async def flush(self) -> None:
        """Return when every measurement is stored and every rollback asked for is committed."""
        await _on_thread(self.inner.flush)

    async def status(self) -> dict[str, Any]:
        """Counts, parts in use, rollouts, shut breakers, safe modes: plain JSON."""
        return await _on_thread(self.inner.status)

    @property
    def decisions(self) -> Decisions:
        """The log of decisions; reading it touches storage, so call it on a thread."""
        return self.inner.decisions
