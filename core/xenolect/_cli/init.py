"""``xenolect init``."""

from __future__ import annotations

from pathlib import Path

import click

from xenolect import errors
from xenolect._cli.common import Output
from xenolect.manager import EmergenceManager

TEMPLATE = """\
# The settings of this store; every one is described in docs/config.md. What stands here is the default.

# max_variants = 100
# incremental_adoption = true      # false: variants become active without a rollout

# [canary]
# initial_fraction = 0.10
# ramp_steps = 5
# health_check_interval = "5m"
# unit = "agent"                   # or "session": small fleets of busy agents randomise conversations
# min_effect = 0.01                # the smallest difference in failure rate that matters

# [breaker]
# failure_threshold = 5
# reset_timeout = "30s"

# [scoring]
# performance = 0.3
# compatibility = 0.4
# stability = 0.3
"""


@click.command("init")
@click.argument("directory", default="variants/", type=click.Path(file_okay=False))
@click.option("--json", "machine", is_flag=True, help="One JSON document on standard output.")
def command(directory: str, machine: bool) -> None:
    """Make a store in DIRECTORY (default: variants/); what is there already is left alone."""
    output = Output(machine)
    try:
        settings = Path(directory) / "xenolect.toml"
        fresh = not settings.exists()
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            if fresh:
                settings.write_text(TEMPLATE, "utf-8")
        except OSError as error:
            raise errors.StorageError(
                f"{directory} can not be written: {error.strerror}"
            ) from error
        with EmergenceManager.open(directory, background=False, process=False) as manager:
            status = manager.status()
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None

    def text() -> None:
        click.echo(f"store {directory}: {sum(status['variants'].values())} variants")
        click.echo(
            f"{settings}: {'written, every setting commented' if fresh else 'kept as it is'}"
        )
        if fresh:
            click.echo(
                "next: xenolect propose --id json --description 'plain JSON' "
                '--changes \'{"wire": "json"}\''
            )

    output.show({"storage": directory, "created": fresh, "settings": str(settings)}, text)
