"""The bench: what a row says, and that each group runs."""

import json

import pytest
from click.testing import CliRunner

from xenolect._bench import GROUPS, Row
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
    ran = CliRunner().invoke(main, ["bench", "--only", "measuring", "--json"])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(ran.stdout)
    assert {row["name"] for row in rows} >= {"record, in memory"}
    assert all(row["ours_us"] > 0 and row["floor_us"] > 0 for row in rows)

    shown = CliRunner().invoke(main, ["bench", "--only", "measuring"])
    assert shown.exit_code == 0, shown.output
    assert "record, in memory" in shown.stdout


def test_an_unknown_group_or_size_is_refused():
    """With the groups there are, and an example of a size."""
    wrong = CliRunner().invoke(main, ["bench", "--only", "nothing"])
    assert wrong.exit_code == 2
    assert all(name in wrong.output for name in GROUPS)
    wrong = CliRunner().invoke(main, ["bench", "--size", "much"])
    assert wrong.exit_code == 2
    assert "1MiB" in wrong.output


@pytest.mark.slow
@pytest.mark.parametrize("group", list(GROUPS))
def test_each_group_measures(group):
    """All groups run to their end on a small state."""
    ran = CliRunner().invoke(main, ["bench", "--only", group, "--size", "8MiB", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)
