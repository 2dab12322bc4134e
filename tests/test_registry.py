"""The plugin registry: what is left out and why, what is missing, what is offered twice."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from xenolect._options import structure
from xenolect._registry import KINDS, Registry
from xenolect.config import Config, PluginsConfig
from xenolect.errors import ConfigError, PluginError
from xenolect.events import Event
from xenolect.hookspecs import hookimpl, offer, scorer

DATA = Path(__file__).parent / "data"
SITE = DATA / "site"


@pytest.fixture
def only_site(monkeypatch):
    """The committed fake distributions, and nothing else, are what is installed."""
    structure({}, Config)  # imports cattrs, which is not on the path below
    standard = Path(sysconfig.get_path("stdlib"))
    path = [place for place in sys.path if Path(place) in (standard, standard / "lib-dynload")]
    monkeypatch.setattr(sys, "path", [str(SITE), *path])
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("xl_"):
            del sys.modules[name]


def collect(*plugins, **config):
    """A registry without anything bundled."""
    return Registry.collect(PluginsConfig(**config), plugins, bundled=())


def in_process(*plugins):
    """A registry of objects alone."""
    return collect(*plugins, third_party=False)


def plugin(**functions):
    """An object with these attributes, as a module would have."""
    return SimpleNamespace(**functions)


def chunk_storage(*offers):
    """A plugin that offers chunk stores."""

    @hookimpl
    def xenolect_chunk_storage():
        yield from offers

    return plugin(xenolect_chunk_storage=xenolect_chunk_storage)


def refusal(registry, kind, name, where, **options):
    """What asking for ``name`` is answered with."""
    with pytest.raises(PluginError) as caught:
        registry.make(kind, name, options, where)
    return str(caught.value)


def why(registry):
    """The reasons of what was left out, in order."""
    return [record.why for record in registry.describe() if record.status == "left out"]


# -- installed distributions ----------------------------------------------------------------------


def test_what_can_not_be_used_is_left_out_and_named(only_site, caplog):
    """Each broken distribution is one WARNING with its name and version; the fine ones are loaded."""
    with caplog.at_level(logging.WARNING, "xenolect.plugins"):
        registry = collect()

    assert [record.getMessage() for record in caplog.records] == [
        "plugin args (xl-args 1.0) is left out: hook 'xenolect_observe' has no argument 'agentt'; "
        "it takes (event)",
        "plugin broken (xl-broken 1.0) is left out: ModuleNotFoundError: "
        "No module named 'a_driver_nobody_has'",
        "plugin empty (xl-empty 0.1) is left out: it implements no hook; "
        "mark a function with @hookimpl or @scorer(name)",
        "plugin xl-typo (xl-typo 1.2) is left out: no hook is called 'xenolect_scorer'; "
        "did you mean 'xenolect_scoring'?",
    ]
    assert [(str(record), record.status) for record in registry.describe()] == [
        ("args (xl-args 1.0)", "left out"),
        ("broken (xl-broken 1.0)", "left out"),
        ("fine (xl-dup 1.0)", "loaded"),
        ("empty (xl-empty 0.1)", "left out"),
        ("fine (xl-fine 2.0)", "loaded"),
        ("xl-typo (xl-typo 1.2)", "left out"),
    ]
    (fine,) = (each for each in registry.describe() if each.source == "xl-fine 2.0")
    assert fine.offers == {"scoring": ("cheapest",), "chunks": ("memory", "redis")}


def test_a_missing_name_says_what_is_there_and_what_was_left_out(only_site):
    """The nearest name, everything installed of that kind, everything left out with its reason."""
    registry = collect(blocked=["xl-args", "xl-empty", "xl-typo"])

    assert refusal(registry, "chunks", "reddis", "chunks") == (
        "chunks: no plugin offers chunk storage 'reddis'; did you mean 'redis'? Installed: memory, redis. "
        "Left out: args (xl-args 1.0): named in plugins.blocked, broken (xl-broken 1.0): "
        "ModuleNotFoundError: No module named 'a_driver_nobody_has', "
        "empty (xl-empty 0.1): named in plugins.blocked, xl-typo (xl-typo 1.2): named in plugins.blocked"
    )


def test_two_offers_with_one_name_are_an_error_on_use_only(only_site):
    """Both sources are named, with the line that blocks one; the other names work."""
    registry = collect()

    assert refusal(registry, "chunks", "memory", "chunks") == (
        "chunks: two plugins offer chunk storage 'memory': fine (xl-dup 1.0) and fine (xl-fine 2.0); "
        'block one of them, as in [plugins] blocked = ["xl-fine"]'
    )
    assert registry.make("chunks", "redis", {"url": "redis://here"}, "chunks").timeout == 1.0


def test_the_line_that_blocks_one_of_two_works(only_site):
    """What the error says to write into the file solves it."""
    registry = collect(blocked=["xl-fine"])

    assert repr(registry.make("chunks", "memory", {}, "chunks")) == "{}"
    assert [each.source for each in registry.offers("chunks")] == ["xl-dup 1.0"]


def test_third_party_plugins_can_be_turned_off(only_site):
    """``third_party = false`` looks at no installed distribution."""
    assert collect(third_party=False).describe() == []


def test_wrong_options_are_a_mistake_in_the_configuration(only_site):
    """ConfigError with every path, not an error of the plugin."""
    with pytest.raises(ConfigError) as caught:
        collect().make("chunks", "redis", {"uri": "x", "timeout": -1}, "chunks")

    assert str(caught.value) == (
        "chunks.url: required, but not set; chunks.timeout: 'timeout' must be > 0: -1.0; "
        "chunks.uri: unknown setting, did you mean 'url'?"
    )


# -- what a plugin may get wrong ------------------------------------------------------------------


def test_each_mistake_in_words():
    """A class, a forgotten decorator, async hooks, hooks that raise or yield something else."""

    @hookimpl
    def xenolect_scoring():
        raise RuntimeError("no licence")

    @hookimpl
    async def xenolect_keys():
        yield

    @hookimpl
    def xenolect_judges():
        return ["evalue"]

    @hookimpl
    def xenolect_safeguards():
        yield offer("Breaker!", dict)

    registry = in_process(
        dict,
        plugin(xenolect_chunk_storage=lambda: ()),
        plugin(xenolect_storage=lambda: ()),
        plugin(xenolect_scoring=xenolect_scoring),
        plugin(xenolect_keys=xenolect_keys),
        plugin(xenolect_judges=xenolect_judges),
        plugin(xenolect_safeguards=xenolect_safeguards),
        plugin(),
    )

    assert why(registry) == [
        "dict is a class; name an instance of it, or a module",
        "'xenolect_chunk_storage' is not marked as a hook; put @hookimpl above it",
        "no hook is called 'xenolect_storage'; did you mean 'xenolect_index_storage'?",
        "xenolect_scoring raised RuntimeError: no licence",
        "hook 'xenolect_keys' is async; hooks are plain functions",
        "xenolect_judges yields 'evalue'; yield offer(name, make)",
        "xenolect_safeguards offers the name 'Breaker!'; a name is 1 to 64 of a-z, 0-9, '.', '_', '-', "
        "and starts with a letter or digit",
        "it implements no hook; mark a function with @hookimpl or @scorer(name)",
    ]


def test_a_plugin_that_can_not_be_made_names_itself():
    """What a factory raises is chained and blamed on its plugin, with the setting's path."""

    def refuse():
        raise OSError("no route to host")

    registry = in_process(chunk_storage(offer("far", refuse)))

    with pytest.raises(PluginError) as caught:
        registry.make("chunks", "far", {}, "chunks")

    assert str(caught.value) == (
        "chunks: chunk storage 'far' of SimpleNamespace (in process) can not be made: "
        "OSError: no route to host"
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert (caught.value.plugin, caught.value.distribution) == ("SimpleNamespace", "in process")


def test_nothing_is_installed():
    """The message still is a sentence."""
    assert refusal(in_process(), "judges", "evalue", "canary.judge") == (
        "canary.judge: no plugin offers judge 'evalue'. Installed: none."
    )


# -- in process, and in a directory ---------------------------------------------------------------


def test_a_plain_function_is_a_scorer():
    """``@scorer`` makes an offer that is found as an attribute, or given alone, and counts once."""

    @scorer("constant")
    def constant(candidates, agent):
        return [0.5 for _ in candidates]

    registry = in_process(plugin(constant=constant), constant)

    assert registry.make("scoring", "constant", {}, "scoring.constant").score([1, 2], None) == [
        0.5,
        0.5,
    ]
    assert why(registry) == []


def test_the_same_plugin_twice_is_one():
    """Installed and given in process: loaded once, so its names do not clash with themselves."""
    one = chunk_storage(offer("here", dict))

    registry = in_process(one, one)

    assert repr(registry.make("chunks", "here", {}, "chunks")) == "{}"
    assert len(registry.describe()) == 1


def test_a_directory_of_plugins():
    """Each file is a plugin with its path as its source; annotations in it can be read."""
    registry = collect(third_party=False, dir=str(DATA / "folder"))

    rule = registry.make("compatibility", "quiet", {"loud": "horn"}, "compatibility")

    assert rule.refuses(None, SimpleNamespace(platform="horn")) == "horn is loud"
    assert str(registry.describe()[0]) == f"house_rules ({DATA / 'folder' / 'house_rules.py'})"


def test_a_directory_that_is_not_there(tmp_path):
    """A setting that points nowhere is a mistake of the configuration."""
    with pytest.raises(ConfigError) as caught:
        collect(dir=str(tmp_path / "no"))

    assert str(caught.value) == (
        f"plugins.dir: {tmp_path / 'no'} is not a directory; create it or correct the path"
    )


# -- observers and commands -----------------------------------------------------------------------


def test_observers_hear_and_can_stop_nothing(caplog):
    """One that raises is logged, with a traceback only the first time; the others still hear."""
    heard = []

    @hookimpl
    def xenolect_observe(event):
        heard.append(event.kind)

    def bad(event):
        raise ValueError("deaf")

    @hookimpl
    def without_arguments():
        heard.append("something")

    registry = in_process(
        plugin(bad=hookimpl(bad, specname="xenolect_observe")),
        plugin(xenolect_observe=xenolect_observe),
        plugin(quiet=hookimpl(without_arguments, specname="xenolect_observe")),
    )
    event = Event("variant.activated", datetime(2026, 1, 1, tzinfo=UTC), 3)

    with caplog.at_level(logging.DEBUG, "xenolect.plugins"):
        registry.observers(event)
        registry.observers(event)

    assert heard == ["variant.activated", "something"] * 2
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", True),
        ("DEBUG", False),
    ]
    assert caplog.messages[0] == (
        "observer SimpleNamespace (in process) raised at variant.activated: ValueError: deaf"
    )


def test_commands_are_asked_for_only_when_wanted():
    """The hook of commands is not called by ``collect``; one that raises spoils no other."""
    called = []

    @hookimpl
    def xenolect_commands():
        called.append(1)
        yield offer("hello", lambda: "a command")

    @hookimpl
    def raising():
        raise ImportError("click is away")

    registry = in_process(
        plugin(raising=hookimpl(raising, specname="xenolect_commands")),
        plugin(xenolect_commands=xenolect_commands),
    )
    before = list(called)
    names = [each.name for each in registry.commands()]

    assert before == []
    assert names == ["hello"]


# -- the house ------------------------------------------------------------------------------------


def test_everything_bundled_is_loaded():
    """No bundled plugin is left out, and every name the default configuration uses is offered."""
    registry = Registry.collect(PluginsConfig(third_party=False))
    config = Config()
    wanted = {
        "chunks": {config.chunks.use, "memory"},
        "index": {config.index.use, "memory"},
        "cipher": {config.cipher.use},
        "scoring": {part.use for part in config.scoring.values()},
        "compatibility": set(config.compatibility.rules),
        "safeguards": {config.breaker.use, config.canary.use},
        "judges": {config.canary.judge.use},
    }

    assert why(registry) == []
    for kind, names in wanted.items():
        assert names <= {each.name for each in registry.offers(kind)}, kind


def test_the_kinds_cover_the_hooks():
    """Every hook but the two that are no offers of parts belongs to one kind."""
    from xenolect._discovery import HOOKS

    assert {hook for hook, _noun in KINDS.values()} == set(HOOKS) - {
        "xenolect_commands",
        "xenolect_observe",
    }


def test_collecting_loads_nothing_heavy():
    """A fresh interpreter that has collected everything bundled has not imported the heavy libraries."""
    program = (
        "import sys; from xenolect._registry import Registry; from xenolect.config import PluginsConfig; "
        "Registry.collect(PluginsConfig(third_party=False)); "
        "print(*sorted({'numpy', 'fsspec', 's3fs', 'sqlite_utils', 'cryptography', 'cattrs', 'rich'}"
        " & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []


def test_records_are_values():
    """Two registries of the same plugins describe them alike."""
    one = chunk_storage(offer("here", dict))

    assert [attrs.asdict(each) for each in in_process(one).describe()] == [
        attrs.asdict(each) for each in in_process(one).describe()
    ]
