"""Find plugins one by one, and say what is wrong with each that can not be used.

pluggy's own loader dies at the first broken distribution without naming it, skips duplicate names
without a word and accepts hooks nobody specified. So the loop and the checks are ours: each plugin is
looked at alone, and one that does not fit is left out with a sentence that its author understands.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from xenolect import hookspecs
from xenolect._checks import did_you_mean
from xenolect.config import PluginsConfig
from xenolect.errors import ConfigError
from xenolect.hookspecs import PROJECT, Offer

__all__ = ["HOOKS", "Found", "Trouble", "find", "implementations", "marked_offers"]

GROUP = "xenolect"
PREFIX = f"{PROJECT}_"

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(value).parameters)
    for name, value in vars(hookspecs).items()
    if name.startswith(PREFIX) and callable(value)
}
"""Every hook with the names of its arguments."""


class Trouble(Exception):
    """Why a plugin is left out, in words."""


@attrs.frozen
class Found:
    """A plugin that may be loaded. ``origin`` is "bundled", "in process", "installed" or "file"."""

    name: str
    origin: str
    load: Callable[[], Any]
    distribution: str = ""
    place: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, for people: ``xl-typo 1.2``, ``bundled``, ``plugins/mine.py``."""
        return self.distribution or self.place or self.origin

    @property
    def handle(self) -> str:
        """What blocks it: the distribution's name, since entry point names may be shared."""
        return self.distribution.partition(" ")[0] or self.name


def find(
    config: PluginsConfig, plugins: Iterable[object] = (), bundled: Sequence[str] = ()
) -> Iterator[Found]:
    """Bundled, installed, in the directory, in process: in this order, nothing loaded yet."""
    for dotted in bundled:
        yield Found(dotted, "bundled", lambda dotted=dotted: importlib.import_module(dotted))  # type: ignore[misc]
    if config.third_party:
        yield from _installed()
    if config.dir is not None:
        yield from _directory(Path(config.dir))
    for plugin in plugins:
        yield Found(_name_of(plugin), "in process", lambda plugin=plugin: plugin)  # type: ignore[misc]


def _installed() -> Iterator[Found]:
    from importlib.metadata import entry_points  # 16 to 25 ms to import, then 4 to scan

    found = []
    for point in entry_points(group=GROUP):
        about = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
        found.append(Found(point.name, "installed", point.load, about))
    # Sorted, so that logs do not depend on the order of a file system.
    yield from sorted(found, key=lambda each: (each.distribution, each.name))


def _directory(folder: Path) -> Iterator[Found]:
    if not folder.is_dir():
        raise ConfigError(
            f"plugins.dir: {folder} is not a directory; create it or correct the path"
        )
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith("_"):
            yield Found(file.stem, "file", lambda file=file: _load_file(file), place=str(file))  # type: ignore[misc]


def _load_file(file: Path) -> ModuleType:
    name = f"xenolect_dir_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Trouble(f"{file} can not be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs looks here to read annotations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    return str(getattr(plugin, "__name__", None) or type(plugin).__name__)


# -- what a plugin implements -------------------------------------------------------------------


def implementations(plugin: object) -> dict[str, Callable[..., Any]]:
    """hook name -> function; Trouble when the plugin misspells, forgets or mistakes something."""
    if inspect.isclass(plugin):
        raise Trouble(f"{plugin.__name__} is a class; name an instance of it, or a module")
    hooks: dict[str, Callable[..., Any]] = {}
    for name in dir(plugin):
        try:
            function = getattr(plugin, name)
            mark = getattr(function, f"{PROJECT}_impl", None)
        except Exception:  # noqa: S112 - a property of the plugin's own; it is no hook
            continue
        if not callable(function) or isinstance(function, ModuleType):
            continue
        if isinstance(mark, dict):
            hooks[_checked(mark.get("specname") or name, function)] = function
        elif name in HOOKS:
            raise Trouble(f"{name!r} is not marked as a hook; put @hookimpl above it")
        elif name.startswith(PREFIX) and not inspect.isclass(function):
            _checked(name, function)
    if not hooks and not marked_offers(plugin):
        raise Trouble("it implements no hook; mark a function with @hookimpl or @scorer(name)")
    return hooks


def _checked(name: str, function: Callable[..., Any]) -> str:
    if name not in HOOKS:
        raise Trouble(f"no hook is called {name!r}{did_you_mean(name, list(HOOKS))}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise Trouble(f"hook {name!r} is async; hooks are plain functions")
    known = HOOKS[name]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in known:
            takes = f"it takes ({', '.join(known)})"
            raise Trouble(f"hook {name!r} has no argument {parameter.name!r}; {takes}")
    return name


def marked_offers(plugin: object) -> list[Offer[Any]]:
    """The offers that ``@scorer`` left on the functions of a plugin, or on the plugin itself."""
    offers: list[Offer[Any]] = []
    for each in (plugin, *(_attribute(plugin, name) for name in dir(plugin))):
        offer = _attribute(each, "xenolect_offer")
        if isinstance(offer, Offer) and not any(offer is known for known in offers):
            offers.append(offer)
    return offers


def _attribute(value: object, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:
        return None
