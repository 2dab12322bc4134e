"""The upkeep half of ``manager.states``: verify, repair, collect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenolect._migrations import Migrate, Migrations
from xenolect._repair import Repair

if TYPE_CHECKING:
    from datetime import timedelta

    from xenolect._state_cache import Cache
    from xenolect._state_mirrors import Mirrors
    from xenolect._state_objects import Objects
    from xenolect._state_versions import Versions
    from xenolect._state_workers import Workers
    from xenolect._states import Door
    from xenolect._upkeep import Upkeep
    from xenolect._upkeep_report import Collected, Repaired, Report
    from xenolect._upload import Progress
    from xenolect.interfaces import ChunkStore
    from xenolect.model import StateRef

__all__ = ["Maintenance"]


class Maintenance:
    """What operators and the background do with stored states; part of ``States``."""

    _door: Door
    _objects: Objects
    _versions: Versions
    _upkeep: Upkeep
    _workers: Workers
    _mirrors: Mirrors
    _cache: Cache
    _enter: Callable[[Any], str]
    _done: Callable[[StateRef], StateRef]

    # set by the manager: takes a served variant back to an intact point; None if it is not served
    give_up: Callable[[str, str], str | None] = staticmethod(lambda _variant, _why: None)

    # set by the manager: opens the configured copy of the object store, if there is one
    replica: Callable[[], ChunkStore | None] = staticmethod(lambda: None)

    # -- schemas of the application ---------------------------------------------------------------

    # set by the manager: what plugins offer; a tool that serves nobody takes later ones as they are
    migrations: Migrations
    lenient = False

    def register_migration(
        self, protocol: str, source: int, target: int, function: Migrate
    ) -> None:
        """Bring states of a protocol from schema ``source`` to ``target`` when ``get`` reads them.

        ``function`` takes and returns a state as ``get`` gives it. What is put from now on has the
        newest schema known. ``open``, ``read_into`` and ``patch`` see states as they are stored.
        InvalidError, DuplicateError.
        """
        self.migrations.add(protocol, source, target, function)

    def _migrated(self, ref: StateRef, value: Any) -> Any:
        protocol = self._door.variant(ref.variant_id).protocol
        what = f"state {ref.version} of variant {ref.variant_id!r}"
        return self.migrations.apply(protocol, ref.schema, value, what, self.lenient)

    # -- for the other rooms of core --------------------------------------------------------------

    @property
    def objects(self) -> Objects:
        """What lies in the object store."""
        return self._objects

    @property
    def heads(self) -> Versions:
        """Which versions there are, and the commit that adds one."""
        return self._versions

    @property
    def upkeep(self) -> Upkeep:
        """The slow, thorough readers."""
        return self._upkeep

    @property
    def workers(self) -> Workers:
        """Threads for many chunks."""
        return self._workers

    def stored(self, ref: StateRef) -> StateRef:
        """Tell of a version that was committed."""
        return self._done(ref)

    def forget(self, variant_id: str) -> None:
        """The objects of a variant are gone, its mirror too; none is written before it has a new state,
        and none of its states is kept in memory."""
        self._mirrors.forget(variant_id)
        self._cache.clear(variant_id)

    # -- for operators and the background ---------------------------------------------------------

    def verify(self, variant: Any = None, deep: bool = True, progress: Progress = None) -> Report:
        """Read everything back (``deep``) or see that it is there, and report what is not as written."""
        return self._upkeep.verify(self._one(variant), deep, progress, self._workers)

    def repair(
        self, variant: Any = None, dry_run: bool = False, progress: Progress = None
    ) -> Repaired:
        """Make damaged states whole, in new versions, from whatever still has their content.

        What nothing has is given up: a served variant is rolled back to its newest intact point and
        quarantined, any other goes back to its newest intact version. Mirrors and points are written
        again from the index. Older versions that stay damaged are noted: ``verify`` then reports them
        apart. Safe while others write; run it again if it is interrupted.
        """
        one = self._one(variant)
        replica = self.replica()
        try:
            return Repair(
                self._door,
                self._objects,
                self._versions,
                self._upkeep,
                [] if replica is None else [self._objects.elsewhere(replica)],
                self.give_up,
                self._done,
            ).run(one, dry_run, progress, self._workers)
        finally:
            if replica is not None:
                replica.close()

    def gc(
        self,
        grace: float | str | timedelta | None = None,
        dry_run: bool = False,
        progress: Progress = None,
    ) -> Collected:
        """Remove objects that no version refers to and that are older than the grace
        (``state.gc_grace``). Safe while others write."""
        return self._upkeep.gc(grace, dry_run, progress)

    def _one(self, variant: Any) -> str | None:
        return None if variant is None else self._enter(variant)
