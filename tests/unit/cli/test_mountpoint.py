"""Where can be mounted, and where not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.cli.mountpoint import require_free
from guestmemfs_fuse.core.errors import UsageError
from guestmemfs_fuse.linux import mountinfo
from tests.unit.cli.fakes import a_mount


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    require_free(str(tmp_path))


def test_what_is_no_empty_directory_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, message in (
        (tmp_path, "is not empty"),
        (file, "is not a directory"),
        (tmp_path / "nothing", "does not exist"),
    ):
        with pytest.raises(UsageError, match=f"{path} {message}"):
            require_free(str(path))


def test_a_mountpoint_of_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match=r"/proc is a mountpoint already \(proc\)"):
        require_free("/proc")


def test_mounts_of_ours_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("the mount was touched")

    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [a_mount("/mnt/guests", "other")])
    monkeypatch.setattr(os, "scandir", touched)
    with pytest.raises(UsageError, match="guestmemfs instance other"):
        require_free("/mnt/guests")
    with pytest.raises(UsageError, match="inside the guestmemfs mount /mnt/guests"):
        require_free("/mnt/guests/below")


def test_a_neighbour_with_a_longer_name_is_not_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "guests2"
    directory.mkdir()
    mounts = [replace(a_mount(), mountpoint=str(tmp_path / "guests"))]
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": mounts)
    require_free(str(directory))
