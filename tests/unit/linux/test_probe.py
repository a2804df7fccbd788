"""Findings become probes; what the probes of the host parse."""

from __future__ import annotations

import errno

from guestmemfs_fuse.linux import mountinfo, probe, probe_host
from guestmemfs_fuse.linux.hugepages import page_size_text


def test_good_finding_has_no_fix() -> None:
    assert probe.guarded("x", lambda: (True, "fine", "unneeded"), "y") == probe.Probe("x", True, "fine", None)


def test_bad_finding_keeps_its_own_fix() -> None:
    assert probe.guarded("x", lambda: (False, "no", "do it"), "y") == probe.Probe("x", False, "no", "do it")


def test_error_is_a_finding() -> None:
    def fail() -> probe.Finding:
        raise OSError(errno.EPERM, "Operation not permitted", "/dev/fuse")

    expected = probe.Probe("x", False, "/dev/fuse: Operation not permitted", "be root")
    assert probe.guarded("x", fail, "be root") == expected


def test_memmap_argument_is_the_one_that_makes_pmem() -> None:
    assert probe_host.memmap_argument("quiet memmap=4G!8G ro") == "memmap=4G!8G"
    assert probe_host.memmap_argument("memmap=4G$8G nomemmap=1G!2G") is None


def test_dax_mounts() -> None:
    def entry(fstype: str, options: str) -> mountinfo.MountEntry:
        return mountinfo.MountEntry(1, 0, 259, 0, "/", "/mnt", "rw", fstype, "/dev/pmem0", options)

    assert probe_host.is_dax_mount(entry("ext4", "rw,dax=always"))
    assert probe_host.is_dax_mount(entry("xfs", "rw,dax"))
    assert not probe_host.is_dax_mount(entry("ext4", "rw,dax=inode"))
    assert not probe_host.is_dax_mount(entry("fuse.x", "rw,dax=always"))


def test_page_sizes_as_the_kernel_spells_them() -> None:
    assert page_size_text(2 << 20) == "2M"
    assert page_size_text(1 << 30) == "1G"
