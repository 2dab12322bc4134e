"""macOS and Windows, as far as they can be played on another system: see elsewhere.py."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xenolect
import xenolect_backends
import xenolect_plugins
from xenolect import EmergenceManager
from xenolect.errors import InvalidError, StorageError
from xenolect_backends.fsspec_chunks import FsspecChunks

HERE = Path(__file__).parent


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_module_and_a_store_without_what_the_system_lacks(
    system: str, tmp_path: Path
) -> None:
    """Nothing imports a module, or calls a function, that the system does not have; a store there
    takes variants, measurements and states, and gives them back when it is opened again."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "elsewhere.py"), system, str(tmp_path)],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)

    files = [
        path
        for package in (xenolect, xenolect_plugins, xenolect_backends)
        for root in package.__path__
        for path in Path(root).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and "templates" not in path.parts
    ]
    assert len(found["modules"]) >= len(files)
    assert found["used"] == {
        "chosen": "json",
        "first": {"some": ["state"]},
        "patched": "patched",
        "rest": True,
        "again": True,
        "count": 1,
        "problems": 0,
    }
    if system == "win32":
        assert found["locks"] > 10  # each write of the index, and its end
    else:
        assert found["synced"] > 3  # each object written


def test_no_names_that_windows_can_not_write(tmp_path: Path) -> None:
    """Every file of a store in use: lower case, no device, no trailing dot, none of ``<>:"|?*``."""
    devices = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
    with EmergenceManager.open(tmp_path) as manager:
        manager.variants.activate(manager.variants.propose("x", {}, id="json"))
        manager.states.put("json", b"x" * 3_000_000)
        manager.points.create("json", reason="before")
        for name in ("CON", "nul", "com1.json", "a.", "a:b", "A"):
            with pytest.raises(InvalidError):
                manager.variants.propose("x", {}, id=name)
    names = [p for path in tmp_path.rglob("*") for p in path.relative_to(tmp_path).parts]
    assert len(names) > 10
    for name in names:
        assert name == name.lower()
        assert name.split(".")[0] not in devices
        assert not name.endswith((".", " "))
        assert not set(name) & set('<>:"|?*\\')


def test_a_system_without_links_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no link(2) at all, creating would not be exclusive: the store says so."""
    chunks = FsspecChunks(url=str(tmp_path))
    monkeypatch.delattr(os, "link")
    with pytest.raises(StorageError, match="is on a file system without hard links"):
        chunks.put("some/key", b"x")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_list_of_modules_is_not_empty() -> None:
    """What the test above walks is found at all."""
    assert len(list(pkgutil.walk_packages(xenolect.__path__, "xenolect."))) > 50
