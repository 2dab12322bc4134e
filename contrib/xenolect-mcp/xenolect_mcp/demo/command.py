"""``xenolect demo``."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import click
from rich.console import Console

__all__ = ["demo"]

MOST = 800


@click.command(
    "demo", short_help="Roll five changes out to 42 real MCP clients; some must be stopped."
)
@click.option(
    "--sessions",
    type=click.IntRange(40, MOST),
    default=600,
    show_default=True,
    help="Conversations that each phase may deal (800 is all there are); most need 200.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("xenolect-demo"),
    show_default=True,
    help="Directory for report.html and report.json.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Who gets which conversation, and which arm."
)
@click.option(
    "--keep",
    is_flag=True,
    help="Keep the store in OUT/store, to look at it with the other commands.",
)
@click.option(
    "--execute",
    is_flag=True,
    help="Run the tool suites (package bfcl-eval) instead of replaying what they returned.",
)
def demo(sessions: int, as_json: bool, out: Path, seed: int, keep: bool, execute: bool) -> None:
    """Five changes of protocol for a fleet of real MCP clients, with nothing planted.

    A real MCP server in another process answers tool calls over HTTP on this machine; two managers,
    one in each process, share a store in a directory. Exit code 0 only if what should stop was
    stopped, what should pass was promoted, no other call failed, and a replay has no failure.
    """
    from xenolect_mcp.demo import report
    from xenolect_mcp.demo.live import LiveScreen, verdict
    from xenolect_mcp.demo.play import Play, policy_text
    from xenolect_mcp.demo.screen import Screen

    if execute:
        from xenolect_mcp.demo import suites

        suites.require()
    warnings.filterwarnings("ignore", module="mcp")
    for name in ("mcp", "client", "httpx2", "xenolect"):
        # failed calls are the demo's subject and are counted; the SDK would print a trace of each
        logging.getLogger(name).setLevel(logging.CRITICAL)

    out.mkdir(parents=True, exist_ok=True)
    store = out / "store"
    if keep:
        shutil.rmtree(store, ignore_errors=True)
    else:
        store = Path(tempfile.mkdtemp(prefix="xenolect-demo-"))
    console = Console(stderr=as_json)
    try:
        if as_json:
            play = Play(store, sessions=sessions, seed=seed, screen=Screen(), execute=execute)
            results = asyncio.run(play.run())
        else:
            with LiveScreen(console, policy_text()) as screen:
                play = Play(store, sessions=sessions, seed=seed, screen=screen, execute=execute)
                results = asyncio.run(play.run())
    finally:
        if not keep:
            shutil.rmtree(store, ignore_errors=True)
    page, data = report.write(results, out)
    if as_json:
        click.echo(data.read_text("utf-8"))
    else:
        console.print(verdict(results, page))
    sys.exit(1 if results.problems else 0)


if __name__ == "__main__":
    demo()
