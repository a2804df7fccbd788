"""The small pure parts: registers, statfs, fdinfo, our own command lines."""

from __future__ import annotations

import os
import struct

import pytest

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.own import is_ours, runs_our_module
from guestmemfs_fuse.redirect.resolve import FdInfo, parse_fdinfo

PAGE = 2 << 20


def test_registers_are_signed_and_cut_as_c_would() -> None:
    assert arch.signed(arch.unsigned(-22)) == -22
    assert arch.signed(0x7F0000000000) == 0x7F0000000000
    assert arch.as_int(0xFFFFFFFF) == -1
    assert arch.as_int(0xDEAD00000005) == 5


@pytest.mark.parametrize(
    ("result", "is_error", "restarts"),
    [
        (0, False, False),
        (-1, True, False),
        (-511, True, False),
        (-512, True, True),
        (-516, True, True),
        (-517, True, False),
        (-4095, True, False),
        (-4096, False, False),
    ],
)
def test_results_are_told_apart(result: int, is_error: bool, restarts: bool) -> None:
    assert (arch.is_error(result), arch.wants_restart(result)) == (is_error, restarts)


def test_statfs_is_told_in_huge_pages_with_the_same_bytes_free() -> None:
    before = struct.pack("=qqQQQQQQqq", 0x65735546, 4096, 1024, 768, 512, 7, 5, 99, 255, 4096)
    after = struct.unpack("=qqQQQQQQqq", arch.statfs_as_hugetlbfs(before, PAGE))
    assert after == (arch.HUGETLBFS_MAGIC, PAGE, 2, 1, 1, 7, 5, 99, 255, PAGE)


def test_statfs_already_in_huge_pages_keeps_its_counts() -> None:
    before = struct.pack("=qqQQQQQQqq", 0x65735546, PAGE, 100, 60, 60, 0, 0, 0, 255, PAGE)
    after = struct.unpack("=qqQQQQQQqq", arch.statfs_as_hugetlbfs(before, PAGE))
    assert after[1:5] == (PAGE, 100, 60, 60)


def test_fdinfo_is_read_whatever_else_it_says() -> None:
    text = "pos:\t0\nflags:\t02100002\nmnt_id:\t77\nino:\t12345\nlock:\t1: POSIX ADVISORY\nodd line\n"
    assert parse_fdinfo(text) == FdInfo(77, 12345, 0o2100002)


@pytest.mark.parametrize("text", ["", "pos:\t0\nflags:\t02\nmnt_id:\t1\n", "flags: 9\nmnt_id: 1\nino: 1"])
def test_fdinfo_without_what_we_need_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_fdinfo(text)


@pytest.mark.parametrize(
    ("line", "is_ours_"),
    [
        ("/x/.venv/bin/python -m guestmemfs_fuse.daemon /run/guestmemfs/a", True),
        ("python3.11 -S -E -m guestmemfs_fuse.handover.holder /d", True),
        ("python -S /lib/guestmemfs_fuse/handover/holder.py /d", True),
        ("python -m pytest guestmemfs_fuse", False),
        ("python /home/me/guestmemfs_fuse/notes.txt", False),
        ("python -m", False),
        ("qemu-system-x86_64 -mem-path /guestmemfs_fuse/a.py", False),
        ("python3 tool.py -m guestmemfs_fuse.daemon", False),
        ("", False),
    ],
)
def test_our_own_daemons_are_recognised_by_their_command_line(line: str, is_ours_: bool) -> None:
    assert runs_our_module([part.encode() for part in line.split(" ")]) is is_ours_


def test_a_process_that_is_gone_is_not_ours() -> None:
    assert not is_ours(2**22 + 1)


def test_another_architecture_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    arch.require_supported()
    other = os.uname_result(("Linux", "host", "6.18", "#1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    with pytest.raises(UnsupportedError, match="aarch64") as caught:
        arch.require_supported()
    assert "\n" not in str(caught.value)
