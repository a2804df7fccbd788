"""The commands on real mounts, one life after another: make, use, unmount, come back, give back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux import mountinfo, process
from tests.cli import Guestmemfs, Instance
from tests.mount.user_of import user_of

MIB = 1 << 20


def _make(path: Path, size_bytes: int) -> Path:
    with path.open("x") as file:
        os.truncate(file.fileno(), size_bytes)
    return path


def gone(*pids: int) -> bool:
    """Whether they end: a holder lets go of its pid file, which a command waits for, a moment before that."""
    return sight.wait_until(lambda: not any(process.is_alive(pid) for pid in pids), 20)


@pytest.fixture(params=["tmpfs", "memfd"])
def any_instance(request: pytest.FixtureRequest, guestmemfs: Guestmemfs) -> Instance:
    """A mounted 64 MiB instance of each kind that every host can have."""
    return guestmemfs.mount("gm", "--region", request.param)


def test_data_and_metadata_come_back_after_umount_and_mount(any_instance: Instance) -> None:
    instance = any_instance
    path = _make(instance.mountpoint / "vm1", 8 * MIB)
    path.chmod(0o640)
    (instance.mountpoint / "link").symlink_to("vm1")
    with user_of(path) as user:
        user.write(4096, "still-here")
    before = instance.status()
    instance.umount()
    stopped = instance.status()
    assert (stopped["state"], stopped["daemon_pid"], stopped["generation"]) == ("stopped", None, 1)
    assert os.listdir(instance.mountpoint) == []
    instance.remount()
    after = instance.status()
    assert (after["state"], after["generation"]) == ("serving", 2)
    assert after["daemon_pid"] != before["daemon_pid"]
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.readlink(instance.mountpoint / "link") == "vm1"
    with user_of(path) as user:
        assert user.read(4096, 10) == "still-here"


def test_status_counts_what_is_there_and_who_uses_it(instance: Instance) -> None:
    path = _make(instance.mountpoint / "vm1", 8 * MIB)
    _make(instance.mountpoint / "idle", 4 * MIB)
    with user_of(path, length_bytes=6 * MIB) as user:
        status = instance.status()
        mapped = instance.cli.json("map", path)
    assert status["region"] == {
        "kind": "tmpfs",
        "size_bytes": 64 * MIB,
        "block_bytes": 2 * MIB,
        "used_bytes": 12 * MIB,
        "free_bytes": 52 * MIB,
    }
    files = {row["path"]: row for row in status["files"]}
    assert set(files) == {"/vm1", "/idle"}
    assert [(each["pid"], each["bytes"]) for each in files["/vm1"]["mapped_by"]] == [(user.pid, 6 * MIB)]
    assert files["/idle"]["mapped_by"] == []
    assert {key: mapped[key] for key in files["/vm1"]} == files["/vm1"]
    assert mapped["extents"] == [{"offset_bytes": 0, "length_bytes": 8 * MIB, "region_offset_bytes": None}]
    assert mapped["ino"] == path.stat().st_ino


def test_a_stopped_instance_shows_the_same_files(instance: Instance) -> None:
    _make(instance.mountpoint / "vm1", 8 * MIB)
    serving = instance.status()
    mapped = instance.cli.json("map", instance.mountpoint / "vm1")
    instance.umount()
    stopped = instance.status()
    assert stopped["files"] == serving["files"]
    assert stopped["region"] == serving["region"]
    assert instance.cli.json("map", instance.mountpoint / "vm1") == mapped


def test_instances_are_found_by_name_and_mountpoint_and_listed(guestmemfs: Guestmemfs) -> None:
    first, second = guestmemfs.mount("one"), guestmemfs.mount("two", size="32M")
    assert guestmemfs.json("status", first.mountpoint)["name"] == "one"
    second.umount()
    rows = guestmemfs.json("list")
    assert [(row["name"], row["state"], row["condition"]) for row in rows] == [
        ("one", "serving", "serving"),
        ("two", "stopped", "stopped"),
    ]
    assert [row["region"]["size_bytes"] for row in rows] == [64 * MIB, 32 * MIB]
    assert rows[0]["daemon_pid"] == first.daemon_pid
    text = guestmemfs.run("list").stdout
    assert text.splitlines()[0].split() == ["NAME", "STATE", "REGION", "SIZE", "PID", "MOUNTPOINT"]


def test_restart_replaces_the_daemon_under_open_files_and_mappings(any_instance: Instance) -> None:
    instance = any_instance
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    before = instance.status()
    with user_of(path) as user, path.open("r+b") as file:
        user.write(0, "before")
        said = instance.cli.run("restart", instance.name).stdout
        after = instance.status()
        assert user.read(0, 6) == "before"
        user.write(0, "after!")
        os.truncate(file.fileno(), 6 * MIB)
        assert path.stat().st_size == 6 * MIB
    assert after["daemon_pid"] != before["daemon_pid"]
    assert (after["generation"], after["holder_pid"]) == (before["generation"] + 1, before["holder_pid"])
    for number in (before["daemon_pid"], after["daemon_pid"], before["generation"], after["generation"]):
        assert str(number) in said
    assert " ms" in said


def test_pinned_files_stay_also_over_a_restart_and_a_remount(instance: Instance) -> None:
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    cli = instance.cli
    cli.run("pin", path)
    for _ in range(2):
        with pytest.raises(OSError, match="busy") as caught:
            path.unlink()
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(OSError, match="busy"):
            os.truncate(path, 0)
        cli.run("restart", instance.name)
    instance.umount()
    instance.remount()
    assert cli.json("map", path)["pinned"]
    cli.run("unpin", path)
    path.unlink()


def test_a_frozen_instance_refuses_changes_until_it_thaws(instance: Instance) -> None:
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    cli = instance.cli
    cli.run("freeze", instance.mountpoint)
    cli.run("restart", instance.name)
    assert instance.status()["state"] == "frozen"
    with pytest.raises(OSError, match="busy") as caught:
        (instance.mountpoint / "new").mkdir()
    assert caught.value.errno == errno.EBUSY
    with user_of(path) as user:
        user.write(0, "memory-goes-on")
    cli.run("thaw", instance.name)
    (instance.mountpoint / "new").mkdir()
    assert instance.status()["state"] == "serving"


def test_umount_says_who_is_in_the_way_and_changes_nothing(instance: Instance) -> None:
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    directory = instance.mountpoint / "d"
    directory.mkdir()
    for target, how, what in (
        (path, "map", "maps 2 MiB"),
        (path, "open", "has 1 open"),
        (directory, "cwd", "works"),
    ):
        with user_of(target, how) as user:
            done = instance.cli.run("umount", instance.name, check=False)
            assert done.returncode == ExitCode.BUSY, done.stderr
            assert f"[{user.pid}] {what}" in done.stderr
            assert instance.status()["state"] == "serving"
    instance.umount()
    again = instance.cli.run("umount", instance.name, check=False)
    assert (again.returncode, again.stderr.splitlines()[0]) == (
        ExitCode.FAILED,
        f"error: instance {instance.name} is not mounted",
    )


def test_the_systems_umount_does_the_same(instance: Instance) -> None:
    subprocess.run(["umount", str(instance.mountpoint)], check=True)
    instance.remount()  # also when the old daemon is still on its way out
    assert instance.status()["generation"] == 2


def test_destroy_gives_the_memory_back_and_leaves_no_trace(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount("big", size="256M")
    _make(instance.mountpoint / "vm1", 256 * MIB)
    status = instance.status()
    assert guestmemfs.run("destroy", "big", check=False).returncode == ExitCode.USAGE
    guestmemfs.run("destroy", "big", "--yes")
    assert list(guestmemfs.run_dir.iterdir()) == []
    assert not any(str(guestmemfs.directory) in each.mountpoint for each in mountinfo.read_mounts())
    assert gone(status["daemon_pid"], status["holder_pid"])
    assert guestmemfs.run("status", "big", check=False).returncode == ExitCode.NOT_FOUND
    guestmemfs.mount("big", size="32M")  # the name is free again, for another size


def test_destroy_spares_memory_in_use_unless_forced(instance: Instance) -> None:
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    with user_of(path) as user:
        user.write(0, "mine")
        refused = instance.cli.run("destroy", instance.name, "--yes", check=False)
        assert refused.returncode == ExitCode.BUSY
        assert f"[{user.pid}] maps 2 MiB" in refused.stderr
        assert instance.status()["state"] == "serving"
        forced = instance.cli.run("destroy", instance.name, "--yes", "--force")
        assert f"[{user.pid}] maps 2 MiB" in forced.stderr
        assert instance.cli.json("list") == []
        assert user.read(0, 4) == "mine", "what is mapped stays until its user ends"


def test_a_killed_daemon_costs_nothing(any_instance: Instance) -> None:
    instance = any_instance
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    with user_of(path) as user:
        user.write(0, "guest")
        os.kill(instance.daemon_pid, signal.SIGKILL)
        assert path.stat().st_size == 4 * MIB, "answered by the next daemon"
        _make(instance.mountpoint / "vm2", 2 * MIB)
        assert user.read(0, 5) == "guest"
        assert instance.status()["generation"] == 2
    with user_of(path) as user:
        assert user.read(0, 5) == "guest"


def test_a_stopped_memfd_region_is_with_its_holder(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount("gm", "--region", "memfd")
    path = _make(instance.mountpoint / "vm1", 4 * MIB)
    served = instance.status()
    holder = served["holder_pid"]
    instance.umount()
    status = instance.status()
    assert (status["state"], status["holder_pid"]) == ("stopped", holder)
    assert status["files"][0].keys() == served["files"][0].keys()
    assert status["region"]["used_bytes"] == 4 * MIB
    assert status["huge"] == {"bytes": None, "fraction": None}
    assert guestmemfs.run("map", path, check=False).returncode == ExitCode.FAILED
    guestmemfs.run("destroy", "gm", "--yes")
    assert gone(holder)
    assert list(guestmemfs.run_dir.iterdir()) == []


@pytest.mark.parametrize("mounted", [True, False])
def test_destroy_names_the_saved_guests_that_go_with_it(instance: Instance, mounted: bool) -> None:
    (instance.mountpoint / "vm1").touch()
    marked = {"path": "/vm1", "mark": "/elsewhere/vm1.state", "openable": False}
    client.call(str(instance.state_dir), "mark", marked)
    if not mounted:
        instance.umount()
    asked = instance.cli.run("destroy", instance.name, check=False)
    assert asked.returncode == 2 and "and the guests saved in /vm1" in asked.stderr
    done = instance.cli.run("destroy", instance.name, "--yes")
    assert done.stderr == "note: the guests saved in /vm1 cannot be restored any more\n"


def test_destroy_of_a_stopped_instance(instance: Instance) -> None:
    instance.umount()
    instance.cli.run("destroy", instance.mountpoint, "--yes")
    assert instance.cli.json("list") == []


def test_a_state_directory_of_ones_own(guestmemfs: Guestmemfs) -> None:
    state_dir = guestmemfs.directory / "elsewhere"
    instance = guestmemfs.mount("gm", "--state-dir", state_dir)
    assert instance.status()["state_dir"] == str(state_dir)
    assert (state_dir / "instance.json").exists()
    instance.umount()
    (guestmemfs.run_dir / "gm").unlink()  # as after a boot, with the state directory on disk
    guestmemfs.run("mount", instance.mountpoint, "--state-dir", state_dir)
    assert instance.status()["generation"] == 2
    instance.umount()
    guestmemfs.run("destroy", "gm", "--yes")
    assert list(guestmemfs.run_dir.iterdir()) == []


@contextmanager
def in_the_foreground(guestmemfs: Guestmemfs) -> Iterator[subprocess.Popen[str]]:
    """Instance fg, served by the command that was started itself."""
    mountpoint = guestmemfs.directory / "mnt"
    mountpoint.mkdir()
    daemon = guestmemfs.start("mount", mountpoint, "--name", "fg", "--size", "32M", "--foreground")
    assert daemon.stderr is not None
    try:
        said = []
        for line in daemon.stderr:
            said.append(line)
            if "serving" in line:
                break
        else:
            pytest.fail("".join(said))
        yield daemon
    finally:
        daemon.kill()
        daemon.communicate()


def test_in_the_foreground_the_command_is_the_daemon(guestmemfs: Guestmemfs) -> None:
    with in_the_foreground(guestmemfs) as daemon:
        status = guestmemfs.json("status", "fg")
        assert (status["daemon_pid"], status["holder_pid"]) == (daemon.pid, None)
        guestmemfs.run("umount", "fg")
        assert daemon.wait(60) == 0


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_regression_ctrl_c_in_the_foreground_leaves_no_dead_mount(guestmemfs: Guestmemfs, busy: bool) -> None:
    """Nobody keeps the connection there, whatever the log said."""
    with in_the_foreground(guestmemfs) as daemon:
        path = guestmemfs.directory / "mnt" / "ram"
        path.touch()
        os.truncate(path, 2 << 20)
        with user_of(path, length_bytes=2 << 20) if busy else nullcontext() as user:
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(60) == 0
            assert guestmemfs.json("status", "fg")["state"] == "stopped"
            assert os.listdir(path.parent) == []
            if user is not None:
                user.write(4096, "still-here")
                assert user.read(4096, 10) == "still-here"
    guestmemfs.run("mount", path.parent, "--name", "fg")
    assert path.stat().st_size == 2 << 20
