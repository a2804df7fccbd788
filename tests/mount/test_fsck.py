"""`guestmemfs fsck` on real instances with real damage, served and stopped."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cli import Guestmemfs, Instance
from tests.mount.load_crew import kill
from tests.mount.user_of import user_of

MIB = 1 << 20
CLEAN, REPAIRED, ERRORS_LEFT, OPERATIONAL = 0, 1, 4, 8


def fsck(instance: Instance, *options: str, code: int) -> dict[str, Any]:
    """Run it with --json and hold it to the exit code."""
    done = instance.cli.run("fsck", instance.name, "--json", *options, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    plain: dict[str, Any] = json.loads(done.stdout)
    assert set(plain) == {"name", "mode", "clean", "problems", "checked", "notes"}
    assert plain["clean"] == (code == CLEAN)
    assert all(set(each) == {"kind", "ino", "detail", "repaired"} for each in plain["problems"])
    return plain


def kinds(plain: dict[str, Any]) -> set[str]:
    return {problem["kind"] for problem in plain["problems"]}


def make(instance: Instance, name: str, size_bytes: int = 4 * MIB) -> Path:
    path = instance.mountpoint / name
    path.touch()
    os.truncate(path, size_bytes)
    return path


def data_of(instance: Instance) -> Path:
    return instance.state_dir / "region" / "data"


def metadata_of(instance: Instance) -> Path:
    for directory in (instance.state_dir / "region" / "metadata", instance.state_dir / "metadata"):
        if directory.is_dir():
            return directory
    raise AssertionError("no metadata directory")


def backing(instance: Instance, path: Path) -> Path:
    return data_of(instance) / f"{path.stat().st_ino:x}"


def newest(instance: Instance, suffix: str) -> Path:
    return max(metadata_of(instance).glob(f"*{suffix}"))


def kill_all(instance: Instance) -> None:
    status = instance.status()
    kill(status["holder_pid"], status["daemon_pid"])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# -- clean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
def test_clean_while_served_and_when_stopped(guestmemfs: Guestmemfs, kind: str) -> None:
    instance = guestmemfs.mount("gm", "--region", kind)
    make(instance, "vm1")
    (instance.mountpoint / "d").mkdir()
    served = fsck(instance, code=CLEAN)
    assert served["mode"] == "online"
    assert served["checked"]["inodes"] == 3
    assert served["checked"]["backings"] == 1
    instance.umount()
    stopped = fsck(instance, "--repair", code=CLEAN)
    assert stopped["mode"] == "offline"
    assert stopped["checked"]["files"] == 1
    assert stopped["checked"]["backings"] == (1 if kind == "tmpfs" else None)
    text = instance.cli.run("fsck", instance.name).stdout
    assert "clean" in text


def test_what_cannot_be_checked_is_an_operational_error(guestmemfs: Guestmemfs) -> None:
    done = guestmemfs.run("fsck", "nobody", check=False)
    assert done.returncode == OPERATIONAL
    assert done.stderr.startswith("error: ")
    instance = guestmemfs.mount()
    instance.umount()
    subprocess.run(["umount", instance.state_dir / "region"], check=True)
    done = guestmemfs.run("fsck", "gm", check=False)
    assert done.returncode == OPERATIONAL
    assert "no memory" in done.stderr


# -- served -----------------------------------------------------------------------------------------


def test_damage_under_a_served_instance_is_found_and_mended_beside_its_users(instance: Instance) -> None:
    mapped, cut, fat, gone = (make(instance, name) for name in ("mapped", "cut", "fat", "gone"))
    with user_of(mapped) as user:
        user.write(0, "guest")
        os.truncate(backing(instance, cut), MIB)
        subprocess.run(["fallocate", "--keep-size", "-l", str(8 * MIB), backing(instance, fat)], check=True)
        backing(instance, gone).unlink()
        (data_of(instance) / "7b").write_bytes(b"guest-memory" * 1000)
        (data_of(instance) / "7c").touch()
        found = fsck(instance, code=ERRORS_LEFT)
        kinds_found = {"backing-size", "backing-memory", "missing-backing", "stray-backing", "empty-stray"}
        assert kinds(found) == kinds_found
        mended = fsck(instance, "--repair", code=ERRORS_LEFT)
        left = {problem["kind"] for problem in mended["problems"] if not problem["repaired"]}
        assert left == {"missing-backing"}, "the kernel still has that file's memory: nothing is thrown away"
        assert user.read(0, 5) == "guest"
        assert (gone.stat().st_size, cut.stat().st_size) == (4 * MIB, 4 * MIB)
        assert backing(instance, fat).stat().st_blocks * 512 == 4 * MIB
        saved = instance.mountpoint / "lost+found" / "#123"
        assert saved.stat().st_size == 12000
        with user_of(saved, length_bytes=12000) as reader:
            assert reader.read(0, 12) == "guest-memory"
    instance.umount()
    fsck(instance, "--repair", code=REPAIRED)
    fsck(instance, code=CLEAN)
    instance.remount()
    assert gone.stat().st_size == 0


def test_a_frozen_instance_is_checked_and_left_alone(instance: Instance) -> None:
    path = make(instance, "vm1")
    instance.cli.run("freeze", instance.name)
    os.truncate(backing(instance, path), MIB)
    found = fsck(instance, "--repair", code=ERRORS_LEFT)
    assert "frozen" in found["notes"][0]
    assert backing_size(instance) == MIB
    instance.cli.run("thaw", instance.name)
    fsck(instance, "--repair", code=REPAIRED)


def backing_size(instance: Instance) -> int:
    (only,) = data_of(instance).iterdir()
    return only.stat().st_size


def test_damage_on_disk_is_found_while_the_daemon_does_not_know_of_it(instance: Instance) -> None:
    for number in range(20):
        make(instance, f"f{number}", 0)
    flip(newest(instance, ".gmj"), 200)
    found = fsck(instance, code=ERRORS_LEFT)
    assert kinds(found) == {"damaged-metadata"}
    assert newest(instance, ".gmj").name in found["problems"][0]["detail"]


# -- stopped ----------------------------------------------------------------------------------------


def test_what_a_crash_leaves_is_reported_and_mended_or_mounted(instance: Instance) -> None:
    path = make(instance, "vm1")
    name = backing(instance, path)
    kill_all(instance)
    with newest(instance, ".gmj").open("ab") as journal:
        journal.write(b"\x40\x00\x00\x00half of a frame")
    (metadata_of(instance) / "snapshot-00000000000000ff.gms.1.tmp").write_bytes(b"half")
    os.truncate(name, MIB)
    (data_of(instance) / "ff").touch()
    crashed = {"torn-tail", "leftover-file", "backing-size", "empty-stray"}
    found = fsck(instance, code=ERRORS_LEFT)
    assert (found["mode"], kinds(found)) == ("offline", crashed)
    assert kinds(fsck(instance, "--repair", code=REPAIRED)) == crashed
    fsck(instance, code=CLEAN)
    instance.remount()
    assert path.stat().st_size == 4 * MIB
    fsck(instance, code=CLEAN)


def test_damage_in_the_journal_costs_what_is_in_it_and_only_repair_goes_on(instance: Instance) -> None:
    early = make(instance, "early")
    for number in range(30):
        make(instance, f"f{number}", 0)
    with user_of(make(instance, "late", 6 * MIB)) as user:
        user.write(4096, "precious")
    with user_of(early) as user:
        user.write(0, "guest")
    kill_all(instance)
    journal = newest(instance, ".gmj")
    flip(journal, journal.stat().st_size // 2)
    refused = instance.cli.run("mount", instance.mountpoint, "--name", "gm", check=False)
    assert refused.returncode != 0
    assert journal.name in refused.stderr
    found = fsck(instance, code=ERRORS_LEFT)
    assert "damaged-metadata" in kinds(found)
    assert "would be lost" in " ".join(found["notes"])
    mended = fsck(instance, "--repair", code=REPAIRED)
    assert journal.name + ".damaged" in " ".join(mended["notes"])
    assert "lost are the transactions" in " ".join(mended["notes"])
    fsck(instance, code=CLEAN)
    instance.remount()
    with user_of(early) as user:
        assert user.read(0, 5) == "guest"
    late = instance.mountpoint / "late"  # its records are whole, behind the damage
    assert late.stat().st_size == 6 * MIB
    with user_of(late) as user:
        assert user.read(4096, 8) == "precious"
    instance.umount()
    fsck(instance, code=CLEAN)


def test_a_damaged_snapshot_costs_names_at_most(instance: Instance) -> None:
    with user_of(make(instance, "vm1")) as user:
        user.write(4096, "precious")
    instance.umount()
    flip(newest(instance, ".gms"), 150)
    refused = instance.cli.run("mount", instance.mountpoint, "--name", "gm", check=False)
    assert refused.returncode != 0
    assert ".gms" in refused.stderr
    fsck(instance, "--repair", code=REPAIRED)
    fsck(instance, code=CLEAN)
    instance.remount()
    (saved,) = [path for path in instance.mountpoint.rglob("*") if path.is_file()]
    assert saved.stat().st_size == 4 * MIB
    with user_of(saved) as user:
        assert user.read(4096, 8) == "precious"


def _foreign(instance: Instance) -> None:
    snapshot = newest(instance, ".gms")
    config = json.loads((instance.state_dir / "instance.json").read_text())
    config["uuid_hex"] = uuid4().hex
    (instance.state_dir / "instance.json").write_text(json.dumps(config))
    assert snapshot.exists()


def _unknown(instance: Instance) -> None:
    flip(newest(instance, ".gms"), 8)


def _nothing(instance: Instance) -> None:
    for path in metadata_of(instance).iterdir():
        path.unlink()


def _config(instance: Instance) -> None:
    (instance.state_dir / "instance.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (_foreign, "foreign-metadata", ".gms"),
        (_unknown, "unknown-format", ".gms"),
        (_nothing, "no-metadata", "metadata"),
        (_config, "damaged-config", "instance.json"),
    ],
)
def test_what_cannot_be_mended_is_named_and_never_a_fresh_start(
    instance: Instance, damage: Any, kind: str, named: str
) -> None:
    make(instance, "vm1")
    instance.umount()
    before = (instance.state_dir / "instance.json").read_text()
    kept = {path.name: path.read_bytes() for path in metadata_of(instance).iterdir()}
    damage(instance)
    damaged = {path.name: path.read_bytes() for path in metadata_of(instance).iterdir()}
    for options in ([], ["--repair"]):
        found = fsck(instance, *options, code=ERRORS_LEFT)
        assert kinds(found) == {kind}
        assert named in found["problems"][0]["detail"]
    assert {path.name: path.read_bytes() for path in metadata_of(instance).iterdir()} == damaged
    mounted = instance.cli.run("mount", instance.mountpoint, "--name", "gm", check=False)
    assert mounted.returncode != 0
    assert len(list(data_of(instance).iterdir())) == 1
    (instance.state_dir / "instance.json").write_text(before)
    for name, data in kept.items():
        (metadata_of(instance) / name).write_bytes(data)
    instance.remount()
    assert (instance.mountpoint / "vm1").stat().st_size == 4 * MIB


def test_memory_and_files_that_lost_each_other_while_stopped(instance: Instance) -> None:
    gone = make(instance, "gone")
    name = backing(instance, gone)
    instance.umount()
    name.unlink()
    (data_of(instance) / "3e8").write_bytes(b"memory" * 100)
    (data_of(instance) / "not-a-number").write_bytes(b"x")
    found = fsck(instance, "--repair", code=REPAIRED)
    assert kinds(found) == {"missing-backing", "stray-backing"}
    instance.remount()
    assert gone.stat().st_size == 0
    assert (instance.mountpoint / "lost+found" / "#1000").stat().st_size == 600
    assert (instance.mountpoint / "lost+found").stat().st_mode & 0o7777 == 0o700


def test_a_daemon_cannot_start_while_it_is_being_checked(instance: Instance) -> None:
    """The lock is the daemon's own: who holds it is alone."""
    import fcntl

    instance.umount()
    with (instance.state_dir / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = instance.cli.run("fsck", instance.name, check=False)
    assert done.returncode == OPERATIONAL
    fsck(instance, code=CLEAN)
