"""The rules that must all agree before an agent is served a variant."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from xenolect.interfaces import Rule
from xenolect.model import AgentContext, ProtocolVariant

__all__ = ["Rules"]

log = logging.getLogger("xenolect.variants")


class Rules:
    """The configured rules, by name, in order."""

    def __init__(self, rules: Sequence[tuple[str, Rule]]) -> None:
        self._rules = rules

    def refuses(self, variant: ProtocolVariant, context: AgentContext) -> str | None:
        """The first rule's reason against a variant; a rule that raises excludes it."""
        for name, rule in self._rules:
            try:
                reason = rule.refuses(variant, context)
                if reason is not None and not isinstance(reason, str):
                    raise TypeError(f"it answered {reason!r}, neither words nor None")
            except Exception as error:
                reason = f"rule {name!r} failed: {type(error).__name__}: {error}"
                log.warning(
                    "variant %s is excluded: %s",
                    variant.id,
                    reason,
                    extra={"variant_id": variant.id},
                )
            if reason is not None:
                return reason
        return None
