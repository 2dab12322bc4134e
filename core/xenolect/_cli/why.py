"""``xenolect why``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenolect import errors
from xenolect._cli.common import Output, say, store_command, table
from xenolect.manager import EmergenceManager
from xenolect.model import CanaryStatus, ProtocolVariant

if TYPE_CHECKING:
    from xenolect._cli.proof import Proof


@click.command("why")
@click.argument("name", metavar="AGENT_OR_VARIANT")
@click.option("--protocol", help="For an agent: only this protocol.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    help="For a variant: write its last rollout as a page with charts.",
)
@store_command()
def command(
    manager: EmergenceManager, output: Output, name: str, protocol: str | None, report: str | None
) -> int:
    """Explain: for an agent, every variant's verdict; for a variant, what became of it and on which
    evidence."""
    try:
        variant = manager.variants.get(name)
    except errors.VariantNotFoundError:
        if report is not None:
            raise errors.InvalidError(
                f"--report is of a variant's rollout, and no variant is called {name!r}"
            ) from None
        return _agent(manager, output, name, protocol)
    if report is not None:
        from xenolect._cli.proof import report as page

        Path(report).write_text(page(manager, variant.id), "utf-8")
    return _variant(manager, output, variant, report)


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


def _variant(
    manager: EmergenceManager, output: Output, variant: ProtocolVariant, report: str | None
) -> int:
    from xenolect._cli.proof import proof

    rollout: CanaryStatus | None
    try:
        rollout = manager.canaries.status(variant)
    except errors.NotFoundError:
        rollout = None
    found = None if rollout is None else proof(manager, variant.id)
    breaker = manager.breakers.status(variant)
    quarantine = manager.variants.quarantine(variant)
    document = {
        "variant": variant,
        "rollout": rollout,
        "proof": found,
        "report": report,
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
        if found is not None:
            _proof(found)
        if quarantine is not None:
            say(f"quarantine until {quarantine:%Y-%m-%d %H:%M} UTC: no new test before")
        if breaker.state != "closed":
            say(f"its breaker is {breaker.state}")
        if report is not None:
            say(f"report written to {report}")

    output.show(document, text)
    return 0


def _proof(found: Proof) -> None:
    if found.rule:
        rule = f"{found.rule}: {found.meaning}" if found.meaning else found.rule
        by = (
            "no judge was asked"
            if found.critical
            else f"judge {found.judge}, alpha {found.alpha:.3g}"
        )
        say(f"rule: {rule} ({by})")
    for name, value in found.critical.items():
        if name != "rule":
            say(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if not found.records:
        return
    if found.critical:
        say(f"records: {found.weighed}; the canary's last {len(found.records)}:")
    else:
        where = f"process {found.writer}" if found.by == "local" else "all processes together"
        say(f"weighed by {where}: {found.weighed} records; the canary's last {len(found.records)}:")
    table(
        ("record", "time", "unit", "operations", "failures", "latency_ms"),
        [
            (
                each.sequence,
                f"{datetime.fromtimestamp(each.at, UTC):%Y-%m-%d %H:%M:%S}",
                each.unit,
                each.operations,
                each.failures,
                "-" if each.latency_ms is None else f"{each.latency_ms:.1f}",
            )
            for each in found.records
        ],
    )


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
    ratio = evidence.get("sample_ratio") or {}
    if ratio.get("canary") or ratio.get("control"):
        say(
            f"first seen at {ratio['ppm'] / 1_000_000:.1%}: {ratio['canary']} {rollout.unit}s on the "
            f"canary, {ratio['control']} on control; that this is no chance {ratio['evidence']:.3g} "
            f"(held from 1000)"
        )
