"""The real directory and the one the other tests use behave alike."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.metadata.files import DirectoryFiles, Files
from tests.unit.metadata.memory_files import MemoryFiles


@pytest.fixture(params=["directory", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "memory":
        yield MemoryFiles()
        return
    directory = DirectoryFiles(tmp_path)
    yield directory
    directory.close()


def test_a_file_is_written_at_its_end_and_cut(files: Files) -> None:
    file = files.create("b")
    assert file.write(b"hello ") == 6
    assert file.write(b"world") == 5
    file.truncate(8)
    assert file.write(b"!") == 1
    file.sync()
    file.close()
    assert files.read("b") == b"hello wo!"
    assert files.size_bytes("b") == 9
    again = files.open_append("b")
    again.write(b"?")
    again.close()
    assert files.read("b") == b"hello wo!?"


def test_a_file_can_be_read_while_it_is_written(files: Files) -> None:
    file = files.create("b")
    file.write(b"one")
    assert files.read("b") == b"one"
    file.close()


def test_names_are_sorted_and_renaming_replaces(files: Files) -> None:
    for name in ("b", "a"):
        file = files.create(name)
        file.write(name.encode())
        file.close()
    assert files.names() == ["a", "b"]
    files.rename("b", "a")
    files.sync()
    assert files.names() == ["a"]
    assert files.read("a") == b"b"
    files.unlink("a")
    assert files.names() == []


def test_what_is_missing_or_there_already_is_said(files: Files) -> None:
    files.create("a").close()
    with pytest.raises(FileExistsError):
        files.create("a")
    for call in (files.read, files.size_bytes, files.open_append, files.unlink):
        with pytest.raises(FileNotFoundError):
            call("missing")
    with pytest.raises(FileNotFoundError):
        files.rename("missing", "a")


def test_files_are_for_root_only_and_links_are_not_followed(tmp_path: Path) -> None:
    files = DirectoryFiles(tmp_path)
    files.create("a").close()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to("a")
    for call in (files.read, files.open_append):
        with pytest.raises(OSError):
            call("link")
    files.close()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files = DirectoryFiles(tmp_path)
    files.create("a").close()
    files.open_append("a").close()
    files.read("a")
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before
