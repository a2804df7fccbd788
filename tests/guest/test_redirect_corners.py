"""`guestmemfs run` where programs do what few do: namespaces, seccomp, closed descriptors, own filesystems.

Each was a bug once. The programs are Python, on the fake mount of tests/zoo.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import Guestmemfs
from tests.zoo.rig import PAGE_BYTES, SOURCES, Build, FakeMount, huge_pages

pytest_plugins = ("tests.zoo.fixtures",)

TAG = "page0003"
PRELUDE = """
import ctypes, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def mapped(fd, offset=0):
    try:
        return mmap.mmap(fd, 1 << 21, offset=offset)[:8].decode()
    except OSError as error:
        return error.strerror
"""


def python(region: FakeMount, code: str, *arguments: object) -> str:
    """What a Python program printed that ran redirected, and kept so."""
    done = region.run(sys.executable, "-c", PRELUDE + code, *arguments, options=["--keep"])
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.strip()


# -- mount namespaces ----------------------------------------------------------------------------------


def test_regression_a_descriptor_from_before_unshare_is_redirected(region: FakeMount) -> None:
    file = region.file("ram", (3, 1))
    code = "fd = os.open(sys.argv[1], os.O_RDWR); assert not libc.unshare(0x20000); print(mapped(fd))"
    assert python(region, code, file) == TAG


def test_regression_a_root_that_moves_in_a_namespace_we_know_hides_no_mount(region: FakeMount) -> None:
    """As every container's start does: unshare, some mmap of a library, then pivot_root."""
    file = region.file("ram", (3, 1))
    code = """
new = sys.argv[2]
os.mkdir(new)
assert not libc.unshare(0x20000)
with open("/usr/bin/env", "rb") as some:
    mmap.mmap(some.fileno(), 4096, prot=mmap.PROT_READ)
bind = 4096 | 16384
assert not libc.mount(b"none", b"/", None, 16384 | 1 << 18, None)
assert not libc.mount(b"/", new.encode(), None, bind, None)
os.chdir(new)
assert not libc.syscall(155, b".", b"."), ctypes.get_errno()
assert not libc.umount2(b".", 2)
os.chdir("/")
print(mapped(os.open(sys.argv[1], os.O_RDWR)))
"""
    assert python(region, code, file, region.directory.parent / "root") == TAG


def test_regression_the_tracer_keeps_no_namespace_alive_that_everybody_has_left(region: FakeMount) -> None:
    script = (
        "unshare -m env true; for fd in /proc/$(sed -n 's/TracerPid:.//p' /proc/self/status)/fd/*; do "
        "readlink $fd; done | grep -c mountinfo"
    )
    done = region.run("sh", "-c", script, options=["--keep"])
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_regression_another_registrys_instance_of_the_same_name_is_not_taken_for_ours(
    guestmemfs: Guestmemfs, zoo: Build, private_dir: Path
) -> None:
    """Its inode numbers mean blocks of another region: another guest's memory would be mapped."""
    with huge_pages(4):
        mine = guestmemfs.mount("same", "--region", "hugetlb", size="4M")
        (private_dir / "elsewhere").mkdir()
        other = Guestmemfs(private_dir / "elsewhere")
        try:
            theirs = other.mount("same", "--region", "hugetlb", size="4M")
            for instance in (mine, theirs):
                (instance.mountpoint / "ram").touch()
                os.truncate(instance.mountpoint / "ram", PAGE_BYTES)
            mapper = [zoo("mapper"), theirs.mountpoint / "ram", 0, PAGE_BYTES]
            refused = guestmemfs.run("run", "--", *mapper, check=False)
            assert "the daemon of same cannot be asked" in refused.stderr
            assert other.run("run", "--", *mapper).stderr == ""
        finally:
            other.destroy_all()
            guestmemfs.destroy_all()  # before the pages are taken from the pool


# -- what else a program may have set up ----------------------------------------------------------------


def test_regression_a_refused_mapping_is_no_unknown_call_to_a_seccomp_filter(region: FakeMount) -> None:
    """A filter that lists what it knows kills for call number -1, which a skipped call has."""
    file = region.file("ram", (3, 2))
    code = """
load_number, if_equal, answer = 0x20, 0x15, 0x06
kill, allow = 1 << 31, 0x7FFF0000
steps = [(load_number, 0, 0, 0), (if_equal, 0, 1, 0xFFFFFFFF), (answer, 0, 0, kill), (answer, 0, 0, allow)]
raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
fd = os.open(sys.argv[1], os.O_RDWR)
assert not libc.prctl(38, 1, 0, 0, 0)
assert not libc.prctl(22, 2, struct.pack("=H6xQ", len(steps), ctypes.addressof(raw)))
print(mapped(fd), mapped(fd, offset=4096))
"""
    assert python(region, code, file) == f"{TAG} Invalid argument"


def test_regression_statfs_of_a_filesystem_whose_daemon_is_traced_too(
    region: FakeMount, private_dir: Path
) -> None:
    mountpoint = private_dir / "uncached"
    mountpoint.mkdir()
    script = (
        '"$0" "$1" "$2" & until grep -q " $2 fuse" /proc/mounts; do sleep 0.05; done; '
        'stat -f -c %n "$2/d"; umount "$2"; wait'
    )
    serve = (sys.executable, SOURCES / "uncached_fuse.py", mountpoint)
    try:
        done = region.run("sh", "-c", script, *serve, options=["--keep"])
        assert (done.stdout, done.stderr) == (f"{mountpoint}/d\n", "")
    finally:
        if mount_is_there(mountpoint):
            subprocess.run(["umount", "--force", mountpoint], check=True)


def mount_is_there(mountpoint: Path) -> bool:
    return f" {mountpoint} " in Path("/proc/mounts").read_text()


# -- descriptors of the launcher --------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_regression_standard_descriptors_may_be_closed(region: FakeMount, closed: str) -> None:
    file = region.file("ram", (3, 1))
    result = region.directory.parent / "result"
    code = f"{PRELUDE}\nopen(sys.argv[2], 'w').write(mapped(os.open(sys.argv[1], os.O_RDWR)))"
    command = region.command(["--keep"], sys.executable, "-c", code, file, result)
    subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], check=True, timeout=60)
    assert result.read_text() == TAG


def test_regression_a_full_stderr_that_nobody_reads_stops_nobody(region: FakeMount) -> None:
    file = region.file("ram", (3, 1))
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb", buffering=0) as stderr:
        os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
        code = PRELUDE + "print(mapped(os.open(sys.argv[1], os.O_RDWR)))"
        command = region.command(["--keep", "--verbose"], sys.executable, "-c", code, file)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60)
    assert done.stdout == f"{TAG}\n"


def test_regression_a_script_without_an_interpreter_line_is_found_on_the_path(
    region: FakeMount, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = private_dir / "script-on-the-path"
    script.write_text("echo $1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{private_dir}")
    done = region.run(script.name, "works")
    assert (done.stdout, done.stderr) == ("works\n", "")
