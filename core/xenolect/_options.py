"""From plain tables to attrs classes: every mistake at once, each with its path, in friendly words.

cattrs does the walking (detailed validation, unknown keys refused). Three things are ours: strict
scalars (``int("5")``, ``bool("false")`` would guess), range checks that are collected like type errors
instead of stopping at the first, and the words. Importing cattrs and building its
hooks takes 20 ms the first time, so both happen only when something is filled.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from xenolect._checks import Check
from xenolect.errors import ConfigError, EmergenceError, PluginError
from xenolect.secret import Secret
from xenolect.units import Bytes, Seconds, bytes_of, seconds_of

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["fill", "structure"]


def structure(table: Any, into: type[Any], where: str = "") -> Any:
    """Fill ``into`` from ``table``; one ConfigError with every mistake, each with its path."""
    converter = _converter()
    try:
        return converter.structure(table, into)
    except NameError as error:
        # An annotation that exists for type checkers only can not be read at run time.
        raise PluginError(
            f"{where or into.__name__}: the options of {into.__module__}.{into.__qualname__} can not be "
            f"read: {error}; import the name outside TYPE_CHECKING"
        ) from error
    except EmergenceError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error
    except Exception as error:
        found = [f"{path}: {text}" if path else text for path, text in _mistakes(error, where)]
        raise ConfigError("; ".join(found)) from None


def fill(make: Callable[..., Any], options: Mapping[str, Any], where: str) -> Any:
    """Call an offer's ``make`` with its options from the configuration.

    An attrs class is filled itself; another callable gets nothing, or its one argument filled.
    """
    if isinstance(make, type) and attrs.has(make):
        return structure(options, make, where)
    wanted = _argument(make, where)
    if wanted is None:
        if options:
            names = ", ".join(f"{where}.{name}" for name in options)
            raise ConfigError(f"{names}: unknown setting, {where} takes no options")
        return make()
    return make(structure(options, wanted, where))


def _argument(make: Callable[..., Any], where: str) -> type[Any] | None:
    """The attrs class that ``make`` wants as its only argument; None when it wants nothing."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (ValueError, TypeError):
        return None  # written in C, and says nothing about its arguments
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p for p in named if p.default is p.empty]
    annotations = {p.name: _annotation(make, p, where) for p in needed or named}
    optional = [p for p in named if _is_options(annotations.get(p.name))]
    if not needed and not optional:
        return None
    wanted = annotations[(needed or optional)[0].name]
    if len(needed) > 1 or not _is_options(wanted):
        raise PluginError(
            f"{where}: {make!r} must take no argument, or one that is annotated with an attrs class"
        )
    return typing.cast("type[Any]", wanted)


def _annotation(make: Callable[..., Any], parameter: inspect.Parameter, where: str) -> Any:
    """What a parameter is annotated with; only this one, since others may be for type checkers only."""
    told = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    home = inspect.unwrap(make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
    try:
        return typing.get_type_hints(told, getattr(home, "__globals__", {}))[parameter.name]
    except NameError as error:
        if parameter.default is not parameter.empty:
            return None
        raise PluginError(
            f"{where}: the options of {make!r} can not be read: {error}; import the name outside "
            "TYPE_CHECKING"
        ) from error


def _is_options(annotation: Any) -> bool:
    return isinstance(annotation, type) and attrs.has(annotation)


# -- words --------------------------------------------------------------------------------------


def _mistakes(error: BaseException, path: str) -> Iterator[tuple[str, str]]:
    from cattrs import AttributeValidationNote, IterableValidationNote
    from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError

    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            step = path
            for note in getattr(inner, "__notes__", ()):
                if isinstance(note, AttributeValidationNote):
                    step = f"{path}.{note.name}" if path else note.name
                    break
                if isinstance(note, IterableValidationNote):
                    step = (
                        f"{path}[{note.index}]"
                        if isinstance(note.index, int)
                        else (f"{path}.{note.index}" if path else str(note.index))
                    )
                    break
            yield from _mistakes(inner, step)
    elif isinstance(error, ForbiddenExtraKeysError):
        assert error.cl is not None
        known = [field.alias for field in attrs.fields(error.cl) if field.init]
        gone: Mapping[str, str] = getattr(error.cl, "REMOVED", {})
        for name in sorted(error.extra_fields):
            if name in gone:
                yield f"{path}.{name}" if path else name, gone[name]
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f", known are {', '.join(known)}"
            yield f"{path}.{name}" if path else name, "unknown setting" + hint
    elif isinstance(error, KeyError):
        yield path, "required, but not set"
    else:
        yield path, str(error) or type(error).__name__


# -- the converter ------------------------------------------------------------------------------


@functools.cache
def _converter() -> Converter:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in _SCALARS:
        converter.register_structure_hook(kind, _scalar)
    converter.register_structure_hook(Enum, _enum)
    converter.register_structure_hook_factory(_is_class, _class_hook)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_is_table, _table_hook)
    converter.register_structure_hook_factory(_is_union, _union_hook)
    converter.register_structure_hook_func(_is_literal, _literal)
    # A live object given by keyword (a key provider, a callable) is taken as it is.
    converter.register_structure_hook_func(_is_interface, lambda value, _: value)
    return converter


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {value!r}")


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number, got {value!r}")


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"expected a number, got {value!r}")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"expected text, got {value!r}")


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, place),) = value.items()
        if name in ("env", "file") and isinstance(place, str) and place:
            return Secret(**{name: place})
    # The value is not repeated: it may be the secret.
    raise ValueError('expected { env = "NAME" } or { file = "path" }, never the secret itself')


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _boolean,
    int: _whole,
    float: _number,
    str: _text,
    Path: _path,
    Secret: _secret,
    Seconds: seconds_of,
    Bytes: bytes_of,
}


def _scalar(value: Any, kind: Any) -> Any:
    # cattrs hands subclasses here too: an enumeration of texts, a NewType of a plugin's own.
    return _SCALARS[kind](value) if kind in _SCALARS else _enum(value, kind)


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind) and kind is not Secret


def _class_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn, override

    if any(isinstance(field.type, str) for field in attrs.fields(kind)):
        attrs.resolve_types(kind)

    def checked(field: attrs.Attribute[Any]) -> Callable[[Any, Any], Any]:
        def read(value: Any, into: Any) -> Any:
            made = value if into is None else converter.structure(value, into)
            if isinstance(field.validator, Check):
                complaint = field.validator.complain(made)
                if complaint:
                    raise ValueError(complaint)
            elif field.validator is not None:
                field.validator(None, field, made)  # one of attrs' own: none looks at the instance
            return made

        return read

    checks: Any = {
        field.name: override(struct_hook=checked(field))
        for field in attrs.fields(kind)
        if field.init and _stands_alone(field.validator)
    }
    read = make_dict_structure_fn(
        kind,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        _cattrs_use_alias=True,
        **checks,
    )

    def hook(value: Any, into: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected {getattr(kind, 'WORDS', 'a table')}, got {value!r}")
        return read(value, into)

    return hook


def _stands_alone(validator: Any) -> bool:
    """Can the validator run before the instance exists? Ours can, and attrs' own ready-made ones."""
    if isinstance(validator, Check):
        return True
    ready = type(validator).__module__ == "attr.validators"
    return ready and not type(validator).__name__.startswith(("_Optional", "_Deep", "_Or", "_Not"))


def _is_list(kind: Any) -> bool:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    mixed = origin is tuple and bool(inner) and inner[-1] is not Ellipsis
    return origin in (tuple, list, set, frozenset, Sequence) and not mixed


def _list_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs import IterableValidationNote
    from cattrs.errors import IterableValidationError

    origin = typing.get_origin(kind) or kind
    item = (typing.get_args(kind) or (Any,))[0]
    make = tuple if origin in (tuple, Sequence) else origin

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise ValueError(f"expected a list, got {value!r}")
        made, errors = [], []
        for place, each in enumerate(value):
            try:
                made.append(converter.structure(each, item))
            except Exception as error:
                error.add_note(IterableValidationNote(f"at {place}", place, item))
                errors.append(error)
        if errors:
            raise IterableValidationError("in a list", errors, kind)
        return make(made)

    return hook


def _is_table(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) in (dict, Mapping)


def _table_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs import IterableValidationNote
    from cattrs.errors import IterableValidationError

    item = (typing.get_args(kind) or (str, Any))[1]

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a table, got {value!r}")
        made, errors = {}, []
        for name, each in value.items():
            try:
                made[name] = converter.structure(each, item)
            except Exception as error:
                error.add_note(IterableValidationNote(f"at {name}", name, item))
                errors.append(error)
        if errors:
            raise IterableValidationError("in a table", errors, kind)
        return made

    return hook


def _is_union(kind: Any) -> bool:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return union and len([arm for arm in typing.get_args(kind) if arm is not type(None)]) > 1


def _union_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    arms = [arm for arm in typing.get_args(kind) if arm is not type(None)]
    nothing = type(None) in typing.get_args(kind)

    def hook(value: Any, _: Any) -> Any:
        if value is None and nothing:
            return None
        complaints: list[str] = []
        for arm in arms:
            try:
                return converter.structure(value, arm)
            except Exception as error:
                complaints.extend(text for _path, text in _mistakes(error, ""))
        raise ValueError(", or ".join(dict.fromkeys(complaints)))

    return hook


def _enum(value: Any, kind: Any) -> Any:
    if not issubclass(kind, Enum):
        return kind(value)
    try:
        return kind(value)
    except ValueError:
        words = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"expected one of {words}, got {value!r}") from None


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is Literal


def _literal(value: Any, kind: Any) -> Any:
    words = typing.get_args(kind)
    if value in words:
        return value
    raise ValueError(f"expected one of {', '.join(map(repr, words))}, got {value!r}")


def _is_interface(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return origin is Callable or bool(getattr(origin, "_is_protocol", False))
