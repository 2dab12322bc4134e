"""What every decider must keep: ``ScorerTests``, ``RuleTests``, ``SafeguardTests``.

A decider is pure: the same input gives the same answer, nothing is changed, nothing is raised.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenolect import safeguards as sg
from xenolect.errors import CorruptError
from xenolect.interfaces import Rule, Safeguard, Scorer
from xenolect.model import (
    Agent,
    AgentContext,
    Candidate,
    PerformanceHistory,
    ProtocolVariant,
    Stability,
    Verdict,
)

__all__ = ["RuleTests", "SafeguardTests", "ScorerTests"]


def _many(examples: int) -> settings:
    # a kit is inherited on purpose: each subclass is another executor of the same method
    shared = [HealthCheck.differing_executors]
    return settings(deadline=None, max_examples=examples, suppress_health_check=shared)


_share = st.floats(0.0, 1.0)
_positive = st.floats(0.0, 1e9, allow_nan=False)


@st.composite
def _candidates(draw: st.DrawFn) -> Candidate:
    count = draw(st.one_of(st.just(0.0), st.floats(0.001, 1e12)))
    measured = count > 0
    failures = count * draw(_share) if measured else 0.0
    median = draw(st.none() | _positive) if measured else None
    return Candidate(
        ProtocolVariant(draw(st.sampled_from(["a", "b", "c", "d"])), optional={"zstd": ">=1.5"}),
        PerformanceHistory(
            count=count,
            failures=failures,
            success_rate=1.0 - failures / count if measured else None,
            latency_ms=median,
            p50=median,
            resource_usage=draw(st.none() | _share) if measured else None,
            throughput=draw(st.none() | _positive) if measured else None,
        ),
        Stability(draw(_positive), draw(_positive)),
        draw(st.none() | st.floats(0.001, 1e6)),
    )


_agents = st.builds(
    lambda preferences: Agent("agent", AgentContext({"zstd": "1.4"}, preferences)),
    st.dictionaries(
        st.sampled_from(["success", "latency", "resource", "throughput", "bytes"]),
        st.floats(0.001, 1e3),
        max_size=5,
    ),
)


class ScorerTests:
    """Write ``make(self)``: a scorer with its defaults."""

    def make(self) -> Scorer:
        """A fresh scorer."""
        raise AssertionError("override make() to return the scorer under test")

    @_many(60)
    @given(batch=st.lists(_candidates(), max_size=6), agent=_agents)
    def test_one_number_in_range_per_candidate(self, batch: list[Candidate], agent: Agent) -> None:
        """Any history and any preferences: as many answers as candidates, each in [0, 1]."""
        scores = [float(x) for x in self.make().score(batch, agent)]

        assert len(scores) == len(batch)
        assert all(0.0 <= x <= 1.0 for x in scores)

    @_many(40)
    @given(batch=st.lists(_candidates(), min_size=1, max_size=5), agent=_agents)
    def test_it_is_pure(self, batch: list[Candidate], agent: Agent) -> None:
        """The same input gives the same answer, also from a fresh one, and is not changed."""
        before = copy.copy(batch)
        scorer = self.make()

        first = list(scorer.score(batch, agent))
        again = list(scorer.score(batch, agent))

        assert first == again == list(self.make().score(batch, agent))
        assert batch == before

    @_many(40)
    @given(batch=st.lists(_candidates(), min_size=2, max_size=5), agent=_agents)
    def test_the_order_of_candidates_does_not_matter(
        self, batch: list[Candidate], agent: Agent
    ) -> None:
        """Turning the batch round turns the answers round."""
        scorer = self.make()

        assert list(scorer.score(batch[::-1], agent)) == list(scorer.score(batch, agent))[::-1]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


class RuleTests:
    """Write ``make(self)``: a rule with its defaults."""

    def make(self) -> Rule:
        """A fresh rule."""
        raise AssertionError("override make() to return the rule under test")

    @_many(100)
    @given(
        capabilities=st.dictionaries(st.sampled_from(["zstd", "mcp", "x"]), _json, max_size=3),
        requirements=st.dictionaries(
            st.sampled_from(["zstd", "mcp", "version", "custom.a"]),
            st.sampled_from(
                [">=1.5,<3", {"at_least": 2}, {"any_of": ["a", "b"]}, True, False, 3, "1.2"]
            ),
            max_size=3,
        ),
    )
    def test_it_answers_with_words_or_none(
        self, capabilities: dict[str, Any], requirements: dict[str, Any]
    ) -> None:
        """Whatever an agent declares: a reason in words or None, twice the same, never an error."""
        variant = ProtocolVariant("v", requirements=requirements, conflicts={"x": True})
        context = AgentContext(capabilities)
        rule = self.make()

        reason = rule.refuses(variant, context)

        assert reason is None or (isinstance(reason, str) and reason.strip())
        assert rule.refuses(variant, context) == reason


_EVENTS = (
    sg.Acquire(),
    sg.Outcome(successes=1),
    sg.Outcome(failures=1),
    sg.Outcome(failures=5),
    sg.Outcome(ignored=True),
    sg.Outcome(failures=1, token=sg.Token(0)),
    sg.Outcome(successes=1, token=sg.Token(2, 1)),
    sg.Tick(),
    sg.ForceOpen(),
    sg.Disable(1e6),
    sg.Reset(),
    sg.Start(),
    sg.Check(Verdict.PROMOTE, True, True, True),
    sg.Check(Verdict.HOLD, True, True, False),
    sg.Check(Verdict.CONTINUE, False, False, True, missing="no data"),
    sg.Proved("harm"),
    sg.BreakerNews("open"),
    sg.BreakerNews("closed"),
    sg.BreakerNews("latched", control_shut=True),
    sg.Pause(),
    sg.Resume(),
    sg.Promote(evidence=False),
    sg.Abort(),
)
_ACTIONS = (sg.Changed, sg.AskRollback, sg.SetShare, sg.Finish, sg.RollBack, sg.Alert)


class SafeguardTests:
    """Write ``make(self)``: a breaker or a ramp with its defaults."""

    def make(self) -> Safeguard[Any]:
        """A fresh safeguard."""
        raise AssertionError("override make() to return the safeguard under test")

    @_many(150)
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(_EVENTS),
                st.sampled_from([0.0, 1.0, 40.0, 400.0]),
                st.floats(0, 0.99),
            ),
            max_size=40,
        )
    )
    def test_it_is_pure_and_can_be_stored(self, steps: list[tuple[sg.Event, float, float]]) -> None:
        """Any history: the same step twice gives the same, the state before is untouched, every state
        survives JSON, and only known actions are asked for."""
        machine, state, now = self.make(), self.make().start(), 1_000.0
        for event, pause, draw in steps:
            now += pause
            before = json.dumps(machine.dump(state))

            after = machine.step(state, event, now, draw)

            assert after == self.make().step(state, event, now, draw)
            assert json.dumps(machine.dump(state)) == before
            state, reply, actions = after
            assert reply is None or isinstance(reply, (sg.Admit, sg.Refuse))
            assert all(isinstance(action, _ACTIONS) for action in actions)
            assert machine.load(json.loads(json.dumps(machine.dump(state)))) == state

    @pytest.mark.parametrize("garbage", [None, {}, [], "x", {"state": "no such state"}])
    def test_what_can_not_be_read_is_corrupt(self, garbage: Any) -> None:
        """Reading garbage is a CorruptError, never a guess."""
        with pytest.raises(CorruptError):
            self.make().load(garbage)
