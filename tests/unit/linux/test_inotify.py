"""Watching files by descriptor."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import memory
from guestmemfs_fuse.linux.inotify import ModifyWatch, News


@pytest.fixture
def news() -> Iterator[ModifyWatch]:
    watch = ModifyWatch()
    yield watch
    watch.close()


@pytest.fixture
def file_fd() -> Iterator[int]:
    # not a memfd: the kernel tells of no memfd's holes (FMODE_NONOTIFY)
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.ftruncate(fd, 8192)
    yield fd
    os.close(fd)


def test_no_news_is_nothing(news: ModifyWatch, file_fd: int) -> None:
    news.add(file_fd)
    assert news.read() == (set(), False)


def test_a_hole_punched_through_a_mapping_is_news(news: ModifyWatch, file_fd: int) -> None:
    watch = news.add(file_fd)
    with memory.Mapping(file_fd, 8192, prot=memory.PROT_READ | memory.PROT_WRITE) as mapping:
        mapping.write(0, b"guest")
        mapping.advise(mmap.MADV_REMOVE, 0, 4096)
    assert news.read() == ({News(watch)}, False)


def test_many_changes_of_one_file_are_one_piece_of_news(news: ModifyWatch, file_fd: int) -> None:
    watch = news.add(file_fd)
    for size in range(100):
        os.ftruncate(file_fd, size)
    assert news.read() == ({News(watch)}, False)


def test_what_is_watched_no_longer_is_no_news(news: ModifyWatch, file_fd: int) -> None:
    news.remove(news.add(file_fd))
    os.ftruncate(file_fd, 1)
    assert news.read() == (set(), False)


def test_removing_a_watch_twice_is_fine(news: ModifyWatch, file_fd: int) -> None:
    watch = news.add(file_fd)
    news.remove(watch)
    news.remove(watch)


def test_a_watch_survives_the_descriptor_it_was_made_with(news: ModifyWatch, file_fd: int) -> None:
    copy = os.open(f"/proc/self/fd/{file_fd}", os.O_RDWR)
    watch = news.add(copy)
    os.close(copy)
    os.ftruncate(file_fd, 1)
    assert news.read() == ({News(watch)}, False)


def test_a_directory_tells_which_of_its_files_was_punched(news: ModifyWatch, tmp_path: Path) -> None:
    directory_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    watch = news.add(directory_fd)
    os.close(directory_fd)
    fd = os.open(tmp_path / "2a", os.O_RDWR | os.O_CREAT)
    assert news.read() == (set(), False)
    os.ftruncate(fd, 8192)
    assert news.read() == ({News(watch, b"2a")}, False)
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, 0, 4096)
    os.close(fd)
    assert news.read() == ({News(watch, b"2a")}, False)
