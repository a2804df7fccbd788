"""Would this guest's RAM outlive its VMM? If not: exactly which argument to change.

Reads the memory backends over QMP and compares them with what the VMM's process really maps, so neither a
private mapping nor a file that was deleted and made anew under the same name slips through. `objections`
is pure. Called by `save` before anything is touched, and by `restore` before the state is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.linux import mountinfo, users
from guestmemfs_fuse.metadata.instance import instance_of_path
from guestmemfs_fuse.vm.errors import NotPreservableError
from guestmemfs_fuse.vm.monitor import Monitor


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file as /proc/PID/maps names it: (major, minor) of its superblock, inode number.

    spans: where its bytes are in that file, [start, end), if they are parts of a region file; else empty.
    """

    dev: tuple[int, int]
    ino: int
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One memory backend object of a VMM.

    path: as seen from this process, None for memory without a file. mapping: the identity that a mapping
    of this file shows, None when the file is not on a guestmemfs mount. is_mapped: the VMM maps just that.
    """

    name: str
    kind: str
    size_bytes: int
    path: Path | None
    is_shared: bool
    discards_data: bool
    mapping: FileIdentity | None
    is_mapped: bool


@dataclass(frozen=True, slots=True)
class GuestRam:
    """Everything that holds a guest's RAM; virtio_mem_devices are the ids of such devices."""

    backends: tuple[Backend, ...]
    virtio_mem_devices: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold RAM, each once."""
        return tuple(dict.fromkeys(b.path for b in self.backends if b.path is not None))


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason why RAM would be lost, and the argument that changes it."""

    problem: str
    change: str


Identify = Callable[[Path], FileIdentity | None]


def identify_on_mount(path: Path) -> FileIdentity | None:
    """What a mapping of the file at `path` shows, or None when it is not on a guestmemfs mount.

    A passthrough mapping shows the FUSE file's device and inode (show_map_vma() in fs/proc/task_mmu.c), one
    that `guestmemfs run` made shows the region or backing file. Asks the filesystem (stat) and the daemon, so
    it waits for a daemon that is being restarted.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    dev = (os.major(status.st_dev), os.minor(status.st_dev))
    ours = {mount.dev for mount in mountinfo.read_mounts() if mount.fstype == mountinfo.OURS}
    if dev not in ours:
        return None
    return _redirected(path, status.st_ino) or FileIdentity(dev, status.st_ino)


def needs_run(paths: Sequence[Path]) -> bool:
    """Whether only a VMM that `guestmemfs run` starts can map one of these files. Asks the daemons."""
    for path in paths:
        try:
            if not _layout(path, os.stat(path).st_ino)["passthrough"]:
                return True
        except (GuestmemfsError, OSError):
            continue
    return False


def _layout(path: Path, ino: int) -> Any:
    instance, _ = instance_of_path(str(path))
    return client.call(instance.paths.state_dir, "layout", {"ino": ino}, wait_s=client.RESTART_WAIT_S)


def _redirected(path: Path, ino: int) -> FileIdentity | None:
    """What a mapping shows where the kernel cannot map through the mount; None where it can."""
    try:
        layout = _layout(path, ino)
        if layout["passthrough"]:
            return None
        status = os.stat(layout["path"])
    except (GuestmemfsError, OSError):
        return None
    dev = (os.major(status.st_dev), os.minor(status.st_dev))
    is_part = layout["kind"] == "hugetlb"
    spans = tuple((start, start + length) for _, start, length in layout["segments"] if is_part)
    return FileIdentity(dev, status.st_ino, spans)


async def read_ram(monitor: Monitor, *, identify: Identify = identify_on_mount) -> GuestRam:
    """Read a VMM's memory backends and compare them with its mappings.

    identify: tells which mapping a file should show. Raises MonitorError.
    """
    backends = [
        await _read_backend(monitor, str(memdev["id"]), int(memdev["size"]), identify)
        for memdev in await monitor.execute("query-memdev")
        if memdev.get("id")
    ]
    devices = await monitor.execute("query-memory-devices")
    virtio_mem = [str(d["data"].get("id", "?")) for d in devices if d["type"] == "virtio-mem"]
    return GuestRam(tuple(backends), tuple(virtio_mem))


async def _read_backend(monitor: Monitor, name: str, size_bytes: int, identify: Identify) -> Backend:
    object_path = f"/objects/{name}"
    listed = await monitor.execute("qom-list", path=object_path)
    known = {entry["name"] for entry in listed}

    async def get(name: str, default: object) -> object:
        if name not in known:
            return default
        return await monitor.execute("qom-get", path=object_path, property=name)

    mem_path = str(await get("mem-path", "") or "")
    path = path_of_process(monitor.pid, mem_path) if mem_path else None
    mapping = identify(path) if path else None
    return Backend(
        name=name,
        kind=str(await get("type", "unknown")),
        size_bytes=size_bytes,
        path=path,
        is_shared=bool(await get("share", False)),
        discards_data=bool(await get("discard-data", False)),
        mapping=mapping,
        is_mapped=mapping is not None and maps_file(monitor.pid, mapping),
    )


def path_of_process(pid: int, text: str) -> Path:
    """A path that process `pid` was given, made absolute, and seen from here when its root differs."""
    absolute = Path(os.readlink(f"/proc/{pid}/cwd"), text)
    root = os.readlink(f"/proc/{pid}/root")
    return absolute if root == "/" else Path(root, *absolute.parts[1:])


def maps_file(pid: int, identity: FileIdentity) -> bool:
    """Whether the process maps that very file."""
    try:
        raw = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return False
    return any(
        vma.ino == identity.ino
        and (not identity.spans or any(_overlap(vma, start, end) for start, end in identity.spans))
        for vma in users.parse_maps(raw, [identity.dev])
    )


def _overlap(vma: users.Vma, start: int, end: int) -> bool:
    return vma.offset_bytes < end and start < vma.file_end_bytes


def objections(backends: Sequence[Backend]) -> list[Objection]:
    """Why these backends would lose RAM; empty when every one is preserved. Pure."""
    found = [objection for backend in backends if (objection := _object_to(backend)) is not None]
    if not backends:
        found.append(Objection("the guest has no memory backend at all", _wanted_object("ram0", None)))
    return found


def _object_to(backend: Backend) -> Objection | None:
    ram = f"guest RAM {backend.name}"
    if backend.kind != "memory-backend-file" or backend.path is None:
        return Objection(f"{ram} is a {backend.kind}, not a file", _wanted_object(backend.name, backend))
    if not backend.is_shared:
        # The object that plain -mem-path makes is named after the machine's RAM (pc.ram, mach-virt.ram).
        change = (
            f"instead of -mem-path give {_wanted_object(backend.name, backend)}"
            if backend.name.endswith(".ram")
            else f"add share=on to -object memory-backend-file,id={backend.name}"
        )
        # Under `guestmemfs run` the mapping is shared all the same. But QEMU leaves in place only what it
        # itself calls shared (ramblock_is_ignored(), migration/ram.c); all of this it would copy.
        return Objection(f"{ram} is private to QEMU, which would not leave it in {backend.path}", change)
    if backend.discards_data:
        return Objection(
            f"{ram} has discard-data=on: QEMU empties {backend.path} when it quits",
            f"remove discard-data=on from -object memory-backend-file,id={backend.name}",
        )
    if backend.mapping is None:
        return Objection(
            f"{ram} is in {backend.path}, which is not a file on a guestmemfs mount",
            f"set mem-path= of -object memory-backend-file,id={backend.name} to a file on one",
        )
    if not backend.is_mapped:
        return Objection(
            f"{ram} is not what {backend.path} names now: that file was replaced after QEMU had opened it",
            f"give the file that QEMU maps its name {backend.path} back",
        )
    return None


def _wanted_object(name: str, backend: Backend | None) -> str:
    size = f"{backend.size_bytes >> 20}M" if backend else "SIZE"
    path = backend.path if backend and backend.path else "FILE"
    return (
        f"-object memory-backend-file,id={name},size={size},mem-path={path},share=on,align=2M "
        f"-machine memory-backend={name}"
    )


def require_preservable(ram: GuestRam) -> None:
    """Raise NotPreservableError, naming every objection, unless all of this RAM outlives its VMM."""
    found = objections(ram.backends)
    if found:
        raise NotPreservableError(
            "; ".join(o.problem for o in found), hint="; ".join(o.change for o in found)
        )
