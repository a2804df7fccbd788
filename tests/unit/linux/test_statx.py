"""statx(2) against os.stat."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mountinfo, statx


def test_agrees_with_os_stat(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10000)
    os.link(path, tmp_path / "link")
    expected = path.stat()
    found = statx.statx(str(path))
    assert found.ino == expected.st_ino
    assert found.size_bytes == 10000
    assert found.allocated_bytes == expected.st_blocks * 512
    assert found.nlink == 2
    assert found.dev == (os.major(expected.st_dev), os.minor(expected.st_dev))
    assert found.mount_id in {mount.mount_id for mount in mountinfo.read_mounts()}


def test_works_on_a_descriptor() -> None:
    fd = os.memfd_create("statx")
    try:
        assert statx.statx(fd).ino == os.fstat(fd).st_ino
        assert not statx.statx(fd).is_dax
    finally:
        os.close(fd)


def test_symbolic_links_are_followed_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    link = tmp_path / "link"
    link.symlink_to("target")
    assert statx.statx(str(link)).ino == (tmp_path / "target").stat().st_ino
    assert statx.statx(str(link), follow=False).ino == link.lstat().st_ino


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        statx.statx(str(tmp_path / "none"))
    assert caught.value.filename == str(tmp_path / "none")


def test_dax_attribute_is_bit_21() -> None:
    raw = bytearray(256)
    raw[8:16] = (1 << 21).to_bytes(8, "little")
    assert statx.parse(raw).is_dax
