"""A guest on a 1G page: mapped as such, its daemon killed, live-updated. The machine booted with two."""

from __future__ import annotations

import json

import pytest

from . import tiny_guest
from .rig import run_in_vm

SCRIPT = """
mount=/run/mnt/big
mkdir -p $mount
.venv/bin/python -m tests.vm.inside_mount mount $mount --name big --region hugetlb --page-size 1G --size 2G
.venv/bin/guestmemfs status big --json >"$VM_OUT/status"
truncate -s 1G $mount/other
truncate -s 1G $mount/ram
.venv/bin/guestmemfs map $mount/ram --qemu >"$VM_OUT/qemu"
.venv/bin/python -m tests.vm.inside_run_guest "$VM_OUT/found" --path $mount/ram --mib 1024 --restore
.venv/bin/guestmemfs map $mount/ram --json >"$VM_OUT/map"
rm $mount/other
truncate -s 1G $mount/again
.venv/bin/guestmemfs umount big
.venv/bin/guestmemfs destroy big --yes
cp /sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages "$VM_OUT/free"
"""


@pytest.mark.vm_full
def test_a_guest_on_a_1g_page_is_live_updated() -> None:
    tiny_guest.boot_files()  # compiled here: the VM's overlay forgets
    result = run_in_vm(
        "6.12-cloud",
        SCRIPT,
        cmdline="default_hugepagesz=2M hugepagesz=1G hugepages=2",
        memory_mib=4608,
        cpus=2,
        timeout_s=700,
    )
    status = json.loads(result.files["status"])["region"]
    assert (status["block_bytes"], status["hugetlb"]["page_bytes"]) == (1 << 30, 1 << 30)
    assert status["hugetlb"]["pool"] == {"total": 2, "free": 2, "reserved": 2, "surplus": 0}
    assert b"align=1G,offset=1073741824" in result.files["qemu"]
    found = json.loads(result.files["found"])
    assert found["mapped"] == found["mapped after"] == [["rw-s", 1 << 20]]
    assert [comm[:4] for comm in found["mapped_by"]] == ["qemu"]
    assert found["counts"] == list(range(1, len(found["counts"]) + 1))
    assert (found["complaints"], found["pattern"]) == ([], True)
    (extent,) = json.loads(result.files["map"])["extents"]
    assert extent == {"offset_bytes": 0, "length_bytes": 1 << 30, "region_offset_bytes": 1 << 30}
    assert result.files["free"].strip() == b"2"
