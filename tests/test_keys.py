"""Keys: who wraps them, where they lie, and what happens when one is missing, changed or destroyed."""

from __future__ import annotations

import base64
import os

import pytest
from tests.sealed_stores import (
    FIRST,
    NEW,
    OLD,
    SECOND,
    SECRET,
    key_objects,
    sealed,
    served,
    two_keys,
)

from xenolect import ConfigError, CorruptError, NotFoundError
from xenolect._keyring import Keyring
from xenolect.secret import Secret
from xenolect.testing import KeyProviderTests
from xenolect_backends.local_keys import EnvKeys, FileKeys, LocalWrapper


@pytest.fixture
def keys(monkeypatch):
    """Two keys in the environment."""
    two_keys(monkeypatch)


class TestEnvKeys(KeyProviderTests):
    """The provider ``env``."""

    @pytest.fixture(autouse=True)
    def use(self, keys):
        """Two keys."""

    def make(self):
        return EnvKeys("FIRST_KEY")

    def rotated(self):
        return EnvKeys("SECOND_KEY", (Secret(env="FIRST_KEY"),))

    def secrets(self):
        return [FIRST.hex(), repr(FIRST)]


class TestFileKeys(KeyProviderTests):
    """The provider ``file``."""

    @pytest.fixture(autouse=True)
    def use(self, tmp_path):
        """Two files."""
        (tmp_path / "one").write_text(FIRST.hex() + "\n")
        (tmp_path / "two").write_bytes(base64.b64encode(SECOND))
        self.place = tmp_path

    def make(self):
        return FileKeys(str(self.place / "one"))

    def rotated(self):
        return FileKeys(str(self.place / "two"), (Secret(file=str(self.place / "one")),))

    def secrets(self):
        return [FIRST.hex(), repr(FIRST)]


# -- providers ----------------------------------------------------------------------------------------


def test_a_key_is_the_same_from_everywhere(keys, tmp_path):
    """From a variable or a file, as hex or base64: one id, and each unwraps what the other wrapped."""
    (tmp_path / "key").write_text(f"{SECOND.hex()}\n")
    (one, first), (two, second) = (
        EnvKeys("SECOND_KEY").current(),
        FileKeys(str(tmp_path / "key")).current(),
    )
    assert one == two
    assert second.unwrap(first.wrap(b"k" * 32, b"place"), b"place") == b"k" * 32


def test_an_older_key_is_found_by_its_id(keys):
    """Among ``old``; one that is nowhere is named, with the places that were looked at."""
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
        ({"keys": {}}, r'cipher\.keys: expected \{ env = "NAME" \}.*with one of .*env, file; found nothing'),
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
    assert all(info.scope == "store" for info in later.keys.list())  # reading makes none
    later.states.put("v", SECRET * 2)
    assert later.states.get("v") == SECRET * 2
    assert later.states.get("v", version=1) == SECRET
    later.close()
    plain = opened(tmp_path / "store")
    with pytest.raises(
        ConfigError, match=r"is sealed with \'aes-gcm\', and \'none\' is configured; set"
    ):
        plain.states.get("v")


# -- what a key's trouble does not do -----------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["no wrapping key", "lost", "changed"])
def test_trouble_with_keys_is_no_damage_of_states(opened, keys, tmp_path, trouble):
    """Nothing is rolled back, given up or quarantined for it; a rollback that is due for another reason
    goes to its point all the same, and once the key is back everything reads."""
    from xenolect import EmergenceError, VariantStatus

    served(opened, tmp_path / "s")
    folder = tmp_path / "s" / "keys"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    for path, data in kept.items():
        if trouble == "lost":
            path.unlink()
        elif trouble == "changed":
            path.write_bytes(data.replace(b'"wrapped":"', b'"wrapped":"A'))
    manager = opened(tmp_path / "s", **(NEW if trouble == "no wrapping key" else OLD))
    with pytest.raises(EmergenceError, match="keys/"):
        manager.states.get("v")
    assert manager.variants.get("v").status == VariantStatus.ACTIVE
    if trouble != "no wrapping key":
        found = {problem.key for problem in manager.states.verify().problems}
        assert {f"keys/{path.name}" for path in kept} <= found
        (lost,) = manager.states.repair().lost
        assert lost.done == "left as it is: put the key back from a backup"
        assert manager.variants.get("v").status == VariantStatus.ACTIVE
    assert manager.rollback("v", reason="another").status == VariantStatus.ROLLED_BACK
    assert not manager.status()["safe_mode"]
    manager.close()
    for path, data in kept.items():
        path.write_bytes(data)
    again = opened(tmp_path / "s", **OLD)
    assert again.states.get("v") == SECRET
    assert again.states.verify().ok


@pytest.mark.parametrize("trouble", ["lost", "changed"])
def test_keys_come_back_from_a_replica(opened, keys, tmp_path, trouble):
    """A good copy in the replica, and only a good one, is put in the place of the key; then what was
    hidden behind it is looked at too."""
    import shutil

    served(opened, tmp_path / "s")
    shutil.copytree(tmp_path / "s" / "keys", tmp_path / "r" / "keys")
    paths = sorted((tmp_path / "s" / "keys").iterdir())
    (tmp_path / "r" / "keys" / paths[0].name).write_bytes(b"{}")
    for path in paths:
        path.unlink() if trouble == "lost" else path.write_bytes(path.read_bytes()[:-9])
    manager = opened(tmp_path / "s", state={"replica": str(tmp_path / "r")}, **OLD)

    plan = manager.states.repair(dry_run=True)
    good = {f"keys/{path.name}" for path in paths[1:]}
    assert good <= set(plan.rewritten)
    assert trouble == "changed" or not list((tmp_path / "s" / "keys").iterdir())
    assert good <= set(manager.states.repair().rewritten)
    (tmp_path / "s" / "keys").joinpath(paths[0].name).unlink(missing_ok=True)
    left = {problem.key for problem in manager.states.verify().problems}
    assert f"keys/{paths[0].name}" in left
    assert not left & good


def test_every_changed_byte_of_a_kept_key_is_named(opened, keys, tmp_path):
    """Bit by bit, and cut short: what needs the key is refused and says which object it is."""
    served(opened, tmp_path / "s")
    manager = opened(tmp_path / "s", **OLD)
    manager._runtime.chunks = chunks = MemoryCopy(manager._runtime.chunks)
    for name in key_objects(manager):
        data = chunks.get(name)
        for wrong in (*flips(data), *(data[:n] for n in range(0, len(data), 7))):
            chunks.objects[name] = wrong
            ring = Keyring(manager._runtime, manager.states.objects.identity)
            with pytest.raises((CorruptError, ConfigError)) as caught:
                ring.unwrap(ring.wrapped(name.split("/")[1].split(".")[0]))
            assert name in str(caught.value)
        chunks.objects[name] = data
    assert manager.states.verify().ok


def flips(data):
    """Each byte changed in one bit."""
    return [data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :] for n in range(len(data))]


class MemoryCopy:
    """Objects in memory, over those of a store."""

    def __init__(self, inner):
        self.inner, self.objects = inner, {}

    def get(self, key):
        return self.objects[key] if key in self.objects else self.inner.get(key)

    def __getattr__(self, name):
        return getattr(self.inner, name)
