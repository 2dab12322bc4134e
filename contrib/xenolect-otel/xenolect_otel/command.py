"""``xenolect prometheus``: the metrics of a store for Prometheus, and the dashboard for Grafana."""

from __future__ import annotations

import os
import threading
from importlib.resources import files

import click

from xenolect import EmergenceError
from xenolect.units import seconds_of

__all__ = ["dashboard", "prometheus"]


def dashboard() -> str:
    """The Grafana dashboard, as JSON to import."""
    return files("xenolect_otel").joinpath("grafana.json").read_text("utf-8")


@click.command("prometheus")
@click.option("--storage", metavar="PATH_OR_URL", help="The store (default: variants/).")
@click.option("--config", metavar="FILE", help="A TOML file that says where the store is.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--window", default="5m", show_default=True, help="What latencies and success rates are of."
)
@click.option("--once", is_flag=True, help="Print the metrics and end.")
@click.option("--dashboard", "grafana", is_flag=True, help="Print a Grafana dashboard and end.")
def prometheus(
    storage: str | None,
    config: str | None,
    port: int,
    address: str,
    window: str,
    once: bool,
    grafana: bool,
) -> None:
    """Serve the metrics of a store to Prometheus, under /metrics; Ctrl-C ends it."""
    if grafana:
        click.echo(dashboard())
        return
    if storage is not None and config is not None:
        raise click.UsageError("give --storage or --config, not both")
    place = storage or config or os.environ.get("XENOLECT__STORAGE") or "variants/"
    try:
        seconds = seconds_of(window)
    except ValueError as error:
        raise click.UsageError(f"--window: {error}") from None
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server

        from xenolect_otel.prometheus import StoreCollector
    except ImportError:
        raise click.ClickException(
            "this needs prometheus-client; install it: pip install 'xenolect-otel[prometheus]'"
        ) from None
    if "://" not in place and not os.path.exists(place):
        raise click.ClickException(f"there is no store in {place!r}")
    registry = CollectorRegistry()
    registry.register(StoreCollector(place, window=seconds))
    if once:
        try:
            click.echo(generate_latest(registry).decode(), nl=False)
        except EmergenceError as error:
            raise click.ClickException(str(error)) from None
        return
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise click.ClickException(f"{address}:{port}: {error.strerror}") from None
    click.echo(f"http://{address}:{server.server_port}/metrics")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
