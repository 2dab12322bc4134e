"""The layers of a configuration as plain tables: file, environment, keywords, and how they merge.

A later layer wins setting by setting, with two exceptions. Naming another ``use`` for a part leaves the
options of the former one behind, since they are somebody else's. Naming scoring weights replaces the
whole scoring table, since weights mean something only together.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from xenolect.errors import ConfigError

__all__ = [
    "PREFIX",
    "as_table",
    "from_environment",
    "from_file",
    "from_keywords",
    "merge",
    "part_tables",
]

PREFIX = "XENOLECT__"

# path of a part -> the offer used when its table names none
PARTS = {
    ("chunks",): "fsspec",
    ("index",): "sqlite",
    ("cipher",): "none",
    ("breaker",): "breaker",
    ("canary", "judge"): "evalue",
}


def from_file(file: Path) -> dict[str, Any]:
    """A TOML file, with its relative paths taken from where the file is."""
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the configuration can not be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: this is not TOML: {error}") from error
    return _anchored(table, file.parent)


def _anchored(table: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same table with relative paths made relative to ``base``."""
    for path in (
        ("storage",),
        ("plugins", "dir"),
        ("chunks", "url"),
        ("chunks", "ca"),
        ("index", "path"),
    ):
        inner: Any = table
        for step in path[:-1]:
            inner = inner.get(step) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(path[-1]), str):
            inner[path[-1]] = _anchor(inner[path[-1]], base)
    for part in ("chunks", "cipher"):
        if isinstance(table.get(part), dict):
            _anchor_secrets(table[part], base)
    return table


def _anchor(place: str, base: Path) -> str:
    return place if "://" in place or place == ":memory:" else str(base / place)


def _anchor_secrets(value: Any, base: Path) -> None:
    if isinstance(value, list):
        for each in value:
            _anchor_secrets(each, base)
    elif isinstance(value, dict):
        if isinstance(value.get("file"), str):
            value["file"] = _anchor(value["file"], base)
        for each in value.values():
            _anchor_secrets(each, base)


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """``XENOLECT__CANARY__INITIAL_FRACTION=0.2`` -> ``{"canary": {"initial_fraction": 0.2}}``.

    A value is read as a TOML literal and, where it is none, as text; ``'"1"'`` is the text 1.
    """
    table: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX):
            continue
        steps = tuple(step.lower() for step in name[len(PREFIX) :].split("__"))
        if not all(steps):
            raise ConfigError(
                f"{name}: expected {PREFIX}TABLE__SETTING, as in {PREFIX}CANARY__UNIT"
            )
        inner = table
        for depth, step in enumerate(steps[:-1], 1):
            found = inner.setdefault(step, {})
            if isinstance(found, str) and steps[:depth] in PARTS:
                found = inner[step] = {"use": found}
            if not isinstance(found, dict):
                short = PREFIX + "__".join(steps[:depth]).upper()
                raise ConfigError(
                    f"{name}: {short} is set too, and is not a table; set one of them"
                )
            inner = found
        inner[steps[-1]] = _literal(environ[name])
    return table


def _literal(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def from_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords mirror the tables; a record of the configuration stands for its table."""
    table: dict[str, Any] = as_table(given)
    return table


def as_table(value: Any, weighted: bool = False) -> Any:
    """Records of the configuration as tables, all else as it is."""
    if isinstance(value, Mapping):
        return {
            name: as_table(inner, weighted or name == "scoring") for name, inner in value.items()
        }
    if type(value).__module__ == "xenolect.config" and attrs.has(type(value)):
        table = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        if "options" in table:
            weight = {"weight": table["weight"]} if weighted else {}
            return {**table["options"], **weight, "use": table["use"]}
        return as_table(table)
    return value


def merge(layers: Iterable[Mapping[str, Any]], scoring: Mapping[str, Any]) -> dict[str, Any]:
    """All layers as one table, later ones on top; ``scoring`` is what holds when none names weights."""
    merged: dict[str, Any] = {"scoring": dict(scoring)}
    for layer in layers:
        _merge(merged, layer, ())
    return merged


def _merge(below: dict[str, Any], above: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for name, value in above.items():
        here = (*path, name)
        if here in PARTS and isinstance(value, str):
            value = {"use": value}
        if here in PARTS and isinstance(value, Mapping):
            former = below.get(name)
            if isinstance(former, dict):
                used = former.get("use", PARTS[here])
                if value.get("use", used) != used:
                    below[name] = {}
        if here == ("scoring",) and _names_weights(value):
            below[name] = {}
        if isinstance(value, Mapping):
            inner = below.get(name)
            if not isinstance(inner, dict):
                number = isinstance(inner, (int, float)) and path == ("scoring",)
                inner = {"weight": inner} if number else {}
            below[name] = inner = dict(inner)
            _merge(inner, value, here)
        else:
            below[name] = value


def _names_weights(table: Any) -> bool:
    return (
        not isinstance(table, Mapping)
        or any(not isinstance(entry, Mapping) or "weight" in entry for entry in table.values())
        or not table
    )


def part_tables(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same table with each part as ``use`` and ``options``, the form ``Part`` is filled from."""
    shaped = dict(table)
    for path, use in PARTS.items():
        inner = shaped
        for step in path[:-1]:
            if not isinstance(inner.get(step), Mapping):
                break
            inner[step] = inner = dict(inner[step])
        else:
            if isinstance(inner.get(path[-1]), Mapping):
                inner[path[-1]] = _part(inner[path[-1]], use)
    if isinstance(shaped.get("scoring"), Mapping):
        shaped["scoring"] = {
            name: _part(entry, name, "weight")
            if isinstance(entry, Mapping)
            else {"use": name, "weight": entry}
            for name, entry in shaped["scoring"].items()
        }
    return shaped


def _part(table: Mapping[str, Any], use: str, *also: str) -> dict[str, Any]:
    own = {name: table[name] for name in ("use", *also) if name in table}
    options = {name: value for name, value in table.items() if name not in ("use", *also)}
    return {"use": use, **own, "options": options}
