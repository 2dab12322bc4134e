"""A process that asks a shared breaker for permits as fast as it can, until told to stop.

Run as ``python prober.py STORE SECONDS OUTCOME``; prints one line per permit it got, then ``done``.
"""

from __future__ import annotations

import sys
import time

from xenolect import BreakerOpenError, EmergenceManager

SETTINGS = {"reset_timeout": 0.5, "jitter": 0.0, "lease": 30.0}


def main(store: str, seconds: float, outcome: str) -> None:
    """Probe; hold the permits (``hold``) or return them (``success``, ``failure``)."""
    with EmergenceManager.open(store, breaker=SETTINGS) as manager:
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                permit = manager.breakers.acquire("x")
            except BreakerOpenError:
                time.sleep(0.002)
                continue
            if permit.token is None:  # closed: an ordinary call
                print("closed", flush=True)
                break
            print("probe", flush=True)
            if outcome != "hold":
                getattr(permit, outcome)()
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
