"""``manager.keys``: what an operator does with keys: list, rotate, replace, destroy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._codec import moment
from xenolect._keyring import FOLDER, KEY, Keyring, Moved, kids_of, name_of, scope_of
from xenolect._rekey import Rekey, Rekeyed
from xenolect._state_versions import EPOCH
from xenolect.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DuplicateError,
    EmergenceError,
    InvalidError,
    NotFoundError,
    TransitionError,
)
from xenolect.facts import Change, Drop, Put
from xenolect.model import VariantStatus

if TYPE_CHECKING:
    from xenolect._runtime import Runtime
    from xenolect._states import States
    from xenolect._upload import Progress

__all__ = ["KeyInfo", "Keys", "Rotated", "Shredded"]

_RETRIES = 32
S = VariantStatus
Changes = list[Change]
Infos = list["KeyInfo"]
_SERVED = (S.CANARY, S.PAUSED, S.ACTIVE)


@attrs.frozen
class KeyInfo:
    """One data key. scope: ``variant/<id>``, ``store`` or ``id``. kek: the id of the key that wraps it.

    state: "current", "older" (opens what it sealed), "shredded" (its object should be gone and is
    not), "loose" (nobody refers to it). problem: why it can not be used now.
    """

    id: str
    scope: str
    state: str
    kek: str
    revision: int
    object: str
    problem: str = ""


@attrs.frozen
class Rotated:
    """What ``rotate`` did (or would have, ``dry_run``): how many of how many keys were wrapped anew with
    ``kek``, and which objects with former revisions were removed."""

    wrapped: int
    keys: int
    kek: str
    removed: tuple[str, ...]
    dry_run: bool


@attrs.frozen
class Shredded:
    """What ``shred`` destroyed (or would have, ``dry_run``): keys by their ids, state versions, rollback
    points, objects."""

    variant_id: str
    keys: tuple[str, ...]
    versions: int
    points: int
    objects: int
    dry_run: bool


class Keys:
    """The keys of one store. InvalidError where ``[cipher]`` has none."""

    def __init__(self, runtime: Runtime, states: States) -> None:
        self._runtime = runtime
        self._states = states
        self._ring: Keyring = states.objects.keys

    def list(self) -> Infos:
        """Every key under ``keys/``, and every one that should be there."""
        if self._ring.suite is None:
            return []
        self._runtime.catch_up()
        found = []
        for scope, value in self._ring.scopes():
            found += [self._info(kid, scope, value) for kid in kids_of(value)]
        seen = {info.object for info in found}
        shredded = {kid: scope for scope, value in self._ring.scopes() for kid in value["shredded"]}
        for name in self._ring.names():
            kid, rev = _parts(name)
            if name not in seen:
                state = "shredded" if kid in shredded else "loose"
                found.append(KeyInfo(kid, shredded.get(kid, ""), state, "", rev, name))
        return found

    def _info(self, kid: str, scope: str, value: Mapping[str, Any]) -> KeyInfo:
        state = "current" if kid == value["id"] else "older"
        try:
            wrapped = self._ring.wrapped(kid)
        except CorruptError as error:
            name = name_of(kid, self._ring.rev() or 1)
            return KeyInfo(kid, scope, state, "", self._ring.rev() or 1, name, str(error))
        try:
            self._ring.unwrap(wrapped)
            problem = ""
        except EmergenceError as error:
            problem = str(error)
        return KeyInfo(kid, scope, state, wrapped.kek, wrapped.rev, wrapped.name, problem)

    # -- the key that wraps -----------------------------------------------------------------------

    def rotate(self, dry_run: bool = False, progress: Progress = None) -> Rotated:
        """Wrap every key with the provider's current one; objects are not touched.

        The new revisions are written and read back, one commit makes them true, then the former ones
        are removed: a process that dies leaves all of the old ones true, or all of the new ones. Run it
        again after that, or as often as you like. ConfigError where a key can not be unwrapped.
        """
        suite = self._suite()
        ring = self._ring
        for _ in range(_RETRIES):
            self._runtime.catch_up()
            kek, wrapper = suite.keys.current()
            kept = self._kept()
            rev = ring.rev() or 1
            stale = [kid for kid in kept if (kept[kid].kek, kept[kid].rev) != (kek, rev)]
            if dry_run or not stale:
                removed = () if dry_run else self._sweep()
                return Rotated(len(stale), len(kept), kek, removed, dry_run)
            new = 1 + max(_parts(name)[1] for name in ring.names())
            try:
                for done, (kid, wrapped) in enumerate(kept.items(), 1):
                    key, document = ring.unwrap(wrapped), wrapped.document
                    name = ring.write(
                        kid, new, document["scope"], document["at"], key, kek, wrapper
                    )
                    if ring.unwrap(ring.read(name)) != key:
                        raise ConfigError(f"cipher.keys: what {kek} wraps it does not unwrap again")
                    if progress is not None:
                        progress(done, len(kept))
                self._commit_rotation(list(kept), rev, new, kek)
            except (Moved, DuplicateError):
                continue  # a key was made meanwhile, or somebody else rotates
            self._runtime.tell("keys.rotated", keys=len(kept), kek=kek, revision=new)
            self._runtime.settle()
            return Rotated(len(stale), len(kept), kek, self._sweep(), False)
        raise ConflictError(
            "the keys are changed by others faster than they can be wrapped; try again"
        )

    def _kept(self) -> dict[str, Any]:
        """Every key that is in use, as it is kept."""
        kids = [kid for _, value in self._ring.scopes() for kid in kids_of(value)]
        return {kid: self._ring.wrapped(kid) for kid in kids}

    def _commit_rotation(self, kids: Sequence[str], rev: int, new: int, kek: str) -> None:
        at = moment(self._runtime.clock()).isoformat()

        def build() -> Changes:
            now = [kid for _, value in self._ring.scopes() for kid in kids_of(value)]
            if now != kids or (self._ring.rev() or 1) != rev:
                raise Moved
            return [Put("setting", "keys", {"rev": new, "kek": kek, "at": at})]

        self._runtime.commit_retrying(build, actor="keys rotate")

    def _sweep(self) -> tuple[str, ...]:
        """Remove revisions that are no longer true, and keys that were shredded or never used."""
        ring, chunks = self._ring, self._runtime.chunks
        rev = ring.rev() or 1
        used = {kid for _, value in ring.scopes() for kid in kids_of(value)}
        shredded = {kid for _, value in ring.scopes() for kid in value["shredded"]}
        names = ring.names()
        removed = []
        for name in names:
            kid, own = _parts(name)
            former = kid in used and own < rev and name_of(kid, rev) in names
            if former or kid in shredded or (kid not in used and self._old(name)):
                chunks.delete(name)
                removed.append(name)
        return tuple(removed)

    def _old(self, name: str) -> bool:
        """Was it made so long ago that whoever made it can not use it any more?"""
        from datetime import datetime

        try:
            at = datetime.fromisoformat(self._ring.read(name).document["at"]).timestamp()
        except (EmergenceError, ValueError):
            return False
        return at < self._runtime.clock() - self._runtime.config.state.gc_grace

    # -- data keys --------------------------------------------------------------------------------

    # set by the manager: writes mirrors that are not sealed, or damaged, again
    reseal: Callable[[], object] = staticmethod(lambda: None)

    def rekey(
        self, variant: Any = None, dry_run: bool = False, progress: Progress = None
    ) -> Rekeyed:
        """Give a variant, or all of them and the store, a new data key, and seal the newest states with
        it, in new versions; also what is not sealed yet.

        What died on the way is gone on with. Older versions keep the keys they were sealed with.
        """
        self._suite()
        one = None if variant is None else self._runtime.variant(variant).id
        done = Rekey(self._runtime, self._states).run(one, dry_run, progress)
        if not dry_run:
            self.reseal()
        return done

    def shred(self, variant: Any, dry_run: bool = False, progress: Progress = None) -> Shredded:
        """Destroy the data keys of a variant, and with them all of its states and rollback points, also
        in copies of the object store that are elsewhere. There is no way back.

        The commit, which is the audit, comes first; then the keys go, then the objects. Run it again if
        it was interrupted. TransitionError while agents are served the variant. Copies of ``keys/``
        are for whoever has them to destroy; the variant's record and its measurements stay.
        """
        self._suite()
        runtime, ring = self._runtime, self._ring
        variant_id = runtime.variant(variant).id
        runtime.catch_up()
        scope = scope_of(variant_id)
        objects = [
            name
            for folder in ("state", "points")
            for name in runtime.chunks.list(f"variants/{variant_id}/{folder}/")
        ]
        self._check_shred(variant_id)
        value = runtime.value(KEY, scope) or {"older": [], "shredded": [], "id": None}
        kids = kids_of(value)
        dead = [name for kid in value["shredded"] for name in ring.names(f"{kid}.")]
        gone = self._states_and_points(variant_id)
        if not (kids or dead or gone or objects):
            raise NotFoundError(
                f"variant {variant_id!r} has no key and no state; it is gone already"
            )
        counted = [
            sum(change.kind == kind for change in gone) for kind in ("state_version", "point")
        ]
        report = Shredded(variant_id, tuple(kids), counted[0], counted[1], len(objects), dry_run)
        if dry_run:
            return report
        self._states.forget(variant_id)
        if kids or gone:
            self._commit_shred(variant_id, scope)
        value = runtime.value(KEY, scope) or value
        ring.forget(value["shredded"])
        names = [name for kid in value["shredded"] for name in ring.names(f"{kid}.")]
        for done, name in enumerate([*names, *objects], 1):
            runtime.chunks.delete(name)
            if progress is not None:
                progress(done, len(names) + len(objects))
        runtime.tell("keys.shredded", variant_id, keys=len(kids), versions=counted[0])
        runtime.settle()
        return report

    def _check_shred(self, variant_id: str) -> None:
        status = self._runtime.variant(variant_id).status
        if status in _SERVED:
            raise TransitionError(
                f"variant {variant_id!r} is {status}: agents are served its state; deprecate it or roll "
                f"it back first, then shred"
            )

    def _states_and_points(self, variant_id: str) -> Changes:
        facts = sorted(self._runtime.facts.copy().items())
        return [
            Drop(kind, key)
            for (kind, key), fact in facts
            if kind in ("state_version", "point") and fact.value is not None
            if key.rpartition("/")[0] == variant_id and (kind == "point" or fact.value["manifest"])
        ]

    def _commit_shred(self, variant_id: str, scope: str) -> None:
        runtime = self._runtime
        at = moment(runtime.clock()).isoformat()

        def build() -> Changes:
            self._check_shred(variant_id)
            fact = runtime.fact(KEY, scope)
            old = (fact.value if fact else None) or {"older": [], "shredded": [], "id": None}
            dead = [*old["shredded"], *kids_of(old)]
            value = {**old, "format": 2, "id": None, "older": [], "shredded": dead, "at": at}
            epoch = runtime.value("setting", EPOCH) or {"epoch": 0}
            head = runtime.value("state", variant_id)
            return [
                Put(KEY, scope, value, fact.version if fact else 0),
                # Whoever has sealed chunks with the key that goes must begin again.
                Put("setting", EPOCH, {"epoch": epoch["epoch"] + 1, "at": at}),
                *self._states_and_points(variant_id),
                *(self._states.without(variant_id) if head and head.get("manifest") else ()),
            ]

        runtime.commit_retrying(build, actor="keys shred")

    def _suite(self) -> Any:
        if self._ring.suite is None:
            raise InvalidError(
                f"[cipher] use = {self._runtime.config.cipher.use!r} has no keys that are kept in the "
                f'store; encryption is configured with [cipher] use = "aes-gcm"'
            )
        return self._ring.suite


def _parts(name: str) -> tuple[str, int]:
    """The id and the revision in a name under ``keys/``; revision 0 for what is none."""
    kid, _, rest = name.removeprefix(FOLDER).partition(".")
    rev = rest.removesuffix(".json")
    return kid, int(rev) if rev.isdecimal() else 0
