"""Rebuilding a lost index from its mirror, and a lost mirror from the index.

The index is the truth as long as it can be read: then only its mirror is written anew. Where it is
lost, damaged, or an older one than the mirror saw, it is built from the mirrored journal beside the old
file, checked, and put in its place; the old file is kept. Nothing goes backwards silently: where entries
would be lost the caller has to accept it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from xenolect._cipher_options import cipher_options
from xenolect._journal_objects import Chain, JournalObjects
from xenolect._parts import chunk_options, index_options, replica_of
from xenolect._registry import Registry
from xenolect._rollup_rebuild import restore
from xenolect._state_objects import Objects
from xenolect.errors import ConflictError, CorruptError, EmergenceError, NotFoundError
from xenolect.facts import GENESIS, Change, Contents, Entry, Fact, Put
from xenolect.model import VariantStatus

if TYPE_CHECKING:
    from xenolect.config import Config
    from xenolect.interfaces import ChunkStore, Cipher, Index
    from xenolect.manager import EmergenceManager

__all__ = ["Bare", "Reindexed", "rebuild"]

Progress = Callable[[int, int | None], object] | None


@attrs.frozen
class Reindexed:
    """What was done (or would be, ``dry_run``).

    source: "index" (it is whole; its mirror was written anew), "journal", or "checkpoint" (older
    entries are lost, the facts are not). entries: those in the rebuilt journal. recovered: entries that
    only the damaged index had. lost: entries before a checkpoint, or behind a gap. aside: where the
    old index is. mirrors: objects written anew. restarted: rollouts that begin again, because their
    evidence was in the index alone. rollups: roll-ups that came back from their segments.
    """

    source: str
    revision: int
    digest: str
    facts: int
    entries: int
    recovered: int
    lost: int
    damaged: tuple[str, ...]
    why: str
    aside: str | None
    mirrors: tuple[str, ...]
    restarted: tuple[str, ...]
    dry_run: bool
    rollups: int = 0


class Bare:
    """What sealed objects need of a manager, where none can be opened."""

    def __init__(self, config: Config, chunks: ChunkStore, cipher: Cipher) -> None:
        self.config = config
        self.chunks = chunks
        self.cipher = cipher
        self.facts: dict[tuple[str, str], Fact] = {}

    def clock(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def token(self, size: int, /) -> str:
        """Random bytes in hex."""
        return secrets.token_hex(size)

    def fact(self, kind: str, key: str, /) -> Fact | None:
        """None is known."""
        return self.facts.get((kind, key))


@attrs.frozen
class _Found:
    """The index as it is: what can be read of it, and why it is not to be used."""

    contents: Contents | None
    entries: tuple[Entry, ...] = ()
    why: str = ""


def rebuild(
    config: Config,
    *,
    dry_run: bool = False,
    accept_loss: bool = False,
    prefer: str | None = None,
    force: bool = False,
    progress: Progress = None,
    plugins: Sequence[object] = (),
) -> Reindexed:
    """Make index and mirror whole again from each other.

    prefer: "index" or "mirror", where both are readable and disagree. accept_loss: go on where entries
    can not be recovered. force: also where processes seem to be serving. ConflictError, CorruptError.
    """
    registry = Registry.collect(config.plugins, plugins)
    chunks: ChunkStore = registry.make("chunks", config.chunks.use, chunk_options(config), "chunks")
    spare = None
    try:
        cipher = registry.make(
            "cipher", config.cipher.use, cipher_options(config, registry), "cipher"
        )
        objects = Objects(Bare(config, chunks, cipher))  # type: ignore[arg-type]
        told = objects.store.inherited() if dry_run else None
        if told is not None:
            objects.store.assume(bytes.fromhex(told))  # without writing store.json again
        spare = replica_of(config, registry)
        journal = JournalObjects(objects, spare)
        segments, checkpoints = journal.names()
        found = _look(registry, config, force)
        chain = journal.chain()
        mirrored = chain.entries[-1].revision if chain.entries else 0
        newest = max((segment.last for segment in segments), default=0)
        if prefer != "mirror" and _whole(found, chain, newest, prefer):
            if prefer == "index" and not dry_run:
                journal.delete(segments)
                journal.delete_checkpoints(checkpoints)
            return _mirror(config, found, chain, dry_run, plugins)
        recovered = _recovered(found, chain)
        entries = (*chain.entries, *recovered)
        base: Contents | None = None
        if chain.gap is not None and mirrored + len(recovered) < newest:
            base, entries = _from_checkpoint(journal, checkpoints, entries)
        head = entries[-1] if entries else None
        revision = head.revision if head else (base.revision if base else 0)
        lost = max(0, newest - revision) + (base.revision if base else 0)
        ahead = found.entries[-1].revision if found.entries else 0
        if not segments and base is None and not recovered:
            raise NotFoundError(
                f"nothing to rebuild from: {found.why or 'there is no index'}, and the object store "
                f"holds no journal; is this the right store?"
            )
        if (lost or ahead > revision) and not accept_loss:
            raise CorruptError(
                f"entry {chain.gap or revision + 1} of the journal can not be recovered"
                f"{': ' + str(chain.damaged[0]) if chain.damaged else ''}; bring journal/ back from a "
                f"backup, or go on from what there is with --accept-loss "
                f"({lost or ahead - revision} entries)",
                key="journal",
            )
        contents = _folded(base, entries, progress)
        made = Reindexed(
            "checkpoint" if base else "journal",
            contents.revision,
            contents.digest,
            len(contents.facts),
            len(entries),
            len(recovered),
            lost,
            tuple(sorted({str(error.key) for error in chain.damaged})),
            found.why or ("the index was behind its mirror" if found.contents else "no index"),
            None,
            (),
            (),
            dry_run,
        )
        if dry_run:
            return made
        aside = _replace(registry, config, contents, entries)
    finally:
        if spare is not None:
            spare.close()
        chunks.close()
    after = _after(config, plugins)
    return attrs.evolve(made, aside=aside, mirrors=after[0], restarted=after[1], rollups=after[2])


def _path(config: Config) -> Path | None:
    """The file of an index that is one."""
    path = index_options(config).get("path") if config.index.use == "sqlite" else None
    return None if path is None else Path(path)


def _look(registry: Registry, config: Config, force: bool) -> _Found:
    """Read the index that is there, without making one."""
    path = _path(config)
    if path is not None and not path.exists():
        return _Found(None, (), f"{path} is missing")
    index: Index | None = None
    try:
        index = registry.make("index", config.index.use, index_options(config), "index")
        alive = index.leases("process/", time.time())
        if alive and not force:
            raise ConflictError(
                f"{len(alive)} processes are serving from this index; stop them first, or give --force "
                f"if they are gone (a lease ends 15 s after its process)"
            )
        entries: Sequence[Entry] = ()
        why = ""
        contents = None
        try:
            entries = index.changes(0)
        except CorruptError as error:
            why = str(error)
        try:
            contents = index.load()
        except CorruptError as error:
            why = str(error)
        return _Found(None if why else contents, tuple(entries), why)
    except (ConflictError, NotFoundError):
        raise
    except EmergenceError as error:
        return _Found(None, (), str(error))
    finally:
        if index is not None:
            with contextlib.suppress(EmergenceError):
                index.close()


def _whole(found: _Found, chain: Chain, newest: int, prefer: str | None) -> bool:
    """Is the index good, and not behind its mirror? ConflictError where both tell different stories."""
    contents = found.contents
    if contents is None:
        return False
    if prefer == "index":
        return True
    if not contents.revision:
        return not newest
    for mirrored, own in zip(chain.entries, found.entries, strict=False):
        if mirrored.digest != own.digest:
            raise ConflictError(
                f"the index and its mirror hold different entries {own.revision}: one of them is of "
                f"another store, or was edited. Find out which; then give --prefer index or --prefer "
                f"mirror"
            )
    return contents.revision >= newest


def _recovered(found: _Found, chain: Chain) -> tuple[Entry, ...]:
    """Entries behind the mirror's that the index still holds and that follow from them."""
    last = chain.entries[-1] if chain.entries else None
    at, digest = (last.revision, last.digest) if last else (0, GENESIS)
    own = [entry for entry in found.entries if entry.revision > at]
    return tuple(own) if own and own[0].previous == digest else ()


def _from_checkpoint(
    journal: JournalObjects, checkpoints: Sequence[int], entries: tuple[Entry, ...]
) -> tuple[Contents | None, tuple[Entry, ...]]:
    """The newest checkpoint behind the gap, and what follows from it."""
    reached = entries[-1].revision if entries else 0
    for revision in sorted(checkpoints, reverse=True):
        if revision <= reached:
            break
        try:
            contents = journal.checkpoint(revision).contents
        except (CorruptError, NotFoundError):
            continue
        return contents, journal.chain(revision, contents.digest).entries
    return None, entries


def _folded(base: Contents | None, entries: Sequence[Entry], progress: Progress) -> Contents:
    """The facts that entries make."""
    facts: dict[tuple[str, str], Fact] = {}
    revision, digest = 0, GENESIS
    if base is not None:
        facts = {(fact.kind, fact.key): fact for fact in base.facts}
        revision, digest = base.revision, base.digest
    for done, entry in enumerate(entries, 1):
        for change in entry.changes:
            name = change.kind, change.key
            version = facts[name].version + 1 if name in facts else 1
            facts[name] = Fact(*name, version, change.value if isinstance(change, Put) else None)
        revision, digest = entry.revision, entry.digest
        if progress is not None and done % 256 == 0:
            progress(done, len(entries))
    return Contents(revision, digest, tuple(facts[name] for name in sorted(facts)))


def _replace(
    registry: Registry, config: Config, contents: Contents, entries: Sequence[Entry]
) -> str | None:
    """Fill a new index and put it where the old one is; where that one went.

    Dying between the two renames leaves no index, and the next run does it again.
    """
    options = index_options(config)
    path = _path(config)
    if path is None:
        _fill(registry, config, options, contents, entries)
        return None
    fresh = path.with_name(f"{path.name}.rebuilt")
    for each in (fresh, *_beside(fresh)):
        each.unlink(missing_ok=True)
    _fill(registry, config, {**options, "path": str(fresh)}, contents, entries)
    aside: Path | None = None
    if path.exists():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        aside = path.with_name(f"{path.name}.replaced-{stamp}")
        for old, new in zip((*_beside(path), path), (*_beside(aside), aside), strict=True):
            if old.exists():
                os.replace(old, new)
    os.replace(fresh, path)
    for each in _beside(fresh):
        each.unlink(missing_ok=True)
    _sync(path.parent)
    return None if aside is None else str(aside)


def _beside(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + end) for end in ("-wal", "-shm", "-lock"))


def _sync(folder: Path) -> None:
    if sys.platform == "win32":
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _fill(
    registry: Registry,
    config: Config,
    options: dict[str, Any],
    contents: Contents,
    entries: Sequence[Entry],
) -> None:
    index: Index = registry.make("index", config.index.use, options, "index")
    try:
        index.restore(contents, entries)
        if index.load() != contents:
            raise CorruptError("the rebuilt index was read back different from what was written")
    finally:
        index.close()


def _mirror(
    config: Config, found: _Found, chain: Chain, dry_run: bool, plugins: Sequence[object]
) -> Reindexed:
    """The index is whole: write what its mirror lacks."""
    assert found.contents is not None
    mirrors, restarted, _ = _after(config, plugins, dry_run=dry_run, restart=False)
    return Reindexed(
        "index",
        found.contents.revision,
        found.contents.digest,
        len(found.contents.facts),
        len(found.entries),
        0,
        0,
        tuple(sorted({str(error.key) for error in chain.damaged})),
        "the index is whole",
        None,
        mirrors,
        restarted,
        dry_run,
    )


def _after(
    config: Config, plugins: Sequence[object], *, dry_run: bool = False, restart: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Open the store on its index, begin rollouts again, write the mirrors that are missing."""
    from xenolect.manager import EmergenceManager

    with EmergenceManager.open(
        config, background=False, process=False, actor="reindex", plugins=plugins
    ) as manager:
        restarted = _begin_again(manager) if restart else ()
        rolled = 0
        if restart:
            index, segments = manager._runtime.index, manager._rollups.segments
            rolled = restore(index, segments, sorted(manager._runtime.variants))
        mirrors = tuple(manager._mirroring.upkeep.rebuild(dry_run=dry_run))
        if not dry_run:
            manager._rollups.reseal(manager._runtime.clock())
        return mirrors, restarted, rolled


def _begin_again(manager: EmergenceManager) -> tuple[str, ...]:
    """Rollouts whose evidence went with the index start over, as an edit of their content makes them:
    with less evidence than they had before they could promote or condemn by mistake."""
    runtime = manager._runtime
    begun = []
    for variant in list(runtime.variants.values()):
        if variant.status == VariantStatus.CANARY:
            runtime.commit_retrying(partial(_restarted, manager, variant.id), actor="reindex")
            begun.append(variant.id)
        elif variant.status == VariantStatus.PAUSED:
            # stays where the operator stopped it; units are counted anew from the first evidence
            document = {**runtime.value("rollout", variant.id), "level_sequence": 0}
            runtime.commit([Put("rollout", variant.id, document)], actor="reindex")
            begun.append(variant.id)
    return tuple(begun)


def _restarted(manager: EmergenceManager, variant_id: str) -> Sequence[Change]:
    return manager.canaries._restart(manager._runtime.variant(variant_id))
