"""``xenolect canary``."""

from __future__ import annotations

from typing import Any

import click

from xenolect import errors
from xenolect._cli.common import Output, pair, say, store_command, table
from xenolect._cli.groups import Verbs
from xenolect._cli.why import _rollout
from xenolect.manager import EmergenceManager
from xenolect.model import CanaryStatus
from xenolect.units import format_seconds


@click.group("canary", cls=Verbs)
def command() -> None:
    """Start, watch and steer rollouts."""


def _show(status: CanaryStatus, output: Output) -> None:
    def text() -> None:
        say(status.variant_id)
        _rollout(status)
        if status.expected_decision is not None and status.next_check_at is not None:
            say(f"expected to need {format_seconds(status.expected_decision)} to decide")

    output.show(status, text)


@command.command("start")
@click.argument("variant")
@click.option("--control", help="Whom it is compared with (default: the baseline).")
@click.option("--replaces", help="The active variant that its promotion deprecates.")
@click.option("--fraction", type=float, help="The first share, as in 0.1.")
@click.option("--steps", type=int, help="Steps after the first share.")
@click.option("--level", multiple=True, type=float, help="An explicit share; repeat it.")
@click.option("--unit", type=click.Choice(["agent", "session"]), help="What is assigned to an arm.")
@click.option("--judge", help="Who weighs the evidence.")
@click.option(
    "--min-effect", type=float, help="The smallest difference in failure rate that matters."
)
@click.option("--seed", help="Assign units as another rollout with this seed did.")
@click.option(
    "--option", multiple=True, metavar="NAME=VALUE", help="Any other setting of [canary]."
)
@store_command()
def start(
    manager: EmergenceManager,
    output: Output,
    variant: str,
    control: str | None,
    replaces: str | None,
    fraction: float | None,
    steps: int | None,
    level: tuple[float, ...],
    unit: str | None,
    judge: str | None,
    min_effect: float | None,
    seed: str | None,
    option: tuple[str, ...],
) -> None:
    """Let VARIANT reach a few units first."""
    options: dict[str, Any] = dict(pair(text, "--option") for text in option)
    if level:
        options["levels"] = list(level)
    status = manager.canaries.start(
        variant,
        control=control,
        replaces=replaces,
        initial_fraction=fraction,
        ramp_steps=steps,
        unit=unit,
        judge=judge,
        min_effect=min_effect,
        seed=seed,
        **options,
    )
    _show(status, output)


@command.command("status")
@click.argument("variant", required=False)
@store_command()
def status(manager: EmergenceManager, output: Output, variant: str | None) -> None:
    """Where VARIANT's rollout stands, or every variant's last one."""
    if variant is not None:
        _show(manager.canaries.status(variant), output)
        return
    found = []
    for each in manager.variants.list():
        try:
            found.append(manager.canaries.status(each))
        except errors.NotFoundError:
            continue
    if not found and not output.machine:
        say("no rollout yet; start one with `xenolect canary start VARIANT`")
        return
    output.show(
        found,
        lambda: table(
            ("variant", "control", "state", "share", "verdict", "reason"),
            [
                (s.variant_id, s.control_id, s.state, f"{s.fraction:.1%}", s.verdict, s.reason)
                for s in found
            ],
        ),
    )


def _verb(name: str, help_: str, forcible: bool = False) -> None:
    def run(manager: EmergenceManager, output: Output, variant: str, **options: Any) -> None:
        _show(getattr(manager.canaries, name)(variant, **options), output)

    run.__doc__ = help_
    run.__name__ = name
    wrapped = store_command()(run)
    if forcible:
        wrapped = click.option("--force", is_flag=True, help="Without evidence; audited.")(wrapped)
        wrapped = click.option("--reason", default="", help="Why; kept in the journal.")(wrapped)
    command.command(name)(click.argument("variant")(wrapped))


_verb("pause", "Serve VARIANT to nobody until it is resumed.")
_verb("resume", "Go on where the rollout was paused or held.")
_verb("promote", "Make VARIANT active now; needs the judge's evidence, or --force.", True)
_verb("abort", "End the rollout without blame; content and state go back.")
