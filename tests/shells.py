"""The command line on one store, as tests use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from xenolect.cli import main


class Shell:
    """Runs commands on one store."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run and check the exit code; what was printed."""
        result = CliRunner().invoke(main, [*arguments, "--storage", self.place])
        assert result.exit_code == code, result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        """Run with --json and parse."""
        return json.loads(self.run(*arguments, "--json"))


def stocked(place: Path) -> Shell:
    """A new store with two variants and an agent."""
    result = CliRunner().invoke(main, ["init", str(place)])
    assert result.exit_code == 0, result.output
    shell = Shell(place)
    shell.run(
        "propose", "--id", "json", "-d", "plain", "--changes", '{"wire": "json"}', "--activate"
    )
    shell.run("propose", "--id", "zstd", "-d", "zstd", "--require", "zstd=>=1.5")
    shell.run("agents", "register", "a1", "-c", "zstd=1.10")
    return shell
