"""gunicorn forks its workers from a process that opened the store: ``--preload``, the usual way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tests.fleets import fleet, json_and_zstd

from xenolect import EmergenceManager

gunicorn = pytest.importorskip("gunicorn", reason="gunicorn is in the test dependency group")
WORKERS = 3


@contextmanager
def serving(store: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """gunicorn with a few workers on a free port; it ends as an operator ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS),
                "--bind", f"127.0.0.1:{port}", "--timeout", "60", "--graceful-timeout", "30",
                "tests.prefork_app:application",
            ],
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PREFORK_STORE": str(store)},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                ask(f"{url}/variant")
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
        yield url, server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def ask(url: str) -> Any:
    """One request, on a connection of its own."""
    with urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_workers_of_a_preloaded_store(tmp_path: Path) -> None:
    """Workers select and report; all of it arrives once, also what they did just before they ended;
    each runs its own background thread and follows what another process decides."""
    store = tmp_path / "store"
    with EmergenceManager.open(store) as manager:
        fleet(manager, 10)
        json_and_zstd(manager)
        with serving(store, tmp_path / "log") as (url, _):
            with ThreadPoolExecutor(6) as clients:
                answers = list(
                    clients.map(ask, [f"{url}/?agent=agent-{n % 10}" for n in range(300)])
                )
            workers = {answer["pid"] for answer in answers}
            assert len(workers) > 1
            assert all("xenolect" in answer["threads"] for answer in answers)

            manager.variants.activate(manager.variants.get("zstd"), force=True)
            manager.variants.baseline("default", "zstd")
            manager.variants.deprecate("json")
            deadline, behind = time.monotonic() + 60, set(workers)
            while behind and time.monotonic() < deadline:
                answer = ask(f"{url}/variant")
                if answer["variant"] == "zstd":
                    behind.discard(answer["pid"])
            assert behind == set()
            for n in range(30):
                ask(f"{url}/?agent=agent-{n % 10}")
        log = (tmp_path / "log").read_text()
        assert "Traceback" not in log, log
        assert manager.performance.history("json").count == 300
        assert manager.performance.history("zstd").count == 30
        assert manager.states.verify(deep=True).problems == ()
