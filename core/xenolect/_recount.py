"""Counting the units of a rollout's arms again, from its documents and its observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xenolect._evidence import ENDED
from xenolect._sample_ratio import Ratio, SampleRatio, Share
from xenolect.facts import Observation

__all__ = ["recounted"]

Step = tuple[int, float, str, Mapping[str, Any]]


def recounted(
    steps: Sequence[Step], stored: Sequence[Observation]
) -> Iterator[tuple[str, int, str]]:
    """What does not come out the same: of which kind, the revision that says so, in words.

    A step's ratio is of the share before it, and of the observations up to its sequence.
    """
    counting = _Counting(stored)
    first = steps[0][3]
    wanted = Share(first["state"]["ppm"], first["started_at"])
    if Share.of(first) != wanted:
        text = f"the share {first['share']!r} is not the one it began with"
        yield "transition", steps[0][0], text
    last = stored[-1].sequence if stored else 0
    before = first
    for revision, _, _, document in steps[1:]:
        if document.get("step") == before.get("step"):  # it only says what came later
            before = document
            continue
        share = Share.of(before)
        ratio, sequence = document.get("ratio"), document["sequence"]
        if ratio is not None:
            found = counting.upto(sequence, share).to_json()
            if ratio != found:
                yield "verdict", revision, f"the units {ratio!r} come out as {found!r}"
        after = Share.of(document)
        wanted = _share(before, document, share, after)
        if after != wanted or after.after > last:
            text = f"the share {document['share']!r} does not follow from the step before"
            yield "transition", revision, text
        before = document


def _share(
    before: Mapping[str, Any], document: Mapping[str, Any], share: Share, after: Share
) -> Share:
    """The share that a step leads to; which record was the last one stored then it says itself."""
    ppm, made = document["state"]["ppm"], document["step"]
    if document["state"]["state"] in ENDED:
        return share
    if ppm == before["state"]["ppm"] and made["event"] != "Resume":
        return share
    return share.next(ppm, made["at"], after.after)


class _Counting:
    """A count that goes on where it can, and begins again where a step looked further back."""

    def __init__(self, stored: Sequence[Observation]) -> None:
        self._stored = stored
        self._place = 0  # how many of them are counted
        self._counted = SampleRatio()

    def upto(self, sequence: int, share: Share) -> Ratio:
        """What a process had counted at ``sequence``."""
        self._counted.begin(share)
        if self._counted.stale or self._counted.cursor > sequence:
            self._counted, self._place = SampleRatio(), 0
            self._counted.begin(share)
        place = self._place
        while place < len(self._stored) and self._stored[place].sequence <= sequence:
            place += 1
        self._counted.take(self._stored[self._place : place], sequence)
        self._place = place
        return self._counted.now
