"""The numbers of the wire format, checked against arithmetic and against the header this host has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guestmemfs_fuse.fuse import abi
from tests.require import require

HEADER = Path("/usr/include/linux/fuse.h")
IOC_WRITE = 1
FUSE_DEV_IOC_MAGIC = 229


def iow(number: int, size: int) -> int:
    return IOC_WRITE << 30 | size << 16 | FUSE_DEV_IOC_MAGIC << 8 | number


def test_layouts_have_the_sizes_of_the_kernels_structs() -> None:
    sizes = {
        abi.IN_HEADER: 40,
        abi.OUT_HEADER: 16,
        abi.INIT_OUT: 64,
        abi.INIT_OUT_COMPAT_22: 24,
        abi.ATTR: 88,
        abi.OPEN_OUT: 16,
        abi.CREATE_IN: 16,
        abi.FALLOCATE_IN: 32,
        abi.LSEEK_IN: 24,
        abi.LSEEK_OUT: 8,
        abi.NOTIFY_INVAL_INODE_OUT: 24,
        abi.NOTIFY_INVAL_ENTRY_OUT: 16,
        abi.BACKING_MAP: 16,
    }
    assert {layout.format: layout.size for layout in sizes} == {
        layout.format: size for layout, size in sizes.items()
    }
    assert abi.ENTRY_OUT_BYTES == 128


def test_ioctl_numbers_are_what_iow_makes() -> None:
    assert iow(1, abi.BACKING_MAP.size) == abi.DEV_IOC_BACKING_OPEN
    assert iow(2, abi.BACKING_ID.size) == abi.DEV_IOC_BACKING_CLOSE


def defined(pattern: str) -> dict[str, int]:
    require(HEADER.exists(), str(HEADER))
    found = re.findall(pattern, HEADER.read_text(), re.MULTILINE)
    assert found
    return {name: int(value) for name, value in found}


@pytest.mark.parametrize(
    ("members", "pattern"),
    [
        ({m.name: m.value for m in abi.Opcode}, r"^\tFUSE_([A-Z0-9_]+?)\s*= (\d+),"),
        ({m.name: m.value for m in abi.Notify}, r"^\tFUSE_NOTIFY_([A-Z_]+?)\s*= (\d+),"),
        (
            {m.name: m.value.bit_length() - 1 for m in abi.OpenFlag},
            r"^#define FOPEN_([A-Z_]+)\s+\(1 << (\d+)\)",
        ),
        (
            {m.name: m.value.bit_length() - 1 for m in abi.InitFlag},
            r"^#define FUSE_([A-Z0-9_]+)\s+\(1(?:ULL)? << (\d+)\)",
        ),
    ],
    ids=["opcodes", "notifications", "open flags", "init flags"],
)
def test_names_have_the_values_of_the_header(members: dict[str, int], pattern: str) -> None:
    """The header may be older than we are: what it knows must agree, and it must know most."""
    header = defined(pattern)
    known = {name: value for name, value in members.items() if name in header}
    assert known == {name: header[name] for name in known}
    assert len(known) >= 2
