"""A manager in a process of its own, driven line by line: one JSON request in, one answer out.

Run as ``python worker.py DIRECTORY``; tests use it through ``Worker``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Worker:
    """The test's end of the pipe."""

    def __init__(self, **environment: str) -> None:
        import os

        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def send(self, do: str, **arguments: Any) -> None:
        """Ask without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker died"
        answer = json.loads(line)
        if isinstance(answer, dict) and "crash" in answer:
            raise AssertionError(answer["crash"])
        return answer

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask and wait."""
        self.send(do, **arguments)
        return self.receive()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        """Close the pipe and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Inside:
    """What the process does."""

    def __init__(self) -> None:
        from xenolect import EmergenceManager

        self.open_ = EmergenceManager.open
        self.manager: Any = None

    def open(self, path: str, **given: Any) -> int:
        """Open a store; the answer is its revision."""
        self.manager = self.open_(path, **given)
        return int(self.manager.status()["revision"])

    def close(self) -> None:
        """Close the store."""
        self.manager.close()

    def update(self, id: str, expected: int, changes: Any) -> dict[str, Any]:
        """Update a variant from an expected version; what happened."""
        from xenolect import ConflictError

        try:
            variant = self.manager.variants.update(id, expected_version=expected, changes=changes)
        except ConflictError as error:
            return {"conflict": str(error), "expected": error.expected, "found": error.found}
        return {"version": variant.version}

    def report(self, variant: str, agents: list[str], success: bool) -> None:
        """Report one operation of each agent."""
        for agent in agents:
            self.manager.report(variant, agent, success=success, latency_ms=5.0)
        self.manager.flush()

    def crash(self, variant: str, agent: str) -> None:
        """One agent says that the variant crashed while it was loaded."""
        self.manager.report(variant, agent, success=False, critical="crash_on_load").wait()

    def status(self, variant: str) -> dict[str, Any]:
        """The variant's status and its rollout's evidence."""
        rollout = self.manager.canaries.status(variant)
        return {
            "status": str(self.manager.variants.get(variant).status),
            "state": str(rollout.state),
            "evidence": dict(rollout.evidence),
        }

    def watch(self, agents: list[str], variant: str, seconds: float) -> list[float]:
        """Select in a loop; the moments (wall clock) at which the variant was chosen."""
        chosen = []
        until = time.time() + seconds
        while time.time() < until:
            for agent in agents:
                if self.manager.select(agent).variant.id == variant:
                    chosen.append(time.time())
            time.sleep(0.005)
        return chosen

    def traffic(self, agents: list[str], operations: int, failing: float, seed: int) -> str:
        """Serve and report operations that fail by chance alike; the canary's status after."""
        rng = random.Random(seed)
        for _ in range(operations):
            agent = rng.choice(agents)
            selection = self.manager.select(agent)
            self.manager.report(selection, agent, rng.random() >= failing, latency_ms=5.0)
        self.manager.flush()
        return str(self.manager.variants.get("zstd").status)

    def roll_back(self, variant: str) -> str:
        """Take a variant back; its status after."""
        return str(self.manager.rollback(variant, reason="ticket").status)

    def churn(self, path: str, tag: str, background: bool = False) -> None:
        """Write variants and states for ever; acknowledge each on standard output."""
        self.open(path, background=background)
        for i in range(10**6):
            name = f"{tag}-{i}"
            variant = self.manager.variants.propose(name, {"i": i}, id=name)
            say({"variant": name, "version": variant.version})
            ref = self.manager.states.put(variant, {"i": i, "fill": "x" * (i % 7) * 1000})
            say({"state": name, "version": ref.version, "i": i})
            self.manager.variants.archive(variant)
            say({"archived": name})


def say(answer: Any) -> None:
    """One answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve requests until the pipe closes."""
    inside = Inside()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(getattr(inside, request.pop("do"))(**request))
        except Exception as error:
            say({"crash": f"{type(error).__name__}: {error}"})
    if inside.manager is not None:
        inside.manager.close()


if __name__ == "__main__":
    main()
