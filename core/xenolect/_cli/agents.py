"""``xenolect agents``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from xenolect._cli.common import Output, pair, say, store_command, table
from xenolect._cli.groups import ListByDefault
from xenolect.manager import EmergenceManager
from xenolect.model import Agent, AgentContext


@click.group("agents", cls=ListByDefault)
def command() -> None:
    """List agents (default), or register, update and remove them."""


@command.command("list")
@store_command()
def list_(manager: EmergenceManager, output: Output) -> None:
    """List agents."""
    agents = manager.agents.list()
    if not agents and not output.machine:
        say("no agents; register one with `xenolect agents register NAME --capability zstd=1.5`")
        return
    output.show(
        agents,
        lambda: table(
            ("id", "version", "platform", "capabilities"),
            [
                (
                    a.id,
                    a.context.version or "-",
                    a.context.platform or "-",
                    _words(a.context.capabilities),
                )
                for a in agents
            ],
        ),
    )


def _words(capabilities: Mapping[str, Any]) -> str:
    """As they are typed after --capability."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(capabilities.items())
    )


def _context(
    capability: tuple[str, ...], preference: tuple[str, ...], version: str, platform: str
) -> AgentContext:
    return AgentContext(
        dict(pair(text, "--capability", versions=True) for text in capability),
        dict(pair(text, "--preference") for text in preference),
        version,
        platform,
    )


def _said(agent: Agent, output: Output, what: str) -> None:
    output.show(agent, lambda: say(f"{agent.id}  {what}  version {agent.version}"))


def _describing(verb: Callable[..., None]) -> Callable[..., None]:
    """The options that say what an agent is."""
    for option in (
        click.option("--platform", default="", help="Where it runs; requirements may name it."),
        click.option(
            "--version", default="", help="The agent's own version; requirements may name it."
        ),
        click.option(
            "--preference",
            "-p",
            multiple=True,
            metavar="METRIC=WEIGHT",
            help="What matters to it; may be repeated.",
        ),
        click.option(
            "--capability",
            "-c",
            multiple=True,
            metavar="NAME=VALUE",
            help="What it can do; may be repeated.",
        ),
    ):
        verb = option(verb)
    return verb


@command.command("register")
@click.argument("agent")
@_describing
@store_command()
def register(
    manager: EmergenceManager,
    output: Output,
    agent: str,
    capability: tuple[str, ...],
    preference: tuple[str, ...],
    version: str,
    platform: str,
) -> None:
    """Register AGENT with its capabilities."""
    context = _context(capability, preference, version, platform)
    _said(manager.agents.register(agent, context), output, "registered")


@command.command("update")
@click.argument("agent")
@_describing
@store_command()
def update(
    manager: EmergenceManager,
    output: Output,
    agent: str,
    capability: tuple[str, ...],
    preference: tuple[str, ...],
    version: str,
    platform: str,
) -> None:
    """Replace AGENT's capabilities and preferences."""
    context = _context(capability, preference, version, platform)
    _said(manager.agents.update(agent, context), output, "updated")


@command.command("remove")
@click.argument("agent")
@store_command()
def remove(manager: EmergenceManager, output: Output, agent: str) -> None:
    """Forget AGENT."""
    manager.agents.remove(agent)
    output.show({"removed": agent}, lambda: say(f"{agent}  removed"))
