"""``manager.agents``: who speaks, with which capabilities and preferences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import attrs

from xenolect._codec import agent_to_json, moment
from xenolect._runtime import Runtime
from xenolect._validate import check_name, normalise
from xenolect.errors import AgentNotFoundError, ConflictError, DuplicateError, InvalidError
from xenolect.facts import Put
from xenolect.model import Agent, AgentContext

__all__ = ["Agents", "check_context"]

AgentList = list[Agent]


def check_context(context: AgentContext) -> AgentContext:
    """A context whose values are JSON and whose preferences are weights; InvalidError."""
    if not isinstance(context, AgentContext):
        raise InvalidError(
            f"expected an AgentContext, got {type(context).__name__}; "
            f"write AgentContext({{'capability': 'value'}})"
        )
    preferences = normalise(context.preferences, "preferences")
    for name, weight in preferences.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
            raise InvalidError(f"preferences.{name} must be a weight >= 0, got {weight!r}")
    if preferences and not math.fsum(preferences.values()) > 0:
        raise InvalidError("preferences are all zero; leave them out or give one a weight > 0")
    return AgentContext(
        normalise(context.capabilities, "capabilities"),
        preferences,
        normalise(context.version, "version"),
        normalise(context.platform, "platform"),
        normalise(context.custom, "custom"),
    )


class Agents:
    """The registered agents. Unregistered ones may be passed to ``select`` as ``Agent``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get(self, agent_id: str) -> Agent:
        """The agent as of now; AgentNotFoundError."""
        if self._runtime.asleep:
            self._runtime.wake()
        agent = self._runtime.agents.get(agent_id)
        if agent is None:
            self._runtime.catch_up()  # another process may have registered it a moment ago
            agent = self._runtime.agents.get(agent_id)
        if agent is None:
            raise AgentNotFoundError(
                f"no agent is registered as {agent_id!r}; register it, or pass an Agent"
            )
        return agent

    def list(self) -> AgentList:
        """All registered agents in order of id."""
        if self._runtime.asleep:
            self._runtime.wake()
        return sorted(self._runtime.agents.values(), key=lambda agent: agent.id)

    def register(self, agent_id: str, context: AgentContext | None = None) -> Agent:
        """Register one agent. Again with the same context is fine; with another: DuplicateError."""
        return self.register_many([(agent_id, context or AgentContext())])[0]

    def register_many(self, agents: Iterable[tuple[str, AgentContext]]) -> AgentList:
        """Register many in one commit; all or none."""
        runtime = self._runtime
        now = moment(runtime.clock())
        puts: list[Put] = []
        wanted: list[str] = []
        for agent_id, context in agents:
            check_name(agent_id, "agent id")
            checked = check_context(context)
            wanted.append(agent_id)
            known = runtime.agents.get(agent_id)
            if known is not None:
                if known.context != checked:
                    raise DuplicateError(
                        f"agent {agent_id!r} is registered with another context; "
                        f"use agents.update({agent_id!r}, context)"
                    )
                continue
            fact = runtime.fact("agent", agent_id)
            agent = Agent(agent_id, checked, registered_at=now, updated_at=now)
            puts.append(Put("agent", agent_id, agent_to_json(agent), fact.version if fact else 0))
        if puts:
            runtime.commit(puts)
            for put in puts:
                runtime.tell("agent.registered", None, agent_id=put.key)
            runtime.settle()
        return [self.get(agent_id) for agent_id in wanted]

    def update(
        self, agent_id: str, context: AgentContext, expected_version: int | None = None
    ) -> Agent:
        """Replace an agent's context; ConflictError if it is no longer at ``expected_version``."""
        runtime = self._runtime
        current = self.get(agent_id)
        if expected_version is not None and expected_version != current.version:
            raise ConflictError(
                f"agent {agent_id!r} is at version {current.version}, you expected "
                f"{expected_version}; read it again and decide again",
                expected=expected_version,
                found=current.version,
            )
        agent = attrs.evolve(
            current, context=check_context(context), updated_at=moment(runtime.clock())
        )
        value = {**(runtime.value("agent", agent_id) or {}), **agent_to_json(agent)}
        runtime.commit([Put("agent", agent_id, value, current.version)])
        runtime.tell("agent.updated", None, agent_id=agent_id)
        runtime.settle()
        return self.get(agent_id)

    def remove(self, agent_id: str) -> None:
        """Forget an agent; registering it again later keeps its place in every rollout."""
        current = self.get(agent_id)
        value: Any = {"id": agent_id, "removed": True}
        self._runtime.commit([Put("agent", agent_id, value, current.version)])
        self._runtime.tell("agent.removed", None, agent_id=agent_id)
        self._runtime.settle()
