"""What one version of Python decided, the others decide again: the same verdicts, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets import fleet, json_and_zstd, traffic

from xenolect import EmergenceManager
from xenolect.testing import Clock

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
OFFLINE = ("Temporary failure", "NewConnectionError", "Name or service", "Network is unreachable")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def interpreters(version: str) -> Iterator[str]:
    """Where this version may be: on the path, or among those that pyenv has built."""
    yield f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from (str(each) for each in sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def interpreter(version: str) -> str:
    """One that runs and is this version; skips where there is none."""
    for name in interpreters(version):
        path = shutil.which(name)
        if path is None:
            continue
        say = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", say], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return path
    pytest.skip(f"Python {version} is not installed here")


def installed(python: str, place: Path) -> Path:
    """The distribution in an environment of its own; skips where its dependencies can not be had."""
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    inside = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = subprocess.run(
        [str(inside), "-m", "pip", "install", "-q", str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip("there is no network to install from")
    assert done.returncode == 0, done.stderr
    return inside


def replayed(python: str | Path, store: Path) -> Any:
    """``xenolect replay --json`` of another interpreter, away from the tree."""
    done = subprocess.run(
        [str(python), "-m", "xenolect", "replay", "--json", "--storage", str(store)],
        capture_output=True,
        text=True,
        check=False,
        cwd=store.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rollouts, every fourth of which does harm, with 100,000 observations and more."""
    place = tmp_path_factory.mktemp("long") / "store"
    clock = Clock(1_800_000_000.0)
    with EmergenceManager.open(place, clock=clock, background=False, seed=5) as manager:
        names = fleet(manager, 100)
        json_and_zstd(manager)
        for attempt in range(30):
            manager.canaries.start("zstd", seed=attempt, min_operations=10**9)
            bad = 0.4 if attempt % 4 == 3 else 0.0
            traffic(manager, clock, names, attempt, bad=bad, rounds=50)
            if manager.variants.get("zstd").status == "canary":
                assert not bad
                manager.canaries.abort("zstd")
            clock.advance(8 * 86400)
            manager.variants.start_testing("zstd")
    return place


@pytest.fixture(scope="module")
def here(store: Path) -> Any:
    """What this interpreter finds."""
    return replayed(sys.executable, store)


def test_there_is_enough_to_decide(here: Any) -> None:
    """Over 100,000 verdicts, as many routed observations, rollbacks among them; all come out equal."""
    assert here["ok"]
    assert here["problems"] == []
    assert here["unverified"] == []
    assert here["verdicts"] >= 100_000
    assert here["routed"] == here["verdicts"]
    assert here["rollouts"] == 30


@pytest.mark.parametrize("version", VERSIONS)
def test_another_python_decides_the_same(
    version: str, store: Path, here: Any, tmp_path: Path
) -> None:
    """Every verdict, both e-values after every observation, transition and route: one fingerprint."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this is the version that runs the tests")
    python = installed(interpreter(version), tmp_path / "venv")

    assert replayed(python, store) == here
