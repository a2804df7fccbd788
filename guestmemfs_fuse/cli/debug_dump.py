"""`guestmemfs debug-dump`: everything a bug report needs, in one JSON file."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result

_EXAMPLES = """\b
Examples:
  guestmemfs debug-dump guests --output report.json
"""


@click.command("debug-dump", epilog=_EXAMPLES)
@click.argument("target")
@click.option("--output", metavar="FILE", help="Write to FILE, readable by root only.  [default: -, stdout]")
def debug_dump(target: str, output: str | None) -> None:
    """Collect what a bug report about TARGET needs: configuration, state, journal tail, log, and processes.

    Reads only, and works whatever the instance's condition. There are no guest bytes in it, but the names
    of files and processes are.
    """
    host.require_root()
    import json
    import os
    import stat

    from guestmemfs_fuse.cli.dumping import collect
    from guestmemfs_fuse.metadata.instance import find

    dump = collect(find(target))
    if output is None or output == "-":
        print_json(dump)
        return
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.fchmod(fd, 0o600)  # it may have been there
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(dump, file, indent=2)
        file.write("\n")
    result(f"{output}: {os.path.getsize(output)} bytes")
