"""The command line on a real store: what it prints, its JSON, its exit codes, its start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.shells import Shell, stocked

from xenolect import EmergenceManager, cli, hookimpl, offer
from xenolect._registry import Registry
from xenolect.cli import main
from xenolect.config import PluginsConfig
from xenolect.errors import LimitError


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A store with an active json and a proposed zstd."""
    return stocked(tmp_path / "store")


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
    assert "quarantine until" in after
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


def _serve(manager: EmergenceManager) -> int:
    """Serve a canary of which two of five operations fail, too few for its breaker to open; how many
    it took until it was rolled back."""
    tried = 0
    for session in range(1000):
        chosen = manager.select("a1", session=str(session))
        tried += chosen.variant.id == "zstd"
        failed = chosen.variant.id == "zstd" and tried % 5 in (0, 2)
        manager.report(chosen, "a1", success=not failed, latency_ms=5.0)
        if manager.variants.get("zstd").status == "rolled_back":
            return tried
    raise AssertionError(f"{tried} operations, and it is still served")


def test_why_shows_the_evidence_of_a_rollback(shell: Shell) -> None:
    """The judge of a process opened after the command rolls back; `why` says on how many operations."""
    shell.run("canary", "start", "zstd", "--unit", "session", "--fraction", "0.5", "--seed", "1")
    with EmergenceManager.open(shell.place, background=False) as manager:
        tried = _serve(manager)

    why = shell.run("why", "zstd")
    evidence = shell.json("why", "zstd")["rollout"]["evidence"]

    assert "zstd is rolled_back" in why
    assert 0 < evidence["canary_failures"] < evidence["canary_operations"] == tried
    failed = f"{evidence['canary_failures']} of {tried} operations failed"
    assert f"canary: {failed}" in why
    assert "evidence of harm" in why
    assert "quarantine until" in why
    assert "is in quarantine" in shell.run("variants", "test", "zstd", code=5)


def test_a_server_acts_on_a_rollout_that_a_tool_started(shell: Shell) -> None:
    """Who joined while the tool still led takes over when it closes, and acts within `report`."""
    with EmergenceManager.open(shell.place, background=False) as server:
        tool = EmergenceManager.open(shell.place, background=False, process=False)
        tool.canaries.start("zstd", unit="session", initial_fraction=0.5, seed=1)
        server.tick()
        tool.close()
        server.tick()

        assert _serve(server) < 100


def test_a_rollout_is_steered_by_hand(shell: Shell) -> None:
    """pause, resume, promote and abort, with explicit levels and a setting by its name."""
    started = shell.json(
        *("canary", "start", "zstd", "--control", "json", "--replaces", "json"),
        *("--unit", "session", "--level", "0.2", "--level", "0.6"),
        *("--option", "health_check_interval=60"),
    )
    assert started["levels"] == [0.2, 0.6]
    assert shell.json("canary", "pause", "zstd")["state"] == "paused"
    assert shell.json("canary", "resume", "zstd")["state"] == "ramping"
    assert "no evidence yet" in shell.run("canary", "promote", "zstd", code=5)
    assert shell.json("canary", "promote", "zstd", "--force")["state"] == "promoted"
    assert shell.run("variants", "baseline", "default") == "zstd\n"
    assert shell.json("variants", "show", "json")["status"] == "deprecated"

    shell.run("propose", "--id", "br", "-d", "brotli")
    shell.run("canary", "start", "br", "--unit", "session")
    assert shell.json("canary", "abort", "br")["state"] == "aborted"
    assert shell.json("why", "br")["quarantine"] is None

    assert [each["variant_id"] for each in shell.json("canary", "status")] == ["zstd", "br"]


def test_variants_and_agents_move_through_their_life(shell: Shell) -> None:
    """Each verb does what it is called."""
    assert shell.json("variants", "test", "zstd")["status"] == "testing"
    assert shell.json("variants", "activate", "zstd", "--force")["status"] == "active"
    assert shell.json("variants", "deprecate", "zstd")["status"] == "deprecated"
    assert shell.json("variants", "archive", "zstd")["status"] == "archived"
    listed = shell.json("variants", "--status", "active")
    assert [each["id"] for each in listed] == ["json"]

    updated = shell.json("agents", "update", "a1", "-c", "br=true", "-p", "latency=1.0")
    assert updated["context"]["capabilities"] == {"br": True}
    shell.run("agents", "remove", "a1")
    assert shell.json("agents") == []


@pytest.mark.parametrize("name", ["test", "list", "update"])
def test_a_store_may_be_called_like_a_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The value of --storage is not taken for a verb."""
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(main, ["init", name])

    for group in ("variants", "agents"):
        result = CliRunner().invoke(main, [group, "--storage", name, "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.output) == []


def test_the_store_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XENOLECT__STORAGE stands for --storage; reading makes no store there either."""
    place = tmp_path / "env"
    monkeypatch.setenv("XENOLECT__STORAGE", str(place))

    missing = CliRunner().invoke(main, ["variants"])
    assert missing.exit_code == 3
    assert f"xenolect init {place}" in missing.output
    assert not place.exists()

    assert CliRunner().invoke(main, ["init"]).exit_code == 0
    assert (place / "xenolect.toml").exists()
    assert CliRunner().invoke(main, ["variants"]).exit_code == 0


def test_the_store_of_a_file(tmp_path: Path) -> None:
    """--config names the store; reading makes none, init does and writes no other settings."""
    file = tmp_path / "fleet.toml"
    file.write_text('storage = "there"\n')

    missing = CliRunner().invoke(main, ["status", "--config", str(file)])
    assert missing.exit_code == 3
    assert f"xenolect init --config {file}" in missing.output
    assert not (tmp_path / "there").exists()

    assert CliRunner().invoke(main, ["init", "--config", str(file)]).exit_code == 0
    assert not (tmp_path / "there" / "xenolect.toml").exists()
    assert CliRunner().invoke(main, ["status", "--config", str(file)]).exit_code == 0


def test_init_takes_a_url_for_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory called "s3:" appears."""
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(main, ["init", "s3://bucket/prefix"])

    assert result.exit_code == 2
    assert 'path = "index.db"' in result.output
    assert list(tmp_path.iterdir()) == []


def test_plugins_follows_the_settings_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options, the store in variants/ says where plugins are; a broken one is named."""
    (tmp_path / "variants" / "mine").mkdir(parents=True)
    (tmp_path / "variants" / "xenolect.toml").write_text('[plugins]\ndir = "mine"\n')
    (tmp_path / "variants" / "mine" / "broken.py").write_text("import nothing_like_this\n")
    monkeypatch.chdir(tmp_path)

    records = json.loads(CliRunner().invoke(main, ["plugins", "--json"]).output)

    broken = next(record for record in records if record["name"] == "broken")
    assert broken["status"] == "left out"
    assert "nothing_like_this" in broken["why"]


def _command_plugin(name: str, make: Any) -> SimpleNamespace:
    @hookimpl
    def xenolect_commands() -> Any:
        yield offer("hello", make)

    return SimpleNamespace(__name__=name, xenolect_commands=xenolect_commands)


def _with_plugins(monkeypatch: pytest.MonkeyPatch, *plugins: object) -> None:
    registry = Registry.collect(PluginsConfig(third_party=False), plugins, ())
    monkeypatch.setattr(cli, "_registry", registry)


@click.command()
@click.option("--name", default="world")
def _hello(name: str) -> None:
    click.echo(f"hello {name}")


def test_a_plugin_adds_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the help without being made, and runs when it is asked for."""
    made = []

    def make() -> click.Command:
        made.append(1)
        return _hello

    _with_plugins(monkeypatch, _command_plugin("greeter", make))

    assert "hello" in CliRunner().invoke(main, ["--help"]).output
    assert made == []
    assert CliRunner().invoke(main, ["hello", "--name", "you"]).output == "hello you\n"


def _raise() -> click.Command:
    raise ImportError("no module called mcp")


@pytest.mark.parametrize(
    ("plugins", "says"),
    [
        ([("one", _raise)], "of one (in process) can not be loaded: ImportError: no module"),
        ([("one", lambda: 7)], "is no click.Command but 7"),
        (
            [("one", lambda: _hello), ("two", lambda: _hello)],
            "two plugins offer `xenolect hello`: one (in process) and two (in process)",
        ),
    ],
)
def test_a_command_that_can_not_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch, plugins: list[tuple[str, Any]], says: str
) -> None:
    """Whoever breaks a command is named, and the help still works."""
    _with_plugins(monkeypatch, *(_command_plugin(name, make) for name, make in plugins))

    result = CliRunner().invoke(main, ["hello", "--name", "you"])

    assert result.exit_code == 3
    assert says in result.output
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0


@pytest.mark.parametrize("machine", [False, True])
def test_errors_of_a_plugins_command_are_told_as_ours(
    monkeypatch: pytest.MonkeyPatch, machine: bool
) -> None:
    """One line and the exit code of the error's kind, and JSON where JSON is asked for: no traceback."""

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def full(as_json: bool) -> None:
        raise LimitError("a hundred variants are enough", retry_after=2.0)

    class Plugin:
        @hookimpl
        def xenolect_commands(self) -> Any:
            yield offer("full", lambda: full)

    _with_plugins(monkeypatch, Plugin())

    result = CliRunner().invoke(main, ["full", *(["--json"] if machine else [])])

    assert result.exit_code == 5
    if machine:
        error = json.loads(result.output)["error"]
        assert (error["code"], error["retry_after"]) == ("limit", 2.0)
    else:
        assert result.output == "error: a hundred variants are enough\n"


def test_the_demo_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without xenolect-mcp the demo is in the help, and says what to install."""
    _with_plugins(monkeypatch)

    result = CliRunner().invoke(main, ["demo", "--short"])

    assert "(needs xenolect-mcp)" in CliRunner().invoke(main, ["--help"]).output
    assert result.exit_code == 3
    assert result.output == (
        "error: xenolect demo comes with xenolect-mcp; install it: pip install xenolect-mcp\n"
    )


HEAVY = (
    *("fsspec", "s3fs", "sqlite_utils", "mcp", "numpy", "cryptography", "cattrs", "rich"),
    "xenolect.manager",
)


def _loaded(program: str) -> set[str]:
    """Which heavy modules a fresh interpreter holds after a program."""
    program += f"\nimport sys\nprint('loaded', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_is_light() -> None:
    """Importing the package imports nothing heavy, and its face no vendor."""
    assert _loaded("import xenolect") == set()
    face = _loaded("from xenolect import EmergenceManager, hookimpl")
    assert not face & set(HEAVY[:6])


def test_help_imports_no_command() -> None:
    """Printing the help imports no manager, nothing heavy, and no command's module."""
    program = (
        "from click.testing import CliRunner\nfrom xenolect.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0"
    )
    assert _loaded(program) == set()


def test_help_is_quick() -> None:
    """`xenolect --help` costs at most six times an interpreter that imports what any tool needs."""

    def cpu(*arguments: str) -> float:
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
