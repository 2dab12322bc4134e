"""The README tells the truth: its programs run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SETTINGS = re.findall(r"^```toml\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_program_runs(tmp_path: Path) -> None:
    """Open, propose, register, roll out, call, explain, roll back: as printed, in an empty folder."""
    (tmp_path / "first.py").write_text(PROGRAMS[0])

    done = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("json", "zstd")
    assert (tmp_path / "variants" / "index.db").exists()


def test_the_plugin_runs_with_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer of the README, put into a plugins folder, with the settings beside it."""
    from xenolect import AgentContext, EmergenceManager

    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "low_latency.py").write_text(PROGRAMS[1])
    (tmp_path / "xenolect.toml").write_text(
        '[plugins]\ndir = "plugins"\nblocked = ["xenolect-low-latency"]\n' + SETTINGS[0]
    )
    monkeypatch.chdir(tmp_path)

    with EmergenceManager.open(tmp_path, background=False) as manager:
        manager.agents.register("a", AgentContext())
        manager.variants.activate(manager.variants.propose("x", {}, id="x"))
        manager.report("x", "a", success=True, latency_ms=20.0)

        parts = manager.explain("a")[0].parts

    assert parts["low_latency"] == pytest.approx(0.5, rel=0.03)
