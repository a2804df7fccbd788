"""What a guest waits for while its kernel is replaced: steps of tests/vm/inside_kexec.py, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping

_STAMPS = ("save", "saved", "umount", "kexec", "userspace", "mount", "mounted", "restored")


def blackout(files: Mapping[str, bytes], unmounting: str, mounting: str) -> list[tuple[str, float]]:
    """(what, seconds) in the order in which it happens; the last row is the whole.

    unmounting, mounting: what happens between the last two steps of each half.
    """
    at = {name: int(files[f"at-{name}"]) for name in _STAMPS}

    def between(first: str, last: str) -> float:
        return (at[last] - at[first]) / 1e9

    saved, restored = json.loads(files["before"])["saved"], json.loads(files["after"])["restored"]
    save_s, restore_s = saved["blackout_ns"] / 1e9, restored["blackout_ns"] / 1e9
    rows = [
        ("stop the guest, write its device state, quit QEMU", save_s),
        (unmounting, between("umount", "kexec")),
        ("kexec: the old kernel's last word to the new one's first process", between("kexec", "userspace")),
        (mounting, between("userspace", "mounted")),
        ("start QEMU, load the device state, go on", restore_s),
    ]
    whole = between("saved", "restored") + save_s
    rest = whole - sum(seconds for _, seconds in rows)
    return [*rows, ("starting our own commands, and the test's notes", rest), ("the whole", whole)]


def shown(rows: list[tuple[str, float]]) -> str:
    """As a table."""
    return "".join(f"  {seconds:8.3f} s  {what}\n" for what, seconds in rows)
