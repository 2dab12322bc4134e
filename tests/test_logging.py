"""Logs: five categories and more, TRACE, structured fields, and nothing forged or secret in a record."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleets import fleet, json_and_zstd

from xenolect import ConfigError, EmergenceManager
from xenolect._logging import CATEGORIES, FIELDS, TRACE, configure, one_line, redacted
from xenolect.config import LogConfig


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Levels, handlers and categories are the process's: put them back."""
    ours = logging.getLogger("xenolect")
    level, handlers = ours.level, list(ours.handlers)
    yield
    configure(LogConfig(level="WARN"))
    ours.setLevel(level)
    ours.handlers[:] = handlers


@pytest.fixture
def log() -> logging.Logger:
    """The logger of a category, cleaned."""
    configure(LogConfig(level="TRACE"))
    return logging.getLogger("xenolect.agents")


# -- nothing forged ---------------------------------------------------------------------------------

FORGED = [
    "a\r\n2026-11-25 ERROR xenolect.variants all is well",
    "a\x1b[2J\x1b[1;1Hb",
    "\x1b]0;title\x07",
    "a\x00b\x08\x08",
    "a\u2028b\u2029c\x85d",
    "\u202eabc\u202c",
    "a\ud800b",
]


@pytest.mark.parametrize("text", FORGED)
def test_control_characters_become_visible(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """In the message, its arguments and every field: one record is one line."""
    with caplog.at_level(TRACE):
        log.info("agent %s said %s", text, text, extra={"agent_id": text, "more": {text: [text]}})
    (record,) = caplog.records
    for found in (record.getMessage(), record.agent_id, str(record.more)):  # type: ignore[attr-defined]
        assert found.isprintable()
        assert len(found.splitlines()) == 1
    assert "\\" in record.getMessage()


def test_an_error_can_not_forge_a_line(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """Every line of a traceback is indented, whatever the error's text holds."""
    try:
        raise ValueError("bad\n2026-11-25 ERROR forged\x1b[2J password=hunter2")
    except ValueError:
        log.exception("it failed")
    (record,) = caplog.records
    lines = logging.Formatter().format(record).split("\n")
    assert lines[0] == "it failed"
    assert all(line.startswith("    ") for line in lines[1:])
    assert "forged\\x1b[2J" in lines[-1]
    assert "hunter2" not in "\n".join(lines)


@given(st.text())
def test_any_text_is_one_line_and_readable_text_stays(text: str) -> None:
    """Nothing is left that moves a cursor or turns the writing; what prints is not touched."""
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not any(c in line for c in "\x1b\r\n\x00\u202e\u2028")
    if text.isprintable():
        assert line == text


# -- nothing secret ---------------------------------------------------------------------------------

SECRETS = [
    ("password=hunter2hunter2", "hunter2hunter2"),
    ('{"api_key": "abc def", "x": 1}', "abc def"),
    ("{'client-secret': 'abcdef'}", "abcdef"),
    ("XENOLECT_KEY_PASSPHRASE: correct-horse", "correct-horse"),
    ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    ("authorization=Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    ("calling with bearer 0123456789abcdef", "0123456789abcdef"),
    ("postgresql://admin:s3cr3t@db.example/x", "s3cr3t"),
    ("key AKIAIOSFODNN7EXAMPLE is old", "AKIAIOSFODNN7EXAMPLE"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_123", "eyJzdWIiOiIxIn0"),
    ("sk-abcdefghijklmnop0123", "abcdefghijklmnop0123"),
    ("ghp_abcdefghijklmnopqrstuvwx", "abcdefghijklmnopqrstuvwx"),
    ("-----BEGIN PRIVATE KEY-----\nMIGHAgEA\nAAAA\n-----END PRIVATE KEY-----", "MIGHAgEA"),
    ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
    ("token = 'a b c'", "a b c"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_not_logged(
    log: logging.Logger, caplog: pytest.LogCaptureFixture, text: str, secret: str
) -> None:
    """Found by the name before them or by their shape, in messages, arguments and fields."""
    log.warning("failed: %s", text, extra={"detail": {"note": text, "list": [text]}})
    (record,) = caplog.records
    assert secret not in record.getMessage()
    assert secret not in str(record.detail)  # type: ignore[attr-defined]
    assert "***" in record.getMessage()


def test_fields_are_hidden_by_their_names(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """However deep, whatever they hold; others stay as they are."""
    log.warning(
        "x",
        extra={"api_key": b"raw", "detail": {"deep": {"Password": 12345}, "tokens": 7, "key": "v"}},
    )
    (record,) = caplog.records
    assert record.api_key == "***"  # type: ignore[attr-defined]
    assert record.detail == {"deep": {"Password": "***"}, "tokens": 7, "key": "v"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "variant msgpack-zstd is promoted",
        "tokens=1200 bytes=3",
        "s3://bucket/prefix/key",
        "https://example.org:8080/path?x=1",
        "the secret of success",
        "entry 12 of process:77 is applied: variant/json",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ordinary messages are not touched."""
    assert redacted(text) == text


# -- fields, categories, levels ---------------------------------------------------------------------


def test_records_of_a_rollout_carry_their_fields(
    opened: Callable[..., EmergenceManager], caplog: pytest.LogCaptureFixture
) -> None:
    """Variant, agent, revision and event as attributes, None where they do not apply."""
    with caplog.at_level(TRACE, logger="xenolect"):
        manager = opened(log={"level": "TRACE"})
        fleet(manager, 30)
        _, zstd = json_and_zstd(manager)
        manager.canaries.start(zstd, seed=1)
        manager.rollback("zstd", reason="ticket 7")
        manager.report("json", "agent-1", success=True)
        manager.flush()
    by_event = {getattr(r, "event", None): r for r in caplog.records}
    rolled = by_event["variant.rolled_back"]
    assert (rolled.variant_id, rolled.levelname) == ("zstd", "WARNING")  # type: ignore[attr-defined]
    assert rolled.revision > 0  # type: ignore[attr-defined]
    assert "reason=ticket 7" in rolled.getMessage()
    assert by_event["agent.registered"].agent_id == "agent-29"  # type: ignore[attr-defined]
    assert {r.levelname for r in caplog.records} >= {"TRACE", "INFO", "WARNING"}
    assert all(hasattr(r, name) for r in caplog.records for name in FIELDS)
    assert {r.name for r in caplog.records} >= {
        f"xenolect.{each}" for each in ("variants", "agents", "safeguards", "performance")
    }


def test_only_the_configured_categories_are_heard(
    opened: Callable[..., EmergenceManager], caplog: pytest.LogCaptureFixture
) -> None:
    """And the next manager that names none hears all again."""
    manager = opened(log={"level": "INFO", "categories": ["agents"]})
    fleet(manager, 2)
    json_and_zstd(manager)
    assert {r.name for r in caplog.records} == {"xenolect.agents"}
    caplog.clear()
    json_and_zstd(opened(log={"level": "INFO"}))
    assert "xenolect.variants" in {r.name for r in caplog.records}


def test_without_a_level_the_application_decides(
    opened: Callable[..., EmergenceManager],
) -> None:
    """Neither the root logger nor ours is changed, and nothing is added to them."""
    root, ours = logging.getLogger(), logging.getLogger("xenolect")
    before = (root.level, list(root.handlers), ours.level, list(ours.handlers))
    opened()
    opened(log={"level": "INFO"})
    assert (root.level, list(root.handlers)) == before[:2]
    assert ours.level == logging.INFO


def test_a_category_that_is_none_is_refused() -> None:
    """With those there are."""
    with pytest.raises(ConfigError, match="log.categories: expected some of variants, states"):
        EmergenceManager.open("memory://", log={"categories": ["varaints"]})
    assert CATEGORIES[:5] == ("variants", "states", "performance", "agents", "safeguards")


def test_it_prints_only_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level without a handler anywhere prints on standard error; an application's handler is enough."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure(LogConfig(level="INFO"))
    logging.getLogger("xenolect.states").info("one\ntwo")
    (line,) = out.getvalue().splitlines()
    assert line.endswith("INFO    xenolect.states one\\ntwo")
    monkeypatch.setattr(root, "handlers", [logging.NullHandler(), logging.StreamHandler(out)])
    logging.getLogger("xenolect.states").info("three")
    assert out.getvalue().count("three") == 1


def test_the_command_line_logs_where_it_is_told(tmp_path: Path) -> None:
    """On standard error, beside the answer on standard output; silent without a level."""
    arguments = ["propose", "--id", "json", "-d", "plain", "--storage", str(tmp_path / "s")]
    run = [sys.executable, "-m", "xenolect"]
    subprocess.run([*run, "init", str(tmp_path / "s")], check=True, capture_output=True)
    quiet = subprocess.run([*run, *arguments], check=True, capture_output=True, text=True)
    assert quiet.stderr == ""
    (tmp_path / "s" / "xenolect.toml").write_text('[log]\nlevel = "INFO"\n')
    arguments[2] = "zstd"
    loud = subprocess.run([*run, *arguments], check=True, capture_output=True, text=True)
    assert "INFO    xenolect.variants variant.proposed zstd" in loud.stderr
    assert "INFO" not in loud.stdout
