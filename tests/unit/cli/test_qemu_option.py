"""What `map --qemu` prints."""

from __future__ import annotations

from typing import Any

import pytest

from guestmemfs_fuse.cli.qemu_option import backend
from guestmemfs_fuse.core.errors import UsageError

MIB = 1 << 20
HUGETLB: dict[str, Any] = {
    "kind": "hugetlb",
    "page_bytes": 2 * MIB,
    "passthrough": False,
    "path": "/run/g/region/region",
    "size_bytes": 128 * MIB,
    "segments": [[0, 6 * MIB, 128 * MIB]],
}
COMMON = "memory-backend-file,id=ram0,size=128M,mem-path="


def test_a_contiguous_hugetlb_file_is_the_region_from_an_offset() -> None:
    option = backend("/mnt/vm", HUGETLB)
    assert option == COMMON + "/run/g/region/region,share=on,align=2M,offset=6291456"


def test_at_the_beginning_of_the_region_no_offset_is_needed() -> None:
    option = backend("/mnt/vm", {**HUGETLB, "segments": [[0, 0, 128 * MIB]]})
    assert option == COMMON + "/run/g/region/region,share=on,align=2M"


def test_what_the_kernel_maps_through_the_mount_is_the_mounts_path() -> None:
    layout = {**HUGETLB, "kind": "tmpfs", "passthrough": True, "segments": [[0, 0, 128 * MIB]]}
    assert backend("/mnt/vm", layout) == COMMON + "/mnt/vm,share=on,align=2M"


def test_commas_in_a_path_are_doubled_as_qemu_wants_them() -> None:
    layout = {**HUGETLB, "path": "/a,b/region", "segments": [[0, 0, 128 * MIB]]}
    assert "mem-path=/a,,b/region,share" in backend("/mnt/vm", layout)


@pytest.mark.parametrize(
    ("segments", "message"),
    [([], "has no memory yet"), ([[0, 0, MIB], [MIB, 9 * MIB, MIB]], "is in 2 pieces")],
)
def test_a_file_qemu_cannot_map_by_itself_is_refused(segments: list[list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        backend("/mnt/vm", {**HUGETLB, "segments": segments})
