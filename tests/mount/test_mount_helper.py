"""mount(8), umount(8), findmnt, df and fstab on our type, through the real helper at its real place.

/sbin is covered by an overlay in a mount namespace of the test's own, so nothing is installed on this host;
what is mounted there is seen there only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import COMMAND
from tests.require import require

_PRELUDE = f"""
set -u
mount -t tmpfs overlay "$DIR/overlay"
mkdir "$DIR/overlay/upper" "$DIR/overlay/work"
sbin=$(readlink -f /sbin)
mount -t overlay overlay -o "lowerdir=$sbin,upperdir=$DIR/overlay/upper,workdir=$DIR/overlay/work" "$sbin"
printf '#!/bin/sh\\nexec {sys.executable} -m guestmemfs_fuse.cli.mount_helper "$@"\\n' >/sbin/mount.guestmemfs
chmod +x /sbin/mount.guestmemfs
ln -s mount.guestmemfs /sbin/mount.fuse.guestmemfs
finish() {{
    for name in $(ls "$GUESTMEMFS_RUN_DIR" 2>/dev/null); do
        guestmemfs umount $name >/dev/null 2>&1
        guestmemfs destroy $name --yes --force >/dev/null 2>&1
    done
}}
trap finish EXIT
"""

Script = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def script(private_dir: Path) -> Script:
    """Run bash in such a namespace; it has $DIR and an empty $DIR/mnt."""
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    require("overlay" in Path("/proc/filesystems").read_text(), "overlayfs")
    (private_dir / "overlay").mkdir()
    (private_dir / "mnt").mkdir()
    environment = {
        **os.environ,
        "DIR": str(private_dir),
        "GUESTMEMFS_RUN_DIR": str(private_dir / "run"),
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
    }

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _PRELUDE + text],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_mount_looks_like_any_other(script: Script) -> None:
    done = script("""
        mount -t guestmemfs vm1 $DIR/mnt -o size=64M,region=tmpfs || exit 1
        findmnt -n -o SOURCE,FSTYPE $DIR/mnt
        df --output=source,fstype,size -B 1M $DIR/mnt | tail -n 1
        truncate -s 6M $DIR/mnt/ram && stat -c %s $DIR/mnt/ram
        umount $DIR/mnt && ! findmnt $DIR/mnt
    """)
    assert done.stderr == "" and done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["vm1", "fuse.guestmemfs"],
        ["vm1", "fuse.guestmemfs", "64"],
        ["6291456"],
    ]


def test_mounting_again_brings_the_files_back(script: Script) -> None:
    done = script("""
        mount -t guestmemfs vm1 $DIR/mnt -o size=64M && truncate -s 4M $DIR/mnt/ram
        umount $DIR/mnt && mount -t guestmemfs vm1 $DIR/mnt && stat -c %s $DIR/mnt/ram
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4194304\n", "")


def test_fstab_lines_mount_once(script: Script) -> None:
    done = script("""
        echo "vm1 $DIR/mnt guestmemfs size=64M,nofail,x-systemd.device-timeout=5,nosuid 0 0" >$DIR/fstab
        mount -T $DIR/fstab $DIR/mnt && findmnt -n -o SOURCE $DIR/mnt
        mount -T $DIR/fstab -a -v
        findmnt -n $DIR/mnt | wc -l
    """)
    assert done.returncode == 0, done.stderr
    first, *again, count = done.stdout.splitlines()
    assert (first, count) == ("vm1", "1")
    assert any("already mounted" in line for line in again)


def test_remount_changes_the_size_and_nothing_else(script: Script) -> None:
    done = script("""
        size() { df --output=size -B 1M $DIR/mnt | tail -n 1; }
        mount -t guestmemfs vm1 $DIR/mnt -o size=64M && truncate -s 32M $DIR/mnt/ram
        mount -o remount,size=128M $DIR/mnt && size
        mount -o remount $DIR/mnt && size
        mount -o remount,size=16M $DIR/mnt; echo $? $(size)
        mount -o remount,ro $DIR/mnt; echo $? $(size)
        mount -o remount,region=memfd $DIR/mnt; echo $?
        umount $DIR/mnt && mount -t guestmemfs vm1 $DIR/mnt && size && stat -c %s $DIR/mnt/ram
    """)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["128"], ["128"], ["32", "128"], ["1", "128"], ["1"], ["128"], ["33554432"]]
    assert "32 MiB of the region are in use" in done.stderr
    assert "option ro is not possible: guests store into their memory" in done.stderr
    assert "exists with region=tmpfs, not memfd" in done.stderr


@pytest.mark.parametrize(
    ("options", "says", "status"),
    [
        ("size=64M,compress", "unknown option compress", 1),
        ("size=64M,regoin=tmpfs", "unknown option regoin=tmpfs", 1),
        ("size=64M,region=ramfs", "region=ramfs: is one of tmpfs", 1),
        ("size=lots", "size=lots: 'lots' is no size", 1),
        ("size=64M,sync", "option sync is not possible", 1),
        ("region=tmpfs", "needs size", 1),
        ("size=4T", "does not fit into", 32),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_leaves_nothing(
    script: Script, options: str, says: str, status: int
) -> None:
    done = script(f"""
        mount -t guestmemfs vm1 $DIR/mnt -o {options}; echo $?
        ls $DIR/run 2>/dev/null; findmnt $DIR/mnt
    """)
    assert done.stdout == f"{status}\n"
    assert says in done.stderr


def test_sloppy_and_fake_mounts(script: Script) -> None:
    done = script("""
        mount -t guestmemfs -f vm1 $DIR/mnt -o size=64M; echo $?; findmnt $DIR/mnt
        mount -t guestmemfs -s vm1 $DIR/mnt -o size=64M,compress; echo $?
    """)
    assert (done.stdout, done.stderr) == ("0\n0\n", "")


def test_a_daemon_that_cannot_start_is_a_reason_not_a_wait(script: Script) -> None:
    done = script("""
        mount -t tmpfs small $DIR/mnt && mkdir $DIR/mnt/in $DIR/other
        echo broken >$DIR/blocker
        mount -t guestmemfs vm1 $DIR/other -o size=64M,state-dir=$DIR/blocker; echo $?
        umount $DIR/mnt; findmnt $DIR/other; ls $DIR/run 2>/dev/null
    """)
    status, *left = done.stdout.split()
    assert status == "32" and left == []
    assert done.stderr.startswith("mount.guestmemfs: ") and "blocker" in done.stderr


def test_a_busy_mount_is_refused_by_umount(script: Script) -> None:
    done = script("""
        mount -t guestmemfs vm1 $DIR/mnt -o size=64M
        cd $DIR/mnt; umount $DIR/mnt; echo $?; cd /; umount $DIR/mnt; echo $?
    """)
    assert done.stdout == "32\n0\n" and "target is busy" in done.stderr
