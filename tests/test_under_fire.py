"""Rollback under fire: whatever happens in the moment it is decided, it ends well."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.small_world.fire import PLOTS, UnderFire


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of alerts are not what these tests are about."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def endings(seeds: range) -> Counter[str]:
    """How harmful variants end; the harmless are checked by the world itself. Those that were outscored
    until an operator took them back are counted apart, too."""
    found: Counter[str] = Counter()
    for seed in seeds:
        world = UnderFire(seed).play()
        found[world.ending if world.harm else f"harmless {world.ending}"] += 1
        found["outscored"] += world.outscored
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", range(5))
def test_twenty_rollbacks_under_fire(block: int) -> None:
    """Four runs of each of five plots, a hundred in all: never two baselines, nothing served that was
    taken back, and an end that is one of the three."""
    found = endings(range(20 * block, 20 * block + 20))

    assert found.pop("outscored", 0) <= 1
    assert sum(found.values()) == 20
    assert found["rolled back"] >= 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(10))
def test_a_hundred_more_rollbacks_under_fire(block: int) -> None:
    """The same for twenty of each plot, of other seeds, a thousand in all: some harmful variants end in
    safe mode, some harmless ones are active, and there is no other end than the three."""
    found = endings(range(1_000 + 100 * block, 1_100 + 100 * block))

    assert found.pop("outscored", 0) <= 5
    assert set(found) <= {
        "rolled back",
        "safe mode",
        "harmless active",
        "harmless rolled back",
        "harmless safe mode",
    }
    assert found["safe mode"] > 0
    assert found["harmless active"] > 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_happens_as_it_is_told(plot: str) -> None:
    """The same seed is the same run, and in some runs of each plot the fuse burns down."""
    burnt = 0
    for seed in range(100 + PLOTS.index(plot), 120, len(PLOTS)):
        world = UnderFire(seed).play()
        assert world.plot == plot
        burnt += "now" in " ".join(world.log)
    assert burnt >= 2
    assert UnderFire(seed).play().eye.digest == world.eye.digest
