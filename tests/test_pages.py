"""The pages are read as programs: what stands in them as Python or at a prompt runs as printed.

Each page runs in an empty folder. The Python blocks up to the next ``console`` block are one program;
each line that begins with ``$`` in a ``console`` block is a command, and what stands under it is what it prints, where
``...`` is anything. A block that can not be run has ``<!-- not run: REASON -->`` in the line above it.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n)?^```(?P<kind>python|console)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
ELSEWHERE = {
    "contrib/xenolect-mcp/README.md": "its tests run the programs, and what these define",
    "docs/contrib.md": "the tests of xenolect-mcp run the programs",
    "docs/hooks.md": "test_docs.py has the registry load each block",
    "README.md": "test_readme.py runs the program, and the plugin with its settings",
}
NEEDS = {  # READMEs of distributions that tests of the core may be run without
    "contrib/xenolect-a2a/README.md": ("xenolect_a2a", "a2a"),
    "contrib/xenolect-otel/README.md": ("xenolect_otel", "opentelemetry"),
    "contrib/xenolect-openfeature/README.md": ("xenolect_openfeature", "openfeature"),
}


def pages() -> list[str]:
    """Every page with a block to run, by its path in the repository."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("contrib/*/README.md")]
    found = [file for file in files if BLOCK.search(file.read_text("utf-8"))]
    return sorted(str(file.relative_to(ROOT)) for file in found)


def steps(page: str) -> list[tuple[str, str]]:
    """The blocks of a page in their order, Python blocks that follow each other as one."""
    made: list[tuple[str, str]] = []
    for block in BLOCK.finditer((ROOT / page).read_text("utf-8")):
        kind, text = block["kind"], block["text"]
        if block["skip"]:
            continue
        if made and made[-1][0] == kind == "python":
            made[-1] = (kind, made[-1][1] + "\n" + text)
        else:
            made.append((kind, text))
    return made


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A process in the folder, without settings of ours and as wide as a page."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XENOLECT__")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in pages() if page not in ELSEWHERE])
def test_a_page_runs_as_printed(page: str, tmp_path: Path) -> None:
    """Programs end well, commands print what the page says, and kits in it are green."""
    for module in NEEDS.get(page, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    for number, (kind, text) in enumerate(steps(page)):
        if kind == "python":
            program = tmp_path / f"test_{number}.py"
            program.write_text(text, "utf-8")
            quiet = ["-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider"]
            done = run([*(quiet if "Tests):" in text else []), program.name], tmp_path)
            assert done.returncode == 0, f"{page}, program {number}: {done.stdout}{done.stderr}"
        else:
            talk(page, text, tmp_path)


def talk(page: str, text: str, folder: Path) -> None:
    """Type the commands of a block, and compare what they print."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for turn in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, expected = turn.partition("\n")
        words = shlex.split(line, comments=True)
        assert words[0] == "xenolect", f"{page}: only xenolect is called in a console block"
        done = run(["-m", *words], folder)
        assert done.returncode == 0, f"{page}: {line}: {done.stderr}"
        if expected.strip():
            same = doctest.OutputChecker().check_output(expected, done.stdout, flags)
            assert same, f"{page}: {line} printed\n{done.stdout}\nand not\n{expected}"


def test_pages_that_are_run_elsewhere_exist() -> None:
    """The lists above name pages with blocks, and nothing else."""
    assert set(ELSEWHERE) | set(NEEDS) <= set(pages())


def test_the_commands_of_the_canary_page_exist() -> None:
    """Each line that starts with ``xenolect`` names commands and options there are."""
    from click.testing import CliRunner

    from xenolect.cli import main

    text = (ROOT / "docs" / "canary.md").read_text("utf-8")
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
