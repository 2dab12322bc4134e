"""The extension surface: every hook, under the five words scoring, compatibility, storage,
encryption, safeguards.

A hook is called once per ``open`` and yields named offers; the manager makes the configured ones and
calls plain objects from then on. The choice is by name in the configuration, never by installation
order. A complete plugin::

    import attrs
    from xenolect import hookimpl, offer

    @attrs.frozen
    class LowLatency:
        goal_ms: float = 50.0

        def score(self, candidates, agent):
            return [self.goal_ms / (self.goal_ms + (c.history.latency_ms or self.goal_ms))
                    for c in candidates]

    @hookimpl
    def xenolect_scoring():
        yield offer("low_latency", LowLatency)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
import pluggy

if TYPE_CHECKING:
    from xenolect.events import Event
    from xenolect.interfaces import (
        ChunkStore,
        Cipher,
        EnvelopeCipher,
        Index,
        Judge,
        KeyProvider,
        Proposer,
        Rule,
        Safeguard,
        Scorer,
    )

__all__ = ["Offer", "hookimpl", "hookspec", "offer", "scorer"]

PROJECT = "xenolect"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Offer(Generic[T]):
    """One thing a plugin can make, under the name a configuration picks it by.

    Where ``make`` is an attrs class its fields are its options, filled from the configuration;
    unknown keys are refused. Any other callable takes no options, or one argument annotated with an
    attrs class that holds them.
    """

    name: str
    make: Callable[..., T]


def offer(name: str, make: Callable[..., T]) -> Offer[T]:
    """Offer ``make`` under ``name`` (a slug: ``[a-z0-9][a-z0-9._-]{0,63}``)."""
    return Offer(name, make)


@attrs.frozen
class _FunctionScorer:
    function: Callable[..., Any]

    def score(self, candidates: Any, agent: Any) -> Any:
        return self.function(candidates, agent)


def scorer(name: str) -> Callable[[F], F]:
    """Turn a plain function ``(candidates, agent) -> [float]`` into an offered scorer.

    The module (or any object with the function as an attribute) is then a plugin::

        @scorer("cheapest")
        def cheapest(candidates, agent):
            return [1.0 - (c.history.resource_usage or 0.0) for c in candidates]
    """

    def mark(function: F) -> F:
        function.xenolect_offer = Offer(name, lambda: _FunctionScorer(function))  # type: ignore[attr-defined]
        return function

    return mark


# -- scoring ------------------------------------------------------------------------------------


@hookspec
def xenolect_scoring() -> Iterable[Offer[Scorer]]:
    """Offer scorers; ``[scoring]`` names those used, with their weights."""
    yield from ()


# -- compatibility ------------------------------------------------------------------------------


@hookspec
def xenolect_compatibility() -> Iterable[Offer[Rule]]:
    """Offer rules; all named in ``[compatibility] rules`` must agree."""
    yield from ()


# -- storage ------------------------------------------------------------------------------------


@hookspec
def xenolect_chunk_storage() -> Iterable[Offer[ChunkStore]]:
    """Offer stores of immutable objects; ``[chunks] use`` names one."""
    yield from ()


@hookspec
def xenolect_index_storage() -> Iterable[Offer[Index]]:
    """Offer indexes; ``[index] use`` names one."""
    yield from ()


@hookspec
def xenolect_state_migrations() -> Iterable[Offer[Callable[[Any], Any]]]:
    """Offer migrations of states, named ``PROTOCOL.FROM.TO``, applied when an older state is read."""
    yield from ()


# -- encryption ---------------------------------------------------------------------------------


@hookspec
def xenolect_encryption() -> Iterable[Offer[Cipher | EnvelopeCipher]]:
    """Offer ciphers; ``[cipher] use`` names the one that seals. An EnvelopeCipher has an option ``keys``:
    the key provider that ``[cipher] keys`` names."""
    yield from ()


@hookspec
def xenolect_keys() -> Iterable[Offer[KeyProvider]]:
    """Offer key providers; ``[cipher] keys`` names one: with ``use``, or by an option of the same name."""
    yield from ()


# -- safeguards ---------------------------------------------------------------------------------


@hookspec
def xenolect_safeguards() -> Iterable[Offer[Safeguard[Any]]]:
    """Offer breakers and ramps; ``[breaker] use`` and ``[canary] ramp`` name them."""
    yield from ()


@hookspec
def xenolect_judges() -> Iterable[Offer[Judge[Any]]]:
    """Offer judges; ``[canary] judge`` names the default one."""
    yield from ()


# -- around the five ----------------------------------------------------------------------------


@hookspec
def xenolect_proposers() -> Iterable[Offer[Proposer]]:
    """Offer proposers of new variants; ``evolve`` names one."""
    yield from ()


@hookspec
def xenolect_commands() -> Iterable[Offer[Any]]:
    """Offer command line commands; ``make`` imports and returns a ``click.Command`` when it is run."""
    yield from ()


@hookspec
def xenolect_observe(event: Event) -> None:
    """Hear an event after its commit. Errors are logged; nothing can be stopped from here."""
