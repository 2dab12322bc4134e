"""The store's keys: made, wrapped, kept under ``keys/``, found again, wrapped anew.

A *scope* is what one data key is for: ``variant/<id>``, or ``store`` for what belongs to no variant; the
scope ``id`` has the key that names objects. The fact ``key`` of a scope names its data keys. Each is
kept as ``keys/<kid>.<rev>.json``; all revisions change together when the wrapping key does, and the
fact ``setting keys`` says which one is true.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from xenolect._codec import moment
from xenolect._envelope import PLAIN
from xenolect.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    CorruptError,
    EmergenceError,
    NotFoundError,
    StorageFullError,
)
from xenolect.facts import Change, Put, canonical

if TYPE_CHECKING:
    from xenolect._states import Door
    from xenolect.interfaces import Cipher, EnvelopeCipher, Wrapper

__all__ = [
    "FOLDER",
    "IDS",
    "KEY",
    "STORE",
    "Keyring",
    "Moved",
    "Wrapped",
    "kids_of",
    "name_of",
    "scope_of",
]

FOLDER = "keys/"
KEY = "key"
"""The kind of the facts that name a scope's keys."""
IDS, STORE = "id", "store"
FORMAT = 2
_RETRIES = 32


class Moved(Exception):
    """Somebody else changed the keys meanwhile; nothing was committed."""


class Wrapped(NamedTuple):
    """A key as it is kept: the object's key and its document."""

    name: str
    document: Mapping[str, Any]

    @property
    def kid(self) -> str:
        """Its id in hex."""
        return str(self.document["id"])

    @property
    def kek(self) -> str:
        """The id of the key that wraps it."""
        return str(self.document["kek"])

    @property
    def rev(self) -> int:
        """How often it was wrapped."""
        return int(self.document["rev"])


class Keyring:
    """Gives ciphers for scopes. Unwrapped keys stay in memory, and are forgotten once shredded.

    No lock: two threads that need a new key make two, and the commit decides which one is true.
    """

    def __init__(self, door: Door, identity: Callable[[], bytes]) -> None:
        self._door = door
        self._identity = identity
        self._suite: EnvelopeCipher | None = (
            cast("EnvelopeCipher", door.cipher) if hasattr(door.cipher, "new_key") else None
        )
        self._plain = cast("Cipher", door.cipher)  # where it has no keys of its own to keep
        self._known: dict[str, tuple[str, bytes]] = {}  # kid -> its scope, the key
        self._sealers: dict[str, tuple[str, Cipher]] = {}  # scope -> kid, cipher

    @property
    def suite(self) -> EnvelopeCipher | None:
        """The configured cipher, where it has keys that are kept here."""
        return self._suite

    # -- ciphers ----------------------------------------------------------------------------------

    def sealer(self, variant_id: str) -> Cipher:
        """What seals for a variant, or for the store (``""``); its key is made where there is none."""
        if self._suite is None:
            return self._plain
        scope = scope_of(variant_id)
        kid = self._current(scope) or self._make(scope)
        found = self._sealers.get(scope)
        if found is None or found[0] != kid:
            key = self._key(kid)
            cipher = self._suite.cipher(bytes.fromhex(kid), key, self._find, os.urandom)
            found = self._sealers[scope] = (kid, cipher)
        return found[1]

    def ready(self, variant_id: str) -> None:
        """Make what sealing for a variant needs, so that it is there before threads begin."""
        self.sealer(variant_id)
        self.object_id(bytes(32), make=True)

    def opener(self) -> Cipher:
        """What opens anything that a key of this store has sealed."""
        if self._suite is None:
            return self._plain
        return self._suite.cipher(b"", b"", self._find, os.urandom)

    def object_id(self, digest: bytes, *, make: bool = False) -> bytes:
        """The id of what has this digest: the digest itself where no cipher keeps it secret, zeros where
        there is nothing to make ids with. ``make``: then make it."""
        if self._suite is None:
            return digest if self._plain.id == PLAIN else bytes(len(digest))
        kid = self._current(IDS) or (self._make(IDS) if make else None)
        return bytes(len(digest)) if kid is None else self._suite.object_id(self._key(kid), digest)

    # -- keys -------------------------------------------------------------------------------------

    def _current(self, scope: str) -> str | None:
        """The id of the key that seals for a scope now, in hex."""
        fact = self._door.fact(KEY, scope)
        return None if fact is None or fact.value is None else fact.value["id"]

    def _find(self, key_id: bytes) -> bytes:
        """Any of the store's keys by its id; CorruptError."""
        return self._key(key_id.hex())

    def _key(self, kid: str) -> bytes:
        found = self._known.get(kid)
        if found is None:
            wrapped = self.wrapped(kid)
            found = (str(wrapped.document["scope"]), self.unwrap(wrapped))
        scope, key = found
        fact = self._door.fact(KEY, scope)
        if fact is not None and fact.value is not None and kid in fact.value["shredded"]:
            self.forget([kid])
            raise _shredded(kid, fact.value)
        self._known[kid] = found
        return key

    def _make(self, scope: str) -> str:
        """Make a scope's key, or take the one that somebody else has just made; its id."""
        for _ in range(_RETRIES):
            with contextlib.suppress(Moved):
                self.make([scope], lambda scope: self._current(scope) is None)
            made = self._current(scope)
            if made is not None:
                return made
        raise ConflictError("keys are wrapped anew faster than one can be made; try again")

    def make(
        self,
        scopes: Sequence[str],
        wanted: Callable[[str], bool],
        also: Callable[[], Sequence[Change]] = tuple,
        **marks: Any,
    ) -> None:
        """Make keys for all of these scopes in one commit; Moved if one is not ``wanted`` by then, or
        all keys are wrapped anew meanwhile. Former keys still open. ``marks`` go into the facts."""
        assert self._suite is not None
        door, suite = self._door, self._suite
        rev = self.rev() or 1
        kek, wrapper = suite.keys.current()
        at = moment(door.clock()).isoformat()
        keys = {scope: (os.urandom(16).hex(), suite.new_key(os.urandom)) for scope in scopes}
        names: list[str] = []

        def build() -> Sequence[Change]:
            if (self.rev() or 1) != rev or not all(map(wanted, scopes)):
                raise Moved
            changes = list[Change](also())
            for scope, (kid, _) in keys.items():
                fact = door.fact(KEY, scope)
                old = (fact.value if fact else None) or {"id": None, "older": [], "shredded": []}
                value = {**old, **marks, "format": FORMAT, "id": kid, "older": kids_of(old)}
                changes.append(Put(KEY, scope, value, fact.version if fact else 0))
            return changes

        try:
            for scope, (kid, key) in keys.items():
                names.append(self.write(kid, rev, scope, at, key, kek, wrapper))
            door.commit_retrying(build, actor="keys")
        except BaseException as error:
            if isinstance(error, Moved):  # what else may have happened is not known
                for name in names:
                    door.chunks.delete(name)
            raise
        self._known.update((kid, (scope, key)) for scope, (kid, key) in keys.items())

    # -- objects under keys/ ----------------------------------------------------------------------

    def rev(self) -> int | None:
        """The revision that is true; None before the first rotation."""
        fact = self._door.fact("setting", "keys")
        return None if fact is None or fact.value is None else int(fact.value["rev"])

    def names(self, kid: str = "") -> list[str]:
        """Every object of a key, or of all, newest revision last."""
        return list(self._door.chunks.list(f"{FOLDER}{kid}"))

    def wrapped(self, kid: str) -> Wrapped:
        """A key as it is kept now; CorruptError."""
        rev = self.rev() or 1
        try:
            return self.read(name_of(kid, rev))
        except NotFoundError:
            pass
        # An index that was rebuilt, or restored from a backup, may not know the newest revision.
        for name in reversed(self.names(f"{kid}.")):
            return self.read(name)
        known = False
        for _, value in self.scopes():
            if kid in value["shredded"]:
                raise _shredded(kid, value)
            known = known or kid in kids_of(value)
        if not known:
            raise CorruptError(f"it names a key that this store does not have: {kid}")
        name = name_of(kid, rev)
        raise CorruptError(
            f"there is no key {name}: put {FOLDER} back from a backup; without it, what the key seals can "
            f"not be read",
            key=name,
        )

    def read(self, name: str) -> Wrapped:
        """What lies under a name of ``keys/``; NotFoundError, CorruptError."""
        return self.parsed(name, self._door.chunks.get(name))

    def parsed(self, name: str, data: bytes) -> Wrapped:
        """A key's bytes as what they are kept under a name for; CorruptError."""
        try:
            document = json.loads(data)
            if canonical(document).encode() != data:
                raise ValueError("not as it was written")
            if document["format"] != FORMAT:
                raise ConfigError(
                    f"{name} has format {document['format']}, this release reads {FORMAT}; upgrade xenolect"
                )
            if name != name_of(document["id"], document["rev"]):
                raise ValueError("of another name")
            for field in ("store", "scope", "cipher", "kek", "at", "wrapped"):
                if not isinstance(document[field], str):
                    raise TypeError(field)
        except ConfigError:
            raise
        except (ValueError, TypeError, LookupError) as cause:
            raise CorruptError(
                f"{name} is damaged ({type(cause).__name__}); put a copy back", key=name, offset=0
            ) from cause
        return Wrapped(name, document)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """A key; ConfigError where the key that wraps it is not there any more, CorruptError."""
        assert self._suite is not None
        name, document = wrapped
        if document["store"] != self._identity().hex():
            raise CorruptError(f"{name} is a key of store {document['store']}", key=name, offset=0)
        if document["cipher"] != self._suite.id:
            raise ConfigError(
                f"cipher: {name} is a key for {document['cipher']!r}, and {self._suite.id!r} is "
                f'configured; set [cipher] use = "{document["cipher"]}" and its keys'
            )
        try:
            wrapper = self._suite.keys.get(wrapped.kek)
        except NotFoundError as cause:
            raise ConfigError(
                f"cipher.keys: {name} is wrapped with the key {wrapped.kek}, and it is not there: "
                f"{cause}. Give it back, as one of `old`, and run `xenolect keys rotate` before it goes"
            ) from cause
        try:
            sealed = base64.b64decode(document["wrapped"], validate=True)
            return wrapper.unwrap(sealed, _bound(document))
        except (CorruptError, ValueError) as cause:
            raise CorruptError(
                f"{name} is damaged, put a copy back: {cause}", key=name, offset=0
            ) from cause

    def write(
        self, kid: str, rev: int, scope: str, at: str, key: bytes, kek: str, wrapper: Wrapper
    ) -> str:
        """Wrap a key and store it; where."""
        assert self._suite is not None
        document: dict[str, Any] = {
            "format": FORMAT,
            "store": self._identity().hex(),
            "id": kid,
            "rev": rev,
            "scope": scope,
            "cipher": self._suite.id,
            "kek": kek,
            "at": at,
        }
        document["wrapped"] = base64.b64encode(wrapper.wrap(key, _bound(document))).decode()
        name = name_of(kid, rev)
        self._door.chunks.put(name, canonical(document).encode())
        return name

    # -- all of them ------------------------------------------------------------------------------

    def scopes(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every scope that has, or had, keys, and its fact."""
        for (kind, scope), fact in sorted(self._door.facts.copy().items()):
            if kind == KEY and fact.value is not None:
                yield scope, fact.value

    def broken(self) -> Iterator[tuple[str, str, CorruptError]]:
        """Objects with keys that are not as written: each with the variant it is for, if any."""
        if self._suite is None:
            return
        for scope, value in self.scopes():
            for kid in kids_of(value):
                try:
                    self.unwrap(self.wrapped(kid))
                except CorruptError as error:
                    variant_id = scope.partition("/")[2]
                    yield error.key or name_of(kid, self.rev() or 1), variant_id, error

    def forget(self, kids: Sequence[str]) -> None:
        """Let go of keys that are shredded."""
        for kid in kids:
            self._known.pop(kid, None)


def scope_of(variant_id: str) -> str:
    """The scope of a variant's objects, or of those of none."""
    return f"variant/{variant_id}" if variant_id else STORE


def kids_of(value: Mapping[str, Any]) -> list[str]:
    """The ids of a scope's keys that are not shredded, oldest first."""
    return [*value["older"], *([value["id"]] if value["id"] else [])]


def of_keys(error: EmergenceError) -> bool:
    """Does an error tell of keys, or of a service that is away or full, and nothing of what they seal?"""
    damaged = isinstance(error, CorruptError) and (error.key or "").startswith(FOLDER)
    elsewhere = isinstance(error, (AccessError, ConfigError, StorageFullError))
    return damaged or error.retryable or elsewhere


def _shredded(kid: str, value: Mapping[str, Any]) -> CorruptError:
    return CorruptError(
        f"its key was shredded on {value['at']}: nothing can read it any more", key=name_of(kid, 0)
    )


def name_of(kid: str, rev: int) -> str:
    """Where a revision of a key is kept."""
    return f"{FOLDER}{kid}.{rev:08d}.json"


def _bound(document: Mapping[str, Any]) -> bytes:
    """All of a document but what is wrapped."""
    return canonical({name: document[name] for name in document if name != "wrapped"}).encode()
