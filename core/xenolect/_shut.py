"""The variants that are shut, as selection reads them."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Shut"]


class Shut(set[str]):
    """The variants that are shut; whoever follows them hears of each change."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: Callable[[str], None] = lambda _: None  # set by the manager

    def add(self, variant_id: str, /) -> None:
        """Shut one."""
        super().add(variant_id)
        self.touched(variant_id)

    def discard(self, variant_id: object, /) -> None:
        """Open one."""
        super().discard(variant_id)
        self.touched(str(variant_id))
