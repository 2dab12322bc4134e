"""``xenolect status``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, store_command
from xenolect.manager import EmergenceManager


@click.command("status")
@store_command()
def command(manager: EmergenceManager, output: Output) -> None:
    """Show what runs."""
    status = manager.status()

    def text() -> None:
        parts = status["parts"]
        click.echo(f"store      {status['storage']}  (revision {status['revision']})")
        click.echo(
            f"parts      index {parts['index']}, chunks {parts['chunks']}, cipher {parts['cipher']}"
            + ("  (states are stored unencrypted)" if parts["cipher"] == "none" else "")
        )
        click.echo(f"mode       {status['mode']}")
        counts = ", ".join(f"{n} {name}" for name, n in status["variants"].items() if n)
        click.echo(f"variants   {counts or 'none'}")
        click.echo(f"agents     {status['agents']}")
        click.echo(f"processes  {status['processes']}")
        for protocol, baseline in sorted(status["baselines"].items()):
            click.echo(f"baseline   {protocol}: {baseline}")
        for rollout in status["rollouts"]["running"]:
            click.echo(
                f"rollout    {rollout['variant']} against {rollout['control']}: {rollout['state']} at "
                f"{rollout['fraction']:.1%}, verdict {rollout['verdict']}"
                + (f" ({rollout['reason']})" if rollout["reason"] else "")
            )
        done = status["rollouts"]
        if done["success_rate"] is not None:
            click.echo(
                f"ended      {done['promoted']} promoted, {done['rolled_back']} rolled back, "
                f"{done['aborted']} aborted"
            )
        for name in status["breakers_shut"]:
            click.echo(f"breaker    {name} is shut")
        for protocol in status["safe_mode"]:
            click.echo(f"SAFE MODE  {protocol}: only its baseline is served")

    output.show(status, text)
