"""The configuration: layers, parts, paths, secrets, and each message whole."""

from __future__ import annotations

import attrs
import pytest

from xenolect import EmergenceManager
from xenolect._options import fill
from xenolect.config import Config, Part, load
from xenolect.errors import ConfigError, PluginError
from xenolect.secret import Secret
from xenolect.units import Seconds


def message(*arguments, environ=None, **given) -> str:
    """What ``load`` says is wrong."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments, environ=environ or {}, **given)
    return str(caught.value)


# -- layers ---------------------------------------------------------------------------------------


def test_defaults():
    """Nothing given is the defaults, whatever the process's environment holds for others."""
    assert load(environ={"XENOLECT_KEY": "x", "HOME": "/"}) == Config()


def test_each_layer_wins_over_the_one_before(tmp_path):
    """Defaults < file < environment < keywords, setting by setting."""
    (tmp_path / "xenolect.toml").write_text(
        'max_variants = 7\n[canary]\nramp_steps = 7\nunit = "session"\nholdback = 0.07\n'
    )
    environ = {"XENOLECT__CANARY__RAMP_STEPS": "8", "XENOLECT__CANARY__HOLDBACK": "0.08"}

    config = load(tmp_path, environ=environ, canary={"holdback": 0.09})

    assert config.max_variants == 7
    assert config.canary.unit == "session"
    assert config.canary.ramp_steps == 8
    assert config.canary.holdback == 0.09
    assert config.canary.initial_fraction == 0.10


def test_the_environment_is_read_as_toml_else_as_text():
    """Numbers, booleans, lists and tables as TOML writes them; what is none of these is text."""
    config = load(
        environ={
            "XENOLECT__CANARY__INITIAL_FRACTION": "0.2",
            "XENOLECT__INCREMENTAL_ADOPTION": "false",
            "XENOLECT__PLUGINS__BLOCKED": '["a", "b"]',
            "XENOLECT__METRICS__INTERVAL": "2m",
            "XENOLECT__CIPHER": '{ use = "aes-gcm", keys = { env = "K" } }',
            "XENOLECT__PLUGINS__DIR": '"1"',
        }
    )

    assert config.canary.initial_fraction == 0.2
    assert config.incremental_adoption is False
    assert config.plugins.blocked == ("a", "b")
    assert config.metrics.interval == 120.0
    assert config.cipher == Part("aes-gcm", {"keys": {"env": "K"}})
    assert config.plugins.dir == "1"


def test_a_configuration_is_a_start_for_another():
    """A Config in place of a path keeps every setting that is not named, and hears no environment."""
    first = load(environ={}, breaker={"failure_threshold": 3}, scoring={"x": {"weight": 1, "a": 2}})

    second = load(first, environ={"XENOLECT__MAX_VARIANTS": "3"}, canary={"unit": "session"})

    assert second == attrs.evolve(first, canary=attrs.evolve(first.canary, unit="session"))


def test_keywords_take_records_of_the_configuration():
    """A Part or a section made in code stands for its table."""
    config = load(
        environ={}, chunks=Part("memory"), canary=attrs.evolve(Config().canary, min_units=1)
    )

    assert config.chunks == Part("memory")
    assert config.canary.min_units == 1


def test_a_setting_that_is_gone_says_what_holds_instead():
    """In a file and as a keyword of a rollout: not that it is unknown."""
    words = (
        "canary.drain: was never in effect and is gone, remove it: nobody is served a variant that was "
        "rolled back, and what its conversations refer to stays readable"
    )

    with pytest.raises(ConfigError) as caught:
        load(environ={}, canary={"drain": "10m"})
    assert str(caught.value) == words
    with EmergenceManager.open("memory://", background=False) as manager:
        for name in ("json", "zstd"):
            manager.variants.propose(name, {}, id=name)
        manager.variants.activate("json")
        with pytest.raises(ConfigError) as caught:
            manager.canaries.start("zstd", unit="session", drain="10m")
    assert str(caught.value) == words


# -- parts ----------------------------------------------------------------------------------------


def test_use_picks_the_offer_and_the_other_keys_are_its_options(tmp_path):
    """In a file, in the environment and in keywords alike; without ``use`` the default offer."""
    (tmp_path / "xenolect.toml").write_text(
        '[chunks]\nuse = "mine"\nshards = 3\n[breaker]\nfailure_threshold = 4\n'
        '[canary.judge]\nuse = "threshold"\nlimit = 0.1\n'
    )

    config = load(tmp_path, environ={"XENOLECT__INDEX__PATH": "i.db"}, cipher="aes-gcm")

    assert config.chunks == Part("mine", {"shards": 3})
    assert config.breaker == Part("breaker", {"failure_threshold": 4})
    assert config.canary.judge == Part("threshold", {"limit": 0.1})
    assert config.index == Part("sqlite", {"path": "i.db"})
    assert config.cipher == Part("aes-gcm")


def test_another_use_leaves_the_former_options_behind(tmp_path):
    """Options belong to an offer: naming another one does not hand them on; the same one merges."""
    (tmp_path / "xenolect.toml").write_text('[chunks]\nuse = "mine"\nshards = 3\n')

    other = load(tmp_path, environ={"XENOLECT__CHUNKS__USE": "yours"})
    same = load(tmp_path, environ={}, chunks={"use": "mine", "depth": 2})

    assert other.chunks == Part("yours")
    assert same.chunks == Part("mine", {"shards": 3, "depth": 2})


def test_naming_weights_replaces_the_whole_table(tmp_path):
    """At whichever layer; options without a weight are merged into the scorer that is there."""
    (tmp_path / "xenolect.toml").write_text(
        "[scoring]\na = 0.5\nb = { weight = 0.5, goal_ms = 80, use = 'low_latency' }\n"
    )

    from_file = load(tmp_path, environ={}).scoring
    from_keyword = load(tmp_path, environ={}, scoring={"c": 1.0}).scoring
    from_environment = load(tmp_path, environ={"XENOLECT__SCORING__C": "1"}).scoring
    tuned = load(environ={}, scoring={"performance": {"latency_goal_ms": 80}}).scoring

    assert from_file == {
        "a": Part("a", weight=0.5),
        "b": Part("low_latency", {"goal_ms": 80}, weight=0.5),
    }
    assert from_keyword == from_environment == {"c": Part("c", weight=1.0)}
    assert list(tuned) == ["performance", "compatibility", "stability"]
    assert tuned["performance"] == Part("performance", {"latency_goal_ms": 80}, weight=0.3)


# -- places ---------------------------------------------------------------------------------------


def test_a_directory_is_the_storage(tmp_path):
    """With or without a file in it, and against a variable that was exported for other calls."""
    config = load(tmp_path / "new", environ={"XENOLECT__STORAGE": "elsewhere"})

    assert config.storage == str(tmp_path / "new")
    assert (config.chunks, config.index) == (Part("fsspec"), Part("sqlite"))
    assert load(f"file://{tmp_path}", environ={}).storage == str(tmp_path)


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    """Storage, plugins, chunks, the index and key files; URLs and absolute paths stay as they are."""
    file = tmp_path / "fleet.toml"
    file.write_text(
        'storage = "data"\n[plugins]\ndir = "plugins"\n[chunks]\nurl = "chunks"\n'
        '[index]\npath = "/srv/index.db"\n[cipher]\nuse = "aes-gcm"\nkeys = [{ file = "key" }]\n'
    )

    config = load(file, environ={})

    assert config.storage == str(tmp_path / "data")
    assert config.plugins.dir == str(tmp_path / "plugins")
    assert config.chunks.options["url"] == str(tmp_path / "chunks")
    assert config.index.options["path"] == "/srv/index.db"
    assert config.cipher.options["keys"] == [{"file": str(tmp_path / "key")}]
    assert load(environ={}, storage="data").storage == "data"


def test_memory_is_all_in_memory():
    """``memory://`` needs no files at all, wherever it is said; what is named is kept."""
    config = load("memory://", environ={})

    assert (config.storage, config.chunks, config.index) == (
        "memory://",
        Part("memory"),
        Part("memory"),
    )
    assert load(environ={"XENOLECT__STORAGE": "memory://"}) == config
    assert load("memory://", environ={}, index="mine").index == Part("mine")


def test_a_url_needs_an_index():
    """Chunks may lie in a bucket, the index may not; the error prints the two lines to add."""
    found = message("s3://bucket/prefix")

    assert found == (
        "index: s3://bucket/prefix holds the chunks, but the index needs a local file or a database; "
        'add to the configuration:\n[index]\npath = "index.db"'
    )
    assert (
        load("s3://bucket/prefix", environ={}, index={"path": "i.db"}).storage
        == "s3://bucket/prefix"
    )
    assert load("s3://bucket/prefix", environ={}, index="postgres").index == Part("postgres")


def test_a_file_that_is_not_there_or_not_toml(tmp_path):
    """Both name the file and say why."""
    missing, broken = tmp_path / "missing.toml", tmp_path / "broken.toml"
    broken.write_text("max_variants = \n")

    assert message(missing) == (
        f"{missing}: the configuration can not be read: No such file or directory"
    )
    assert message(broken).startswith(f"{broken}: this is not TOML: Invalid value (at line 1")


# -- mistakes -------------------------------------------------------------------------------------


def test_all_mistakes_at_once_each_with_its_path():
    """Types, ranges, words and unknown names over several tables, in one error."""
    found = message(
        canary={
            "initial_fraction": 42,
            "initial_fractoin": 0.2,
            "unit": "fleet",
            "levels": [0.1, "b"],
        },
        max_variants=0,
        metrics={"interval": "5 parsecs", "flush_records": 2.5},
        compatibility={"rules": "capabilities"},
        incremental_adoption="yes",
        scorin={},
    )

    assert found.split("; ") == [
        "max_variants: expected at least 1, got 0",
        "incremental_adoption: expected true or false, got 'yes'",
        "metrics.interval: '5 parsecs' is not a duration",
        "write a number with a unit, as in '250ms', '30s', '5m', '30d'",
        "metrics.flush_records: expected a whole number, got 2.5",
        "canary.initial_fraction: expected a fraction in [0, 1], got 42",
        "canary.levels[1]: expected a number, got 'b'",
        "canary.unit: expected one of 'agent', 'session', got 'fleet'",
        "canary.initial_fractoin: unknown setting, did you mean 'initial_fraction'?",
        "compatibility.rules: expected a list, got 'capabilities'",
        "scorin: unknown setting, did you mean 'scoring'?",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"scoring": {"a": 0.3, "b": 0.6}},
            "scoring: the weights must sum to 1, found 0.9 (a 0.3, b 0.6)",
        ),
        ({"scoring": {}}, "scoring: the weights must sum to 1, found 0 (no scorer)"),
        (
            {"scoring": {"a": 1.5}},
            "scoring.a.weight: expected a fraction in [0, 1], got 1.5",
        ),
        ({"scoring": {"a": "high"}}, "scoring.a.weight: expected a number, got 'high'"),
        ({"scoring": 1.0}, "scoring: expected a table, got 1.0"),
        ({"chunks": 3}, "chunks: expected the name of an offer, or a table, got 3"),
        ({"index": {"use": 3}}, "index.use: expected text, got 3"),
        ({"canary": 3}, "canary: expected a table, got 3"),
        (
            {"canary": {"initial_fraction": 0.97}},
            "canary.initial_fraction: expected more than 0 and at most 0.95, so that both arms have "
            "units, got 0.97",
        ),
        (
            {"canary": {"levels": [0.5, 0.2]}},
            "canary.levels: expected rising fractions in (0, 1], got [0.5, 0.2]",
        ),
        ({"canary": {"alpha": float("nan")}}, "canary.alpha: expected a number, got nan"),
        (
            {"state": {"chunk_size": "1 stone"}},
            "state.chunk_size: '1 stone' is not a size; write a number with a unit, as in '64KiB', "
            "'1MiB', '1GB'",
        ),
        ({"state": {"chunk_size": 0}}, "state.chunk_size: expected more than 0, got 0"),
        ({"metrics": {"interval": 0}}, "metrics.interval: expected more than 0, got 0"),
        ({"mode": "fast"}, "mode: expected one of 'normal', 'observe', 'baseline', got 'fast'"),
        ({"metrics": {"custom": 1}}, "metrics.custom: expected a table, got 1"),
        (
            {"colour": 1},
            f"colour: unknown setting, known are {', '.join(f.name for f in attrs.fields(Config))}",
        ),
    ],
)
def test_each_mistake(given, expected):
    """One mistake, the whole message."""
    assert message(**given) == expected


def test_weights_may_miss_one_by_a_rounding_error():
    """1e-9 of slack: three times a third is one."""
    third = 1 / 3

    assert len(load(environ={}, scoring={"a": third, "b": third, "c": third}).scoring) == 3


def test_mistakes_in_the_environment():
    """A value where a table is needed, and a name without a setting, are named as the variables."""
    both = {"XENOLECT__CANARY": "3", "XENOLECT__CANARY__UNIT": "agent"}

    assert message(environ=both) == (
        "XENOLECT__CANARY__UNIT: XENOLECT__CANARY is set too, and is not a table; set one of them"
    )
    assert message(environ={"XENOLECT____": "1"}) == (
        "XENOLECT____: expected XENOLECT__TABLE__SETTING, as in XENOLECT__CANARY__UNIT"
    )


def test_a_section_made_by_hand_is_checked_too():
    """The ranges hold for records built in code, not only for files."""
    with pytest.raises(ConfigError) as caught:
        attrs.evolve(Config().canary, unit="fleet")

    assert str(caught.value) == "unit: expected one of 'agent', 'session', got 'fleet'"


# -- options of an offer --------------------------------------------------------------------------


@attrs.frozen
class Options:
    """What a plugin might want."""

    url: str
    wait: Seconds = Seconds(1.0)
    key: Secret | None = None
    tries: int = attrs.field(default=3, validator=attrs.validators.ge(1))


def wants_options(options: Options) -> tuple[str, Options]:
    """A factory with one annotated argument."""
    return "made", options


def for_type_checkers(options: Options) -> NotThereAtRunTime:  # noqa: F821
    """A factory whose result is annotated with a name that only type checkers import."""
    return options


def wants_nothing() -> str:
    """A factory without arguments."""
    return "made"


def test_options_are_filled():
    """An attrs class is filled itself, a function gets its one argument, or nothing."""
    table = {"url": "x", "wait": "2m", "key": {"env": "K"}}
    filled = Options("x", Seconds(120.0), Secret(env="K"))

    assert fill(Options, table, "chunks") == filled
    assert fill(wants_options, table, "chunks") == ("made", filled)
    assert fill(for_type_checkers, table, "chunks") == filled
    assert fill(wants_nothing, {}, "chunks") == "made"


def test_wrong_options_are_all_named():
    """Missing, unknown, out of range and of the wrong type, with the paths the user wrote."""
    with pytest.raises(ConfigError) as caught:
        fill(Options, {"uri": "x", "tries": 0, "key": "hunter2"}, "chunks")

    assert str(caught.value) == (
        "chunks.url: required, but not set; "
        'chunks.key: expected { env = "NAME" } or { file = "path" }, never the secret itself; '
        "chunks.tries: 'tries' must be >= 1: 0; "
        "chunks.uri: unknown setting, did you mean 'url'?"
    )


def test_options_for_what_takes_none():
    """Named with their paths, like every unknown setting."""
    with pytest.raises(ConfigError) as caught:
        fill(wants_nothing, {"url": 1, "tries": 2}, "chunks")

    assert str(caught.value) == "chunks.url, chunks.tries: unknown setting, chunks takes no options"


def test_a_factory_that_can_not_be_filled():
    """Two arguments, or one without an attrs class: the plugin is to blame, not the setting."""
    with pytest.raises(PluginError) as caught:
        fill(lambda one, two: None, {}, "chunks")

    assert str(caught.value).startswith("chunks: <function")
    assert str(caught.value).endswith(
        "must take no argument, or one that is annotated with an attrs class"
    )


# -- secrets and the digest -----------------------------------------------------------------------


def test_a_secret_is_read_when_needed_and_never_shown(tmp_path):
    """From the environment or a file; masked in repr; a missing one says what to provide."""
    file = tmp_path / "key"
    file.write_text("hunter2\n")
    here = Secret(file=str(file))

    assert Secret(env="K").reveal({"K": "hunter2"}) == here.reveal() == "hunter2"
    assert "hunter2" not in repr(here)
    assert repr(Secret(env="K")) == "Secret(env='K', value=***)"
    with pytest.raises(
        ConfigError, match="^the environment variable K is not set; it holds a secret$"
    ):
        Secret(env="K").reveal({})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        here.reveal()
    assert str(caught.value) == f"{file} holds a secret but is not text; write it as hex or base64"
    with pytest.raises(ConfigError, match="exactly one of them$"):
        Secret()


def test_the_digest_follows_the_settings_and_not_the_secrets(monkeypatch):
    """The same settings give the same digest, each setting changes it, a secret's value does not."""
    cipher = {"use": "aes-gcm", "keys": {"env": "K"}}
    monkeypatch.setenv("K", "one")
    first = load(environ={}, cipher=cipher).digest()
    monkeypatch.setenv("K", "two")

    assert load(environ={}, cipher=dict(reversed(cipher.items()))).digest() == first
    assert load(environ={}, cipher=cipher, max_variants=99).digest() != first
    assert load(environ={}).digest() == Config().digest() != first
    assert load(environ={}, cipher={**cipher, "keys": Secret(env="K")}).digest() == first
