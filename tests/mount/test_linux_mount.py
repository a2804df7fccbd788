"""The mount API on filesystems of our own."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import memory, mount, mountinfo
from tests.require import require


@pytest.fixture(autouse=True)
def root() -> None:
    require(os.geteuid() == 0, "root")


def test_filesystem_lives_detached_then_attached_then_is_gone(private_dir: Path) -> None:
    target = private_dir / "with space"
    target.mkdir()
    options = {"size": "8M", "mode": "0750", "noswap": None}
    attributes = mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_NOSUID
    mount_fd = mount.new_filesystem("tmpfs", options, attributes, source="mine")
    try:
        os.mkdir("directory", dir_fd=mount_fd)
        assert mountinfo.find_mountpoint(str(target)) is None
        mount.attach(mount_fd, str(target))
    finally:
        os.close(mount_fd)
    try:
        entry = mountinfo.find_mountpoint(str(target))
        assert entry is not None
        assert (entry.fstype, entry.source) == ("tmpfs", "mine")
        assert entry.super_option("size") == "8192k"
        assert entry.super_option("noswap") == ""
        assert {"noexec", "nosuid"} <= set(entry.options.split(","))
        assert (target / "directory").is_dir()
        assert target.stat().st_mode & 0o7777 == 0o750
    finally:
        mount.umount(str(target))
    assert mountinfo.find_mountpoint(str(target)) is None


def test_closing_the_only_descriptor_gives_the_memory_back() -> None:
    mount_fd = mount.new_filesystem("tmpfs", {"size": "8M"})
    assert os.get_inheritable(mount_fd) is False
    os.close(mount_fd)
    with pytest.raises(OSError):
        os.fstat(mount_fd)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"nonsense": "1"}, "nonsense"),
        ({"huge": "maybe"}, "huge"),
        ({"size": "8M", "frozen": None}, "frozen"),
    ],
)
def test_refused_option_is_named(options: dict[str, str | None], text: str) -> None:
    with pytest.raises(OSError, match=f"option '{text}.*refused") as caught:
        mount.new_filesystem("tmpfs", options)
    assert caught.value.errno == errno.EINVAL


def test_unknown_filesystem_is_named() -> None:
    with pytest.raises(OSError, match="fsopen") as caught:
        mount.new_filesystem("nosuchfs", {})
    assert caught.value.filename == "nosuchfs"


@pytest.mark.parametrize("by_path", [True, False])
def test_reconfigure_changes_the_named_option_only(private_dir: Path, by_path: bool) -> None:
    target = private_dir / "mnt"
    target.mkdir()
    mount_fd = mount.new_filesystem("tmpfs", {"size": "8M", "mode": "0711", "huge": "always"})
    try:
        mount.attach(mount_fd, str(target))
        mount.reconfigure(str(target) if by_path else mount_fd, {"size": "16M"})
        entry = mountinfo.find_mountpoint(str(target))
        assert entry is not None
        assert entry.super_option("size") == "16384k"
        assert entry.super_option("huge") == "always"
        assert entry.super_option("mode") == "711"
    finally:
        os.close(mount_fd)
        mount.umount(str(target))


def test_reconfigure_below_what_is_used_is_refused_and_said() -> None:
    mount_fd = mount.new_filesystem("tmpfs", {"size": "8M"})
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=mount_fd)
        memory.fallocate(fd, 0, 0, 6 << 20)
        with pytest.raises(OSError, match="Too small a size"):
            mount.reconfigure(mount_fd, {"size": "1M"})
        os.close(fd)
    finally:
        os.close(mount_fd)


def test_classic_mount_and_its_failure(private_dir: Path) -> None:
    target = private_dir / "mnt"
    target.mkdir()
    mount.mount("src", str(target), "tmpfs", mount.MS_NODEV, "size=4k")
    try:
        assert "nodev" in (mountinfo.find_mountpoint(str(target)) or pytest.fail("not mounted")).options
    finally:
        mount.umount(str(target))
    with pytest.raises(OSError, match="mount") as caught:
        mount.mount("src", str(target / "none"), "tmpfs")
    assert caught.value.filename == str(target / "none")


def test_busy_mount_is_not_unmounted_unless_detached(private_dir: Path) -> None:
    target = private_dir / "mnt"
    target.mkdir()
    mount.mount("src", str(target), "tmpfs")
    with (target / "file").open("w"):
        with pytest.raises(OSError) as caught:
            mount.umount(str(target))
        assert caught.value.errno == errno.EBUSY
        mount.umount(str(target), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    assert mountinfo.find_mountpoint(str(target)) is None
