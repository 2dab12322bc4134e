"""Offers the scorers "thompson", "ucb" and "linucb". MABWiser, which takes 2.4 s of CPU to import because
it needs scikit-learn and pandas, is imported when a manager that names one of them is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from xenolect import hookimpl, offer
from xenolect.hookspecs import Offer
from xenolect.interfaces import Scorer
from xenolect_bandit.features import Feature, read_features

__all__ = ["LinUcbOptions", "ThompsonOptions", "UcbOptions", "xenolect_scoring"]

_cap = attrs.validators.and_(attrs.validators.ge(1), attrs.validators.le(100_000))


@attrs.frozen
class ThompsonOptions:
    """seed: other draws from the same evidence. cap: operations a variant is believed for, at most."""

    seed: int = 0
    cap: int = attrs.field(default=1_000, validator=_cap)


@attrs.frozen
class UcbOptions:
    """alpha: how much the width of the confidence bound counts. cap: as in ThompsonOptions."""

    alpha: float = attrs.field(default=0.25, validator=attrs.validators.gt(0))
    cap: int = attrs.field(default=1_000, validator=_cap)


def _readable(_instance: Any, _field: Any, value: Mapping[str, Any]) -> None:
    read_features(value)


@attrs.frozen
class LinUcbOptions:
    """features: path -> ``[lowest, highest]`` or the words known. alpha: as in UcbOptions. ridge: how
    many operations the prior weighs. individual: how far a variant may be from what its features say."""

    features: Mapping[str, Any] = attrs.field(validator=_readable)
    alpha: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    ridge: float = attrs.field(default=1.0, validator=attrs.validators.ge(0.1))
    individual: float = attrs.field(default=0.05, validator=attrs.validators.ge(0))

    @property
    def read(self) -> tuple[Feature, ...]:
        """The features, checked."""
        return read_features(self.features)


def _thompson(options: ThompsonOptions) -> Scorer:
    from xenolect_bandit.policies import Thompson

    return Thompson(options.seed, options.cap)


def _ucb(options: UcbOptions) -> Scorer:
    from xenolect_bandit.policies import Ucb

    return Ucb(options.alpha, options.cap)


def _linucb(options: LinUcbOptions) -> Scorer:
    from xenolect_bandit.linear import LinUcb

    return LinUcb(options.read, options.alpha, options.ridge, options.individual)


@hookimpl
def xenolect_scoring() -> Iterable[Offer[Scorer]]:
    """Offer the three."""
    yield offer("thompson", _thompson)
    yield offer("ucb", _ucb)
    yield offer("linucb", _linucb)
