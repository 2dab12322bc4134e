"""What a stranger's tests import: a conformance kit per interface, and doubles.

A kit is a class of tests with one method to write, ``make``::

    from xenolect.testing import ChunkStoreTests

    class TestMine(ChunkStoreTests):
        def make(self, place):                 # a fresh path; the same path is the same store
            return MyChunks(place)

The kit is the contract: an implementation that passes is one that xenolect works with.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
    import pytest
except ImportError as _error:
    raise ImportError(
        f"xenolect.testing needs pytest and hypothesis, and {_error.name} is missing: "
        f"pip install 'xenolect[testing]'"
    ) from _error

# Before the kits are imported, so that a failing assert in them shows its values.
pytest.register_assert_rewrite(
    "xenolect.testing.chunk_store",
    "xenolect.testing.ciphers",
    "xenolect.testing.deciders",
    "xenolect.testing.index",
    "xenolect.testing.judges",
    "xenolect.testing.keys",
    "xenolect.testing._index_concurrency",
    "xenolect.testing._index_machine",
    "xenolect.testing._index_measurements",
    "xenolect.testing._index_place",
    "xenolect.testing._threads",
)

from xenolect.testing._threads import fork_among_threads  # noqa: E402
from xenolect.testing.chunk_store import ChunkStoreTests  # noqa: E402
from xenolect.testing.ciphers import CipherTests  # noqa: E402
from xenolect.testing.crashes import Crash, CrashSweep, Stage, SystemCall  # noqa: E402
from xenolect.testing.deciders import RuleTests, SafeguardTests, ScorerTests  # noqa: E402
from xenolect.testing.doubles import Clock, FaultyChunks, Heard  # noqa: E402
from xenolect.testing.index import IndexTests  # noqa: E402
from xenolect.testing.judges import JudgeTests  # noqa: E402
from xenolect.testing.keys import KeyProviderTests  # noqa: E402

__all__ = [
    "ChunkStoreTests",
    "CipherTests",
    "Clock",
    "Crash",
    "CrashSweep",
    "FaultyChunks",
    "Heard",
    "IndexTests",
    "JudgeTests",
    "KeyProviderTests",
    "RuleTests",
    "SafeguardTests",
    "ScorerTests",
    "Stage",
    "SystemCall",
    "fork_among_threads",
]
