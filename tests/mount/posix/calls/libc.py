"""libc, for what Python wraps differently: flags it hides, errors it retries."""

from __future__ import annotations

import ctypes
import os

lib = ctypes.CDLL(None, use_errno=True)
lib.mmap.restype = ctypes.c_void_p
lib.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
lib.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
lib.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
lib.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
lib.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
lib.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
lib.lseek.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
lib.lseek.restype = ctypes.c_long
lib.ftruncate.argtypes = [ctypes.c_int, ctypes.c_long]
lib.truncate.argtypes = [ctypes.c_char_p, ctypes.c_long]

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100


def checked(result: int | None, *, failed: int = -1) -> int:
    if result == failed or result is None:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def path(name: str | bytes) -> bytes:
    return os.fsencode(name)
