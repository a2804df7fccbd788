"""The DAX attribute; files that have it need a machine of their own (tests/vm)."""

from __future__ import annotations

import os

import pytest

from guestmemfs_fuse.linux import statx


def test_a_file_in_the_page_cache_is_not_dax() -> None:
    fd = os.memfd_create("statx")
    try:
        assert not statx.is_dax(fd)
    finally:
        os.close(fd)


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="statx"):
        statx.is_dax(-1)


def test_dax_attribute_is_bit_21() -> None:
    raw = bytearray(256)
    assert not statx.has_dax(raw)
    raw[8:16] = (1 << 21).to_bytes(8, "little")
    assert statx.has_dax(raw)
