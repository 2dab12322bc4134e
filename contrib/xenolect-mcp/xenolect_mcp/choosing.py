"""Which variant a caller is served: the manager's choice, within what MCP allows.

Two things the manager can not know. A tool list may vary by the authorization presented and by nothing
else, so who has proved nothing is listed what the baseline declares. And a client keeps the list it
has read, so a conversation keeps its contract although a newer one has replaced it meanwhile; a
contract that was rolled back is kept by nobody.
"""

from __future__ import annotations

import itertools
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from xenolect import (
    Agent,
    AgentNotFoundError,
    EmergenceError,
    NoCompatibleVariantError,
    ProtocolVariant,
    Reason,
    Selection,
    VariantStatus,
)
from xenolect_mcp.contract import Contract, ContractError, tools_of
from xenolect_mcp.identity import EXT, PRINCIPAL, scoped

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from xenolect import EmergenceManager

__all__ = ["Caller", "Chooser", "Warnings"]

log = logging.getLogger("xenolect.mcp")

CONVERSATIONS = 10_000  # whose contract is remembered; the same many sessions the manager pins
UNREGISTERED = 5.0  # seconds before a principal is looked up again: that may ask the index
SERVABLE = (VariantStatus.ACTIVE, VariantStatus.CANARY)


class Warnings:
    """Warns of each thing at most once in ten seconds: a broken store must not fill the log as well."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._silent = False

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Say nothing in this block: nobody has asked for what is looked up there."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def __call__(self, what: str, *words: object, about: str = "") -> None:
        """``about`` tells two cases of one sentence apart."""
        if self._silent:
            return
        now = time.monotonic()
        key = f"{what} {about}"
        if now - self._said.get(key, float("-inf")) >= 10.0:
            if len(self._said) > 1000:
                self._said.clear()
            self._said[key] = now
            log.warning(what, *words)


@attrs.frozen
class Caller:
    """Who asks: an agent, or the id of a registered one; in which conversation; has it proved who it is?"""

    agent: Agent | str
    session: str | None
    authenticated: bool

    @property
    def id(self) -> str:
        """The agent's id."""
        return self.agent if isinstance(self.agent, str) else self.agent.id


class Chooser:
    """Chooses for callers. Counts how often a client had chosen the same (``agreed``, ``differed``)."""

    def __init__(
        self,
        manager: EmergenceManager,
        protocol: str,
        agent: Callable[[Any], Agent],
        session: Callable[[Any], str | None],
        follow: bool,
    ) -> None:
        self.manager = manager
        self.protocol = protocol
        self.agreed = 0
        self.differed = 0
        self.warn = Warnings()
        self._agent = agent
        self._session = session
        self._follow = follow
        self._unregistered: dict[str, float] = {}
        self._connections = Connections()
        self._spoken: OrderedDict[str, ProtocolVariant] = OrderedDict()
        self._contracts: dict[tuple[str, int], Contract | ContractError | None] = {}

    # -- who --------------------------------------------------------------------------------------

    def caller(self, ctx: ServerRequestContext[Any, Any]) -> Caller:
        """Who sent a request. A registered principal is what the registry says, not what it declares."""
        agent = self._agent(ctx)
        session = self._session(ctx) or self._connections.name(ctx)
        authenticated = agent.context.capabilities.get(PRINCIPAL) is True
        known = authenticated and self._registered(agent.id)
        return Caller(agent.id if known else agent, scoped(agent.id, session), authenticated)

    def _registered(self, agent_id: str) -> bool:
        now = time.monotonic()
        if now - self._unregistered.get(agent_id, float("-inf")) < UNREGISTERED:
            return False
        try:
            self.manager.agents.get(agent_id)
        except AgentNotFoundError:
            if len(self._unregistered) >= CONVERSATIONS:
                self._unregistered.clear()
            self._unregistered[agent_id] = now
            return False
        return True

    # -- what -------------------------------------------------------------------------------------

    def choose(self, caller: Caller, named: Any = None) -> Selection | None:
        """What the caller is served now; None where nothing can be. Raises nothing.

        ``named``: the variant that the client says it speaks.
        """
        try:
            try:
                selection = self.manager.select(caller.agent, self.protocol, caller.session)
                if self._follow and isinstance(named, str):
                    selection = self._followed(selection, named)
            except EmergenceError as error:
                return self._instead_of_none(caller, error)
            return self._kept(caller, selection)
        except Exception as error:
            self.warn(
                "no variant could be selected, the call passes through: %s: %s",
                type(error).__name__,
                error,
            )
            return None

    def _instead_of_none(self, caller: Caller, error: EmergenceError) -> Selection | None:
        """The baseline where nothing could be selected, unless its tools are not for this caller."""
        baseline = self._baseline(caller)
        if isinstance(error, NoCompatibleVariantError) and baseline is not None:
            baseline = baseline if tools_of(baseline.variant) is None else None
        self.warn(
            "no variant could be selected, %s: %s: %s",
            "the call passes through" if baseline is None else "the baseline is used",
            type(error).__name__,
            error,
        )
        return baseline

    def _baseline(self, caller: Caller) -> Selection | None:
        baseline = self.manager.variants.baseline(self.protocol)
        if baseline is None:
            return None
        return Selection(
            baseline, caller.id, caller.session, self.protocol, float("nan"), Reason.DEFAULT, 0
        )

    def _followed(self, selection: Selection, named: str) -> Selection:
        """The variant that the client speaks, where it may be served and declares the same tools."""
        if named == selection.variant.id:
            self.agreed += 1
            return selection
        self.differed += 1
        variant = self.manager.variants.get(named)
        if (
            variant.status not in SERVABLE
            or variant.protocol != self.protocol
            or named in selection.excluded
            or tools_of(variant) != tools_of(selection.variant)
        ):
            return selection
        return _instead(selection, variant, selection.reason)

    def _kept(self, caller: Caller, selection: Selection) -> Selection | None:
        """The same, unless its contract is not for this caller, or not for this conversation yet."""
        chosen = tools_of(selection.variant)
        if not caller.authenticated:
            baseline = self.manager.variants.baseline(self.protocol)
            if chosen == (tools_of(baseline) if baseline is not None else None):
                return selection
            self.warn(
                "variant %s changes tools, and %s has not proved who it is: it is served the baseline, and "
                "not counted. Propose the variant with requirements={%r: True}, or tell EmergenceMiddleware "
                "who the caller is (principal=)",
                selection.variant.id,
                caller.id,
                PRINCIPAL,
                about=selection.variant.id,
            )
            _give_back(selection)
            return self._baseline(caller)
        if caller.session is None:
            return selection
        spoken = self._spoken.get(caller.session)
        if spoken is not None and tools_of(spoken) != chosen:
            now = self.manager.variants.get(spoken.id)
            if now.status == VariantStatus.DEPRECATED and tools_of(now) == tools_of(spoken):
                self._spoken.move_to_end(caller.session)
                return _instead(selection, now, Reason.STICKY)
        self._spoken[caller.session] = selection.variant
        self._spoken.move_to_end(caller.session)
        if len(self._spoken) > CONVERSATIONS:
            self._spoken.popitem(last=False)
        return selection

    def contract(self, variant: ProtocolVariant) -> Contract | None:
        """The variant's contract, or ContractError; made once for each version of a variant."""
        key = (variant.id, variant.version)
        if key not in self._contracts:
            if len(self._contracts) >= 1000:
                self._contracts.clear()
            try:
                self._contracts[key] = Contract.of(variant)
            except ContractError as error:
                self._contracts[key] = error
        found = self._contracts[key]
        if isinstance(found, ContractError):
            raise found
        return found

    def unusable(self, variant: ProtocolVariant, error: ContractError) -> None:
        """The server's tools do not go with the variant's contract: from now on it has none."""
        self._contracts[(variant.id, variant.version)] = error


class Connections:
    """Names for the connections of the handshake eras: where no header names the session, they are it.

    What ``initialize`` said is one object for as long as a connection lives.
    """

    def __init__(self) -> None:
        self._names: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._count = itertools.count(1)
        self._boot = f"{time.time_ns():x}"

    def name(self, ctx: ServerRequestContext[Any, Any]) -> str | None:
        """The same for every request of a connection; None where requests stand alone (2026-07-28)."""
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        said = ctx.session.client_params
        if said is None or ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        known = self._names.get(id(said))
        if known is not None and known[0]() is said:
            return known[1]
        key = id(said)
        name = f"connection {self._boot}-{next(self._count)}"
        self._names[key] = (weakref.ref(said, lambda _: self._names.pop(key, None)), name)
        return name


def named_by(ctx: ServerRequestContext[Any, Any]) -> Any:
    """The variant that a request says its client speaks."""
    named = (ctx.meta or {}).get(EXT)
    return named.get("variant") if isinstance(named, Mapping) else None


def _instead(selection: Selection, variant: ProtocolVariant, reason: Reason) -> Selection:
    _give_back(selection)
    return Selection(
        variant,
        selection.agent_id,
        selection.session,
        selection.protocol,
        selection.score,
        reason,
        selection.revision,
    )


def _give_back(selection: Selection) -> None:
    if selection.permit is not None:
        selection.permit.ignore()
