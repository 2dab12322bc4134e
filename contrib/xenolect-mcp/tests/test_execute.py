"""``xenolect demo --execute``: the tool suites themselves where they are, and words where they are not."""

from __future__ import annotations

import importlib.util
from typing import Any

import mcp_types as types
import pytest
from click.testing import CliRunner
from xenolect_mcp import data
from xenolect_mcp.demo import suites
from xenolect_mcp.demo.server import Recorded
from xenolect_mcp.identity import EXT

from xenolect.cli import main

INSTALLED = all(importlib.util.find_spec(name) is not None for name in ("bfcl_eval", "mpmath"))


def test_without_the_suites_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in one line with the command, and nothing is played."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "bfcl_eval" else find(name, *a),
    )
    done = CliRunner().invoke(main, ["demo", "--execute"])
    assert done.exit_code == 3
    assert done.output == (
        "error: --execute runs the tool suites of bfcl-eval, and the module bfcl_eval is not installed; "
        "install it: pip install --no-deps bfcl-eval==2026.3.23 mpmath==1.3.0 (with its requirements it "
        "brings what a benchmark of models needs, PyTorch among it). Without --execute recorded results "
        "are replayed\n"
    )


class Counter:
    """A tool suite of one tool, with a state."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, step: int, *, name: str = "") -> dict[str, Any]:
        if step < 0:
            raise ValueError("only upwards")
        self.value += step
        return {"value": self.value, "name": name}


CALLS = (
    data.Call("Counter", "add", {"arg0": 2, "name": "a"}, {"value": 2, "name": "a"}),
    data.Call("Counter", "add", {"arg0": 3}, {"value": 99, "name": ""}),
    data.Call("Counter", "add", {"arg0": -1}, None),
)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> suites.Executed:
    """The suite above in place of the package's, and a conversation of three calls."""

    class Small:
        def begin(self, session: str) -> dict[str, Any]:
            assert session == "talk"
            return {"Counter": Counter()}

    monkeypatch.setattr(suites, "Suites", Small)
    monkeypatch.setattr(data, "sessions", lambda: (data.Session("talk", CALLS),))
    return suites.Executed(Recorded())


def ask(executed: suites.Executed, session: str, index: int, call: data.Call = CALLS[0]) -> Any:
    """What a call is answered."""
    meta: Any = {EXT: {"session": session, "call": index}}
    params = types.CallToolRequestParams(name=call.name, arguments=dict(call.arguments), _meta=meta)
    found = executed.find(params)
    return None if found is None else found.result


def test_each_conversation_has_back_ends_of_its_own(executed: suites.Executed) -> None:
    """They keep their state from call to call; a repeated call is answered as before, not run again."""
    assert ask(executed, "1#talk", 0) == {"value": 2, "name": "a"}
    assert ask(executed, "1#talk", 0) == {"value": 2, "name": "a"}
    assert ask(executed, "1#talk", 1, CALLS[1]) == {"value": 5, "name": ""}
    assert ask(executed, "2#talk", 0) == {"value": 2, "name": "a"}
    assert ask(executed, "1#talk", 2, CALLS[2]) == {"error": "ValueError: only upwards"}
    assert ask(executed, "1#talk", 1) is None  # another call than the recorded one
    assert (executed.same, executed.other) == (2, 2)


@pytest.mark.skipif(not INSTALLED, reason="bfcl-eval is not installed")
def test_the_suites_give_what_is_recorded() -> None:
    """All 4,625 calls, executed from what goes over the wire: 8 differ, where the recording's suite changed
    its caller's list."""
    found = suites.Suites()
    other = []
    for session in data.sessions():
        instances = found.begin(session.id)
        for call in session.calls:
            result = suites.perform(instances[call.suite], call.tool, dict(call.arguments))
            if result != call.result:
                other.append(call.name)
    assert other == ["TwitterAPI.post_tweet"] * 8
