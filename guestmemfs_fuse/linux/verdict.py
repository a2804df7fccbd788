"""What the probes mean: which region kinds work here, how their files can be mapped, what to change.

Pure: probes in, rows out. Called by `guestmemfs doctor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from guestmemfs_fuse.linux.probe import Probe

Mmap = Literal["passthrough", "run"]

_BASE = ("privilege", "fuse-device")


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One region kind on this host.

    works: an instance can be made and its files mapped; reason: what it gives, or what is missing; fix: what
    to change, also for a lesser lack; mmap: through the mount, only under `guestmemfs run`, or not at all.
    """

    kind: str
    works: bool
    reason: str
    fix: str | None
    mmap: Mmap | None


def judge(probes: Iterable[Probe]) -> list[RegionRow]:
    """One row per region kind, the default first. A probe that is missing counts as failed."""
    by_name = {probe.name: probe for probe in probes}
    return [_tmpfs(by_name), _memfd(by_name), _hugetlb(by_name), _dax(by_name)]


def _tmpfs(probes: Mapping[str, Probe]) -> RegionRow:
    return _row("tmpfs", probes, ("tmpfs-huge",), "huge pages; survives the daemon", ("tmpfs-noswap",))


def _memfd(probes: Mapping[str, Probe]) -> RegionRow:
    kexec = "and kexec" if _ok(probes, "liveupdate") else "but not kexec"
    reason = f"huge pages; survives the daemon {kexec}"
    return _row("memfd", probes, ("tmpfs-huge", "tmpfs-unlinked"), reason, ("liveupdate",))


def _hugetlb(probes: Mapping[str, Probe]) -> RegionRow:
    sizes = [name for name in ("hugetlb-2M", "hugetlb-1G") if _ok(probes, name)]
    if sizes:
        pages = " and ".join(name.partition("-")[2] for name in sizes)
        return _row(
            "hugetlb", probes, (sizes[0],), f"{pages} pages; survives the daemon", (), through_mount=False
        )
    return _row("hugetlb", probes, ("hugetlb-2M",), "", (), through_mount=False)


def _dax(probes: Mapping[str, Probe]) -> RegionRow:
    return _row("dax", probes, ("fsdax",), "survives the daemon and kexec", ())


def _row(
    kind: str,
    probes: Mapping[str, Probe],
    needs: tuple[str, ...],
    reason: str,
    wishes: tuple[str, ...],
    *,
    through_mount: bool = True,
) -> RegionRow:
    """needs: probes without which it does not work; wishes: those whose fix is worth mentioning anyway."""
    for name in (*_BASE, *needs):
        if not _ok(probes, name):
            return RegionRow(kind, False, _why(probes, name), _fix(probes, name), None)
    if through_mount and _ok(probes, "fuse-passthrough"):
        fix = next((_fix(probes, name) for name in wishes if not _ok(probes, name)), None)
        return RegionRow(kind, True, reason, fix, "passthrough")
    if _ok(probes, "ptrace"):
        fix = _fix(probes, "fuse-passthrough") if through_mount else None
        return RegionRow(kind, True, reason, fix, "run")
    lacking = "fuse-passthrough" if through_mount else "ptrace"
    return RegionRow(kind, False, f"no way to mmap: {_why(probes, lacking)}", _fix(probes, lacking), None)


def _ok(probes: Mapping[str, Probe], name: str) -> bool:
    return name in probes and probes[name].ok


def _why(probes: Mapping[str, Probe], name: str) -> str:
    return f"{name}: {probes[name].detail if name in probes else 'not probed'}"


def _fix(probes: Mapping[str, Probe], name: str) -> str | None:
    return probes[name].fix if name in probes else None
