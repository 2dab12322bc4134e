"""The server's end: who calls, which variant they are answered in, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.routes.common import DefaultServerCallContextBuilder, ServerCallContextBuilder
from a2a.types.a2a_pb2 import AgentCard, AgentExtension
from a2a.utils.constants import VERSION_HEADER

from xenolect import (
    Agent,
    AgentContext,
    AgentNotFoundError,
    EmergenceManager,
    Selection,
    VariantNotFoundError,
    VariantStatus,
)
from xenolect_a2a.identity import EXTENSION, VARIANT

if TYPE_CHECKING:
    from a2a.server.events import EventQueue
    from starlette.requests import Request

__all__ = ["MeasuredExecutor", "VariantContextBuilder", "offering", "selection_of"]

_STATE = "xenolect.selection"


class VariantContextBuilder(ServerCallContextBuilder):
    """Chooses a variant for the caller of each request; ``selection_of(context)`` gives it.

    The caller is the authenticated user. Without one it is "anonymous" with what it requests: whoever
    may call may say so. A registered agent has its registered capabilities; any other the extensions
    it requests (``ext.URI``), its protocol version (``a2a``), and the variant it speaks (``variant``).
    """

    def __init__(
        self,
        manager: EmergenceManager,
        protocol: str = "default",
        builder: ServerCallContextBuilder | None = None,
    ) -> None:
        self._manager = manager
        self._protocol = protocol
        self._builder = builder or DefaultServerCallContextBuilder()

    def build(self, request: Request) -> ServerCallContext:
        """The context of a request, with the selection in its state."""
        context = self._builder.build(request)
        agent = self._caller(context, request)
        chosen = self._manager.select(agent, self._protocol, default=None)
        if chosen.reason != "default":
            context.state[_STATE] = chosen
        return context

    def _caller(self, context: ServerCallContext, request: Request) -> Agent | str:
        user = context.user
        name = user.user_name if user.is_authenticated and user.user_name else "anonymous"
        try:
            self._manager.agents.get(name)
            return name
        except AgentNotFoundError:
            pass
        said: dict[str, Any] = {f"ext.{uri}": True for uri in context.requested_extensions}
        version = request.headers.get(VERSION_HEADER)
        if version:
            said["a2a"] = version
        if VARIANT in request.headers:
            said["variant"] = request.headers[VARIANT]
        return Agent(name, AgentContext(said))


def selection_of(context: RequestContext | ServerCallContext | None) -> Selection | None:
    """What was chosen for the caller of a request; None where nothing fits."""
    inner = context.call_context if isinstance(context, RequestContext) else context
    found = None if inner is None else inner.state.get(_STATE)
    return found if isinstance(found, Selection) else None


class MeasuredExecutor(AgentExecutor):
    """An executor around another one: each execution is reported, an exception as a failure."""

    def __init__(self, inner: AgentExecutor, manager: EmergenceManager) -> None:
        self._inner = inner
        self._manager = manager

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Execute, and report how long it took and how it ended; a cancellation says nothing."""
        began = time.perf_counter()
        try:
            await self._inner.execute(context, event_queue)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._report(context, began, success=False)
            raise
        self._report(context, began, success=True)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """As the executor within."""
        await self._inner.cancel(context, event_queue)

    def _report(self, context: RequestContext, began: float, *, success: bool) -> None:
        chosen = selection_of(context)
        if chosen is None:
            return
        latency = (time.perf_counter() - began) * 1000.0
        try:
            self._manager.report(
                chosen, chosen.agent_id, success, latency, session=context.context_id
            )
        except VariantNotFoundError:
            pass  # archived while it was executed


def offering(
    manager: EmergenceManager, protocol: str = "default"
) -> Callable[[AgentCard], Awaitable[AgentCard]]:
    """A ``card_modifier`` that says on the agent's card which variants it speaks."""

    async def modify(card: AgentCard) -> AgentCard:
        told = AgentCard()
        told.CopyFrom(card)
        variants = [
            variant
            for variant in manager.variants.list(protocol=protocol)
            if variant.status in (VariantStatus.ACTIVE, VariantStatus.CANARY)
        ]
        extension = AgentExtension(uri=EXTENSION, description="protocol variants of xenolect")
        extension.params.update(
            {
                "protocol": protocol,
                "variants": {
                    variant.id: {"requirements": dict(variant.requirements)} for variant in variants
                },
            }
        )
        kept = [each for each in told.capabilities.extensions if each.uri != EXTENSION]
        del told.capabilities.extensions[:]
        told.capabilities.extensions.extend([*kept, extension])
        return told

    return modify
