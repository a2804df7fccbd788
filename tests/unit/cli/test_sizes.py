"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.cli.sizes import exact_size, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("4096", 4096),
        ("512B", 512),
        ("1K", 1 << 10),
        ("64k", 64 << 10),
        ("3M", 3 << 20),
        ("3m", 3 << 20),
        ("3Mi", 3 << 20),
        ("3MiB", 3 << 20),
        ("3mib", 3 << 20),
        ("4G", 4 << 30),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        (" 4 GiB ", 4 << 30),
    ],
)
def test_suffixes_are_powers_of_1024_in_any_spelling(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1G", "+1G", "1e9", "0x10", "4X", "4KB", "4 G B", "1,5G", "0", "0G", "1.5", "9E", "٣G", "1_0"],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|number|range"):
        parse_size(text)


def test_a_size_no_file_can_have_is_refused() -> None:
    assert parse_size("8388607T") == 8388607 << 40
    with pytest.raises(ValueError, match="range"):
        parse_size("8388608T")


@given(st.integers(1, (1 << 63) - 1))
def test_exact_sizes_are_read_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (1 << 10, "1 KiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 40, "1 TiB"),
        (1025, "1.001 KiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
