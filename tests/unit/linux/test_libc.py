"""Calls through libc: errors name the call, integers keep their width."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from guestmemfs_fuse.linux import libc


def test_failure_names_call_and_path() -> None:
    with pytest.raises(FileNotFoundError, match="umount2") as caught:
        libc.call("umount2", "/no/such/place", 0, about="/no/such/place")
    assert caught.value.filename == "/no/such/place"


def test_system_call_failure_names_the_call() -> None:
    with pytest.raises(OSError, match="fsmount") as caught:
        libc.syscall("fsmount", -1, 0, 0)
    assert caught.value.errno in (errno.EBADF, errno.EPERM)


def test_unknown_system_call_is_not_implemented() -> None:
    with pytest.raises(OSError, match="no_such_call") as caught:
        libc.syscall("no_such_call")
    assert caught.value.errno == errno.ENOSYS


def test_unknown_function_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        libc.call("no_such_function_in_libc")


def test_integers_are_not_cut_to_32_bits() -> None:
    fd = os.memfd_create("wide")
    try:
        libc.call("ftruncate64", fd, (5 << 32) + 7)
        assert os.fstat(fd).st_size == (5 << 32) + 7
    finally:
        os.close(fd)


def test_bytearray_is_written_in_place() -> None:
    buffer = bytearray(b"........")
    read_end, write_end = os.pipe()
    os.write(write_end, b"ping")
    try:
        assert libc.call("read", read_end, buffer, 8) == 4
    finally:
        os.close(read_end)
        os.close(write_end)
    assert buffer == b"ping...."


def test_failed_mmap_raises() -> None:
    with pytest.raises(OSError, match="mmap"):
        libc.mmap(0, 4096, 1, 1, -1, 0)


@pytest.mark.parametrize("module", ["mount", "memory", "users", "mountinfo", "coverage", "process"])
def test_what_the_daemon_imports_is_cheap(module: str) -> None:
    heavy = {"ctypes.util", "subprocess", "rich", "click", "asyncio", "socket"} - (
        {"socket"} if module == "process" else set()
    )
    code = f"import sys, guestmemfs_fuse.linux.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
