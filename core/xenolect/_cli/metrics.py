"""``xenolect metrics``."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xenolect import errors
from xenolect._buckets import RESOLUTIONS
from xenolect._cli.common import Output, say, store_command, table
from xenolect.manager import EmergenceManager
from xenolect.model import PerformanceHistory

SHAPES = {"hourly": "%Y-%m-%d %H:%M", "daily": "%Y-%m-%d", "monthly": "%Y-%m"}
BARS = "▁▂▃▄▅▆▇█"
PLAIN = "_.:-=+*#"


@click.command("metrics")
@click.argument("variant")
@click.option(
    "--by",
    type=click.Choice(RESOLUTIONS),
    default="hourly",
    show_default=True,
    help="Hours, days or months, in UTC.",
)
@click.option("--last", type=click.IntRange(1), default=24, show_default=True, help="How many.")
@click.option("--plot", is_flag=True, help="Draw them.")
@click.option(
    "--parquet", metavar="FILE", help="Write all that are kept (needs xenolect[parquet])."
)
@store_command()
def command(
    manager: EmergenceManager,
    output: Output,
    variant: str,
    by: str,
    last: int,
    plot: bool,
    parquet: str | None,
) -> None:
    """Show what was measured of VARIANT in each hour, day or month."""
    found = manager.performance.rollups(manager.variants.get(variant), by)
    if parquet is not None:
        write_parquet(Path(parquet), variant, by, found)
        document = {"file": parquet, "rows": len(found)}
        output.show(document, lambda: say(f"{parquet}: {len(found)} rows"))
        return
    found = found[-last:]

    def text() -> None:
        if not found:
            say(f"nothing was measured of {variant}")
        elif plot:
            draw(found, by)
        else:
            table(
                ("from", "operations", "success", "p50 ms", "p95 ms", "p99 ms", "others"),
                [row(each, by) for each in found],
            )

    output.show({"variant": variant, "resolution": by, "rollups": found}, text)


def row(each: PerformanceHistory, by: str) -> tuple[str, ...]:
    """One bucket, for people."""
    others = {"usage": each.resource_usage, "throughput": each.throughput, **each.custom}
    return (
        _start(each, by),
        f"{each.count:,.0f}",
        _share(each.success_rate),
        *(_number(value) for value in (each.p50, each.p95, each.p99)),
        ", ".join(f"{name} {_number(value)}" for name, value in others.items() if value is not None)
        or "-",
    )


def _start(each: PerformanceHistory, by: str) -> str:
    return "-" if each.since is None else each.since.strftime(SHAPES[by])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def draw(found: Sequence[PerformanceHistory], by: str) -> None:
    """Three lines of bars: how much, how well, how fast; each from its least to its most."""
    click.echo(f"{_start(found[0], by)} to {_start(found[-1], by)} (UTC)")
    lines: tuple[tuple[str, Sequence[float | None], str], ...] = (
        ("operations", [each.count for each in found], "{:,.0f}"),
        ("success", [each.success_rate for each in found], "{:.2%}"),
        ("p95 ms", [each.p95 for each in found], "{:,.4g}"),
    )
    for name, values, shape in lines:
        known = [value for value in values if value is not None]
        if known:
            ends = f"{shape.format(min(known))} to {shape.format(max(known))}"
            click.echo(f"{name:<11}{bars(values)}  {ends}")


def bars(values: Sequence[float | None]) -> str:
    """A character for each value; a blank where there is none."""
    known = [value for value in values if value is not None]
    low, span = min(known), (max(known) - min(known)) or 1.0
    signs = BARS if _can_draw() else PLAIN
    return "".join(
        " " if value is None else signs[min(7, int((value - low) / span * 8))] for value in values
    )


def _can_draw() -> bool:
    try:
        BARS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def write_parquet(file: Path, variant: str, by: str, found: Sequence[PerformanceHistory]) -> None:
    """One row for each bucket; declared metrics as a JSON column ``custom``. PluginError, StorageError."""
    try:
        pa: Any = importlib.import_module("pyarrow")
        pq: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as cause:
        raise errors.PluginError(
            "--parquet needs pyarrow; install it: pip install 'xenolect[parquet]'"
        ) from cause
    moment = pa.timestamp("us", tz="UTC")
    columns = {
        "variant": pa.array([variant] * len(found), pa.string()),
        "resolution": pa.array([by] * len(found), pa.string()),
        "since": pa.array([each.since for each in found], moment),
        "until": pa.array([each.until for each in found], moment),
        "count": pa.array([int(each.count) for each in found], pa.int64()),
        "failures": pa.array([int(each.failures) for each in found], pa.int64()),
        **{
            name: pa.array([getattr(each, name) for each in found], pa.float64())
            for name in ("success_rate", "p50", "p95", "p99", "resource_usage", "throughput")
        },
        "custom": pa.array(
            [json.dumps(dict(each.custom), sort_keys=True) for each in found], pa.string()
        ),
    }
    try:
        pq.write_table(pa.table(columns), file)
    except OSError as cause:
        raise errors.StorageError(f"{file} can not be written: {cause}") from cause
