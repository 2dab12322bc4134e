"""Every bundled index passes the kit; what is special about SQLite is shown apart."""

from __future__ import annotations

from pathlib import Path

from xenolect.interfaces import Index
from xenolect.testing import IndexTests
from xenolect_backends.memory import MemoryIndex
from xenolect_backends.sqlite_index import SqliteIndex


class TestMemory(IndexTests):
    """An index in dictionaries."""

    def make(self, place: Path) -> Index:
        return MemoryIndex(str(place))


class TestSqlite(IndexTests):
    """An index in a file."""

    examples = 12
    steps = 20

    def make(self, place: Path) -> Index:
        return SqliteIndex(place / "index.db")
