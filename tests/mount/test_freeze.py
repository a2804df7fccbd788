"""The serialised state on a real mount: nothing changes, everything else goes on, whatever dies meanwhile."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guestmemfs_fuse.control import client
from tests.cli import Instance
from tests.mount.load_crew import crew, kill, serving_pid
from tests.mount.user_of import user_of

MIB = 1 << 20


@pytest.fixture
def tree(instance: Instance) -> Path:
    """See plant; and /big, 8 MiB."""
    plant(instance.mountpoint)
    (instance.mountpoint / "big").touch()
    os.truncate(instance.mountpoint / "big", 8 * MIB)
    return instance.mountpoint


def plant(root: Path) -> None:
    """f (4 MiB, with an attribute), g (empty), d/, s -> f: what MODIFICATIONS need, once."""
    (root / "f").touch()
    os.truncate(root / "f", 4 * MIB)
    (root / "g").touch()
    (root / "d").mkdir()
    (root / "s").symlink_to("f")
    os.setxattr(root / "f", "user.x", b"1")


def _tmpfile(root: Path) -> None:
    os.close(os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600))


def _open_truncating(root: Path) -> None:
    os.close(os.open(root / "f", os.O_RDWR | os.O_TRUNC))


def _fallocate(*options: str) -> Callable[[Path], None]:
    def call(root: Path) -> None:
        done = subprocess.run(["fallocate", *options, "-l", "1M", root / "f"], capture_output=True, text=True)
        if done.returncode:
            raise OSError(errno.EBUSY if "busy" in done.stderr else 0, done.stderr)

    return call


MODIFICATIONS: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").touch(),
    "tmpfile": _tmpfile,
    "mkdir": lambda root: (root / "new").mkdir(),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFIFO | 0o600),
    "symlink": lambda root: (root / "new").symlink_to("f"),
    "link": lambda root: os.link(root / "f", root / "new"),
    "unlink": lambda root: (root / "g").unlink(),
    "rmdir": lambda root: (root / "d").rmdir(),
    "rename": lambda root: (root / "f").rename(root / "new"),
    "rename over": lambda root: (root / "f").rename(root / "g"),
    "grow": lambda root: os.truncate(root / "f", 6 * MIB),
    "shrink": lambda root: os.truncate(root / "f", 2 * MIB),
    "open truncating": _open_truncating,
    "allocate": _fallocate("--offset", "6M"),
    "allocate keeping the size": _fallocate("--keep-size", "--offset", "6M"),
    "punch": _fallocate("--punch-hole"),
    "chmod": lambda root: (root / "f").chmod(0o640),
    "chown": lambda root: os.chown(root / "f", 1, 1),
    "utimens": lambda root: os.utime(root / "f", (1, 1)),
    "setxattr": lambda root: os.setxattr(root / "f", "user.y", b"2"),
    "removexattr": lambda root: os.removexattr(root / "f", "user.x"),
}


def picture(root: Path) -> dict[str, tuple[int, ...]]:
    """What is there, as far as stat and attributes say."""
    rows: dict[str, tuple[int, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        attributes = len(os.listxattr(path, follow_symlinks=False)) if not path.is_symlink() else 0
        rows[path.name] = (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            attributes,
        )
    return rows


def await_growth(counters: Callable[[], list[int]]) -> None:
    """Every counter has moved on since now."""
    before, deadline = counters(), time.monotonic() + 60
    while not all(now > then for now, then in zip(counters(), before, strict=True)):
        assert time.monotonic() < deadline, f"stands still: {before}"
        time.sleep(0.005)


def assert_all_refused(root: Path) -> None:
    for name, modify in MODIFICATIONS.items():
        with pytest.raises(OSError, match=r".") as caught:
            modify(root)
        assert caught.value.errno == errno.EBUSY, (name, caught.value)


def test_every_modification_is_refused_and_changes_nothing(instance: Instance, tree: Path) -> None:
    before = picture(tree)
    instance.cli.run("freeze", instance.name)
    assert instance.status()["state"] == "frozen"
    assert_all_refused(tree)
    assert picture(tree) == before
    instance.cli.run("freeze", instance.name)  # twice is harmless
    instance.cli.run("thaw", instance.name)
    instance.cli.run("thaw", instance.name)
    assert instance.status()["state"] == "serving"
    for name, modify in MODIFICATIONS.items():
        fresh = tree / name
        fresh.mkdir()
        plant(fresh)
        modify(fresh)
        assert picture(fresh) != before
        shutil.rmtree(fresh)


def test_looking_opening_and_mapping_go_on(instance: Instance, tree: Path) -> None:
    with user_of(tree / "big", length_bytes=8 * MIB) as before:
        instance.cli.run("freeze", instance.name)
        before.write(4 * MIB, "goes-on")
        assert sorted(os.listdir(tree)) == ["big", "d", "f", "g", "s"]
        assert os.readlink(tree / "s") == "f"
        assert os.getxattr(tree / "f", "user.x") == b"1"
        assert os.statvfs(tree).f_bsize == 2 * MIB
        with pytest.raises(FileNotFoundError):
            (tree / "absent").stat()
        with user_of(tree / "big", length_bytes=8 * MIB) as after:
            assert after.read(4 * MIB, 7) == "goes-on"
            after.write(0, "also-new-mappings")
        assert before.read(0, 17) == "also-new-mappings"
        fd = os.open(tree / "f", os.O_RDWR)
        with mmap.mmap(fd, 4 * MIB) as memory:
            memory[:4] = b"data"
            memory.flush()
        os.fsync(fd)
        os.close(fd)


def test_frozen_stays_frozen_whatever_happens_to_the_daemon(instance: Instance, tree: Path) -> None:
    before = picture(tree)
    instance.cli.run("freeze", instance.name)
    instance.cli.run("restart", instance.name)
    assert_all_refused(tree)
    pid = serving_pid(instance.state_dir)
    kill(pid)
    serving_pid(instance.state_dir, not_pid=pid)
    assert_all_refused(tree)
    instance.umount()
    instance.remount()
    assert instance.status()["state"] == "frozen"
    assert_all_refused(tree)
    status = instance.status()
    kill(status["holder_pid"], status["daemon_pid"])
    instance.remount()
    assert_all_refused(tree)
    assert picture(tree) == before
    instance.cli.run("thaw", instance.name)
    (tree / "new").touch()
    (tree / "g").unlink()


def test_freezing_waits_for_an_allocation_under_way(guestmemfs: object, instance: Instance) -> None:
    """What had begun is finished; when freeze returns, nothing changes any more."""
    big = instance.cli.mount("big", size="2G")
    path = big.mountpoint / "f"
    path.touch()
    stop, sizes, refusals = threading.Event(), [], []

    def grow_and_shrink() -> None:
        while not stop.is_set():
            for size in (1024 * MIB, 0):
                try:
                    os.truncate(path, size)
                except OSError as error:
                    assert error.errno == errno.EBUSY, error
                    refusals.append(size)
                else:
                    sizes.append(size)

    thread = threading.Thread(target=grow_and_shrink)
    thread.start()
    try:
        for _ in range(5):
            done = len(sizes)
            client.call(str(big.state_dir), "freeze", timeout_s=60)
            # What was answered before may not be back at its caller, which is when the kernel shows it.
            await_growth(lambda: [len(refusals)])
            size = path.stat().st_size
            allocated = big.status()["region"]["used_bytes"]
            assert allocated == size, "an allocation was still under way"
            assert path.stat().st_size == size
            client.call(str(big.state_dir), "thaw", timeout_s=60)
            deadline = time.monotonic() + 60
            while len(sizes) < done + 2:
                assert time.monotonic() < deadline, "nothing works after thaw"
                time.sleep(0.01)
    finally:
        stop.set()
        thread.join()


def test_frozen_under_load_nothing_changes_until_it_thaws(instance: Instance) -> None:
    """Several processes change things all the time; each refusal leaves everything as it was."""
    code = """
import errno, os, sys
root, count, number = sys.argv[1], int(sys.argv[2]), 0
os.mkdir(root)
print("ready", flush=True)
refused = done = 0
while not os.path.exists(root + "/../stop"):
    number += 1
    for call in (
        lambda: os.close(os.open(f"{root}/f{number}", os.O_CREAT | os.O_EXCL | os.O_RDWR)),
        lambda: os.rename(f"{root}/f{number}", f"{root}/g{number}"),
        lambda: os.unlink(f"{root}/g{number}"),
    ):
        while True:
            try:
                call()
            except OSError as error:
                assert error.errno == errno.EBUSY, error
                refused += 1
                os.pwrite(count, refused.to_bytes(8, "little"), 0)
            else:
                done += 1
                break
assert os.listdir(root) == []
print(refused, done, flush=True)
"""
    root = instance.mountpoint
    counts = [os.memfd_create("refused") for _ in range(3)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, root / f"w{number}", str(count)],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[count],
        )
        for number, count in enumerate(counts)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for _ in range(6):
            client.call(str(instance.state_dir), "freeze")
            # A call that was answered before is not back at its caller by now; the first refused one is.
            await_growth(lambda: [int.from_bytes(os.pread(count, 8, 0), "little") for count in counts])
            first = picture(root)
            assert picture(root) == first
            client.call(str(instance.state_dir), "thaw")
        (root / "stop").touch()
        for worker in workers:
            said, _ = worker.communicate(timeout=60)
            refused, done = map(int, said.split())
            assert worker.returncode == 0
            assert done > 0
            assert refused > 0
    finally:
        for worker, count in zip(workers, counts, strict=True):
            worker.kill()
            worker.communicate()
            os.close(count)


def test_freezing_killing_and_thawing_under_load_loses_nothing(instance: Instance) -> None:
    """The load retries nothing, so it only runs while the instance is thawed."""
    with crew(instance.mountpoint, 2, 77) as load:
        load.stop()
    instance.cli.run("freeze", instance.name)
    before = picture(instance.mountpoint)
    for _ in range(3):
        pid = serving_pid(instance.state_dir)
        kill(pid)
        serving_pid(instance.state_dir, not_pid=pid)
        assert picture(instance.mountpoint) == before
    assert instance.cli.run("fsck", instance.name).returncode == 0
    instance.cli.run("thaw", instance.name)
    (instance.mountpoint / "new").touch()
