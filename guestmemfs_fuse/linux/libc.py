"""Calls into the C library and the kernel that Python's os module does not have.

Owns the one handle on libc. Invariants: every failed call becomes an OSError that names the call (and the
path it was about); the GIL is released while a call runs, so a slow fallocate does not stop the event loop;
importing this costs the import of ctypes and nothing else (ctypes.util would start a compiler).

Called by the other modules of this room only.
"""

from __future__ import annotations

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers from 424 on are the same on every architecture (asm-generic/unistd.h).
_NUMBERS = {
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "cachestat": 451,
}
_NUMBERS_OF_MACHINE = {
    "x86_64": {"set_mempolicy": 238, "kexec_file_load": 320},
    "aarch64": {"set_mempolicy": 237, "kexec_file_load": 294},
}

Argument = int | str | bytes | bytearray | None


def _c_value(value: Argument) -> object:
    """A C argument as wide as a register: ctypes alone would cut a Python int to 32 bits."""
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, int):
        return ctypes.c_long(value) if value < 1 << 63 else ctypes.c_ulong(value)
    if isinstance(value, bytearray):
        return (ctypes.c_char * len(value)).from_buffer(value)
    return ctypes.c_char_p(os.fsencode(value))


def _failure(name: str, about: str | None) -> OSError:
    number = ctypes.get_errno()
    text = f"{name}: {os.strerror(number)}"
    return OSError(number, text) if about is None else OSError(number, text, about)


def call(name: str, *args: Argument, about: str | None = None) -> int:
    """Call the libc function `name`, which returns int and -1 for failure.

    args: integers, paths and byte strings (read by the callee), bytearrays (written by it), None for NULL.
    about: the path an error should mention. Returns the result. Raises OSError, AttributeError when this
    libc has no such function.
    """
    function = getattr(_libc, name)
    result = int(function(*[_c_value(a) for a in args]))
    if result == -1:
        raise _failure(name, about)
    return result


def syscall(name: str, *args: Argument, about: str | None = None) -> int:
    """Make the system call `name` by number, for calls this libc may not know.

    Arguments, result and errors as for `call`; OSError(ENOSYS) when the number is unknown on this machine.
    """
    number = _NUMBERS.get(name) or _NUMBERS_OF_MACHINE.get(os.uname().machine, {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
    function = _libc.syscall
    function.restype = ctypes.c_long
    result = int(function(ctypes.c_long(number), *[_c_value(a) for a in args]))
    if result == -1:
        raise _failure(name, about)
    return result


def mmap(address: int, length_bytes: int, prot: int, flags: int, fd: int, offset_bytes: int) -> int:
    """mmap(2); returns the address. Python's mmap objects hide theirs and dup the fd, so this is our own."""
    function = _libc.mmap
    function.restype = ctypes.c_void_p
    args = (address, length_bytes, prot, flags, fd, offset_bytes)
    result = function(*[_c_value(a) for a in args])
    if result is None or result == ctypes.c_void_p(-1).value:
        raise _failure("mmap", None)
    return int(result)


def read_memory(address: int, length_bytes: int) -> bytes:
    """Copy of this process's own memory; the caller vouches that it is mapped and readable."""
    return ctypes.string_at(address, length_bytes)


def write_memory(address: int, data: bytes) -> None:
    """Copy data into this process's own memory; the caller vouches that it is mapped and writable."""
    ctypes.memmove(address, data, len(data))


def address_of(buffer: bytearray) -> int:
    """Where a bytearray's bytes are, for structs that hold pointers; valid while it is not resized."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
