"""Keys: who wraps them, where they lie, and what happens when one is missing, changed or destroyed."""

from __future__ import annotations

import base64
import os

import pytest

from xenolect import ConfigError, CorruptError, InvalidError, NotFoundError, TransitionError
from xenolect._keyring import Keyring
from xenolect.secret import Secret
from xenolect.testing import KeyProviderTests
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


# -- rotating -----------------------------------------------------------------------------------------

OLD = sealed(env="FIRST_KEY")
BOTH = sealed(env="SECOND_KEY", old=[{"env": "FIRST_KEY"}])
NEW = sealed(env="SECOND_KEY")


class Killed(BaseException):
    """The process is gone: nobody catches this, and nothing works afterwards."""


@pytest.fixture
def shared(opened, request):
    """Open one store in memory, as several processes do."""
    name = request.node.name
    parts = {"index": {"use": "memory", "name": name}, "chunks": {"use": "memory", "name": name}}
    return lambda **given: opened("memory://", **parts, **given)


def fill(manager):
    """Two variants, two versions and a point."""
    for name in ("v", "w"):
        manager.variants.propose(name, {}, id=name)
        manager.states.put(name, SECRET)
    manager.states.put("v", SECRET * 2)
    manager.points.create("v")


def whole(manager):
    """Everything reads as it was filled."""
    assert manager.states.get("v") == SECRET * 2
    assert manager.states.get("v", version=1) == manager.states.get("w") == SECRET
    assert manager.points.verify("v@1").variant_id == "v"
    return True


def key_objects(manager):
    """What lies under ``keys/``."""
    return list(manager._runtime.chunks.list("keys/"))


def test_rotating_wraps_every_key_and_touches_no_object(shared, keys):
    """The former key is needed before, and not after; every object outside ``keys/`` is byte for byte
    the same; doing it again changes nothing; the journal says who did it."""
    fill(shared(**OLD))
    manager = shared(**BOTH)
    chunks = manager._runtime.chunks
    before = {key: chunks.get(key) for key in chunks.list("variants/")}
    old, new = EnvKeys("FIRST_KEY").current()[0], EnvKeys("SECOND_KEY").current()[0]

    look = manager.keys.rotate(dry_run=True)
    assert (look.wrapped, look.keys, look.kek, look.removed) == (3, 3, new, ())
    assert {info.kek for info in manager.keys.list()} == {old}
    seen = []
    done = manager.keys.rotate(progress=lambda n, total: seen.append((n, total)))
    assert (done.wrapped, done.keys, len(done.removed)) == (3, 3, 3)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {(i.kek, i.revision, i.problem) for i in manager.keys.list()} == {(new, 2, "")}
    assert all(key.endswith(".00000002.json") for key in key_objects(manager))
    assert {key: chunks.get(key) for key in chunks.list("variants/")} == before
    assert manager.keys.rotate().wrapped == 0
    assert manager.decisions.list(newest=True, limit=1)[0].actor == "keys rotate"

    after = shared(**NEW)
    assert whole(after)
    after.states.put("w", b"more")
    with pytest.raises(ConfigError, match="Give it back, as one of `old`"):
        shared(**OLD).states.get("w")


def test_the_old_key_may_not_go_before(shared, keys):
    """With the new one alone nothing is rotated, and nothing is changed."""
    fill(shared(**OLD))
    early = shared(**NEW)
    with pytest.raises(ConfigError, match="run `xenolect keys rotate` before it goes"):
        early.keys.rotate()
    assert {bool(info.problem) for info in early.keys.list()} == {True}
    assert whole(shared(**OLD))


def test_a_key_made_while_others_are_rotated_is_wrapped_too(shared, keys):
    """A variant that gets its first state between the reading and the commit; and one whose key was
    written but not yet committed then."""
    fill(shared(**OLD))
    rotating, writing = shared(**BOTH), shared(**OLD)
    commit, made = rotating.keys._commit_rotation, []

    def late(*arguments):
        if not made:
            made.append(writing.variants.propose("x", {}, id="x"))
            writing.states.put("x", SECRET)
        commit(*arguments)

    rotating.keys._commit_rotation = late
    assert rotating.keys.rotate().keys == 4
    after = shared(**NEW)
    assert whole(after)
    assert after.states.get("x") == SECRET

    ring, write = writing.states.objects.keys, writing.states.objects.keys.write
    writing.variants.propose("y", {}, id="y")

    def overtaken(*arguments):
        name = write(*arguments)
        ring.write = write
        shared(**sealed(env="FIRST_KEY", old=[{"env": "SECOND_KEY"}])).keys.rotate()
        return name

    ring.write = overtaken
    writing.states.put("y", SECRET)
    assert shared(**OLD).states.get("y") == SECRET
    assert {info.problem for info in shared(**OLD).keys.list()} == {""}


def dying(manager, fail_at, after=False):
    """The manager's process dies at its ``fail_at``-th call to the store or the index."""
    runtime = manager._runtime
    calls = []

    def wrap(owner, name):
        inner = getattr(owner, name)

        def call(*arguments, **keywords):
            if len(calls) >= fail_at:
                raise Killed
            calls.append(name)
            last = len(calls) == fail_at
            if last and not after:
                raise Killed
            answer = inner(*arguments, **keywords)
            if last:
                raise Killed
            return answer

        return call

    class Dying:
        def __init__(self, inner, names):
            self.inner = inner
            for name in names:
                setattr(self, name, wrap(inner, name))

        def __getattr__(self, name):
            return getattr(self.inner, name)

    runtime.chunks = Dying(runtime.chunks, ("put", "get", "get_range", "delete", "list"))
    runtime.index = Dying(runtime.index, ("commit",))
    return manager


def abandon(manager):
    """Nothing more comes from a process that is gone."""
    manager._runtime.closed = True


EVERY = pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
@pytest.mark.parametrize("after", [False, True])
def test_rotating_may_die_at_any_call(opened, keys, after, stride):
    """Before or after each call: all is read with the old key, or all with the new one, never some with
    this and some with that; running it again finishes, and leaves nothing."""
    seen = set()
    for fail_at in range(1 + after, 100, stride):
        name = f"rotate-{after}-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        manager = dying(opened(**parts, **BOTH), fail_at, after)
        try:
            manager.keys.rotate()
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        works = set()
        for which, settings in (("old", OLD), ("new", NEW)):
            try:
                works |= {which} if whole(opened(**parts, **settings)) else set()
            except ConfigError:
                pass
        assert len(works) == 1
        seen |= works
        again = opened(**parts, **BOTH)
        assert whole(again)
        again.keys.rotate()
        assert len(key_objects(again)) == 3
        assert whole(opened(**parts, **NEW))
    else:
        pytest.fail("the scenario never ends")
    assert fail_at > 10
    assert seen == {"old", "new"}


PROGRAM = """
import os, signal, sys
from xenolect import EmergenceManager

place, fail_at = sys.argv[1], int(sys.argv[2])
keys = {"env": "SECOND_KEY", "old": [{"env": "FIRST_KEY"}]}
manager = EmergenceManager.open(place, cipher={"use": "aes-gcm", "keys": keys}, process=False)
calls = 0

def dying(inner):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == fail_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **keywords)
    return call

for owner, names in ((os, ["link", "unlink", "fsync", "fdatasync"]), (manager._runtime.index, ["commit"])):
    for name in names:
        setattr(owner, name, dying(getattr(owner, name)))
manager.keys.rotate()
print(calls)
manager.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rotating_survives_kill_9_at_every_durable_step(opened, keys, tmp_path):
    """A process of its own on a disk of its own, killed before each link, unlink, fsync and commit: all
    old or all new, and the next run finishes."""
    import shutil
    import subprocess
    import sys

    served(opened, tmp_path / "s")
    seen = set()
    for fail_at in range(1, 200):
        place = tmp_path / str(fail_at)
        shutil.copytree(tmp_path / "s", place)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(place), str(fail_at)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            assert int(done.stdout) < fail_at
            break
        assert done.returncode == -9, done.stderr
        works = set()
        for which, settings in (("old", OLD), ("new", NEW)):
            manager = opened(place, **settings)
            try:
                works |= {which} if manager.states.get("v") == SECRET * 2 else set()
            except ConfigError:
                pass
            manager.close()
        assert len(works) == 1
        seen |= works
        again = opened(place, **BOTH)
        again.keys.rotate()
        names = key_objects(again)
        again.close()
        after = opened(place, **NEW)
        assert len(names) == len(after.keys.list()) == 4
        assert after.states.get("v") == SECRET * 2
        assert after.states.verify().ok
        after.close()
        shutil.rmtree(place)
    else:
        pytest.fail("the scenario never ends")
    assert fail_at > 20
    assert seen == {"old", "new"}


# -- new data keys ------------------------------------------------------------------------------------


def seals(manager, variant):
    """The ids of the keys that seal the newest state's chunks."""
    version = manager.states.heads.head(variant).version
    _, content = manager.states.heads.located(variant, version)
    folder = f"variants/{variant}/state/"
    found = set()
    for entry in content.table:
        data = manager._runtime.chunks.get(folder + entry.object)
        end = int.from_bytes(data[6:8], "big")
        found.add(data[end : end + 16].hex() if data[8:15] == b"aes-gcm" else "none")
    return found


def current(manager, variant):
    """The id of the key that seals for a variant now."""
    (found,) = [
        i.id for i in manager.keys.list() if (i.scope, i.state) == (f"variant/{variant}", "current")
    ]
    return found


def test_a_new_data_key_seals_everything_anew(opened, keys):
    """New versions with the same content; older ones are read on; what was not sealed is sealed; a
    second sweep begins anew."""
    manager = opened(state={"chunk_size": 1024}, **OLD)
    fill(manager)
    manager.states.put("w", os.urandom(5000))
    manager.states.patch("w", {0: b"x"})
    before = {name: (manager.states.get(name), seals(manager, name)) for name in ("v", "w")}

    look = manager.keys.rekey(dry_run=True)
    assert [(s.variant_id, s.version, s.chunks) for s in look.states] == [
        ("v", None, 1),
        ("w", None, 5),
    ]
    assert look.keys == ("store", "variant/v", "variant/w")
    assert seals(manager, "v") == before["v"][1]
    seen = []
    done = manager.keys.rekey(progress=lambda n, total: seen.append((n, total)))

    assert [(s.variant_id, s.version, s.chunks) for s in done.states] == [("v", 3, 1), ("w", 4, 5)]
    assert (done.resumed, seen[-1][0]) == (False, seen[-1][1])
    for name, (content, old) in before.items():
        assert manager.states.get(name) == content
        assert seals(manager, name) == {current(manager, name)} != old
    assert manager.states.get("v", version=1) == SECRET
    assert manager.states.verify().ok
    assert manager.keys.rekey("v").keys == ("variant/v",)
    assert manager.states.versions("v")[-1].version == 4


def test_rekeying_seals_what_was_stored_before_there_was_a_cipher(opened, keys, tmp_path):
    """A store that gets a cipher later is sealed by it, its mirrors too."""
    manager = opened(tmp_path / "s")
    fill(manager)
    manager.close()
    sealed_now = opened(tmp_path / "s", **OLD)
    assert seals(sealed_now, "v") == {"none"}
    problems = sealed_now.states.verify().problems
    mirrors = [k for k in sealed_now._runtime.chunks.list("") if k.startswith("journal/")]
    mirrors += [f"variants/{n}/{m}.json" for n in ("v", "w") for m in ("state/index", "metadata")]
    assert {p.key for p in problems} == set(mirrors)
    assert "is not sealed, and a cipher is configured" in problems[0].what
    sealed_now.keys.rekey()
    sealed_now.flush()
    sealed_now.states.flush()
    assert seals(sealed_now, "v") == {current(sealed_now, "v")}
    assert sealed_now.states.verify().ok
    assert whole(sealed_now)


@EVERY
def test_rekeying_may_die_at_any_call(opened, keys, stride):
    """Nothing is lost; running it again makes no further keys, seals what is left and only that."""
    resumed = set()
    for fail_at in range(1, 200, stride):
        name = f"rekey-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        manager = dying(opened(**parts, **OLD), fail_at)
        try:
            manager.keys.rekey()
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        other = opened(**parts, **OLD)
        assert whole(other)
        marked = any(v.get("rekeying") for _, v in other.states.objects.keys.scopes())
        done = other.keys.rekey()
        assert done.resumed == marked
        resumed.add(len(done.states))
        assert other.keys.rekey("v").resumed is False
        for each in ("v", "w"):
            assert seals(other, each) == {current(other, each)}
        other.states.gc(0)
        assert whole(other)
        assert other.states.verify().ok
    else:
        pytest.fail("the scenario never ends")
    assert resumed == {0, 1, 2} or (stride > 1 and resumed >= {1, 2})


# -- shredding ----------------------------------------------------------------------------------------


def test_shredding_leaves_nothing_that_can_be_read(shared, keys):
    """Not even with a copy of every object made before: the key is gone. Another variant is as before,
    the variant can have a new state, and the journal says who destroyed what, and when."""
    manager, other = shared(**OLD), shared(**OLD)
    fill(manager)
    manager.states.flush()
    chunks = manager._runtime.chunks
    copy = {key: chunks.get(key) for key in chunks.list("variants/")}
    other.states.get("v")
    former = current(manager, "v")

    look = manager.keys.shred("v", dry_run=True)
    assert (look.keys, look.versions, look.points) == ((former,), 2, 1)
    assert whole(manager)
    done = manager.keys.shred("v")

    assert (done.keys, done.versions, done.points) == (look.keys, 2, 1)
    assert not [name for name in key_objects(manager) if former in name]
    assert not list(chunks.list("variants/v/points/"))
    for each in (manager, other, shared(**OLD)):
        each._runtime.catch_up()
        with pytest.raises(NotFoundError, match="has no state"):
            each.states.get("v")
        assert each.states.versions("v") == []
        assert each.points.list("v") == []
        assert each.states.get("w") == SECRET
    for key, data in copy.items():
        if key.startswith("variants/v/"):
            chunks.put(key, data, if_absent=False)
    for each in (manager, other):  # one that had the key in memory
        with pytest.raises(CorruptError, match="its key was shredded on"):
            each.states.objects.keys.opener().open(sealed_part(copy), b"")
    with pytest.raises(CorruptError, match="its key was shredded on"):
        shared(**OLD).states.objects.keys._find(bytes.fromhex(former))
    entry = manager.decisions.list(newest=True, limit=1)[0]
    assert entry.actor == "keys shred"
    assert manager.states.put("v", b"new").version == 4
    assert other.states.get("v") == b"new"
    manager.states.flush()  # writes the mirror that was put back anew
    assert manager.states.verify().ok
    manager.keys.shred("v")
    with pytest.raises(NotFoundError, match="it is gone already"):
        manager.keys.shred("v")


def sealed_part(copy):
    """What follows the header of one chunk."""
    (data, *_) = [data for key, data in sorted(copy.items()) if "/v/state/chunk_" in key]
    return data[int.from_bytes(data[6:8], "big") :]


def test_what_is_served_is_not_shredded(opened, keys):
    """Agents would be without the state; and a store without a cipher has nothing to shred."""
    manager = opened(**OLD)
    fill(manager)
    manager.variants.activate("v")
    with pytest.raises(TransitionError, match="agents are served its state; deprecate it or roll"):
        manager.keys.shred("v")
    assert whole(manager)
    plain = opened("memory://")
    plain.variants.propose("v", {}, id="v")
    assert plain.keys.list() == []
    for act in (plain.keys.rotate, plain.keys.rekey, lambda: plain.keys.shred("v")):
        with pytest.raises(InvalidError, match="use = 'none' has no keys that are kept"):
            act()


def test_a_writer_is_not_left_with_a_key_that_is_gone(shared, keys):
    """A put that has sealed its chunks when the variant is shredded begins again, with a new key: what
    it acknowledges can be read."""
    manager, writing = shared(**OLD), shared(**OLD)
    fill(manager)
    writing._runtime.catch_up()
    put = writing.states.objects.put_manifest
    shredded = []

    def late(manifest):
        if not shredded:
            shredded.append(manager.keys.shred("v"))
        return put(manifest)

    writing.states.objects.put_manifest = late
    ref = writing.states.put("v", SECRET * 3)
    assert shared(**OLD).states.get("v") == SECRET * 3
    assert ref.version == 4
    assert manager.states.verify().ok


@EVERY
def test_shredding_may_die_at_any_call(opened, keys, stride):
    """Before its commit everything is there; after it nothing is read any more, and running it again
    removes what was left."""
    outcomes = set()
    for fail_at in range(1, 100, stride):
        name = f"shred-{stride}-{fail_at}"
        parts = {
            "index": {"use": "memory", "name": name},
            "chunks": {"use": "memory", "name": name},
        }
        fill(opened(**parts, **OLD))
        former = current(opened(**parts, **OLD), "v")
        manager = dying(opened(**parts, **OLD), fail_at)
        try:
            manager.keys.shred("v")
        except Killed:
            abandon(manager)
        else:
            abandon(manager)
            break
        other = opened(**parts, **OLD)
        gone = not other.states.versions("v")
        outcomes.add(gone)
        if not gone:
            assert whole(other)
        else:
            with pytest.raises(CorruptError):
                other.states.objects.keys._find(bytes.fromhex(former))
        try:
            other.keys.shred("v")
        except NotFoundError:
            assert gone
        assert not [key for key in key_objects(other) if former in key]
        assert other.states.get("w") == SECRET
        assert other.states.verify().ok
    else:
        pytest.fail("the scenario never ends")
    assert outcomes == {False, True}


# -- what a key's trouble does not do -----------------------------------------------------------------


def served(opened, place):
    """A sealed store with an active variant that has a state and a point, and a baseline."""
    manager = opened(place, **OLD)
    manager.variants.activate(manager.variants.propose("base", {}, id="base"))
    manager.variants.activate(manager.variants.propose("v", {"a": 1}, id="v"), force=True)
    manager.states.put("v", SECRET)
    manager.points.create("v", pinned=True)
    manager.states.put("v", SECRET * 2)
    manager.close()


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
