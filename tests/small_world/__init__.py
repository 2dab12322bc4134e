"""A small world moved by one seed: ``SmallWorld(seed).play(steps)``; ``Wrong`` says what must not be."""

from tests.small_world.play import SmallWorld
from tests.small_world.process import Wrong

__all__ = ["SmallWorld", "Wrong"]
