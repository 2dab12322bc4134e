"""Rebuild the vendored data from the packages it comes from, and compare.

    python scripts/rebuild_data.py            # download, rebuild, compare with xenolect_mcp/data
    python scripts/rebuild_data.py --write    # ... and replace the files

Three files, from two packages:

* ``bfcl_trace.jsonl.zst``, ``bfcl_tools.json.zst``: ``bfcl-eval`` 2026.3.23. The ground-truth calls of its
  four multi-turn categories (800 sessions) are executed, in order, against its own simulated tool
  back ends, each session on fresh instances loaded with the session's scenario; what they return is
  the recorded result. A positional argument keeps no name in the ground truth: it is ``arg0``, ``arg1``...
* ``mcp_clients.json``: ``mcp-client-capabilities`` 0.0.14, its only data file, indented by one.

The packages are downloaded as wheels without their dependencies and unpacked into a temporary
directory: only their data and their pure Python back ends are used. Needs ``xenolect-mcp``, and ``mpmath``
for one back end.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard
from xenolect_mcp.demo.suites import BFCL as VERSION
from xenolect_mcp.demo.suites import CATEGORIES, SUITES, Suites, lines, perform

DATA = Path(__file__).parent.parent / "xenolect_mcp" / "data"
BFCL = f"bfcl-eval=={VERSION}"
CLIENTS = "mcp-client-capabilities==0.0.14"
COMPACT: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def fetch(requirement: str, into: Path, python: str | None = None) -> Path:
    """Download a wheel without dependencies and unpack it."""
    wheels = into / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
    if python:  # the package needs a newer Python than this script; only its JSON is read
        command += ["--only-binary=:all:", "--python-version", python]
    subprocess.run([*command, requirement], check=True)
    name = requirement.partition("==")[0].replace("-", "_")
    target = into / name
    (wheel,) = wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def as_schema(node: Any) -> Any:
    """The package's type names as JSON Schema's."""
    if isinstance(node, list):
        return [as_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: TYPES.get(value, value)
        if key == "type" and isinstance(value, str)
        else as_schema(value)
        for key, value in node.items()
    }


def tools(root: Path) -> dict[str, Any]:
    """Each tool's declaration as an MCP server would list it, keyed ``Suite|tool``."""
    out = {}
    for suite, file in SUITES.items():
        for doc in lines(root / f"bfcl_eval/data/multi_turn_func_doc/{file}.json"):
            out[f"{suite}|{doc['name']}"] = {
                "name": f"{suite}.{doc['name']}",
                "description": doc["description"],
                "inputSchema": as_schema(doc["parameters"]),
                "outputSchema": as_schema(doc["response"]),
            }
    return out


def trace(root: Path) -> Iterator[str]:
    """Every ground-truth call of every session, executed: one JSON object a line."""
    sys.path.insert(0, str(root))
    suites = Suites(root / "bfcl_eval")
    for category in CATEGORIES:
        answers = {
            row["id"]: row["ground_truth"]
            for row in lines(
                suites.root / f"data/possible_answer/BFCL_v4_multi_turn_{category}.json"
            )
        }
        for session in suites.tasks(category):
            instances = suites.begin(session)
            calls = [execute(instances, text) for turn in answers[session] for text in turn]
            for call in calls:
                yield json.dumps({"session": session, **call}, **COMPACT)


def execute(instances: dict[str, Any], text: str) -> dict[str, Any]:
    """Run one call, and say what came of it.

    The arguments are not copied: in 8 of the 4,625 rows (``post_tweet``) the back end keeps the caller's
    list and a later ``mention`` of the session adds to it, and the trace shows it so.
    """
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call), text
    assert isinstance(call.func, ast.Name), text
    tool = call.func.id
    # the last suite that has the method wins, as in the package's own executor
    suite = [name for name, instance in instances.items() if hasattr(instance, tool)][-1]
    positional = {f"arg{i}": ast.literal_eval(value) for i, value in enumerate(call.args)}
    named = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    arguments = {**positional, **named}
    result = perform(instances[suite], tool, arguments)
    return {"suite": suite, "tool": tool, "arguments": arguments, "result": result}


def rebuild(work: Path) -> dict[str, str]:
    """The three files as text."""
    bfcl = fetch(BFCL, work)
    clients = fetch(CLIENTS, work, python="3.12")
    source = json.loads((clients / "mcp_client_capabilities/mcp-clients.json").read_text("utf-8"))
    return {
        "bfcl_trace.jsonl.zst": "".join(f"{line}\n" for line in trace(bfcl)),
        "bfcl_tools.json.zst": json.dumps(tools(bfcl), **COMPACT),
        "mcp_clients.json": json.dumps(source, indent=1) + "\n",
    }


def vendored(name: str) -> str:
    data = (DATA / name).read_bytes()
    return (zstandard.decompress(data) if name.endswith(".zst") else data).decode()


def decoded(name: str, text: str) -> Any:
    return (
        [json.loads(line) for line in text.splitlines()] if ".jsonl" in name else json.loads(text)
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the vendored files")
    parser.add_argument("--keep", type=Path, help="unpack here instead of in a temporary directory")
    options = parser.parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in rebuild(options.keep or Path(temporary)).items():
            path = DATA / name
            if options.write:
                packed = text.encode()
                path.write_bytes(
                    zstandard.compress(packed, 19) if name.endswith(".zst") else packed
                )
            if not path.exists():
                verdict = "not vendored yet"
            elif text == vendored(name):
                verdict = "equal, byte for byte"
            elif decoded(name, text) == decoded(name, vendored(name)):
                verdict = "equal as JSON"
            else:
                verdict = "DIFFERENT"
                different += 1
            print(f"{name}: {len(text):,} characters, {verdict}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
