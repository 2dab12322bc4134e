"""docs/breaker.md tells the truth: its programs run, its table has every state."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from xenolect.model import BreakerState
from xenolect_plugins.breaker import Breaker

PAGE = (Path(__file__).parents[1] / "docs" / "breaker.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_runs(program: str) -> None:
    """As printed, assertions included."""
    exec(compile(program, "docs/breaker.md", "exec"), {"__name__": "page"})


def test_the_table_has_every_state_and_names_settings_that_exist() -> None:
    """One row a state; every word in code that looks like a setting is one."""
    rows = re.findall(r"^\| `(\w+)` \|.*$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(BreakerState)
    table = "\n".join(re.findall(r"^\| `\w+` \|.*$", PAGE, re.MULTILINE))
    known = {field.name for field in attrs.fields(Breaker)} | set(BreakerState) | {"reset"}
    assert set(re.findall(r"`(\w+)`", table)) <= known
    assert len(PROGRAMS) == 2
