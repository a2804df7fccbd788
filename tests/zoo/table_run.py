"""`guestmemfs run` with a table instead of daemons: which mounts are regions, and what their files are.

    python tests/zoo/table_run.py TABLE.json [the options of guestmemfs run] -- COMMAND

The table: {"MAJOR:MINOR": {"kind": ..., "page_bytes": ..., "files": {"INO": layout}}}, a layout as the daemon
would send it; {"error": "text"} instead of one makes the question fail, and a list of layouts answers the
first, second ... question (the last one for good).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.linux.mountinfo import MountEntry
from guestmemfs_fuse.redirect.launch import Options, launch
from guestmemfs_fuse.redirect.layout import Layout
from guestmemfs_fuse.redirect.resolve import RegionFacts
from guestmemfs_fuse.redirect.tracee import LeavingRule


class TableResolver:
    """Answers from the table."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self._asked: dict[tuple[str, int], int] = {}

    def region_of(self, mount: MountEntry) -> RegionFacts | None:
        row = self._table.get(f"{mount.major}:{mount.minor}")
        return RegionFacts(row["kind"], row["page_bytes"]) if row else None

    def layout(self, mount: MountEntry, ino: int) -> Layout:
        device = f"{mount.major}:{mount.minor}"
        answers = self._table[device]["files"][str(ino)]
        asked = self._asked[device, ino] = self._asked.get((device, ino), -1) + 1
        if isinstance(answers, list):
            answers = answers[min(asked, len(answers) - 1)]
        if "error" in answers:
            raise DaemonError(answers["error"])
        return Layout.from_reply(answers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--no-share", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--until", type=int)
    parser.add_argument("--settle", type=float, default=0.3)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    with open(given.table) as file:
        table = json.load(file)
    rule = LeavingRule(given.settle, given.until, given.keep)
    options = Options(rule, share=not given.no_share, verbose=given.verbose)
    launch(given.command, options, lambda: TableResolver(table))


if __name__ == "__main__":
    main()
