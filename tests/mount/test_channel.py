"""The channel on a real kernel: passthrough, refused data, hooks, and a session that outlives its server."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.fuse import device
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.linux.memory import Mapping
from tests.mount.channel_bench import SIZE_BYTES, WAIT_S, Bench, Server, bench
from tests.require import require

MIB = 1 << 20


@pytest.fixture
def mounted(private_dir: Path) -> Iterator[Bench]:
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    with bench(private_dir) as made:
        yield made


@pytest.fixture(params=[(), ("--pump",)], ids=["inline", "pumped"])
def server(mounted: Bench, request: pytest.FixtureRequest) -> Server:
    started = mounted.start(*request.param)
    init = started.wait_for("init")
    require("passthrough" in init["flags"], "FUSE passthrough (Linux >= 6.9)")
    return started


def refused(call: Callable[[], object]) -> int | None:
    """The errno a call fails with."""
    with pytest.raises(OSError) as info:
        call()
    return info.value.errno


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR, mode: int = 0o600) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def smaps_kib(key: str, path_end: str) -> int:
    """One figure of our own mappings of a file, summed, in KiB."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            ours = line.endswith(path_end)
        elif ours and line.startswith(f"{key}:"):
            total += int(line.split()[1])
    return total


# -- what is mapped -----------------------------------------------------------------------------------


def test_a_mapping_is_the_backing_files_own_huge_pages(mounted: Bench, server: Server) -> None:
    with opened(mounted.ram) as fd, mmap.mmap(fd, SIZE_BYTES) as memory:
        for offset in range(0, SIZE_BYTES, 4096):
            memory[offset] = 0xA5
        memory[MIB : MIB + 5] = b"hello"
        assert smaps_kib("ShmemPmdMapped", str(mounted.ram)) == SIZE_BYTES // 1024
        content = mounted.backing.read_bytes()
        assert content[MIB : MIB + 5] == b"hello"
        assert content[4096] == 0xA5
        with mounted.backing.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(b"other way")
        assert memory[2 * MIB : 2 * MIB + 9] == b"other way"
    statistics = server.statistics()
    assert (statistics["data_reads"], statistics["data_writes"]) == (0, 0)
    assert statistics["requests"]["open"] == 1


def test_the_mount_says_what_it_is(mounted: Bench, server: Server) -> None:
    entry = mountinfo.find_mountpoint(str(mounted.mountpoint))
    assert entry is not None
    assert (entry.fstype, entry.source) == ("fuse.guestmemfs", "channel")
    assert {"nosuid", "nodev", "noexec"} <= set(entry.options.split(","))
    assert entry.super_option("allow_other") == ""
    assert entry.super_option("default_permissions") == ""


# -- data that does not pass --------------------------------------------------------------------------


def test_read_and_write_are_invalid_and_counted(mounted: Bench, server: Server) -> None:
    with opened(mounted.ram) as fd:
        assert refused(lambda: os.read(fd, 10)) == errno.EINVAL
        assert refused(lambda: os.pread(fd, 10, 4096)) == errno.EINVAL
        assert refused(lambda: os.write(fd, b"data")) == errno.EINVAL
        assert refused(lambda: os.pwrite(fd, b"x" * MIB, 4096)) == errno.EINVAL
    statistics = server.statistics()
    assert statistics["data_reads"] == 2
    assert statistics["data_writes"] == 2
    assert mounted.backing.read_bytes() == bytes(SIZE_BYTES)


def test_no_other_call_moves_data_either(mounted: Bench, server: Server) -> None:
    reader, writer = os.pipe()
    other = mounted.backing_dir / "other"
    other.write_bytes(b"x" * 8192)
    with opened(mounted.ram) as fd, opened(mounted.ram) as again, opened(other) as plain:
        os.write(writer, b"data")
        calls = {
            "copy_file_range inside": lambda: os.copy_file_range(fd, again, 4096, 0, 8192),
            "copy_file_range out": lambda: os.copy_file_range(fd, plain, 4096),
            "copy_file_range in": lambda: os.copy_file_range(plain, fd, 4096),
            "sendfile out": lambda: os.sendfile(plain, fd, 0, 4096),
            "sendfile in": lambda: os.sendfile(fd, plain, 0, 4096),
            "splice out": lambda: os.splice(fd, writer, 4096, 0),
            "splice in": lambda: os.splice(reader, fd, 4, None, 0),
        }
        errors = {name: refused(call) for name, call in calls.items()}
    os.close(reader)
    os.close(writer)
    # between filesystems the VFS answers before it would ask us (generic_copy_file_checks)
    between = {"copy_file_range out": errno.EXDEV, "copy_file_range in": errno.EXDEV}
    assert errors == dict.fromkeys(calls, errno.EINVAL) | between
    assert mounted.backing.read_bytes() == bytes(SIZE_BYTES)


def test_o_trunc_arrives_as_a_change_of_size_after_the_open(mounted: Bench, server: Server) -> None:
    with opened(mounted.ram, os.O_RDWR | os.O_TRUNC):
        pass
    assert server.wait_for("open")["truncates"] is False
    assert server.wait_for("resize")["size"] == 0
    assert mounted.ram.stat().st_size == 0


def test_the_largest_attribute_passes_both_ways(mounted: Bench, server: Server) -> None:
    value = os.urandom(65536)
    os.setxattr(mounted.ram, "user.big", value)
    assert os.getxattr(mounted.ram, "user.big") == value


# -- hooks --------------------------------------------------------------------------------------------


def test_fallocate_reaches_the_hook_with_the_callers_pid(mounted: Bench, server: Server) -> None:
    with opened(mounted.ram) as fd:
        os.posix_fallocate(fd, 0, 6 * MIB)
        told = server.wait_for("fallocate")
        assert (told["offset"], told["length"], told["mode"], told["pid"]) == (0, 6 * MIB, 0, os.getpid())
        assert os.fstat(fd).st_size == 6 * MIB


def test_holes_are_found_in_the_backing_file(mounted: Bench, server: Server) -> None:
    with mounted.backing.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"data")
    with opened(mounted.ram) as fd:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 2 * MIB
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert refused(lambda: os.lseek(fd, SIZE_BYTES, os.SEEK_DATA)) == errno.ENXIO
        assert os.lseek(fd, 0, os.SEEK_END) == SIZE_BYTES
    assert server.wait_for("lseek")["whence"] == os.SEEK_DATA


def test_an_unnamed_file_can_be_made_and_mapped(mounted: Bench, server: Server) -> None:
    with opened(mounted.mountpoint, os.O_TMPFILE | os.O_RDWR) as fd:
        assert server.wait_for("tmpfile")["parent"] == 1
        assert os.fstat(fd).st_nlink == 0
        os.ftruncate(fd, 2 * MIB)
        with mmap.mmap(fd, 2 * MIB) as memory:
            memory[:4] = b"anon"
            assert memory[:4] == b"anon"
        assert refused(lambda: os.read(fd, 4)) == errno.EINVAL


def test_a_signal_reaches_a_waiting_fallocate(mounted: Bench, server: Server) -> None:
    script = (
        "import ctypes, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "result = libc.fallocate64(fd, 1, ctypes.c_int64(0), ctypes.c_int64(4096))\n"
        "sys.exit(ctypes.get_errno() if result else 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(mounted.ram)]) as caller:
        told = server.wait_for("fallocate")
        caller.send_signal(signal.SIGUSR1)
        assert server.wait_for("interrupt")["unique"] == told["unique"]
        assert caller.wait(WAIT_S) == errno.EINTR


def test_the_kernel_knows_an_inode_as_long_as_something_holds_it(mounted: Bench, server: Server) -> None:
    with opened(mounted.mountpoint, os.O_TMPFILE | os.O_RDWR) as fd:
        ino = os.fstat(fd).st_ino
        os.ftruncate(fd, 2 * MIB)
        memory = Mapping(fd, 2 * MIB)  # mmap.mmap would keep a descriptor open
    deadline_s = time.monotonic() + WAIT_S
    while "release" not in server.statistics()["replies"]:
        assert time.monotonic() < deadline_s
    assert device.kernel_knows(mounted.fuse_fd, ino), "it is still mapped"
    memory.close()
    assert ino in server.wait_for("forget")["nodeids"]
    assert not device.kernel_knows(mounted.fuse_fd, ino)


def test_backing_ids_are_given_and_taken_back(mounted: Bench, server: Server) -> None:
    with opened(mounted.backing) as fd:
        backing_id = device.backing_open(mounted.fuse_fd, fd)
    assert backing_id > 0
    device.backing_close(mounted.fuse_fd, backing_id)
    assert refused(lambda: device.backing_close(mounted.fuse_fd, backing_id)) == errno.ENOENT


def test_a_cached_name_can_be_invalidated(mounted: Bench, server: Server) -> None:
    mounted.ram.stat()
    device.invalidate_entry(mounted.fuse_fd, 1, b"ram")
    device.invalidate_entry(mounted.fuse_fd, 1, b"no such name")
    assert mounted.ram.stat().st_size == SIZE_BYTES


# -- taking over --------------------------------------------------------------------------------------


class Call:
    """A call in a thread, which may hang until somebody answers."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except OSError as error:
            self.result = error

    def wait(self) -> object:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the call is still waiting"
        return self.result


@pytest.mark.parametrize("options", [(), ("--pump",)], ids=["inline", "pumped"])
def test_a_killed_server_costs_its_callers_no_error(mounted: Bench, options: tuple[str, ...]) -> None:
    first = mounted.start(*options)
    init = first.wait_for("init")["request"]
    with opened(mounted.ram) as fd, mmap.mmap(fd, SIZE_BYTES) as memory:
        memory[:6] = b"before"
        call = Call(lambda: os.stat(mounted.mountpoint / "stuck").st_size)
        read = first.wait_for("stuck")
        first.kill()
        later = Call(lambda: os.stat(mounted.ram).st_size)
        memory[6:12] = b" after"

        second = mounted.start("--resume", init, *options)
        assert second.wait_for("resumed")["resend"] is True
        again = second.wait_for("stuck")
        assert (again["unique"], again["pid"]) == (read["unique"], read["pid"])
        assert (read["resent"], again["resent"]) == (False, True)
        second.command("release")
        assert call.wait() == SIZE_BYTES
        assert later.wait() == SIZE_BYTES
        assert memory[:12] == b"before after"
        os.fstat(fd)
        assert second.statistics()["resent"] >= 1


def test_a_drained_server_hands_over_with_nothing_in_flight(mounted: Bench) -> None:
    first = mounted.start()
    init = first.wait_for("init")["request"]
    call = Call(lambda: os.stat(mounted.mountpoint / "stuck").st_size)
    first.wait_for("stuck")
    first.command("drain")
    meanwhile = Call(lambda: os.stat(mounted.ram).st_size)
    first.command("release")
    assert first.wait_for("drained")["left"] == 0
    first.kill()

    second = mounted.start("--resume", init)
    assert call.wait() == SIZE_BYTES  # its lookup was answered by the first, its getattr by the second
    assert meanwhile.wait() == SIZE_BYTES
    assert second.statistics()["resent"] == 0


def test_callers_notice_nothing_of_three_changes_of_server(mounted: Bench) -> None:
    server = mounted.start()
    init = server.wait_for("init")["request"]
    stop = threading.Event()
    count = 0

    def hammer() -> int:
        nonlocal count
        while not stop.is_set():
            os.stat(mounted.ram)
            count += 1
        return count

    callers = [Call(hammer) for _ in range(3)]
    try:
        for _ in range(3):
            server.kill()
            server = mounted.start("--resume", init)
            server.wait_for("resumed")
            before = count
            while count < before + 100:
                assert not any(isinstance(caller.result, OSError) for caller in callers)
                os.stat(mounted.ram)
    finally:
        stop.set()
    assert all(isinstance(caller.wait(), int) for caller in callers)


# -- the end ------------------------------------------------------------------------------------------


def test_an_unmount_ends_the_server(mounted: Bench, server: Server) -> None:
    mount.umount(str(mounted.mountpoint))
    assert server.wait_for("ended")["reason"] == "unmounted"
    assert server.process.wait(WAIT_S) == 0
    mount.mount("none", str(mounted.mountpoint), "tmpfs", 0, "size=4k")  # what the fixture will unmount


def test_an_aborted_connection_ends_the_server(mounted: Bench, server: Server) -> None:
    control = Path("/sys/fs/fuse/connections")
    abort = control / str(os.minor(mounted.mountpoint.stat().st_dev)) / "abort"
    with contextlib.ExitStack() as stack:
        if not abort.exists():
            mount.mount("none", str(control), "fusectl")
            stack.callback(mount.umount, str(control))
        abort.write_text("1")
    assert server.wait_for("ended")["reason"] == "aborted"
    assert server.process.wait(WAIT_S) == 0
