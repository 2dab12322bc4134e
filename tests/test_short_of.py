"""A system that runs short: a full disk, a limit of file size, no more open files. Each act, each a little less
short than before: an error with a type or success, nothing lost, and it works again in the same process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.acts import ACTS

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits and mounts of Linux"
)
ROOT = Path(__file__).parents[1]
SMALL = 'mount -t tmpfs -o size=48m none "$1" && shift && exec "$@"'
OWN = ("unshare", "-rm", "sh", "-c", SMALL, "sh")
"""With a small file system of its own, mounted where the next argument says."""


def unmountable() -> str:
    """Why no file system can be mounted here, "" where one can."""
    if shutil.which("unshare") is None:
        return "unshare is not there (util-linux)"
    done = subprocess.run([*OWN, "/mnt", "true"], capture_output=True, text=True, check=False)
    return f"nothing can be mounted: {done.stderr.strip()}" if done.returncode else ""


def played(kind: str, act: str, place: Path, stride: int = 1) -> dict[str, int]:
    """How often which error came of it."""
    before: Sequence[str] = ()
    if kind == "space":
        if reason := unmountable():
            pytest.skip(reason)
        before = (*OWN, str(place))
    command = [sys.executable, "-m", "tests.short_of", kind, act, str(place / "store"), str(stride)]
    done = subprocess.run(
        [*before, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_full_disk(tmp_path: Path) -> None:
    """Two levels of the long sweep: nothing is left, and enough."""
    assert played("space", "put", tmp_path, stride=20) == {"StorageFullError": 1, "done": 1}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("kind", ["space", "size", "files"])
def test_each_act_at_each_level(kind: str, act: str, tmp_path: Path) -> None:
    """Where space is the matter the error says so: StorageFullError. Without files to open, a rollback goes
    on unread and unmirrored, and measurements need none."""
    came = played(kind, act, tmp_path)
    assert came.pop("done")
    assert sum(came.values()) > 0 or (kind == "files" and act in ("rollback", "record"))
    if kind == "space":
        assert came["StorageFullError"] > 0
