"""The rig keeps its own promises: what other VM tests rely on, each shown with a script of a few lines."""

from __future__ import annotations

import shutil

import pytest

from .kernels import REPO, find_kernel
from .rig import VmLost, VmTestFailed, run_in_vm

KERNEL = "6.12-cloud"


def test_output_status_and_files_come_back() -> None:
    result = run_in_vm(
        KERNEL,
        'echo "$GREETING from $(uname -r)"; echo oops >&2; tr a-z A-Z <"$VM_IN/name" >"$VM_OUT/name"',
        files={"name": "guest"},
        env={"GREETING": "hello 'world'"},
    )
    assert result.exit_status == 0
    assert result.output == f"hello 'world' from {find_kernel(KERNEL).release}\noops\n"
    assert result.files == {"name": b"GUEST"}


def test_the_checkout_runs_inside_and_nothing_written_there_stays() -> None:
    result = run_in_vm(
        KERNEL,
        """
        .venv/bin/python -c 'import trio, pyfuse3, sys; print(sys.version_info[0])'
        echo gone >touched-in-vm; rm pyproject.toml
        test -c /dev/fuse && mountpoint -q /dev/shm && mountpoint -q /sys/fs/cgroup
        test "$(stat -f -c %T /dev/hugepages)" = hugetlbfs
        """,
    )
    assert result.output == "3\n"
    assert (REPO / "pyproject.toml").exists() and not (REPO / "touched-in-vm").exists()


def test_failing_script_is_no_lost_vm() -> None:
    with pytest.raises(VmTestFailed, match="status 3") as caught:
        run_in_vm(KERNEL, "echo before\n(exit 3)\necho after")
    assert (caught.value.phase, caught.value.exit_status) == (1, 3)
    assert caught.value.output == "before\nscript 1: line 2: exit status 3\n"
    assert (caught.value.logs_dir / "console.log").exists()
    shutil.rmtree(caught.value.logs_dir)


def test_panicking_vm_is_no_failed_script() -> None:
    with pytest.raises(VmLost, match="sysrq triggered crash") as caught:
        run_in_vm(KERNEL, "echo last words\necho c >/proc/sysrq-trigger")
    assert "Kernel panic" in (caught.value.logs_dir / "console.log").read_text(errors="replace")
    assert "last words" in str(caught.value)
    shutil.rmtree(caught.value.logs_dir)


@pytest.mark.vm_full
def test_silent_death_and_hanging_are_lost_too() -> None:
    with pytest.raises(VmLost, match="stopped without a report") as caught:
        run_in_vm(KERNEL, "echo b >/proc/sysrq-trigger")  # resets at once, as a triple fault does
    shutil.rmtree(caught.value.logs_dir)
    with pytest.raises(VmLost, match="still running after 8 s") as caught:
        run_in_vm(KERNEL, "sleep 1000", timeout_s=8)
    shutil.rmtree(caught.value.logs_dir)


@pytest.mark.parametrize("kernel", ["6.12-cloud", pytest.param("6.1-cloud", marks=pytest.mark.vm_full)])
def test_script_goes_on_after_kexec(kernel: str) -> None:
    result = run_in_vm(
        kernel,
        phases=[
            "echo phase $VM_PHASE; cp /proc/sys/kernel/random/boot_id $VM_OUT/1; touch /dev/shm/gone",
            "echo phase $VM_PHASE; cp /proc/sys/kernel/random/boot_id $VM_OUT/2; test ! -e /dev/shm/gone",
        ],
    )
    assert [phase.output for phase in result.phases] == ["phase 1\n", "phase 2\n"]
    assert result.files["1"] != result.files["2"]


@pytest.mark.vm_full
def test_after_a_reboot_the_disk_is_there_and_memory_is_not() -> None:
    before = "id=/proc/sys/kernel/random/boot_id; cp $id /disk-note; echo gone >/dev/shm/note; cat $id"
    after = "cat /disk-note /proc/sys/kernel/random/boot_id; ls /dev/shm"
    result = run_in_vm(KERNEL, phases=[before, after], between="reboot", disk_mib=64)
    (first,), (noted, second) = (phase.output.split() for phase in result.phases)
    assert first == noted != second


@pytest.mark.vm_full
def test_failure_after_kexec_names_its_phase() -> None:
    with pytest.raises(VmTestFailed, match="phase 2") as caught:
        run_in_vm(KERNEL, phases=["true", "false"])
    assert caught.value.phase == 2
    shutil.rmtree(caught.value.logs_dir)


@pytest.mark.vm_full
def test_a_kernel_that_dies_in_kexec_is_lost_before_its_script() -> None:
    with pytest.raises(VmLost, match="before the script of phase 2: rig: unknown") as caught:
        run_in_vm(KERNEL, phases=["vm-kexec rig.init=nothing", "true"])
    assert caught.value.phase == 2
    shutil.rmtree(caught.value.logs_dir)


@pytest.mark.vm_full
def test_fsdax_on_carved_out_memory_survives_kexec() -> None:
    result = run_in_vm(
        KERNEL,
        phases=[
            """
            mkfs.ext4 -q -b 4096 -O bigalloc -C 2M /dev/pmem0
            mkdir /tmp/dax; mount -o dax=always /dev/pmem0 /tmp/dax
            .venv/bin/python "$VM_IN/write.py" /tmp/dax/file
            sha256sum /tmp/dax/file; umount /tmp/dax
            """,
            "mkdir /tmp/dax; mount -o dax=always /dev/pmem0 /tmp/dax; sha256sum /tmp/dax/file",
        ],
        cmdline="memmap=512M!1G",
        memory_mib=2048,
        files={"write.py": _WRITE_BY_STORES},
    )
    before, after = (phase.output for phase in result.phases)
    assert before == f"64 MiB, faults: few\n{after}"
    assert len(after.split()[0]) == 64


# One store per page: 16384 faults if the mapping is of 4 KiB pages, some 32 if it is of 2 MiB ones.
_WRITE_BY_STORES = """
import mmap, os, resource, sys
SIZE = 64 << 20
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, SIZE)
memory = mmap.mmap(fd, SIZE)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for page in range(SIZE // 4096):
    memory[page * 4096] = page * 7 & 255
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print("64 MiB, faults:", "few" if faults < 200 else faults)
"""


@pytest.mark.vm_full
def test_numa_nodes_are_visible() -> None:
    result = run_in_vm(
        KERNEL,
        "cat /sys/devices/system/node/online /sys/devices/system/node/node[01]/cpulist\n"
        "awk '/MemTotal/ { print ($4 > 400000) }' /sys/devices/system/node/node[01]/meminfo",
        numa=(512, 768),
        cpus=2,
    )
    assert result.output.split() == ["0-1", "0", "1", "1", "1"]


@pytest.mark.vm_full
def test_gigantic_pages_at_boot() -> None:
    result = run_in_vm(
        KERNEL,
        "mkdir /tmp/huge; mount -t hugetlbfs -o pagesize=1G none /tmp/huge\n"
        "fallocate -l 1G /tmp/huge/file; cat /sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
        cmdline="hugepagesz=1G hugepages=2",
        memory_mib=5120,  # each page is an aligned GiB that is free at boot: not the first, not the last
    )
    assert result.output == "1\n"


@pytest.mark.vm_full
def test_memory_can_be_poisoned() -> None:
    kernel = find_kernel(KERNEL)
    assert kernel.option("MEMORY_FAILURE") == "y"
    result = run_in_vm(
        kernel,
        '.venv/bin/python "$VM_IN/poison.py" || echo "killed by signal $(($? - 128))"\n'
        "grep HardwareCorrupted /proc/meminfo",
        files={"poison.py": _POISON},
    )
    assert "killed by signal 7\n" in result.output
    assert result.output.splitlines()[-1].split() == ["HardwareCorrupted:", "4", "kB"]


# MADV_HWPOISON (100) is taken for a machine check of the caller: SIGBUS comes at once, not at the next touch.
_POISON = """
import mmap
memory = mmap.mmap(-1, 4096)
memory[0] = 1
memory.madvise(100)
print("not reached")
"""


@pytest.mark.vm_full
def test_systemd_is_pid_1_and_kexecs_in_order() -> None:
    script = "ps -p 1 -o comm=; systemctl is-active basic.target; systemctl --failed --no-legend"
    result = run_in_vm(KERNEL, phases=[script, script], init="systemd")
    for phase in result.phases:
        assert phase.output.split() == ["systemd", "active"]
    assert "reboot: Power down" in result.console
