"""``xenolect select``."""

from __future__ import annotations

import click

from xenolect._cli.common import Output, pair, say, store_command
from xenolect.manager import EmergenceManager
from xenolect.model import Agent, AgentContext


@click.command("select")
@click.argument("agent")
@click.option(
    "--protocol", default="default", show_default=True, help="Among the variants of this protocol."
)
@click.option("--session", help="The conversation, where rollouts assign sessions.")
@click.option(
    "--capability", "-c", multiple=True, metavar="NAME=VALUE", help="For an unregistered agent."
)
@store_command()
def command(
    manager: EmergenceManager,
    output: Output,
    agent: str,
    protocol: str,
    session: str | None,
    capability: tuple[str, ...],
) -> None:
    """Say which variant AGENT is served, why, and with which score."""
    who: Agent | str = agent
    if capability:
        who = Agent(
            agent,
            AgentContext(dict(pair(text, "--capability", versions=True) for text in capability)),
        )
    selection = manager.select(who, protocol, session)
    document = {
        "variant": selection.variant,
        "agent_id": selection.agent_id,
        "session": selection.session,
        "protocol": selection.protocol,
        "score": selection.score,
        "reason": selection.reason,
        "revision": selection.revision,
        "parts": selection.parts,
        "excluded": selection.excluded,
    }

    def text() -> None:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in selection.parts.items())
        say(f"{selection.variant.id}  ({selection.reason}, score {selection.score:.3f}: {parts})")
        for name, reason in selection.excluded.items():
            say(f"not {name}: {reason}")

    output.show(document, text)
