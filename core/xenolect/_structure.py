"""What selection reads: one immutable structure per protocol, rebuilt when its facts change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._frozen import thaw
from xenolect._tracks import Feed, Track
from xenolect.facts import canonical
from xenolect.model import AgentContext, ProtocolVariant

if TYPE_CHECKING:
    from xenolect._boards import Board
    from xenolect._scores import Vector

__all__ = ["Mask", "Profile", "Route", "Structure", "class_of"]

Refuses = Callable[[ProtocolVariant, AgentContext], str | None]


def class_of(context: AgentContext) -> str:
    """The class of agents whose measurements are counted together: what they can do, and on what."""
    major = context.version.removeprefix("v").split(".", 1)[0]
    text = canonical([context.platform, major, thaw(context.capabilities)])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Profile:
    """A context shared by all agents that declare the same; compared by identity.

    ``group``: the class under which its agents' measurements are counted, "" for none of its own.
    """

    __slots__ = ("context", "document", "group", "key")

    def __init__(self, key: str, context: AgentContext, group: str = "") -> None:
        self.key = key
        self.context = context
        self.group = group
        self.document: Any = None  # the context as it is stored


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
    """What one profile may speak of a structure."""

    __slots__ = ("canaries", "eligible", "refused")

    def __init__(
        self, eligible: tuple[int, ...], canaries: tuple[bool, ...], refused: dict[str, str]
    ) -> None:
        self.eligible = eligible
        self.canaries = canaries
        self.refused = refused


class Structure:
    """The variants of one protocol that may be served, as of a revision.

    ``variants`` holds the active ones first (in order of id), then the canaries of ``routes`` in
    order of their start. Masks, vectors of scores and boards are cached; a new structure starts
    without any. ``reference``: the latency in ms that counts as neutral, None where it is not known.
    """

    __slots__ = (
        "active",
        "baseline",
        "boards",
        "controls",
        "feed",
        "index",
        "masks",
        "protocol",
        "reference",
        "revision",
        "routes",
        "row",
        "safe",
        "tracks",
        "variants",
        "vectors",
    )

    def __init__(
        self,
        protocol: str,
        revision: int,
        active: Sequence[ProtocolVariant],
        routes: Sequence[Route],
        baseline_id: str | None,
        safe: bool,
        feed: Feed,
        track: Callable[[str, Feed], Track],
        reference: float | None = None,
    ) -> None:
        self.protocol = protocol
        self.revision = revision
        self.routes = tuple(routes)
        self.active = len(active)
        self.variants = (*active, *(route.variant for route in routes))
        self.index = {variant.id: i for i, variant in enumerate(self.variants)}
        self.baseline = next((i for i, v in enumerate(active) if v.id == baseline_id), -1)
        self.controls = frozenset(route.control_id for route in routes)
        self.safe = safe
        self.reference = reference
        self.feed = feed
        self.tracks = tuple(track(variant.id, feed) for variant in self.variants)
        self.row = {id(track): i for i, track in enumerate(self.tracks)}
        self.masks: dict[Profile, Mask] = {}
        self.vectors: dict[object, Vector] = {}
        self.boards: dict[Profile, Board] = {}

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
