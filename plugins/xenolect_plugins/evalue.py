"""The default judge: e-values, which may be looked at after every record without lying.

Rolls back on the first record that proves harm, promotes only on positive evidence, and never
blames the canary for trouble that the control shares. The processes and their hypotheses are in
``docs/safeguards.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from xenolect.errors import CorruptError
from xenolect.facts import Observation
from xenolect.hookspecs import Offer, hookimpl, offer
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins._control import ControlWatch
from xenolect_plugins._eprocesses import Collapse, Cooling, LogRank, NonInferiority, geometric

__all__ = ["EValue", "EValueState"]

_FORMAT = 1


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@attrs.define
class EValueState:
    """Everything the judge knows of one rollout; owned by one writer.

    ``units`` are the frozen baselines ``(operations, failures)``; ``pooled`` the failure probability
    over all of them. ``seen`` holds the units heard per arm, up to a limit.
    """

    config: JudgeConfig
    pooled: float
    units: dict[str, tuple[int, int]]
    cooling: Cooling
    counted: Cooling
    watch: ControlWatch
    failure_ratio: LogRank
    noninferiority: NonInferiority
    collapse: Collapse
    now: float = -math.inf
    operations: list[int] = attrs.field(factory=lambda: [0, 0])
    failures: list[int] = attrs.field(factory=lambda: [0, 0])
    seen: tuple[dict[str, None], dict[str, None]] = attrs.field(factory=lambda: ({}, {}))
    highest: float = 1.0
    harm: str = ""

    def expected(self, unit: str) -> float:
        """The failure probability of a unit before the rollout, shrunk to the pooled rate.

        ``m_i = clip((f_i + 50 p) / (n_i + 50), 1e-4, .5)``: 50 operations of prior weight.
        """
        operations, failures = self.units.get(unit, (0, 0))
        return _clip((failures + 50.0 * self.pooled) / (operations + 50.0), 1e-4, 0.5)


@attrs.frozen
class EValue:
    """Judge by e-values.

    ``rho``: the ratio of failure rates that is still tolerated. ``ni_factor``: promotion must
    exclude a difference of ``ni_factor * d``, where d is the larger of ``min_effect`` and half the
    pooled failure rate (within ``least_margin`` and ``most_margin``). ``cool_down``: how long a
    unit's further failures count as the same incident; choose it above the 95th percentile of
    incident lengths. ``hold_at`` and ``promote_at`` are e-values; rollback is at ``1 / alpha``.

    Without control only a collapse is proof: failure probability above ``collapse_floor`` and
    ``collapse_factor`` times the unit's own baseline. ``control_window``, ``overdue`` and
    ``overdue_in_window`` say when control counts as missing. ``max_units`` bounds the memory: units
    beyond it are judged, but no longer counted apart.
    """

    cool_down: Seconds = Seconds(600.0)
    rho: float = attrs.field(default=1.5, validator=attrs.validators.ge(1.0))
    ni_factor: float = attrs.field(default=2.0, validator=attrs.validators.gt(0.0))
    least_margin: float = 0.001
    most_margin: float = 0.02
    hold_at: float = attrs.field(default=20.0, validator=attrs.validators.gt(1.0))
    promote_at: float = attrs.field(default=20.0, validator=attrs.validators.gt(1.0))
    collapse_floor: float = attrs.field(default=0.2, validator=attrs.validators.gt(0.0))
    collapse_factor: float = attrs.field(default=5.0, validator=attrs.validators.ge(1.0))
    control_window: Seconds = Seconds(60.0)
    overdue: float = attrs.field(default=20.0, validator=attrs.validators.gt(0.0))
    overdue_in_window: float = attrs.field(default=12.0, validator=attrs.validators.gt(0.0))
    max_units: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))

    def start(self, baseline: Baseline, config: JudgeConfig) -> EValueState:
        """The state before the first observation: the baseline is frozen here."""
        pooled = (baseline.failures + 1.0) / (baseline.operations + 100.0)
        units = {unit: (int(n), int(f)) for unit, (n, f) in baseline.units.items()}
        return self._state(config, pooled, units)

    def update(
        self, state: EValueState, records: Sequence[Observation]
    ) -> tuple[Verdict, Evidence]:
        """Fold the records in order, until one proves harm; what comes after that is not looked at."""
        for record in records:
            if state.harm:
                break
            self._fold(state, record)
        return self._verdict(state)

    def _state(
        self, config: JudgeConfig, pooled: float, units: dict[str, tuple[int, int]]
    ) -> EValueState:
        share = _clip(config.share, 0.001, 0.999)
        d = max(config.min_effect, _clip(pooled / 2.0, self.least_margin, self.most_margin))
        return EValueState(
            config=config,
            pooled=pooled,
            units=units,
            cooling=Cooling(self.cool_down, self.max_units),
            counted=Cooling(self.cool_down, self.max_units),
            watch=ControlWatch(
                share / (1.0 - share), self.control_window, self.overdue, self.overdue_in_window
            ),
            failure_ratio=LogRank(
                self.rho, tuple(self.rho * step for step in geometric(1.15, 50.0, 16))
            ),
            noninferiority=NonInferiority(self.ni_factor * d, geometric(0.01, 0.95, 16)),
            collapse=Collapse(),
        )

    def _fold(self, state: EValueState, record: Observation) -> None:
        operations = record.operations
        if operations < 1 or not math.isfinite(record.at):
            return  # says nothing; refused where it came in, here it must only do no harm
        canary = record.arm == "canary"
        if not canary and record.arm != "control":
            return
        failures = min(max(record.failures, 0), operations)
        unit = record.unit
        now = state.now = max(state.now, record.at)
        arm = 0 if canary else 1
        state.operations[arm] += operations
        state.failures[arm] += failures
        seen = state.seen[arm]
        if unit not in seen and len(seen) < self.max_units:
            seen[unit] = None

        expected = state.expected(unit)
        if not state.cooling.holds(unit, now):
            state.failure_ratio.expose(canary, expected * operations)
            if failures:
                state.failure_ratio.event(canary)
                state.cooling.add(unit, now)
        if not self._troubled(state):
            state.noninferiority.add(canary, operations, failures - operations * expected)
        if not canary:
            state.watch.control(unit, now, failures / operations)
            state.collapse.end()
        else:
            if state.watch.missing(now):
                self._collapse(state, unit, failures / operations, expected)
            state.watch.canary(unit, now)

        e_value = state.failure_ratio.value
        state.highest = max(state.highest, e_value)
        threshold = 1.0 / state.config.alpha
        if e_value >= threshold:
            state.harm = "failure_ratio"
        elif state.collapse.value >= threshold:
            state.harm = "collapse_without_control"

    def _troubled(self, state: EValueState) -> bool:
        """Whether control fails so much that looking no worse beside it proves nothing.

        In a total outage both arms fail alike: 300 operations of it would "show" non-inferiority.
        """
        usual = _clip(state.pooled, 1e-4, 0.5)
        return state.watch.failing > min(
            max(self.collapse_floor, self.collapse_factor * usual), 0.9
        )

    def _collapse(self, state: EValueState, unit: str, share: float, expected: float) -> None:
        q = max(self.collapse_floor, self.collapse_factor * expected)
        if q < 0.9 and not state.counted.holds(unit, state.now):
            state.counted.add(unit, state.now)
            state.collapse.bet(q, share)

    def _verdict(self, state: EValueState) -> tuple[Verdict, Evidence]:
        e_value, collapse = state.failure_ratio.value, state.collapse.value
        if state.harm:
            verdict, reason = Verdict.ROLLBACK, state.harm
        elif not state.operations[0]:
            verdict, reason = Verdict.HOLD, "no data"
        elif collapse >= self.hold_at:
            verdict, reason = Verdict.HOLD, "collapse_without_control"
        elif e_value >= self.hold_at:
            verdict, reason = Verdict.HOLD, "failure_ratio"
        elif state.watch.missing(state.now):
            verdict, reason = Verdict.HOLD, "no control"
        elif self._troubled(state):
            verdict, reason = Verdict.HOLD, "control in trouble"
        elif state.noninferiority.value >= self.promote_at:
            verdict, reason = Verdict.PROMOTE, "non_inferiority"
        else:
            verdict, reason = Verdict.CONTINUE, ""
        return verdict, Evidence(
            e_value=e_value,
            threshold=1.0 / state.config.alpha,
            noninferiority=state.noninferiority.value,
            promote_at=self.promote_at,
            reason=reason,
            parts={
                "failure_ratio": e_value,
                "collapse": collapse,
                "non_inferiority": state.noninferiority.value,
            },
            canary_operations=state.operations[0],
            canary_failures=state.failures[0],
            canary_units=len(state.seen[0]),
            control_operations=state.operations[1],
            control_failures=state.failures[1],
            control_units=len(state.seen[1]),
            detail={
                "pooled": state.pooled,
                "margin": state.noninferiority.margin,
                "highest": state.highest,
                "p_value": min(1.0, 1.0 / state.highest),
                "episodes_without_control": state.collapse.episodes,
                "blocks": state.noninferiority.blocks,
            },
        )

    def dump(self, state: EValueState) -> bytes:
        """The state as JSON; Python writes floats so that they come back bit for bit."""
        config = attrs.asdict(state.config)
        body = {
            "format": _FORMAT,
            "config": config,
            "pooled": state.pooled,
            "units": [[unit, n, f] for unit, (n, f) in state.units.items()],
            "cooling": list(state.cooling.until.items()),
            "counted": list(state.counted.until.items()),
            "watch": state.watch.dump(),
            "failure_ratio": state.failure_ratio.dump(),
            "noninferiority": state.noninferiority.dump(),
            "collapse": state.collapse.dump(),
            "now": state.now if math.isfinite(state.now) else None,
            "operations": state.operations,
            "failures": state.failures,
            "seen": [list(units) for units in state.seen],
            "highest": state.highest,
            "harm": state.harm,
        }
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()

    def load(self, data: bytes) -> EValueState:
        """Read what ``dump`` wrote; CorruptError when it is something else."""
        try:
            body: dict[str, Any] = json.loads(data)
            if body["format"] != _FORMAT:
                raise CorruptError(
                    f"the judge's state has format {body['format']!r}, this release reads {_FORMAT}; "
                    "update xenolect, or abort the rollout and start it again"
                )
            config = body["config"]
            config["levels"] = tuple(config["levels"])
            state = self._state(
                JudgeConfig(**config), body["pooled"], {u: (n, f) for u, n, f in body["units"]}
            )
            state.cooling.until = dict(body["cooling"])
            state.counted.until = dict(body["counted"])
            state.watch.load(body["watch"])
            state.failure_ratio.load(body["failure_ratio"])
            state.noninferiority.load(body["noninferiority"])
            state.collapse.load(body["collapse"])
            state.now = -math.inf if body["now"] is None else body["now"]
            state.operations, state.failures = body["operations"], body["failures"]
            canary, control = body["seen"]
            state.seen = (dict.fromkeys(canary), dict.fromkeys(control))
            state.highest, state.harm = body["highest"], body["harm"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(
                f"the judge's state can not be read ({type(error).__name__}: {error}); "
                "start it again from the rollout's stored observations"
            ) from error
        return state


@hookimpl
def xenolect_judges() -> Iterable[Offer[EValue]]:
    """Offer the default judge."""
    yield offer("evalue", EValue)
