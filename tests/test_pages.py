"""The pages of docs/ that are read as programs: their blocks, one after the other, run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["canary.md", "rollback.md"])
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    """In an empty folder, in a process of their own; what they assert is so."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "program.py").write_text("\n".join(blocks))

    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert len(blocks) >= 4
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_page_exist() -> None:
    """Each line that starts with ``xenolect`` names commands and options there are."""
    from click.testing import CliRunner

    from xenolect.cli import main

    text = (DOCS / "canary.md").read_text("utf-8")
    lines = re.findall(r"^xenolect (.*)$", text, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = [
            w for w in line.split() if re.fullmatch(r"[a-z]+", w) and w not in ("zstd", "json")
        ]
        command = words[: 2 if words[0] == "canary" else 1]
        done = CliRunner().invoke(main, [*command, "--help"])
        assert done.exit_code == 0, done.output
        for option in re.findall(r"--[a-z]+", line):
            assert option in done.output, (line, option)
