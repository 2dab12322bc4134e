"""``from xenolect.breaker import CircuitBreaker``, and nothing else of the house."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from xenolect import BreakerOpenError, ConfigError, InvalidError
from xenolect.breaker import BreakerState as B
from xenolect.breaker import CircuitBreaker, Counts
from xenolect.testing import Clock


class Broken(Exception):
    """What the guarded thing raises."""


def breaker(clock: Clock, **given: Any) -> CircuitBreaker:
    """A breaker that opens at the second failure and waits ten seconds."""
    return CircuitBreaker(
        "the price service",
        clock=clock,
        **{
            "failure_threshold": 2,
            "reset_timeout": "10s",
            "jitter": 0.0,
            "half_open_probes": 1,
            **given,
        },
    )


def fail() -> None:
    """Always."""
    raise Broken


def call(guard: CircuitBreaker, function: Callable[[], Any]) -> Any:
    """One guarded call; what it raised is its value."""
    try:
        return guard(function)()
    except (Broken, BreakerOpenError) as error:
        return error


def test_a_decorated_function_is_refused_after_failures_and_comes_back(clock: Clock) -> None:
    """Opens, refuses without calling, says how long, probes after the wait, closes on success."""
    guard = breaker(clock)
    called: list[str] = []

    @guard
    def price(item: str, *, sick: bool = False) -> str:
        """What it costs."""
        called.append(item)
        if sick:
            raise Broken
        return item.upper()

    assert (price.__name__, price.__doc__) == ("price", "What it costs.")
    assert price("a") == "A"
    for _ in range(2):
        with pytest.raises(Broken):
            price("b", sick=True)
    with pytest.raises(
        BreakerOpenError, match=r"the price service is open; try again in 10 s"
    ) as e:
        price("c")
    assert e.value.retry_after == 10.0
    assert called == ["a", "b", "b"]

    clock.advance(10.0)

    assert price("d") == "D"
    assert guard.status.state == B.CLOSED
    assert guard.counts == Counts(successes=2, failures=2, refused=1)


def test_blocks_and_permits_count_like_calls(clock: Clock) -> None:
    """``with`` returns the permit; ``acquire`` gives one to hand back; twice does nothing."""
    guard = breaker(clock)
    with pytest.raises(Broken), guard as permit:
        raise Broken
    permit.failure()
    assert guard.counts == Counts(failures=1)

    with guard:
        pass
    permit = guard.acquire()
    permit.failure()
    permit.success()

    assert guard.counts == Counts(successes=1, failures=2)
    with pytest.raises(Broken), guard.acquire():
        raise Broken
    assert guard.status.state == B.OPEN
    with pytest.raises(BreakerOpenError), guard:
        raise AssertionError("never runs")


def test_blocks_of_several_breakers_nest_in_any_order(clock: Clock) -> None:
    """Each block returns its own permit, also when a generator ends them out of order."""
    one, two = breaker(clock), breaker(clock)

    def held(guard: CircuitBreaker) -> Any:
        with guard:
            yield

    first, second = held(one), held(two)
    next(first)
    next(second)
    with pytest.raises(Broken):
        first.throw(Broken)
    with pytest.raises(StopIteration):
        next(second)
    with one, two, one:
        pass

    assert one.counts == Counts(successes=2, failures=1)
    assert two.counts == Counts(successes=2)


def test_async_functions_and_blocks(clock: Clock) -> None:
    """The same for ``async def`` and ``async with``; a cancelled task says nothing of the callee."""
    guard = breaker(clock)

    @guard
    async def ask(sick: bool) -> int:
        await asyncio.sleep(0)
        if sick:
            raise Broken
        return 7

    @guard
    async def hang() -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        assert await ask(False) == 7
        async with guard:
            await asyncio.sleep(0)
        async with guard.acquire():
            pass
        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Broken):
            await ask(True)
        with pytest.raises(Broken):
            async with guard:
                raise Broken
        with pytest.raises(BreakerOpenError):
            await ask(False)

    asyncio.run(main())

    assert guard.counts == Counts(successes=3, failures=2, ignored=1, refused=1)


def test_side_by_side_tasks_hold_their_own_permits(clock: Clock) -> None:
    """Blocks of concurrent tasks do not return each other's."""
    guard = breaker(clock, failure_threshold=100, failure_rate=None)

    async def one(sick: bool) -> None:
        async with guard:
            await asyncio.sleep(0.001)
            if sick:
                raise Broken

    async def main() -> None:
        await asyncio.gather(*(one(i % 3 == 0) for i in range(30)), return_exceptions=True)

    asyncio.run(main())

    assert guard.counts == Counts(successes=20, failures=10)


@pytest.mark.parametrize(
    ("ignore", "error", "counted"),
    [
        ((), Broken, True),
        ((KeyError,), KeyError, False),
        ((LookupError,), KeyError, False),
        ((KeyError,), Broken, True),
        (lambda error: "mine" in str(error), Broken("mine"), False),
        (lambda error: "mine" in str(error), Broken("theirs"), True),
        ((), KeyboardInterrupt, False),
        ((), GeneratorExit, False),
        ((), CancelledError, False),
    ],
)
def test_whose_fault_an_error_is(clock: Clock, ignore: Any, error: Any, counted: bool) -> None:
    """Errors of the caller and cancellation are not failures; they pass through all the same."""
    guard = breaker(clock, ignore=ignore)

    with pytest.raises(error if isinstance(error, type) else type(error)), guard:
        raise error

    assert guard.counts == (Counts(failures=1) if counted else Counts(ignored=1))


def test_slow_calls_open_it_where_speed_matters(clock: Clock) -> None:
    """``slow_rate`` of the window's calls take at least ``slow_call``: open, without one failure."""
    guard = breaker(clock, slow_rate=0.5, slow_call="2s", minimum_calls=4)

    def work(seconds: float) -> None:
        clock.advance(seconds)

    for seconds in (0.1, 2.0, 0.1, 3.0):
        guard(work)(seconds)

    assert guard.status.state == B.OPEN
    assert guard.counts == Counts(successes=4, slow=2)


def test_it_latches_after_failing_rounds_and_probes_rarely(clock: Clock) -> None:
    """10, 20, 40 seconds, then once in half an hour; one success there closes it."""
    guard = breaker(clock)
    waits = []
    for _ in range(2):
        call(guard, fail)
    for _ in range(4):
        waits.append(guard.status.retry_after)
        clock.advance(guard.status.retry_after or 0.0)
        assert isinstance(call(guard, fail), Broken)
    assert waits == [10.0, 20.0, 40.0, 1800.0]
    assert guard.status.state == B.LATCHED
    assert isinstance(call(guard, lambda: 1), BreakerOpenError)

    clock.advance(1800.0)

    assert call(guard, lambda: 1) == 1
    assert guard.status.state == B.CLOSED


def test_an_operator_forces_disables_and_resets(clock: Clock) -> None:
    """Forced open stays so; disabled admits all for its time and ends in probes; reset probes."""
    guard = breaker(clock)
    guard.force_open()
    clock.advance(1e6)
    with pytest.raises(BreakerOpenError, match="forced_open; an operator must reset it"):
        guard.acquire()
    assert guard.reset().state == B.HALF_OPEN
    assert guard.disable("1m").state == B.DISABLED
    for _ in range(50):
        assert isinstance(call(guard, fail), Broken)
    clock.advance(60.0)
    assert isinstance(call(guard, fail), Broken)
    assert guard.status.state == B.OPEN
    with pytest.raises(InvalidError, match="ttl must be more than 0 and at most 24h"):
        guard.disable("25h")
    with pytest.raises(InvalidError, match="ttl"):
        guard.disable("soon")


def test_listeners_hear_every_change_in_order_and_may_raise_or_call(clock: Clock) -> None:
    """``on_change`` runs outside the lock: it may use the breaker; what it raises is only logged."""
    heard: list[tuple[B, B]] = []

    def hear(before: B, after: B) -> None:
        heard.append((before, after))
        guard.tick()
        if after == B.OPEN:
            raise RuntimeError("the listener's own trouble")

    guard = breaker(clock, on_change=hear)
    for _ in range(2):
        call(guard, fail)
    clock.advance(10.0)
    call(guard, lambda: 1)

    assert heard == [(B.CLOSED, B.OPEN), (B.OPEN, B.HALF_OPEN), (B.HALF_OPEN, B.CLOSED)]


def test_what_can_not_work_is_refused_when_it_is_made(clock: Clock) -> None:
    """Generators, a machine with options, settings that do not exist or are out of range."""
    guard = breaker(clock)

    def numbers() -> Any:
        yield 1

    with pytest.raises(InvalidError, match="is a generator"):
        guard(numbers)
    with pytest.raises(InvalidError, match="leave out failure_threshold"):
        CircuitBreaker(machine=guard.machine, failure_threshold=3)
    with pytest.raises(ConfigError, match="failure_treshold"):
        CircuitBreaker("x", failure_treshold=3)
    with pytest.raises(ConfigError, match="failure_threshold"):
        CircuitBreaker("x", failure_threshold=0)


def test_nothing_else_is_needed() -> None:
    """The import alone starts no thread and loads no store; a call works."""
    program = (
        "import sys, threading\n"
        "from xenolect.breaker import CircuitBreaker\n"
        "guard = CircuitBreaker('x')\n"
        "assert guard(lambda: 5)() == 5\n"
        "assert threading.active_count() == 1\n"
        "for name in ('numpy', 'sqlite3', 'fsspec', 'xenolect.manager', 'xenolect._runtime'):\n"
        "    assert name not in sys.modules, name\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


# -- threads --------------------------------------------------------------------------------------------


def counted(threads: int, each: int, given: dict[str, Any]) -> None:
    """So many threads call a healthy function, some of them failing now and then."""
    guard = CircuitBreaker("x", **given)
    sometimes = [0] * threads

    def work(number: int) -> None:
        called = guard(lambda: None)
        for i in range(each):
            if i % 1000 == number:
                sometimes[number] += 1
                permit = guard.acquire()
                permit.failure()
            else:
                called()

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

    failures = sum(sometimes)
    assert guard.counts == Counts(successes=threads * each - failures, failures=failures)
    assert guard.status.state == B.CLOSED


THREADED = [{"failure_rate": None, "failure_threshold": 10**9}, {"failure_threshold": 10**9}]


@pytest.mark.parametrize("given", THREADED, ids=["consecutive", "window"])
def test_eight_threads_lose_no_count(given: dict[str, Any]) -> None:
    """8 threads make 20,000 calls each, a thousandth of them failures: all are counted, once."""
    counted(8, 20_000, given)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("given", THREADED, ids=["consecutive", "window"])
def test_eight_threads_lose_no_count_in_a_million_calls_each(given: dict[str, Any]) -> None:
    """The same with a million calls in each of 8 threads."""
    counted(8, 1_000_000, given)


def crowded(rounds: int) -> None:
    """Threads claim, acquire and let go of probes as fast as they can, round after round."""
    clock = Clock(1_000.0)
    guard = CircuitBreaker(
        "x", clock=clock, jitter=0.0, half_open_probes=3, max_reset_attempts=10**9, max_wait="30s"
    )
    for i in range(rounds):
        for _ in range(5 if i == 0 else 0):
            guard.acquire().failure()
        clock.advance(30.0)
        guard.tick()
        admitted: deque[Any] = deque()
        begin = threading.Barrier(8)

        def probe(begin: Any = begin, admitted: Any = admitted, lockless: bool = False) -> None:
            begin.wait()
            for _ in range(20):
                if lockless:
                    permit = guard.claim()
                    if permit is not None:
                        admitted.append(permit)
                    continue
                try:
                    admitted.append(guard.acquire())
                except BreakerOpenError:
                    pass

        threads = [
            threading.Thread(target=probe, kwargs={"lockless": n % 2 == 0}) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(admitted) == 3, i
        outcomes = [permit.success for permit in admitted] if i % 4 == 3 else []
        for outcome in outcomes or [admitted[0].failure]:
            outcome()
        assert guard.status.state == (B.CLOSED if outcomes else B.OPEN)
        for _ in range(5 if outcomes else 0):
            guard.acquire().failure()


def test_a_crowd_of_threads_gets_the_permits_of_a_round_and_no_more() -> None:
    """40 rounds of probes; 8 threads race for each, half of them as selection does, without a lock."""
    crowded(40)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_crowd_of_threads_gets_the_permits_of_5000_rounds_and_no_more() -> None:
    """The same, 5,000 rounds."""
    crowded(5_000)
