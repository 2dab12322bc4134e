"""``xenolect new-plugin``: what it writes installs, is found, and passes its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from xenolect._cli.new_plugin import KINDS
from xenolect._discovery import HOOKS
from xenolect.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one distribution of each kind."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        done = CliRunner().invoke(
            main, ["new-plugin", kind, f"my-{kind}", "--dir", str(folder), "--json"]
        )
        assert done.exit_code == 0, done.output
        made = json.loads(done.output)
        assert made["folder"] == str(folder / f"xenolect-my-{kind}")
        assert len(made["files"]) == 4
    return folder


@pytest.fixture(scope="module")
def installed(written: Path) -> dict[str, str]:
    """The environment of a process in which all of them are installed, beside what is here."""
    site = written / "site"
    sources = sorted(str(each) for each in written.glob("xenolect-*"))
    offline = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(site), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(site)}


def test_every_hook_has_a_kind() -> None:
    """What is written for all kinds together implements each hook there is."""
    folder = ROOT / "core" / "xenolect" / "_cli" / "templates"
    code = {kind: (folder / f"{kind}.py.txt").read_text("utf-8") for kind in KINDS}

    assert {hook: sum(f"def {hook}(" in text for text in code.values()) for hook in HOOKS} == (
        dict.fromkeys(HOOKS, 1)
    )


def test_each_is_what_a_distribution_needs(written: Path) -> None:
    """A name, an entry point that names the module, settings that are TOML, no word left to fill in."""
    for kind in KINDS:
        place = written / f"xenolect-my-{kind}"
        module = f"xenolect_my_{kind.replace('-', '_')}"
        project = tomllib.loads((place / "pyproject.toml").read_text("utf-8"))["project"]

        assert project["entry-points"]["xenolect"] == {f"my-{kind}": module}
        assert (place / f"{module}.py").exists()
        assert not [each for each in place.rglob("*.*") if "$" in each.read_text("utf-8")]
        for block in (place / "README.md").read_text("utf-8").split("```toml\n")[1:]:
            tomllib.loads(block.partition("```")[0])


@pytest.mark.timeout(600)
def test_each_passes_its_tests_once_it_is_installed(written: Path, installed: dict) -> None:
    """Built with pip, found by their entry points, their kits green."""
    tests = sorted(str(each) for each in written.glob("*/tests"))
    options = ["-p", "no:cacheprovider", "--rootdir", str(written), "--import-mode=importlib"]
    options += ["-W", "error", "-W", "ignore::DeprecationWarning"]  # forking beside threads

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *options, *tests],
        env=installed,
        cwd=written,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert len(tests) == len(KINDS)


def test_the_list_of_plugins_shows_each(written: Path, installed: dict) -> None:
    """Loaded, from its distribution, with what it offers."""
    done = subprocess.run(
        [sys.executable, "-m", "xenolect", "plugins", "--json"],
        env=installed,
        cwd=written,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}

    for kind, about in KINDS.items():
        row = rows[f"my-{kind}"]
        assert (row["source"], row["status"]) == (f"xenolect-my-{kind} 0.1.0", "loaded")
        if about.registered:
            assert row["offers"] == {about.registered: [f"my-{kind}"]}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["scorer", "My Plugin"],
            2,
            "error: 'My Plugin' is no name; it begins with a letter and is of a-z, 0-9 and single "
            "'-', at most 40 characters, as in near-by\n",
        ),
        (
            ["scorer", "performance"],
            2,
            "error: xenolect has a scorer called 'performance' already; choose another name\n",
        ),
        (
            ["command", "variants"],
            2,
            "error: xenolect has a command of the command line called 'variants' already; choose "
            "another name\n",
        ),
        (
            ["rule", "there"],
            4,
            "error: xenolect-there exists already; choose another name or --dir\n",
        ),
    ],
)
def test_what_can_not_be_written_is_refused(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is written, with the way out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xenolect-there").mkdir()

    done = CliRunner().invoke(main, ["new-plugin", *arguments])

    assert (done.exit_code, done.output) == (code, message)
    assert [each.name for each in tmp_path.iterdir()] == ["xenolect-there"]
