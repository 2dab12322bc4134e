"""A circuit breaker on its own: around any function, without a manager or a store.

::

    from xenolect.breaker import CircuitBreaker

    prices = CircuitBreaker("the price service", reset_timeout="10s")

    @prices
    def price(item):
        return ask(item)            # also: async def

    with prices: ...                # or: async with prices
    permit = prices.acquire()       # BreakerOpenError when it is open; then permit.success() ...

The rules are the pure machine that ``[breaker]`` names; the managers' breakers are this class as well.
docs/breaker.md describes the states and every setting.
"""

from __future__ import annotations

import functools
import inspect
import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from xenolect import forks
from xenolect import safeguards as sg
from xenolect._circuit import FOLD, Circuit
from xenolect._permit import Counts, Permit
from xenolect.errors import BreakerOpenError, InvalidError
from xenolect.interfaces import Safeguard
from xenolect.model import BreakerState, BreakerStatus
from xenolect.units import seconds_of

if TYPE_CHECKING:
    from datetime import timedelta

    from xenolect._registry import Registry

__all__ = [
    "BreakerOpenError",
    "BreakerState",
    "BreakerStatus",
    "CircuitBreaker",
    "Counts",
    "Permit",
    "steady",
]

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("xenolect.safeguards")
DAY = 86400.0

# What `with breaker` holds in this thread or task: the newest (breaker, permit), and those before it.
Held = tuple["CircuitBreaker", Permit, Any]
_held: ContextVar[Held | None] = ContextVar("xenolect_breaker", default=None)

steady: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Seconds that never jump, and go on while the machine sleeps where the system can say so."""


class CircuitBreaker(Circuit):
    """Refuses calls to what keeps failing, probes it after a while, and admits them again.

    name: of what is guarded, for errors (or ``label``). machine: a breaker from elsewhere; otherwise ``use`` names an offer and
    ``options`` are its settings (``failure_threshold=5``, ``reset_timeout="30s"``, ...). ignore: errors
    that are not the callee's fault: classes, or a function that says so. Cancellation
    (``asyncio.CancelledError``, ``KeyboardInterrupt``, ``GeneratorExit``) always is. on_change: called
    with the state before and after, outside every lock. clock: seconds that never go back. draw: a
    number in [0, 1), for jitter. ConfigError, PluginError.
    """

    def __init__(
        self,
        name: str = "this call",
        *,
        machine: Safeguard[Any] | None = None,
        use: str = "breaker",
        ignore: tuple[type[BaseException], ...] | Callable[[BaseException], bool] = (),
        on_change: Callable[[BreakerState, BreakerState], object] | None = None,
        clock: Callable[[], float] = steady,
        draw: Callable[[], float] = random.random,
        label: str = "",
        **options: Any,
    ) -> None:
        if machine is None:
            if use == "breaker":
                options.setdefault("scope", "dependency")
            machine = cast(
                "Safeguard[Any]", _registry().make("safeguards", use, options, "breaker")
            )
        elif options:
            raise InvalidError(
                f"a machine has its settings already: leave out {', '.join(options)}"
            )
        self._ignore = ignore
        self._on_change = on_change
        super().__init__(machine, clock, draw, name, label)
        forks.watch(self)

    def before_fork(self) -> None:
        """Nothing to wait for: a state is replaced whole."""

    def after_fork(self, child: bool) -> None:
        """In the child, with locks of its own."""
        if child:
            self.leave_parent()

    # -- guarding -------------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Guard every call of a function, plain or async; as a decorator or in passing."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidError(
                f"{function.__qualname__} is a generator: calling it does not run it; "
                "put `with breaker:` inside, around what can fail"
            )
        guarded: Any = self._guard_async if inspect.iscoroutinefunction(function) else self._guard
        return cast("Callable[P, T]", functools.wraps(function)(guarded(function)))

    def _guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, timed, plain = self.clock, self.timed, self.slow_call is None

        def call(*args: Any, **kwargs: Any) -> Any:
            live = self._live
            if live is None or not plain:
                with self.acquire():
                    return function(*args, **kwargs)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                Permit(self, live[1], live).finish_with(error)
                raise
            times = live[0]  # what `wrote` does, here without the 0.1 us of calling it
            times.append(clock() if timed else 0.0)
            if self._live is not live or len(times) >= FOLD:
                self.settle(live)
            return result

        return call

    def _guard_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        plain = self.slow_call is None

        async def call(*args: Any, **kwargs: Any) -> Any:
            live = self._live
            if live is None or not plain:
                with self.acquire():
                    return await function(*args, **kwargs)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                Permit(self, live[1], live).finish_with(error)
                raise
            self.wrote(live)
            return result

        return call

    def __enter__(self) -> Permit:
        permit = self.acquire()
        _held.set((self, permit, _held.get()))
        return permit

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        held = _held.get()
        passed: list[Held] = []
        while held is not None and held[0] is not self:  # blocks of generators may end out of order
            passed.append(held)
            held = held[2]
        if held is None:
            return
        rest = held[2]
        for breaker, permit, _ in reversed(passed):
            rest = (breaker, permit, rest)
        _held.set(rest)
        held[1].finish_with(error)

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def blames(self, error: BaseException) -> bool:
        """Is this error a failure of what was called?"""
        if not super().blames(error):
            return False
        if isinstance(self._ignore, tuple):
            return not isinstance(error, self._ignore)
        return not self._ignore(error)

    # -- operating ------------------------------------------------------------------------------------

    def force_open(self) -> BreakerStatus:
        """Refuse all calls until ``reset``."""
        self.step(sg.ForceOpen())
        return self.status

    def disable(self, ttl: str | float | timedelta = 3600.0) -> BreakerStatus:
        """Admit all calls for ``ttl`` (seconds, text as in "1h", or a timedelta; at most 24 h)."""
        try:
            seconds = seconds_of(ttl)
        except ValueError as cause:
            raise InvalidError(f"ttl: {cause}") from None
        if not 0 < seconds <= DAY:
            raise InvalidError(f"ttl must be more than 0 and at most 24h, got {ttl!r}")
        self.step(sg.Disable(self.clock() + seconds))
        return self.status

    def reset(self) -> BreakerStatus:
        """Ask for probes now; never straight to closed."""
        self.step(sg.Reset())
        return self.status

    def moved(self, before: BreakerState, after: BreakerState) -> None:
        """Tell the listener; what it raises is logged, for the guarded call has other worries."""
        if self._on_change is not None:
            try:
                self._on_change(before, after)
            except Exception:
                log.exception("on_change of the breaker of %s failed", self.name)


@functools.cache
def _registry() -> Registry:
    from xenolect._registry import Registry  # reads every plugin: 50 ms, once

    return Registry.collect()
