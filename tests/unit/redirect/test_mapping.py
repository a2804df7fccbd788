"""The calls a mapping becomes, against a model of a process: whatever fails, nothing is left behind."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.inject import Call, Steps
from guestmemfs_fuse.redirect.layout import Layout, MmapRequest, Plan, Segment, plan
from guestmemfs_fuse.redirect.mapping import redirected

PAGE = 2 << 20
REGION = "/region/file"
OWN_FD = 5
SOME_ADDRESS = 100 * PAGE
SCRATCH = 64 << 40


@dataclass
class FakeProgram:
    """Its descriptors, its memory, and the calls it makes; can_open: the path leads to the region for it.

    fail_at: number of the call that fails, with ENOMEM.
    """

    can_open: bool = True
    opens_another: bool = False
    fail_at: int | None = None
    fds: dict[int, str] = field(default_factory=lambda: {OWN_FD: "own"})
    maps: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    scratch: bytearray = field(default_factory=lambda: bytearray(8192))
    made: list[Call] = field(default_factory=list)
    sent: str | None = None

    # ProgramView

    def read(self, address: int, length_bytes: int) -> bytes:
        assert SCRATCH in self.maps
        return bytes(self.scratch[address - SCRATCH :][:length_bytes])

    def write(self, address: int, data: bytes) -> None:
        assert SCRATCH in self.maps
        self.scratch[address - SCRATCH : address - SCRATCH + len(data)] = data

    def is_region(self, fd: int) -> bool:
        return self.fds.get(fd) == REGION

    def send_region(self, fd: int) -> None:
        assert self.fds[fd] == "socket"
        self.sent = REGION

    # the kernel

    def run(self, steps: Steps) -> int:
        try:
            call = next(steps)
            while True:
                call = steps.send(self.execute(call))
        except StopIteration as done:
            return int(done.value)

    def execute(self, call: Call) -> int:
        self.made.append(call)
        if self.fail_at == len(self.made) - 1 and call.number not in (arch.SYS_CLOSE, arch.SYS_MUNMAP):
            return -errno.ENOMEM
        calls: dict[int, Callable[..., int]] = {
            arch.SYS_MMAP: self._mmap,
            arch.SYS_MUNMAP: self._munmap,
            arch.SYS_OPENAT: self._openat,
            arch.SYS_CLOSE: self._close,
            arch.SYS_SOCKETPAIR: self._socketpair,
            arch.SYS_RECVMSG: self._recvmsg,
        }
        return calls[call.number](*call.arguments)

    def _mmap(self, address: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        if flags & arch.MAP_ANONYMOUS:
            name, at = "scratch", SCRATCH
        else:
            name, at = self.fds[fd], address or SOME_ADDRESS
        unit = PAGE if name == REGION else 4096
        for delta in range(0, length, unit):
            self.maps[at + delta] = (name, offset + delta, prot)
        return at

    def _munmap(self, address: int, length: int) -> int:
        self.maps = {at: what for at, what in self.maps.items() if not address <= at < address + length}
        return 0

    def _openat(self, dirfd: int, path_at: int, flags: int, mode: int) -> int:
        assert flags & os.O_CLOEXEC
        path = self.read(path_at, 64).partition(b"\0")[0].decode()
        assert path == REGION
        if not self.can_open:
            return -errno.EACCES
        return self._new_fd("another file" if self.opens_another else path)

    def _new_fd(self, name: str) -> int:
        fd = max(self.fds) + 1
        self.fds[fd] = name
        return fd

    def _close(self, fd: int) -> int:
        del self.fds[fd]
        return 0

    def _socketpair(self, domain: int, kind: int, protocol: int, at: int) -> int:
        self.write(at, struct.pack("=ii", self._new_fd("socket"), self._new_fd("socket")))
        return 0

    def _recvmsg(self, fd: int, message_at: int, flags: int) -> int:
        assert self.sent is not None
        control_at = struct.unpack_from("=Q", self.read(message_at, 56), 32)[0]
        self.write(control_at, struct.pack("=Qiii4x", 20, 1, 1, self._new_fd(self.sent)))
        return 1


def asked(pages: int, *, flags: int = arch.MAP_SHARED, address: int = 0) -> MmapRequest:
    return MmapRequest(address, pages * PAGE, arch.PROT_READ | arch.PROT_WRITE, flags, OWN_FD, 0)


def scattered(request: MmapRequest) -> Plan:
    """A plan for a file of the region's pages 7, 8, 1."""
    segments = (Segment(0, 7 * PAGE, 2 * PAGE), Segment(2 * PAGE, PAGE, PAGE))
    return plan(request, Layout("hugetlb", PAGE, REGION, segments), share=True, fd_is_writable=True)


def expected(base: int) -> dict[int, tuple[str, int, int]]:
    rw = arch.PROT_READ | arch.PROT_WRITE
    return {base + at * PAGE: (REGION, page * PAGE, rw) for at, page in enumerate((7, 8, 1))}


def run(program: FakeProgram, request: MmapRequest) -> int:
    return program.run(redirected(request, scattered(request), os.O_RDWR, program))


@pytest.mark.parametrize(
    ("request_", "base"),
    [
        (asked(3), SOME_ADDRESS),
        (asked(3, address=5 * PAGE), 5 * PAGE),
        (asked(3, address=5 * PAGE, flags=arch.MAP_SHARED | arch.MAP_FIXED), 5 * PAGE),
    ],
    ids=["anywhere", "hint", "fixed"],
)
@pytest.mark.parametrize("can_open", [True, False], ids=["opens", "is-handed"])
def test_the_pages_are_mapped_and_nothing_else_stays(
    request_: MmapRequest, base: int, can_open: bool
) -> None:
    program = FakeProgram(can_open=can_open)
    assert run(program, request_) == base
    assert program.maps == expected(base)
    assert program.fds == {OWN_FD: "own"}
    assert (program.sent is not None) == (not can_open)


def test_a_path_that_leads_to_another_file_is_not_mapped() -> None:
    program = FakeProgram(opens_another=True)
    assert run(program, asked(3)) == SOME_ADDRESS
    assert program.sent == REGION
    assert program.fds == {OWN_FD: "own"}


def test_the_reservation_shows_no_byte_of_the_region() -> None:
    program = FakeProgram()
    run(program, asked(3))
    calls = [call.arguments for call in program.made if call.number == arch.SYS_MMAP]
    _, length, prot, flags, _, _ = calls[1]
    assert (length, prot, flags) == (3 * PAGE, arch.PROT_NONE, arch.MAP_PRIVATE | arch.MAP_NORESERVE)


@given(st.integers(0, 12), st.booleans(), st.booleans(), st.booleans())
def test_whatever_call_fails_nothing_is_left(
    fail_at: int, can_open: bool, opens_another: bool, is_fixed: bool
) -> None:
    flags = arch.MAP_SHARED | (arch.MAP_FIXED if is_fixed else 0)
    program = FakeProgram(can_open=can_open, opens_another=opens_another, fail_at=fail_at)
    result = run(program, asked(3, flags=flags, address=SOME_ADDRESS))
    assert program.fds == {OWN_FD: "own"}
    assert program.maps == ({} if arch.is_error(result) else expected(SOME_ADDRESS))
