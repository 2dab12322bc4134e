"""Makes ``plain.zip``: the bytes of a small store as a release writes them, to be read for ever.

Run once per release that changes what is written (``python tests/data/format2/make.py plain-VERSION.zip``)
and never over an archive that is there: ``tests/test_frozen.py`` opens a copy of each. The clock and the draws
are fixed, so what differs between two runs is SQLite's layout and the mirrors' write ids alone. The store
has a state that was put, patched and put again, JSON with a schema of its own, a point, a rollback, agents, a
rollout with evidence, roll-ups' windows, an orphaned chunk of a writer that died, and a journal in three
segments with a checkpoint.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from xenolect import AgentContext, PerformanceMetrics
from xenolect import open as open_manager
from xenolect.testing import Clock

HERE = Path(__file__).parent
TEXT = b"frozen bytes " * 200


def fill(place: Path) -> None:
    """The store."""
    clock = Clock(1_790_000_000.0)
    given = {
        "clock": clock,
        "background": False,
        "state": {"chunk_size": "1KiB", "scrub_interval": "0s"},
    }
    draws = random.Random("frozen")
    with open_manager(place, seed=draws, **given) as manager:
        manager.states.register_migration("default", 1, 2, lambda state: state)
        manager.variants.activate(manager.variants.propose("base", {"n": 0}, id="base"))
        manager.variants.propose("zstd", {"n": 1}, id="zstd", requirements={"zstd": ">=1.5"})
        manager.agents.register("agent-1", AgentContext({"zstd": "1.5.6"}, platform="linux"))
        manager.states.put("base", {"window": 3, "words": ["a", "ä"]})
        manager.states.put("zstd", TEXT)
    with open_manager(place, seed=draws, **given) as manager:
        manager.variants.activate("zstd", force=True)
        manager.points.create("zstd", "kept", pinned=True)
        manager.states.patch("zstd", {5: b"PATCHED"})
        manager.record("zstd", PerformanceMetrics(0.9, latency_ms=12.0, count=10))
        clock.advance(90)
        manager.rollback("zstd", reason="ticket 7")
        manager._mirroring.flush()
        contents = manager._runtime.index.load()
        manager._mirroring.journal.write_checkpoint(contents, manager._runtime.config.digest())
    with open_manager(place, seed=draws, **given) as manager:
        manager.agents.register_many([(f"a{i}", AgentContext()) for i in range(25)])
        manager.variants.propose("next", {"n": 2}, id="next")
        manager.canaries.start("next", seed=1)
        for i in range(25):
            manager.report(manager.select(f"a{i}"), f"a{i}", success=i != 3, latency_ms=5.0 + i)
    folder = place / "variants/zstd/state"
    chunk = min(folder.glob("chunk_*"))
    shutil.copy(chunk, folder / f"{chunk.name[:22]}-{'0' * 16}.bin")


def main() -> None:
    """Write the archive."""
    target = HERE / sys.argv[1]
    assert not target.exists(), "an archive is never written again"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "store")
        fill(place)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(place.rglob("*")):
                if path.is_file() and not path.name.endswith("-lock"):
                    archive.write(path, path.relative_to(place))


if __name__ == "__main__":
    main()
