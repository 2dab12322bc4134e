"""``xenolect status``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, say, store_command
from xenolect.manager import EmergenceManager
from xenolect.units import format_bytes


@click.command("status")
@store_command()
def command(manager: EmergenceManager, output: Output) -> None:
    """Show what runs."""
    status = manager.status()

    def text() -> None:
        parts = status["parts"]
        say(f"store      {status['storage']}  (revision {status['revision']})")
        say(
            f"parts      index {parts['index']}, chunks {parts['chunks']}, cipher {parts['cipher']}"
            + ("  (states are stored unencrypted)" if parts["cipher"] == "none" else "")
        )
        say(f"mode       {status['mode']}")
        counts = ", ".join(f"{n} {name}" for name, n in status["variants"].items() if n)
        say(f"variants   {counts or 'none'}")
        say(f"agents     {status['agents']}")
        say(f"processes  {status['processes']}")
        cache = status["state_cache"]
        if cache["hit_rate"] is not None:
            say(
                f"cache      {format_bytes(cache['bytes'])} of {format_bytes(cache['limit'])}, "
                f"{cache['hit_rate']:.0%} of {cache['hits'] + cache['misses']} reads hit"
            )
        disk, process = status["disk"], status["process"]
        sizes = [
            f"{name} {format_bytes(size)}"
            for name, size in (("store", disk["bytes"]), ("index", disk["index_bytes"]))
            if size is not None
        ]
        if sizes:
            say(f"disk       {', '.join(sizes)}")
        memory = process["memory_bytes"] or process["memory_peak_bytes"]
        if memory is not None:
            say(
                f"this       {format_bytes(memory)} of memory, {process['cpu_seconds']:.2f} s of CPU"
            )
        for protocol, baseline in sorted(status["baselines"].items()):
            say(f"baseline   {protocol}: {baseline}")
        for rollout in status["rollouts"]["running"]:
            say(
                f"rollout    {rollout['variant']} against {rollout['control']}: {rollout['state']} at "
                f"{rollout['fraction']:.1%}, verdict {rollout['verdict']}"
                + (f" ({rollout['reason']})" if rollout["reason"] else "")
            )
        done = status["rollouts"]
        if done["success_rate"] is not None:
            say(
                f"ended      {done['promoted']} promoted, {done['rolled_back']} rolled back, "
                f"{done['aborted']} aborted: {done['success_rate']:.0%} of deployments succeeded"
            )
            say(f"rollbacks  {status['rollbacks']['in_30_days']} in 30 days")
        for name in status["breakers_shut"]:
            say(f"breaker    {name} is shut")
        for protocol in status["safe_mode"]:
            say(f"SAFE MODE  {protocol}: only its baseline is served")

    output.show(status, text)
