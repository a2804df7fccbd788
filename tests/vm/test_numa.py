"""A region bound to a NUMA node has its pages there, whoever touches them: a machine with two nodes."""

from __future__ import annotations

import json

import pytest

from .rig import run_in_vm


@pytest.mark.vm_full
def test_the_pages_of_a_bound_region_are_on_its_node_whoever_touches_them() -> None:
    result = run_in_vm(
        "6.12-cloud",
        '.venv/bin/python -m tests.vm.inside_numa "$VM_OUT/found"',
        numa=(768, 512),
        cpus=2,
        timeout_s=600,
    )
    found = json.loads(result.files["found"])
    assert (found["tmpfs"], found["memfd"]) == ({"1": 32}, {"1": 32})
    assert found["pool"] == [0, 32]
    assert found["hugetlb"] == found["punched"] == {"1": 32}
    assert found["again"] == {"1": 48}
    assert found["after SIGKILL"] == {"1": 16}
    assert found["left on the node"] == 0
    assert (found["robbed"], found["robbed size"]) == ("No space left on device", 0)
    assert found["given back"] == {"1": 48}
    assert found["pool at the end"] == 0
