"""The typed language of requirements: what an agent must declare to be served a variant.

========================================  =========================================================
``">=1.5,<3"``, ``"==2"``                 a range of versions; numbers compare as numbers: 10 > 9
``"1.2"``, ``3``                          equal, as versions where both are, else as text
``{"at_least": 2}``, ``{"at_most": 9}``   a number, or a version
``{"at_least": "2025-06-18", "order": "mcp"}``  a place in a named order (``mcp``, ``date``)
``{"any_of": ["zstd", "br"]}``            the value, or one of a list, is among these
``{"all_of": ["zstd", "br"]}``            a list that has all of these
``{"equals": "x"}``                       equal
``true``, ``false``                       declared and not off; not declared or off
========================================  =========================================================

An unknown capability or an unreadable value is a refusal with the reason in words, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from xenolect.errors import InvalidVariantError
from xenolect.model import AgentContext

__all__ = ["ORDERS", "check_predicate", "holds", "lookup", "refuses"]

ORDERS: dict[str, tuple[str, ...]] = {
    "mcp": ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"),
}
"""Values that have an order of their own, oldest first. ``date`` (ISO 8601) is built in."""

_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([^\s,<>=!]+)\s*")
_OFF = frozenset(["", "0", "false", "no", "off", "none", "disabled"])
_EXAMPLES = (
    'write ">=1.5,<3", {"at_least": 2}, {"at_least": "2025-06-18", "order": "mcp"}, '
    '{"any_of": ["zstd"]}, {"equals": "x"} or true'
)
_KEYS = ("at_least", "at_most", "any_of", "all_of", "equals")


class _Unreadable(Exception):
    """The value can not be compared; the message says why."""


def lookup(context: AgentContext, name: str) -> tuple[bool, Any]:
    """(declared, value) of a capability, else of ``version``, ``platform`` or ``custom.KEY``."""
    if name in context.capabilities:
        return True, context.capabilities[name]
    if name in ("version", "platform"):
        value = getattr(context, name)
        return bool(value), value
    if name.startswith("custom."):
        found: Any = context.custom
        for key in name.split(".")[1:]:
            if not isinstance(found, Mapping) or key not in found:
                return False, None
            found = found[key]
        return True, found
    return False, None


def check_predicate(name: str, predicate: Any) -> None:
    """InvalidVariantError, with the path and examples, unless the predicate can be understood."""

    def bad(why: str) -> InvalidVariantError:
        return InvalidVariantError(f"{name}: {why}; {_EXAMPLES}")

    if isinstance(predicate, (bool, int, float)):
        return
    if isinstance(predicate, str):
        if not predicate.strip():
            raise bad("an empty text asks for nothing")
        if predicate.lstrip()[0] in "<>=!":
            for operator, wanted in _clauses(predicate) or [("", "")]:
                if not operator:
                    raise bad(f"{predicate!r} is not a range of versions")
                if _version(wanted) is None:
                    raise bad(f"{wanted!r} is not a version")
        return
    if not isinstance(predicate, Mapping):
        raise bad(f"{predicate!r} is not a predicate")
    keys = set(predicate) - {"order"}
    if len(keys) != 1 or not keys <= set(_KEYS):
        raise bad(f"{dict(predicate)} must have exactly one of {', '.join(_KEYS)}")
    key = keys.pop()
    wanted = predicate[key]
    if key in ("any_of", "all_of") and (not isinstance(wanted, list) or not wanted):
        raise bad(f"{key} needs a list of values")
    order = predicate.get("order")
    if order is not None:
        if order not in (*ORDERS, "date"):
            raise bad(f"no order is called {order!r}; known: {', '.join([*ORDERS, 'date'])}")
        if key not in ("at_least", "at_most"):
            raise bad("order goes with at_least or at_most")
        try:
            _place(wanted, order)
        except _Unreadable as why:
            raise bad(str(why)) from None
    elif key in ("at_least", "at_most") and not _is_number(wanted) and _version(wanted) is None:
        raise bad(f"{wanted!r} is neither a number nor a version; name its order")


def refuses(name: str, predicate: Any, value: Any, present: bool) -> str | None:
    """Why a declared (or missing) value does not satisfy a predicate, in words; None when it does."""
    if predicate is False:
        return (
            f"{name}: must not be on, the agent has {value!r}" if present and _on(value) else None
        )
    if not present:
        return f"{name}: needs {_words(predicate)}, the agent does not declare it"
    try:
        if _satisfies(predicate, value):
            return None
    except _Unreadable as why:
        return f"{name}: {why}, so {_words(predicate)} can not be checked"
    return f"{name}: needs {_words(predicate)}, the agent has {_shown(value)}"


def holds(name: str, predicate: Any, value: Any, present: bool) -> str | None:
    """Why a conflict applies, in words; None when it does not (an undeclared capability never does)."""
    if not present:
        return None
    try:
        applies = not _on(value) if predicate is False else _satisfies(predicate, value)
    except _Unreadable as why:
        return f"{name}: {why}, so the conflict with {_words(predicate)} can not be ruled out"
    return (
        f"{name}: conflicts with {_words(predicate)}, the agent has {_shown(value)}"
        if applies
        else None
    )


def _satisfies(predicate: Any, value: Any) -> bool:
    if predicate is True:
        return _on(value)
    if isinstance(predicate, (int, float)):
        return _equal(predicate, value)
    if isinstance(predicate, str):
        if predicate.lstrip()[0] in "<>=!":
            return all(_compare(op, value, wanted) for op, wanted in _clauses(predicate))
        return _equal(predicate, value)
    key = next(k for k in _KEYS if k in predicate)
    wanted = predicate[key]
    if key == "equals":
        return _equal(wanted, value)
    if key in ("any_of", "all_of"):
        mine = list(value) if isinstance(value, (list, tuple)) else [value]
        found = [any(_equal(w, m) for m in mine) for w in wanted]
        return any(found) if key == "any_of" else all(found)
    order = predicate.get("order")
    if order is not None:
        here, there = _place(value, order), _place(wanted, order)
        return bool(here >= there if key == "at_least" else here <= there)
    return _compare(">=" if key == "at_least" else "<=", value, wanted)


def _clauses(text: str) -> list[tuple[str, str]]:
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            return []
        clauses.append((match[1], match[2]))
    return clauses


def _compare(operator: str, value: Any, wanted: Any) -> bool:
    here, there = _version(value), _version(wanted)
    if here is None:
        raise _Unreadable(f"{_shown(value)} is not a version or number")
    if there is None:
        raise _Unreadable(f"{_shown(wanted)} is not a version or number")
    if operator == ">=":
        return bool(here >= there)
    if operator == "<=":
        return bool(here <= there)
    if operator == ">":
        return bool(here > there)
    if operator == "<":
        return bool(here < there)
    return bool(here == there) if operator == "==" else bool(here != there)


def _version(value: Any) -> Any:
    """A number or text as a PEP 440 version (a leading ``v`` is accepted), or None."""
    from packaging.version import InvalidVersion, Version

    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value or (isinstance(value, str) and value.lower() == str(wanted).lower())
    if wanted == value:
        return True
    here, there = _version(value), _version(wanted)
    return here is not None and bool(here == there)


def _place(value: Any, order: str) -> Any:
    if order == "date":
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            raise _Unreadable(f"{_shown(value)} is not a date as in 2025-06-18") from None
    known = ORDERS[order]
    if value not in known:
        raise _Unreadable(
            f"{_shown(value)} is not known in the order {order!r} ({', '.join(known)})"
        )
    return known.index(value)


def _on(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in _OFF
    if isinstance(value, Mapping):
        return True  # an empty settings object still declares the capability
    return bool(value)


def _words(predicate: Any) -> str:
    if isinstance(predicate, bool):
        return "it" if predicate else "it to be off"
    if not isinstance(predicate, Mapping):
        return str(predicate)
    key = next(k for k in _KEYS if k in predicate)
    wanted = predicate[key]
    if key in ("any_of", "all_of"):
        listed = ", ".join(map(_shown, wanted))
        return f"{'any' if key == 'any_of' else 'all'} of {listed}"
    word = {"at_least": ">=", "at_most": "<=", "equals": ""}[key]
    return f"{word}{wanted}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
