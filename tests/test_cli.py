"""The command line on a real store: what it prints, its JSON, its exit codes, its start-up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A store with an active json and a proposed zstd."""
    place = tmp_path / "store"
    result = CliRunner().invoke(main, ["init", str(place)])
    assert result.exit_code == 0, result.output
    shell = Shell(place)
    shell.run(
        "propose", "--id", "json", "-d", "plain", "--changes", '{"wire": "json"}', "--activate"
    )
    shell.run("propose", "--id", "zstd", "-d", "zstd", "--require", "zstd=>=1.5")
    shell.run("agents", "register", "a1", "-c", "zstd=1.10")
    return shell


def test_init_writes_settings_once(tmp_path: Path) -> None:
    """A second init keeps what is there."""
    CliRunner().invoke(main, ["init", str(tmp_path / "s")])
    (tmp_path / "s" / "xenolect.toml").write_text("max_variants = 7\n")

    again = CliRunner().invoke(main, ["init", str(tmp_path / "s"), "--json"])

    assert json.loads(again.output)["created"] is False
    assert (tmp_path / "s" / "xenolect.toml").read_text() == "max_variants = 7\n"


def test_the_template_is_valid_and_says_the_defaults(tmp_path: Path) -> None:
    """Every commented line of the template is a setting with its default value."""
    from xenolect._cli.init import TEMPLATE
    from xenolect.config import Config, load

    text = "".join(
        line[2:] + "\n"
        for line in TEMPLATE.splitlines()
        if line.startswith("# ") and ("=" in line or line.startswith("# ["))
    )
    file = tmp_path / "x.toml"
    file.write_text(text)

    loaded = load(file, environ={})

    assert loaded.canary == Config().canary
    assert loaded.scoring.keys() == Config().scoring.keys()
    assert loaded.breaker.options["failure_threshold"] == 5


def test_a_rollout_from_start_to_rollback(shell: Shell) -> None:
    """propose, canary, why, status, rollback: each says what happened, in text and JSON."""
    started = shell.json(
        "canary", "start", "zstd", "--unit", "session", "--fraction", "0.5", "--seed", "1"
    )
    why = shell.run("why", "zstd")
    agent = shell.run("why", "a1")
    running = shell.json("status")["rollouts"]["running"]
    back = shell.json("rollback", "zstd", "--reason", "ticket 7")
    after = shell.run("why", "zstd")

    assert (started["state"], started["unit"], started["levels"][0]) == ("ramping", "session", 0.5)
    assert "against json: ramping, level 1 of 6" in why
    assert "a canary for 50 % of the sessions" in agent
    assert [r["variant"] for r in running] == ["zstd"]
    assert back["variant"]["status"] == "rolled_back"
    assert "reason: ticket 7" in after


def test_select_shows_score_parts_and_exclusions(shell: Shell) -> None:
    """An agent's choice with its parts; an unregistered agent by its capabilities."""
    shell.run("variants", "activate", "zstd", "--force")

    chosen = shell.json("select", "a1")
    other = shell.json("select", "stranger", "-c", "zstd=1.4")

    assert set(chosen["parts"]) == {"performance", "compatibility", "stability"}
    assert other["variant"]["id"] == "json"
    assert other["excluded"] == {"zstd": "zstd: needs >=1.5, the agent has 1.4"}


def test_capabilities_with_a_point_stay_text(shell: Shell) -> None:
    """1.10 is a version, not the number 1.1."""
    assert shell.json("agents")[0]["context"]["capabilities"] == {"zstd": "1.10"}


def test_states_go_in_and_out(shell: Shell, tmp_path: Path) -> None:
    """A file is stored, listed, verified and read back."""
    source = tmp_path / "in.bin"
    source.write_bytes(bytes(range(256)) * 5000)

    shell.run("state", "put", "zstd", str(source))
    shell.run("state", "get", "zstd", "--out", str(tmp_path / "out.bin"))

    assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()
    assert [r["version"] for r in shell.json("state", "versions", "zstd")] == [1]
    assert shell.json("state", "verify")["problems"] == []
    assert "removed 0 objects" in shell.run("state", "gc")


def test_points_are_kept_verified_and_restored(shell: Shell) -> None:
    """A point made by hand brings the content back."""
    shell.run("points", "create", "zstd", "--reason", "before")
    point = shell.json("points", "list", "zstd")[0]["id"]

    assert "intact" in shell.run("points", "verify", point)
    assert "zstd  proposed" in shell.run("points", "restore", point)


def test_files_of_variants_are_proposed(shell: Shell, tmp_path: Path) -> None:
    """A JSON file per variant; an unknown key is refused and named."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"id": "br", "description": "brotli", "changes": {"wire": "br"}}')
    bad.write_text('{"id": "br2", "descripton": "brotli"}')

    assert shell.json("propose", str(good))[0]["id"] == "br"
    assert "bad.json: unknown descripton" in shell.run("propose", str(bad), code=2)


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


def test_plugins_lists_everything_bundled(tmp_path: Path) -> None:
    """Without any store, all bundled plugins are shown with what they offer."""
    result = CliRunner().invoke(main, ["plugins", "--storage", str(tmp_path), "--json"])

    offers: dict[str, list[str]] = {}
    for record in json.loads(result.output):
        for kind, names in record["offers"].items():
            offers.setdefault(kind, []).extend(names)
    assert set(offers["scoring"]) >= {"performance", "compatibility", "stability"}
    assert set(offers["index"]) >= {"sqlite", "memory"}
    assert "evalue" in offers["judges"]


HEAVY = ("fsspec", "s3fs", "sqlite_utils", "mcp", "numpy", "cryptography", "cattrs", "rich")


def test_importing_is_light() -> None:
    """Importing the face and printing help import nothing heavy."""
    program = (
        "import sys, xenolect\n"
        "from xenolect import hookimpl, EmergenceManager\n"
        f"print([m for m in {HEAVY[:6]!r} if m in sys.modules])\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


def test_help_is_quick() -> None:
    """`xenolect --help` costs little beyond the interpreter: under ten times an import of json."""

    def cpu(*arguments: str) -> float:
        import os

        best = 1e9
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            after = os.times()
            used = after.children_user + after.children_system
            best = min(best, used - before.children_user - before.children_system)
        return best

    floor = cpu("-c", "import json, argparse, logging, importlib.metadata, inspect")
    ours = cpu("-m", "xenolect", "--help")

    assert ours < 6 * floor, f"{ours:.3f} s against {floor:.3f} s"
