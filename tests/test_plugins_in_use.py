"""Plugins as a user meets them: in process, installed from contrib, broken, misspelt."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager, scorer

INSTALLED = importlib.util.find_spec("xenolect_low_latency") is not None


class Cheapest:
    """A plugin in process: one scorer."""

    @staticmethod
    @scorer("cheapest")
    def cheapest(candidates: Any, agent: Any) -> list[float]:
        """Prefer whoever says it costs less."""
        return [1.0 - c.variant.metadata.get("cost", 0.5) for c in candidates]


def test_a_scorer_in_process_is_listed_configured_and_explained(
    opened: Callable[..., EmergenceManager],
) -> None:
    """``plugins=[...]``, named in ``scoring``: it stands in plugins() and changes explain."""
    manager = opened(plugins=[Cheapest()], scoring={"cheapest": 1.0})
    fleet(manager, 1)
    json_and_zstd(manager)
    manager.variants.activate(
        manager.variants.propose("dear", {}, id="dear", metadata={"cost": 0.9}), force=True
    )

    rows = {e.variant.id: e.parts for e in manager.explain("agent-0")}
    listed = [r for r in manager.plugins() if "cheapest" in r.offers.get("scoring", ())]

    assert rows["json"] == {"cheapest": 0.5}
    assert rows["dear"]["cheapest"] == pytest.approx(0.1)
    assert [(r.source, r.status) for r in listed] == [("in process", "loaded")]


@pytest.mark.skipif(not INSTALLED, reason="contrib/xenolect-low-latency is not installed")
def test_a_scorer_from_contrib_is_listed_configured_and_explained(
    opened: Callable[..., EmergenceManager],
) -> None:
    """The 20-line package: found by its entry point, chosen by name, with its own option."""
    manager = opened(scoring={"low_latency": {"weight": 1.0, "goal_ms": 20}})
    fleet(manager, 1)
    json_and_zstd(manager)
    for _ in range(3):
        manager.report("json", "agent-0", success=True, latency_ms=60.0)

    part = manager.explain("agent-0")[0].parts["low_latency"]
    done = subprocess.run(
        [sys.executable, "-m", "xenolect", "plugins", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )

    listed = {r["name"]: r for r in json.loads(done.stdout)}["low_latency"]
    version = importlib.metadata.version("xenolect-low-latency")
    assert part == pytest.approx(20 / 80, rel=0.03)
    assert listed["offers"] == {"scoring": ["low_latency"]}
    assert listed["source"] == f"xenolect-low-latency {version}"


def test_broken_and_misspelt_packages_leave_the_rest_working(
    opened: Callable[..., EmergenceManager], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One package that does not import and one with a misspelt hook: named, and nothing else fails."""
    for name, body in (
        ("xl_gone", "import a_module_that_is_not_there\n"),
        (
            "xl_typing",
            "from xenolect import hookimpl\n\n\n@hookimpl\ndef xenolect_scorring():\n    yield\n",
        ),
    ):
        (tmp_path / f"{name}.py").write_text(body)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[xenolect]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    manager = opened()
    fleet(manager, 1)
    json_and_zstd(manager)

    why = {r.name: r.why for r in manager.plugins() if r.status == "left out"}
    assert manager.select("agent-0").variant.id == "json"
    assert "a_module_that_is_not_there" in why["xl_gone"]
    assert "did you mean 'xenolect_scoring'?" in why["xl_typing"]
