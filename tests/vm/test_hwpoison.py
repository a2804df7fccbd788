"""Memory the kernel loses (MADV_HWPOISON) is named by file and offset, and its blocks never come back."""

from __future__ import annotations

import json

import pytest

from .errors import VmSetupError
from .kernels import find_kernel
from .rig import run_in_vm

MIB = 1 << 20
KERNEL = "6.12-cloud"


@pytest.mark.vm_full
def test_lost_memory_is_named_and_never_handed_out_again() -> None:
    kernel = find_kernel(KERNEL)
    if kernel.option("MEMORY_FAILURE") != "y":
        raise VmSetupError(f"kernel {KERNEL} cannot lose memory (CONFIG_MEMORY_FAILURE)")
    command = '.venv/bin/python -m tests.vm.inside_hwpoison "$VM_OUT/found"'
    result = run_in_vm(kernel, command, cpus=2, memory_mib=1280, timeout_s=600)
    found = json.loads(result.files["found"])
    a_page = {"offset_bytes": 5 * MIB + 4096, "length_bytes": 4096}
    assert found["tmpfs before"] == {"/ram": []}
    assert found["tmpfs"] == {"/ram": [a_page]}
    assert found["tmpfs new"] == {"/new": []}
    a_page = {"offset_bytes": 3 * MIB, "length_bytes": 4096}
    assert found["hugetlb"] == {"/before": [], "/ram": [a_page]}
    assert found["map"] == [a_page]
    assert f"memory lost: 4096 bytes at {3 * MIB:#x}" in found["text"]
    assert found["log"] == 1
    assert found["quarantined"] == 2 * MIB
    assert found["next daemon"] == {"/before": [], "/ram": [a_page]}
    assert found["free"] == (32 - 4 - 2) * MIB
    assert found["has the bad block"] is False
    assert found["free after remount"] == (32 - 4 - 2) * MIB
    assert found["at the end"] == {"/before": []}
    assert found["free after the second"] == (32 - 4 - 4) * MIB
