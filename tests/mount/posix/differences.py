"""What the mount answers otherwise than tmpfs, and why: the one table. docs/semantics.md presents it.

A check whose id is in here must answer `ours` on the mount. test_semantics_doc.py holds the document to
this table, and the suite fails when an entry is no longer true.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """ours: the mount's answer; reason: the heading in docs/semantics.md that explains it."""

    ours: object
    reason: str


DATA = "No data by system call"

DIFFERENCES: dict[str, Difference] = {}
