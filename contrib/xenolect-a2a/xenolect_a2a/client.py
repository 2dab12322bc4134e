"""The client's end: choose a variant for each call, apply it, and count what came of it.

The SDK does not tell interceptors of a call that failed in the transport, so outcomes are counted by a
transport of our own around the SDK's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import attrs
from a2a.client.client import Client, ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.client.interceptors import AfterArgs, BeforeArgs, ClientCallInterceptor
from a2a.client.service_parameters import ServiceParametersFactory, with_a2a_extensions
from a2a.client.transports.base import ClientTransport
from a2a.types.a2a_pb2 import AgentCard, SendMessageRequest, TaskState
from a2a.utils.errors import (
    InvalidParamsError,
    InvalidRequestError,
    TaskNotCancelableError,
    TaskNotFoundError,
)

from xenolect import EmergenceManager, Selection, VariantNotFoundError
from xenolect_a2a.identity import EXTENSION, VARIANT, agent_of

__all__ = ["MeasuredTransport", "VariantClientFactory", "VariantInterceptor"]

_STATE = "xenolect.selection"
_CALLERS_FAULT = (
    InvalidParamsError,
    InvalidRequestError,
    TaskNotCancelableError,
    TaskNotFoundError,
    asyncio.CancelledError,
)  # says nothing about the variant
_NO_GOOD = (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_REJECTED)

T = TypeVar("T")


class VariantInterceptor(ClientCallInterceptor):
    """Chooses a variant of ``protocol`` for each call and applies its ``changes``:

    ``{"extensions": [uri, ...], "headers": {name: text}, "metadata": {key: JSON}}``, each optional. What
    else is in there is for the program: ``selection_in(context)`` gives the selection. The conversation
    is the message's context id, so a variant that is rolled out by session stays for a conversation.
    """

    def __init__(self, manager: EmergenceManager, protocol: str = "default") -> None:
        self._manager = manager
        self._protocol = protocol

    async def before(self, args: BeforeArgs) -> None:
        """Select, and write the choice into the request."""
        agent = agent_of(args.agent_card)
        session = None
        if isinstance(args.input, SendMessageRequest):
            session = args.input.message.context_id or None
        chosen = self._manager.select(agent, self._protocol, session, default=None)
        if not chosen.variant or chosen.reason == "default":
            return  # nothing fits: the call goes out as it is
        changes = chosen.variant.changes
        context = args.context = args.context or ClientCallContext()
        context.state[_STATE] = chosen
        headers = {VARIANT: chosen.variant.id, **changes.get("headers", {})}
        extensions = [EXTENSION, *changes.get("extensions", ())]
        context.service_parameters = ServiceParametersFactory.create_from(
            context.service_parameters,
            [with_a2a_extensions(extensions), lambda parameters: parameters.update(headers)],
        )
        metadata = changes.get("metadata")
        if metadata and isinstance(args.input, SendMessageRequest):
            args.input.metadata.update(metadata)

    async def after(self, args: AfterArgs) -> None:
        """Nothing: the transport counts, since this is not called for calls that fail."""


def selection_in(context: ClientCallContext | None) -> Selection | None:
    """What the interceptor chose for a call."""
    found = None if context is None else context.state.get(_STATE)
    return found if isinstance(found, Selection) else None


@attrs.define(eq=False)
class MeasuredTransport(ClientTransport):
    """A transport that reports each call that a variant was chosen for: time, and how it ended.

    A task that the agent itself failed or refused counts as done, with the metric ``task_failed`` = 1:
    that is an outcome of the work, not of the way it was asked for.
    """

    inner: ClientTransport
    manager: EmergenceManager

    async def send_message(self, request: Any, *, context: ClientCallContext | None = None) -> Any:
        """Timed until the answer."""
        return await self._one("send_message", request, context)

    def send_message_streaming(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> AsyncGenerator[Any]:
        """Timed until the first event; an error at any time is a failure."""
        return self._many("send_message_streaming", request, context)

    def subscribe(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> AsyncGenerator[Any]:
        """As streaming."""
        return self._many("subscribe", request, context)

    async def get_task(self, request: Any, *, context: ClientCallContext | None = None) -> Any:
        """Timed until the answer, as all that follow."""
        return await self._one("get_task", request, context)

    async def list_tasks(self, request: Any, *, context: ClientCallContext | None = None) -> Any:
        """Timed until the answer."""
        return await self._one("list_tasks", request, context)

    async def cancel_task(self, request: Any, *, context: ClientCallContext | None = None) -> Any:
        """Timed until the answer."""
        return await self._one("cancel_task", request, context)

    async def create_task_push_notification_config(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> Any:
        """Timed until the answer."""
        return await self._one("create_task_push_notification_config", request, context)

    async def get_task_push_notification_config(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> Any:
        """Timed until the answer."""
        return await self._one("get_task_push_notification_config", request, context)

    async def list_task_push_notification_configs(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> Any:
        """Timed until the answer."""
        return await self._one("list_task_push_notification_configs", request, context)

    async def delete_task_push_notification_config(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> None:
        """Timed until the answer."""
        await self._one("delete_task_push_notification_config", request, context)

    async def get_extended_agent_card(
        self, request: Any, *, context: ClientCallContext | None = None
    ) -> AgentCard:
        """Timed until the answer."""
        card: AgentCard = await self._one("get_extended_agent_card", request, context)
        return card

    async def close(self) -> None:
        """Close the transport within."""
        await self.inner.close()

    async def _one(self, verb: str, request: Any, context: ClientCallContext | None) -> Any:
        began = time.perf_counter()
        try:
            answer = await getattr(self.inner, verb)(request, context=context)
        except BaseException as error:
            self._ended(context, began, error)
            raise
        self._ended(context, began, None, _task_failed(answer))
        return answer

    async def _many(
        self, verb: str, request: Any, context: ClientCallContext | None
    ) -> AsyncGenerator[Any]:
        began = time.perf_counter()
        first: float | None = None
        failed = False
        try:
            async for event in getattr(self.inner, verb)(request, context=context):
                first = first or time.perf_counter()
                failed = failed or _task_failed(event)
                yield event
        except GeneratorExit:  # whoever reads has what it wanted
            if first is not None:
                self._ended(context, began, None, failed, first)
            raise
        except BaseException as error:
            self._ended(context, began, error)
            raise
        self._ended(context, began, None, failed, first)

    def _ended(
        self,
        context: ClientCallContext | None,
        began: float,
        error: BaseException | None,
        task_failed: bool = False,
        first: float | None = None,
    ) -> None:
        chosen = selection_in(context)
        if chosen is None or isinstance(error, _CALLERS_FAULT):
            return
        latency = ((first or time.perf_counter()) - began) * 1000.0
        try:
            self.manager.report(
                chosen,
                chosen.agent_id,
                success=error is None,
                latency_ms=latency,
                custom={"task_failed": float(task_failed)} if error is None else {},
            )
        except VariantNotFoundError:
            pass  # archived while the call was under way


def _task_failed(answer: Any) -> bool:
    """Does an answer or an event say that the agent failed or refused the task?"""
    for name in ("task", "status_update"):
        try:
            if answer.HasField(name):
                return getattr(answer, name).status.state in _NO_GOOD
        except (ValueError, AttributeError):
            continue  # this kind of message has no such part
    return False


class VariantClientFactory(ClientFactory):
    """The SDK's factory, with variants: every client it makes chooses, applies and measures.

    A variant whose changes name a ``binding`` ("JSONRPC", "HTTP+JSON", "GRPC") also decides which of the
    agent's interfaces a client talks to, when the client is made.
    """

    def __init__(
        self,
        manager: EmergenceManager,
        config: ClientConfig | None = None,
        protocol: str = "default",
    ) -> None:
        self._manager = manager
        self._protocol = protocol
        super().__init__(config)

    def register(self, label: str, generator: Callable[..., ClientTransport]) -> None:
        """Register a transport; what it makes is measured."""

        def measured(card: AgentCard, url: str, config: ClientConfig) -> ClientTransport:
            return MeasuredTransport(generator(card, url, config), self._manager)

        super().register(label, measured)

    def create(
        self, card: AgentCard, interceptors: list[ClientCallInterceptor] | None = None
    ) -> Client:
        """A client for the agent of this card."""
        ours = VariantInterceptor(self._manager, self._protocol)
        return super().create(self._on_one_binding(card), [ours, *(interceptors or [])])

    def _on_one_binding(self, card: AgentCard) -> AgentCard:
        """The card with the interfaces of the chosen variant's binding first."""
        chosen = self._manager.select(agent_of(card), self._protocol, default=None)
        binding = chosen.variant.changes.get("binding") if chosen.reason != "default" else None
        if not binding:
            return card
        narrowed = AgentCard()
        narrowed.CopyFrom(card)
        del narrowed.supported_interfaces[:]
        ordered = sorted(card.supported_interfaces, key=lambda i: i.protocol_binding != binding)
        narrowed.supported_interfaces.extend(ordered)
        return narrowed
