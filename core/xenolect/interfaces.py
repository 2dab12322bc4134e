"""What a plugin implements. Structural: no base class to inherit, only methods to have.

All are synchronous, with few verbs and nothing optional. *Deciders* (Scorer, Rule, Safeguard, Judge,
Proposer) are pure: no I/O, no clock, no randomness of their own, no threads. *Stores* (ChunkStore,
Index, KeyProvider) do the I/O and decide nothing; they wrap every foreign exception in
``xenolect.errors`` and keep no buffer after they return.

An interface is stable once two independent implementations pass its kit: within a major version it then gets
nothing that an implementation must have. Those in ``PROVISIONAL`` may still change with a minor version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from xenolect.facts import Batch, Change, Contents, Entry, Lease, Observation, Rollup, Window
from xenolect.judges import Baseline, Evidence, JudgeConfig
from xenolect.model import Agent, AgentContext, Candidate, ProtocolVariant, Verdict
from xenolect.safeguards import Action, Event, Reply
from xenolect.tallies import Binding, Custom

__all__ = [
    "PROVISIONAL",
    "Buffer",
    "BufferChunkStore",
    "BufferCipher",
    "CheckedIndex",
    "ChunkStore",
    "Cipher",
    "EnvelopeCipher",
    "Index",
    "Judge",
    "KeyProvider",
    "LiveScorer",
    "Proposer",
    "Rule",
    "Safeguard",
    "Scorer",
    "Wrapper",
]

Buffer = bytes | bytearray | memoryview
S = TypeVar("S")

PROVISIONAL = frozenset(
    (
        "BufferChunkStore",
        "BufferCipher",
        "CheckedIndex",
        "Cipher",
        "EnvelopeCipher",
        "LiveScorer",
        "Proposer",
        "Rule",
        "Wrapper",
    )
)
"""Interfaces without two independent implementations that pass a kit of their own."""


class ChunkStore(Protocol):
    """Immutable objects under keys. Keys are relative, lower-case ASCII, ``/``-separated, no ``..``."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = True) -> None:
        """Write all of ``data`` under ``key``, durable before returning; readers see all or nothing.

        With ``if_absent`` (create-if-absent, the only primitive commits need) an existing key raises
        DuplicateError. Without it the object is replaced whole. StorageFullError, StorageError.
        """
        ...

    def get(self, key: str) -> bytes:
        """The whole object; NotFoundError names the key."""
        ...

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``; shorter only at the end of the object."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object, for good when this returns; fine if it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Every key that starts with ``prefix``, in ascending order."""
        ...

    def close(self) -> None:
        """Let go of connections; closing twice is fine."""
        ...


class BufferChunkStore(ChunkStore, Protocol):
    """A chunk store that also reads into its caller's memory: allocating 1 MiB costs more than reading
    it from the page cache."""

    def get_into(self, key: str, start: int, target: memoryview) -> int:
        """Fill ``target`` from byte ``start`` of the object on; how many bytes there were, fewer than
        asked for only at the end of the object. NotFoundError names the key."""
        ...


class Index(Protocol):
    """The one truth. One write door; order is assigned under its write lock."""

    def commit(
        self,
        changes: Sequence[Change],
        *,
        actor: str,
        at: float,
        observations: Sequence[Observation] = (),
        after: int | None = None,
        once: Batch | None = None,
    ) -> int:
        """Apply all changes and append one journal entry, or change nothing; return the revision.

        A stale expected version raises ConflictError with ``expected`` and ``found`` (DuplicateError
        where none was expected but the key exists or left a tombstone). ``observations`` are appended
        in the same transaction; with ``once`` unless that batch is stored (``append_windows``). ``after`` makes the commit conditional on the whole index: when given
        and the current revision is another, ConflictError. Durable before returning.
        """
        ...

    def load(self) -> Contents:
        """Every fact as of one revision. A row that does not match its digest: CorruptError."""
        ...

    def get(self, kind: str, key: str) -> Any | None:
        """The value of one fact as of now, or None."""
        ...

    def changes(self, after: int) -> Sequence[Entry]:
        """The journal after a revision, without gaps, oldest first; cheap when there is nothing new."""
        ...

    def restore(self, contents: Contents, entries: Sequence[Entry]) -> None:
        """Fill an index that holds no entry: the facts, and the entries that lead to their revision.

        All or nothing, durable. ``entries`` may begin late, where the older ones are lost: then
        ``changes`` goes on from there, and CorruptError answers who asks for older ones. ConflictError
        when there is an entry already; InvalidError when the entries do not lead to ``contents``.
        """
        ...

    def append_windows(
        self,
        batch: Sequence[Window | Observation],
        *,
        durable: bool = False,
        once: Batch | None = None,
    ) -> int:
        """Append measurements in one transaction; return the last observation's sequence so far.

        With ``once`` nothing is appended where this batch of its writer, or one of a higher number, is
        stored already; that is remembered for 30 days of the measurements' own time at least. ``durable``: this batch, and all appended before it, survive a power failure when this returns;
        else a crash of the process, but a power failure may take the last of them, whole.
        """
        ...

    def appended(
        self, after: int | None, limit: int, writer: str = ""
    ) -> tuple[int, Sequence[Window]]:
        """At most ``limit`` windows appended after a cursor, in that order, and the cursor behind them.

        With a ``writer`` its own windows are left out. ``after`` None: the newest cursor, and nothing.
        """
        ...

    def windows(self, variant_id: str, since: float, until: float) -> Iterator[Window]:
        """Windows of a variant whose start is in ``[since, until)``, oldest first."""
        ...

    def unrolled(self, limit: int) -> tuple[int, int, Sequence[Window]]:
        """The next windows, in the order they were appended, that no ``roll_up`` has taken in.

        Returns the cursor before them, the cursor after them, and at most ``limit`` of them.
        """
        ...

    def roll_up(self, since: int, until: int, rollups: Sequence[Rollup]) -> None:
        """Store roll-ups and move the cursor from ``since`` to ``until``, all or nothing.

        Each replaces the one of its variant, resolution and start. ConflictError when the cursor is
        not at ``since``: somebody else took these windows in. ``until`` may be ``since``.
        """
        ...

    def rollups(
        self, variant_id: str, resolution: str, since: float, until: float
    ) -> Iterator[Rollup]:
        """Roll-ups of a variant whose start is in ``[since, until)``, oldest first."""
        ...

    def forget(self, resolution: str, before: float, limit: int) -> int:
        """Delete at most ``limit`` roll-ups of a resolution that start before a time; how many went.

        ``resolution`` "" means windows: of them only those that a ``roll_up`` has taken in.
        """
        ...

    def observations(self, rollout: str, after: int) -> Sequence[Observation]:
        """Evidence of a rollout with a sequence greater than ``after``, in sequence order."""
        ...

    def lease(self, name: str, holder: str, now: float, ttl: float) -> Lease:
        """Take, renew (ttl > 0) or give back (ttl <= 0) a lease; return who holds it now.

        A lease whose ``until`` has passed is free. Not journaled.
        """
        ...

    def leases(self, prefix: str, now: float) -> Sequence[Lease]:
        """The live leases whose names start with ``prefix``."""
        ...

    def close(self) -> None:
        """Let go of files and connections; closing twice is fine."""
        ...


@runtime_checkable
class CheckedIndex(Protocol):
    """An index that keeps a digest beside measurements and leases, too; ``verify`` asks it."""

    def damage(self) -> Iterator[str]:
        """The keys (``table/row``) of those that are not what was written."""
        ...


class Cipher(Protocol):
    """Seals objects. ``bound`` says what the object is and where it belongs: authenticated, not secret.

    What xenolect binds ends with the object's id and a SHA-256, 32 bytes each: a chunk's id and the
    SHA-256 of its content, or twice the SHA-256 of the key that the object is found by.
    """

    @property
    def id(self) -> str:
        """What is written into every object it seals."""
        ...

    def seal(self, plain: Buffer, bound: bytes) -> bytes:
        """Encrypt and authenticate."""
        ...

    def open(self, sealed: Buffer, bound: bytes) -> bytes:
        """Check and decrypt; CorruptError when either does not match."""
        ...


class BufferCipher(Cipher, Protocol):
    """A cipher that also works in its caller's memory: at 1 MiB, allocating costs more than AES."""

    @property
    def overhead(self) -> int:
        """How many bytes longer than its content a sealed object is."""
        ...

    def seal_into(self, plain: Buffer, bound: bytes, target: memoryview) -> None:
        """``seal`` into ``target``, which is ``overhead`` bytes longer than ``plain``."""
        ...

    def open_into(self, sealed: Buffer, bound: bytes, target: memoryview) -> None:
        """``open`` into ``target``, which is ``overhead`` bytes shorter than ``sealed``; zeros in it
        where that raises CorruptError."""
        ...


class EnvelopeCipher(Protocol):
    """A cipher with a data key for each variant. Core keeps the keys, wrapped by a KeyProvider's, under
    ``keys/``; the cipher decides what a key is and what is done with it."""

    @property
    def id(self) -> str:
        """What is written into every object that its keys seal."""
        ...

    @property
    def keys(self) -> KeyProvider:
        """Who wraps the keys."""
        ...

    def new_key(self, draw: Callable[[int], bytes]) -> bytes:
        """A new key; ``draw(n)`` gives n random bytes."""
        ...

    def object_id(self, id_key: bytes, digest: bytes) -> bytes:
        """The id, 32 bytes, of what has this SHA-256: without the store's ``id_key`` it tells nothing."""
        ...

    def cipher(
        self,
        key_id: bytes,
        key: bytes,
        find: Callable[[bytes], bytes],
        draw: Callable[[int], bytes],
    ) -> Cipher:
        """What seals with ``key``, whose id is 16 bytes, and opens with any key that ``find`` knows by
        its id; ``find`` raises CorruptError for an id of no key. What it seals begins with the id."""
        ...


class Wrapper(Protocol):
    """A key that wraps other keys."""

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Encrypt a key; ``bound`` says which key of which store: authenticated, not secret."""
        ...

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """The key; CorruptError where this was not wrapped so by this key."""
        ...


class KeyProvider(Protocol):
    """Gives the keys that wrap data keys. UnavailableError where it can not be asked now."""

    def current(self) -> tuple[str, Wrapper]:
        """The key id to wrap with now, and the wrapper."""
        ...

    def get(self, key_id: str) -> Wrapper:
        """The wrapper of a key id, the current one's or an older one's; NotFoundError."""
        ...


class Scorer(Protocol):
    """Scores a whole batch. Pure; called when inputs changed, not on every selection."""

    def score(self, candidates: Sequence[Candidate], agent: Agent) -> Sequence[float]:
        """One number in [0, 1] per candidate, higher is better."""
        ...


@runtime_checkable
class LiveScorer(Protocol):
    """A faster way to score: one that rates one variant alone is always fresh. Optional, and pure."""

    def bind(self, agent: Agent, custom: Custom) -> Binding:
        """Ready for agents like this one; ``custom``: declared metrics with the values worth 0 and 1.

        The binding rates one variant from its sums: a number in [0, 1].
        """
        ...


class Rule(Protocol):
    """Decides whether an agent can speak a variant. Pure; cached per (variant, context)."""

    def refuses(self, variant: ProtocolVariant, context: AgentContext) -> str | None:
        """Why not, in words; None when it agrees."""
        ...


class Safeguard(Protocol[S]):
    """A pure state machine (a breaker or a ramp); ``S`` is a frozen attrs class.

    A breaker's state has the attributes ``state`` (BreakerState), ``generation``, ``attempts`` and
    ``until`` (its clock's time, or None). A ramp's has ``state`` (CanaryState), ``level``, ``ppm``
    (the share to route now), ``attempts`` and ``reason``.
    """

    def start(self) -> S:
        """The state before anything happened."""
        ...

    def step(
        self, state: S, event: Event, now: float, draw: float
    ) -> tuple[S, Reply, Sequence[Action]]:
        """The state after the event, the answer to the caller, what the manager shall do.

        ``now`` in seconds of a clock that never goes back; ``draw`` uniform in [0, 1).
        """
        ...

    def dump(self, state: S) -> Any:
        """The state as JSON."""
        ...

    def load(self, data: Any) -> S:
        """Read what ``dump`` wrote; CorruptError when it can not be."""
        ...


class Judge(Protocol[S]):
    """Weighs the evidence of one rollout. ``S`` is owned by one writer and may be mutable.

    A judge that weighs the same records otherwise than an earlier release of it has an attribute
    ``version`` (int, 1 without one) that is raised then: replay compares like with like.

    One may have a method ``proves(state, records) -> bool`` besides: it folds as ``update`` does and says
    whether the verdict is a rollback. It is asked within each ``record``, where the rest of the evidence
    would be computed for nothing.
    """

    def start(self, baseline: Baseline, config: JudgeConfig) -> S:
        """The state before the first observation."""
        ...

    def update(self, state: S, records: Sequence[Observation]) -> tuple[Verdict, Evidence]:
        """Fold observations in order; the verdict after the last, or at the first that proves harm.

        No observations: the verdict as it stands. The same records in the same order give the same
        bits, on every machine and Python version.
        """
        ...

    def dump(self, state: S) -> bytes:
        """The state, exactly."""
        ...

    def load(self, data: bytes) -> S:
        """Read what ``dump`` wrote."""
        ...


class Proposer(Protocol):
    """Proposes new changes within a declared space."""

    def ask(self) -> Any:
        """The next ``changes`` to try."""
        ...

    def tell(self, changes: Any, outcome: float) -> None:
        """How it went; higher is better."""
        ...
