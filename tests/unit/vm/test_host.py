"""Monitors and names as QEMU's command line gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.vm.host import monitor_paths, name_in


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-qmp", "unix:/run/q.sock,server=on,wait=off"], ["/run/q.sock"]),
        (["--qmp-pretty", "unix:q.sock,server,nowait"], ["/work dir/q.sock"]),
        (["-qmp", "tcp:localhost:4444,server=on"], []),
        (["-qmp", "unix:/a,,b,server=on"], ["/a,b"]),
        (["-chardev", "socket,id=m,path=/run/m,server=on", "-mon", "chardev=m,mode=control"], ["/run/m"]),
        (["-mon", "m,mode=control", "-chardev", "socket,path=/run/m,id=m"], ["/run/m"]),
        (["-chardev", "socket,id=m,path=/run/m", "-mon", "chardev=m,mode=readline"], []),
        (["-chardev", "socket,id=charmonitor,fd=30", "-mon", "chardev=charmonitor,mode=control"], []),
        (["-chardev", "socket,id=s,path=/run/serial", "-serial", "chardev:s"], []),
        (["-qmp", "unix:/a", "-qmp", "unix:/b", "-qmp", "unix:/a"], ["/a", "/b"]),
        (["-qmp"], []),
    ],
)
def test_monitor_paths(arguments: list[str], expected: list[str]) -> None:
    found = monitor_paths(["qemu-system-x86_64", *arguments], "/work dir")
    assert found == tuple(Path(path) for path in expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-name", "vm1"], "vm1"),
        (["-name", "guest=vm1,debug-threads=on"], "vm1"),
        (["-name", "vm1,process=q"], "vm1"),
        (["-name", "debug-threads=on"], None),
        ([], None),
    ],
)
def test_names(arguments: list[str], expected: str | None) -> None:
    assert name_in(["qemu", *arguments]) == expected
