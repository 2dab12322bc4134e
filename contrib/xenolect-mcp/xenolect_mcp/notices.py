"""Telling clients that their tool list has changed: ``notifications/tools/list_changed``.

Who has read a list is remembered with the contract it showed. Now and then, and with every request, it is
looked up what they would be shown now; that sees decisions of this process and of others alike, and
costs a selection (some microseconds) for each.

In the handshake eras a notice goes to the one connection. From 2026-07-28 on it goes over
``subscriptions/listen``, whose streams belong to a ``SubscriptionBus``; all of them hear that something
changed, and each reads its own list again.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from xenolect_mcp.choosing import Caller, Warnings

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.subscriptions import SubscriptionBus

__all__ = ["Notices"]

READERS = 1000  # remembered at most; the one that has been silent longest is forgotten first
PATIENCE = 1.0  # seconds that a client has to take a notice


@attrs.define
class Reader:
    """Someone who has read a tool list."""

    caller: Caller
    shown: Any
    session: Any  # the SDK's, of a connection that notices can be sent on; None from 2026-07-28 on


class Notices:
    """Remembers readers, and tells those whose contract is another one now."""

    def __init__(
        self,
        shown: Callable[[Caller], Any],
        bus: SubscriptionBus | None,
        every: float,
        warn: Warnings,
    ) -> None:
        self._shown = shown
        self._bus = bus
        self._every = every
        self._warn = warn
        self._readers: OrderedDict[tuple[str, str | None], Reader] = OrderedDict()
        self._task: Any = None

    def read(self, ctx: ServerRequestContext[Any, Any], caller: Caller, shown: Any) -> None:
        """A list was sent."""
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        connected = ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        if not connected and self._bus is None:
            return
        key = (caller.id, caller.session)
        self._readers[key] = Reader(caller, shown, ctx.session if connected else None)
        self._readers.move_to_end(key)
        if len(self._readers) > READERS:
            self._readers.popitem(last=False)
        if self._task is None:
            self._watch()

    async def called(self, caller: Caller, shown: Any) -> None:
        """A tool was called under a contract: if it is another than was listed, its caller hears now."""
        reader = self._readers.get((caller.id, caller.session))
        if reader is not None and reader.shown != shown:
            reader.shown = shown
            await self._tell([reader])

    async def look(self) -> None:
        """Tell everybody whose contract has changed since they read it."""
        changed = []
        for reader in list(self._readers.values()):
            shown = self._shown(reader.caller)
            if shown != reader.shown:
                reader.shown = shown
                changed.append(reader)
        if changed:
            await self._tell(changed)

    async def _tell(self, changed: list[Reader]) -> None:
        if self._bus is not None and any(reader.session is None for reader in changed):
            from mcp.server.subscriptions import ToolsListChanged

            await self._bus.publish(ToolsListChanged())
        for reader in changed:
            if reader.session is None:
                continue
            try:
                # a client that stopped reading must not keep the others waiting
                with anyio.move_on_after(PATIENCE):
                    await reader.session.send_tool_list_changed()
            except Exception:  # the connection is gone, and with it who would want to know
                self._readers.pop((reader.caller.id, reader.caller.session), None)

    def _watch(self) -> None:
        """Look now and then, for as long as the event loop runs that serves the requests."""
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_task():
            self._task = trio.lowlevel.spawn_system_task(self._looking, trio.sleep)
        else:
            self._task = asyncio.get_running_loop().create_task(self._looking(asyncio.sleep))

    async def _looking(self, sleep: Callable[[float], Any]) -> None:
        try:
            while self._readers:
                await sleep(self._every)
                try:
                    await self.look()
                except Exception as error:
                    self._warn(
                        "who reads another tool list now could not be found out: %s: %s",
                        type(error).__name__,
                        error,
                    )
        finally:
            self._task = None
