"""What LinUCB reads of a variant: numbers within declared bounds, and words of a declared list.

A fixed scale, never the candidates' own extremes: else one more variant would move all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from xenolect import ProtocolVariant

__all__ = ["Feature", "read_features"]

_ROOTS = ("changes", "metadata")
_WORDS = (
    "expected [lowest, highest], two numbers, or a list of two or more different texts or booleans"
)


@attrs.frozen
class Feature:
    """One feature. ``path``: where it stands, from ``changes`` or ``metadata`` down.

    bounds: (lowest, highest) of a number, or None; words: what else it may be.
    """

    path: tuple[str, ...]
    bounds: tuple[float, float] | None
    words: tuple[str | bool, ...] = ()

    def of(self, variant: ProtocolVariant) -> list[float]:
        """Its place among the bounds as (1 - x, x), or one 1 among zeros; zeros where it is not known.

        The pair keeps "not there" apart from "lowest". A number beyond the bounds counts as the bound.
        """
        value: Any = variant
        for step, name in enumerate(self.path):
            if step and not isinstance(value, Mapping):
                return [0.0] * self.width
            value = value.get(name) if step else getattr(value, name)
        if self.bounds is None:
            return [float(type(value) is type(word) and value == word) for word in self.words]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return [0.0, 0.0]
        low, high = self.bounds
        place = (min(max(float(value), low), high) - low) / (high - low)
        return [1.0 - place, place]

    @property
    def width(self) -> int:
        """How many numbers ``of`` answers."""
        return 2 if self.bounds is not None else len(self.words)


def read_features(table: Mapping[str, Any]) -> tuple[Feature, ...]:
    """The features of a configuration, sorted by path; ValueError says which one is wrong and how."""
    if not table:
        raise ValueError(
            'name at least one feature, such as { "changes.batch" = [1, 256] }; '
            "without any, use ucb or thompson"
        )
    return tuple(_feature(name, table[name]) for name in sorted(table))


def _feature(name: str, scale: Any) -> Feature:
    path = tuple(name.split("."))
    if len(path) < 2 or path[0] not in _ROOTS or not all(path):
        raise ValueError(
            f"{name!r} is no path into a variant; write changes.NAME or metadata.NAME, in quotes"
        )
    values = tuple(scale) if isinstance(scale, (list, tuple)) else ()
    if len(values) == 2 and all(_number(value) for value in values):
        if not values[0] < values[1]:
            raise ValueError(f"{name}: the lowest must be below the highest, got {list(values)}")
        return Feature(path, (float(values[0]), float(values[1])))
    known = all(isinstance(value, (str, bool)) for value in values)
    if len(values) < 2 or not known or len(set(values)) < len(values):
        raise ValueError(f"{name}: {_WORDS}, got {scale!r}")
    return Feature(path, None, values)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
