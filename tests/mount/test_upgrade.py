"""State directories of the first release are mounted, served and written on; those of a later one refused."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from pathlib import Path
from zlib import crc32

import pytest

from guestmemfs_fuse.metadata.framing import FORMAT_VERSION, HEADER_BYTES
from guestmemfs_fuse.metadata.instance import current_boot_id
from guestmemfs_fuse.region import tmpfs_mount
from tests.cli import Guestmemfs, Instance

GOLDEN = Path(__file__).parent / "golden_state"
MIB = 1 << 20
RAM, BIG = "2", "6"
"""The inode numbers they have, by which their memory is found."""


def put_back(guestmemfs: Guestmemfs, golden: Path) -> Instance:
    """What that release left, in this boot: its region, with a guest's bytes, and its metadata."""
    state_dir, mountpoint = guestmemfs.run_dir / "old", guestmemfs.directory / "mnt"
    state_dir.mkdir(parents=True)
    mountpoint.mkdir()
    config = json.loads((golden / "instance.json").read_text())
    config |= {"boot_id": current_boot_id(), "mountpoint": str(mountpoint)}
    (state_dir / "instance.json").write_text(json.dumps(config))
    region = state_dir / "region"
    tmpfs_mount.create(str(region), config["size_bytes"])
    for name in ("data", "metadata"):
        (region / name).mkdir(mode=0o700)
    for file in golden.glob("*-*.gm?"):
        shutil.copyfile(file, region / "metadata" / file.name)
    for ino, size_bytes in ((RAM, 6 * MIB), (BIG, 2 * MIB)):
        with open(region / "data" / ino, "wb") as data:
            os.posix_fallocate(data.fileno(), 0, size_bytes)
    with open(region / "data" / RAM, "r+b") as data:
        data.seek(4 * MIB)
        data.write(b"a guest's")
    return Instance(guestmemfs, "old", mountpoint)


@pytest.mark.parametrize("how", ["unmounted", "killed"])
def test_what_the_first_release_left_is_served(guestmemfs: Guestmemfs, how: str) -> None:
    old = put_back(guestmemfs, GOLDEN / how)
    old.remount()
    ram, big = old.mountpoint / "ram", old.mountpoint / "dir" / "big"
    assert sorted(os.listdir(old.mountpoint / "dir")) == ["big", "hard", "link", "sub"]
    assert sorted(os.listdir(old.mountpoint)) == ["dir", "ram"]
    assert ram.stat().st_size == 6 * MIB and ram.stat().st_nlink == 2
    assert os.path.samefile(ram, old.mountpoint / "dir" / "link")
    assert (big.stat().st_uid, big.stat().st_mode & 0o7777) == (1000, 0o640)
    assert os.getxattr(ram, "user.owner") == b"vm-1"
    with open(ram, "r+b") as file, mmap.mmap(file.fileno(), 6 * MIB) as memory:
        assert memory[4 * MIB : 4 * MIB + 9] == b"a guest's"
    with pytest.raises(OSError, match="busy"):
        ram.unlink()  # pinned
    assert old.status()["generation"] == 2
    assert guestmemfs.json("fsck", "old")["clean"]


def test_it_is_written_on_in_the_current_format(guestmemfs: Guestmemfs) -> None:
    old = put_back(guestmemfs, GOLDEN / "killed")
    old.remount()
    with open(old.mountpoint / "new", "wb") as file:
        file.truncate(4 * MIB)
    guestmemfs.run("unpin", old.mountpoint / "ram")
    (old.mountpoint / "ram").rename(old.mountpoint / "renamed")
    old.umount()
    assert guestmemfs.json("fsck", "old")["clean"]
    (snapshot,) = (old.state_dir / "region" / "metadata").glob("snapshot-*.gms")
    assert version_of(snapshot) == FORMAT_VERSION and snapshot.name != "snapshot-0000000000000000.gms"
    old.remount()
    assert sorted(os.listdir(old.mountpoint)) == ["dir", "new", "renamed"]


def version_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[8:12], "little")


def test_the_metadata_of_a_later_release_is_refused_and_left_alone(guestmemfs: Guestmemfs) -> None:
    old = put_back(guestmemfs, GOLDEN / "unmounted")
    (path,) = (old.state_dir / "region" / "metadata").glob("snapshot-*.gms")
    later = bytearray(path.read_bytes())
    later[8:12] = (FORMAT_VERSION + 1).to_bytes(4, "little")
    later[HEADER_BYTES - 4 : HEADER_BYTES] = crc32(later[: HEADER_BYTES - 4]).to_bytes(4, "little")
    path.write_bytes(later)
    done = guestmemfs.run("mount", old.mountpoint, "--name", "old", check=False)
    assert done.returncode == 6
    assert f"{path.name} has format version {FORMAT_VERSION + 1}, this program reads" in done.stderr
    assert "use the version of guestmemfs-fuse that wrote it" in done.stderr
    assert path.read_bytes() == later and (old.state_dir / "region/data" / RAM).stat().st_size == 6 * MIB
    assert not os.path.ismount(old.mountpoint)


def test_the_configuration_of_a_later_release_is_refused_and_listed(guestmemfs: Guestmemfs) -> None:
    old = put_back(guestmemfs, GOLDEN / "unmounted")
    path = old.state_dir / "instance.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "format": config["format"] + 1, "color": "blue"}))
    done = guestmemfs.run("mount", old.mountpoint, "--name", "old", check=False)
    assert done.returncode == 6 and f"has format {config['format'] + 1}, this version reads" in done.stderr
    (row,) = guestmemfs.json("list")
    assert row["condition"] == "broken" and "or a newer one" in row["advice"]
    path.write_text(json.dumps(config))
