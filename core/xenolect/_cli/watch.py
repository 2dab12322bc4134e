"""``xenolect watch``: what happens now, drawn again and again until Ctrl-C."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import click

from xenolect._cli.common import Output, say, store_command, table
from xenolect.manager import EmergenceManager
from xenolect.model import VariantStatus

SHOWN = (
    VariantStatus.ACTIVE,
    VariantStatus.CANARY,
    VariantStatus.PAUSED,
    VariantStatus.TESTING,
)


@click.command("watch")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option(
    "--window",
    type=click.FloatRange(1.0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Rates are those of so long.",
)
@click.option("--once", is_flag=True, help="Look once, for scripts.")
@store_command()
def command(
    manager: EmergenceManager, output: Output, every: float, window: float, once: bool
) -> None:
    """Show rollouts, breakers and rates, live; Ctrl-C ends it."""
    try:
        while True:
            seen = look(manager, window)
            if sys.stdout.isatty() and not once and not output.machine:
                click.clear()
            output.show(seen, lambda seen=seen: _print(seen))  # type: ignore[misc]
            if once:
                return
            sys.stdout.flush()
            time.sleep(every)
    except KeyboardInterrupt:
        click.echo()


def look(manager: EmergenceManager, window: float) -> dict[str, Any]:
    """One look at the index: what it says now, whoever made it so."""
    manager._runtime.catch_up()  # and no tick: who watches decides nothing
    manager._breakers.follow()
    status = manager.status()
    rollouts = {each["variant"]: each for each in status["rollouts"]["running"]}
    variants = []
    for variant in manager.variants.list():
        if variant.status not in SHOWN:
            continue
        lately = manager.performance.history(variant, timedelta(seconds=window))
        breaker = manager.breakers.status(variant)
        variants.append(
            {
                "variant": variant.id,
                "protocol": variant.protocol,
                "status": str(variant.status),
                "baseline": status["baselines"].get(variant.protocol) == variant.id,
                "breaker": str(breaker.state),
                "per_second": lately.count / window,
                "success_rate": lately.success_rate,
                "p95": lately.p95,
                "rollout": rollouts.get(variant.id),
            }
        )
    return {
        "revision": status["revision"],
        "mode": status["mode"],
        "processes": status["processes"],
        "agents": status["agents"],
        "safe_mode": status["safe_mode"],
        "window": window,
        "variants": variants,
    }


def _print(seen: dict[str, Any]) -> None:
    say(
        f"revision {seen['revision']}, mode {seen['mode']}, {seen['processes']} processes, "
        f"{seen['agents']} agents"
    )
    for protocol in seen["safe_mode"]:
        say(f"SAFE MODE  {protocol}: only its baseline is served")
    if not seen["variants"]:
        say("no variant is served or tested")
        return
    table(
        ("variant", "protocol", "status", "breaker", "ops/s", "success", "p95 ms", "rollout"),
        [
            (
                each["variant"],
                each["protocol"],
                each["status"] + (" (baseline)" if each["baseline"] else ""),
                each["breaker"],
                f"{each['per_second']:,.3g}",
                "-" if each["success_rate"] is None else f"{each['success_rate']:.2%}",
                "-" if each["p95"] is None else f"{each['p95']:,.4g}",
                _rollout(each["rollout"]),
            )
            for each in seen["variants"]
        ],
    )


def _rollout(rollout: dict[str, Any] | None) -> str:
    if rollout is None:
        return "-"
    why = f" ({rollout['reason']})" if rollout["reason"] else ""
    return f"{rollout['state']} at {rollout['fraction']:.1%}, {rollout['verdict']}{why}"
