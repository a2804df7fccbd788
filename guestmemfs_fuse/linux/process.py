"""Process attributes: prctl(2), peer credentials, life and death.

Sources: prctl(2), unix(7), include/uapi/linux/prctl.h. Called by the holder's children, the control server
and the launchers.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from typing import Protocol

from guestmemfs_fuse.linux import libc

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PTRACE_SEIZE = 0x4206
_UCRED = struct.Struct("=iII")


def set_child_subreaper() -> None:
    """Orphaned descendants become our children instead of PID 1's. Raises OSError."""
    libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_name(name: str) -> None:
    """The thread's comm as ps and /proc/PID/comm show it; the kernel keeps 15 bytes."""
    libc.call("prctl", _PR_SET_NAME, name, 0, 0, 0)


class _HasOptions(Protocol):
    """A socket, of the standard library's or of trio's."""

    def getsockopt(self, level: int, option: int, buffer_bytes: int, /) -> bytes: ...


def peer(sock: _HasOptions) -> tuple[int, int]:
    """(pid, uid) of who was at the other end of a unix socket at connect(2) (SO_PEERCRED). Raises OSError."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie.

    The first thread may be a zombie a good while before the others have ended, and with them the process's
    descriptors, locks and memory: so their number counts too (num_threads in proc_pid_stat(5)).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in (b"Z", b"X") or int(fields[17]) > 1


def children(pid: int) -> list[int]:
    """The children of a single-threaded process, zombies included; none when it is gone.

    From /proc/PID/task/TID/children (proc(5)); a child may be left out while another one is being reaped.
    Where the kernel does not have the file (CONFIG_PROC_CHILDREN) every process is asked for its parent.
    """
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except ProcessLookupError:
        return []
    except FileNotFoundError:
        everybody = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [each for each in everybody if _parent(each) == pid]


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_dying(tid: int) -> bool:
    """Whether a thread is gone, or has SIGKILL pending: every signal that ends a process becomes that.

    complete_signal() in kernel/signal.c adds SIGKILL to all threads for a fatal signal that dumps no core.
    """
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if b":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = int(lines[b"SigPnd"], 16) | int(lines[b"ShdPnd"], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1)


def trace_a_child() -> None:
    """Fork a child, attach to it with ptrace(2), kill and reap it. Raises OSError (EPERM: Yama, a container).

    Only for single-threaded processes such as the CLI: it forks without exec.
    """
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        libc.call("ptrace", _PTRACE_SEIZE, child, 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
