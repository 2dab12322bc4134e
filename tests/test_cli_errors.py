"""What the command line says when something is wrong, and to whom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.shells import Shell, stocked

from xenolect._cli.common import table
from xenolect.cli import main


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A store with an active json and a proposed zstd."""
    return stocked(tmp_path / "store")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["variants", "show", "nope"], 3, "no variant has the id 'nope'"),
        (["variants", "activate", "zstd"], 5, "must be proved by a rollout"),
        (["propose", "--id", "json", "-d", "again"], 4, "ids are never used again"),
        (["propose", "--id", "../x", "-d", "x"], 2, "slug"),
        (["propose", "--id", "y", "-d", "x", "--changes", "{"], 2, "is not JSON"),
        (["canary", "start", "zstd"], 2, "unit='session'"),
        (["points", "verify", "zstd@9"], 3, "no rollback point"),
        (["propose", "-d", "x", "--changes", '{"a": 1, "a": 2}'], 2, "'a' is there twice"),
        (["variants", "lst"], 2, "did you mean 'list'"),
        (["why", "nobody"], 3, "neither a variant nor an agent"),
        (["select", "a1", "--protocol", "other"], 5, "has no variants"),
    ],
)
def test_exit_codes_say_what_to_do(
    shell: Shell, arguments: list[str], code: int, says: str
) -> None:
    """Each kind of error has its code, and its message is on standard error."""
    assert says in shell.run(*arguments, code=code)


def test_errors_are_json_for_machines(shell: Shell) -> None:
    """With --json an error is one JSON document too."""
    result = CliRunner().invoke(
        main, ["variants", "show", "nope", "--storage", shell.place, "--json"]
    )

    assert json.loads(result.output)["error"]["code"] == "variant-not-found"


def test_corruption_has_its_own_code(shell: Shell, tmp_path: Path) -> None:
    """A damaged state is exit code 6 on reading, and 1 on verifying."""
    source = tmp_path / "in.bin"
    source.write_bytes(b"x" * 100_000)
    shell.run("state", "put", "zstd", str(source))
    chunk = next((Path(shell.place) / "variants" / "zstd" / "state").glob("chunk_*.bin"))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.chmod(0o644)
    chunk.write_bytes(data)

    assert chunk.name in shell.run("state", "get", "zstd", code=6)
    shell.run("state", "verify", code=1)


def test_a_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    """A command on a directory that is no store does not create one."""
    result = CliRunner().invoke(main, ["status", "--storage", str(tmp_path / "none")])

    assert result.exit_code == 3
    assert "xenolect init" in result.output
    assert not (tmp_path / "none").exists()


def test_a_wrong_command_names_the_near_one() -> None:
    """A typing error is answered with the command that was meant."""
    result = CliRunner().invoke(main, ["statu"])

    assert result.exit_code == 2
    assert "did you mean 'status'" in result.output


def test_a_pipe_gets_aligned_columns(shell: Shell) -> None:
    """Without a terminal a table is plain text in columns, one line a row, no box drawing."""
    shell.run("propose", "--id", "x", "-d", "two\nlines")
    lines = shell.run("variants").splitlines()

    at = lines[0].index("description")
    assert [line[at:] for line in lines] == ["description", "plain", "zstd", "two lines"]
    assert all(line.isascii() for line in lines)


def test_a_terminal_shows_what_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets are no markup, and an escape sequence is shown, never sent."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    table(("id", "description"), [("a", "[/x] [bold]y[/bold]"), ("b", "\x1b]0;title\x07 \u202ez")])

    shown = capsys.readouterr().out
    assert "[/x] [bold]y[/bold]" in shown
    assert "\\x1b]0;title\\x07 \\u202ez" in shown
    assert "\x1b]0" not in shown


def test_text_of_agents_can_not_drive_a_terminal(shell: Shell) -> None:
    """An escape sequence in a description is visible in answers and in errors."""
    assert "\\x1b[2Jx" in shell.run("propose", "--id", "esc", "-d", "\x1b[2Jx")
    assert "\x1b" not in shell.run("variants", "show", "esc")
    assert "\x1b" not in shell.run("variants", "show", "\x1b[2J", code=3)


def test_a_wrong_call_is_json_for_machines(shell: Shell) -> None:
    """What click refuses before a command runs is a JSON document too, with exit code 2."""
    for arguments, says in (
        (["variants", "show"], "VARIANT"),
        (["variants", "shw"], "did you mean 'show'"),
        (["statuss"], "did you mean 'status'"),
        (["canary", "start", "zstd", "--fraction", "much"], "not a valid float"),
    ):
        result = CliRunner().invoke(main, [*arguments, "--json"])
        error = json.loads(result.output)["error"]
        assert (result.exit_code, error["code"], error["retryable"]) == (2, "usage", False)
        assert says in error["message"]


def test_errors_go_to_standard_error(shell: Shell) -> None:
    """Standard output stays empty when a command fails, and no traceback is shown."""
    call = [sys.executable, "-m", "xenolect", "variants", "show", "nope", "--storage", shell.place]

    plain = subprocess.run(call, capture_output=True, text=True)
    machine = subprocess.run([*call, "--json"], capture_output=True, text=True)

    assert (plain.returncode, plain.stdout) == (3, "")
    assert plain.stderr.startswith("error: no variant has the id 'nope'")
    assert plain.stderr.count("\n") == 1
    assert (machine.returncode, machine.stdout) == (3, "")
    assert json.loads(machine.stderr)["error"]["code"] == "variant-not-found"


def test_details_of_an_error_are_in_its_document(shell: Shell) -> None:
    """Why each variant was excluded can be read by a program."""
    shell.run("propose", "--id", "h2", "-d", "x", "--protocol", "p", "--require", "h2=true")
    shell.run("variants", "activate", "h2")
    result = CliRunner().invoke(
        main, ["select", "a1", "--protocol", "p", "--storage", shell.place, "--json"]
    )

    assert result.exit_code == 5
    assert "h2" in json.loads(result.output)["error"]["excluded"]


def test_a_file_in_the_way_is_exit_code_7(tmp_path: Path) -> None:
    """A place that can not be written is a backend that is away."""
    (tmp_path / "plain").write_text("")

    for place in (tmp_path / "plain", tmp_path / "plain" / "store"):
        result = CliRunner().invoke(main, ["init", str(place)])
        assert result.exit_code == 7
        assert str(tmp_path / "plain") in result.output
