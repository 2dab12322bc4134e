"""A sealed store as it was written once, with its key: it is read as long as the format is called 2."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from xenolect import ConfigError, EmergenceManager
from xenolect.cli import main

FROZEN = Path(__file__).parent / "data" / "sealed-2.zip"
KEY = bytes(range(32)).hex()
LARGE = b"".join(n.to_bytes(4, "big") for n in range(1000))


def written(place: Path) -> None:
    """What wrote it: two variants, JSON and bytes, a delta, a point, keys wrapped anew, a key replaced.

    FROZEN is the directory after this, zipped; it is never written again.
    """
    settings = {"use": "aes-gcm", "keys": {"env": "FROZEN_KEY"}}
    with opened(place, settings) as manager:
        for name in ("zstd", "json"):
            manager.variants.propose(name, {"wire": name}, id=name)
        manager.states.put("zstd", {"window": 19, "words": ["ä", "b"]})
        manager.points.create("zstd", "before")
        manager.states.put("json", LARGE)
        manager.states.patch("json", {2048: b"patched"})
        manager.states.put("zstd", {"window": 20})
        manager.keys.rekey("zstd")


def opened(place: Path, cipher: object) -> EmergenceManager:
    """Chunks of 1 KiB, so that a small state has several."""
    return EmergenceManager.open(
        place, cipher=cipher, state={"chunk_size": 1024}, background=False, process=False
    )


def reads(manager: EmergenceManager) -> None:
    """All of it is as it was written."""
    patched = LARGE[:2048] + b"patched" + LARGE[2055:]
    assert manager.states.get("zstd", version=1) == {"window": 19, "words": ["ä", "b"]}
    assert manager.states.get("zstd") == manager.states.get("zstd", version=2) == {"window": 20}
    assert manager.states.get("json", version=1) == LARGE
    assert manager.states.get("json") == patched
    buffer = bytearray(len(patched))
    assert manager.states.read_into("json", buffer, verify="tag").tag == 4
    assert buffer == patched
    assert manager.points.verify("zstd@1").reason == "before"
    assert manager.states.verify().ok
    assert [info.problem for info in manager.keys.list()] == [""] * len(manager.keys.list())


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The frozen store in a fresh place."""
    monkeypatch.setenv("FROZEN_KEY", KEY)
    monkeypatch.setenv("NEXT_KEY", bytes(range(1, 33)).hex())
    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(tmp_path / "frozen")
    return tmp_path / "frozen"


def test_it_is_read(frozen: Path) -> None:
    """States of every kind, deltas, points, with old keys and new ones; without the key nothing."""
    with opened(frozen, {"use": "aes-gcm", "keys": {"env": "FROZEN_KEY"}}) as manager:
        reads(manager)
    with (
        opened(frozen, {"use": "aes-gcm", "keys": {"env": "NEXT_KEY"}}) as manager,
        pytest.raises(
            ConfigError, match="is wrapped with the key df258c122f0d5270, and it is not there"
        ),
    ):
        manager.states.get("zstd")


def test_it_goes_on(frozen: Path) -> None:
    """New states are put on top, its keys are rotated, and what was there is read as before."""
    both = {"use": "aes-gcm", "keys": {"env": "NEXT_KEY", "old": [{"env": "FROZEN_KEY"}]}}
    with opened(frozen, both) as manager:
        assert manager.keys.rotate().wrapped > 3
        reads(manager)
        manager.states.patch("json", {0: b"later"})
    with opened(frozen, {"use": "aes-gcm", "keys": {"env": "NEXT_KEY"}}) as manager:
        assert manager.states.get("json")[:5] == b"later"
        assert manager.states.get("json", version=1) == LARGE
        assert manager.states.verify().ok


def test_its_index_is_made_again(frozen: Path) -> None:
    """From the sealed journal and the wrapped keys alone."""
    for path in frozen.glob("index.db*"):
        path.unlink()
    (frozen / "xenolect.toml").write_text(
        '[cipher]\nuse = "aes-gcm"\nkeys = { env = "FROZEN_KEY" }\n[state]\nchunk_size = "1KiB"\n'
    )
    result = CliRunner().invoke(main, ["reindex", "--storage", str(frozen)])
    assert result.exit_code == 0, result.output
    with EmergenceManager.open(frozen, background=False, process=False) as manager:
        reads(manager)


def test_it_is_what_is_written_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls make a store that reads the same."""
    monkeypatch.setenv("FROZEN_KEY", KEY)
    written(tmp_path / "new")
    with opened(tmp_path / "new", {"use": "aes-gcm", "keys": {"env": "FROZEN_KEY"}}) as manager:
        reads(manager)
