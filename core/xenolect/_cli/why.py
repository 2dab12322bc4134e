"""``xenolect why``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from xenolect import errors
from xenolect._cli.common import Output, say, store_command, table
from xenolect.manager import EmergenceManager
from xenolect.model import CanaryStatus, ProtocolVariant


@click.command("why")
@click.argument("name", metavar="AGENT_OR_VARIANT")
@click.option("--protocol", help="For an agent: only this protocol.")
@store_command()
def command(manager: EmergenceManager, output: Output, name: str, protocol: str | None) -> int:
    """Explain: for an agent, every variant's verdict; for a variant, what became of it and on which
    evidence."""
    try:
        variant = manager.variants.get(name)
    except errors.VariantNotFoundError:
        return _agent(manager, output, name, protocol)
    return _variant(manager, output, variant)


def _agent(manager: EmergenceManager, output: Output, name: str, protocol: str | None) -> int:
    try:
        rows = manager.explain(name, protocol)
    except errors.AgentNotFoundError:
        raise errors.NotFoundError(
            f"neither a variant nor an agent is called {name!r}; see `xenolect variants` and "
            f"`xenolect agents`"
        ) from None
    output.show(
        rows,
        lambda: table(
            ("", "variant", "score", "verdict"),
            [
                (
                    "->" if row.chosen else "",
                    row.variant.id,
                    f"{row.score:.3f}" if row.score is not None else "-",
                    row.reason,
                )
                for row in rows
            ],
        ),
    )
    return 0


def _variant(manager: EmergenceManager, output: Output, variant: ProtocolVariant) -> int:
    rollout: CanaryStatus | None
    try:
        rollout = manager.canaries.status(variant)
    except errors.NotFoundError:
        rollout = None
    breaker = manager.breakers.status(variant)
    quarantine = manager.variants.quarantine(variant)
    document = {
        "variant": variant,
        "rollout": rollout,
        "quarantine": quarantine,
        "breaker": breaker,
        "history": manager.performance.history(variant),
        "points": manager.points.list(variant),
    }

    def text() -> None:
        say(f"{variant.id} is {variant.status} (version {variant.version})")
        if rollout is None:
            say("it never had a rollout")
        else:
            _rollout(rollout)
        if quarantine is not None:
            say(f"quarantine until {quarantine:%Y-%m-%d %H:%M} UTC: no new test before")
        if breaker.state != "closed":
            say(f"its breaker is {breaker.state}")

    output.show(document, text)
    return 0


def _rollout(rollout: CanaryStatus) -> None:
    share = f"{rollout.fraction:.1%} of the {rollout.unit}s"
    say(
        f"rollout {rollout.attempt} against {rollout.control_id}: {rollout.state}, level "
        f"{rollout.level + 1} of {len(rollout.levels)}, {share}"
    )
    if rollout.reason:
        say(f"reason: {rollout.reason}")
    evidence: Mapping[str, Any] = rollout.evidence
    if evidence.get("canary_operations") or evidence.get("control_operations"):
        say(
            f"canary: {evidence['canary_failures']} of {evidence['canary_operations']} operations "
            f"failed, {evidence['canary_units']} {rollout.unit}s; control: "
            f"{evidence['control_failures']} of {evidence['control_operations']}, "
            f"{evidence['control_units']} {rollout.unit}s"
        )
        say(
            f"evidence of harm {evidence['e_value']:.3g} (rolled back at "
            f"{evidence['threshold']:.3g}); that it is not worse {evidence['noninferiority']:.3g} "
            f"(promoted from {evidence['promote_at']:.3g})"
        )
