"""``xenolect import``."""

from xenolect._cli.tree import import_ as command

__all__ = ["command"]
