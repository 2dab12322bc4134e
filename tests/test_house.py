"""The rooms: who may use what, how long a file may be, and what importing costs."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from xenolect import interfaces

ROOT = Path(__file__).parent.parent
HEAVY = {"numpy", "fsspec", "s3fs", "sqlite_utils", "cryptography", "cattrs", "rich", "zstandard"}


def room(package):
    """Where a package is installed."""
    (place,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(place)


def private_imports(folder, own):
    """``file: module`` for each import of a module of core with a leading underscore."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                first, *steps = name.split(".")
                if first == "xenolect" != own and any(_private(step) for step in steps):
                    yield f"{file.relative_to(folder)}: {name}"


def _private(step):
    return step.startswith("_") and not step.startswith("__")


@pytest.mark.parametrize("package", ["xenolect_plugins", "xenolect_backends"])
def test_plugins_and_backends_use_the_public_rooms_only(package):
    """A module of core with a leading underscore belongs to core alone."""
    assert list(private_imports(room(package), package)) == []


def test_contrib_uses_what_a_stranger_may_use():
    """The same for the distributions beside this one, their tests and examples included."""
    assert list(private_imports(ROOT / "contrib", "contrib")) == []


def test_the_look_for_private_imports_finds_one(tmp_path):
    """Each way to write such an import is seen, and public ones are left alone."""
    (tmp_path / "bad.py").write_text(
        "import xenolect._registry\nfrom xenolect import _layers\nfrom xenolect._options import fill\n"
        "from xenolect import hookimpl, __version__\nfrom xenolect.units import Seconds\n"
    )

    assert list(private_imports(tmp_path, "mine")) == [
        "bad.py: xenolect._registry",
        "bad.py: xenolect._layers",
        "bad.py: xenolect._options.fill",
    ]


LONGEST = 450  # lines of a file that says nothing about it


def long_files(folder):
    """``file: lines`` of each module that is longer, and whose docstring gives no reason."""
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text("utf-8")
        lines = text.count("\n")
        if lines > LONGEST and "Whole because " not in (ast.get_docstring(ast.parse(text)) or ""):
            yield f"{file.relative_to(folder)}: {lines}"


def test_a_file_is_one_concept():
    """A longer file says in its docstring what it is whole because of: "Whole because ..."."""
    folders = ["contrib", "tests"]
    places = [room(f"xenolect{name}") for name in ("", "_plugins", "_backends")]
    found = [each for place in places for each in long_files(place)]

    assert found + [each for name in folders for each in long_files(ROOT / name)] == []


def test_the_look_for_long_files_finds_one(tmp_path):
    """One line too many, without a reason; with one, or a line less, a file is left alone."""
    body = "x = 1\n" * (LONGEST - 1)
    (tmp_path / "good.py").write_text('"""A table."""\n' + body)
    (tmp_path / "long.py").write_text('"""A table."""\n' + body + "x = 2\n")
    (tmp_path / "whole.py").write_text('"""A table.\n\nWhole because it is one.\n"""\n' + body)

    assert list(long_files(tmp_path)) == ["long.py: 451"]


@pytest.mark.parametrize(
    "module", ["xenolect", "xenolect.config", "xenolect.hookspecs", "xenolect.interfaces"]
)
def test_importing_does_nothing_heavy(module):
    """A fresh interpreter that has imported a public module has none of the heavy libraries."""
    program = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []


STABLE = ("ChunkStore", "Index", "KeyProvider", "Scorer", "Safeguard", "Judge")


def passing(kit):
    """The classes of tests that are a subclass of a kit."""
    for file in [*(ROOT / "tests").glob("*.py"), *(ROOT / "contrib").glob("*/tests/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
            if isinstance(node, ast.ClassDef) and kit in {ast.unparse(base) for base in node.bases}:
                yield f"{file.name}: {node.name}"


@pytest.mark.parametrize("name", STABLE)
def test_a_stable_interface_has_two_implementations_that_pass_its_kit(name):
    """Or else it says that it is provisional; and every interface says one of the two."""
    assert len(list(passing(f"{name}Tests"))) >= 2


def test_every_interface_is_stable_or_provisional():
    """None is forgotten, and none is both."""
    protocols = {
        name
        for name in interfaces.__all__
        if isinstance(getattr(interfaces, name), type) and name != "Buffer"
    }
    assert protocols == {*STABLE, *interfaces.PROVISIONAL}
    assert not interfaces.PROVISIONAL & set(STABLE)
