"""What a setting must be, as attrs validators that can also say it in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from xenolect.errors import ConfigError

__all__ = ["Check", "at_least", "did_you_mean", "fraction", "one_of", "positive", "show"]


@attrs.frozen
class Check:
    """An attrs validator that can also say what it expects; ``complain`` gives the words or None."""

    complain: Callable[[Any], str | None]

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        complaint = self.complain(value)
        if complaint:
            raise ConfigError(f"{attribute.name}: {complaint}")


def _check(phrase: str, holds: Callable[[Any], bool]) -> Any:
    return Check(
        lambda value: (
            None if value is None or holds(value) else f"expected {phrase}, got {show(value)}"
        )
    )


def show(value: Any) -> str:
    """A value as it was written: a number without ``.0``, text in quotes."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


def at_least(least: int) -> Any:
    """A whole number that is not too small."""
    return _check(f"at least {least}", lambda value: value >= least)


def one_of(*words: str) -> Any:
    """One of a few words."""
    return _check("one of " + ", ".join(map(repr, words)), lambda value: value in words)


fraction: Any = _check("a fraction in [0, 1]", lambda value: 0 <= value <= 1)
positive: Any = _check("more than 0", lambda value: value > 0)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """``"; did you mean 'redis'?"``, or nothing when no name is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
