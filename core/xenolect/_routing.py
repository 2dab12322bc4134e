"""Who is routed to a canary: a pure function of the unit and the rollout's salt, in integers.

The unit (an agent id or a session id) is hashed once with BLAKE2b; each rollout mixes its own 128 bit
salt in with two rounds of the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014, figure 17). So
every process, platform and Python version gives the same answer, two rollouts choose independent
agents, and raising or lowering a share only adds or only removes units.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

__all__ = ["MILLION", "place", "routed", "salt_from_seed", "unit_hash"]

MILLION = 1_000_000
_MASK = 2**64 - 1


@lru_cache(maxsize=65_536)
def unit_hash(unit: str) -> int:
    """64 bits of a unit's name in Unicode normal form C."""
    name = unit if unit.isascii() else unicodedata.normalize("NFC", unit)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def salt_from_seed(seed: object) -> str:
    """The salt (32 hex digits) that a given seed stands for."""
    return hashlib.blake2b(f"xenolect rollout {seed}".encode(), digest_size=16).hexdigest()


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=65_536)
def place(unit: str, salt: int) -> int:
    """Where a unit stands in [0, 10^6) under a salt of 128 bits; 1 us, 0.1 when it was asked before."""
    mixed = _mix(_mix(unit_hash(unit) ^ (salt & _MASK)) ^ (salt >> 64))
    return mixed * MILLION >> 64


def routed(unit: str, salt: int, ppm: int) -> bool:
    """Is the unit inside the share of ``ppm`` parts per million, under a salt of 128 bits?"""
    return place(unit, salt) < ppm
