"""Measurements that carry a key count once: (agent, boot of the agent, sequence).

For each agent and boot the highest sequence is kept with a bit for each of the 1,024 before it; older
ones count as seen. What was seen is stored in the transaction of the measurements themselves, so a
retry after a crash, or at another process once it heard of the first, is noticed too.
"""

from __future__ import annotations

from xenolect.facts import Window

__all__ = ["Once", "is_once"]

WIDTH = 1_024  # sequences remembered below the highest
_MOST = 100_000  # agents remembered; the one that came first goes
_WORD = 32  # bits in one number of the stored form, so that any JSON reader keeps them


def is_once(window: Window) -> bool:
    """Whether a window holds keys."""
    return window.variant_id == Once.NAME


class Once:
    """Which keys were seen; the caller holds the lock of the measurements."""

    NAME = "#once"  # no variant's id holds a "#"

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}  # "agent boot" -> highest, bits below it
        self._new: dict[str, tuple[int, int]] = {}
        self.duplicates = 0

    def first(self, agent: str, boot: str, sequence: int) -> bool:
        """Is this the first time? Remembered as seen from now on."""
        key = f"{boot} {agent}"
        high, bits = self._seen.get(key, (-1, 0))
        if sequence > high:
            shift = sequence - high
            bits = (
                ((bits << shift) | (1 << (shift - 1)) if high >= 0 else 0) if shift <= WIDTH else 0
            )
            found = (sequence, bits & ((1 << WIDTH) - 1))
        else:
            back = high - sequence
            bit = 1 << (back - 1) if back else 0
            if not back or back > WIDTH or bits & bit:
                self.duplicates += 1
                return False
            found = (high, bits | bit)
        if len(self._seen) >= _MOST and key not in self._seen:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = self._new[key] = found
        return True

    def take(self) -> dict[str, tuple[int, int]]:
        """What is new since the last call."""
        new, self._new = self._new, {}
        return new

    @classmethod
    def window(cls, seen: dict[str, tuple[int, int]], now: float, writer: str) -> Window:
        """Keys as a window, to be stored beside the measurements."""
        sums = {}
        for key, (high, bits) in seen.items():
            words = [float(high)]
            while bits:
                words.append(float(bits & ((1 << _WORD) - 1)))
                bits >>= _WORD
            sums[key] = words
        return Window(cls.NAME, now, 0.0, 0, 0, (), sums, writer)

    def whole(self, now: float) -> Window:
        """Everything known, as a window."""
        return self.window(self._seen, now, "")

    def learn(self, window: Window) -> None:
        """Take in what was stored."""
        for key, (high, *words) in window.sums.items():
            bits = sum(int(word) << (_WORD * place) for place, word in enumerate(words))
            theirs = (int(high), bits)
            mine = self._seen.get(key)
            if mine is not None:
                low, top = sorted((mine, theirs))
                shift = top[0] - low[0]
                moved = (low[1] << shift) | (1 << (shift - 1)) if 0 < shift <= WIDTH else 0
                moved = low[1] if not shift else moved
                theirs = (top[0], (top[1] | moved) & ((1 << WIDTH) - 1))
            self._seen[key] = theirs
