"""``xenolect init``."""

from __future__ import annotations

from pathlib import Path

import click

from xenolect import errors
from xenolect._cli.common import Output, place_of, say, store_options
from xenolect.manager import EmergenceManager

TEMPLATE = """\
# The settings of this store; every one is described in docs/config.md. What stands here is the default.

# max_variants = 100
# incremental_adoption = true      # false: variants become active without a rollout

# [cipher]
# use = "none"                     # states are stored as they are. "aes-gcm" seals them: make a key
#                                  # (`xenolect keys new > KEYFILE`) and name it: keys = { file = "KEYFILE" }

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
@click.argument("directory", required=False)
@store_options
def command(directory: str | None, storage: str | None, config: str | None, machine: bool) -> None:
    """Make a store in DIRECTORY (default: variants/); what is there already is left alone.

    With --config nothing is written but the store that the file describes.
    """
    output = Output(machine)
    try:
        if directory is not None and (storage is not None or config is not None):
            raise errors.InvalidError("give DIRECTORY, --storage or --config, only one of them")
        place = place_of(directory if directory is not None else storage, config)
        settings = None if config is not None or "://" in place else Path(place) / "xenolect.toml"
        if settings is not None and settings.parent.suffix == ".toml":
            raise errors.InvalidError(
                f"{place} is the name of a file with settings; give a directory, or --config {place}"
            )
        written = settings is not None and _write(settings)
        with EmergenceManager.open(place, background=False, process=False, actor="cli") as manager:
            status = manager.status()
    except errors.EmergenceError as error:
        raise SystemExit(output.fail(error)) from None

    def text() -> None:
        say(f"store     {status['storage']}: {sum(status['variants'].values())} variants")
        if settings is not None:
            how = "written, every setting commented" if written else "kept as it is"
            say(f"settings  {settings}: {how}")
        if not status["revision"]:
            say(
                "next      xenolect propose --id json --description 'plain JSON' "
                '--changes \'{"wire": "json"}\' --activate'
            )

    document = {
        "storage": status["storage"],
        "created": written,
        "settings": None if settings is None else str(settings),
    }
    output.show(document, text)


def _write(settings: Path) -> bool:
    """Write the template where there is no file yet; was it written?"""
    try:
        settings.parent.mkdir(parents=True, exist_ok=True)
        with settings.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        if settings.is_file():
            return False
        raise errors.StorageError(
            f"{settings.parent} is not a directory; name another place"
        ) from None
    except OSError as error:
        raise errors.StorageError(
            f"{settings.parent} can not be written: {error.strerror}"
        ) from error
    return True
