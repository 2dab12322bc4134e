"""The rule ``capabilities``: every requirement is met, no conflict applies."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.interfaces import Rule
from xenolect.model import AgentContext, ProtocolVariant
from xenolect.predicates import holds, lookup, refuses

__all__ = ["Capabilities"]


@attrs.frozen
class Capabilities:
    """Compares what a variant requires with what an agent declares (``xenolect.predicates``)."""

    def refuses(self, variant: ProtocolVariant, context: AgentContext) -> str | None:
        """The first requirement that is not met, or conflict that applies, in words."""
        for name, predicate in variant.requirements.items():
            present, value = lookup(context, name)
            reason = refuses(name, predicate, value, present)
            if reason is not None:
                return reason
        for name, predicate in variant.conflicts.items():
            present, value = lookup(context, name)
            reason = holds(name, predicate, value, present)
            if reason is not None:
                return reason
        return None


@hookimpl
def xenolect_compatibility() -> Iterable[Offer[Rule]]:
    """Offer the rule."""
    yield offer("capabilities", Capabilities)
