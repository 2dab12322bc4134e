"""What a policy would do, before it is enabled: whole rollouts in a drawn world.

The judge and the ramp are the real ones, made from the same settings and fed record by record; only
the fleet is drawn (numpy, from a seed) and the clock is virtual. There is no store and no breaker:
a breaker would stop a dead variant after a few failures of one agent, so exposure comes out high.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from xenolect import safeguards as sg
from xenolect._drawing import Drawing, Traffic
from xenolect._evidence import ENDED, Rollout, baseline_from_json, health_check
from xenolect._launch import ramp_options
from xenolect._registry import Registry
from xenolect.config import Config
from xenolect.errors import InvalidError
from xenolect.facts import Observation
from xenolect.model import CanaryState, Verdict
from xenolect.ramps import MILLION, levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["Campaign", "Run", "Simulation", "Trace", "World", "read_trace", "simulate", "wilson"]

Progress = Callable[[int, int], None]
_fraction = attrs.validators.and_(attrs.validators.ge(0.0), attrs.validators.le(1.0))
_positive = attrs.validators.gt(0.0)


@attrs.frozen
class World:
    """A fleet and its traffic; the table ``[world]`` of a policy.

    ``success``, ``canary_success``: probabilities that an operation succeeds on either arm, the latter
    in the rollouts of the worse variant. ``heterogeneity``: standard deviation of the agents' log odds
    to fail. ``unit``: "agent" or "session", default as in ``[canary]``; ``session_operations``: how many
    operations a session has on average. ``hours``: after which a rollout without an end counts as held.
    """

    agents: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    operations_per_second: float = attrs.field(default=1.0, validator=_positive)
    success: float = attrs.field(default=0.99, validator=_fraction)
    canary_success: float = attrs.field(default=0.9, validator=_fraction)
    latency_ms: float = attrs.field(default=50.0, validator=_positive)
    canary_latency_ms: float | None = None
    unit: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.in_(("agent", "session"))),
    )
    session_operations: float = attrs.field(default=10.0, validator=attrs.validators.ge(1.0))
    heterogeneity: float = attrs.field(default=0.0, validator=attrs.validators.ge(0.0))
    hours: float = attrs.field(default=24.0, validator=_positive)
    runs: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    seed: int = 0


@attrs.frozen(eq=False)
class Trace:
    """Recorded control traffic in order of time: seconds from its start, unit numbers, outcomes."""

    at: Array
    agent: Array
    session: Array
    failed: Array
    latency_ms: Array

    @property
    def span(self) -> float:
        """Seconds from the first record to one mean gap after the last."""
        return float(self.at[-1]) * (1.0 + 1.0 / max(1, len(self.at) - 1)) or 1.0


@attrs.frozen
class Run:
    """One rollout. ``at``: seconds until its end; ``failures``, ``operations``: the canary's.

    ``shares``, ``evidence``: at each health check; ``limits``: the evidence that rolls back there.
    """

    state: CanaryState
    at: float
    failures: int
    operations: int
    reason: str
    events: int
    shares: tuple[float, ...]
    evidence: tuple[float, ...]
    limits: tuple[float, ...]

    @property
    def harm(self) -> tuple[float, ...]:
        """The evidence as a share of what rolls back, within [0, 1]."""
        pairs = zip(self.evidence, self.limits, strict=True)
        return tuple(min(max(value / limit, 0.0), 1.0) for value, limit in pairs)


@attrs.frozen
class Campaign:
    """Many rollouts of one variant, ``success`` being its probability to succeed."""

    success: float
    hours: float
    interval: float
    runs: tuple[Run, ...]

    def count(self, *states: CanaryState) -> int:
        """How many ended in one of the states."""
        return sum(run.state in states for run in self.runs)

    @property
    def promoted(self) -> float:
        """The share that was promoted."""
        return self.count(CanaryState.PROMOTED) / len(self.runs)

    @property
    def rolled_back(self) -> float:
        """The share that was rolled back."""
        return self.count(CanaryState.ROLLED_BACK) / len(self.runs)

    @property
    def held(self) -> float:
        """The share that neither was promoted nor rolled back."""
        return 1.0 - self.promoted - self.rolled_back

    def quantile(self, field: str, q: float, state: CanaryState) -> float | None:
        """A quantile of ``at``, ``failures`` or ``operations`` over the runs that ended so."""
        found = sorted(getattr(run, field) for run in self.runs if run.state == state)
        return float(found[min(len(found) - 1, int(q * len(found)))]) if found else None

    def over_time(self, field: str, q: float) -> list[float]:
        """A quantile over all runs of ``shares``, ``evidence`` or ``harm`` at each health check."""
        length = max(len(run.shares) for run in self.runs)
        rows = []
        for run in self.runs:
            values = list(getattr(run, field))
            end = values[-1]
            if field == "shares" and run.state in ENDED:
                end = 1.0 if run.state == CanaryState.PROMOTED else 0.0
            rows.append(values + [end] * (length - len(values)))
        place = min(len(rows) - 1, int(q * len(rows)))
        return [sorted(column)[place] for column in zip(*rows, strict=True)]


@attrs.frozen
class Simulation:
    """Rollouts of a variant that is no worse, and of one that is; ``notes`` for the operator."""

    world: World
    unit: str
    threshold: float
    harmless: Campaign
    harmful: Campaign | None
    events: int
    notes: tuple[str, ...] = ()

    @property
    def betting(self) -> bool:
        """Is the evidence an e-value, with one threshold throughout? Others' limits are small, or move."""
        campaigns = [each for each in (self.harmless, self.harmful) if each is not None]
        limits = {limit for each in campaigns for run in each.runs for limit in run.limits[1:]}
        return self.threshold >= 20.0 and limits <= {self.threshold}

    @property
    def false_rollbacks(self) -> tuple[float, float, float]:
        """The share of harmless variants rolled back, and its 95 % interval."""
        hits, runs = self.harmless.count(CanaryState.ROLLED_BACK), len(self.harmless.runs)
        return (hits / runs, *wilson(hits, runs))


def wilson(hits: int, runs: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The score interval of a proportion (Wilson, JASA 22, 1927, 209-212); 95 % by default."""
    p = hits / runs
    middle = (p + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z * math.sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs)) / (1 + z * z / runs)
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == runs else middle + half


def read_trace(path: str | Path) -> Trace:
    """Control traffic as JSON lines: ``at`` (seconds), ``agent``, ``session``, ``success``,
    ``latency_ms``.

    ``agent`` or ``session`` may be missing (one stands for the other), ``latency_ms`` too.
    InvalidError names the line that is none.
    """
    import numpy as np

    rows: list[tuple[float, str, str, bool, float]] = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                agent, session = record.get("agent"), record.get("session")
                success = record["success"]
                if (agent is None and session is None) or not isinstance(success, bool):
                    raise ValueError("an agent or a session, and success true or false, are needed")
                row = (
                    float(record["at"]),
                    str(session if agent is None else agent),
                    str(agent if session is None else session),
                    not success,
                    float(record.get("latency_ms") or 0.0),
                )
                if not (math.isfinite(row[0]) and math.isfinite(row[4])):
                    raise ValueError("at and latency_ms must be finite")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidError(
                    f"{path}, line {number} is no record of traffic ({error!r}); expected as in "
                    '{"at": 12.5, "agent": "a7", "session": "s1", "success": true, "latency_ms": 31}'
                ) from None
            rows.append(row)
    if len(rows) < 2:
        raise InvalidError(f"{path} has {len(rows)} records; a trace needs at least 2")
    rows.sort(key=lambda row: row[0])
    at = np.array([row[0] for row in rows])
    return Trace(
        at - at[0],
        np.unique([row[1] for row in rows], return_inverse=True)[1],
        np.unique([row[2] for row in rows], return_inverse=True)[1],
        np.array([row[3] for row in rows]),
        np.array([row[4] for row in rows]),
    )


def simulate(
    config: Config,
    world: World | None = None,
    trace: Trace | None = None,
    *,
    plugins: Iterable[object] = (),
    progress: Progress | None = None,
) -> Simulation:
    """Play ``world.runs`` rollouts of a harmless variant, and as many of the worse one.

    ``progress(done, total)`` is called after every rollout. ConfigError for a policy that can not run.
    """
    world = world or World()
    stage = _Stage(config, world, trace, Registry.collect(config.plugins, plugins))
    good = stage.success
    worse = [world.canary_success] if world.canary_success < good else []
    total = world.runs * (1 + len(worse))
    campaigns = []
    done = 0
    for number, success in enumerate([good, *worse]):
        runs = []
        for run in range(world.runs):
            runs.append(stage.play(success, world.seed + run + number * 1_000_003))
            done += 1
            if progress is not None:
                progress(done, total)
        campaigns.append(Campaign(success, world.hours, stage.interval, tuple(runs)))
    events = sum(run.events for campaign in campaigns for run in campaign.runs)
    return Simulation(
        world,
        stage.unit,
        campaigns[0].runs[0].limits[-1],
        campaigns[0],
        campaigns[1] if worse else None,
        events,
        tuple(stage.notes(good)),
    )


class _Stage:
    """Plays rollouts under one policy in one world."""

    def __init__(
        self, config: Config, world: World, trace: Trace | None, registry: Registry
    ) -> None:
        settings = config.canary
        self._config = config
        self._world = world
        self._trace = trace
        self.unit = world.unit or settings.unit
        self.interval = float(settings.health_check_interval)
        self._ppm = levels(
            settings.initial_fraction,
            settings.ramp_steps,
            settings.ramp,
            settings.levels,
            settings.holdback,
        )
        self._ramp = registry.make(
            "safeguards", settings.use, ramp_options(self._ppm, settings), "canary"
        )
        self._judge = registry.make(
            "judges", settings.judge.use, settings.judge.options, "canary.judge"
        )
        self.success = world.success if trace is None else 1.0 - float(trace.failed.mean())
        self._drawing = Drawing(world, trace, self.unit, self.success)

    def notes(self, good: float) -> Iterable[str]:
        """What the operator should know beside the numbers."""
        eligible = self._world.agents
        if self._trace is not None:
            eligible = int(self._trace.agent.max()) + 1
        if self.unit == "agent" and eligible < self._config.canary.min_eligible:
            yield (
                f"{eligible} agents are fewer than min_eligible = {self._config.canary.min_eligible}: "
                f"canaries.start asks for unit='session' (or unit='agent') explicitly"
            )
        if self._world.canary_success >= good:
            yield (
                f"canary_success = {self._world.canary_success:g} is no harm at a success of {good:.4g}: "
                f"only harmless rollouts were played"
            )

    def play(self, success: float, seed: int) -> Run:
        """One rollout from its start to its end, or to the end of the hours."""
        import numpy as np

        drawn = self._drawing.draw(seed, success)
        rollout = self._rollout(drawn.baseline, seed)
        world, metrics = self._world, self._config.metrics
        slower = 1.0
        if world.canary_latency_ms is not None and success != self.success:
            slower = world.canary_latency_ms / world.latency_ms
        shares, evidence = [rollout.ppm / MILLION], [1.0]
        limits = [rollout.evidence.threshold]
        events = 0
        now = self.interval
        end = world.hours * 3600.0
        while now <= end + 1e-9 and not rollout.ended:
            first, last = np.searchsorted(drawn.at, (now - self.interval, now))
            unit = drawn.unit[first:last]
            canary = drawn.place[unit] < rollout.slice_ppm
            failed = drawn.fails[first:last] | (canary & drawn.worse[first:last])
            latency = np.where(canary, slower, 1.0) * drawn.latency[first:last]
            columns = (drawn.at[first:last], unit, canary, failed, latency)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            proved = now
            for sequence, (at, number, treated, fails, ms) in enumerate(rows, events + 1):
                arm = "canary" if treated else "control"
                seen = Observation("r", arm, f"u{number}", 1, int(fails), at, ms, {}, "", sequence)
                events = sequence
                if rollout.fold((seen,), "") == Verdict.ROLLBACK:
                    proved = at
                    break
            if rollout.verdict == Verdict.ROLLBACK:
                reason = rollout.evidence.reason or "evidence of harm"
                self._step(rollout, sg.Proved(reason), proved)
                now = proved
            else:
                needed = self._needed(drawn, rollout)
                check = health_check(rollout, rollout.weighed, now, metrics.interval, needed)
                self._step(rollout, check, now)
            shares.append(_served(rollout))
            evidence.append(rollout.evidence.e_value)
            limits.append(rollout.evidence.threshold)
            if not rollout.ended:
                now += self.interval
        found = rollout.evidence
        return Run(
            rollout.state.state,
            min(now, end),
            found.canary_failures,
            found.canary_operations,
            rollout.state.reason,
            events,
            tuple(shares),
            tuple(evidence),
            tuple(limits),
        )

    def _rollout(self, baseline: dict[str, Any], seed: int) -> Rollout:
        settings = self._config.canary
        state, _, _ = self._ramp.step(self._ramp.start(), sg.Start(), 0.0, 0.0)
        document = {
            "rollout": "r",
            "variant_id": "canary",
            "control_id": "control",
            "salt": f"{seed & (2**128 - 1):032x}",
            "unit": self.unit,
            "levels": list(self._ppm),
            "attempt": 1,
            "alpha": settings.alpha,
            "min_effect": settings.min_effect,
            "min_operations": settings.min_operations,
            "check_interval": self.interval,
            "processes": settings.processes or 1,
            "level_sequence": 0,
            "started_at": 0.0,
            "guardrails": [],
            "state": self._ramp.dump(state),
        }
        return Rollout(document, 1, self._judge, self._ramp, baseline_from_json(baseline))

    def _step(self, rollout: Rollout, event: sg.Event, now: float) -> None:
        before = rollout.state
        state, _, _ = self._ramp.step(before, event, now, 0.5)
        document = {**rollout.document, "state": self._ramp.dump(state)}
        if state.level != before.level or state.state != before.state:
            document["level_sequence"] = rollout.cursor
        if state.ppm != before.ppm:
            document["share"] = rollout.ratio.share.next(state.ppm, now, rollout.cursor).to_json()
        rollout.take(document, rollout.version + 1)

    def _needed(self, drawn: Traffic, rollout: Rollout) -> int:
        """Units a level needs: no more agents than there are in the share."""
        needed = self._config.canary.min_units
        if self.unit == "session":
            return needed
        inside = int((drawn.place < rollout.slice_ppm).sum())
        return min(needed, max(1, inside))


def _served(rollout: Rollout) -> float:
    if rollout.state.state == CanaryState.PROMOTED:
        return 1.0
    return rollout.ppm / MILLION
