"""Who is routed: shares, independence, monotony, and the same answer everywhere."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from xenolect._routing import routed, salt_from_seed

AGENTS = [f"agent-{i}" for i in range(100_000)]


def chosen(seed: object, ppm: int) -> set[str]:
    """The agents inside a share."""
    salt = int(salt_from_seed(seed), 16)
    return {agent for agent in AGENTS if routed(agent, salt, ppm)}


def test_shares_are_kept_nested_and_independent() -> None:
    """10 % of 100,000 is 9,700-10,300; it is inside the 20 %; two rollouts overlap by chance."""
    tenth, fifth, other = chosen(1, 100_000), chosen(1, 200_000), chosen(2, 100_000)

    assert 9_700 <= len(tenth) <= 10_300
    assert tenth <= fifth
    assert 800 <= len(tenth & other) <= 1_200
    assert chosen(1, 0) == set()
    assert chosen(1, 1_000_000) == set(AGENTS)


def test_every_unicode_spelling_is_one_agent() -> None:
    """Composed and decomposed spellings of a name are the same unit."""
    salt = int(salt_from_seed(7), 16)
    spellings = ("caf\u00e9", "cafe\u0301")

    answers = [{routed(s, salt, ppm) for ppm in range(0, 10**6, 999)} for s in spellings]
    same = all(
        routed(spellings[0], salt, ppm) == routed(spellings[1], salt, ppm)
        for ppm in range(0, 10**6, 9_999)
    )

    assert answers[0] == answers[1]
    assert same


PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from xenolect._routing import routed, salt_from_seed
salt = int(salt_from_seed(11), 16)
print("".join(str(int(routed(f"agent-{i}", salt, 300_000))) for i in range(5000)))
"""


@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13", sys.executable])
def test_the_same_answer_in_every_process_and_version(python: str, tmp_path: object) -> None:
    """Routing does not depend on the process, its hash seed or the Python version."""
    import pathlib

    import xenolect

    path = shutil.which(python)
    if path is None:
        pytest.skip(f"{python} is not installed here")
    # only the pure module is needed: other interpreters may lack the dependencies
    package = pathlib.Path(str(tmp_path)) / "xenolect"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = pathlib.Path(xenolect.__file__).with_name("_routing.py")
    (package / "_routing.py").write_text(source.read_text())
    salt = int(salt_from_seed(11), 16)
    expected = "".join(str(int(routed(f"agent-{i}", salt, 300_000))) for i in range(5000))

    done = subprocess.run(
        [path, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False
    )

    if done.returncode and "pyenv" in done.stderr:
        pytest.skip(f"{python} is not installed here")
    assert done.stdout.strip() == expected, done.stderr
