"""The kernel of scripts/build-luo-kernel really hands a memfd over: the memfd region's live update needs it.

Raw ioctls in the first test on purpose (include/uapi/linux/liveupdate.h): a failure there is the kernel's or
the rig's. The facts are those of docs/kernel-facts.md.
"""

from __future__ import annotations

import json
import re

import pytest

from . import inside_luo
from .inside_luo import MIB
from .rig import run_in_vm

LUO_CMDLINE = "kho=on liveupdate=on"

_COMMON = """
import fcntl, hashlib, mmap, os, signal, struct, sys
SIZE, TOKEN, NAME = 64 << 20, 7, b"guestmemfs-test"

def call(fd, number, layout, *values):
    size = struct.calcsize(layout)
    packed = bytearray(struct.pack(layout, size, *values))
    fcntl.ioctl(fd, 0xBA << 8 | number, packed, True)
    return struct.unpack(layout, packed)[1]

device = os.open("/dev/liveupdate", os.O_RDWR)
"""

_PRESERVE = (
    _COMMON
    + """
memory = os.memfd_create("guest")
os.ftruncate(memory, SIZE)
mapped = mmap.mmap(memory, SIZE)
for mib in range(SIZE >> 20):
    mapped[mib << 20 : (mib << 20) + 32] = hashlib.sha256(bytes([mib])).digest()
session = call(device, 0x00, "Ii64s", 0, NAME)
call(session, 0x40, "IiQ", memory, TOKEN)
mapped[4096:4101] = b"after"  # stores go on until the jump
print("preserved", hashlib.sha256(mapped).hexdigest(), flush=True)
signal.pause()  # the session lives as long as its fd
"""
)

_RETRIEVE = (
    _COMMON
    + """
session = call(device, 0x01, "Ii64s", 0, NAME)
memory = call(session, 0x41, "IiQ", 0, TOKEN)
print("retrieved", hashlib.sha256(mmap.mmap(memory, SIZE)).hexdigest())
call(session, 0x42, "II", 0)
"""
)


@pytest.mark.vm_luo
def test_memfd_survives_kexec() -> None:
    result = run_in_vm(
        "luo",
        phases=[
            """
            .venv/bin/python "$VM_IN/preserve.py" >"$VM_OUT/log" 2>&1 &
            until grep -q preserved "$VM_OUT/log"; do kill -0 $!; sleep 0.1; done
            """,
            '.venv/bin/python "$VM_IN/retrieve.py" >>"$VM_OUT/log"',
        ],
        cmdline=LUO_CMDLINE,
        files={"preserve.py": _PRESERVE, "retrieve.py": _RETRIEVE},
    )
    sums = dict(re.findall(r"^(preserved|retrieved) ([0-9a-f]{64})$", result.files["log"].decode(), re.M))
    assert sums["retrieved"] == sums["preserved"]


@pytest.mark.vm_luo
def test_what_the_kernel_does_with_files_in_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    run = ".venv/bin/python -m tests.vm.inside_luo"
    result = run_in_vm(
        "luo",
        phases=[
            f"""
            vm-kexec --load
            {run} before >"$VM_OUT/log" 2>&1 &
            until grep -q ready "$VM_OUT/log"; do
                kill -0 $! || {{ cat "$VM_OUT/log"; exit 1; }}
                sleep 0.1
            done
            kexec -e
            """,
            f"{run} after",
        ],
        cmdline=LUO_CMDLINE,
        memory_mib=2048,
        timeout_s=400,
    )
    before, after = (json.loads(result.files[f"facts-{when}"]) for when in ("before", "after"))
    times = [before.pop("preserve_ms"), after.pop("retrieve_ms"), after.pop("collapse_ms")]
    assert before == {
        "second_open": "EBUSY",
        **dict.fromkeys(("shrink", "grow", "write_beyond", "punch", "madv_remove"), "EPERM"),
        "file_again": "EBUSY",
        "token_again": "EEXIST",
        "regular_file": "ENOENT",
        "hole_bytes": 4 * MIB,
        "huge": {"touched": 64 * MIB, "small": 0},
    }
    assert "[never]" in after.pop("shmem_enabled")
    assert after == {
        "unknown_session": "ENOENT",
        "session_twice": "EINVAL",
        **dict.fromkeys(("intact", "changed_after_preserving", "untouched_is_zero", "same_file_again"), True),
        "sizes": {str(token): size for token, size in inside_luo.SIZES.items()},
        "many": inside_luo.MANY,
        "mode": 0o777,
        "links": 0,
        "huge": {"touched": 64 * MIB, "small": 0},
        "huge_after_collapse": inside_luo.SMALL_BYTES,
        "grow": "",
        "after_finish": "ENOENT",
        "preserved_again": True,
    }
    with capsys.disabled():
        print(
            f"\nms to preserve, to retrieve (by token), to collapse 16 MiB of small pages (emulated): {times}"
        )


@pytest.mark.vm_luo
def test_device_is_there_only_when_asked_for() -> None:
    script = "test -e /dev/liveupdate && echo yes || echo no; test -c /dev/fuse; test -e /dev/pmem0; uname -r"
    cmdline = "memmap=256M!512M"
    assert run_in_vm("luo", script, cmdline=f"{LUO_CMDLINE} {cmdline}").output.startswith("yes\n")
    assert run_in_vm("luo", script, cmdline=cmdline).output.startswith("no\n")
