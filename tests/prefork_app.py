"""A WSGI application that opens its store before its server forks; see test_gunicorn.py."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from xenolect import EmergenceManager

manager = EmergenceManager.open(os.environ["PREFORK_STORE"])


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """``/?agent=NAME`` selects and reports one operation; ``/variant`` only says what is served."""
    asked = parse_qs(environ.get("QUERY_STRING", ""))
    chosen = manager.select("agent-0")
    if "agent" in asked:
        manager.report(chosen, asked["agent"][0], success=True, latency_ms=1.0)
    answer = {
        "pid": os.getpid(),
        "variant": chosen.variant.id,
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
