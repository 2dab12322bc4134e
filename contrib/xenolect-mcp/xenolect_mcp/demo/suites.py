"""The tool suites behind the recorded calls, for who has them installed: package ``bfcl-eval``.

They are simulations in plain Python with a state for each conversation, loaded from the scenario of its task.
Installed without its requirements the package brings nothing but itself; one suite needs ``mpmath``.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenolect import PluginError
from xenolect_mcp import data
from xenolect_mcp.identity import EXT

if TYPE_CHECKING:
    import mcp_types as types

    from xenolect_mcp.demo.server import Recorded

__all__ = ["BFCL", "CATEGORIES", "SUITES", "Executed", "Suites", "lines", "perform", "require"]

BFCL = "2026.3.23"
"""The version whose calls are recorded."""
CATEGORIES = ("base", "long_context", "miss_func", "miss_param")
SUITES = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
_SOURCES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
_LIVE = 256  # conversations that are kept; the demo holds eight at a time


def require() -> None:
    """PluginError where the suites are not installed; it says what to install."""
    for module in ("bfcl_eval", "mpmath"):
        if importlib.util.find_spec(module) is None:
            raise PluginError(
                f"--execute runs the tool suites of bfcl-eval, and the module {module} is not installed; "
                f"install it: pip install --no-deps bfcl-eval=={BFCL} mpmath==1.3.0 (with its requirements it "
                "brings what a benchmark of models needs, PyTorch among it). Without --execute recorded "
                "results are replayed",
                plugin="demo",
                distribution="xenolect-mcp",
            )


def lines(path: Any) -> Iterator[Any]:
    """The objects of a file with one on each line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


class Suites:
    """The suites' classes, and the scenario of each conversation."""

    def __init__(self, root: Path | None = None) -> None:
        self._classes = {
            suite: getattr(importlib.import_module(f"{_SOURCES}.{module}"), suite)
            for suite, module in SUITES.items()
        }
        self.root: Any = resources.files("bfcl_eval") if root is None else root
        self._tasks: dict[str, tuple[str, Mapping[str, Any]]] = {
            row["id"]: (category, row)
            for category in CATEGORIES
            for row in lines(self.root / "data" / f"BFCL_v4_multi_turn_{category}.json")
        }

    def tasks(self, category: str) -> Iterator[str]:
        """The ids of a category's conversations, in their order."""
        return (name for name, (of, _) in self._tasks.items() if of == category)

    def begin(self, session: str) -> dict[str, Any]:
        """Fresh back ends for a conversation, by suite; KeyError for one that is not known."""
        category, row = self._tasks[session]
        instances = {}
        for suite in row["involved_classes"]:
            instances[suite] = self._classes[suite]()
            if suite != "MathAPI":  # the one without a state
                instances[suite]._load_scenario(
                    copy.deepcopy(row["initial_config"].get(suite, {})),
                    long_context=category == "long_context",
                )
        return instances


def perform(instance: Any, tool: str, arguments: Mapping[str, Any]) -> Any:
    """Call a tool; the result is a copy, as a client would have received it.

    The back ends hand out their own objects and change them in later calls, and the digits of a
    number depend on the precision an earlier call has set. The arguments are not copied. What had no name in
    the recording is called ``arg0``, ``arg1``...
    """
    positional: list[Any] = []
    while f"arg{len(positional)}" in arguments:
        positional.append(arguments[f"arg{len(positional)}"])
    named = {k: v for k, v in arguments.items() if not (k[:3] == "arg" and k[3:].isdigit())}
    result = getattr(instance, tool)(*positional, **named)
    return json.loads(json.dumps(result, default=str))


class Executed:
    """Answers a call by executing it; what is recorded only says which call it is.

    Each conversation has back ends of its own. A call that is repeated, since its answer was of no use to the
    client, is not executed again: it is answered as it was. ``same`` and ``other`` count how the results
    compare with the recorded ones.
    """

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._suites = Suites()
        self._live: OrderedDict[str, tuple[dict[str, Any], dict[int, data.Call]]] = OrderedDict()
        self.same = 0
        self.other = 0

    def find(self, params: types.CallToolRequestParams) -> data.Call | None:
        """The executed call; None where the session did something else."""
        call = self._recorded.find(params)
        named: Any = (params.meta or {}).get(EXT)
        if call is None:
            return None
        name = named["session"]
        if name not in self._live:
            self._live[name] = (self._suites.begin(name.rpartition("#")[2]), {})
            if len(self._live) > _LIVE:
                self._live.popitem(last=False)
        self._live.move_to_end(name)
        instances, done = self._live[name]
        if named["call"] not in done:
            done[named["call"]] = self._execute(instances, call)
        return done[named["call"]]

    def _execute(self, instances: Mapping[str, Any], call: data.Call) -> data.Call:
        try:
            arguments = copy.deepcopy(dict(call.arguments))
            result = perform(instances[call.suite], call.tool, arguments)
        except Exception as error:  # the tool's own, and so its answer
            result = {"error": f"{type(error).__name__}: {error}"}
        if result == call.result:
            self.same += 1
        else:
            self.other += 1
        return data.Call(call.suite, call.tool, call.arguments, result)
