"""The three policies through the kit for scorers, against their own formulas, and against misuse."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from xenolect_bandit.arms import squashed
from xenolect_bandit.features import read_features
from xenolect_bandit.linear import LinUcb
from xenolect_bandit.policies import Thompson, Ucb

from xenolect import (
    Agent,
    AgentContext,
    Candidate,
    ConfigError,
    EmergenceManager,
    PerformanceHistory,
    ProtocolVariant,
)
from xenolect.interfaces import Scorer
from xenolect.testing import ScorerTests

FEATURES = {"changes.wire": ["json", "cbor"], "changes.batch": [0, 100]}
AGENT = Agent("agent")


class TestThompson(ScorerTests):
    """It keeps every promise of a scorer."""

    def make(self) -> Scorer:
        """A scorer with its defaults."""
        return Thompson()


class TestUcb(ScorerTests):
    """It keeps every promise of a scorer."""

    def make(self) -> Scorer:
        """A scorer with its defaults."""
        return Ucb()


class TestLinUcb(ScorerTests):
    """It keeps every promise of a scorer."""

    def make(self) -> Scorer:
        """A scorer with its defaults, and a feature that the kit's variants do not have."""
        return LinUcb(read_features(FEATURES))


def seen(name: str, count: float = 0.0, failures: float = 0.0, **changes: Any) -> Candidate:
    """A variant with so many operations and failures."""
    rate = 1.0 - failures / count if count else None
    history = PerformanceHistory(count=count, failures=failures, success_rate=rate)
    return Candidate(ProtocolVariant(name, changes=changes), history)


def policies() -> list[Scorer]:
    """One of each."""
    return [Thompson(), Ucb(), LinUcb(read_features(FEATURES))]


# -- what each believes -----------------------------------------------------------------------------


def test_thompson_draws_from_the_posterior() -> None:
    """Over 400 seeds the draws have the mean and the deviation of Beta(1 + 45, 1 + 5)."""
    draws = [Thompson(seed).score([seen("a", 50.0, 5.0)], AGENT)[0] for seed in range(400)]

    mean = sum(draws) / len(draws)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in draws) / (len(draws) - 1))
    expected = 46 / 52
    spread = math.sqrt(expected * (1 - expected) / 53)
    assert abs(mean - expected) < 4 * spread / 20
    assert 0.8 < deviation / spread < 1.2


def test_the_cap_widens_the_posterior_and_keeps_its_mean() -> None:
    """A million operations are drawn like as many as the cap: as wide, around the same share."""
    draws = [Thompson(s, cap=100).score([seen("a", 1e6, 1e5)], AGENT)[0] for s in range(200)]

    assert abs(sum(draws) / 200 - 91 / 102) < 0.01
    assert max(draws) - min(draws) > 0.1


def test_each_new_measurement_draws_anew_and_the_same_evidence_alike() -> None:
    """Also of a variant that was not measured, and of those at the cap: no unlucky draw lasts."""
    before = Thompson().score([seen("a", 5e6, 5.0), seen("b", 10.0, 4.0), seen("c")], AGENT)
    again = Thompson().score([seen("a", 5e6, 5.0), seen("b", 10.0, 4.0), seen("c")], AGENT)
    after = Thompson().score([seen("a", 5e6 + 1, 5.0), seen("b", 10.0, 4.0), seen("c")], AGENT)

    assert before == again
    assert all(x != y for x, y in zip(before, after, strict=True))


def test_ucb_is_its_formula() -> None:
    """Mean plus alpha sqrt(2 ln N / n), squashed; the mean is exact, and the unknown come first."""
    scores = Ucb(0.25).score([seen("a", 90.0, 27.0), seen("b", 10.0), seen("c")], AGENT)

    a = 63 / 90 + 0.25 * math.sqrt(2 * math.log(100) / 90)
    b = 1.0 + 0.25 * math.sqrt(2 * math.log(100) / 10)
    assert scores[:2] == pytest.approx([a / 2, 1 - 1 / (2 * b)])
    assert scores[2] == 1.0


def test_linucb_is_its_formula() -> None:
    """Ridge regression by hand on two variants that share nothing but the constant."""
    scorer = LinUcb(read_features(FEATURES), alpha=0.3, ridge=2.0, individual=0.0)
    scores = scorer.score([seen("a", 8.0, 2.0, wire="json"), seen("b", wire="xml")], AGENT)

    # A = 2 I + 8 [[1, 1], [1, 1]] on (1, json): inverse (10, -8; -8, 10) / 36, b = 8 (.75 - .5) (1, 1).
    known = 0.5 + 2 * (2 * 2.0 / 36) + 0.3 * math.sqrt(4 / 36)
    other = 0.5 + 2 * 2.0 / 36 + 0.3 * math.sqrt(10 / 36)
    assert scores == pytest.approx([known / 2, other / 2])


def test_linucb_knows_a_variant_by_its_neighbours() -> None:
    """Never tried, but of the better wire; and one that is worse than its features is found out."""
    known = [seen(f"j{b}", 200.0, 60.0, wire="json", batch=b) for b in (0, 50, 100)]
    known += [seen(f"c{b}", 200.0, 6.0, wire="cbor", batch=b) for b in (0, 100)]
    new = [seen("new-json", wire="json", batch=25), seen("new-cbor", wire="cbor", batch=25)]
    odd = seen("odd", 200.0, 80.0, wire="cbor", batch=50)

    scores = LinUcb(read_features(FEATURES)).score([*known, *new, odd], AGENT)

    assert scores[-2] > scores[-3] + 0.02
    assert scores[-1] < min(scores[3], scores[4])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(25, [0.75, 0.25]), (-9, [1.0, 0.0]), (1e9, [0.0, 1.0]), ("25", [0.0, 0.0]), (True, [0, 0])],
)
def test_a_number_is_read_between_its_bounds(value: Any, expected: list[float]) -> None:
    """And what is no number, or is not there, is neither low nor high."""
    (batch,) = read_features({"changes.batch": [0, 100]})

    assert batch.of(seen("a", batch=value).variant) == expected
    assert batch.of(seen("a").variant) == [0.0, 0.0]


def test_words_booleans_and_nested_paths_are_read() -> None:
    """True is not 1, and a path may lead deeper or to nothing."""
    fast, level = read_features({"changes.wire.fast": [False, True], "metadata.level": [0, 1]})

    assert fast.of(seen("a", wire={"fast": True}).variant) == [0.0, 1.0]
    assert fast.of(seen("a", wire={"fast": 1}).variant) == [0.0, 0.0]
    assert fast.of(seen("a", wire="fast").variant) == [0.0, 0.0]
    assert level.of(ProtocolVariant("a", metadata={"level": 1})) == [0.0, 1.0]


def test_squashing_keeps_the_order_and_one_slope() -> None:
    """Any bound up to infinity, in [0, 1]; equal steps up to 1 stay equal."""
    bounds = [0.0, 0.25, 0.5, 0.75, 1.0, 1.001, 2.0, 1e6, math.inf]
    scores = [squashed(bound) for bound in bounds]

    assert scores[:5] == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert scores == sorted(set(scores))
    assert (squashed(-1.0), scores[-1]) == (0.0, 1.0)


# -- one more variant -------------------------------------------------------------------------------


def test_a_variant_without_measurements_moves_nobody_else() -> None:
    """In random fleets, wherever its id sorts: the scores of the others are the same."""
    rng = random.Random(5)
    for _ in range(20):
        fleet = [
            seen(f"v{i}", float(n := rng.randint(0, 2_000)), n * rng.random() / 2, batch=i * 20)
            for i in range(4)
        ]
        more = [*fleet, seen(rng.choice(["a", "v1a", "z"]), wire="cbor")]
        for policy in policies():
            assert policy.score(more, AGENT)[:-1] == policy.score(fleet, AGENT), policy


def test_a_poor_variant_with_measurements_does_not_win() -> None:
    """Nor does it turn the order of variants that UCB1 knows equally well.

    LinUCB may turn it: it learns from the newcomer. Thompson sampling draws anew when anything was
    measured: its order is luck, so it is not asked.
    """
    fleet = [seen(f"v{i}", 300.0, 10.0 * (3 - i), batch=20 * i) for i in range(4)]
    poor = seen("poor", 300.0, 200.0, wire="xml", batch=90)
    more = [*fleet, poor]

    ucb, linucb = Ucb(), LinUcb(read_features(FEATURES), individual=0.5)
    assert sorted(range(4), key=ucb.score(fleet, AGENT).__getitem__) == [0, 1, 2, 3]
    assert sorted(range(5), key=ucb.score(more, AGENT).__getitem__) == [4, 0, 1, 2, 3]
    assert linucb.score(more, AGENT)[-1] == min(linucb.score(more, AGENT))


def test_what_other_agents_measured_helps_the_little_known_in_ucb() -> None:
    """The limit that the README names: all operations count, so a busy newcomer can turn an order."""
    fleet = [seen("known", 1_000.0, 50.0), seen("little", 30.0, 6.0)]
    busy = [seen(f"busy{i}", 1_000.0, 900.0) for i in range(60)]

    known, little = Ucb().score(fleet, AGENT)
    known_then, little_then = Ucb().score([*fleet, *busy], AGENT)[:2]

    assert known > little
    assert known_then < little_then


# -- too few data, misuse ---------------------------------------------------------------------------


def test_nothing_measured_is_no_error() -> None:
    """No candidates, and none with data; half an operation that is left after days is none either."""
    rest = [seen("a"), seen("b", 0.4, 0.4)]

    assert [policy.score([], AGENT) for policy in policies()] == [[], [], []]
    assert Ucb().score(rest, AGENT) == [1.0, 1.0]
    assert Ucb().score([seen("a", 1.0)], AGENT) == [0.5]
    assert len(set(Thompson().score(rest, AGENT))) == 2
    first, other = LinUcb(read_features(FEATURES)).score([seen("a"), seen("b")], AGENT)
    assert first == other > 0.25


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        (
            {"ucb": {"weight": 1.0, "alfa": 1}},
            "scoring.ucb.alfa: unknown setting, did you mean 'alpha'?",
        ),
        ({"ucb": {"weight": 1.0, "alpha": 0}}, "scoring.ucb.alpha: 'alpha' must be > 0: 0.0"),
        ({"thompson": {"weight": 1.0, "cap": 0}}, "scoring.thompson: 'cap' must be >= 1: 0"),
        (
            {"thompson": {"weight": 1.0, "seed": "x"}},
            "scoring.thompson.seed: expected a whole number, got 'x'",
        ),
        ({"linucb": 1.0}, "scoring.linucb.features: required, but not set"),
        (
            {"linucb": {"weight": 1.0, "features": {}}},
            (
                'scoring.linucb: name at least one feature, such as { "changes.batch" = [1, 256] }; '
                "without any, use ucb or thompson"
            ),
        ),
        (
            {"linucb": {"weight": 1.0, "features": {"batch": [1, 2]}}},
            (
                "scoring.linucb: 'batch' is no path into a variant; write changes.NAME or "
                "metadata.NAME, in quotes"
            ),
        ),
        (
            {"linucb": {"weight": 1.0, "features": {"changes.b": [2, 1]}}},
            "scoring.linucb: changes.b: the lowest must be below the highest, got [2, 1]",
        ),
        (
            {"linucb": {"weight": 1.0, "features": {"changes.b": ["json"]}}},
            (
                "scoring.linucb: changes.b: expected [lowest, highest], two numbers, or a list of two "
                "or more different texts or booleans, got ['json']"
            ),
        ),
    ],
)
def test_misuse_is_told_at_open(scoring: dict[str, Any], message: str) -> None:
    """The whole message: where, what, and what to write instead."""
    with pytest.raises(ConfigError) as error:
        EmergenceManager.open("memory://", background=False, scoring=scoring)

    assert str(error.value) == message


# -- in use -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scoring",
    [
        {"thompson": 1.0},
        {"ucb": 1.0},
        {"linucb": {"weight": 1.0, "features": FEATURES}},
        {"performance": 0.5, "ucb": {"weight": 0.5, "alpha": 0.1}},
    ],
    ids=lambda scoring: next(reversed(scoring)),
)
def test_a_manager_comes_to_choose_the_better_variant(scoring: dict[str, Any]) -> None:
    """Found by its entry point and chosen by name: it tries both, then serves the better one."""
    rng = random.Random(11)
    settings = {"min_dwell": 0, "hysteresis": 0}
    with EmergenceManager.open(
        "memory://", background=False, seed=1, scoring=scoring, selection=settings
    ) as manager:
        manager.agents.register("agent-7", AgentContext())
        for name, wire in (("poor", "json"), ("good", "cbor")):
            variant = manager.variants.propose(name, {"wire": wire, "batch": 50}, id=name)
            manager.variants.activate(variant, force=True)
        chosen = []
        for _ in range(150):
            selection = manager.select("agent-7")
            chosen.append(selection.variant.id)
            success = rng.random() < {"poor": 0.5, "good": 0.95}[selection.variant.id]
            manager.report(selection, "agent-7", success=success)

        best = manager.explain("agent-7")[0]
        offered = {r.name: r for r in manager.plugins()}["bandit"].offers["scoring"]
    assert set(chosen[:30]) == {"poor", "good"}
    assert chosen[-60:].count("good") >= 54
    assert set(best.parts) == set(scoring)
    assert selection.reason != "degraded"
    assert offered == ("thompson", "ucb", "linucb")


def test_who_is_treated_by_a_rollout_does_not_depend_on_the_policy() -> None:
    """The same rollout routes the same agents under the default score and under UCB1."""
    treated = []
    for scoring in ({"performance": 1.0}, {"ucb": 1.0}):
        with EmergenceManager.open(
            "memory://", background=False, seed=3, scoring=scoring
        ) as manager:
            names = [f"agent-{i}" for i in range(60)]
            manager.agents.register_many([(name, AgentContext()) for name in names])
            manager.variants.activate(manager.variants.propose("json", {}, id="json"))
            manager.variants.propose("cbor", {}, id="cbor")
            manager.report("json", "agent-1", success=False)
            manager.canaries.start("cbor", seed=8, initial_fraction=0.3)
            treated.append([name for name in names if manager.canaries.routes("cbor", name)])
            served = [name for name in names if manager.select(name).variant.id == "cbor"]
            assert served == treated[-1]

    assert treated[0] == treated[1] != []


def test_the_settings_of_the_readme_are_accepted(tmp_path: Path) -> None:
    """Each block of TOML in it, as the settings of a directory."""
    text = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    assert len(blocks) >= 2
    for number, block in enumerate(blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        folder.joinpath("xenolect.toml").write_text(block, "utf-8")
        with EmergenceManager.open(folder, background=False) as manager:
            manager.agents.register("agent-7", AgentContext())
            manager.variants.activate(manager.variants.propose("json", {"batch": 8}, id="json"))
            assert manager.select("agent-7").reason == "only"


def test_listing_plugins_imports_no_mabwiser() -> None:
    """Nor what it stands on; only a manager that names one of the three does."""
    program = (
        "import sys; from xenolect.cli import main; main(['plugins'], standalone_mode=False);"
        "heavy = {'mabwiser', 'numpy', 'pandas', 'sklearn'} & set(sys.modules); print(heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "scoring: thompson, ucb, linucb" in done.stdout
    assert done.stdout.endswith("set()\n")
