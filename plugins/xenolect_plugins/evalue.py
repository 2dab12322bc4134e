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
from xenolect.judges import AT_RISK, SILENT, Baseline, Evidence, Guardrail, JudgeConfig
from xenolect.model import Verdict
from xenolect.units import Seconds
from xenolect_plugins._control import ControlWatch
from xenolect_plugins._eprocesses import Collapse, Cooling
from xenolect_plugins._guardrails import GATES, Guardrails, Settings

__all__ = ["EValue", "EValueState"]

_FORMAT = 2
# Names of our own: Python 3.11 takes 0.1 us to look a member of an enumeration up.
HOLD, CONTINUE, PROMOTE, ROLLBACK = (
    Verdict.HOLD,
    Verdict.CONTINUE,
    Verdict.PROMOTE,
    Verdict.ROLLBACK,
)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@attrs.define
class EValueState:
    """Everything the judge knows of one rollout; owned by one writer.

    ``pooled`` is the failure probability over the baseline's units. ``seen`` holds the units heard
    per arm, up to a limit; ``silent`` how many of each arm fell silent; ``trouble`` the control's failure
    rate above which it proves nothing.
    """

    config: JudgeConfig
    baseline: Baseline
    pooled: float
    cooling: Cooling
    counted: Cooling
    watch: ControlWatch
    guardrails: Guardrails
    collapse: Collapse
    now: float = -math.inf
    operations: list[int] = attrs.field(factory=lambda: [0, 0])
    failures: list[int] = attrs.field(factory=lambda: [0, 0])
    seen: tuple[dict[str, None], dict[str, None]] = attrs.field(factory=lambda: ({}, {}))
    silent: list[int] = attrs.field(factory=lambda: [0, 0])
    highest: float = 1.0
    harm: str = ""
    trouble: float = 0.0
    known: dict[str, float] = attrs.field(factory=dict, init=False)
    _stranger: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._stranger = self._shrunk(0, 0)

    def expected(self, unit: str) -> float:
        """The failure probability of a unit before the rollout, shrunk to the pooled rate.

        ``m_i = clip((f_i + 50 p) / (n_i + 50), 1e-4, .5)``: 50 operations of prior weight.
        """
        known = self.known.get(unit)
        if known is None:
            counts = self.baseline.units.get(unit)
            if counts is None:
                return self._stranger
            known = self.known[unit] = self._shrunk(*counts)
        return known

    def _shrunk(self, operations: int, failures: int) -> float:
        return _clip((failures + 50.0 * self.pooled) / (operations + 50.0), 1e-4, 0.5)


@attrs.frozen
class EValue:
    """Judge by e-values.

    ``rho``: the ratio of failure rates that is still tolerated. ``ni_factor``: promotion must
    exclude a difference of ``ni_factor * d``, where d is the larger of ``min_effect`` and half the
    pooled failure rate (within ``least_margin`` and ``most_margin``). ``cool_down``: how long a
    unit's further failures count as the same incident; choose it above the 95th percentile of
    incident lengths. ``hold_at`` and ``promote_at`` are e-values; rollback is at ``1 / alpha``.

    Latencies are compared as ranks within the unit's own baseline if it has ``least_latencies``, else
    within the pooled one; without so many in the pool latency is not judged. ``latency_ratio`` is
    tolerated in location and in the tail (beyond the quantile ``tail``), ``ni_latency_ratio`` is what
    promotion must exclude in both. Failure shares are compared per unit and ``window``, latencies and
    declared metrics per unit and ``latency_window``. ``latency = false`` leaves latency out. ``gates``:
    in which of ``failures``, ``latency`` and ``tail`` promotion asks for non-inferiority; the tail
    takes the most operations to show (some 2,000 at a spread of .5, more when it is larger).

    Without control only a collapse is proof: failure probability above ``collapse_floor`` and
    ``collapse_factor`` times the unit's own baseline. ``control_window``, ``overdue`` and
    ``overdue_in_window`` say when control counts as missing. ``max_units`` bounds the memory: units
    beyond it are judged, but no longer counted apart.
    """

    cool_down: Seconds = Seconds(600.0)
    rho: float = attrs.field(default=1.5, validator=attrs.validators.ge(1.0))
    ni_factor: float = attrs.field(default=2.0, validator=attrs.validators.gt(0.0))
    latency: bool = True
    latency_ratio: float = attrs.field(default=1.10, validator=attrs.validators.ge(1.0))
    ni_latency_ratio: float = attrs.field(default=1.25, validator=attrs.validators.ge(1.0))
    gates: tuple[str, ...] = attrs.field(
        default=GATES, validator=attrs.validators.deep_iterable(attrs.validators.in_(GATES))
    )
    tail: float = attrs.field(
        default=0.95,
        validator=attrs.validators.and_(attrs.validators.gt(0.0), attrs.validators.lt(1.0)),
    )
    least_latencies: int = attrs.field(default=200, validator=attrs.validators.ge(1))
    window: Seconds = Seconds(300.0)
    latency_window: Seconds = Seconds(60.0)
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
        share = _clip(config.share, 0.001, 0.999)
        d = max(config.min_effect, _clip(pooled / 2.0, self.least_margin, self.most_margin))
        settings = Settings(
            difference=d,
            inferior=self.ni_factor * d,
            rho=self.rho,
            latency_ratio=self.latency_ratio,
            inferior_latency_ratio=self.ni_latency_ratio,
            tail=self.tail,
            least=self.least_latencies,
            window=self.window,
            latency_window=self.latency_window,
            gates=self.gates,
            limit=self.max_units,
        )
        if not self.latency:
            baseline = attrs.evolve(baseline, latency=(), unit_latency={})
        return EValueState(
            config=config,
            baseline=baseline,
            pooled=pooled,
            cooling=Cooling(self.cool_down, self.max_units),
            counted=Cooling(self.cool_down, self.max_units),
            watch=ControlWatch(
                share / (1.0 - share), self.control_window, self.overdue, self.overdue_in_window
            ),
            guardrails=Guardrails(settings, baseline, config),
            collapse=Collapse(),
            trouble=min(
                max(self.collapse_floor, self.collapse_factor * _clip(pooled, 1e-4, 0.5)), 0.9
            ),
        )

    def update(
        self, state: EValueState, records: Sequence[Observation]
    ) -> tuple[Verdict, Evidence]:
        """Fold the records in order, until one proves harm; what comes after that is not looked at."""
        for record in records:
            if state.harm:
                break
            self._fold(state, record)
        return self._verdict(state)

    def proves(self, state: EValueState, records: Sequence[Observation]) -> bool:
        """Fold the records as ``update`` does; whether they prove harm, without what else they say."""
        for record in records:
            if state.harm:
                break
            self._fold(state, record)
        return bool(state.harm)

    def _fold(self, state: EValueState, record: Observation) -> None:
        """One record. Within ``record`` of every call in a rollout, hence written out: 1 us."""
        operations = record.operations
        if operations < 1 or not math.isfinite(record.at):
            return  # says nothing; refused where it came in, here it must only do no harm
        canary = record.arm == "canary"
        if not canary and record.arm != "control":
            return
        unit = record.unit
        now = state.now = max(state.now, record.at)
        arm = 0 if canary else 1
        guardrails = state.guardrails
        changed = guardrails.close(now)
        if record.custom and SILENT in record.custom:
            changed |= self._silence(state, record, unit, now)
        else:
            failures = record.failures
            if failures:
                failures = min(max(failures, 0), operations)
            state.operations[arm] += operations
            state.failures[arm] += failures
            seen = state.seen[arm]
            if unit not in seen and len(seen) < self.max_units:
                seen[unit] = None
            expected = state.known.get(unit)
            if expected is None:
                expected = state.expected(unit)
            if failures:
                changed |= self._event(state, unit, canary, expected * operations, now)
            elif unit not in state.cooling.until or not state.cooling.holds(unit, now):
                guardrails.failure_ratio.expose(canary, expected * operations)
            residual = failures - operations * expected
            guardrails.add(record, now, canary, failures, residual, self._troubled(state))
            if not canary:
                state.watch.control(unit, now, failures / operations)
                if state.collapse.capital is not None:
                    state.collapse.end()
            else:
                if state.watch.missing(now):
                    self._collapse(state, unit, failures / operations, expected)
                state.watch.canary(unit, now)

        threshold = 1.0 / state.config.alpha
        if changed:
            guardrails.weigh()
            state.highest = max(state.highest, guardrails.e_value)
            if guardrails.e_value >= threshold:
                state.harm = guardrails.strongest()
        if not state.harm and state.collapse.value >= threshold:
            state.harm = "collapse_without_control"

    def _event(
        self, state: EValueState, unit: str, canary: bool, expected: float, now: float
    ) -> bool:
        """A failure of a unit; whether it counts, or belongs to an incident already counted."""
        if state.cooling.holds(unit, now):
            return False
        state.guardrails.failure_ratio.expose(canary, expected)
        state.guardrails.failure_ratio.event(canary)
        state.cooling.add(unit, now)
        return True

    def _silence(self, state: EValueState, record: Observation, unit: str, now: float) -> bool:
        """A unit that said nothing where it should have: a failure among all units that could."""
        canary = record.arm == "canary"
        state.silent[0 if canary else 1] += 1
        a_c, a_b = (record.custom.get(name, 0.0) for name in AT_RISK)
        if state.cooling.holds(unit, now) or not (math.isfinite(a_c) and math.isfinite(a_b)):
            return False
        state.guardrails.failure_ratio.event_among(canary, a_c, a_b)
        state.cooling.add(unit, now)
        return True

    def _troubled(self, state: EValueState) -> bool:
        """Whether control fails so much that looking no worse beside it proves nothing.

        In a total outage both arms fail alike: 300 operations of it would "show" non-inferiority.
        """
        return state.watch.failing > state.trouble

    def _collapse(self, state: EValueState, unit: str, share: float, expected: float) -> None:
        q = max(self.collapse_floor, self.collapse_factor * expected)
        if q < 0.9 and not state.counted.holds(unit, state.now):
            state.counted.add(unit, state.now)
            state.collapse.bet(q, share)

    def _verdict(self, state: EValueState) -> tuple[Verdict, Evidence]:
        guardrails, collapse = state.guardrails, state.collapse.value
        e_value = guardrails.e_value
        awaited, shown = guardrails.weakest()
        if state.harm:
            verdict, reason = ROLLBACK, state.harm
        elif not state.operations[0]:
            verdict, reason = HOLD, "no data"
        elif collapse >= self.hold_at:
            verdict, reason = HOLD, "collapse_without_control"
        elif e_value >= self.hold_at:
            verdict, reason = HOLD, guardrails.strongest()
        elif state.watch.missing(state.now):
            verdict, reason = HOLD, "no control"
        elif self._troubled(state):
            verdict, reason = HOLD, "control in trouble"
        elif shown >= self.promote_at:
            verdict, reason = PROMOTE, "non_inferiority"
        else:
            verdict, reason = CONTINUE, ""
        return verdict, Evidence(
            e_value=e_value,
            threshold=1.0 / state.config.alpha,
            noninferiority=shown,
            promote_at=self.promote_at,
            reason=reason,
            parts=guardrails.parts() | {"collapse": collapse},
            canary_operations=state.operations[0],
            canary_failures=state.failures[0],
            canary_units=len(state.seen[0]),
            control_operations=state.operations[1],
            control_failures=state.failures[1],
            control_units=len(state.seen[1]),
            detail={
                "pooled": state.pooled,
                "margin": guardrails.settings.inferior,
                "highest": state.highest,
                "p_value": min(1.0, 1.0 / state.highest),
                "awaited": awaited,
                "episodes_without_control": state.collapse.episodes,
                "blocks": guardrails.inferiority["non_inferiority"].blocks,
                "silent": list(state.silent),
            },
        )

    def dump(self, state: EValueState) -> bytes:
        """The state as JSON; Python writes floats so that they come back bit for bit."""
        body = {
            "format": _FORMAT,
            "config": attrs.asdict(state.config),
            "baseline": attrs.asdict(state.baseline),
            "cooling": list(state.cooling.until.items()),
            "counted": list(state.counted.until.items()),
            "watch": state.watch.dump(),
            "guardrails": state.guardrails.dump(),
            "collapse": state.collapse.dump(),
            "now": state.now if math.isfinite(state.now) else None,
            "operations": state.operations,
            "failures": state.failures,
            "seen": [list(units) for units in state.seen],
            "silent": state.silent,
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
            state = self.start(_baseline(body["baseline"]), _config(body["config"]))
            state.cooling.until = dict(body["cooling"])
            state.counted.until = dict(body["counted"])
            state.watch.load(body["watch"])
            state.guardrails.load(body["guardrails"])
            state.collapse.load(body["collapse"])
            state.now = -math.inf if body["now"] is None else body["now"]
            state.operations, state.failures = body["operations"], body["failures"]
            canary, control = body["seen"]
            state.seen = (dict.fromkeys(canary), dict.fromkeys(control))
            state.silent = body["silent"]
            state.highest, state.harm = body["highest"], body["harm"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(
                f"the judge's state can not be read ({type(error).__name__}: {error}); "
                "start it again from the rollout's stored observations"
            ) from error
        return state


def _pairs(bins: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(index), int(count)) for index, count in bins)


def _baseline(body: dict[str, Any]) -> Baseline:
    return Baseline(
        body["operations"],
        body["failures"],
        {unit: (n, f) for unit, (n, f) in body["units"].items()},
        _pairs(body["latency"]),
        {unit: _pairs(bins) for unit, bins in body["unit_latency"].items()},
    )


def _config(body: dict[str, Any]) -> JudgeConfig:
    guardrails = tuple(Guardrail(**each) for each in body["guardrails"])
    return JudgeConfig(**body | {"levels": tuple(body["levels"]), "guardrails": guardrails})


@hookimpl
def xenolect_judges() -> Iterable[Offer[EValue]]:
    """Offer the default judge."""
    yield offer("evalue", EValue)
