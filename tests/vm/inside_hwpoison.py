"""Runs inside a VM whose kernel handles memory failures (test_hwpoison.py): lose pages, see what we say.

Writes one JSON object of what was found.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

from .inside_instances import COMMAND, MIB, STATE, ask, extents, kill_daemon, lose, mount, run, sized, use

REGION = STATE / "huge/region/region"


def poisoned(name: str) -> Any:
    return {row["path"]: row["poisoned"] for row in ask(name, "status")["files"]}


def in_tmpfs(found: dict[str, Any]) -> None:
    directory = mount("small", "--size", "32M")
    file = sized(directory / "ram", 16)
    found["tmpfs before"] = poisoned("small")
    lose(file, 0, 16 * MIB, 5 * MIB + 4096)
    found["tmpfs"] = poisoned("small")
    file.unlink()
    new = sized(directory / "new", 32)
    use(new, 0, 32 * MIB)
    found["tmpfs new"] = poisoned("small")


def in_hugetlb(found: dict[str, Any]) -> None:
    directory = mount("huge", "--region", "hugetlb", "--size", "32M", "--reserve")
    sized(directory / "before", 4)
    file = sized(directory / "ram", 8)
    ((at, length),) = extents("huge", "/ram")
    lose(REGION, at, length, 3 * MIB)  # in the second block of the file
    found["hugetlb"] = poisoned("huge")
    found["map"] = ask("huge", "map", path="/ram")["poisoned"]
    found["text"] = run(COMMAND, "map", str(file))
    found["log"] = (STATE / "huge/daemon.log").read_text().count("memory errors in inode")
    found["quarantined"] = ask("huge", "status")["region"]["hugetlb"]["quarantined_bytes"]
    kill_daemon("huge")
    found["next daemon"] = poisoned("huge")
    file.unlink()
    # All that is left: the bad block is not among it, and every page of it can be stored to.
    found["free"] = ask("huge", "status")["region"]["free_bytes"]
    sized(directory / "other", found["free"] // MIB)
    pieces = extents("huge", "/other")
    for start, size in pieces:
        use(REGION, start, size)
    found["has the bad block"] = any(start <= at + 3 * MIB < start + size for start, size in pieces)
    run(COMMAND, "umount", "huge")
    mount("huge")
    (directory / "other").unlink()
    found["free after remount"] = ask("huge", "status")["region"]["free_bytes"]
    found["at the end"] = poisoned("huge")
    # Lost while nobody asks: found when the file is given up.
    last = sized(directory / "last", 8)
    ((at, length),) = extents("huge", "/last")
    lose(REGION, at, length, 0)
    last.unlink()
    found["free after the second"] = ask("huge", "status")["region"]["free_bytes"]


def main() -> None:
    faulthandler.enable()  # a page that is lost and touched all the same is SIGBUS
    found: dict[str, Any] = {}
    try:
        in_tmpfs(found)
        in_hugetlb(found)
    finally:
        Path(sys.argv[1]).write_text(json.dumps(found))
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
