"""docs/concurrency.md names files, classes and functions: all of them exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "concurrency.md"
PACKAGE = REPOSITORY / "guestmemfs_fuse"
_OTHERS = {"WatchdogSec=", "MAINPID=", "holder.pid", "make soak", "pyfuse3.main"}
"""Words of others: systemd's, a file's at run time, a target's, a library's."""


def named() -> list[str]:
    """What the page says of our code: Class.method, function, file.py or room/file.function."""
    words = dict.fromkeys(re.findall(r"`([^`\n]+)`", PAGE.read_text()))
    return [word for word in words if word not in _OTHERS]


def test_whatever_it_names_is_there() -> None:
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    missing = []
    for word in named():
        if "/" in word:
            path = word if word.startswith("tests/") else f"guestmemfs_fuse/{word}"
            file, _, attribute = path.partition(".")
            if (REPOSITORY / path).exists() or (REPOSITORY / file).exists():
                continue
            source = REPOSITORY / f"{file}.py"
            if not source.exists() or not re.search(rf"\b{attribute}\b", source.read_text()):
                missing.append(word)
            continue
        parts = re.findall(r"[A-Za-z_]\w*", word)
        missing += [word for part in parts[:2] if not re.search(rf"\b{part}\b", sources)]
    assert len(named()) > 50
    assert missing == []
