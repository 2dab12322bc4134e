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

from xenolect import EmergenceManager, cli, hookimpl, offer
from xenolect._cli.common import table
from xenolect._registry import Registry
from xenolect.cli import main
from xenolect.config import PluginsConfig
from xenolect.errors import LimitError


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
