"""`guestmemfs metrics`: figures for Prometheus, once, into a file, or over HTTP on this host only."""

from __future__ import annotations

import os
import time

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import say

_EXAMPLES = """\b
Examples:
  guestmemfs metrics
  guestmemfs metrics --textfile /var/lib/prometheus/node-exporter/guestmemfs.prom
  guestmemfs metrics --listen 9464
"""


@click.command(epilog=_EXAMPLES)
@click.option("--textfile", metavar="FILE", help="Write them to FILE, replaced as a whole.")
@click.option("--every", type=float, metavar="SECONDS", help="With --textfile: again and again.")
@click.option("--listen", type=click.IntRange(1, 65535), metavar="PORT", help="Serve them on 127.0.0.1:PORT.")
def metrics(textfile: str | None, every: float | None, listen: int | None) -> None:
    """Print the figures of all instances as Prometheus metrics.

    Names and units are in docs/operations.md. Every scrape asks the daemons anew.
    """
    host.require_root()
    if every is not None and textfile is None:
        raise click.UsageError("--every goes with --textfile")
    if listen is not None:
        if textfile is not None:
            raise click.UsageError("either --listen or --textfile")
        _serve(listen)
        return
    if textfile is None:
        click.echo(collect(), nl=False)
        return
    write(textfile)
    while every is not None:
        time.sleep(max(1.0, every))
        write(textfile)


def collect() -> str:
    """Ask every instance and render what came back."""
    from guestmemfs_fuse.cli import daemons, survey
    from guestmemfs_fuse.cli.exposition import Seen, exposition
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
    return exposition(seen)


def write(path: str) -> None:
    """Replace the file as a whole: a collector never sees half of it. Raises OSError."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(collect())
    os.chmod(path + ".new", 0o644)
    os.rename(path + ".new", path)


def _serve(port: int) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        """GET /metrics; anything else is not here."""

        def do_GET(self) -> None:
            if self.path not in ("/", "/metrics"):
                self.send_error(404)
                return
            body = collect().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        say(f"serving http://127.0.0.1:{port}/metrics")
        server.serve_forever()
