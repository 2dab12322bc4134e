"""What processes share of a breaker, and what survives a restart.

A *record* is a machine's state with the clocks it was written by. The newest one of each breaker is
kept in leases of the index (not journaled: a breaker may open often): the holder's text is the record,
the serial number decides which slot it takes, so writing one is a compare-and-swap and a crash leaves
the older or the newer. A second lease, ``probe/...``, is the right to run a round of probes: of all
processes only its holder is half-open, so the fleet never admits more than one round's permits.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from xenolect.breaker import steady
from xenolect.errors import CorruptError
from xenolect.facts import canonical
from xenolect.interfaces import Index, Safeguard
from xenolect.model import BreakerState

__all__ = ["Ledger", "Record", "Times", "read_record", "revive"]

DAY = 86400.0
KEPT = 30 * DAY  # an open breaker that nobody touched for so long is forgotten
ROUND = 15.0  # seconds a round's right lasts without renewal: one probe's lease and a half


@attrs.frozen
class Times:
    """The clocks of this process: one that never jumps, what names its origin, and the wall's."""

    clock: Callable[[], float]
    wall: Callable[[], float]
    boot: str
    token: Callable[[int], str] = secrets.token_hex

    @classmethod
    def here(cls, given: Callable[[], float] | None) -> Times:
        """This machine's; or a given clock, which is then taken to be the same everywhere."""
        if given is not None:
            return cls(given, given, "given")
        return cls(steady, time.time, _boot_id())


def _boot_id() -> str:
    """What tells this start of the machine from the last; unique where the system has no name for it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return secrets.token_hex(16)


@attrs.frozen
class Record:
    """A state as JSON, with the clocks at writing. ``id`` names this writing, ``serial`` orders them."""

    id: str
    serial: int
    state: Any
    boot: str
    clock: float
    wall: float

    @classmethod
    def of(cls, machine: Safeguard[Any], state: Any, times: Times, serial: int) -> Record:
        """Write a state down."""
        return cls(
            times.token(8),
            serial,
            machine.dump(state),
            times.boot,
            times.clock(),
            times.wall(),
        )


def read_record(data: Any) -> Record:
    """A record from its JSON; CorruptError."""
    try:
        return Record(
            str(data["id"]),
            int(data["serial"]),
            data["state"],
            str(data["boot"]),
            float(data["clock"]),
            float(data["wall"]),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise CorruptError(f"the record of a breaker can not be read: {cause!r}") from cause


def revive(machine: Safeguard[Any], record: Record, times: Times) -> Any:
    """The recorded state on this process's clock; CorruptError.

    On the same boot the steady clocks agree. Otherwise the wall says how long ago it was, which can
    be wrong by any jump: then a wait ends early, with probes, or lasts at most once more; never longer.
    """
    state = machine.load(record.state)
    shift = getattr(machine, "shift", None)
    if shift is None:
        return state
    now = times.clock()
    if record.boot == times.boot:
        passed = now - record.clock
    else:
        passed = times.wall() - record.wall
    state = shift(state, now - max(0.0, passed) - record.clock)
    longest = DAY
    if state.state == BreakerState.OPEN:
        longest = getattr(machine, "max_wait", DAY) * (1.0 + getattr(machine, "jitter", 0.0))
    if state.until is not None and state.until > now + longest:
        state = attrs.evolve(state, until=now + longest)
    return state


class Ledger:
    """The newest record of every breaker, and the rounds of probes, in one index."""

    def __init__(
        self,
        index: Callable[[], Index],
        holder: Callable[[], str],
        alive: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._holder = holder
        self._alive = alive

    def read(self, prefix: str = "") -> dict[str, Record | None]:
        """The newest record by breaker; None where it can not be read."""
        found: dict[str, Record | None] = {}
        for lease in self._index().leases(f"breaker/{prefix}", self._alive()):
            name = lease.name.removeprefix("breaker/").rsplit("/", 1)[0]
            try:
                record = read_record(json.loads(lease.holder))
            except (CorruptError, ValueError):
                found.setdefault(name, None)
                continue
            known = found.get(name)
            if known is None or known.serial < record.serial:
                found[name] = record
        return found

    def one(self, name: str) -> Record | None:
        """The newest record of one breaker."""
        return self.read(f"{name}/").get(name)

    def write(self, name: str, record: Record, ttl: float = KEPT) -> bool:
        """Add a record after the one before it; False when somebody else was first."""
        index, now = self._index(), self._alive()
        text = canonical(attrs.asdict(record))
        slot = f"breaker/{name}/{record.serial % 2}"
        found = index.lease(slot, text, now, ttl)
        if found.holder != text and _serial(found.holder) < record.serial - 1:
            index.lease(slot, found.holder, now, 0.0)  # left by a crash, or unreadable
            found = index.lease(slot, text, now, ttl)
        if found.holder != text:
            return False
        newest = self.one(name)
        if newest is None or newest.id != record.id:
            index.lease(slot, text, now, 0.0)  # written on what is old by now
            return False
        self._free(f"breaker/{name}/{(record.serial + 1) % 2}", now)
        return True

    def drop(self, name: str) -> None:
        """Forget a breaker."""
        for slot in (0, 1):
            self._free(f"breaker/{name}/{slot}", self._alive())

    def _free(self, slot: str, now: float) -> None:
        for lease in self._index().leases(slot, now):
            if lease.name == slot:
                self._index().lease(slot, lease.holder, now, 0.0)

    def take_round(self, name: str) -> bool:
        """Take or renew the right to probe."""
        holder = self._holder()
        return self._index().lease(f"probe/{name}", holder, self._alive(), ROUND).holder == holder

    def end_round(self, name: str) -> None:
        """Give the right to probe back."""
        self._index().lease(f"probe/{name}", self._holder(), self._alive(), 0.0)

    def alone(self) -> bool:
        """Is this the only process that serves from the store?"""
        return len(self._index().leases("process/", self._alive())) <= 1


def _serial(text: str) -> int:
    try:
        return read_record(json.loads(text)).serial
    except (CorruptError, ValueError):
        return -1
