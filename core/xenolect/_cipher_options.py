"""The options of ``[cipher]``, with the key provider that ``keys`` names made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xenolect.errors import ConfigError

if TYPE_CHECKING:
    from xenolect._registry import Registry
    from xenolect.config import Config

__all__ = ["cipher_options"]

_WHERE = "cipher.keys"


def cipher_options(config: Config, registry: Registry) -> dict[str, Any]:
    """``keys = { env = "NAME" }`` means ``{ use = "env", env = "NAME" }``; an object is taken as it is.

    ConfigError where it is not clear who is meant.
    """
    options = dict(config.cipher.options)
    keys = options.get("keys")
    if isinstance(keys, str):
        keys = _named(keys, registry)
    if isinstance(keys, Mapping):
        given = dict(keys)
        use = given.pop("use", None) or _only(given, registry)
        options["keys"] = registry.make("keys", use, given, _WHERE)
    return options


def _named(use: str, registry: Registry) -> dict[str, Any]:
    if all(use != each.name for each in registry.offers("keys")):
        # The text is not repeated: it may be the key.
        raise ConfigError(f"{_WHERE}: {_how(registry)}, never the key itself")
    return {"use": use}


def _only(given: Mapping[str, Any], registry: Registry) -> str:
    """The one provider whose name is among the options."""
    found = [name for name in given if any(name == e.name for e in registry.offers("keys"))]
    if len(found) != 1:
        raise ConfigError(f"{_WHERE}: {_how(registry)}; found {', '.join(given) or 'nothing'}")
    return found[0]


def _how(registry: Registry) -> str:
    names = ", ".join(dict.fromkeys(each.name for each in registry.offers("keys")))
    return (
        'expected { env = "NAME" }, { file = "path" } or { use = "PROVIDER", ... } with one of '
        f"{names}"
    )
