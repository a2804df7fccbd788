"""Runs inside the VM, before and after a kexec: what the kernel does with files in a live update session.

    python -m tests.vm.inside_luo before|after

What was seen goes to $VM_OUT/facts-before and facts-after. `before` says "ready" and waits for the kexec.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from guestmemfs_fuse.linux import collapse, liveupdate, memory
from guestmemfs_fuse.linux.coverage import file_coverage
from guestmemfs_fuse.region import private_tmpfs

OUT = Path(os.environ.get("VM_OUT", "."))
MIB = 1 << 20
TOUCHED, UNTOUCHED, HOLE, ODD, EMPTY, SMALL, FIRST_OF_MANY = 1, 2, 3, 4, 5, 6, 1000
SIZES = {TOUCHED: 64 * MIB, UNTOUCHED: 64 * MIB, HOLE: 4 * MIB, ODD: 5 * MIB + 123, EMPTY: 0}
SMALL_BYTES, MANY = 16 * MIB, 1500
PUNCH = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def refused(call: Callable[[], object]) -> str:
    """The name of the error, empty when it is allowed."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def timed_ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return round((time.perf_counter() - began_s) * 1000, 1)


def stamp(mapped: mmap.mmap) -> None:
    for at in range(0, len(mapped), 4096):
        mapped[at : at + 8] = at.to_bytes(8, "little")


def is_stamped(mapped: mmap.mmap, but: int = -1) -> bool:
    pages = range(0, len(mapped), 4096)
    return all(mapped[at : at + 8] == at.to_bytes(8, "little") for at in pages if at != but)


def huge_bytes(fd: int) -> int:
    return file_coverage(fd).huge_bytes


def make(region_fd: int, token: int) -> int:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=region_fd)
    os.ftruncate(fd, SIZES[token])
    if token not in (HOLE, EMPTY):
        os.posix_fallocate(fd, 0, SIZES[token])
    return fd


def before() -> None:
    region_fd = private_tmpfs.new(512 * MIB, 512 * MIB, None)
    files = {token: make(region_fd, token) for token in SIZES}
    touched = mmap.mmap(files[TOUCHED], 0)
    stamp(touched)
    files[SMALL] = os.memfd_create("small")
    os.ftruncate(files[SMALL], SMALL_BYTES)
    stamp(mmap.mmap(files[SMALL], 0))
    device = liveupdate.open_device()
    second = refused(liveupdate.open_device)
    session = liveupdate.create_session(device, "facts")
    os.close(device)
    took = {
        token: timed_ms(lambda: liveupdate.preserve_fd(session, files[token], token))  # noqa: B023
        for token in files
    }
    for number in range(MANY):
        fd = os.memfd_create("many")
        os.ftruncate(fd, 4096)
        liveupdate.preserve_fd(session, fd, FIRST_OF_MANY + number)
    fd, passwd = files[TOUCHED], os.open("/etc/passwd", os.O_RDONLY)
    facts = {
        "second_open": second,
        "shrink": refused(lambda: os.ftruncate(fd, MIB)),
        "grow": refused(lambda: os.ftruncate(fd, 65 * MIB)),
        "write_beyond": refused(lambda: os.pwrite(fd, b"x", 64 * MIB)),
        "punch": refused(lambda: memory.fallocate(fd, PUNCH, 0, 2 * MIB)),
        "madv_remove": refused(lambda: touched.madvise(mmap.MADV_REMOVE, 0, 2 * MIB)),
        "file_again": refused(lambda: liveupdate.preserve_fd(session, fd, 99)),
        "token_again": refused(lambda: liveupdate.preserve_fd(session, files[EMPTY], TOUCHED)),
        "regular_file": refused(lambda: liveupdate.preserve_fd(session, passwd, 98)),
        "hole_bytes": os.fstat(files[HOLE]).st_blocks * 512,
        "huge": {"touched": huge_bytes(fd), "small": huge_bytes(files[SMALL])},
        "preserve_ms": took,
    }
    touched[8192:8197] = b"after"
    (OUT / "facts-before").write_text(json.dumps(facts))
    print("ready", flush=True)
    signal.pause()


def after() -> None:
    device = liveupdate.open_device()
    unknown = refused(lambda: liveupdate.retrieve_session(device, "nothing"))
    session = liveupdate.retrieve_session(device, "facts")
    twice = refused(lambda: liveupdate.retrieve_session(device, "facts"))
    os.close(device)
    files: dict[int, int] = {}
    took = {
        token: timed_ms(lambda: files.update({token: liveupdate.retrieve_fd(session, token)}))  # noqa: B023
        for token in (*SIZES, SMALL)
    }
    many = [liveupdate.retrieve_fd(session, FIRST_OF_MANY + number) for number in range(MANY)]
    touched, small = files[TOUCHED], files[SMALL]
    huge = {"touched": huge_bytes(touched), "small": huge_bytes(small)}
    collapse_ms = timed_ms(lambda: collapse.collapse_data(small, SMALL_BYTES))
    status = os.fstat(touched)
    mapped = mmap.mmap(touched, 0)
    facts = {
        "unknown_session": unknown,
        "session_twice": twice,
        "shmem_enabled": Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text(),
        "intact": is_stamped(mapped, 8192) and is_stamped(mmap.mmap(small, 0)),
        "changed_after_preserving": mapped[8192:8197] == b"after",
        "untouched_is_zero": not any(mmap.mmap(files[UNTOUCHED], 0)[:: 1 << 12]),
        "sizes": {token: os.fstat(files[token]).st_size for token in SIZES},
        "many": len({os.fstat(fd).st_ino for fd in many}),
        "same_file_again": os.path.samestat(status, os.fstat(liveupdate.retrieve_fd(session, TOUCHED))),
        "mode": status.st_mode & 0o7777,
        "links": status.st_nlink,
        "huge": huge,
        "huge_after_collapse": huge_bytes(small),
        "grow": refused(lambda: os.ftruncate(files[EMPTY], MIB)),
        "retrieve_ms": took,
        "collapse_ms": collapse_ms,
    }
    liveupdate.finish(session)
    facts["after_finish"] = refused(lambda: liveupdate.retrieve_fd(session, TOUCHED))
    os.close(session)
    device = liveupdate.open_device()
    again = liveupdate.create_session(device, "facts")
    facts["preserved_again"] = refused(lambda: liveupdate.preserve_fd(again, touched, TOUCHED)) == ""
    (OUT / "facts-after").write_text(json.dumps(facts))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))
    {"before": before, "after": after}[sys.argv[1]]()
