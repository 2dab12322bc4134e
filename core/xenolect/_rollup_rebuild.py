"""Roll-ups from their segments into an index that lost them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenolect._buckets import begin, bucket_of
from xenolect._rollup_objects import COARSER, Segments
from xenolect.errors import CorruptError
from xenolect.facts import Rollup

if TYPE_CHECKING:
    from xenolect.interfaces import Index

__all__ = ["restore"]

log = logging.getLogger("xenolect.performance")


def restore(index: Index, segments: Segments, variant_ids: Iterable[str]) -> int:
    """Store what the segments hold, and what follows from it; how many roll-ups.

    A day that was not over, and its month, are the sum of the hours that were. Hours that were not
    over are lost, and single windows are.
    """
    restored = 0
    for variant_id in variant_ids:
        rows: dict[tuple[str, float], Rollup] = {}
        for segment, found in segments.all(variant_id):
            if isinstance(found, CorruptError):
                log.error("roll-ups are lost: %s", found)
                continue
            # newer revisions, and days that hold their hours, come later and win
            rows.update({(segment.resolution, row.start): row for row in found})
        for fine, coarse in COARSER.items():
            known = set(rows)
            for (resolution, start), row in sorted(rows.items()):
                key = (coarse, begin(coarse, start))
                if resolution == fine and key not in known:
                    there = [rows[key]] if key in rows else []
                    bucket = bucket_of(row, coarse, 0.0, there)
                    bucket.add(row)
                    rows[key] = bucket.rollup()
        cursor = index.unrolled(0)[0]
        index.roll_up(cursor, cursor, list(rows.values()))
        restored += len(rows)
    return restored
