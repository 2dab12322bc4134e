"""A policy is tried on a drawn fleet before it is enabled; the judge and the ramp are the real ones."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
from click.testing import CliRunner

from xenolect import InvalidError
from xenolect.cli import main
from xenolect.config import load
from xenolect.model import CanaryState
from xenolect.simulation import World, read_trace, simulate, wilson

POLICY = """
[canary]
min_effect = 0.02

[world]
agents = 60
operations_per_second = 1.0
success = 0.99
canary_success = 0.80
hours = 6
runs = 6
"""


def command(*arguments: str, code: int = 0) -> Any:
    """``xenolect simulate``; the exit code is checked."""
    done = CliRunner().invoke(main, ["simulate", *arguments])
    assert done.exit_code == code, done.output
    return done


def test_the_harmless_is_promoted_and_the_harmful_is_not() -> None:
    """In the same world, under the default policy: nothing false, and few failures are exposed."""
    found = simulate(load(environ={}), World(runs=8, hours=12.0, canary_success=0.5, seed=4))

    assert found.false_rollbacks[0] == 0.0
    assert found.harmless.promoted >= 0.75
    assert found.harmful is not None
    assert found.harmful.rolled_back == 1.0
    assert found.harmful.quantile("failures", 0.5, CanaryState.ROLLED_BACK) <= 10
    assert found.harmful.quantile("at", 0.9, CanaryState.ROLLED_BACK) < 1800.0
    assert found.events > 50_000


def test_the_same_seed_is_the_same_simulation() -> None:
    """To the last number; another seed is another one."""
    worlds = [World(runs=3, hours=2.0, seed=seed) for seed in (1, 1, 2)]

    first, again, other = (simulate(load(environ={}), world) for world in worlds)

    assert first == again
    assert first.harmless.runs != other.harmless.runs


def test_settings_are_those_of_the_policy() -> None:
    """Fewer levels promote sooner; a judge without patience for evidence is the policy's own fault."""
    world = World(runs=4, hours=12.0, canary_success=1.0, success=1.0)
    slow = simulate(load(environ={}), world)
    fast = simulate(load(environ={}, canary={"levels": [0.5], "min_effect": 0.05}), world)

    assert fast.harmless.promoted == 1.0
    soon = fast.harmless.quantile("at", 0.5, CanaryState.PROMOTED)
    late = slow.harmless.quantile("at", 0.5, CanaryState.PROMOTED)
    assert soon is not None
    assert soon < 3600.0
    assert late is None or late > 2 * soon


def test_small_fleets_by_session_and_a_word_about_agents() -> None:
    """Five agents: by conversation the dead variant is out; by agent ``start`` would ask first."""
    world = World(agents=5, operations_per_second=0.2, runs=5, hours=4.0, canary_success=0.0)

    by_session = simulate(load(environ={}, canary={"unit": "session"}), world)
    by_agent = simulate(load(environ={}), world)

    assert by_session.harmful is not None
    assert by_session.harmful.rolled_back == 1.0
    assert by_session.notes == ()
    assert "min_eligible" in by_agent.notes[0]


def test_without_harm_only_the_harmless_is_played() -> None:
    """A canary that is as good as its control has no detection delay; it is said so."""
    found = simulate(load(environ={}), World(runs=2, hours=1.0, canary_success=0.99))

    assert found.harmful is None
    assert "no harm" in found.notes[0]


@pytest.mark.parametrize(
    ("hits", "runs", "low", "high"), [(0, 100, 0.0, 0.0370), (5, 100, 0.0215, 0.1118)]
)
def test_wilson(hits: int, runs: int, low: float, high: float) -> None:
    """Known values of the score interval."""
    assert wilson(hits, runs) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


# -- traces ----------------------------------------------------------------------------------------


def trace_of(place: Path, operations: int = 3_000, agents: int = 50) -> Path:
    """An hour of traffic of which 2 % fails."""
    draw = random.Random(9)
    with place.open("w") as out:
        for i in range(operations):
            record = {
                "at": 1_800_000_000.0 + i * 3600.0 / operations,
                "agent": f"a{draw.randrange(agents)}",
                "session": f"s{i // 7}",
                "success": draw.random() >= 0.02,
                "latency_ms": draw.expovariate(0.05),
            }
            out.write(json.dumps(record) + "\n")
    return place


@pytest.mark.parametrize("unit", ["agent", "session"])
def test_a_trace_is_played_on_both_arms(tmp_path: Path, unit: str) -> None:
    """Recorded traffic, resampled by whole units: no false alarm, and half broken is found."""
    trace = read_trace(trace_of(tmp_path / "trace.jsonl"))
    world = World(runs=4, hours=3.0, canary_success=0.5)

    found = simulate(load(environ={}, canary={"unit": unit}), world, trace)

    assert found.harmless.success == pytest.approx(0.98, abs=0.01)
    assert found.harmless.rolled_back == 0.0
    assert found.harmful is not None
    assert found.harmful.rolled_back == 1.0


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"at": 1, "success": true}',
        '{"at": 1, "agent": "a", "success": 1}',
        '{"at": NaN, "agent": "a", "success": true}',
    ],
)
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, line: str) -> None:
    """By its number, with an example."""
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0, "agent": "a", "success": true}\n' + line + "\n")

    with pytest.raises(InvalidError, match="line 2"):
        read_trace(file)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_and_writes_a_page(tmp_path: Path) -> None:
    """Text for people, numbers for machines, and one page that loads nothing from elsewhere."""
    policy, out = tmp_path / "policy.toml", tmp_path / "page.html"
    policy.write_text(POLICY)

    text = command(str(policy), "--out", str(out)).stdout
    document = json.loads(command(str(policy), "--json").stdout)

    assert "false rollbacks" in text
    assert "detection delay" in text
    assert document["harmful"]["rolled_back"] == 1.0
    assert document["false_rollback"]["low"] <= document["false_rollback"]["rate"]
    assert document["events_per_second"] > 0
    html = out.read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<svg") == 2
    for svg in html.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")


@pytest.mark.parametrize("judge", ["threshold", "group_sequential", "kayenta_mw", "bayes"])
def test_other_judges_are_tried_the_same_way(tmp_path: Path, judge: str) -> None:
    """Their statistics are no e-values: the page shows them as shares of their own limits."""
    policy, out = tmp_path / "policy.toml", tmp_path / "page.html"
    policy.write_text(
        f'[canary]\njudge = "{judge}"\n\n[world]\nhours = 1\nruns = 2\ncanary_success = 0.5\n'
    )

    document = json.loads(command(str(policy), "--out", str(out), "--json").stdout)

    assert document["harmful"]["rolled_back"] == 1.0
    html = out.read_text()
    assert "e-value" not in html
    assert "share of the statistic that rolls back" in html
    assert f"<td>{judge}</td>" in html


def test_a_policy_that_can_not_run_says_why(tmp_path: Path) -> None:
    """Unknown settings of the world and of the canary are named with their paths."""
    policy = tmp_path / "policy.toml"
    for text, said in (
        ("[world]\nagent = 5\n", "agents"),
        ("[canary]\nalpah = 0.1\n", "alpha"),
        ("world = 5\n", "[world]"),
        ("[world\n", "TOML"),
    ):
        policy.write_text(text)
        assert said in command(str(policy), code=2).output


def test_the_page_about_policies_says_what_there_is(tmp_path: Path) -> None:
    """Every setting of a world has a row with its default, and the example is one that runs."""
    page = (Path(__file__).parent.parent / "docs" / "operate.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (`[^`]*`|none) \|", page, re.MULTILINE))
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (policy,) = (block for block in blocks if "[world]" in block)
    file = tmp_path / "policy.toml"
    file.write_text(policy.replace("runs = 100", "runs = 1").replace("hours = 24", "hours = 1"))

    known = {
        field.name: "none" if field.default is None else f"`{field.default!r}`"
        for field in attrs.fields(World)
    }

    assert rows == known
    assert "false rollbacks" in command(str(file)).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_false_rollbacks_stay_under_alpha() -> None:
    """400 harmless rollouts of a heterogeneous fleet: at most the 1 % that alpha allows."""
    found = simulate(
        load(environ={}), World(runs=400, hours=6.0, canary_success=1.0, heterogeneity=0.7, seed=11)
    )

    assert found.false_rollbacks[0] <= 0.01
