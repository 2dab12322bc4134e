"""Keys: who wraps them, where they lie, and what happens when one is missing, changed or destroyed."""

from __future__ import annotations

import base64
import os

import pytest

from xenolect import ConfigError, CorruptError, NotFoundError
from xenolect_backends.local_keys import EnvKeys, FileKeys, LocalWrapper

FIRST, SECOND = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture
def keys(monkeypatch):
    """Two keys in the environment."""
    monkeypatch.setenv("FIRST_KEY", FIRST.hex())
    monkeypatch.setenv("SECOND_KEY", base64.b64encode(SECOND).decode())


def sealed(**keys):
    """The settings of a sealed store."""
    return {"cipher": {"use": "aes-gcm", "keys": keys}}


# -- providers ----------------------------------------------------------------------------------------


def test_a_key_wraps_and_unwraps_what_is_bound_to_it(keys, tmp_path):
    """From a variable or a file, as hex or base64; with another key, in another place, or changed in any
    bit, it is refused."""
    (tmp_path / "key").write_text(f"{SECOND.hex()}\n")
    first, second = EnvKeys("FIRST_KEY"), FileKeys(str(tmp_path / "key"))
    wrapped = first.current()[1].wrap(b"k" * 32, b"place")
    assert first.current()[1].unwrap(wrapped, b"place") == b"k" * 32
    assert second.current()[0] == EnvKeys("SECOND_KEY").current()[0] != first.current()[0]
    for wrapper, data, bound in (
        (second.current()[1], wrapped, b"place"),
        (first.current()[1], wrapped, b"other"),
        *((first.current()[1], flipped, b"place") for flipped in flips(wrapped)),
        *((first.current()[1], wrapped[:n], b"place") for n in range(len(wrapped))),
    ):
        with pytest.raises(CorruptError, match="the wrapped key was changed, or was not wrapped"):
            wrapper.unwrap(data, bound)


def flips(data):
    """Each byte changed in one bit."""
    return [data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :] for n in range(len(data))]


def test_an_older_key_is_found_by_its_id(keys):
    """Among ``old``; one that is nowhere is named, with the places that were looked at."""
    from xenolect.secret import Secret

    old_id = EnvKeys("FIRST_KEY").current()[0]
    provider = EnvKeys("SECOND_KEY", (Secret(env="FIRST_KEY"),))
    assert provider.get(old_id) == LocalWrapper(FIRST)
    assert provider.get(provider.current()[0]) == LocalWrapper(SECOND)
    with pytest.raises(
        NotFoundError, match=r"none of Secret\(env='SECOND_KEY', value=\*\*\*\) holds"
    ):
        EnvKeys("SECOND_KEY").get(old_id)


@pytest.mark.parametrize(
    "text", ["", "password", "00" * 31, "x" * 64, "AAAA====", FIRST.hex() + "00"]
)
def test_what_is_no_key_is_refused_and_not_shown(monkeypatch, text):
    """A passphrase, half a key, too much: nothing of it is in the message or behind it."""
    monkeypatch.setenv("FIRST_KEY", text)
    with pytest.raises(ConfigError) as caught:
        EnvKeys("FIRST_KEY").current()
    assert "FIRST_KEY" in str(caught.value)
    assert not text or text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_keys_are_not_shown():
    """Neither in hex nor as bytes."""
    shown = repr(LocalWrapper(FIRST))
    assert shown == f"LocalWrapper(id='{LocalWrapper(FIRST).id}', key=***)"
    assert FIRST.hex() not in shown


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"env": "FIRST_KEY"},
        {"use": "env", "env": "FIRST_KEY"},
        {"env": "FIRST_KEY", "old": [{"env": "SECOND_KEY"}]},
    ],
)
def test_the_setting_names_a_provider(opened, keys, given):
    """With ``use``, or by its option of the same name."""
    manager = opened(**sealed(**given))
    manager.variants.propose("v", {}, id="v")
    manager.states.put("v", {"a": 1})
    assert manager.states.get("v") == {"a": 1}
    assert manager.status()["parts"]["cipher"] == "aes-gcm"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"cipher\.keys: required, but not set"),
        ({"keys": {}}, r'cipher\.keys: expected \{ env = "NAME" \}.*with one of env, file; found nothing'),
        ({"keys": FIRST.hex()}, r"cipher\.keys: expected .*, never the key itself"),
        ({"keys": {"use": "vault"}}, r"cipher\.keys: no plugin offers key provider 'vault'"),
        ({"keys": {"env": "K", "olds": []}}, r"cipher\.keys\.olds: unknown setting, did you mean 'old'"),
        ({"keys": {"env": "K", "old": [FIRST.hex()]}}, r"cipher\.keys\.old\[0\]: expected .*never the secret"),
        ({"keys": "env"}, r"cipher\.keys\.env: required, but not set"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_and_no_key_shown(opened, given, words):
    """With its path, at ``open``."""
    from xenolect import EmergenceError

    with pytest.raises(EmergenceError, match=words) as caught:
        opened(cipher={"use": "aes-gcm", **given})
    assert FIRST.hex() not in str(caught.value)


# -- a sealed store -----------------------------------------------------------------------------------

SECRET = b"a sentence that nobody else may read"


def test_nothing_of_a_state_is_in_the_object_store(opened, keys, tmp_path):
    """Neither contents nor their digests, in any object; the index alone has digests."""
    import hashlib

    manager = opened(tmp_path / "store", **sealed(env="FIRST_KEY"))
    manager.variants.activate(manager.variants.propose("v", {"secret": SECRET.decode()}, id="v"))
    manager.states.put("v", {"secret": SECRET.decode()})
    manager.states.put("v", SECRET)
    manager.points.create("v")
    manager.close()
    digest = hashlib.sha256(SECRET)
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and not path.name.startswith("index.db"):
            data = path.read_bytes()
            for needle in (SECRET, digest.digest(), digest.hexdigest().encode(), FIRST):
                assert needle not in data, path
            assert digest.hexdigest()[:16] not in path.name


def test_without_the_key_nothing_is_read_and_nothing_is_damaged(opened, keys, tmp_path):
    """Another key: reading and writing are refused with the way out; the right one reads on."""
    manager = opened(tmp_path / "store", **sealed(env="FIRST_KEY"))
    manager.variants.propose("v", {}, id="v")
    manager.states.put("v", SECRET)
    manager.close()
    objects = sorted(path.name for path in (tmp_path / "store").rglob("*.*"))
    other = opened(tmp_path / "store", **sealed(env="SECOND_KEY"))
    words = "is wrapped with the key .*, and it is not there: .*Give it back, as one of `old`"
    for act in (
        lambda: other.states.get("v"),
        lambda: other.states.put("v", b"more"),
        lambda: other.points.create("v"),
    ):
        with pytest.raises(ConfigError, match=words):
            act()
    other.close()
    assert sorted(path.name for path in (tmp_path / "store").rglob("*.*")) == objects
    again = opened(tmp_path / "store", **sealed(env="SECOND_KEY", old=[{"env": "FIRST_KEY"}]))
    assert again.states.get("v") == SECRET
    assert again.states.verify().ok


def test_a_key_that_is_lost_is_not_made_again(opened, keys, tmp_path):
    """Making one would hide that the old one is gone: what it seals says which object to bring back."""
    manager = opened(tmp_path / "store", **sealed(env="FIRST_KEY"))
    manager.variants.propose("v", {}, id="v")
    manager.states.put("v", SECRET)
    manager.close()
    for path in (tmp_path / "store" / "keys").iterdir():
        path.unlink()
    again = opened(tmp_path / "store", **sealed(env="FIRST_KEY"))
    for act in (lambda: again.states.get("v"), lambda: again.states.put("v", b"more")):
        with pytest.raises(
            CorruptError, match=r"there is no key keys/.*: put keys/ back from a backup"
        ):
            act()
    assert os.listdir(tmp_path / "store" / "keys") == []


def test_a_cipher_can_be_had_later(opened, keys, tmp_path):
    """A store that was not sealed is read on, and what is written from then on is sealed."""
    manager = opened(tmp_path / "store")
    manager.variants.propose("v", {}, id="v")
    manager.states.put("v", SECRET)
    manager.close()
    later = opened(tmp_path / "store", **sealed(env="FIRST_KEY"))
    assert later.states.get("v") == SECRET
    later.states.put("v", SECRET * 2)
    assert later.states.get("v") == SECRET * 2
    assert later.states.get("v", version=1) == SECRET
    later.close()
    plain = opened(tmp_path / "store")
    with pytest.raises(
        ConfigError, match=r"is sealed with \'aes-gcm\', and \'none\' is configured; set"
    ):
        plain.states.get("v")
