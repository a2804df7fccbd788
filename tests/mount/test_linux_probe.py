"""The probes on this host: they end soon, leave nothing, and their positive findings can be relied on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from guestmemfs_fuse.linux import mountinfo, probe, probe_host
from tests.require import require


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_probes_end_soon_and_leave_nothing() -> None:
    require(os.geteuid() == 0, "root")
    probe.run_all()
    fds, mounts, children = descriptors(), mountinfo.read_mounts(), own_children()
    started = time.monotonic()
    found = probe.run_all()
    assert time.monotonic() - started < 10
    assert descriptors() == fds
    assert [m for m in mountinfo.read_mounts() if m not in mounts and "probe" in m.source] == []
    assert own_children() == children
    names = [each.name for each in found]
    assert len(set(names)) == len(names) == 16


def own_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_failures_say_what_to_change_and_successes_do_not() -> None:
    for each in probe.run_all():
        assert each.detail
        assert "\n" not in each.detail
        assert (each.fix is None) is each.ok, each


def test_no_probe_raises_without_privileges() -> None:
    require(os.geteuid() == 0, "root")
    code = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from guestmemfs_fuse.linux import probe\n"
        "print(*[p.name for p in probe.run_all() if p.ok])"
    )
    # The interpreter may be in a place only root can enter, so modules are imported before.
    warm = (
        "from guestmemfs_fuse.linux import probe, probe_fuse, probe_host, probe_memory; import subprocess\n"
    )
    done = subprocess.run([sys.executable, "-c", warm + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    working = set(done.stdout.split())
    assert not {"privilege", "fuse-passthrough", "tmpfs-huge", "kexec"} & working
    assert {"numa", "memory"} <= working


def test_root_has_privilege() -> None:
    require(os.geteuid() == 0, "root")
    require(probe_host.privilege().ok, "the initial user namespace")
    assert "CAP_SYS_ADMIN" in probe_host.privilege().detail


def test_user_namespace_is_told_from_the_initial_one() -> None:
    code = "from guestmemfs_fuse.linux import probe_host; print(probe_host.privilege())"
    args = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    require(done.returncode == 0, "user namespaces")
    assert "ok=False" in done.stdout
    assert "user namespace" in done.stdout
