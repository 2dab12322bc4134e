"""``xenolect keys``: from a key on standard output to a variant that nobody can read any more."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from xenolect.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command on a sealed store with one variant and a state; what it printed."""
    place = tmp_path / "store"
    place.mkdir()

    def run(*arguments, code=0):
        words = arguments if arguments == ("keys", "new") else (*arguments, "--storage", str(place))
        result = CliRunner().invoke(main, list(words))
        assert result.exit_code == code, result.output
        return result.output

    (tmp_path / "one").write_text(run("keys", "new"))
    (tmp_path / "two").write_text(run("keys", "new"))
    (tmp_path / "state").write_bytes(b"state")
    run.place = place
    run.configure = lambda text: (place / "xenolect.toml").write_text(f"[cipher]\n{text}\n")
    run.configure('use = "aes-gcm"\nkeys = { file = "../one" }')
    run("propose", "--id", "zstd", "-d", "zstd")
    run("state", "put", "zstd", str(tmp_path / "state"))
    return run


def test_two_new_keys_are_two(run):
    """32 bytes as hex, never the same."""
    first, second = run("keys", "new"), run("keys", "new")
    assert len(bytes.fromhex(first)) == len(bytes.fromhex(second)) == 32
    assert first != second


def test_a_key_is_rotated_and_a_variant_is_shredded(run):
    """Listed, rotated, sealed anew, destroyed; each step first with --dry-run, which changes nothing."""
    listed = json.loads(run("keys", "--json"))
    assert {(k["scope"], k["state"], k["revision"]) for k in listed} == {
        ("id", "current", 1),
        ("store", "current", 1),
        ("variant/zstd", "current", 1),
    }
    assert "variant/zstd  current" in run("keys", "list")

    run.configure('use = "aes-gcm"\nkeys = { file = "../two", old = [{ file = "../one" }] }')
    assert "3 of 3 keys would be wrapped anew with" in run("keys", "rotate", "--dry-run")
    assert json.loads(run("keys", "--json")) == listed
    done = json.loads(run("keys", "rotate", "--json"))
    assert (done["wrapped"], done["keys"], len(done["removed"])) == (3, 3, 3)
    run.configure('use = "aes-gcm"\nkeys = { file = "../two" }')
    assert "0 of 3 keys wrapped anew" in run("keys", "rotate")

    assert "zstd: 1 chunks, 5 B, not done" in run("keys", "rekey", "zstd", "--dry-run")
    assert "zstd: 1 chunks, 5 B as version 2" in run("keys", "rekey", "zstd")
    assert "problems" in run("state", "verify")

    assert "look with --dry-run" in run("keys", "shred", "zstd", code=2)
    assert "2 keys, 2 state versions and 0 points would be destroyed" in run(
        "keys", "shred", "zstd", "--dry-run"
    )
    assert run("state", "get", "zstd") == "state"
    assert json.loads(run("keys", "shred", "zstd", "--yes", "--json"))["versions"] == 2
    run("state", "get", "zstd", code=3)
    assert "all equal" in run("replay")


def test_a_key_that_is_missing_is_named(run):
    """With the object, the id of the key that wraps it, and exit code 1; reading says the same with 2."""
    run.configure('use = "aes-gcm"\nkeys = { file = "../two" }')
    assert "Give it back, as one of `old`" in run("keys", "list", code=1)
    assert "Give it back, as one of `old`" in run("state", "get", "zstd", code=2)
    assert "Give it back, as one of `old`" in run("keys", "rotate", code=2)


def test_a_store_that_is_not_sealed_says_so(run):
    """In ``status`` and in ``keys``."""
    run.configure('use = "none"')
    assert "states are stored unencrypted" in run("status")
    assert json.loads(run("status", "--json"))["parts"]["cipher"] == "none"
    assert "states are stored unencrypted" in run("keys")
    run("keys", "rotate", code=2)
