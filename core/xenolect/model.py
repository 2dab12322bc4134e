"""The nouns: frozen records that go in and come out of every call.

Units everywhere: fractions in [0, 1], latency in milliseconds, throughput in operations per
second, sizes in bytes, durations in seconds, moments as ``datetime`` in UTC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from html import escape
from typing import Any

import attrs

from xenolect._frozen import freeze

__all__ = [
    "Agent",
    "AgentContext",
    "BreakerState",
    "BreakerStatus",
    "CanaryState",
    "CanaryStatus",
    "Candidate",
    "Explanation",
    "Explanations",
    "Mode",
    "PerformanceHistory",
    "PerformanceMetrics",
    "ProtocolVariant",
    "Reason",
    "RollbackPoint",
    "Selection",
    "Stability",
    "StateRef",
    "VariantStatus",
    "Verdict",
]


class VariantStatus(StrEnum):
    """Where a variant stands in its life; the transitions are in ``docs/design.md``."""

    PROPOSED = "proposed"
    TESTING = "testing"
    CANARY = "canary"
    ACTIVE = "active"
    PAUSED = "paused"
    DEPRECATED = "deprecated"
    ROLLED_BACK = "rolled_back"
    ARCHIVED = "archived"


class CanaryState(StrEnum):
    """Where a rollout stands; the variant itself stays ``canary`` (or ``paused``) until it ends."""

    RAMPING = "ramping"
    HOLD = "hold"
    SUSPENDED = "suspended"
    RECOVERING = "recovering"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


class BreakerState(StrEnum):
    """Where a circuit breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    LATCHED = "latched"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class Verdict(StrEnum):
    """What a judge says of a canary."""

    CONTINUE = "continue"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Reason(StrEnum):
    """Why a selection is what it is."""

    BEST = "best"
    STICKY = "sticky"
    CANARY = "canary"
    CONTROL = "control"
    ONLY = "only"
    DEGRADED = "degraded"
    BASELINE = "baseline"
    DEFAULT = "default"
    EXPLORE = "explore"


class Mode(StrEnum):
    """normal; observe: baselines are served, verdicts are only logged; baseline: the kill switch."""

    NORMAL = "normal"
    OBSERVE = "observe"
    BASELINE = "baseline"


@attrs.frozen
class ProtocolVariant:
    """One way for agents to speak a protocol: a named patch with typed requirements.

    ``protocol`` groups the variants that compete for one conversation. ``requirements`` must be
    met by an agent's capabilities, ``conflicts`` must not, ``optional`` may be. ``version`` starts
    at 1 and grows by 1 with every commit; ``update`` compares with it. Mappings are read-only.
    """

    id: str
    protocol: str = "default"
    description: str = ""
    changes: Any = attrs.field(factory=dict, converter=freeze)
    requirements: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    optional: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    conflicts: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    metadata: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    parent_id: str | None = None
    status: VariantStatus = VariantStatus.PROPOSED
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 1


@attrs.frozen
class AgentContext:
    """What an agent can do and wants: input to rules and scorers.

    capabilities: name -> bool, int, str, or a list of them. preferences: metric name -> weight >= 0,
    normalised where they are used. ``version`` and ``platform`` may be required like capabilities;
    ``custom`` is any JSON object, its keys reachable in requirements as ``custom.KEY``.
    """

    capabilities: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    preferences: Mapping[str, float] = attrs.field(factory=dict, converter=freeze)
    version: str = ""
    platform: str = ""
    custom: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)


@attrs.frozen
class Agent:
    """A context under an id. Unregistered agents may be passed to ``select`` as they are."""

    id: str
    context: AgentContext = attrs.field(factory=AgentContext)
    version: int = 1
    registered_at: datetime | None = None
    updated_at: datetime | None = None


@attrs.frozen
class PerformanceMetrics:
    """One measurement of ``count`` operations.

    success_rate: share in [0, 1]. latency_ms: milliseconds, one observation whatever ``count`` is.
    resource_usage: share in [0, 1]. throughput: operations per second. custom: name -> number.
    timestamp: the sender's clock, stored; the receive time orders records.
    """

    success_rate: float
    latency_ms: float | None = None
    resource_usage: float | None = None
    throughput: float | None = None
    custom: Mapping[str, float] = attrs.field(factory=dict, converter=freeze)
    count: int = 1
    timestamp: datetime | None = None


@attrs.frozen
class PerformanceHistory:
    """What was measured of one variant. ``count`` and ``failures`` are operations.

    ``latency_ms`` is the median; quantiles are within 2 % (see ``xenolect.sketch``). The other
    means are weighted by operations. Nothing measured is None, never 0.
    """

    count: float = 0
    failures: float = 0
    success_rate: float | None = None
    latency_ms: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    resource_usage: float | None = None
    throughput: float | None = None
    custom: Mapping[str, float] = attrs.field(factory=dict, converter=freeze)
    since: datetime | None = None
    until: datetime | None = None


@attrs.frozen
class Stability:
    """Decayed incidents of a variant: ``passes`` of health checks, ``fails`` weighted.

    A failed check counts 1, an opening of the breaker 3, a rollback 10 (``docs/safeguards.md``).
    """

    passes: float = 0.0
    fails: float = 0.0


@attrs.frozen
class Candidate:
    """What a scorer sees of one variant, whether or not the agent may be served it: the gate is not its matter.

    ``history`` is weighted by age (half-life 24 h), so its ``count`` is the effective number of
    operations. ``reference_ms`` is the latency that counts as neutral: the protocol's declared
    target or its baseline's median, the same for all candidates.
    """

    variant: ProtocolVariant
    history: PerformanceHistory
    stability: Stability = attrs.field(factory=Stability)
    reference_ms: float | None = None


class Selection:
    """The variant chosen for an agent, with why. ``parts`` and ``excluded`` are computed when read.

    ``revision`` is the index revision it was decided at. ``permit`` is set when the call is a probe
    of a half-open breaker; hand the selection to ``report`` so that the permit returns.
    """

    __slots__ = (
        "_explain",
        "agent_id",
        "permit",
        "protocol",
        "reason",
        "revision",
        "score",
        "session",
        "variant",
    )

    def __init__(
        self,
        variant: ProtocolVariant,
        agent_id: str,
        session: str | None,
        protocol: str,
        score: float,
        reason: Reason,
        revision: int,
        permit: Any = None,
        explain: tuple[Any, ...] | None = None,
    ) -> None:
        self.variant = variant
        self.agent_id = agent_id
        self.session = session
        self.protocol = protocol
        self.score = score
        self.reason = reason
        self.revision = revision
        self.permit = permit
        self._explain = explain

    @property
    def parts(self) -> Mapping[str, float]:
        """Each scorer's answer for the chosen variant, in [0, 1], before weighting."""
        return self._why()[0]

    @property
    def excluded(self) -> Mapping[str, str]:
        """variant id -> why it was not eligible."""
        return self._why()[1]

    def _why(self) -> tuple[Mapping[str, float], Mapping[str, str]]:
        if self._explain is None:
            return {}, {}
        function, *arguments = self._explain  # called when read: building it ahead costs 13-500 us
        answer: tuple[Mapping[str, float], Mapping[str, str]] = function(*arguments)
        return answer

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = "".join(
            f"<td>{escape(name)} {value:.3f}</td>" for name, value in self.parts.items()
        )
        return (
            f"<table><tr><th>{escape(self.variant.id)}</th><td>for {escape(self.agent_id)}</td>"
            f"<td>{escape(str(self.reason))}</td><td>score {self.score:.3f}</td>{parts}</tr></table>"
        )

    def __repr__(self) -> str:
        score = "" if math.isnan(self.score) else f", score={self.score:.3f}"
        return f"Selection({self.variant.id!r} for {self.agent_id!r}, reason={str(self.reason)!r}{score})"


@attrs.frozen
class StateRef:
    """One version of a variant's state.

    kind: "json", "bytes" or "stream". size: bytes before compression. root: SHA-256 over the ordered
    chunk digests, the identity of the content. sha256: of the whole content, where a put computed it.
    schema: the application's own, see ``states.register_migration``.
    """

    variant_id: str
    version: int
    kind: str
    size: int
    root: str
    sha256: str | None
    chunks: int
    created_at: datetime
    schema: int = 1


@attrs.frozen
class RollbackPoint:
    """A moment a variant can be taken back to: content, state, routing and configuration hash."""

    id: str
    variant_id: str
    created_at: datetime
    reason: str
    pinned: bool = False
    verified: bool = False


@attrs.frozen
class CanaryStatus:
    """Where a rollout stands. ``fraction`` is the share of eligible units routed to the canary.

    ``levels`` are all planned fractions; ``level`` indexes them. ``evidence`` is what the judge
    last said, with its numbers. ``reason`` names what holds or ended it. ``expected_decision``
    is the estimate, in seconds from the start, at the traffic seen before it (None: no traffic).
    """

    variant_id: str
    control_id: str
    state: CanaryState
    level: int
    fraction: float
    levels: tuple[float, ...]
    started_at: datetime
    next_check_at: datetime | None
    verdict: Verdict
    evidence: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze)
    reason: str = ""
    unit: str = "agent"
    attempt: int = 1
    expected_decision: float | None = None


@attrs.frozen
class BreakerStatus:
    """Where a breaker stands. ``variant_id``: what it guards. ``retry_after``: seconds until a probe
    may pass. ``degraded``: the index fails, so other processes may see it otherwise."""

    variant_id: str
    state: BreakerState
    attempts: int = 0
    retry_after: float | None = None
    degraded: bool = False


@attrs.frozen
class Explanation:
    """What ``explain`` says of one variant for one agent.

    ``eligible`` False comes with ``reason``; otherwise ``parts`` are the scorers' answers in [0, 1]
    and ``score`` their weighted sum. ``chosen`` marks the one that would be served.
    """

    variant: ProtocolVariant
    eligible: bool
    reason: str
    parts: Mapping[str, float] = attrs.field(factory=dict, converter=freeze)
    score: float | None = None
    chosen: bool = False


class Explanations(list[Explanation]):
    """What ``explain`` returns: a list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        names = sorted({name for row in self for name in row.parts})
        head = "".join(f"<th>{escape(n)}</th>" for n in ("variant", "verdict", "score", *names))
        rows = []
        for row in self:
            score = "" if row.score is None else f"{row.score:.3f}"
            parts = [f"{row.parts[n]:.3f}" if n in row.parts else "" for n in names]
            said = "chosen" if row.chosen else row.reason
            cells = (escape(row.variant.id), escape(said), score, *parts)
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
