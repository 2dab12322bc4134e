"""The bench: what a row says, and that each group runs."""

import json

import pytest
from click.testing import CliRunner

from xenolect._bench import GROUPS, Row, peers
from xenolect._bench.rows import Growth
from xenolect._cli.growth import curves, drawn, text
from xenolect.cli import main


def test_a_row_says_whether_its_promise_was_held():
    """Costs are bounded above, speeds below, and some times absolutely."""
    cost = Row("x", 20.0, 10.0, "f", at_most=2.0)
    assert (cost.ratio, cost.promise, cost.held) == (2.0, "<= 2 x", True)
    assert Row("x", 20.1, 10.0, "f", at_most=2.0).held is False
    speed = Row("x", 20.0, 10.0, "f", at_least=0.6)
    assert (speed.ratio, speed.promise, speed.held) == (0.5, ">= 0.6 x", False)
    assert Row("x", 20.0, 13.0, "f", at_least=0.6).held is True
    timed = Row("x", 99.0, 1.0, "f", within=100.0)
    assert (timed.ratio, timed.promise, timed.held) == (99.0, "<= 100 us", True)
    assert Row("x", 101.0, 1.0, "f", within=100.0).held is False
    assert (Row("x", 1.0, 1.0, "f").promise, Row("x", 1.0, 1.0, "f").held) == ("", None)


def test_the_bench_prints_rows_for_people_and_for_machines():
    """``--only`` picks groups; each row has ours, the floor and their ratio."""
    ran = CliRunner().invoke(main, ["bench", "--only", "hooks", "--json"])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(ran.stdout)
    assert {row["name"] for row in rows} >= {"an event, observers: 1"}
    assert all(row["ours_us"] > 0 and row["floor_us"] > 0 for row in rows)

    shown = CliRunner().invoke(main, ["bench", "--only", "hooks"])
    assert shown.exit_code == 0, shown.output
    assert "an event, observers: 1" in shown.stdout


def test_an_unknown_group_or_size_is_refused():
    """With the groups there are, and an example of a size."""
    wrong = CliRunner().invoke(main, ["bench", "--only", "nothing"])
    assert wrong.exit_code == 2
    assert all(name in wrong.output for name in GROUPS)
    wrong = CliRunner().invoke(main, ["bench", "--size", "much"])
    assert wrong.exit_code == 2
    assert "1MiB" in wrong.output


def test_rows_of_growing_size_are_a_curve():
    """Smallest first, with a factor, on one scale with the floor; what stands alone is none."""
    rows = [
        Row("pick 1,000", 8.0, 2.0, "a list", growth=Growth("pick", 1_000, "things")),
        Row("alone", 1.0, 1.0, "x", growth=Growth("alone", 1, "things")),
        Row("pick 10", 2.0, 1.0, "a list", within=3.0, growth=Growth("pick", 10, "things")),
        Row("else", 1.0, 1.0, "x"),
    ]
    (curve,) = curves(rows)
    assert (curve.sizes, curve.factor) == ([10, 1_000], 4.0)
    said = text([curve])
    assert said[0] == "pick, 10 to 1,000 things: x 4"
    assert said[1].endswith("2 us, 8 us")
    assert said[2].endswith("1 us, 2 us")
    shown = drawn([curve])
    assert shown.count("<polyline") == 2
    assert all(each in shown for each in ("1,000 things", "promised at 10: 3 us", "a list"))


def test_hooks_are_measured_beside_pluggy_and_drawn(tmp_path):
    """With ``--plot`` a page is written; without it what grows is shown in the table's foot alone."""
    page = tmp_path / "growth.html"
    ran = CliRunner().invoke(main, ["bench", "--only", "hooks", "--plot", str(page)])
    assert ran.exit_code == 0, ran.output
    assert "how it grows" in ran.stdout
    assert "pluggy, the same hooks" in ran.stdout
    assert page.read_text("utf-8").count("<svg") == 1


def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch):
    """``--peers`` without any of them measures ours, and says what is missing."""
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(peers.shutil, "which", lambda _: None)
    missing = peers.absent()
    assert "openfeature-sdk (pip install openfeature-sdk)" in missing
    assert len(missing) == len(peers.PACKAGES) + len(peers.PROGRAMS)
    for found in (peers.select(1.0, 10), peers.learn(1.0, 10), peers.record(1.0)):
        assert list(found) == []
    ran = CliRunner().invoke(main, ["bench", "--only", "hooks", "--peers"])
    assert ran.exit_code == 0, ran.output
    assert "pip install growthbook" in ran.stderr


@pytest.mark.slow
def test_each_installed_peer_is_measured():
    """A row says what it does and what it does not; those that only look at all flags stop at 100."""
    rows = [*peers.select(1.0, 10), *peers.learn(1.0, 10), *peers.record(1.0)]
    rows += peers.guard(1.0, lambda: None, "consecutive failures")
    assert all(row.floor_us > 0 and ":" in row.floor for row in rows)
    named = " ".join(row.floor for row in rows)
    missing = " ".join(peers.absent())
    assert all(package in named + missing for package in peers.PACKAGES.values())
    assert list(peers.select(1.0, 10_000)) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", list(GROUPS))
def test_each_group_measures(group):
    """All groups run to their end on a small state."""
    ran = CliRunner().invoke(main, ["bench", "--only", group, "--size", "8MiB", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)
