"""The ptrace(2) requests the tracer makes, on top of python-ptrace's bindings, and waiting for stops.

python-ptrace's own debugger classes attach with SIGSTOP and cannot tell a group-stop from a signal, so job
control would change under them; we use its bindings (registers, requests, error type) and add the requests
it does not name: SEIZE, INTERRUPT, LISTEN, GET_SYSCALL_INFO (Linux 5.3), GETSIGMASK and SETSIGMASK.

Owns nothing. All calls about a tracee must come from the thread that seized it. Every method raises
PtraceError with errno ESRCH when the tracee is dead or running. Called by tracer, inject and launch.
"""

from __future__ import annotations

import copy
import os
import signal
import struct
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from ptrace.binding.func import (
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACEEXIT,
    PTRACE_O_TRACEFORK,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_O_TRACEVFORK,
    ptrace,
    ptrace_detach,
    ptrace_geteventmsg,
    ptrace_getregs,
    ptrace_setregs,
    ptrace_syscall,
)

from guestmemfs_fuse.linux import libc
from guestmemfs_fuse.redirect.arch import Registers

# include/uapi/linux/ptrace.h
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_LISTEN: Final = 0x4208
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_GET_SYSCALL_INFO: Final = 0x420E

SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
EVENT_STOP: Final = 128
WALL: Final = 0x40000000
"""waitpid: threads and children that do not send SIGCHLD too (include/uapi/linux/wait.h)."""

_OPTIONS: Final = (
    PTRACE_O_TRACESYSGOOD
    | PTRACE_O_TRACEFORK
    | PTRACE_O_TRACEVFORK
    | PTRACE_O_TRACECLONE
    | PTRACE_O_TRACEEXEC
    # Not PTRACE_O_EXITKILL: what is traced must outlive the tracer.
)

# struct ptrace_syscall_info: op, pad, arch, instruction pointer, stack pointer, nr, args[6]
_SYSCALL_INFO = struct.Struct("=BxxxIQQ7Q")
_ENTRY: Final = 1
_SIGSET_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class SyscallEntry:
    """A thread is about to make this call; arguments are unsigned 64 bits."""

    arch: int
    number: int
    arguments: tuple[int, ...]


class ThreadControl(Protocol):
    """What may be done with a stopped thread; the tests have a fake one."""

    def registers(self, tid: int) -> Registers:
        """A copy of its general registers."""

    def set_registers(self, tid: int, registers: Registers) -> None:
        """Replace them all."""

    def hold_signals(self, tid: int) -> int:
        """Block every signal that can be blocked; returns the mask to put back."""

    def release_signals(self, tid: int, mask: int) -> None:
        """Put back the mask that `hold_signals` returned."""


class Ptrace:
    """The real ThreadControl, and the rest of ptrace(2)."""

    def __init__(self) -> None:
        self._info = bytearray(_SYSCALL_INFO.size)
        self._info_address = libc.address_of(self._info)

    def seize(self, pid: int, *, at_exit: bool = False) -> None:
        """Become pid's tracer without stopping it. at_exit: also stop every thread just before it dies."""
        ptrace(_SEIZE, pid, 0, _OPTIONS | (PTRACE_O_TRACEEXIT if at_exit else 0))

    def entry(self, tid: int) -> SyscallEntry | None:
        """What a thread in a syscall-stop is about to call, or None when the call is over."""
        ptrace(_GET_SYSCALL_INFO, tid, _SYSCALL_INFO.size, self._info_address)
        if self._info[0] != _ENTRY:
            return None
        _, arch, _, _, number, *arguments = _SYSCALL_INFO.unpack(self._info)
        return SyscallEntry(arch, number, tuple(arguments))

    def resume(self, tid: int, signal_number: int = 0) -> None:
        """Let it run to the next system call, entry or exit. signal_number is delivered, 0 is none."""
        ptrace_syscall(tid, signal_number)

    def listen(self, tid: int) -> None:
        """Leave a thread that is in a group-stop stopped, and hear when it is continued."""
        ptrace(_LISTEN, tid)

    def interrupt(self, tid: int) -> None:
        """Make a running thread stop."""
        ptrace(_INTERRUPT, tid)

    def detach(self, tid: int, signal_number: int = 0) -> None:
        """Let a stopped thread go for good."""
        ptrace_detach(tid, signal_number)

    def event_message(self, tid: int) -> int:
        """The new thread of a fork or clone event, the former thread id of an exec event."""
        return int(ptrace_geteventmsg(tid))

    def registers(self, tid: int) -> Registers:
        """A copy of a stopped thread's general registers."""
        return cast(Registers, ptrace_getregs(tid))

    def set_registers(self, tid: int, registers: Registers) -> None:
        """Replace a stopped thread's general registers."""
        ptrace_setregs(tid, registers)

    def hold_signals(self, tid: int) -> int:
        """Block every signal that can be blocked; returns the mask to put back."""
        mask = bytearray(_SIGSET_BYTES)
        ptrace(_GETSIGMASK, tid, _SIGSET_BYTES, libc.address_of(mask))
        self.release_signals(tid, (1 << 64) - 1)
        return int.from_bytes(mask, "little")

    def release_signals(self, tid: int, mask: int) -> None:
        """Set the thread's signal mask (bit n-1 blocks signal n)."""
        raw = bytearray(mask.to_bytes(_SIGSET_BYTES, "little"))
        ptrace(_SETSIGMASK, tid, _SIGSET_BYTES, libc.address_of(raw))


def copy_of(registers: Registers) -> Registers:
    """An independent copy."""
    return cast(Registers, copy.copy(cast(Any, registers)))


def wait(deadline_s: float | None) -> tuple[int, int] | None:
    """The next stop or death among the tracees, as waitpid(2) reports it: (tid, status).

    deadline_s: when to give up waiting (time.monotonic()), None for never. Returns None at the deadline.
    SIGCHLD must be blocked, and not ignored. Raises ChildProcessError when no tracee is left.
    """
    if deadline_s is None:
        return os.waitpid(-1, WALL)
    while True:
        tid, status = os.waitpid(-1, WALL | os.WNOHANG)
        if tid:
            return tid, status
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            return None
        # Signals of stops already handled are still pending: this may return at once, and that is all.
        signal.sigtimedwait([signal.SIGCHLD], remaining_s)


def read_memory(tid: int, address: int, length_bytes: int) -> bytes:
    """Bytes of a tracee's memory. Raises OSError (EIO: not mapped; ESRCH or ENOENT: gone)."""
    fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, length_bytes, address)
    finally:
        os.close(fd)


def write_memory(tid: int, address: int, data: bytes) -> None:
    """Change a tracee's memory. Raises OSError as `read_memory`."""
    fd = os.open(f"/proc/{tid}/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, data, address) != len(data):
            raise OSError(5, f"only part of {len(data)} bytes could be written at {address:#x}")
    finally:
        os.close(fd)


def thread_group(tid: int) -> int:
    """The process a thread belongs to. Raises OSError when it is gone."""
    with open(f"/proc/{tid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line[5:])
    raise ProcessLookupError(tid)
