"""``xenolect export``."""

from xenolect._cli.tree import export as command

__all__ = ["command"]
