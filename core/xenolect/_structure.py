"""What selection reads: one immutable structure per protocol, rebuilt when its facts change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from xenolect.model import AgentContext, ProtocolVariant

__all__ = ["Mask", "Profile", "Route", "Structure"]

Refuses = Callable[[ProtocolVariant, AgentContext], str | None]


class Profile:
    """A context shared by all agents that declare the same; compared by identity."""

    __slots__ = ("context", "key")

    def __init__(self, key: str, context: AgentContext) -> None:
        self.key = key
        self.context = context


@attrs.frozen(eq=False)
class Route:
    """A rollout as routing needs it. ``ppm``: served now; ``recovery_ppm``: may take probes."""

    rollout: str
    variant: ProtocolVariant
    control_id: str
    salt: int
    ppm: int
    recovery_ppm: int
    by_session: bool


class Mask:
    """What one profile may speak of a structure, and the scores last computed for it."""

    __slots__ = ("canaries", "degraded", "eligible", "refused", "scores", "stamp")

    def __init__(
        self, eligible: tuple[int, ...], canaries: tuple[bool, ...], refused: dict[str, str]
    ) -> None:
        self.eligible = eligible
        self.canaries = canaries
        self.refused = refused
        self.scores: Sequence[float] = ()
        self.stamp = -1
        self.degraded = False


class Structure:
    """The variants of one protocol that may be served, as of a revision.

    ``variants`` holds the active ones first (in order of id), then the canaries of ``routes`` in
    order of their start. Masks are cached per profile; a new structure starts with none.
    """

    __slots__ = (
        "active",
        "baseline",
        "masks",
        "protocol",
        "revision",
        "routes",
        "safe",
        "variants",
    )

    def __init__(
        self,
        protocol: str,
        revision: int,
        active: Sequence[ProtocolVariant],
        routes: Sequence[Route],
        baseline_id: str | None,
        safe: bool,
    ) -> None:
        self.protocol = protocol
        self.revision = revision
        self.routes = tuple(routes)
        self.active = len(active)
        self.variants = (*active, *(route.variant for route in routes))
        self.baseline = next((i for i, v in enumerate(active) if v.id == baseline_id), -1)
        self.safe = safe
        self.masks: dict[Profile, Mask] = {}

    def mask(self, profile: Profile, refuses: Refuses, bound: int) -> Mask:
        """The profile's mask; rules are asked once per (variant, profile)."""
        mask = self.masks.get(profile)
        if mask is None:
            refused = {}
            for variant in self.variants:
                reason = refuses(variant, profile.context)
                if reason is not None:
                    refused[variant.id] = reason
            mask = Mask(
                tuple(i for i in range(self.active) if self.variants[i].id not in refused),
                tuple(route.variant.id not in refused for route in self.routes),
                refused,
            )
            if len(self.masks) >= bound:
                self.masks = {}  # one reference swapped: readers of the old one are not disturbed
            self.masks[profile] = mask
        return mask
