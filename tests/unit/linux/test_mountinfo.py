"""Parsing mountinfo."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.linux import mountinfo

LINE = (
    r"36 35 98:1234 /mnt1 /mnt/guest\040ram\134x rw,noatime shared:7 master:1"
    r" - fuse.guestmemfs name\011tab rw,user_id=0,max_read=4096,allow_other"
)


def test_every_field_of_a_line() -> None:
    entry = mountinfo.parse_line(LINE)
    assert (entry.mount_id, entry.parent_id) == (36, 35)
    assert entry.dev == (98, 1234)
    assert entry.root == "/mnt1"
    assert entry.mountpoint == "/mnt/guest ram\\x"
    assert entry.options == "rw,noatime"
    assert entry.fstype == "fuse.guestmemfs"
    assert entry.source == "name\ttab"


def test_super_options_by_name() -> None:
    entry = mountinfo.parse_line(LINE)
    assert entry.super_option("max_read") == "4096"
    assert entry.super_option("allow_other") == ""
    assert entry.super_option("read") is None


def test_no_optional_fields_and_a_mountpoint_called_dash() -> None:
    entry = mountinfo.parse_line("1 0 0:5 / - rw - tmpfs - rw")
    assert (entry.mountpoint, entry.fstype, entry.source) == ("-", "tmpfs", "-")


@pytest.mark.parametrize(
    "line", ["", "1 2 3", "1 0 0:5 / /mnt rw shared:1 tmpfs none rw", "x 0 0:5 / / rw - a b c"]
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a mountinfo line"):
        mountinfo.parse_line(line)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_unescape_undoes_what_the_kernel_escapes(text: str) -> None:
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)
    assert mountinfo.unescape(escaped) == text


def test_unescape_leaves_other_backslashes() -> None:
    assert mountinfo.unescape(r"a\b\04") == r"a\b\04"


def test_bytes_that_are_not_utf8_survive() -> None:
    import os

    name = os.fsdecode(b"/mnt/\xff\\040")
    assert os.fsencode(mountinfo.unescape(name)) == b"/mnt/\xff "


def test_find_takes_the_topmost_mount() -> None:
    below, above = "2 9 0:5 / /mnt rw - tmpfs below rw\n", "1 2 0:6 / /mnt rw - tmpfs above rw\n"
    assert mountinfo.find(mountinfo.parse(below + above), "/mnt") == mountinfo.parse_line(above)
    mounts = mountinfo.parse(above + below)
    found = mountinfo.find(mounts, "/mnt/")
    assert found is not None and found.source == "above"
    assert mountinfo.find(mounts, "/mn") is None


def test_own_mounts_have_a_root_and_proc_of_its_type() -> None:
    assert mountinfo.find_mountpoint("/") is not None
    assert mountinfo.find_mountpoint("/proc", "proc") is not None
    assert mountinfo.find_mountpoint("/proc", "tmpfs") is None
