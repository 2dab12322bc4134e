"""JSON Schemas that a variant declares in its metadata: ``changes_schema`` and ``state_schema``.

The library ``jsonschema`` checks (every draft it knows, 2020-12 where none is named). It is imported
when the first schema is met: that takes 0.3 s. A schema stands for itself: what refers to another document
is refused, because checking must not fetch anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xenolect.errors import InvalidError, InvalidVariantError

__all__ = ["CHANGES", "STATE", "broken_rule", "check_content"]

CHANGES, STATE = "changes_schema", "state_schema"
WORDS = 200  # characters of a message: it may quote the whole value


def check_content(changes: Any, metadata: Mapping[str, Any]) -> None:
    """InvalidVariantError when a declared schema is none, or ``changes`` break theirs."""
    for name in (CHANGES, STATE):
        if name in metadata:
            _check_schema(f"metadata.{name}", metadata[name])
    if CHANGES in metadata:
        words = broken_rule(metadata[CHANGES], changes, InvalidVariantError)
        if words:
            raise InvalidVariantError(f"changes break the variant's changes_schema: {words}")


def broken_rule(schema: Any, value: Any, error: type[InvalidError] = InvalidError) -> str:
    """What a value breaks of a schema, with its path; "" when it breaks nothing.

    ``error`` is raised for a schema that can not be applied at all: that is no fault of the value.
    """
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    checker = _kind(schema)(schema, registry=Registry())  # one that knows nothing fetches nothing
    try:
        found = best_match(checker.iter_errors(value))
    except Unresolvable as cause:
        raise error(f"a schema refers to {cause.ref!r}, which is not in it") from cause
    except RecursionError as cause:
        raise error("a schema refers to itself without end") from cause
    if found is None:
        return ""
    words = " ".join(str(found.message).split())
    return f"{found.json_path}: {words if len(words) <= WORDS else words[:WORDS] + '...'}"


def _kind(schema: Any) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    return validator_for(schema, default=Draft202012Validator)


def _check_schema(name: str, schema: Any) -> None:
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, (Mapping, bool)):
        raise InvalidVariantError(
            f"{name} must be a JSON Schema, an object or a boolean, got {type(schema).__name__}"
        )
    try:
        _kind(schema).check_schema(schema)
    except SchemaError as error:
        words = " ".join(str(error.message).split())[:WORDS]
        raise InvalidVariantError(
            f"{name} is no JSON Schema: {error.json_path}: {words}"
        ) from error
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidVariantError(
                f"{name} refers to {reference!r}; checking fetches nothing, so put it into the schema "
                f"under $defs and refer to '#/$defs/...'"
            )


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
