"""docs/fsck.md names every kind of problem, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = (
    "core/check.py",
    "engine/fsck.py",
    "engine/fsck_metadata.py",
    "engine/fsck_offline.py",
    "cli/checking.py",
)


def test_every_kind_is_documented_and_every_documented_kind_exists() -> None:
    made = set[str]()
    for source in SOURCES:
        text = (REPOSITORY / "guestmemfs_fuse" / source).read_text()
        made |= set(re.findall(r'(?:Problem|Finding)\(\s*"([a-z-]+)"', text))
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", (REPOSITORY / "docs" / "fsck.md").read_text(), re.M)
    assert made == {kind for row in rows for kind in re.findall(r"`([a-z-]+)`", row)}
    assert len(made) > 20
