"""The tiny guest keeps the Linux guest's word, and counts inside a VM within seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.rig import Guest

from . import tiny_guest
from .rig import run_in_vm


def test_tiny_guest_counts_and_knows_its_pattern(tmp_path: Path) -> None:
    memory = tmp_path / "ram"
    memory.touch()
    with Guest(tiny_guest.boot_files(), tmp_path, memory, 64, pattern_mib=2) as guest:
        guest.start()
        assert guest.wait_progress() >= 6
        assert guest.pattern_now() == guest.pattern_at_boot()
        # One flipped bit anywhere in its pattern shows.
        with memory.open("r+b") as ram:
            ram.seek((16 << 20) + 12345)
            byte = ram.read(1)[0]
            ram.seek(-1, 1)
            ram.write(bytes([byte ^ 1]))
        assert guest.pattern_now() != guest.pattern_at_boot()
        assert guest.complaints() == []
        counts = guest.counts()  # looked at once: it goes on counting
        assert counts == list(range(1, len(counts) + 1))


@pytest.mark.vm_full
def test_qemu_in_a_vm_runs_it() -> None:
    tiny_guest.boot_files()  # compiled here: the VM's overlay forgets
    result = run_in_vm(
        "6.12-cloud",
        '.venv/bin/python -m tests.vm.inside_nested "$VM_OUT/serial.log"',
        cpus=2,
        timeout_s=240,
    )
    assert b"count 3\n" in result.files["serial.log"].replace(b"\r", b"")
