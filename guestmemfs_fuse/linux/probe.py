"""What this host can do: one probe per ability, each a measurement.

A probe tries the thing itself on a throwaway object (a detached tmpfs, a FUSE connection nobody mounted) and
says what happened; kernel versions are never compared. Invariants: nothing is left behind, no probe blocks
for more than about two seconds, no probe raises.

Called by `guestmemfs doctor`, and one by one by whoever chooses a region. `probe_fuse`, `probe_memory` and
`probe_host` hold the probes themselves; `verdict` says what they mean for the region kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """Result of one probe: its stable name, whether the ability is there, what was measured, what to do."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None


Finding = tuple[bool, str, str | None]


def guarded(name: str, find: Callable[[], Finding], fix: str | None = None) -> Probe:
    """Run one probe's body; an OSError is a finding too. fix: what to do then."""
    try:
        ok, detail, advice = find()
    except OSError as error:
        return Probe(name, False, describe(error), fix)
    return Probe(name, ok, detail, None if ok else advice)


def describe(error: OSError) -> str:
    """An OSError in one line, without its number."""
    text = error.strerror or str(error)
    return text if error.filename is None else f"{error.filename}: {text}"


def run_all() -> list[Probe]:
    """Every probe, in the order a reader wants them."""
    from guestmemfs_fuse.linux import probe_fuse, probe_host, probe_memory

    return [
        probe_host.privilege(),
        probe_fuse.device(),
        probe_fuse.passthrough(),
        probe_memory.tmpfs_huge(),
        probe_memory.tmpfs_noswap(),
        probe_memory.tmpfs_unlinked(),
        probe_memory.hugetlb(2 << 20),
        probe_memory.hugetlb(1 << 30),
        probe_memory.available(),
        probe_memory.numa(),
        probe_host.fsdax(),
        probe_host.liveupdate_device(),
        probe_host.kexec(),
        probe_host.systemd(),
        probe_host.ptrace(),
        probe_host.kvm(),
    ]
