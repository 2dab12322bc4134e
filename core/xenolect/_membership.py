"""Who belongs to a running rollout: who is able to speak its canary, and who is served it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xenolect._breakers import Breakers
from xenolect._evidence import Rollout
from xenolect._runtime import Runtime
from xenolect._selection import Selector
from xenolect._structure import Route
from xenolect.errors import InvalidError
from xenolect.model import ProtocolVariant, VariantStatus

__all__ = ["Membership"]

S = VariantStatus


class Membership:
    """The units of running rollouts; the same in every process that has the same facts."""

    def __init__(
        self,
        runtime: Runtime,
        rollouts: Mapping[str, Rollout],
        breakers: Breakers,
        selector: Selector,
    ) -> None:
        self._runtime = runtime
        self._rollouts = rollouts
        self._breakers = breakers
        self._selector = selector
        self._changes = 0
        self._orders: dict[str, tuple[int, int, Sequence[Rollout]]] = {}

    def changed(self) -> None:
        """A rollout came or went."""
        self._changes += 1

    def of(self, protocol: str) -> Sequence[Rollout]:
        """The running rollouts of a protocol, in order of their start."""
        variants, changes = self._runtime.variants, self._changes
        kept = self._orders.get(protocol)
        if kept is not None and kept[0] == changes and kept[1] == len(variants):
            return kept[2]
        known = len(variants)  # before looking: what changes meanwhile is looked at again
        found = [
            r
            for r in list(self._rollouts.values())
            if r.variant_id in variants and variants[r.variant_id].protocol == protocol
        ]
        order = sorted(found, key=lambda r: (r.document["started_at"], r.id))
        self._orders[protocol] = changes, known, order
        return order

    def routes(self, protocol: str) -> Sequence[Route]:
        """What selection routes by: the shares of the protocol's canaries."""
        return [
            Route(
                r.id,
                self._runtime.variants[r.variant_id],
                r.control_id,
                r.salt,
                r.ppm,
                r.recovery_ppm,
                r.by_session,
            )
            for r in self.of(protocol)
            if self._runtime.variants[r.variant_id].status == S.CANARY
        ]

    def eligible(self, rollout: Rollout, agent_id: str | None) -> bool:
        """Could this agent speak the canary, as far as is known?"""
        canary = self._runtime.variants.get(rollout.variant_id)
        if canary is None:
            return False
        profile = None if agent_id is None else self._selector.known(agent_id)
        if profile is None:
            return not canary.requirements and not canary.conflicts
        structure = self._runtime.structures.get(canary.protocol)
        mask = None if structure is None else structure.masks.get(profile)
        if structure is not None and mask is not None and canary.id in structure.index:
            return canary.id not in mask.refused
        return self._runtime.refuses(canary, profile.context) is None

    def serves(self, variant: ProtocolVariant, agent_id: str, session: str | None) -> bool:
        """Can this agent know the variant from serving it: is it routed to it, or may it speak it?"""
        if variant.status != S.ACTIVE:
            rollout = self._rollouts.get(variant.id)
            unit = None if rollout is None else rollout.unit(agent_id, session)
            return (
                rollout is not None
                and unit is not None
                and rollout.inside(unit)
                and self.eligible(rollout, agent_id)
                and not self.taken(rollout, agent_id, session)
            )
        profile = self._selector.known(agent_id)
        return profile is not None and self._runtime.refuses(variant, profile.context) is None

    def taken(self, rollout: Rollout, agent_id: str, session: str | None) -> bool:
        """Is the unit served the canary of a rollout that began earlier?"""
        for other in self.of(rollout.document["protocol"]):
            if other is rollout:
                break
            unit = other.unit(agent_id, session)
            if (
                unit is not None
                and other.control_id == rollout.control_id
                and other.ppm
                and other.inside(unit)
                and not self._breakers.is_shut(other.variant_id)
                and self.eligible(other, agent_id)
            ):
                return True
        return False

    def inside(self, current: ProtocolVariant, agent_id: str, session: str | None) -> bool:
        """Is this unit in the canary's share now? InvalidError when the call does not name it."""
        rollout = self._rollouts.get(current.id)
        if rollout is None or current.status != S.CANARY or rollout.proved:
            return False
        unit = rollout.unit(agent_id, session)
        if unit is None:
            raise InvalidError(
                f"the rollout of {current.id!r} assigns sessions; pass session= to routes()"
            )
        if rollout.ppm == 0 or not rollout.inside(unit):
            return False
        if self.taken(rollout, agent_id, session):
            return False
        profile = self._selector.known(agent_id)
        return profile is None or self._runtime.refuses(current, profile.context) is None
