"""`guestmemfs metrics`: figures for Prometheus, once, into a file, or over HTTP on this host only.

prometheus_client renders, replaces the file and serves; it is imported by nothing else, least by the daemon.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.seconds import Seconds
from guestmemfs_fuse.core.errors import GuestmemfsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"

_EXAMPLES = """\b
Examples:
  guestmemfs metrics
  guestmemfs metrics --textfile /var/lib/prometheus/node-exporter/guestmemfs.prom --every 15
  guestmemfs metrics --metrics-listen 9464
"""


@click.command(epilog=_EXAMPLES)
@click.option("--textfile", metavar="FILE", help="Write them to FILE, replaced as a whole.")
@click.option("--every", type=Seconds(1), metavar="SECONDS", help="With --textfile: again and again.")
@click.option(
    "--metrics-listen",
    "--listen",
    "port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help=f"Serve them on {LOOPBACK}:PORT.",
)
def metrics(textfile: str | None, every: float | None, port: int | None) -> None:
    """Print the figures of all instances as Prometheus metrics.

    Names and units are in docs/operations.md. Every scrape asks the daemons anew.
    """
    host.require_root()
    if every is not None and textfile is None:
        raise click.UsageError("--every goes with --textfile")
    if port is not None and textfile is not None:
        raise click.UsageError("either --metrics-listen or --textfile")
    registry = _registry()
    if port is not None:
        _serve(port, registry)
    elif textfile is None:
        from prometheus_client import generate_latest

        click.echo(generate_latest(registry), nl=False)
    else:
        _write(textfile, every, registry)


def _registry() -> CollectorRegistry:
    """What a scrape asks: us, and nothing about this process (which is not the daemon)."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class Instances(Collector):
        def collect(self) -> Iterable[Metric]:
            return collect()

        def describe(self) -> Iterable[Metric]:
            return []  # registering asks nobody

    registry = CollectorRegistry()
    registry.register(Instances())
    return registry


def collect() -> list[Metric]:
    """Ask every instance now."""
    from guestmemfs_fuse.cli import daemons, survey
    from guestmemfs_fuse.cli.exposition import Seen, families
    from guestmemfs_fuse.cli.sight import Condition
    from guestmemfs_fuse.core.errors import DaemonError
    from guestmemfs_fuse.metadata.instance import BrokenInstance, all_instances

    seen = []
    for each in all_instances():
        if isinstance(each, BrokenInstance):
            seen.append(Seen(each.name, Condition.BROKEN.value, None))
            continue
        found, status = survey.examine(each), None
        if found.pong is not None:
            try:
                status = daemons.ask(each, "status")
            except DaemonError as error:
                say(f"{each.name}: {error.message}")
        seen.append(Seen(each.name, found.condition.value, status))
    return families(seen)


def _write(path: str, every_s: float | None, registry: CollectorRegistry) -> None:
    from prometheus_client import write_to_textfile

    os.umask(0o022)  # node-exporter is not root
    try:
        write_to_textfile(path, registry)
        while every_s is not None:
            time.sleep(every_s)
            write_to_textfile(path, registry)
    except OSError as error:  # which names a temporary file
        raise GuestmemfsError(f"{path} cannot be written: {error.strerror}") from error


def _serve(port: int, registry: CollectorRegistry) -> None:
    from prometheus_client import start_http_server

    try:
        _server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise GuestmemfsError(f"{LOOPBACK}:{port} cannot be listened on: {error.strerror}") from error
    say(f"serving http://{LOOPBACK}:{port}/metrics")
    thread.join()
