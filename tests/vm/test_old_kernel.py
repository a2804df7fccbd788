"""Debian 12's own kernel (6.1) has no FUSE passthrough: mount says so, guests get their memory by `run`."""

from __future__ import annotations

import json

import pytest

from . import tiny_guest
from .rig import run_in_vm

SCRIPT = """
mount=/run/mnt/old
mkdir -p $mount
.venv/bin/python -m tests.vm.inside_mount mount $mount --name old --size 128M 2>"$VM_OUT/notice"
truncate -s 64M $mount/ram
truncate -s 4M $mount/file
cat >/run/map.py <<'END'
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
if len(sys.argv) > 2:
    view[0:8] = sys.argv[2].encode()
print(view[0:8].decode())
END
.venv/bin/python /run/map.py $mount/file 2>"$VM_OUT/bare" && exit 1
.venv/bin/guestmemfs run -- .venv/bin/python /run/map.py $mount/file precious
.venv/bin/guestmemfs map $mount/ram --qemu >"$VM_OUT/qemu"
.venv/bin/python -m tests.vm.inside_run_guest "$VM_OUT/found" --path $mount/ram --mib 64 \\
    --names '/data/\\w+'
.venv/bin/guestmemfs restart old
.venv/bin/guestmemfs run -- .venv/bin/python /run/map.py $mount/file >"$VM_OUT/after-restart"
# What a caller sees whose request the killed daemon had read already cannot be resent here (Linux < 6.9).
.venv/bin/guestmemfs status old --json >/run/status
kill -9 "$(sed -n 's/.*"daemon_pid": *\\([0-9]*\\).*/\\1/p' /run/status)"
.venv/bin/guestmemfs run -- .venv/bin/python /run/map.py $mount/file >"$VM_OUT/after-kill"
ls -l $mount >"$VM_OUT/ls"
.venv/bin/guestmemfs umount old
.venv/bin/python -m tests.vm.inside_mount mount $mount --name old
.venv/bin/guestmemfs run -- .venv/bin/python /run/map.py $mount/file >"$VM_OUT/after-mount"
cp /run/guestmemfs/old/daemon.log "$VM_OUT/log"
.venv/bin/guestmemfs umount old
.venv/bin/guestmemfs destroy old --yes
"""

# A call that the daemon had read, and not answered, when it was killed: it cannot be asked for again.
IN_FLIGHT = """
mkdir -p /run/modules /run/mnt
cat >/run/modules/sitecustomize.py <<'END'
import os, signal, sys
if "guestmemfs_fuse.daemon" in sys.orig_argv:
    from guestmemfs_fuse.fuse.operations import GuestOperations
    answer = GuestOperations.statfs
    async def statfs(self, ctx):
        if os.path.exists("/run/armed"):
            os.unlink("/run/armed")
            os.kill(os.getpid(), signal.SIGKILL)
        return await answer(self, ctx)
    GuestOperations.statfs = statfs
END
export PYTHONPATH=/run/modules
.venv/bin/python -m tests.vm.inside_mount mount /run/mnt --name old --size 64M
unset PYTHONPATH
touch /run/mnt/file /run/armed
stat -f /run/mnt >/run/stat &
caller=$!
while [ -e /run/armed ]; do sleep 0.1; done
for attempt in 1 2 3 4 5 6; do
    .venv/bin/guestmemfs status old --json >"$VM_OUT/status" && break
done
ls /run/mnt >"$VM_OUT/ls"  # others are served by the next daemon
state() { sed -n 's/^State:[[:space:]]*\\(.\\).*/\\1/p' /proc/$caller/status; }
state >"$VM_OUT/waits"
kill -9 $caller
sleep 3
state >"$VM_OUT/killed" || echo gone >"$VM_OUT/killed"
umount -f /run/mnt || umount -l -f /run/mnt || true
wait $caller || echo "ended with $?" >"$VM_OUT/ended"
"""


@pytest.mark.vm_full
def test_files_and_guests_on_a_kernel_without_passthrough() -> None:
    tiny_guest.boot_files()  # compiled here: the VM's overlay forgets
    result = run_in_vm("6.1-cloud", SCRIPT, memory_mib=1536, cpus=2, timeout_s=700)
    assert b"note: this kernel has no FUSE passthrough" in result.files["notice"]
    assert b"No such device" in result.files["bare"]
    assert b"mem-path=/run/guestmemfs/old/region/data/" in result.files["qemu"]
    for moment in ("after-restart", "after-kill", "after-mount"):
        assert result.files[moment] == b"precious\n", moment
    assert b"ram" in result.files["ls"]
    found = json.loads(result.files["found"])
    assert found["mapped"] and all(permissions == "rw-s" for permissions, _ in found["mapped"])
    assert found["counts"] == list(range(1, len(found["counts"]) + 1))
    assert (found["complaints"], found["pattern"]) == ([], True)


@pytest.mark.vm_full
def test_a_call_in_flight_when_the_daemon_is_killed_waits_until_the_mount_is_aborted() -> None:
    """What docs/hugetlb.md says of kernels before 6.9; from 6.9 on the next daemon answers such calls."""
    result = run_in_vm("6.1-cloud", IN_FLIGHT, cpus=2, timeout_s=400)
    assert json.loads(result.files["status"])["generation"] == 2
    assert result.files["ls"] == b"file\n"
    assert result.files["waits"].strip() in (b"S", b"D")
    assert result.files["killed"].strip() == b"D"
    assert result.files["ended"] == b"ended with 137\n"
