"""Choosing: no I/O, no lock, so all of it is CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

from xenolect._bench.fleet import fleet
from xenolect._bench.rows import Plan, Progress, Row, cpu

__all__ = ["rows"]


def rows(plan: Plan, progress: Progress) -> Iterator[Row]:
    """The group's rows."""
    for count in (10, 100):
        progress(f"select among {count} variants")
        with fleet(count) as manager:
            scores = [i / count for i in range(count)]

            def best(scores: list[float] = scores) -> int:
                winner, top = -1, -1.0
                for i, score in enumerate(scores):
                    if score > top:
                        winner, top = i, score
                return winner

            yield Row(
                f"select, {count} variants",
                cpu(lambda: manager.select("agent-0"), 2_000),
                cpu(best, 2_000),
                "largest of a list",
            )
            if count == 100:
                table = {v.id: v for v in manager.variants.list()}
                yield Row(
                    "variant lookup",
                    cpu(lambda: manager.variants.get("v7"), 20_000),
                    cpu(partial(table.get, "v7"), 20_000),
                    "a dict",
                )
    yield Row(
        "canary bucket of a new unit",
        cpu(_bucket(), 5_000),
        cpu(lambda: hashlib.blake2b(b"agent-7", digest_size=8).digest(), 5_000),
        "blake2b alone",
    )


def _bucket() -> Callable[[], object]:
    from xenolect._routing import routed, unit_hash

    def bucket() -> bool:
        unit_hash.cache_clear()
        return routed("agent-7", 2**100 + 7, 100_000)

    return bucket
