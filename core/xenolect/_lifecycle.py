"""Which status may follow which, and what to tell somebody who asks for another."""

from __future__ import annotations

from xenolect.errors import TransitionError
from xenolect.model import ProtocolVariant
from xenolect.model import VariantStatus as S

__all__ = ["ALLOWED", "LIVE", "check_transition"]

ALLOWED: dict[S, dict[S, str]] = {
    S.PROPOSED: {
        S.TESTING: "variants.start_testing",
        S.CANARY: "canaries.start",
        S.ACTIVE: "variants.activate",
        S.ARCHIVED: "variants.archive",
    },
    S.TESTING: {
        S.CANARY: "canaries.start",
        S.ACTIVE: "variants.activate",
        S.ARCHIVED: "variants.archive",
    },
    S.CANARY: {
        S.ACTIVE: "canaries.promote",
        S.PAUSED: "canaries.pause",
        S.ROLLED_BACK: "rollback or canaries.abort",
    },
    S.PAUSED: {S.CANARY: "canaries.resume", S.ROLLED_BACK: "rollback or canaries.abort"},
    S.ACTIVE: {S.DEPRECATED: "variants.deprecate", S.ROLLED_BACK: "rollback"},
    S.DEPRECATED: {S.ACTIVE: "variants.activate", S.ARCHIVED: "variants.archive"},
    S.ROLLED_BACK: {S.TESTING: "variants.start_testing", S.ARCHIVED: "variants.archive"},
    S.ARCHIVED: {},
}
"""status -> {next status: the verb that goes there}."""

LIVE = frozenset(S) - {S.ARCHIVED}
"""The statuses that count against ``max_variants``."""


def check_transition(variant: ProtocolVariant, to: S) -> None:
    """TransitionError, naming the verbs that are allowed, unless ``to`` may follow."""
    verbs = ALLOWED[variant.status]
    if to in verbs:
        return
    may = ", ".join(f"{verb} (-> {status})" for status, verb in verbs.items())
    raise TransitionError(
        f"variant {variant.id!r} is {variant.status} and can not become {to}; "
        + (f"allowed now: {may}" if may else "it is archived for good: propose a new variant")
    )
