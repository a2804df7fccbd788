"""Area 2, the guest: the same QEMU guest on four kinds of memory, and the blackout of a live update.

The room's QEMU part (asyncio, qemu.qmp) is imported only when guests are measured.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.initramfs import initramfs
from guestmemfs_fuse.bench.measure import Better, Figures
from guestmemfs_fuse.bench.native import build
from guestmemfs_fuse.bench.results import OURS, Area, Target, Unit
from guestmemfs_fuse.bench.rig import Bench, fits
from guestmemfs_fuse.bench.scale import GIB, MIB, Scale
from guestmemfs_fuse.core.errors import GuestmemfsError, UnsupportedError

if TYPE_CHECKING:
    from guestmemfs_fuse.bench.qemu import Guest, Machine

RAM = "memory-backend-ram"
MEMFD = "memory-backend-memfd"
TMPFS = "file on a tmpfs"
WRITTEN_OUT = "RAM written out"
SMALLEST = "smallest guest"

_PROBE_BYTES = 256 * MIB
_KVM_BOOTS_WITHIN_S = 6.0
_FILL_PERCENT = 75
"""Of the guest's RAM, before a blackout is measured: pages of zeros would be written out for nothing."""

_FILL_BYTES = 768 * MIB
"""... or so much, where it is not written out and filling it would only take time."""

DOES_NOT_GROW = Target("does not grow with RAM (at most 1.5x)", 1.5, "ratio")


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area; nothing but a reason where there is no QEMU or kernel, or the scale wants no guests."""
    out = Collector("guest", "Guest", bench.say, scale.part_s, x_name="guest RAM", x_unit="B")
    if not scale.boots:
        out.leave_out(f"guests: not part of a {scale.name} run")
        return out.area()
    try:
        machine = _machine(bench)
    except UnsupportedError as error:
        out.leave_out(f"guests: {error}")
        return out.area()
    emulated = "; emulation sets the pace of all that the guest does" if machine.accel == "tcg" else ""
    out.note(f"Accelerator: {machine.accel}{emulated}. The guest is a kernel and one program.")
    _boots(bench, scale, machine, out)
    _blackouts(bench, scale, machine, out)
    return out.area()


# -- what guests are made of -------------------------------------------------------------------------------


def _machine(bench: Bench) -> Machine:
    """Raises UnsupportedError: no QEMU, no kernel, no static libc."""
    if platform.machine() != "x86_64":
        raise UnsupportedError("the guest is an x86-64 one")
    if shutil.which("qemu-system-x86_64") is None:
        raise UnsupportedError("no qemu-system-x86_64")
    kernel = bench.guest_kernel or Path(f"/boot/vmlinuz-{platform.release()}")
    if not kernel.is_file():
        raise UnsupportedError("no kernel to boot; --guest-kernel names one")
    from guestmemfs_fuse.bench.qemu import Machine

    archive = bench.directory / "initramfs.cpio"
    archive.write_bytes(initramfs(build("guest", bench.programs_dir, "-static").read_bytes()))
    kvm = Machine(kernel, archive, "kvm")
    return kvm if _works(bench, kvm) else Machine(kernel, archive, "tcg")


def _works(bench: Bench, machine: Machine) -> bool:
    """Whether a guest boots: a nested KVM may be there and not be able to."""
    from guestmemfs_fuse.bench.qemu import GuestLostError

    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    try:
        with _guest(bench, machine, "memory-backend-ram", _PROBE_BYTES) as guest:
            guest.wait_for("up", _KVM_BOOTS_WITHIN_S)
    except GuestLostError:
        return False
    return True


@contextmanager
def _guest(
    bench: Bench, machine: Machine, memory: str, size_bytes: int, fill: int = 0, where: Path | None = None
) -> Iterator[Guest]:
    """where: for its log, sockets and state."""
    from guestmemfs_fuse.bench.qemu import Guest

    directory = where or bench.directory / "guest"
    directory.mkdir(exist_ok=True)
    with Guest(machine, directory, memory, size_bytes, fill) as guest:
        yield guest


def _file_backend(path: Path) -> str:
    return f"memory-backend-file,mem-path={path},share=on,align=2M"


# -- booting, and memory inside ----------------------------------------------------------------------------


def _boots(bench: Bench, scale: Scale, machine: Machine, out: Collector) -> None:
    size_bytes = scale.boot_bytes
    with ExitStack() as stack:
        ours = bench.instance("guest", size_bytes + 64 * MIB)
        stack.callback(ours.destroy)
        tmpfs = bench.tmpfs("guest-tmpfs", f"size={size_bytes + 64 * MIB}")
        stack.callback(bench.umount, tmpfs)
        files = {OURS: ours.mountpoint / "ram", TMPFS: tmpfs / "ram"}

        def one(name: str) -> Figures:
            memory = "memory-backend-memfd,share=on" if name == MEMFD else "memory-backend-ram"
            if name in files:
                memory = _file_backend(files[name])
            with _guest(bench, machine, memory, size_bytes) as guest:
                booted_s = guest.wait_for("up")
                guest.wait_for("ready")
                figures = {"boot": booted_s * 1e9, **guest.figures()}
            if name in files:
                files[name].unlink()
            return figures

        turns = {name: partial(one, name) for name in (OURS, RAM, MEMFD, TMPFS)}
        samples = out.interleave("booting", scale.boots, turns, warmup=0)
    rows: list[tuple[str, str, Unit]] = [
        ("boot", f"boot of a guest with {size_bytes / MIB:g} MiB, until its first program runs", "ns"),
        ("touch_bytes_per_s", "inside the guest: first touch", "B/s"),
        ("write_bytes_per_s", "inside the guest: sequential write", "B/s"),
        ("read_bytes_per_s", "inside the guest: sequential read", "B/s"),
        ("random_ns", "inside the guest: random 8-byte access", "ns"),
    ]
    for metric, title, unit in rows:
        better: Better = "more" if unit == "B/s" else "less"
        out.row(metric, title, unit, samples.get(metric, {}), control=TMPFS, better=better)


# -- blackouts ---------------------------------------------------------------------------------------------


def _blackouts(bench: Bench, scale: Scale, machine: Machine, out: Collector) -> None:
    out.note(
        f"Blackout: the guest has written to {_FILL_PERCENT}% of its RAM before (at most "
        f"{_FILL_BYTES / MIB:g} MiB where the RAM is not written out). Save stops it and writes its state; "
        "load reads that in a new QEMU and lets it go on; the whole also has the old QEMU's end and the new "
        "one's start in it. Written out: the same guest, saved with its RAM in the state file (in memory)."
    )
    if scale.written_out_up_to_bytes < max(scale.blackout_bytes):
        out.leave_out(
            f"RAM written out above {scale.written_out_up_to_bytes / GIB:g} GiB: only in a longer run"
        )
    in_place: dict[int, list[Figures]] = {}
    for size_bytes in scale.blackout_bytes:
        named = f"{size_bytes / GIB:g} GiB"
        # Its RAM, what is written out, and the reserve of both.
        writes = size_bytes <= scale.written_out_up_to_bytes
        if not fits(size_bytes * (2 if writes else 1)):
            out.leave_out(f"blackout of a guest with {named}: not enough free memory")
            continue
        bench.say(f"guest: blackouts of a guest with {named}")
        try:
            in_place[size_bytes], written = _updates(bench, scale, machine, size_bytes, writes)
        except GuestmemfsError as error:
            out.leave_out(f"blackout of a guest with {named}: {error}")
            continue
        smallest = in_place[min(in_place)]
        for metric, title in (("save", "save"), ("load", "load"), ("whole", "save until it goes on")):
            is_smallest = size_bytes == min(in_place)
            samples = {OURS: [each[metric] for each in in_place[size_bytes]]}
            if written:
                samples[WRITTEN_OUT] = [each[metric] for each in written]
            if not is_smallest:
                samples[SMALLEST] = [each[metric] for each in smallest]
            out.row(
                f"blackout_{metric}",
                f"blackout, {title}, {named}",
                "ns",
                samples,
                control=None if is_smallest else SMALLEST,
                x=size_bytes,
                target=None if is_smallest else DOES_NOT_GROW,
            )


def _updates(
    bench: Bench, scale: Scale, machine: Machine, size_bytes: int, writes: bool
) -> tuple[list[Figures], list[Figures]]:
    """Live updates of one guest: with its RAM in place, and then written out."""
    with ExitStack() as stack:
        ours = bench.instance("blackout", size_bytes + 64 * MIB)
        stack.callback(ours.destroy)
        state = bench.tmpfs("guest-state", f"size={size_bytes + 256 * MIB},noswap")
        stack.callback(bench.umount, state)
        memory = _file_backend(ours.mountpoint / "ram")
        fill = _FILL_PERCENT if writes else min(_FILL_PERCENT, _FILL_BYTES * 100 // size_bytes)
        guest = stack.enter_context(_guest(bench, machine, memory, size_bytes, fill, state))
        guest.wait_for("ready")
        guest.live_update(is_ram_in_place=True)  # the first one also pays for reading QEMU from disk
        kept = [_figures(guest, is_ram_in_place=True) for _ in range(scale.blackouts)]
        few = 1 if size_bytes > GIB else 2
        written = [_figures(guest, is_ram_in_place=False) for _ in range(few if writes else 0)]
    return kept, written


def _figures(guest: Guest, *, is_ram_in_place: bool) -> Figures:
    update = guest.live_update(is_ram_in_place=is_ram_in_place)
    return {"save": update.save_ns, "load": update.load_ns, "whole": update.whole_ns}
