"""The plugins that are there, what they offer, and the making of what the configuration names.

Installing never breaks; using does, and says who. A plugin that can not be used is left out, recorded
and logged once; only asking for a name that is missing, or offered twice, is an error. What was
collected at ``open`` holds until ``close``: a manager's parts never change under it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import attrs
import pluggy

from xenolect import hookspecs
from xenolect._checks import did_you_mean
from xenolect._discovery import Found, Trouble, find, implementations, marked_offers
from xenolect._foreign import answered_for
from xenolect._options import fill
from xenolect.config import PluginsConfig
from xenolect.errors import EmergenceError, PluginError
from xenolect.events import Event
from xenolect.hookspecs import PROJECT, Offer

__all__ = ["BUNDLED", "KINDS", "Offered", "PluginRecord", "Registry"]

BUNDLED = (
    "xenolect_plugins.capabilities",
    "xenolect_plugins.scoring",
    "xenolect_plugins.breaker",
    "xenolect_plugins.canary",
    "xenolect_plugins.evalue",
    "xenolect_plugins.threshold",
    "xenolect_plugins.group_sequential",
    "xenolect_plugins.kayenta_mw",
    "xenolect_plugins.bayes",
    "xenolect_plugins.ciphers",
    "xenolect_plugins.aes_gcm",
    "xenolect_plugins.observers",
    "xenolect_backends",
)
"""Named in code and not as entry points: metadata goes stale in an editable installation."""

KINDS: dict[str, tuple[str, str]] = {
    "scoring": ("xenolect_scoring", "scorer"),
    "compatibility": ("xenolect_compatibility", "rule"),
    "chunks": ("xenolect_chunk_storage", "chunk storage"),
    "index": ("xenolect_index_storage", "index storage"),
    "state_migrations": ("xenolect_state_migrations", "state migration"),
    "cipher": ("xenolect_encryption", "cipher"),
    "keys": ("xenolect_keys", "key provider"),
    "safeguards": ("xenolect_safeguards", "safeguard"),
    "judges": ("xenolect_judges", "judge"),
    "proposers": ("xenolect_proposers", "proposer"),
}
"""kind -> the hook that offers it, and what one of it is called."""

_COMMANDS = "xenolect_commands"
_OBSERVE = "xenolect_observe"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_log = logging.getLogger("xenolect.plugins")


class Offered(NamedTuple):
    """One offer: its name, where it comes from in words, the plugin's name, the offer itself, and
    what to write into ``plugins.blocked`` to be without it."""

    name: str
    source: str
    plugin: str
    offer: Offer[Any]
    handle: str


@attrs.frozen
class PluginRecord:
    """One plugin as ``xenolect plugins`` prints it.

    source: ``NAME VERSION`` of its distribution, "bundled", "in process", or its file. status:
    "loaded", "left out" or "blocked"; ``why`` says why. offers: kind -> names.
    """

    name: str
    source: str
    status: str
    why: str = ""
    offers: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    observes: bool = False

    def __str__(self) -> str:
        return _full(self.name, self.source)


def _full(name: str, source: str) -> str:
    return f"{name} ({source})"


class Registry:
    """What ``collect`` found. Reading it needs no lock: nothing changes after ``collect``."""

    def __init__(self) -> None:
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._offers: dict[str, list[Offered]] = {kind: [] for kind in KINDS}
        self._commands: list[tuple[Found, Callable[..., Any]]] = []
        self._observers: list[tuple[Found, Callable[..., Any], tuple[str, ...]]] = []
        self._deaf: set[tuple[str, type]] = set()
        self._records: list[PluginRecord] = []

    @classmethod
    def collect(
        cls,
        config: PluginsConfig | None = None,
        plugins: Iterable[object] = (),
        bundled: Sequence[str] = BUNDLED,
    ) -> Registry:
        """Load every plugin that is not blocked, each on its own; no plugin can make this fail."""
        config = config or PluginsConfig()
        registry = cls()
        blocked = {_plain(name) for name in config.blocked}
        for found in find(config, plugins, bundled):
            if {_plain(found.name), _plain(found.handle)} & blocked:
                registry._records.append(
                    PluginRecord(found.name, found.source, "blocked", "named in plugins.blocked")
                )
            else:
                registry._take(found)
        return registry

    # -- using --------------------------------------------------------------------------------------

    def make(self, kind: str, name: str, options: Mapping[str, Any], where: str) -> Any:
        """Make what ``name`` offers; ``where`` is the path in the configuration, for errors.

        PluginError when nobody offers the name, two do, or making it fails; ConfigError for options.
        """
        offered = self._one(kind, name, where)
        try:
            made = fill(offered.offer.make, options, where)
            if offered.source == "bundled":
                return made
            who = f"{KINDS[kind][1]} {name!r} of {_full(offered.plugin, offered.source)}"
            return answered_for(kind, made, who)
        except EmergenceError:
            raise
        except Exception as error:
            raise PluginError(
                f"{where}: {KINDS[kind][1]} {name!r} of {_full(offered.plugin, offered.source)} can not "
                f"be made: {_words(error)}",
                plugin=offered.plugin,
                distribution=offered.source,
            ) from error

    def offers(self, kind: str) -> list[Offered]:
        """Everything offered of a kind, by name."""
        return sorted(self._offers[kind], key=lambda each: (each.name, each.source))

    def _one(self, kind: str, name: str, where: str) -> Offered:
        # Once each: a package may show the same @scorer function as the module inside it.
        matching = list(
            {id(each.offer): each for each in self._offers[kind] if each.name == name}.values()
        )
        if not matching:
            self._missing(kind, name, where)
        if len(matching) > 1:
            sources = " and ".join(_full(each.plugin, each.source) for each in matching)
            blockable = next((e for e in reversed(matching) if e.source != "bundled"), matching[-1])
            raise PluginError(
                f"{where}: two plugins offer {KINDS[kind][1]} {name!r}: {sources}; block one of them, "
                f'as in [plugins] blocked = ["{blockable.handle}"]',
                plugin=blockable.plugin,
                distribution=blockable.source,
            )
        return matching[0]

    def _missing(self, kind: str, name: str, where: str) -> NoReturn:
        names = sorted({each.name for each in self._offers[kind]})
        unused = [record for record in self._records if record.status != "loaded"]
        left_out = ", ".join(f"{record}: {record.why}" for record in unused)
        hint = did_you_mean(name, names)
        raise PluginError(
            f"{where}: no plugin offers {KINDS[kind][1]} {name!r}{hint or '.'} "
            f"Installed: {', '.join(names) or 'none'}."
            + (f" Left out: {left_out}" if left_out else "")
        )

    def commands(self) -> Iterator[Offered]:
        """The commands that plugins add; their hooks are called only now."""
        for found, function in self._commands:
            try:
                yield from [
                    Offered(each.name, found.source, found.name, each, found.handle)
                    for each in _yielded(_COMMANDS, function)
                ]
            except Trouble as trouble:
                _log.warning(
                    "plugin %s: its commands are left out: %s",
                    _full(found.name, found.source),
                    trouble,
                )

    def observers(self, event: Event) -> None:
        """Let every observer hear the event. What one raises is logged, the first time with the
        traceback and then at DEBUG, so that a broken observer does not flood the log."""
        for found, function, arguments in self._observers:
            try:
                function(event) if arguments else function()
            except Exception as error:
                again = (found.name, type(error)) in self._deaf
                self._deaf.add((found.name, type(error)))
                _log.log(
                    logging.DEBUG if again else logging.WARNING,
                    "observer %s raised at %s: %s",
                    _full(found.name, found.source),
                    event.kind,
                    _words(error),
                    exc_info=not again,
                )

    def describe(self) -> list[PluginRecord]:
        """Every plugin that was found, loaded or not, in the order of loading."""
        return list(self._records)

    # -- loading ------------------------------------------------------------------------------------

    def _take(self, found: Found) -> None:
        try:
            plugin = _loaded(found)
            if self._pluggy.is_registered(plugin):
                return  # installed and also given in process: it is the same one
            hooks, offers = self._read(found, plugin)
        except Trouble as trouble:
            self._leave_out(found, str(trouble))
            return
        except Exception as error:
            self._leave_out(found, _words(error))
            return
        for kind, made in offers.items():
            self._offers[kind].extend(made)
        if _COMMANDS in hooks:
            self._commands.append((found, hooks[_COMMANDS]))
        for implementation in self._pluggy.hook.xenolect_observe.get_hookimpls():
            if implementation.plugin is plugin:
                arguments = tuple(implementation.argnames)
                self._observers.append((found, implementation.function, arguments))
        names = {kind: tuple(each.name for each in made) for kind, made in offers.items() if made}
        self._records.append(
            PluginRecord(
                found.name, found.source, "loaded", offers=names, observes=_OBSERVE in hooks
            )
        )

    def _read(
        self, found: Found, plugin: object
    ) -> tuple[dict[str, Callable[..., Any]], dict[str, list[Offered]]]:
        hooks = implementations(plugin)
        offers = {
            kind: [
                Offered(each.name, found.source, found.name, each, found.handle)
                for each in (_yielded(hook, hooks[hook]) if hook in hooks else ())
            ]
            for kind, (hook, _noun) in KINDS.items()
        }
        for each in marked_offers(plugin):
            offers["scoring"].append(
                Offered(_slug(each.name, "@scorer"), found.source, found.name, each, found.handle)
            )
        try:
            # Two distributions may use one entry point name; both are loaded.
            self._pluggy.register(plugin, f"{found.name} ({found.source}) #{len(self._records)}")
        except (pluggy.PluginValidationError, ValueError) as error:
            raise Trouble(str(error)) from error
        return hooks, offers

    def _leave_out(self, found: Found, why: str) -> None:
        record = PluginRecord(found.name, found.source, "left out", why)
        self._records.append(record)
        _log.warning("plugin %s is left out: %s", record, why)


def _loaded(found: Found) -> object:
    try:
        plugin: object = found.load()
    except SystemExit as error:
        raise Trouble(_words(error)) from error
    return plugin


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _yielded(hook: str, function: Callable[..., Any]) -> list[Offer[Any]]:
    """Everything a hook offers, checked; Trouble when it raises or yields something else."""
    try:
        yielded = list(function() or ())
    except Exception as error:
        raise Trouble(f"{hook} raised {_words(error)}") from error
    for each in yielded:
        if not isinstance(each, Offer) or not callable(each.make):
            raise Trouble(f"{hook} yields {each!r}; yield offer(name, make)")
        _slug(each.name, hook)
    return yielded


def _slug(name: Any, hook: str) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise Trouble(
        f"{hook} offers the name {name!r}; a name is 1 to 64 of a-z, 0-9, '.', '_', '-', "
        "and starts with a letter or digit"
    )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
